//! Threads that help with the products of a step. A step has hundreds of them, of which each takes less time
//! than waking a thread: helpers look out for the next one before they sleep, and whoever asks for a product
//! waits for no helper that has not begun.

use std::{
    hint::spin_loop,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, Thread},
};

/// Looks at the next task before a helper sleeps: about 100 µs.
const LOOKS: usize = 2000;

/// Work in parts that any thread may take.
pub trait Task: Send + Sync {
    /// Does the parts that are left.
    fn work(&self);
}

/// The helpers of this process.
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<Thread>,
}

#[derive(Default)]
struct Shared {
    task: Mutex<Option<Arc<dyn Task>>>,
    /// Tasks so far.
    n_tasks: AtomicUsize,
}

impl Team {
    /// Returns the team, with a helper for each thread of `rayon` but one.
    pub fn get() -> &'static Team {
        static TEAM: OnceLock<Team> = OnceLock::new();
        TEAM.get_or_init(|| {
            let shared = Arc::new(Shared::default());
            let helper = |i| {
                let shared = shared.clone();
                let thread = thread::Builder::new().name(format!("helper-{i}")).spawn(move || shared.help());
                Some(thread.ok()?.thread().clone())
            };
            let helpers = (1..rayon::current_num_threads()).filter_map(helper).collect();
            Team { shared, helpers }
        })
    }

    /// Does a task with whoever has time.
    pub fn work(&self, task: Arc<dyn Task>) {
        self.shared.put(Some(task.clone()));
        self.shared.n_tasks.fetch_add(1, Ordering::Release);
        self.helpers.iter().for_each(Thread::unpark);
        task.work();
        self.shared.put(None);
    }
}

impl Shared {
    fn put(&self, task: Option<Arc<dyn Task>>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = task;
    }

    /// Helps for as long as the process lives.
    fn help(&self) {
        let mut n_seen = 0;
        loop {
            let n_tasks = (0..LOOKS).find_map(|_| {
                spin_loop();
                Some(self.n_tasks.load(Ordering::Acquire)).filter(|&n| n != n_seen)
            });
            match n_tasks {
                Some(n) => n_seen = n,
                None => thread::park(),
            }
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(task) = task {
                task.work();
            }
        }
    }
}

//! NCCL, which brings rows from card to card; opened at run time, for it is needed by several ranks alone.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem,
    ops::Range,
    ptr,
    sync::{Arc, Mutex, TryLockError, mpsc},
    thread,
    time::{Duration, Instant},
};

use cudarc::driver::DevicePtr;
use libloading::os::unix::{Library, Symbol};

use super::{array::Array, gpu::Gpu, libraries};
use crate::{engine::peers::Peers, error::Error};

/// How long cards may take to find each other.
const TO_CONNECT: Duration = Duration::from_secs(60);

/// How long a call into NCCL may hold up the end of a run.
const TO_RETURN: Duration = Duration::from_secs(5);

/// `ncclUint8`
const BYTES: c_int = 1;

/// What all ranks of one run know.
#[derive(Clone, Copy)]
#[repr(C)]
struct Id([c_char; 128]);

/// A communicator's handle.
#[derive(Clone, Copy)]
struct Handle(*mut c_void);

// SAFETY: NCCL's handles may be used by any thread, one at a time.
unsafe impl Send for Handle {}

type Status = c_int;

/// The functions that are used, of a library that is never closed.
#[derive(Clone, Copy)]
struct Functions {
    get_unique_id: unsafe extern "C" fn(*mut Id) -> Status,
    comm_init_rank: unsafe extern "C" fn(*mut *mut c_void, c_int, Id, c_int) -> Status,
    broadcast: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        *mut c_void,
        *mut c_void,
    ) -> Status,
    group_start: unsafe extern "C" fn() -> Status,
    group_end: unsafe extern "C" fn() -> Status,
    comm_abort: unsafe extern "C" fn(*mut c_void) -> Status,
    get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
}

impl Functions {
    fn of(library: Library) -> Option<Self> {
        /// # Safety
        /// The function must be of this type.
        unsafe fn get<T: Copy>(library: &Library, name: &CStr) -> Option<T> {
            // SAFETY: the caller vouches for the type.
            let symbol: Symbol<T> = unsafe { library.get(name.to_bytes_with_nul()) }.ok()?;
            Some(*symbol)
        }
        // SAFETY: the types are those of nccl.h, which have not changed since version 2.0.
        let functions = unsafe {
            Functions {
                get_unique_id: get(&library, c"ncclGetUniqueId")?,
                comm_init_rank: get(&library, c"ncclCommInitRank")?,
                broadcast: get(&library, c"ncclBroadcast")?,
                group_start: get(&library, c"ncclGroupStart")?,
                group_end: get(&library, c"ncclGroupEnd")?,
                comm_abort: get(&library, c"ncclCommAbort")?,
                get_error_string: get(&library, c"ncclGetErrorString")?,
            }
        };
        mem::forget(library);
        Some(functions)
    }

    fn check(self, gpu: &Gpu, what: &str, status: Status) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: NCCL has a text for every status.
        let text = unsafe { CStr::from_ptr((self.get_error_string)(status)) }.to_string_lossy();
        let fix = "NCCL_DEBUG=INFO says more; gpus = 1 takes one card";
        Err(Error::device(&gpu.name, format!("{what}: NCCL says {text:?}"), fix))
    }
}

/// The cards of all ranks, connected.
pub struct Nccl {
    functions: Functions,
    /// None once the connection was given up.
    handle: Mutex<Option<Handle>>,
}

impl Nccl {
    /// Connects this rank's card with those of all others, which call it together.
    ///
    /// # Errors
    /// [`Error::Device`] when NCCL is missing, or the cards do not find each other in a minute; [`Error::Engine`]
    /// when another rank has ended.
    pub fn connect(gpu: &Arc<Gpu>, peers: &Peers) -> Result<Self, Error> {
        let library = libraries::nccl();
        // Each rank says whether it has the library before one waits for the other.
        let have: Vec<Vec<u8>> = peers.star.gather(&[u8::from(library.is_some())])?;
        let functions = library.and_then(Functions::of);
        let missing = have.iter().position(|has| has != &[1]);
        let (Some(functions), None) = (functions, missing) else {
            let whose = missing.map_or(String::new(), |rank| format!(" by rank {rank}"));
            let fix = "pip install nvidia-nccl-cu13 in the active environment, or gpus = 1 for one card";
            return Err(Error::device(&gpu.name, format!("NCCL was not found{whose} (libnccl.so.2)"), fix));
        };
        let mut id = Id([0; 128]);
        if peers.rank == 0 {
            // SAFETY: writes one id.
            functions.check(gpu, "its ranks cannot meet", unsafe { (functions.get_unique_id)(&mut id) })?;
        }
        let ids = peers.star.gather(&id.0.map(|byte| byte as u8))?;
        let first: [u8; 128] = ids[0].as_slice().try_into().map_err(|_| {
            Error::engine("the first rank sent something else than an id", "please report this")
        })?;
        let handle = initialised(gpu, functions, Id(first.map(|byte| byte as c_char)), peers)?;
        Ok(Nccl { functions, handle: Mutex::new(Some(handle)) })
    }

    /// Brings the numbers of every rank, `of_ranks`, to all, in each of the arrays; in the order of the card's work.
    pub fn gather(
        &self,
        gpu: &Gpu,
        arrays: [&mut Array<u16>; 2],
        of_ranks: &[Range<usize>],
    ) -> Result<(), Error> {
        let functions = self.functions;
        let handle = self.handle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(Handle(handle)) = *handle else {
            return Err(Error::device(&gpu.name, "another rank has failed", "see what it said"));
        };
        gpu.make_current()?;
        let check = |status| functions.check(gpu, "rows could not be brought from card to card", status);
        // SAFETY: every rank calls this with ranges that are inside arrays of one length; the stream orders it among
        // the kernels that write and read them.
        unsafe {
            check((functions.group_start)())?;
            for array in &arrays {
                for (root, range) in of_ranks.iter().enumerate() {
                    debug_assert!(range.end <= array.len());
                    let start = (array.device_ptr(&gpu.stream).0 + 2 * range.start as u64) as *mut c_void;
                    let stream = gpu.stream.cu_stream().cast();
                    check((functions.broadcast)(
                        start,
                        start,
                        2 * range.len(),
                        BYTES,
                        root as c_int,
                        handle,
                        stream,
                    ))?;
                }
            }
            check((functions.group_end)())
        }
    }

    /// Gives the connection up, so that nothing waits for a rank that has failed; ends the process where NCCL itself
    /// waits.
    pub fn abort(&self) {
        let start = Instant::now();
        loop {
            match self.handle.try_lock() {
                Ok(mut handle) => {
                    if let Some(Handle(handle)) = handle.take() {
                        // SAFETY: the handle is not used after this.
                        unsafe { (self.functions.comm_abort)(handle) };
                    }
                    return;
                }
                Err(TryLockError::WouldBlock) if start.elapsed() < TO_RETURN => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(_) => {
                    eprintln!("streamtrace: another rank has failed, and NCCL waits for it");
                    std::process::exit(1);
                }
            }
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Waits for the cards of all ranks, in a thread of its own: NCCL would wait for ever.
fn initialised(gpu: &Arc<Gpu>, functions: Functions, id: Id, peers: &Peers) -> Result<Handle, Error> {
    let (send, receive) = mpsc::channel();
    let (gpu, n_ranks, rank) = (gpu.clone(), peers.n_ranks as c_int, peers.rank as c_int);
    let name = gpu.name.clone();
    thread::spawn(move || {
        let connected = gpu.make_current().and_then(|()| {
            let mut handle = ptr::null_mut();
            // SAFETY: writes one handle; the card is this thread's.
            let status = unsafe { (functions.comm_init_rank)(&mut handle, n_ranks, id, rank) };
            functions
                .check(&gpu, "the cards of its ranks do not find each other", status)
                .map(|()| Handle(handle))
        });
        let _ = send.send(connected);
    });
    receive.recv_timeout(TO_CONNECT).unwrap_or_else(|_| {
        let what =
            format!("the cards of its ranks did not find each other in {} seconds", TO_CONNECT.as_secs());
        Err(Error::device(name, what, "NCCL_DEBUG=INFO says more; gpus = 1 takes one card"))
    })
}

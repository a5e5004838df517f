//! The first rank's hold on the others.

use std::{
    env,
    net::{Shutdown, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom, SystemRandom};

use super::{
    PartRecord, Place,
    meeting::{Hello, Link, Meeting},
    orders::{Order, Report},
};
use crate::{
    engine::{
        decoder::Decoder,
        device::Device,
        peers::{Peers, gone},
    },
    error::Error,
    protocol::{LoadOptions, Payload, frame, process},
    trace::{Blocks, ModelInfo, StreamConfig},
};

/// The other ranks, with the model of the first; they end with it.
#[derive(Debug)]
pub struct Crew {
    pub peers: Arc<Peers>,
    /// By rank, the first one's left out.
    others: Vec<Other>,
    /// Whether one has failed: they do not work together any more.
    failed: AtomicBool,
}

#[derive(Debug)]
struct Other {
    rank: usize,
    orders: TcpStream,
    /// Where it was started by this process.
    child: Option<Child>,
}

/// The records of each other rank, layer by layer, as they arrive.
pub struct Records(Vec<mpsc::Receiver<PartRecord>>);

/// How each other rank ends a trace: with the logits after the prompt's last row, if that is of it.
pub struct Ends<'scope>(Vec<ScopedJoinHandle<'scope, Result<Vec<f32>, Error>>>);

/// How long a rank may take to say why it has failed, once the first rank misses it.
const TO_EXPLAIN: Duration = Duration::from_secs(2);

impl Crew {
    /// Starts `n_ranks - 1` processes beside this one.
    ///
    /// # Errors
    /// [`Error::Engine`] when one does not start.
    pub fn start(n_ranks: usize) -> Result<Self, Error> {
        let meeting = Meeting::open("127.0.0.1:0")?;
        let secret = secret()?;
        let program = program()?;
        let mut children = Vec::new();
        for rank in 1..n_ranks {
            let mut command = Command::new(&program);
            command.args([
                "serve",
                "--join",
                &meeting.address(),
                "--rank",
                &rank.to_string(),
                "--ranks",
                &n_ranks.to_string(),
            ]);
            command.env(SECRET, &secret).stdin(Stdio::null()).stdout(Stdio::null());
            let started = command.spawn();
            children
                .push(started.map_err(|e| {
                    Error::engine(format!("rank {rank} cannot be started: {e}"), "try again")
                })?);
        }
        let hello = Hello::new(0, n_ranks, Vec::new(), secret);
        let links = meeting.wait(&hello, || {
            children.iter_mut().enumerate().try_for_each(|(i, child)| match child.try_wait() {
                Ok(Some(status)) => Err(Error::engine(
                    format!("rank {} ended before it had a model ({status})", i + 1),
                    "see what it said on standard error",
                )),
                _ => Ok(()),
            })
        });
        match links {
            Ok(links) => Ok(Self::of(links, children)),
            Err(error) => {
                children.iter_mut().for_each(end);
                Err(error)
            }
        }
    }

    /// Waits for ranks that a launcher has started as it did this one, with the same arguments.
    ///
    /// # Errors
    /// [`Error::Engine`] when they do not come, or were started otherwise.
    pub fn meet(place: &Place) -> Result<Self, Error> {
        // Others may reach this machine by another of its addresses.
        let port = place.address.rsplit_once(':').map_or("0", |(_, port)| port);
        let meeting = Meeting::open(&format!("0.0.0.0:{port}"))?;
        let hello = Hello::new(0, place.n_ranks, arguments(), env::var(SECRET).unwrap_or_default());
        Ok(Self::of(meeting.wait(&hello, || Ok(()))?, Vec::new()))
    }

    fn of(links: Vec<Link>, children: Vec<Child>) -> Self {
        let mut children = children.into_iter();
        let n_ranks = links.len() + 1;
        let (others, rows) = links
            .into_iter()
            .enumerate()
            .map(|(i, link)| (Other { rank: i + 1, orders: link.orders, child: children.next() }, link.rows))
            .unzip();
        Crew { peers: Arc::new(Peers::new(0, n_ranks, rows)), others, failed: AtomicBool::new(false) }
    }

    /// Gives all of them a model.
    ///
    /// # Errors
    /// Those of loading it; [`Error::Engine`] when a rank has ended.
    pub fn load(&self, options: &LoadOptions) -> Result<Vec<ModelInfo>, Error> {
        self.ask(&Order::Load(options.clone()), |report| match report {
            Report::Loaded(model) => Some(model),
            _ => None,
        })
    }

    /// Connects the devices of all with this rank's.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Engine`].
    pub fn connect<D: Device>(&self, device: &mut D) -> Result<(), Error> {
        thread::scope(|scope| {
            let others = scope.spawn(|| {
                self.ask(&Order::Connect, |report| matches!(report, Report::Connected).then_some(()))
            });
            let own = device.connect(&self.peers);
            let others =
                others.join().unwrap_or_else(|_| Err(Error::engine("a rank is lost", "please report this")));
            others.and(own)
        })
    }

    /// Returns the memory that a run of all may take on each device: the least that one of the others has.
    ///
    /// # Errors
    /// [`Error::Engine`] when a rank has ended.
    pub fn limit(&self, n_tokens: usize, config: &StreamConfig) -> Result<u64, Error> {
        let order = Order::Limit { n_tokens, config: config.clone() };
        let limits = self.ask(&order, |report| match report {
            Report::Limit(bytes) => Some(bytes),
            _ => None,
        })?;
        Ok(limits.into_iter().min().unwrap_or(u64::MAX))
    }

    /// Gives all others the same order; returns what they report.
    fn ask<T: Send>(&self, order: &Order, expected: fn(Report) -> Option<T>) -> Result<Vec<T>, Error> {
        thread::scope(|scope| {
            let asked: Vec<_> =
                self.others.iter().map(|other| scope.spawn(move || other.ask(order, expected))).collect();
            let lost = |_| Err(Error::engine("a rank is lost", "please report this"));
            let reports: Result<_, _> =
                asked.into_iter().map(|asked| asked.join().unwrap_or_else(lost)).collect();
            reports.inspect_err(|_| self.dismiss())
        })
    }

    /// Starts a trace in all others. When one of them fails, the device stops waiting for it.
    pub fn trace<'scope, 'env, D: Device>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        decoder: &'env Decoder<'env, D>,
        config: &StreamConfig,
        memory: u64,
    ) -> (Records, Ends<'scope>) {
        let order = Order::Trace { sentences: decoder.sentences.to_vec(), config: config.clone(), memory };
        let tokens = decoder.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let order = Arc::new((order, Payload::Bytes(tokens)));
        let (records, ends) = self
            .others
            .iter()
            .map(|other| {
                let (send, records) = mpsc::sync_channel(1);
                let order = order.clone();
                let end = scope.spawn(move || {
                    let end = other.trace(&order.0, &order.1, decoder.blocks(0), &send);
                    if end.is_err() {
                        decoder.device.abandon();
                    }
                    end
                });
                (records, end)
            })
            .unzip();
        (Records(records), Ends(ends))
    }

    /// Whether a trace has failed: then the ranks do not work together any more.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Ends the others, also in the middle of a run.
    fn dismiss(&self) {
        self.failed.store(true, Ordering::Relaxed);
        for other in &self.others {
            let _ = other.orders.shutdown(Shutdown::Both);
        }
    }
}

impl Ends<'_> {
    /// Waits for all, when the first rank is through; returns its result and the logits of the last rank.
    ///
    /// # Errors
    /// The first rank's own, or that of a rank that had failed before.
    pub fn after<T>(self, crew: &Crew, own: Result<T, Error>) -> Result<(T, Vec<f32>), Error> {
        let joined = |end: ScopedJoinHandle<_>| {
            end.join().unwrap_or_else(|_| Err(Error::engine("a rank is lost", "please report this")))
        };
        match own {
            Ok(own) => {
                let ends = self.0.into_iter().map(joined).collect::<Result<Vec<_>, _>>();
                let ends = ends.inspect_err(|_| crew.dismiss())?;
                Ok((own, ends.into_iter().next_back().unwrap_or_default()))
            }
            Err(own) => {
                let start = Instant::now();
                let has_ended = || self.0.iter().any(ScopedJoinHandle::is_finished);
                while !has_ended() && start.elapsed() < TO_EXPLAIN {
                    thread::sleep(Duration::from_millis(5));
                }
                // Ranks that end only now do so because the first one has.
                let blame = has_ended();
                crew.dismiss();
                let of_others = self.0.into_iter().filter_map(|end| joined(end).err()).next();
                Err(of_others.filter(|_| blame).unwrap_or(own))
            }
        }
    }
}

impl Records {
    /// Waits for the other ranks' records of a layer; returns those of all, by rank.
    ///
    /// # Errors
    /// [`Error::Engine`] when a rank sends no more.
    pub fn of_layer(&self, own: PartRecord) -> Result<Vec<PartRecord>, Error> {
        let layer = own.layer;
        let of = |(i, records): (usize, &mpsc::Receiver<PartRecord>)| {
            let record = records.recv().ok().filter(|record| record.layer == layer);
            record.ok_or_else(|| {
                Error::engine(
                    format!("rank {} sent no record of layer {layer}", i + 1),
                    "see what it said last",
                )
            })
        };
        [Ok(own)].into_iter().chain(self.0.iter().enumerate().map(of)).collect()
    }
}

impl Other {
    fn say(&self, order: &Order, payload: &Payload) -> Result<(), Error> {
        frame::write(&mut &self.orders, order, payload).map_err(|e| gone(self.rank, &e))
    }

    /// Returns the next report, and what came with it.
    fn hear(&self) -> Result<(Report, Payload), Error> {
        let ended = || gone(self.rank, &std::io::ErrorKind::UnexpectedEof.into());
        match frame::read(&mut &self.orders).map_err(|_| ended())?.ok_or_else(ended)? {
            (Report::Failed(error), _) => Err(named(self.rank, error)),
            report => Ok(report),
        }
    }

    fn ask<T>(&self, order: &Order, expected: fn(Report) -> Option<T>) -> Result<T, Error> {
        self.say(order, &Payload::None)?;
        expected(self.hear()?.0).ok_or_else(|| self.unexpected())
    }

    fn trace(
        &self,
        order: &Order,
        tokens: &Payload,
        blocks: Blocks,
        records: &mpsc::SyncSender<PartRecord>,
    ) -> Result<Vec<f32>, Error> {
        self.say(order, tokens)?;
        loop {
            match self.hear()? {
                (Report::Record(header), _) => {
                    let record = PartRecord::read(header, &mut &self.orders, blocks)
                        .map_err(|e| gone(self.rank, &e))?;
                    // Nobody waits for it when the first rank has failed: then its error counts.
                    let _ = records.send(record);
                }
                (Report::Traced, Payload::Bytes(logits)) => {
                    return Ok(logits.as_chunks().0.iter().map(|&logit| f32::from_le_bytes(logit)).collect());
                }
                _ => return Err(self.unexpected()),
            }
        }
    }

    fn unexpected(&self) -> Error {
        Error::engine(
            format!("rank {} gave another report than was asked for", self.rank),
            "please report this",
        )
    }
}

/// The others end: those of this machine at once, those elsewhere as they see that nobody gives orders.
impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.orders.shutdown(Shutdown::Both);
        self.child.as_mut().map(end);
    }
}

/// The variable in which the secret of those that the first rank has started is.
pub(super) const SECRET: &str = "STREAMTRACE_RANKS_SECRET";

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Returns what nobody else on this machine knows.
fn secret() -> Result<String, Error> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::engine("the system gives no random numbers", "try again"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Says which rank an error is of.
fn named(rank: usize, error: Error) -> Error {
    match error {
        Error::Device { device, what, fix } => {
            Error::Device { device: format!("{device} of rank {rank}"), what, fix }
        }
        Error::Engine { what, fix } => Error::Engine { what: format!("rank {rank}: {what}"), fix },
        other => other,
    }
}

/// The arguments that this process was started with.
pub(super) fn arguments() -> Vec<String> {
    env::args().skip(1).collect()
}

/// Returns the program of the other ranks: this one, if it is an engine.
fn program() -> Result<std::ffi::OsString, Error> {
    let own = env::current_exe().ok();
    match own.filter(|own| own.file_stem() == Path::new("streamtrace").file_stem()) {
        Some(own) => Ok(own.into()),
        None => process::Command::find().map(|command| command.program),
    }
}

//! The meeting of ranks: each finds the first, which lets them work together only if all were started alike.

use std::{
    env,
    io::ErrorKind,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    protocol::{Payload, frame},
};

/// How long ranks wait for each other, unless `STREAMTRACE_MEETING_SECONDS` says.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long a rank that has connected may take to say who it is.
const TO_SPEAK: Duration = Duration::from_secs(10);

const PAUSE: Duration = Duration::from_millis(5);

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub rank: usize,
    pub n_ranks: usize,
    pub version: String,
    /// Arguments that a launcher started it with; the first rank sends those that it started no settings of their own.
    pub command: Vec<String>,
    /// Known to those that the first rank has started, alone.
    pub secret: String,
}

/// The connections of a rank with the first.
#[derive(Debug)]
pub(super) struct Link {
    pub orders: TcpStream,
    /// Of the exchange of rows.
    pub rows: TcpStream,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Welcome,
    Refused(Error),
}

/// Which of its two connections a rank opens.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Channel {
    Orders,
    Rows,
}

impl Hello {
    pub fn new(rank: usize, n_ranks: usize, command: Vec<String>, secret: String) -> Self {
        let version = format!("{} (protocol {})", env!("CARGO_PKG_VERSION"), frame::VERSION);
        Hello { rank, n_ranks, version, command, secret }
    }

    /// Returns why another rank cannot work with this one.
    fn unlike(&self, other: &Hello) -> Option<Error> {
        let differs = |what: &str, own: String, others: String| {
            let what = format!("rank {} {what} {others}, the first rank {own}", other.rank);
            Some(Error::engine(
                what,
                "start all ranks with the same command and the same version of streamtrace",
            ))
        };
        if other.version != self.version {
            return differs("is of version", self.version.clone(), other.version.clone());
        }
        if other.n_ranks != self.n_ranks || other.rank == 0 || other.rank >= self.n_ranks {
            return differs("counts ranks:", self.n_ranks.to_string(), other.n_ranks.to_string());
        }
        if other.command != self.command {
            return differs("was started as", self.command.join(" "), other.command.join(" "));
        }
        None
    }
}

/// Where the first rank listens.
pub(super) struct Meeting(TcpListener);

impl Meeting {
    /// Listens at an address.
    ///
    /// # Errors
    /// [`Error::Engine`] when it is not this machine's, or taken.
    pub fn open(address: &str) -> Result<Self, Error> {
        let failed = |e| {
            let fix = "choose another port by MASTER_PORT, and for MASTER_ADDR the machine of the first rank";
            Error::engine(format!("no rank can be met at {address}: {e}"), fix)
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Meeting(listener))
    }

    pub fn address(&self) -> String {
        self.0.local_addr().map_or_else(|_| String::new(), |address| address.to_string())
    }

    /// Waits until all other ranks are there; `check` fails when they will not come.
    ///
    /// # Errors
    /// [`Error::Engine`] when some do not come, or were started otherwise.
    pub fn wait(
        &self,
        own: &Hello,
        mut check: impl FnMut() -> Result<(), Error>,
    ) -> Result<Vec<Link>, Error> {
        let (start, patience) = (Instant::now(), patience());
        let mut found: Vec<[Option<TcpStream>; 2]> = (1..own.n_ranks).map(|_| [None, None]).collect();
        while found.iter().flatten().any(Option::is_none) {
            let mut stream = match self.0.accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    check()?;
                    if start.elapsed() > patience {
                        let missing: Vec<String> = (1..own.n_ranks)
                            .filter(|rank| found[rank - 1].iter().any(Option::is_none))
                            .map(|rank| rank.to_string())
                            .collect();
                        return Err(late(format!("rank {} did not come", missing.join(", ")), patience));
                    }
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(e) => {
                    return Err(Error::engine(format!("no rank can be met: {e}"), "start all ranks again"));
                }
            };
            // Whoever does not speak as a rank is not one.
            let Some((channel, hello)) = heard(&mut stream) else { continue };
            if hello.secret != own.secret {
                continue;
            }
            if let Some(error) = own.unlike(&hello) {
                let _ = frame::write(&mut stream, &Answer::Refused(error.clone()), &Payload::None);
                return Err(error);
            }
            let place = &mut found[hello.rank - 1][usize::from(channel == Channel::Rows)];
            if place.replace(stream).is_some() {
                let what = format!("rank {} came twice", hello.rank);
                return Err(Error::engine(what, "give each process a rank of its own"));
            }
        }
        found
            .into_iter()
            .map(|streams| welcomed(streams.map(|stream| stream.expect("all are there"))))
            .collect()
    }
}

/// Finds the first rank, and waits until it says that all are there.
///
/// # Errors
/// [`Error::Engine`] when it is not found in time, or refuses.
pub(super) fn join(address: &str, hello: &Hello) -> Result<Link, Error> {
    let (start, patience) = (Instant::now(), patience());
    let connect = |channel: Channel| loop {
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                frame::write(&mut stream, &(channel, hello), &Payload::None)
                    .map_err(|e| silent(address, &e))?;
                return Ok(stream);
            }
            Err(e) if start.elapsed() > patience => {
                return Err(late(format!("the first rank was not found at {address}: {e}"), patience));
            }
            Err(_) => thread::sleep(PAUSE),
        }
    };
    let mut streams = [connect(Channel::Orders)?, connect(Channel::Rows)?];
    for stream in &mut streams {
        let failed = |e| silent(address, &e);
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(patience)).map_err(failed)?;
        match frame::read::<Answer>(stream)? {
            Some((Answer::Welcome, _)) => stream.set_read_timeout(None).map_err(failed)?,
            Some((Answer::Refused(error), _)) => return Err(error),
            None => return Err(silent(address, &ErrorKind::UnexpectedEof.into())),
        }
    }
    let [orders, rows] = streams;
    Ok(Link { orders, rows })
}

fn patience() -> Duration {
    let seconds = env::var("STREAMTRACE_MEETING_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(PATIENCE, Duration::from_secs)
}

/// Returns who has connected.
fn heard(stream: &mut TcpStream) -> Option<(Channel, Hello)> {
    stream.set_nonblocking(false).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(TO_SPEAK)).ok()?;
    let (hello, _) = frame::read(stream).ok()??;
    stream.set_read_timeout(None).ok()?;
    Some(hello)
}

fn welcomed(mut streams: [TcpStream; 2]) -> Result<Link, Error> {
    for stream in &mut streams {
        frame::write(stream, &Answer::Welcome, &Payload::None)
            .map_err(|e| Error::engine(format!("a rank has ended: {e}"), "start all ranks again"))?;
    }
    let [orders, rows] = streams;
    Ok(Link { orders, rows })
}

fn late(what: String, patience: Duration) -> Error {
    let fix = "see what it said; STREAMTRACE_MEETING_SECONDS gives ranks more time to start";
    Error::engine(format!("{what} within {} seconds", patience.as_secs()), fix)
}

fn silent(address: &str, why: &std::io::Error) -> Error {
    Error::engine(
        format!("the first rank at {address} has ended: {why}"),
        "see what it said, and start all ranks again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(rank: usize) -> Hello {
        Hello::new(rank, 3, vec!["trace".into()], String::new())
    }

    #[test]
    fn ranks_meet_and_strangers_are_left_out() {
        let meeting = Meeting::open("127.0.0.1:0").unwrap();
        let address = meeting.address();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut stranger = TcpStream::connect(&address).unwrap();
                std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").unwrap();
            });
            let others = [2, 1].map(|rank| {
                scope.spawn({
                    let address = &address;
                    move || join(address, &hello(rank))
                })
            });
            assert_eq!(meeting.wait(&hello(0), || Ok(())).unwrap().len(), 2);
            assert!(others.into_iter().all(|other| other.join().unwrap().is_ok()));
        });
    }

    #[test]
    fn ranks_that_were_started_otherwise_are_refused_on_both_sides() {
        for (other, says) in [
            (Hello { version: "0.0.1".into(), ..hello(1) }, "of version 0.0.1"),
            (
                Hello { command: vec!["trace".into(), "--top-k".into()], ..hello(1) },
                "started as trace --top-k",
            ),
            (Hello { n_ranks: 2, ..hello(1) }, "counts ranks: 2"),
        ] {
            let meeting = Meeting::open("127.0.0.1:0").unwrap();
            let address = meeting.address();
            thread::scope(|scope| {
                let joining = scope.spawn(|| join(&address, &other));
                let first = meeting.wait(&hello(0), || Ok(())).unwrap_err().to_string();
                drop(meeting);
                let second = joining.join().unwrap().unwrap_err().to_string();
                assert!(first.contains(says), "{first}");
                assert!(second.contains(says), "{second}");
            });
        }
    }
}

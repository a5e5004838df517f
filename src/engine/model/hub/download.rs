//! One file from a server into the cache: goes on where an earlier download broke off, and checks what came.

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use ring::digest::{Context, SHA256};

use super::{
    cache::{Cache, create_parent},
    server::{Answer, Failure, Server, broken},
};
use crate::{error::Error, protocol::Progress, words::numbers::format_bytes};

/// The least time between two reports on a download.
const PERIOD: Duration = Duration::from_secs(2);

/// Waits before a file is asked for again; more bytes than these between two failures start them anew.
const WAITS: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];
const MUCH: u64 = 8 << 20;

/// Where files come from and go to.
pub struct Downloads<'a> {
    pub server: &'a Server,
    pub cache: &'a Cache,
    /// `owner/name`
    pub id: &'a str,
    pub commit: &'a str,
}

/// Why a file is not there.
pub enum Fault {
    Server(Failure),
    /// What came is not what the server says it is.
    Damaged(String),
    /// The disk's, or another that the user reads as it is.
    Here(Error),
}

impl From<Failure> for Fault {
    fn from(why: Failure) -> Self {
        Fault::Server(why)
    }
}

impl From<Error> for Fault {
    fn from(why: Error) -> Self {
        Fault::Here(why)
    }
}

impl Downloads<'_> {
    /// Downloads one file, unless the snapshot has it. Asks again when the connection breaks off.
    pub fn fetch(&self, file: &str, report: &mut dyn FnMut(Progress)) -> Result<(), Fault> {
        let snapshot = self.cache.snapshot(self.id, self.commit);
        if snapshot.join(file).exists() {
            return Ok(());
        }
        let (mut waits, mut n_before) = (WAITS.iter(), 0);
        loop {
            let mut n_read = n_before;
            let why = match self.attempt(file, &snapshot, &mut n_read, report) {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            if n_read > n_before + MUCH {
                waits = WAITS.iter();
            }
            n_before = n_read;
            let may_pass = match &why {
                Fault::Server(why) => why.may_pass(),
                Fault::Damaged(_) => true,
                Fault::Here(_) => false,
            };
            match waits.next().filter(|_| may_pass) {
                Some(wait) => thread::sleep(*wait),
                None => return Err(why),
            }
        }
    }

    /// Asks for the file once; `n_read` becomes the bytes of it that are here.
    fn attempt(
        &self,
        file: &str,
        snapshot: &Path,
        n_read: &mut u64,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), Fault> {
        let answer = self.server.file(self.id, self.commit, file, 0)?;
        let name =
            answer.mark.clone().unwrap_or_else(|| format!("{}-{}", self.commit, file.replace('/', "-")));
        let blob = self.cache.repository(self.id).join("blobs").join(&name);
        create_parent(&blob)?;
        let Some(lock) = self.cache.lock(self.id, &name)? else {
            return Err(Fault::Here(Error::model(
                self.id,
                "to download it alone",
                "another program that does",
                "wait until it is done",
            )));
        };
        if !blob.exists() {
            let part = blob.with_file_name(format!("{name}.incomplete"));
            self.fill(&part, file, answer, n_read, report)?;
            fs::rename(&part, &blob).map_err(Error::io("write", &blob))?;
        }
        self.cache.link(&blob, snapshot, file)?;
        drop(lock);
        Ok(())
    }

    /// Writes the content to `part`, behind what is there if the server sends the rest alone.
    fn fill(
        &self,
        part: &Path,
        file: &str,
        first: Answer,
        n_read: &mut u64,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), Fault> {
        let mut to = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(part)
            .map_err(Error::io("write", part))?;
        let n_here = to.metadata().map_err(Error::io("read", part))?.len();
        let (n_bytes, sha256) = (first.n_bytes, first.sha256.clone());
        let mut hash = Context::new(&SHA256);
        let mut reporting = Reporting::new(file, n_bytes, report);
        let rest = match n_bytes {
            _ if n_here == 0 => Some(first),
            Some(n) if n == n_here => None,
            Some(n) if n < n_here => emptied(&to, part, first)?,
            _ => {
                drop(first);
                match self.server.file(self.id, self.commit, file, n_here) {
                    Ok(rest) if rest.start == n_here => Some(rest),
                    Ok(whole) if whole.start == 0 => emptied(&to, part, whole)?,
                    Err(why) if why.may_pass() => return Err(why.into()),
                    _ => emptied(&to, part, self.server.file(self.id, self.commit, file, 0)?)?,
                }
            }
        };
        reporting.n_start = hashed(&mut to, part, &mut hash)?;
        reporting.n_done = reporting.n_start;
        let copied =
            rest.map_or(Ok(()), |rest| copy(rest.reader(), &mut to, part, &mut hash, &mut reporting));
        *n_read = reporting.n_done;
        copied?;
        to.sync_all().map_err(Error::io("write", part))?;
        reporting.report_now();
        let found = checked(reporting.n_done, n_bytes, hash, sha256);
        if let Err(Fault::Damaged(_)) = &found {
            fs::remove_file(part).map_err(Error::io("write", part))?;
        }
        found
    }
}

/// Empties a file for the whole content.
fn emptied(to: &File, part: &Path, answer: Answer) -> Result<Option<Answer>, Fault> {
    to.set_len(0).map_err(Error::io("write", part))?;
    Ok(Some(answer))
}

/// Hashes what is there; returns its length.
fn hashed(to: &mut File, part: &Path, hash: &mut Context) -> Result<u64, Error> {
    to.seek(SeekFrom::Start(0)).map_err(Error::io("read", part))?;
    let (mut buffer, mut n) = (vec![0; 1 << 20], 0);
    loop {
        let read = to.read(&mut buffer).map_err(Error::io("read", part))?;
        if read == 0 {
            return Ok(n);
        }
        hash.update(&buffer[..read]);
        n += read as u64;
    }
}

fn copy(
    mut from: Box<dyn Read>,
    to: &mut File,
    part: &Path,
    hash: &mut Context,
    reporting: &mut Reporting,
) -> Result<(), Fault> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = from.read(&mut buffer).map_err(broken)?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).map_err(Error::io("write", part))?;
        hash.update(&buffer[..read]);
        reporting.add(read);
    }
}

/// Compares what came with what was announced.
fn checked(n: u64, n_bytes: Option<u64>, hash: Context, sha256: Option<String>) -> Result<(), Fault> {
    match n_bytes {
        Some(n_bytes) if n < n_bytes => {
            return Err(Failure::Broken(format!("it ended after {n} of {n_bytes} bytes")).into());
        }
        Some(n_bytes) if n > n_bytes => {
            return Err(Fault::Damaged(format!("{n} bytes in place of {n_bytes}")));
        }
        _ => {}
    }
    let digits: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    match sha256 {
        Some(sha256) if !sha256.eq_ignore_ascii_case(&digits) => {
            Err(Fault::Damaged(format!("SHA-256 {digits} in place of {sha256}")))
        }
        _ => Ok(()),
    }
}

/// Reports the progress of a download every [`PERIOD`].
struct Reporting<'a> {
    report: &'a mut dyn FnMut(Progress),
    file: &'a str,
    /// Bytes that were there before.
    n_start: u64,
    n_done: u64,
    n_bytes: Option<u64>,
    start: Instant,
    last_report: Instant,
}

impl<'a> Reporting<'a> {
    fn new(file: &'a str, n_bytes: Option<u64>, report: &'a mut dyn FnMut(Progress)) -> Self {
        let now = Instant::now();
        Reporting { report, file, n_start: 0, n_done: 0, n_bytes, start: now, last_report: now }
    }

    fn add(&mut self, n: usize) {
        self.n_done += n as u64;
        if self.last_report.elapsed() > PERIOD {
            self.report_now();
        }
    }

    /// Reports bytes and rate.
    fn report_now(&mut self) {
        let rate = (self.n_done - self.n_start) as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        let all = self.n_bytes.map_or(String::new(), |n| format!(" of {}", format_bytes(n)));
        let (done, rate) = (format_bytes(self.n_done), format_bytes(rate as u64));
        (self.report)(Progress::Loading(format!("hub: {}, {done}{all}, {rate}/s", self.file)));
        self.last_report = Instant::now();
    }
}

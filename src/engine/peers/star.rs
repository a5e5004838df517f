//! Exchanges bytes among ranks by way of the first: for ranks without a faster way.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Mutex, PoisonError},
};

use crate::error::Error;

/// Connections between the first rank and each other.
#[derive(Debug)]
pub struct Star {
    pub(super) rank: usize,
    /// Of the first rank to the others, in their order; of another one to the first.
    pub(super) links: Mutex<Vec<TcpStream>>,
}

impl Star {
    /// Returns what every rank gives, by rank. Each must call it the same number of times.
    ///
    /// # Errors
    /// [`Error::Engine`] when another rank has ended.
    pub fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let links = &mut *self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rank > 0 {
            let link = &mut links[0];
            return send(link, own).and_then(|()| receive_all(link)).map_err(|e| gone(0, &e));
        }
        let mut all = vec![own.to_vec()];
        for (i, link) in links.iter_mut().enumerate() {
            all.push(receive(link).map_err(|e| gone(i + 1, &e))?);
        }
        for (i, link) in links.iter_mut().enumerate() {
            send_all(link, &all).map_err(|e| gone(i + 1, &e))?;
        }
        Ok(all)
    }
}

fn send(link: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    link.write_all(&(bytes.len() as u64).to_le_bytes())?;
    link.write_all(bytes)
}

fn receive(link: &mut TcpStream) -> io::Result<Vec<u8>> {
    let n = number(link)?;
    // Not allocated by the announced length, but as it arrives.
    let mut bytes = Vec::new();
    link.take(n).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < n { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

fn send_all(link: &mut TcpStream, all: &[Vec<u8>]) -> io::Result<()> {
    link.write_all(&(all.len() as u64).to_le_bytes())?;
    all.iter().try_for_each(|bytes| send(link, bytes))
}

fn receive_all(link: &mut TcpStream) -> io::Result<Vec<Vec<u8>>> {
    (0..number(link)?).map(|_| receive(link)).collect()
}

fn number(link: &mut TcpStream) -> io::Result<u64> {
    let mut bytes = [0; 8];
    link.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Says that a rank does not answer any more.
pub fn gone(rank: usize, why: &io::Error) -> Error {
    Error::engine(format!("rank {rank} has ended: {why}"), "see what it said last, and start all ranks again")
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn linked() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        [listener.accept().unwrap().0, there]
    }

    #[test]
    fn all_ranks_get_what_all_give() {
        let ([a, b], [c, d]) = (linked(), linked());
        let stars = [(0, vec![a, c]), (1, vec![b]), (2, vec![d])]
            .map(|(rank, links)| Star { rank, links: Mutex::new(links) });
        let given = [vec![1, 2], vec![], vec![3; 100_000]];
        thread::scope(|scope| {
            let gathering: Vec<_> = stars
                .iter()
                .zip(&given)
                .map(|(star, own)| scope.spawn(|| star.gather(own).unwrap()))
                .collect();
            assert!(gathering.into_iter().all(|gathering| gathering.join().unwrap() == given));
        });
    }

    #[test]
    fn a_rank_that_has_ended_is_named() {
        let [a, b] = linked();
        drop(b);
        let star = Star { rank: 0, links: Mutex::new(vec![a]) };
        assert!(star.gather(&[1]).unwrap_err().to_string().contains("rank 1 has ended"));
    }
}

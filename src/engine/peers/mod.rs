//! The ranks that share out the rows of a prompt, as one of them sees them: which rows are whose, and how what one has
//! comes to all.

mod parts;
mod star;

use std::{net::TcpStream, sync::Mutex};

pub use parts::{Parts, query_blocks};
pub use star::{Star, gone};

/// All ranks, as one of them sees them.
#[derive(Debug)]
pub struct Peers {
    pub rank: usize,
    pub n_ranks: usize,
    pub star: Star,
}

impl Peers {
    /// Takes the connections of the first rank with the others, in their order, or of another one with the first.
    pub fn new(rank: usize, n_ranks: usize, links: Vec<TcpStream>) -> Self {
        Peers { rank, n_ranks, star: Star { rank, links: Mutex::new(links) } }
    }
}

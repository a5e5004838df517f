//! One prompt on several devices: ranks, processes of one device each, share out its rows.
//!
//! Each rank takes its own rows through every layer. The keys and values of a layer go to all ranks, bit by bit: a row
//! sees the same keys in the same order as on one device, and keeps the same blocks. Nothing is summed on the way;
//! the first rank joins the records of all in the order of their rows.
//!
//! The first rank starts the others on its own machine, or waits until a launcher has started them elsewhere; it sends
//! them its requests. All answer as long as the first one lives.

mod crew;
mod joined;
mod local;
mod meeting;
mod orders;
mod part_record;
mod parts;
mod place;
mod star;
mod worker;

use std::{net::TcpStream, sync::Mutex};

pub use crew::{Crew, Records};
pub use joined::{joined, query_blocks};
pub use local::{hired, ranks_at_once};
pub use part_record::PartRecord;
pub use parts::Parts;
pub use place::Place;
pub use star::Star;
pub use worker::work;

/// All ranks, as one of them sees them.
#[derive(Debug)]
pub struct Peers {
    pub rank: usize,
    pub n_ranks: usize,
    pub star: Star,
}

impl Peers {
    fn new(rank: usize, n_ranks: usize, links: Vec<TcpStream>) -> Self {
        Peers { rank, n_ranks, star: Star { rank, links: Mutex::new(links) } }
    }
}

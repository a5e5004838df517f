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
mod meeting;
mod orders;
mod part_record;
mod place;
mod worker;

pub use crew::{Crew, Records};
pub use joined::joined;
pub use part_record::PartRecord;
pub use place::Place;
pub use worker::work;

//! A rank other than the first: it does what the first one orders, until that one ends.

use std::{
    env,
    net::TcpStream,
    sync::{Arc, mpsc},
    thread,
};

use super::{
    Place,
    crew::{SECRET, arguments},
    meeting::{self, Hello, Link},
    orders::{Order, Report},
};
use crate::{
    engine::{Local, peers::Peers},
    error::Error,
    protocol::{Payload, frame},
};

/// Works for the first rank. A launcher has started this process with the same arguments as the first rank,
/// or `started` says that the first rank has.
///
/// # Errors
/// [`Error::Engine`] when the first rank is not found or refuses; those of a run, which the first rank is told, too.
pub fn work(place: &Place, started: bool) -> Result<(), Error> {
    let command = if started { Vec::new() } else { arguments() };
    let hello = Hello::new(place.rank, place.n_ranks, command, env::var(SECRET).unwrap_or_default());
    let Link { orders, rows } = meeting::join(&place.address, &hello)?;
    let peers = Arc::new(Peers::new(place.rank, place.n_ranks, vec![rows]));
    let mut local = Local::on_card(place.local_rank);
    let mut reports = orders.try_clone().map_err(|e| lost(&e))?;
    for (order, payload) in heard(orders) {
        let (report, payload) = match obey(&mut local, order, payload, &peers, &mut reports) {
            Ok(done) => done,
            Err(error) => {
                say(&mut reports, &Report::Failed(error.clone()), &Payload::None)?;
                return Err(error);
            }
        };
        say(&mut reports, &report, &payload)?;
    }
    Ok(())
}

fn obey(
    local: &mut Local,
    order: Order,
    payload: Payload,
    peers: &Arc<Peers>,
    reports: &mut TcpStream,
) -> Result<(Report, Payload), Error> {
    let report = match order {
        Order::Load(options) => Report::Loaded(local.open(options)?),
        Order::Connect => {
            local.connect(peers)?;
            Report::Connected
        }
        Order::Limit { n_tokens, config } => Report::Limit(local.limit(n_tokens, &config, peers)?),
        Order::Trace { sentences, config, memory } => {
            let Payload::Bytes(tokens) = payload else {
                return Err(Error::engine("an order without tokens", "please report this"));
            };
            let tokens: Vec<u32> =
                tokens.as_chunks().0.iter().map(|&token| u32::from_le_bytes(token)).collect();
            let logits = local.part(&tokens, sentences.into(), &config, memory, peers, |record| {
                say(reports, &Report::Record(record.header()), &Payload::None)?;
                record.write_arrays(reports).map_err(|e| lost(&e))
            })?;
            let logits = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            return Ok((Report::Traced, Payload::Bytes(logits)));
        }
    };
    Ok((report, Payload::None))
}

/// Hears orders in a thread of its own, so that the end of the first rank is seen while a model runs: then the
/// process ends.
fn heard(mut orders: TcpStream) -> mpsc::Receiver<(Order, Payload)> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(Some(order)) = frame::read(&mut orders) {
            if send.send(order).is_err() {
                return;
            }
        }
        std::process::exit(0);
    });
    receive
}

fn say(reports: &mut TcpStream, report: &Report, payload: &Payload) -> Result<(), Error> {
    frame::write(reports, report, payload).map_err(|e| lost(&e))
}

fn lost(why: &std::io::Error) -> Error {
    Error::engine(format!("the first rank has ended: {why}"), "see what it said last")
}

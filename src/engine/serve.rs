//! `streamtrace serve`: an engine that answers over its standard input and output until its input ends.

use std::{io, sync::mpsc, thread};

use super::{
    Engine, Payload, Request,
    local::Local,
    protocol::{self, Message},
};
use crate::error::Error;

/// Answers requests until standard input ends, and then ends the process, also in the middle of a run: whoever asked is gone.
///
/// # Errors
/// [`Error::Engine`] when something else than a notebook speaks, or nobody listens any more.
pub fn serve() -> Result<(), Error> {
    let requests = requests();
    let mut engine = Local::default();
    let mut out = io::stdout().lock();
    let mut say = |message: &Message, payload: &Payload| {
        protocol::write(&mut out, message, payload)
            .map_err(|e| Error::Engine { what: format!("nobody listens: {e}"), fix: "start it from a notebook".into() })
    };
    for received in requests {
        let (request, payload) = received?;
        let mut lost = Ok(());
        let result = engine.call(request, payload, &mut |step| {
            if lost.is_ok() {
                lost = say(&Message::Progress(step), &Payload::None);
            }
        });
        lost?;
        match result {
            Ok((reply, payload)) => say(&Message::Reply(reply), &payload)?,
            Err(error) => say(&Message::Error(error), &Payload::None)?,
        }
    }
    Ok(())
}

type Received = Result<(Request, Payload), Error>;

/// Reads requests in a thread of its own, so that the end of the input is seen while a model runs.
fn requests() -> mpsc::Receiver<Received> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Some(received) = protocol::read(&mut input).transpose() {
            let broken = received.is_err();
            if send.send(received).is_err() || broken {
                return;
            }
        }
        std::process::exit(0);
    });
    receive
}

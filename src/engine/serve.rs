//! `streamtrace serve`: an engine that answers over its standard input and output until its input ends.

use std::{io, sync::mpsc, thread};

use super::Local;
use crate::{
    error::Error,
    protocol::{
        Engine, LoadOptions, Payload, Reply, Request, beside,
        frame::{self, Message},
    },
    trace::Trace,
};

/// Answers requests until standard input ends, and then ends the process, also in the middle of a run: the
/// client is gone. Opens the model named here before the first answer.
///
/// # Errors
/// [`Error::Engine`] when the client is not a notebook, or has stopped listening.
pub fn serve(mut model: Option<LoadOptions>) -> Result<(), Error> {
    let requests = requests();
    let mut engine = Local::default();
    let is_beside = beside::is_beside();
    // The last answer's data, which its receiver has opened when the next request comes.
    let mut answered = Payload::None;
    for received in requests {
        let (request, payload) = received?;
        drop(std::mem::take(&mut answered));
        let opened = model.clone().map_or(Ok(()), |options| {
            engine.call(Request::Load(options), Payload::None, &mut |_| {}).map(drop)
        });
        match opened {
            Ok(()) => {
                model = None;
                answered = answer(&mut engine, request, payload, is_beside)?;
            }
            Err(error) => say(&Message::Error(error), &Payload::None)?,
        }
    }
    Ok(())
}

/// Answers one request, and reports its progress; returns the data that went with the answer. A client beside opens
/// traces where they are.
fn answer(engine: &mut Local, request: Request, payload: Payload, is_beside: bool) -> Result<Payload, Error> {
    let (request, layers) = match request {
        Request::TraceInPieces { prompt, config, layers } => {
            (Request::Trace { prompt, config }, Some(layers))
        }
        request => (request, None),
    };
    let mut lost = Ok(());
    let result = engine.call(request, payload, &mut |step| {
        if lost.is_ok() {
            lost = say(&Message::Progress(step), &Payload::None);
        }
    });
    lost?;
    match (result, layers) {
        (Ok((Reply::Traced, Payload::Trace(trace))), Some(layers)) => {
            pieces(&trace, layers.as_deref().unwrap_or(trace.layers()))?;
            say(&Message::Reply(Reply::Traced), &Payload::None).map(|()| Payload::None)
        }
        (Ok((reply, payload)), _) => {
            let payload = match payload {
                Payload::Trace(trace) if is_beside => Payload::Beside(trace),
                other => other,
            };
            say(&Message::Reply(reply), &payload).map(|()| payload)
        }
        (Err(error), _) => say(&Message::Error(error), &Payload::None).map(|()| Payload::None),
    }
}

/// Sends a trace layer by layer: the layers that arrive before the connection breaks are of use.
fn pieces(trace: &Trace, layers: &[usize]) -> Result<(), Error> {
    for layer in [None].into_iter().chain(layers.iter().copied().map(Some)) {
        let packed = trace.piece(layer).and_then(|piece| frame::packed(&piece)).map_err(gone)?;
        say(&Message::Piece, &packed)?;
    }
    Ok(())
}

fn say(message: &Message, payload: &Payload) -> Result<(), Error> {
    frame::write(&mut io::stdout().lock(), message, payload).map_err(gone)
}

fn gone(e: io::Error) -> Error {
    Error::engine(format!("nobody listens: {e}"), "start it from a notebook")
}

type Received = Result<(Request, Payload), Error>;

/// Reads requests in a thread of its own, so that the end of the input is seen while a model runs.
fn requests() -> mpsc::Receiver<Received> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Some(received) = frame::read(&mut input).transpose() {
            let broken = received.is_err();
            if send.send(received).is_err() || broken {
                return;
            }
        }
        std::process::exit(0);
    });
    receive
}

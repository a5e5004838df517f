//! The records of a run's layers: they are written while later layers run.

use std::{sync::mpsc, thread};

use crate::{
    engine::{
        decoder::{Decoder, Pending, Reached},
        device::{Device, StageCosts},
        ranks::{PartRecord, Records, joined},
        told::Told,
    },
    error::Error,
    trace::{LayerRecord, TraceWriter},
};

/// Runs sparsely while `write` takes the records in another thread; returns the logits after the last row that this
/// process takes, and what `write` returns.
pub(super) fn while_written<D: Device, T: Send>(
    decoder: &Decoder<D>,
    mut on_layer: impl FnMut(usize, &Reached<()>),
    write: impl FnOnce(mpsc::Receiver<(usize, Pending)>) -> Result<T, Error> + Send,
) -> Result<(Vec<Vec<f32>>, T), Error> {
    let (logits, written) = thread::scope(|scope| {
        let (send, records) = mpsc::sync_channel(0);
        let writing = scope.spawn(|| write(records));
        let record_first = decoder.layout.record_first;
        let hidden = decoder.sparse(move |layer, reached| {
            let reached = match reached {
                Reached::Row(row) => Reached::Row(row),
                Reached::End(record) => {
                    let record = if record_first { collected(record)? } else { record };
                    send.send((layer, record)).map_err(|_| stopped())?;
                    Reached::End(())
                }
            };
            on_layer(layer, &reached);
            Ok(())
        });
        let logits = hidden.and_then(|hidden| decoder.last_logits(&hidden, 1));
        (logits, writing.join().unwrap_or_else(|_| Err(stopped())))
    });
    let written = written?;
    Ok((logits?, written))
}

/// Writes layers as they come, with what other ranks recorded of them: one is written while the next one comes to the
/// host and the one after it runs. Returns the writer and what they tell.
pub(super) fn write_layers<D: Device>(
    mut writer: TraceWriter,
    pending: mpsc::Receiver<(usize, Pending)>,
    others: Option<Records>,
    decoder: &Decoder<D>,
) -> Result<(TraceWriter, Told), Error> {
    let mut told = Told::default();
    let rows: Vec<_> = decoder.parts.all(decoder.tokens.len()).collect();
    let whole = |layer, record: LayerRecord, mut costs: StageCosts| {
        let Some(others) = &others else { return Ok::<_, Error>((record, costs)) };
        let parts = others.of_layer(PartRecord { layer, record, costs })?;
        // Ranks work at the same time.
        costs.keys_read = parts.iter().filter_map(|part| part.costs.keys_read).reduce(|a, b| a + b);
        let records: Vec<_> = parts.into_iter().map(|part| part.record).collect();
        Ok((joined(&records, &rows, &decoder.config)?, costs))
    };
    each_collected(pending, |layer, record, costs| {
        let (record, costs) = whole(layer, record, costs)?;
        told.add(&record, costs);
        writer.layer(layer, &record)
    })?;
    Ok((writer, told))
}

/// Brings records to the host, each while `take` takes the one before.
pub(super) fn each_collected(
    pending: mpsc::Receiver<(usize, Pending)>,
    mut take: impl FnMut(usize, LayerRecord, StageCosts) -> Result<(), Error>,
) -> Result<(), Error> {
    thread::scope(|scope| {
        let (send, records) = mpsc::sync_channel::<(usize, Result<_, Error>)>(0);
        // Nobody receives them once one could not be taken.
        scope.spawn(move || {
            for (layer, record) in pending {
                if send.send((layer, record())).is_err() {
                    break;
                }
            }
        });
        records.into_iter().try_for_each(|(layer, collected)| {
            let (record, costs) = collected?;
            take(layer, record, costs)
        })
    })
}

/// Brings a record to the host: where memory is short, it leaves the device before the next layer runs.
fn collected(record: Pending) -> Result<Pending, Error> {
    let record = record()?;
    Ok(Box::new(move || Ok(record)))
}

fn stopped() -> Error {
    Error::engine("the trace is not being written any more", "please report this")
}

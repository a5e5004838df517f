//! Loads the weights of one layer after the other, the next ones while a layer runs.

use std::{sync::mpsc, thread};

use super::{Decoder, resident::AllWeights};
use crate::{
    engine::{device::Device, model::LayerWeights},
    error::Error,
    protocol::Weights,
};

impl<D: Device> Decoder<'_, D> {
    /// Calls `work` with each layer and its weights. `work` returns a mark of its device work, or waits for it:
    /// the weights' memory is reused after that. Where there is memory for two layers, the host is one ahead of the
    /// device.
    pub(super) fn each_layer(
        &self,
        work: impl FnMut(usize, &LayerWeights<D::Tensor>) -> Result<Option<D::Mark>, Error>,
    ) -> Result<(), Error> {
        self.each_layer_from(0, work)
    }

    /// As [`Decoder::each_layer`], from layer `first` on.
    pub(super) fn each_layer_from(
        &self,
        first: usize,
        mut work: impl FnMut(usize, &LayerWeights<D::Tensor>) -> Result<Option<D::Mark>, Error>,
    ) -> Result<(), Error> {
        if let Some(weights) = &self.resident {
            return self.each_of(weights, first, work);
        }
        let n_layers = self.model.config.n_layers;
        let n_rooms = (n_layers - first).min(if self.layout.weights == Weights::Ahead { 2 } else { 1 });
        thread::scope(|scope| {
            // Dropped at the end, so that the thread ends.
            let (give, rooms) = mpsc::channel();
            let (send, filled) = mpsc::channel();
            for layer in first..first + n_rooms {
                let _ = give.send(self.room(layer)?);
            }
            self.device.rooms_made()?;
            scope.spawn(move || {
                for (layer, mut room) in (first..n_layers).zip(rooms) {
                    let _ = send.send(self.refill(layer, &mut room).map(|()| room));
                }
            });
            let mut running = Running { decoder: self, layer: None };
            for (layer, weights) in (first..n_layers).zip(filled) {
                let weights = weights?;
                let mark = work(layer, &weights)?;
                let mut done = running.next(layer, mark, weights)?;
                if n_rooms == 1 {
                    done = running.wait()?;
                }
                if let Some(weights) = done {
                    let _ = give.send(weights);
                }
            }
            running.end()
        })
    }

    /// As [`Decoder::each_layer_from`], with weights that stay on the device; brings those that are not there.
    fn each_of(
        &self,
        weights: &AllWeights<D::Tensor>,
        first: usize,
        mut work: impl FnMut(usize, &LayerWeights<D::Tensor>) -> Result<Option<D::Mark>, Error>,
    ) -> Result<(), Error> {
        let rooms = weights.rooms();
        thread::scope(|scope| {
            let (send, came) = mpsc::channel();
            if rooms.is_empty() {
                drop(send);
            } else {
                scope.spawn(move || self.bring(weights, rooms, &send));
            }
            let mut running = Running { decoder: self, layer: None };
            for layer in first..self.model.config.n_layers {
                let of_layer = loop {
                    match weights.layer(layer) {
                        Some(weights) => break weights,
                        None => came.recv().unwrap_or_else(|_| Err(not_there(layer)))?,
                    }
                };
                running.next(layer, work(layer, of_layer)?, ())?;
            }
            running.end()
        })
    }

    /// Brings all layers; tells of each.
    fn bring(
        &self,
        weights: &AllWeights<D::Tensor>,
        rooms: Vec<LayerWeights<D::Tensor>>,
        told: &mpsc::Sender<Result<(), Error>>,
    ) {
        for (layer, mut room) in rooms.into_iter().enumerate() {
            let brought = self.refill(layer, &mut room).map(|()| weights.put(layer, room));
            let failed = brought.is_err();
            // Nobody waits for them once the run has failed.
            if told.send(brought).is_err() || failed {
                break;
            }
        }
    }

    /// Loads a layer's weights into the memory of another's.
    fn refill(&self, layer: usize, room: &mut LayerWeights<D::Tensor>) -> Result<(), Error> {
        let mut weights = self.in_file(layer)?;
        if !room.is_like(&weights) {
            *room = self.room(layer)?;
            self.device.rooms_made()?;
        }
        self.device.refill(room.all().zip(weights.all().map(|weight| &*weight)).collect())
    }

    /// Makes room for a layer's weights.
    fn room(&self, layer: usize) -> Result<LayerWeights<D::Tensor>, Error> {
        self.in_file(layer)?.try_map(|weight| self.device.room(weight))
    }
}

/// The error of weights that were never brought.
pub(super) fn not_there(layer: usize) -> Error {
    Error::engine(format!("the weights of layer {layer} did not come"), "please report this")
}

/// The layer that the device may still be working on, while the host prepares the next one.
struct Running<'d, 't, D: Device, W> {
    decoder: &'d Decoder<'t, D>,
    layer: Option<(usize, Option<D::Mark>, W)>,
}

impl<D: Device, W> Running<'_, '_, D, W> {
    /// Takes the next layer, with its weights; waits for the one before and returns its weights.
    fn next(&mut self, layer: usize, mark: Option<D::Mark>, weights: W) -> Result<Option<W>, Error> {
        let before = self.wait();
        self.layer = Some((layer, mark, weights));
        before
    }

    /// Waits for the layer, if there is one; returns its weights.
    fn wait(&mut self) -> Result<Option<W>, Error> {
        let Some((layer, mark, weights)) = self.layer.take() else { return Ok(None) };
        mark.map_or(Ok(()), |mark| self.decoder.check(layer, mark))?;
        Ok(Some(weights))
    }

    fn end(mut self) -> Result<(), Error> {
        self.wait().map(drop)
    }
}

//! Loads the weights of one layer after the other, the next ones while a layer runs.

use std::{sync::mpsc, thread};

use super::Decoder;
use crate::{
    engine::{device::Device, model::LayerWeights},
    error::Error,
    protocol::Weights,
};

impl<D: Device> Decoder<'_, D> {
    /// Calls `work` with each layer and its weights. `work` must wait for its device work before returning:
    /// the weights' buffer is reused.
    pub(super) fn each_layer(
        &self,
        work: impl FnMut(usize, &LayerWeights<D::Tensor>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.each_layer_from(0, work)
    }

    /// As [`Decoder::each_layer`], from layer `first` on.
    pub(super) fn each_layer_from(
        &self,
        first: usize,
        mut work: impl FnMut(usize, &LayerWeights<D::Tensor>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(weights) = &self.resident {
            let layers = weights.layers.iter().enumerate().skip(first);
            return { layers }.try_for_each(|(layer, weights)| work(layer, weights));
        }
        let n_layers = self.model.config.n_layers;
        let n_rooms = (n_layers - first).min(if self.layout.weights == Weights::Ahead { 2 } else { 1 });
        thread::scope(|scope| {
            let (give, rooms) = mpsc::channel();
            let (send, filled) = mpsc::channel();
            for layer in first..first + n_rooms {
                let _ = send.send(self.weights(layer));
            }
            scope.spawn(move || {
                for (layer, mut room) in (first + n_rooms..n_layers).zip(rooms) {
                    let _ = send.send(self.refill(layer, &mut room).map(|()| room));
                }
            });
            for (layer, weights) in (first..n_layers).zip(filled) {
                let weights = weights?;
                work(layer, &weights)?;
                let _ = give.send(weights);
            }
            Ok(())
        })
    }

    /// Loads a layer's weights into the memory of another's.
    fn refill(&self, layer: usize, room: &mut LayerWeights<D::Tensor>) -> Result<(), Error> {
        let mut weights = self.in_file(layer)?;
        if !room.is_like(&weights) {
            *room = weights.try_map(|weight| self.device.weight(weight))?;
            return Ok(());
        }
        room.all().zip(weights.all()).try_for_each(|(room, weight)| self.device.refill(room, weight))?;
        self.device.arrived()
    }
}

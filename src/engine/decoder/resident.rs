//! The weights that a device keeps between runs, where there is room: a second prompt starts at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::{
    engine::{
        device::{Device, VOCABULARY_CHUNK},
        model::{LayerWeights, Model, weight::Weight},
    },
    error::Error,
    protocol::{Layout, Weights},
};

/// All weights of a model on a device, but the embedding. Layers come while the first run goes on.
pub struct AllWeights<T> {
    layers: Vec<OnceLock<LayerWeights<T>>>,
    /// Memory of the layers that have not come.
    rooms: Mutex<Vec<LayerWeights<T>>>,
    pub final_norm: T,
    /// Parts of the output layer.
    pub output: Vec<T>,
    /// Bytes that loading them took of the device.
    bytes: u64,
}

impl<T> AllWeights<T> {
    /// Makes room for all weights of a layout on a device, or leaves them in their file if it says so.
    fn new<D: Device<Tensor = T>>(
        model: &Model,
        device: &D,
        layout: Layout,
        bytes: u64,
    ) -> Result<Self, Error> {
        let is_mapped = layout.weights == Weights::Mapped;
        let room =
            |weight: &Weight| if is_mapped { device.weight_in_file(weight) } else { device.room(weight) };
        let of_layer = |layer| in_file(model, layer, layout)?.try_map(room);
        let n_layers = model.config.n_layers;
        let rooms = (0..n_layers).map(of_layer).collect::<Result<Vec<_>, Error>>()?;
        device.rooms_made()?;
        let (norm, table) = (model.final_norm()?, model.output()?);
        let parts: Vec<Weight> = output_parts(&table).collect();
        let (mut final_norm, mut output) =
            (room(&norm)?, parts.iter().map(room).collect::<Result<Vec<_>, _>>()?);
        if !is_mapped {
            device.fill(
                [(&mut final_norm, &norm)].into_iter().chain(output.iter_mut().zip(&parts)).collect(),
            )?;
        }
        let (layers, rooms) = if is_mapped {
            (rooms.into_iter().map(OnceLock::from).collect(), Vec::new())
        } else {
            ((0..n_layers).map(|_| OnceLock::new()).collect(), rooms)
        };
        Ok(AllWeights { layers, rooms: Mutex::new(rooms), final_norm, output, bytes })
    }

    /// Returns the memory of the layers, if they have not been brought.
    pub(super) fn rooms(&self) -> Vec<LayerWeights<T>> {
        std::mem::take(&mut *self.rooms.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the weights of a layer.
    pub(super) fn put(&self, layer: usize, weights: LayerWeights<T>) {
        // A layer comes once.
        let _ = self.layers[layer].set(weights);
    }

    /// Returns a layer's weights, if they have come.
    pub fn layer(&self, layer: usize) -> Option<&LayerWeights<T>> {
        self.layers[layer].get()
    }

    /// Whether all layers are there or may still come.
    fn is_whole(&self) -> bool {
        let n_rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner).len();
        n_rooms == self.layers.len() || self.layers.iter().all(|layer| layer.get().is_some())
    }
}

/// Returns the weights of a layer that a layout has on the device before the layer runs.
pub(super) fn in_file<'a>(
    model: &'a Model,
    layer: usize,
    layout: Layout,
) -> Result<LayerWeights<Weight<'a>>, Error> {
    let weights = model.layer(layer)?;
    Ok(if layout.experts_when_chosen { weights.without_experts() } else { weights })
}

/// The place of a model's weights on a device: empty until a run has room for all of them.
pub struct Resident<D: Device>(Mutex<Option<Arc<AllWeights<D::Tensor>>>>);

impl<D: Device> Default for Resident<D> {
    fn default() -> Self {
        Resident(Mutex::new(None))
    }
}

impl<D: Device> Resident<D> {
    /// Returns the bytes of the weights that are kept.
    pub fn bytes(&self) -> u64 {
        self.lock().as_ref().map_or(0, |weights| weights.bytes)
    }

    /// Returns all weights, if the layout has them on the device together; makes room for them if there is none,
    /// and keeps them if it says so. `bytes` is what they take.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::File`] for a file that cannot be read any more.
    pub fn weights(
        &self,
        model: &Model,
        device: &D,
        layout: Layout,
        bytes: u64,
    ) -> Result<Option<Arc<AllWeights<D::Tensor>>>, Error> {
        let mut place = self.lock();
        match layout.weights {
            Weights::Ahead | Weights::Waiting => return Ok(None),
            Weights::Kept if place.as_ref().is_some_and(|weights| weights.is_whole()) => {
                return Ok(place.clone());
            }
            Weights::Kept | Weights::Held | Weights::Mapped => {}
        }
        *place = None;
        let weights = Arc::new(AllWeights::new(model, device, layout, bytes)?);
        if layout.weights == Weights::Kept {
            *place = Some(weights.clone());
        }
        Ok(Some(weights))
    }

    /// Frees the weights.
    pub fn clear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<AllWeights<D::Tensor>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the rows of an output layer in parts: the whole may be too large for a device.
pub fn output_parts<'a>(output: &Weight<'a>) -> impl Iterator<Item = Weight<'a>> {
    let n_rows = output.shape()[0];
    (0..n_rows)
        .step_by(VOCABULARY_CHUNK)
        .map(move |first| output.rows(first..n_rows.min(first + VOCABULARY_CHUNK)))
}

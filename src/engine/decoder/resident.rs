//! The weights that a device keeps between runs, where there is room: a second prompt starts at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    engine::{
        device::{Device, VOCABULARY_CHUNK},
        model::{LayerWeights, Model, weight::Weight},
    },
    error::Error,
    protocol::{Layout, Weights},
};

/// All weights of a model on a device, but the embedding.
pub struct AllWeights<T> {
    pub layers: Vec<LayerWeights<T>>,
    pub final_norm: T,
    /// Parts of the output layer.
    pub output: Vec<T>,
    /// Bytes that loading them took of the device.
    bytes: u64,
}

impl<T> AllWeights<T> {
    /// Brings all weights of a layout to a device, or leaves them in their file if it says so.
    fn load<D: Device<Tensor = T>>(
        model: &Model,
        device: &D,
        layout: Layout,
        bytes: u64,
    ) -> Result<Self, Error> {
        let is_mapped = layout.weights == Weights::Mapped;
        let room =
            |weight: &Weight| if is_mapped { device.weight_in_file(weight) } else { device.room(weight) };
        let in_file = |layer| {
            let weights = model.layer(layer)?;
            Ok(if layout.experts_when_chosen { weights.without_experts() } else { weights })
        };
        let mut layers_in_file =
            (0..model.config.n_layers).map(in_file).collect::<Result<Vec<_>, Error>>()?;
        let (norm, table) = (model.final_norm()?, model.output()?);
        let parts: Vec<Weight> = output_parts(&table).collect();
        let mut all = AllWeights {
            layers: layers_in_file.iter().map(|layer| layer.try_map(room)).collect::<Result<_, Error>>()?,
            final_norm: room(&norm)?,
            output: parts.iter().map(room).collect::<Result<_, _>>()?,
            bytes,
        };
        if !is_mapped {
            let AllWeights { layers, final_norm, output, .. } = &mut all;
            let of_layers = layers.iter_mut().zip(&mut layers_in_file);
            let of_layers =
                of_layers.flat_map(|(room, layer)| room.all().zip(layer.all().map(|weight| &*weight)));
            device.fill(
                of_layers.chain([(final_norm, &norm)]).chain(output.iter_mut().zip(&parts)).collect(),
            )?;
        }
        Ok(all)
    }
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

    /// Returns all weights, if the layout has them on the device together; brings them there if they are not,
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
            Weights::Kept if place.is_some() => return Ok(place.clone()),
            Weights::Kept | Weights::Held | Weights::Mapped => {}
        }
        let weights = Arc::new(AllWeights::load(model, device, layout, bytes)?);
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

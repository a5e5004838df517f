//! A trace in pieces, for a slow connection: first the prompt and the run, then one layer after the other.
//! The pieces that arrive before the connection breaks off are a trace of fewer layers.

use safetensors::{SafeTensors, tensor::TensorInfo};

use super::{Summary, Trace, TraceWriter};
use crate::error::Error;

/// Returns the start of the names of a layer's tensors.
fn start_of(layer: usize) -> String {
    format!("layers.{layer}.")
}

impl Trace {
    /// Returns the same trace with these layers alone, to be kept where space is short.
    ///
    /// # Errors
    /// [`Error::Setting`] when no layer is named, [`Error::Missing`] for one that the trace does not hold,
    /// [`Error::File`] when the disk is full.
    pub fn of_layers(&self, layers: &[usize]) -> Result<Self, Error> {
        let layers = self.summary.model.chosen(layers)?;
        layers.iter().try_for_each(|&layer| self.check_layer(layer))?;
        let mut writer = TraceWriter::empty()?;
        for layer in [None].into_iter().chain(layers.iter().copied().map(Some)) {
            for (name, info) in self.tensors_of(layer) {
                let bytes = self.tensors.bytes(&name)?;
                writer.write(&name, info.dtype, &info.shape, &bytes, u8::to_le_bytes)?;
            }
        }
        writer.close(self.summary.clone(), layers)
    }

    /// Returns the tensors of a layer, or those of no layer, in the order of the file.
    fn tensors_of(&self, layer: Option<usize>) -> Vec<(String, &TensorInfo)> {
        let belongs = |name: &String| match layer {
            Some(layer) => name.starts_with(&start_of(layer)),
            None => !name.starts_with("layers."),
        };
        let metadata = &self.tensors.metadata;
        let names = metadata.offset_keys().into_iter().filter(belongs);
        names.filter_map(|name| metadata.info(&name).map(|info| (name, info))).collect()
    }

    /// Returns the tensors of a layer, or those of no layer, as safetensors; the metadata of a trace with
    /// them.
    #[cfg(any(test, feature = "engine"))]
    pub(crate) fn piece(&self, layer: Option<usize>) -> std::io::Result<Vec<u8>> {
        use std::io;

        use safetensors::tensor::TensorView;

        let read = self.tensors_of(layer).into_iter().map(|(name, info)| {
            let bytes = self.tensors.bytes(&name).map_err(io::Error::other)?;
            Ok((name, info, bytes))
        });
        let read = read.collect::<io::Result<Vec<_>>>()?;
        let views = read.iter().map(|(name, info, bytes)| {
            Ok((name, TensorView::new(info.dtype, info.shape.clone(), bytes).map_err(io::Error::other)?))
        });
        let views = views.collect::<io::Result<Vec<_>>>()?;
        safetensors::serialize(views, Some(self.notes()?)).map_err(io::Error::other)
    }
}

/// Pieces of a trace that have arrived.
#[derive(Default)]
pub(crate) struct Pieces {
    begun: Option<(TraceWriter, Summary)>,
    layers: Vec<usize>,
}

impl Pieces {
    /// Adds a piece: first that of no layer, then layers in ascending order.
    ///
    /// # Errors
    /// The fault of the piece, in words; that of [`Error::File`] when the disk is full.
    pub(crate) fn add(&mut self, piece: &[u8]) -> Result<(), String> {
        let tensors = SafeTensors::deserialize(piece).map_err(|e| e.to_string())?;
        let is_first = self.begun.is_none();
        let (writer, summary) = match &mut self.begun {
            Some(begun) => begun,
            None => self.begun.insert((TraceWriter::empty().map_err(|e| e.to_string())?, summary(piece)?)),
        };
        let next = self.layers.last().map_or(0, |last| last + 1);
        let layer =
            (next..summary.model.n_layers).find(|&n| tensors.tensor(&format!("{}kept", start_of(n))).is_ok());
        let start = layer.map(start_of);
        let belongs =
            |name: &str| start.as_ref().map_or(!name.starts_with("layers."), |start| name.starts_with(start));
        if layer.is_some() == is_first || !tensors.iter().all(|(name, _)| belongs(name)) {
            return Err(format!("another piece than one of layer {next} or later"));
        }
        for (name, view) in tensors.iter() {
            writer
                .write(name, view.dtype(), view.shape(), view.data(), u8::to_le_bytes)
                .map_err(|e| e.to_string())?;
        }
        self.layers.extend(layer);
        Ok(())
    }

    /// Returns the trace of the layers that have arrived; `None` before the first of them.
    ///
    /// # Errors
    /// [`Error::Trace`] when the pieces do not fit each other.
    pub(crate) fn trace(self) -> Result<Option<Trace>, Error> {
        match self.begun {
            Some((writer, summary)) if !self.layers.is_empty() => {
                writer.close(summary, self.layers).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn summary(piece: &[u8]) -> Result<Summary, String> {
    let (_, metadata) = SafeTensors::read_metadata(piece).map_err(|e| e.to_string())?;
    let notes = metadata.metadata().as_ref().and_then(|notes| notes.get("summary"));
    serde_json::from_str(notes.ok_or("no summary")?).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace};

    fn arrived(pieces: &[Vec<u8>]) -> Option<Trace> {
        let mut all = Pieces::default();
        pieces.iter().for_each(|piece| all.add(piece).unwrap());
        all.trace().unwrap()
    }

    #[test]
    fn all_pieces_are_the_trace_and_some_are_some_layers_of_it() {
        let trace = trace(&Shape { n_layers: 12, n_tokens: 100, ..Default::default() });
        let pieces: Vec<_> =
            [None].into_iter().chain((0..12).map(Some)).map(|layer| trace.piece(layer).unwrap()).collect();
        for n in 2..=pieces.len() {
            let part = arrived(&pieces[..n]).unwrap();
            assert_eq!(part.layers(), (0..n - 1).collect::<Vec<_>>());
            assert_eq!(
                (part.text(), part.summary(), part.logits()),
                (trace.text(), trace.summary(), trace.logits())
            );
            (0..n - 1).for_each(|layer| assert_eq!(part.head(layer, 1), trace.head(layer, 1)));
            assert_eq!(part.head(n - 1, 0).is_err(), n - 1 <= 12, "layer {}", n - 1);
        }
        assert!(arrived(&pieces[..1]).is_none() && arrived(&[]).is_none());
        let some = arrived(&[pieces[0].clone(), pieces[2].clone(), pieces[11].clone()]).unwrap();
        assert_eq!(some.layers(), [1, 10]);
        assert_eq!(some.head(10, 0), trace.head(10, 0));
    }

    #[test]
    fn a_trace_of_some_layers_is_saved_shown_and_says_what_it_lacks() {
        let whole = trace(&Shape { n_layers: 4, n_tokens: 100, ..Default::default() });
        let pieces: Vec<_> = [None, Some(1), Some(3)].map(|layer| whole.piece(layer).unwrap()).into();
        let folder = tempfile::tempdir().unwrap();
        arrived(&pieces).unwrap().save(folder.path().join("a.trace")).unwrap();
        let part = Trace::open(folder.path().join("a.trace")).unwrap();
        assert_eq!((part.layers(), part.n_layers()), ([1, 3].as_slice(), 4));
        assert!(part.overview().is_ok() && part.explore().is_ok());
        assert_eq!(part.edges().map(Result::unwrap).filter(|edge| edge.layer == 2).count(), 0);
        let error = part.head(2, 0).unwrap_err().to_string();
        assert!(error.contains("layer 2 does not exist: this trace holds layers [1, 3]"), "{error}");
    }

    /// Two pieces with tensors of one name would make a trace that cannot be saved.
    #[test]
    fn a_piece_holds_nothing_of_others() {
        let trace = trace(&Shape { n_layers: 2, ..Default::default() });
        let [prompt, layer] = [None, Some(0)].map(|layer| trace.piece(layer).unwrap());
        let [of_prompt, of_layer] = [&prompt, &layer].map(|piece| SafeTensors::deserialize(piece).unwrap());
        let both =
            safetensors::serialize(of_layer.iter().chain(of_prompt.iter()), Some(trace.notes().unwrap()))
                .unwrap();
        assert!(Pieces::default().add(&both).unwrap_err().contains("another piece"));
        let mut pieces = Pieces::default();
        pieces.add(&prompt).unwrap();
        assert!(pieces.add(&both).unwrap_err().contains("another piece"));
        assert!(pieces.add(&layer).is_ok());
    }

    #[test]
    fn layers_of_a_trace_are_a_trace() {
        let whole = trace(&Shape { n_layers: 4, n_tokens: 100, ..Default::default() });
        let part = whole.of_layers(&[3, 1, 3]).unwrap();
        assert_eq!((part.layers(), part.n_layers(), part.text()), ([1, 3].as_slice(), 4, whole.text()));
        assert_eq!(
            (part.head(3, 0), part.tokens(), part.logits()),
            (whole.head(3, 0), whole.tokens(), whole.logits())
        );
        assert!(part.n_bytes().unwrap() < whole.n_bytes().unwrap() * 3 / 4);
        assert_eq!(part.of_layers(&[3]).unwrap().layers(), [3]);
        assert!(part.of_layers(&[0]).err().unwrap().to_string().contains("this trace holds layers [1, 3]"));
        assert!(matches!(whole.of_layers(&[4]), Err(Error::Missing { .. })));
        assert!(matches!(whole.of_layers(&[]), Err(Error::Setting { .. })));
    }

    #[test]
    fn pieces_that_are_none_are_refused() {
        let trace = trace(&Shape::default());
        for bytes in [b"".to_vec(), b"no piece".to_vec(), trace.piece(None).unwrap()[..40].to_vec()] {
            assert!(Pieces::default().add(&bytes).is_err());
        }
        for order in [&[None, Some(0), Some(0)][..], &[None, Some(1), Some(0)], &[Some(0)], &[None, None]] {
            let mut pieces = Pieces::default();
            let (last, before) = order.split_last().unwrap();
            before.iter().for_each(|&layer| pieces.add(&trace.piece(layer).unwrap()).unwrap());
            assert!(
                pieces.add(&trace.piece(*last).unwrap()).unwrap_err().contains("another piece"),
                "{order:?}"
            );
        }
    }
}

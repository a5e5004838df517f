//! How a dense and a sparse run go on after many positions of a prompt.

use rayon::prelude::*;

use crate::{
    engine::{decoder::Decoder, device::Device, probabilities::argmax, run::Run},
    error::Error,
    trace::{PositionFidelity, Trace},
};

/// Positions whose logits are compared together, a part of the vocabulary at a time.
const ROWS: usize = 128;

impl<D: Device> Run<'_, D> {
    /// Runs the model on the blocks that the trace keeps and compares what it expects after `positions` with
    /// what the dense run did, whose hidden states there are `dense` `[n_positions, hidden_size]`. Returns
    /// `None` for no positions.
    pub(super) fn at_positions(
        &mut self,
        trace: &Trace,
        decoder: &Decoder<'_, D>,
        positions: &[usize],
        dense: &[f32],
    ) -> Result<Option<PositionFidelity>, Error> {
        if positions.is_empty() {
            return Ok(None);
        }
        let clock = self.clock("trace", decoder.tokens.len());
        let base = decoder.branches(&[], |layer| trace.mask(layer), |layer| (self.progress)(clock.at(layer)));
        let sparse = decoder.states(&base?[0].hidden, 0, positions)?;
        let rows = ROWS * self.model.config.hidden_size;
        let mut found = Vec::with_capacity(positions.len());
        for (dense, sparse) in dense.chunks(rows).zip(sparse.chunks(rows)) {
            found.extend(next_tokens(decoder, dense, sparse)?);
        }
        Ok(Some(summary(&found)))
    }
}

/// Compares the next tokens after the rows of two runs' hidden states, `[n_rows, hidden_size]` each.
fn next_tokens<D: Device>(
    decoder: &Decoder<'_, D>,
    dense: &[f32],
    sparse: &[f32],
) -> Result<Vec<Divergence>, Error> {
    let n_rows = dense.len() / decoder.model.config.hidden_size;
    let mut rows = vec![Divergence::default(); n_rows];
    decoder.logits_in_parts(&[dense, sparse].concat(), |part| {
        let width = part.len() / (2 * n_rows);
        let (dense, sparse) = part.split_at(part.len() / 2);
        let pairs = dense.par_chunks(width).zip(sparse.par_chunks(width));
        rows.par_iter_mut().zip(pairs).for_each(|(row, (dense, sparse))| row.add(dense, sparse));
    })?;
    Ok(rows)
}

fn summary(rows: &[Divergence]) -> PositionFidelity {
    let n = rows.len();
    let mut kl: Vec<f64> = rows.iter().map(Divergence::kl).collect();
    kl.sort_by(f64::total_cmp);
    PositionFidelity {
        n,
        same_next_token: rows.iter().filter(|row| row.is_same()).count() as f64 / n as f64,
        mean_kl: kl.iter().sum::<f64>() / n as f64,
        p99_kl: kl[(99 * n).div_ceil(100) - 1],
    }
}

/// The next token's distribution in two runs, from logits that come a part of the vocabulary at a time.
#[derive(Clone, Copy, Default)]
struct Divergence {
    dense: Softmax,
    sparse: Softmax,
    /// Σ exp(dense − the largest so far) · (dense − sparse).
    weighed: f64,
}

impl Divergence {
    /// Takes both runs' logits of the next ids.
    fn add(&mut self, dense: &[f32], sparse: &[f32]) {
        self.weighed *= self.dense.add(dense);
        self.sparse.add(sparse);
        let most = self.dense.most;
        let apart = |(&p, &q): (&f32, &f32)| (f64::from(p) - most).exp() * (f64::from(p) - f64::from(q));
        self.weighed += dense.iter().zip(sparse).map(apart).sum::<f64>();
    }

    /// Returns KL(dense ‖ sparse) in nats.
    fn kl(&self) -> f64 {
        (self.weighed / self.dense.sum - self.dense.log_sum() + self.sparse.log_sum()).max(0.0)
    }

    /// Returns whether the most likely token is the same.
    fn is_same(&self) -> bool {
        self.dense.argmax == self.sparse.argmax
    }
}

/// What a softmax needs to know of the logits so far.
#[derive(Clone, Copy)]
struct Softmax {
    n: usize,
    /// The largest logit, and the first id that has it.
    most: f64,
    argmax: usize,
    /// Σ exp(logit − most).
    sum: f64,
}

impl Default for Softmax {
    fn default() -> Self {
        Softmax { n: 0, most: f64::NEG_INFINITY, argmax: 0, sum: 0.0 }
    }
}

impl Softmax {
    /// Takes the logits of the next ids; returns what sums over the ids before must be multiplied by, now that
    /// `most` may be larger.
    fn add(&mut self, logits: &[f32]) -> f64 {
        let before = self.most;
        let first = argmax(logits) as usize;
        if f64::from(logits[first]) > before {
            (self.most, self.argmax) = (f64::from(logits[first]), self.n + first);
        }
        self.n += logits.len();
        let scale = (before - self.most).exp();
        self.sum = self.sum * scale + logits.iter().map(|&l| (f64::from(l) - self.most).exp()).sum::<f64>();
        scale
    }

    fn log_sum(&self) -> f64 {
        self.most + self.sum.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::kl, *};

    fn divergence(dense: &[f32], sparse: &[f32], width: usize) -> Divergence {
        let mut row = Divergence::default();
        dense.chunks(width).zip(sparse.chunks(width)).for_each(|(dense, sparse)| row.add(dense, sparse));
        row
    }

    #[test]
    fn parts_of_the_vocabulary_give_what_the_whole_gives() {
        let mut random = fastrand::Rng::with_seed(3);
        for n in [1, 2, 50, 1000] {
            let [dense, sparse] =
                [0, 1].map(|_| (0..n).map(|_| 60.0 * random.f32() - 30.0).collect::<Vec<_>>());
            for width in [1, 7, 64, 1000] {
                let row = divergence(&dense, &sparse, width);
                assert!((row.kl() - kl(&dense, &sparse)).abs() < 1e-9, "{n} {width}");
                assert_eq!(
                    (row.dense.argmax, row.sparse.argmax),
                    (argmax(&dense) as usize, argmax(&sparse) as usize)
                );
                assert!(divergence(&dense, &dense, width).kl() < 1e-12);
            }
        }
    }

    #[test]
    fn the_first_of_the_largest_logits_wins_in_any_part() {
        for width in 1..6 {
            let row = divergence(&[0.0, 2.0, 1.0, 2.0, 2.0], &[0.0, 1.0, 1.0, 2.0, 2.0], width);
            assert_eq!((row.dense.argmax, row.sparse.argmax, row.is_same()), (1, 3, false));
        }
    }

    #[test]
    fn the_99th_percentile_is_that_of_a_position() {
        // The sparse run's first token is less likely, position by position.
        let rows: Vec<Divergence> =
            (0..200).map(|i| divergence(&[0.0, 0.0], &[0.0 - i as f32, 0.0], 2)).collect();
        let all = summary(&rows);
        assert_eq!((all.n, all.p99_kl), (200, rows[197].kl()));
        // Where both are as likely, the first wins.
        assert_eq!(all.same_next_token, 1.0 / 200.0);
        let mean = rows.iter().map(Divergence::kl).sum::<f64>() / 200.0;
        assert!((all.mean_kl - mean).abs() < 1e-12 && mean < all.p99_kl);
        assert_eq!(summary(&rows[5..6]).p99_kl, rows[5].kl());
    }
}

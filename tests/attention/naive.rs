//! One head's attention from its definition, in f64, pair by pair.

use streamtrace::trace::Blocks;

/// Queries, keys and values of one head, each `[n_tokens, head_dim]`.
#[derive(Clone)]
pub struct Head {
    pub blocks: Blocks,
    pub head_dim: usize,
    pub soft_cap: Option<f32>,
    /// A logit that takes mass and has no value.
    pub sink: Option<f32>,
    pub queries: Vec<f32>,
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

impl Head {
    pub fn random(blocks: Blocks, head_dim: usize, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut numbers =
            |size: f32| (0..blocks.n_tokens * head_dim).map(|_| size * (2.0 * random.f32() - 1.0)).collect();
        Head {
            blocks,
            head_dim,
            soft_cap: None,
            sink: None,
            queries: numbers(2.0),
            keys: numbers(2.0),
            values: numbers(1.0),
        }
    }

    fn row<'a>(&self, rows: &'a [f32], token: usize) -> &'a [f32] {
        &rows[token * self.head_dim..][..self.head_dim]
    }

    /// Returns the probabilities of a query on every key; 0 for a key that it does not see or that is in none
    /// of the blocks. What is missing to 1 is on the sink. `[n_tokens]`
    pub fn probabilities(&self, query: usize, kept: &[u32]) -> Vec<f64> {
        let Blocks { n_tokens, block_size_k, window, .. } = self.blocks;
        let seen = |key: usize| {
            let in_window = window.is_none_or(|window| key + window > query);
            key <= query && in_window && kept.contains(&((key / block_size_k) as u32))
        };
        let dot = |key| -> f64 {
            let pairs = self.row(&self.queries, query).iter().zip(self.row(&self.keys, key));
            pairs.map(|(&q, &k)| q as f64 * k as f64).sum()
        };
        let logit = |key| match (dot(key) / (self.head_dim as f64).sqrt(), self.soft_cap.map(f64::from)) {
            (logit, Some(cap)) => cap * (logit / cap).tanh(),
            (logit, None) => logit,
        };
        let weight = |key| if seen(key) { logit(key).exp() } else { 0.0 };
        let weights: Vec<f64> = (0..n_tokens).map(weight).collect();
        let on_sink = self.sink.map_or(0.0, |logit| f64::from(logit).exp());
        let total = weights.iter().sum::<f64>() + on_sink;
        weights.iter().map(|weight| weight / total).collect()
    }

    /// Returns the sum of the values, weighted by their probabilities. `[head_dim]`
    pub fn output(&self, probabilities: &[f64]) -> Vec<f64> {
        let of = |dim| {
            probabilities.iter().enumerate().map(|(key, p)| p * self.row(&self.values, key)[dim] as f64).sum()
        };
        (0..self.head_dim).map(of).collect()
    }

    /// Returns all key blocks.
    pub fn all(&self) -> Vec<u32> {
        (0..self.blocks.n_key_blocks() as u32).collect()
    }

    /// Returns random blocks among those that a query block sees, always including its own.
    pub fn random_blocks(&self, query_block: usize, random: &mut fastrand::Rng) -> Vec<u32> {
        let own = self.blocks.queries(query_block).start / self.blocks.block_size_k;
        self.blocks
            .visible(query_block)
            .filter(|&block| block >= own || random.bool())
            .map(|block| block as u32)
            .collect()
    }
}

#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        assert!((found as f64 - expected).abs() < tolerance, "{i}: {found}, not {expected}");
    }
}

//! The settings of experts: how many there are, in which layers, and how a router chooses among them.

use super::{
    config_file::{ConfigFile, MAX_SIZE, Unsupported},
    family::{Routed, Score},
};

/// The experts of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// The names of their tensors.
    pub tensors: Routed,
    pub n_experts: usize,
    /// Numbers of a token inside an expert.
    pub inner: usize,
    /// Numbers of a token inside the block that every token takes; 0 if there is none.
    pub shared: usize,
    pub routing: Routing,
    /// Whether each layer has experts, or one block. `[n_layers]`
    pub in_layers: Vec<bool>,
}

/// How a row chooses its experts, and how their outputs are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing {
    /// Experts that a row takes.
    pub top_k: usize,
    pub score: Score,
    /// Whether the weights of a row's experts are divided by their sum. With [`Score::Softmax`] it is the softmax of
    /// the chosen logits alone.
    pub normalised: bool,
    /// Factor of the weights.
    pub scale: f32,
    /// Neighbouring experts are a group; a row chooses among those of the `top_groups` whose best two scores have the
    /// largest sums.
    pub n_groups: usize,
    pub top_groups: usize,
}

/// Reads the settings of experts; `None` for a model without.
pub(super) fn experts(file: &ConfigFile) -> Result<Option<ExpertsConfig>, Unsupported> {
    let Some(routed) = file.family.experts else { return Ok(None) };
    let given = [file.num_local_experts, file.num_experts, file.n_routed_experts];
    let n_experts = required("num_experts", given.into_iter().flatten().next())?;
    let in_layers = in_layers(file);
    if !in_layers.contains(&true) {
        return Ok(None);
    }
    let config = ExpertsConfig {
        tensors: routed,
        n_experts,
        inner: match routed.has_own_width {
            true => required("moe_intermediate_size", file.moe_intermediate_size)?,
            false => file.intermediate_size,
        },
        shared: shared(file)?,
        routing: Routing {
            top_k: required("num_experts_per_tok", file.num_experts_per_tok)?,
            score: routed.score,
            normalised: routed.is_normalised(file.norm_topk_prob),
            scale: file.routed_scaling_factor.unwrap_or(1.0) as f32,
            n_groups: file.n_group.unwrap_or(1),
            top_groups: file.topk_group.unwrap_or(1),
        },
        in_layers,
    };
    config.check()?;
    Ok(Some(config))
}

fn required(name: &str, value: Option<usize>) -> Result<usize, Unsupported> {
    value.ok_or_else(|| Unsupported::new(name, "none"))
}

/// Returns the width of the block that every token takes; 0 if there is none.
fn shared(file: &ConfigFile) -> Result<usize, Unsupported> {
    match (file.family.experts.and_then(|routed| routed.shared), file.n_shared_experts) {
        (None, _) => Ok(0),
        (Some(_), Some(n)) => {
            Ok(n.saturating_mul(required("moe_intermediate_size", file.moe_intermediate_size)?))
        }
        (Some(_), None) => required("shared_expert_intermediate_size", file.shared_expert_intermediate_size),
    }
}

/// Returns whether each layer has experts.
fn in_layers(file: &ConfigFile) -> Vec<bool> {
    let n_layers = file.num_hidden_layers;
    let is_dense = |layer: usize| file.mlp_only_layers.as_ref().is_some_and(|dense| dense.contains(&layer));
    let first = match file.family.name {
        "glm4_moe" => file.first_k_dense_replace.unwrap_or(1),
        _ => 0,
    };
    let step = file.decoder_sparse_step.unwrap_or(1).max(1);
    let has = |layer: usize| layer >= first && !is_dense(layer) && (layer + 1).is_multiple_of(step);
    (0..n_layers).map(has).collect()
}

impl ExpertsConfig {
    /// Rows of a chunk that an expert takes at once: twice its share, for experts are not taken evenly.
    pub fn rows_at_once(&self, chunk_rows: usize) -> usize {
        ((2 * self.routing.top_k).min(self.n_experts) * chunk_rows / self.n_experts).max(1)
    }

    /// Checks that the numbers make a router.
    fn check(&self) -> Result<(), Unsupported> {
        let (n, Routing { top_k, n_groups, top_groups, .. }) = (self.n_experts, self.routing);
        if ![n, self.inner].iter().all(|size| (1..=MAX_SIZE).contains(size)) || self.shared > MAX_SIZE {
            let found = format!("{n} experts of {} numbers, {} shared", self.inner, self.shared);
            return Err(Unsupported::new("experts of a size above 0", &found));
        }
        if !(1..=n).contains(&top_k) {
            let expected = format!("num_experts_per_tok from 1 to {n}, the number of experts");
            return Err(Unsupported::new(&expected, &top_k.to_string()));
        }
        let is_grouped = n_groups > 0 && n.is_multiple_of(n_groups) && (1..=n_groups).contains(&top_groups);
        // The best two of a group are its score.
        let has_two = n_groups == 1 || n / n_groups.max(1) > 1;
        if !is_grouped || !has_two || top_k > n / n_groups * top_groups {
            let expected =
                format!("n_group that divides {n} experts, and topk_group that has {top_k} of them");
            return Err(Unsupported::new(&expected, &format!("{n_groups} groups, of which {top_groups}")));
        }
        Ok(())
    }
}

impl Routed {
    /// Returns whether a row's weights are divided by their sum, by `norm_topk_prob`.
    fn is_normalised(&self, said: Option<bool>) -> bool {
        match self.always_normalised {
            true => true,
            false => said.unwrap_or(self.score == Score::Sigmoid),
        }
    }
}

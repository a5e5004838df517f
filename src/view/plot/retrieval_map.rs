//! Retrieval heads as a map of layers and heads.

use super::HeatMap;
use crate::{
    analysis::RetrievalHeads,
    words::numbers::{count, head_name},
};

impl RetrievalHeads {
    /// A map of the scores by layer and head.
    pub fn map(&self) -> HeatMap {
        let facts = format!("{} · strongest: {}", count(self.n_prompts, "prompt"), self.strongest());
        let measure = "Share of the needle's tokens that a head copies into the answer";
        HeatMap::by_layer_and_head(format!("{} · retrieval heads", self.model), facts, measure, &self.scores)
    }

    /// The three best heads, on one line.
    pub(crate) fn strongest(&self) -> String {
        let best = self.ranking().into_iter().take(3).filter(|head| head.score > 0.0);
        let names: Vec<String> =
            best.map(|h| format!("{} ({:.2})", head_name(h.layer, h.head), h.score)).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use crate::analysis::RetrievalHeads;

    #[test]
    fn the_strongest_heads_are_named() {
        let heads =
            |scores: Vec<Vec<f64>>, n_prompts| RetrievalHeads { model: "m".into(), n_prompts, scores };
        let facts = heads(vec![vec![0.25, 0.0], vec![0.25, 0.8]], 4).map().facts;
        assert!(facts.contains("4 prompts · strongest: L1H1 (0.80), L0H0 (0.25)"), "{facts}");
        assert!(heads(vec![vec![0.0]], 1).map().facts.contains("none"));
    }
}

//! Retrieval heads as a map of layers and heads.

use super::HeatMap;
use crate::{
    analysis::RetrievalHeads,
    words::{
        letters::shortened,
        numbers::{count, head_name, percent},
    },
};

impl RetrievalHeads {
    /// A map of the scores by layer and head.
    pub fn map(&self) -> HeatMap {
        let prompts = count(self.n_prompts, "prompt");
        let facts = format!("{} · {prompts} · strongest: {}", shortened(&self.model, 24), self.strongest());
        let measure = "Share of the needle's tokens that a head copies into the answer";
        HeatMap::by_layer_and_head(self.title(), facts, measure, &self.scores)
    }

    /// Says which head copies most, or that several do.
    fn title(&self) -> String {
        let ranking = self.ranking();
        let Some(best) = ranking.first().filter(|head| head.score > 0.0) else {
            return "No head copies the needle".into();
        };
        let (name, share) = (head_name(best.layer, best.head), percent(best.score));
        match ranking.iter().filter(|head| head.score >= best.score).count() {
            1 => format!("{name} copies most of the needle: {share} of its tokens"),
            n => format!("{n} heads, {name} first, copy most of the needle: {share} of its tokens each"),
        }
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
        let map = heads(vec![vec![0.25, 0.0], vec![0.25, 0.8]], 4).map();
        assert_eq!(map.title, "L1H1 copies most of the needle: 80 % of its tokens");
        assert_eq!(map.facts, "m · 4 prompts · strongest: L1H1 (0.80), L0H0 (0.25), L1H0 (0.25)");
        let tied = heads(vec![vec![0.25, 0.5], vec![0.5, 0.0]], 1).map().title;
        assert_eq!(tied, "2 heads, L0H1 first, copy most of the needle: 50 % of its tokens each");
        let none = heads(vec![vec![0.0]], 1).map();
        assert!(none.facts.contains("none") && none.title == "No head copies the needle");
    }
}

//! Attention that is hidden from a run, and the effect.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    trace::{NextToken, Span, Trace},
};

/// A rectangle of attention: from some queries to some keys, in one layer and head or in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edges {
    /// Every layer if not set.
    pub layer: Option<usize>,
    /// Every head if not set.
    pub head: Option<usize>,
    pub queries: Span,
    pub keys: Span,
}

/// Attention that is hidden from a run: its logits are −∞, in `hide` except in `keep`.
///
/// A query always sees itself, so that something is left of every row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intervention {
    /// The name in results and figures.
    pub name: String,
    pub hide: Vec<Edges>,
    pub keep: Vec<Edges>,
}

/// The effect of an intervention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The intervention's name.
    pub name: String,
    /// The token that was most likely to follow the prompt.
    pub next: TokenEffect,
    /// The token that is most likely to follow it now.
    pub next_token: NextToken,
    /// The tokens of the prompt that were asked for, each after the ones before it.
    pub tokens: Vec<TokenEffect>,
}

/// The effect of an intervention on one token's prediction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenEffect {
    pub id: u32,
    pub text: String,
    /// Natural logarithm of its probability, before and after.
    pub before: f64,
    pub after: f64,
    /// Whether no token was more likely, before and after.
    pub was_argmax: bool,
    pub is_argmax: bool,
    /// KL(before ‖ after) of the distribution that predicts it, in nats.
    pub kl: f64,
}

impl Edges {
    /// Returns the attention of every query after a span's start to the span's tokens, in all layers and
    /// heads.
    pub fn from_span(keys: impl Into<Span>) -> Self {
        let keys = keys.into();
        Edges { layer: None, head: None, queries: Span { start: keys.start, end: usize::MAX }, keys }
    }

    /// Returns all attention of one head.
    pub fn of_head(layer: usize, head: usize) -> Self {
        let all = Span { start: 0, end: usize::MAX };
        Edges { layer: Some(layer), head: Some(head), queries: all, keys: all }
    }

    fn holds(&self, query: usize, key: usize) -> bool {
        self.queries.range().contains(&query) && self.keys.range().contains(&key)
    }
}

impl Intervention {
    /// Hides a span's tokens from every query after its start.
    pub fn without_span(name: &str, keys: impl Into<Span>) -> Self {
        Intervention { name: name.into(), hide: vec![Edges::from_span(keys)], keep: Vec::new() }
    }

    /// Hides all attention of some heads, `(layer, head)`.
    pub fn without_heads(name: &str, heads: &[(usize, usize)]) -> Self {
        let hide = heads.iter().map(|&(layer, head)| Edges::of_head(layer, head)).collect();
        Intervention { name: name.into(), hide, keep: Vec::new() }
    }

    /// Returns the first query that anything is hidden from.
    pub fn first_query(&self) -> usize {
        self.hide.iter().map(|edges| edges.queries.start).min().unwrap_or(usize::MAX)
    }

    /// Returns the attention that is hidden in one layer.
    pub fn in_layer(&self, layer: usize) -> Hidden {
        let here = |edges: &&Edges| edges.layer.is_none_or(|l| l == layer);
        let of = |edges: &[Edges]| edges.iter().filter(here).cloned().collect();
        Hidden { hide: of(&self.hide), keep: of(&self.keep) }
    }

    /// Checks that a trace has the attention to hide.
    ///
    /// # Errors
    /// [`Error::Missing`] for a layer, head or span that it does not have, [`Error::Setting`] when nothing is
    /// hidden.
    pub fn check(&self, trace: &Trace) -> Result<(), Error> {
        if self.hide.is_empty() {
            return Err(Error::setting(
                format!("intervention {:?}", self.name),
                "something to hide",
                "nothing",
                "give it a span, a head or a route",
            ));
        }
        for edges in self.hide.iter().chain(&self.keep) {
            trace.check_head(edges.head.unwrap_or(0))?;
            trace.blocks(edges.layer.unwrap_or(0))?;
            for (what, span) in [("span of queries", edges.queries), ("span of keys", edges.keys)] {
                // "From here on" ends where the prompt does.
                trace.checked(what, Span { end: span.end.min(trace.n_tokens()), ..span })?;
            }
        }
        Ok(())
    }
}

/// The attention that is hidden in one layer, or the part of it in one head and query block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    pub hide: Vec<Edges>,
    pub keep: Vec<Edges>,
}

impl Hidden {
    /// Returns the part that concerns a head's queries.
    pub fn of(&self, head: usize, queries: Span) -> Hidden {
        let touches = |e: &&Edges| {
            e.head.is_none_or(|h| h == head) && e.queries.start < queries.end && queries.start < e.queries.end
        };
        let of = |edges: &[Edges]| edges.iter().filter(touches).cloned().collect();
        Hidden { hide: of(&self.hide), keep: of(&self.keep) }
    }

    pub fn is_empty(&self) -> bool {
        self.hide.is_empty()
    }

    /// Returns whether a pair is hidden, of a head that the edges were chosen for.
    pub fn hides(&self, query: usize, key: usize) -> bool {
        let any = |edges: &[Edges]| edges.iter().any(|edges| edges.holds(query, key));
        query != key && any(&self.hide) && !any(&self.keep)
    }
}

impl Effect {
    /// Returns the natural logarithm of the probability of all tokens that were asked for, before.
    pub fn before(&self) -> f64 {
        self.tokens.iter().map(|token| token.before).sum()
    }

    /// Returns the natural logarithm of the probability of all tokens that were asked for, after.
    pub fn after(&self) -> f64 {
        self.tokens.iter().map(|token| token.after).sum()
    }

    /// Returns the loss of log-probability of the tokens that were asked for, or else of the next token, in
    /// nats.
    pub fn drop(&self) -> f64 {
        match self.tokens.is_empty() {
            true => self.next.before - self.next.after,
            false => self.before() - self.after(),
        }
    }

    /// Returns whether the model would still write all tokens that were asked for, greedily.
    pub fn survives(&self) -> bool {
        self.tokens.iter().all(|token| token.is_argmax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::synthetic::{Shape, trace};

    #[test]
    fn a_head_is_hidden_in_its_own_layer_alone() {
        let intervention = Intervention::without_heads("two", &[(0, 1), (1, 0)]);
        assert_eq!((&intervention.hide[0], intervention.first_query()), (&Edges::of_head(0, 1), 0));
        let queries = Span { start: 32, end: 64 };
        let hidden = |layer, head| intervention.in_layer(layer).of(head, queries);
        assert!(hidden(0, 1).hides(40, 3) && hidden(1, 0).hides(40, 39));
        assert!(!hidden(0, 1).hides(40, 40), "a query always sees itself");
        assert!(hidden(0, 0).is_empty() && hidden(1, 1).is_empty() && hidden(2, 1).is_empty());
        let trace = trace(&Shape { n_tokens: 100, ..Default::default() });
        assert!(intervention.check(&trace).is_ok());
        let error = Intervention::without_heads("a third", &[(0, 2)]).check(&trace).unwrap_err().to_string();
        assert!(error.contains("head 2 does not exist"), "{error}");
    }
}

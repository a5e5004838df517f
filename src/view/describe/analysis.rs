//! Tables of anchors, routes and interventions.

use crate::{
    analysis::{
        CausalConfig, CausalTest, Edge, HeadRanking, Passage, RankedHead, Reading, RouteEdge, Routes,
        Sentence, SentenceAttention, SentenceEdge, SentenceMatrix, ThoughtAnchors,
    },
    protocol::{Edges, Effect, Intervention, TokenEffect},
    words::{
        letters::shortened,
        numbers::{count, head_name, percent, thousands},
        table::{Describe, Table, show_as_table},
    },
};

show_as_table!(
    CausalConfig,
    Edges,
    Effect,
    Intervention,
    TokenEffect,
    Edge,
    HeadRanking,
    RankedHead,
    RouteEdge,
    Sentence,
    SentenceAttention,
    SentenceEdge
);

/// The largest number of characters of a sentence in a table.
const SHOWN: usize = 100;
/// The largest number of edges, and of heads, in a table.
const ROWS: usize = 10;

impl Describe for ThoughtAnchors {
    fn table(&self) -> Table {
        let heads: Vec<String> =
            self.receivers.best(ROWS).iter().map(|(layer, head)| head_name(*layer, *head)).collect();
        let table = Table::new(format!("Thought anchors of {}", count(self.sentences.len(), "sentence")))
            .row("heads", format!("{} by {}", heads.join(", "), self.receivers.how));
        let table = self.notes.iter().fold(table, |table, note| table.row("note", note));
        let line = |j: usize| {
            let sentence = &self.sentences[j];
            format!(
                "{} ({}, {:.4})",
                shortened(&sentence.text, SHOWN),
                sentence.kind,
                self.score(j).unwrap_or_default()
            )
        };
        self.places().fold(table, |table, (_, j)| table.row(&format!("sentence {j}"), line(j)))
    }
}

impl Describe for Reading {
    fn table(&self) -> Table {
        let text = |passage: &Passage| {
            let text: String = passage.tokens.iter().map(|(text, _)| text.as_str()).collect();
            format!("{} of its attention: {}", percent(passage.share), shortened(text.trim(), SHOWN))
        };
        let heads = self.heads.heads.iter().take(ROWS);
        let heads: Vec<String> =
            heads.map(|h| format!("{} {}", head_name(h.layer, h.head), percent(h.score))).collect();
        let place = |passage: &Passage| format!("from token {}", thousands(passage.span.start as u64));
        let table = Table::new(self.title()).row("of", self.facts()).maybe("note", self.note.as_ref());
        let table =
            self.passages.iter().fold(table, |table, passage| table.row(&place(passage), text(passage)));
        table.row("heads on the first", heads.join(", "))
    }
}

impl Describe for Routes {
    fn table(&self) -> Table {
        let table =
            Table::new(format!("Routes from tokens {} to {}", self.from, self.to)).row("shown", self.facts());
        let by_layer: Vec<String> = self.by_layer.iter().map(|share| percent(*share)).collect();
        let table = table.row("through attention, by layer", by_layer.join(", "));
        self.edges.iter().take(ROWS).fold(table, |table, edge| table.row(&edge.name(), edge.line()))
    }
}

impl RouteEdge {
    fn name(&self) -> String {
        format!("layer {}, head {}", self.layer, self.head)
    }

    fn line(&self) -> String {
        format!("{} of the flow, from tokens {} to {}", percent(self.flow), self.keys, self.queries)
    }
}

impl Describe for RouteEdge {
    fn table(&self) -> Table {
        Table::new(self.name()).row("flow", self.line())
    }
}

impl Describe for Edge {
    fn table(&self) -> Table {
        Table::new(format!("Edge of layer {}, head {}", self.layer, self.head))
            .row("query block", self.query_block)
            .row("key block", self.key_block)
            .row("mass", percent(self.mass.into()))
    }
}

impl Describe for SentenceEdge {
    fn table(&self) -> Table {
        Table::new(format!("Sentences in layer {}, head {}", self.layer, self.head))
            .row("query sentence", self.query_sentence)
            .row("key sentence", self.key_sentence)
            .row("mass", percent(self.mass.into()))
    }
}

impl Describe for SentenceMatrix {
    fn table(&self) -> Table {
        Table::new(format!("{} and those before them", count(self.sentences.len(), "sentence")))
            .row("measure", &self.measure)
            .maybe(
                "area under the ROC curve, against the known dependencies",
                self.known_auc.map(|auc| format!("{auc:.3}")),
            )
            .maybe("note", self.note.as_ref())
    }
}

impl Describe for SentenceAttention {
    fn table(&self) -> Table {
        Table::new(format!("One head's attention on {}", count(self.n_sentences(), "sentence")))
            .row("recorded", format!("rows of {}", count(self.n_rows(), "sentence")))
    }
}

impl Describe for Sentence {
    fn table(&self) -> Table {
        Table::new(shortened(&self.text, SHOWN)).row("tokens", self.span).row("kind", self.kind)
    }
}

impl Describe for HeadRanking {
    fn table(&self) -> Table {
        let table = Table::new(format!("{} by {}", count(self.heads.len(), "head"), self.how));
        self.heads
            .iter()
            .take(ROWS)
            .fold(table, |table, head| table.row(&head.name(), format!("{:.3}", head.score)))
    }
}

impl RankedHead {
    fn name(&self) -> String {
        format!("layer {}, head {}", self.layer, self.head)
    }
}

impl Describe for RankedHead {
    fn table(&self) -> Table {
        Table::new(self.name()).row("score", format!("{:.3}", self.score))
    }
}

impl Describe for Intervention {
    fn table(&self) -> Table {
        Table::new(&self.name)
            .row("hides", count(self.hide.len(), "rectangle"))
            .maybe("except", (!self.keep.is_empty()).then(|| count(self.keep.len(), "rectangle")))
    }
}

impl Describe for Edges {
    fn table(&self) -> Table {
        let one = |index: Option<usize>| index.map_or("all".into(), |i| i.to_string());
        Table::new("Edges")
            .row("layer", one(self.layer))
            .row("head", one(self.head))
            .row("queries", self.queries)
            .row("keys", self.keys)
    }
}

impl Describe for Effect {
    fn table(&self) -> Table {
        let next = if self.next.is_argmax {
            format!("{:?} as before", self.next_token.text)
        } else {
            format!("{:?} instead of {:?}", self.next_token.text, self.next.text)
        };
        let table = Table::new(format!("Knocked out: {}", self.name))
            .row("next token", next)
            .row("its prediction", self.next.line());
        if self.tokens.is_empty() {
            return table;
        }
        let answer = format!("{:.4} nats before, {:.4} after", self.before(), self.after());
        table
            .row("answer's log-probability", answer)
            .row("answer survives", if self.survives() { "yes" } else { "no" })
    }
}

impl TokenEffect {
    fn line(&self) -> String {
        format!(
            "probability {} before, {} after, KL {:.4} nats",
            percent(self.before.exp()),
            percent(self.after.exp()),
            self.kl
        )
    }
}

impl Describe for TokenEffect {
    fn table(&self) -> Table {
        Table::new(format!("{:?}", self.text)).row("prediction", self.line())
    }
}

impl Describe for CausalConfig {
    fn table(&self) -> Table {
        let measured = self.answer.map_or("the next token".into(), |answer| format!("tokens {answer}"));
        Table::new("Test of cause")
            .row("measured on", measured)
            .row("controls", count(self.n_random, "random route"))
            .row("seed", self.seed)
    }
}

impl Describe for CausalTest {
    fn table(&self) -> Table {
        Table::new(format!("Without {}", shortened(&self.claim, SHOWN)))
            .row("measure", &self.measure)
            .row("result", self.facts())
    }
}

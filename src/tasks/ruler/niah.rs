//! Needle-in-a-haystack: eight tasks that differ in haystack, keys and values.

use std::collections::HashSet;

use fastrand::Rng;

use super::{
    Asks, RulerConfig, Task,
    wording::{Kind, Question, needle, niah_intro, niah_question},
};
use crate::tasks::{
    draft::{Draft, Insert, Role},
    fit::{Elastic, Limit},
    haystack::{Haystack, Source},
    prose::pick,
    words::WORDS,
};

/// The keys and values of a task.
struct Shape {
    key: Kind,
    value: Kind,
    n_keys: usize,
    n_values: usize,
    n_asked: usize,
}

impl Shape {
    fn new(task: Task) -> Self {
        let shape = |key, value, n_keys, n_values, n_asked| Shape { key, value, n_keys, n_values, n_asked };
        match task {
            Task::NiahSingle3 => shape(Kind::Word, Kind::Uuid, 1, 1, 1),
            Task::NiahMultikey1 => shape(Kind::Word, Kind::Number, 4, 1, 1),
            Task::NiahMultikey3 => shape(Kind::Uuid, Kind::Uuid, 1, 1, 1),
            Task::NiahMultivalue => shape(Kind::Word, Kind::Number, 1, 4, 1),
            Task::NiahMultiquery => shape(Kind::Word, Kind::Number, 4, 1, 4),
            _ => shape(Kind::Word, Kind::Number, 1, 1, 1),
        }
    }
}

/// A needle prompt of any length.
pub(super) struct Niah {
    kind: Kind,
    haystack: Haystack,
    /// The role of the haystack's sentences.
    hay: Role,
    inserts: Vec<Insert>,
    asked: Question,
    answers: Vec<String>,
}

impl Niah {
    /// Draws a prompt. `depth` is the depth of the first needle asked for; the others stand at other depths
    /// of RULER's 40.
    pub fn new(config: &RulerConfig, depth: f64, mut rng: Rng) -> Self {
        let shape = Shape::new(config.task);
        let mut fresh = Fresh { rng: rng.fork(), used: HashSet::new() };
        let keys: Vec<String> = (0..shape.n_keys).map(|_| fresh.draw(shape.key)).collect();
        let values: Vec<Vec<String>> =
            keys.iter().map(|_| (0..shape.n_values).map(|_| fresh.draw(shape.value)).collect()).collect();
        let mut depths: Vec<f64> = RulerConfig::depths().into_iter().filter(|&d| d != depth).collect();
        rng.shuffle(&mut depths);
        let role = |key| if key < shape.n_asked { Role::Needle } else { Role::Distractor };
        let needles = keys.iter().zip(&values).enumerate().flat_map(|(i, (key, values))| {
            values.iter().map(move |value| (needle(shape.value, key, value), role(i)))
        });
        let inserts = needles
            .zip(std::iter::once(depth).chain(depths))
            .map(|((text, role), depth)| Insert { depth, text, role })
            .collect();
        let answers = values[..shape.n_asked].concat();
        let (haystack, hay) = haystack(config, &shape, rng, fresh);
        Niah {
            kind: shape.value,
            haystack,
            hay,
            inserts,
            asked: niah_question(shape.value, &keys[..shape.n_asked], &answers),
            answers,
        }
    }
}

impl Asks for Niah {
    fn answers(&self) -> &[String] {
        &self.answers
    }

    fn prefix(&self) -> &str {
        &self.asked.prefix
    }

    fn answer(&self) -> String {
        self.asked.answer.clone()
    }
}

impl Elastic for Niah {
    fn limit(&self) -> Option<Limit> {
        self.haystack.limit()
    }

    fn draft(&mut self, n_units: usize) -> Draft {
        let mut draft = Draft::default();
        draft.push(&niah_intro(self.kind, self.answers.len()), Role::Filling);
        draft.scatter(self.haystack.take(n_units), self.hay, &self.inserts);
        draft.push("\n", Role::Filling);
        draft.push(&self.asked.question, Role::Question);
        draft
    }
}

fn haystack(config: &RulerConfig, shape: &Shape, rng: Rng, mut fresh: Fresh) -> (Haystack, Role) {
    let key = shape.key;
    let value = shape.value;
    match (config.task, &config.essay) {
        (Task::NiahSingle1, _) => (Haystack::new(Source::Noise), Role::Filling),
        (Task::NiahMultikey2 | Task::NiahMultikey3, _) => {
            let another = move || needle(value, &fresh.draw(key), &fresh.draw(value));
            (Haystack::new(Source::Generated(Box::new(another))), Role::Distractor)
        }
        (_, Some(essay)) => (Haystack::essay(essay), Role::Filling),
        (_, None) => (Haystack::new(Source::Prose(rng)), Role::Filling),
    }
}

/// Draws distinct keys and values.
struct Fresh {
    rng: Rng,
    used: HashSet<String>,
}

impl Fresh {
    fn draw(&mut self, kind: Kind) -> String {
        loop {
            let drawn = draw(&mut self.rng, kind);
            if self.used.insert(drawn.clone()) {
                return drawn;
            }
        }
    }
}

fn draw(rng: &mut Rng, kind: Kind) -> String {
    match kind {
        Kind::Word => format!("{}-{}", pick(rng, &WORDS.adjs), pick(rng, &WORDS.nouns)),
        Kind::Number => rng.u32(1_000_000..10_000_000).to_string(),
        Kind::Uuid => uuid(rng.u128(..)),
    }
}

/// Formats bits as a UUID of version 4.
fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf000_u128 << 64) & !(0xc000_u128 << 48) | 0x4000_u128 << 64 | 0x8000_u128 << 48;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_version_4() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "01234567-89ab-4def-8123-456789abcdef");
    }
}

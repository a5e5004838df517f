//! The people of a word problem: how many things each has, and how the problem tells it.

use fastrand::Rng;

use crate::tasks::prose::{NAMES, pick};

const ITEMS: [&str; 10] =
    ["coins", "pens", "books", "cards", "shells", "stamps", "apples", "marbles", "stones", "tickets"];
/// The largest number of things that a person has.
const LARGEST: u32 = 99;

/// The way in which a person's number is told; people are indices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum How {
    Given,
    Sum(usize, usize),
    Same(usize),
    More(usize, u32),
    Fewer(usize, u32),
}

impl How {
    /// The people whose numbers it is computed from.
    pub fn parents(self) -> Vec<usize> {
        match self {
            How::Given => vec![],
            How::Sum(a, b) => vec![a, b],
            How::Same(a) | How::More(a, _) | How::Fewer(a, _) => vec![a],
        }
    }
}

/// The people of a problem. Each number is told by those of earlier people; the question asks about the last.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct People {
    pub item: String,
    pub names: Vec<String>,
    pub values: Vec<u32>,
    pub how: Vec<How>,
}

impl People {
    pub fn generate(n_people: usize, rng: &mut Rng) -> Self {
        let item = pick(rng, &ITEMS).to_string();
        let mut names = NAMES;
        rng.shuffle(&mut names);
        let n_given = rng.usize(1..=(n_people / 4).max(1)).min((n_people - 1).max(1));
        let names = names[..n_people].iter().map(|n| n.to_string()).collect();
        let mut people = People { item, names, values: Vec::new(), how: Vec::new() };
        for i in 0..n_people {
            let (value, how) =
                if i < n_given { (rng.u32(1..=60), How::Given) } else { relation(&people.values, rng) };
            people.values.push(value);
            people.how.push(how);
        }
        people
    }

    /// The person that the question asks about.
    pub fn target(&self) -> usize {
        self.names.len() - 1
    }

    /// The people whose numbers the answer needs, in order.
    pub fn needed(&self) -> Vec<usize> {
        let mut needed = vec![false; self.names.len()];
        let mut open = vec![self.target()];
        while let Some(person) = open.pop() {
            if !needed[person] {
                needed[person] = true;
                open.extend(self.how[person].parents());
            }
        }
        (0..needed.len()).filter(|&p| needed[p]).collect()
    }

    /// Writes the problem's sentence about a person.
    pub fn fact(&self, person: usize) -> String {
        let item = &self.item;
        let name = &self.names[person];
        match self.how[person] {
            How::Given => format!(" {name} has {} {item}.", self.values[person]),
            How::Sum(a, b) => {
                format!(" {name} has as many {item} as {} and {} together.", self.names[a], self.names[b])
            }
            How::Same(a) => format!(" {name} has as many {item} as {}.", self.names[a]),
            How::More(a, d) => format!(" {name} has {d} more {item} than {}.", self.names[a]),
            How::Fewer(a, d) => format!(" {name} has {d} fewer {item} than {}.", self.names[a]),
        }
    }

    pub fn question(&self) -> String {
        format!(" How many {} does {} have?", self.item, self.names[self.target()])
    }

    pub fn answer(&self) -> String {
        format!(" The answer is {}.", self.values[self.target()])
    }
}

/// Draws a number that is told by those of one or two earlier people.
fn relation(values: &[u32], rng: &mut Rng) -> (u32, How) {
    // Half of the time one of the last four people, which makes chains long.
    let near = if rng.bool() { 0 } else { values.len().saturating_sub(4) };
    let a = rng.usize(near..values.len());
    let others: Vec<usize> =
        (0..values.len()).filter(|&b| b != a && values[a] + values[b] <= LARGEST).collect();
    let d = rng.u32(1..=12);
    let percent = rng.u32(..100);
    if percent < 35 && !others.is_empty() {
        let b = others[rng.usize(..others.len())];
        (values[a] + values[b], How::Sum(a, b))
    } else if (percent < 70 && values[a] + d <= LARGEST) || values[a] <= d {
        match d.min(LARGEST - values[a]) {
            0 => (values[a], How::Same(a)),
            d => (values[a] + d, How::More(a, d)),
        }
    } else {
        (values[a] - d, How::Fewer(a, d))
    }
}

//! The chain of thought of a word problem.

use fastrand::Rng;

use super::{
    ChainSentence,
    people::{How, People},
};
use crate::{tasks::prose::pick, trace::SentenceKind};

const MUSING: [&str; 8] = [
    " Hmm, let me think.",
    " This seems fine so far.",
    " Let me be careful here.",
    " That is a good start.",
    " I should keep going.",
    " Let me look at the next step.",
    " This is not too hard.",
    " Okay.",
];

/// One step of a chain: finds a person's number, with the sentences around it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub person: usize,
    /// A sentence of no use before it.
    pub musing: Option<String>,
    /// The person whose number is checked after it.
    pub recheck: Option<usize>,
}

/// A chain being written.
struct Chain<'a> {
    people: &'a People,
    sentences: Vec<ChainSentence>,
    /// The sentence that found each person's number.
    found: Vec<Option<usize>>,
}

impl People {
    /// Draws the steps to the answer, with musings and checks as often as in the training text.
    pub fn steps(&self, rng: &mut Rng) -> Vec<Step> {
        let needed = self.needed();
        let step = |(i, &person): (usize, &usize)| Step {
            person,
            musing: (rng.u32(..100) < 25).then(|| pick(rng, &MUSING).to_string()),
            recheck: (rng.u32(..100) < 12).then(|| needed[rng.usize(..=i)]),
        };
        needed.iter().enumerate().map(step).collect()
    }

    /// Writes the chain of thought that takes `steps`.
    pub fn chain(&self, steps: &[Step]) -> Vec<ChainSentence> {
        let mut chain = Chain { people: self, sentences: Vec::new(), found: vec![None; self.names.len()] };
        let item = &self.item;
        let target = &self.names[self.target()];
        let setup = chain.say(
            format!(" I need to find how many {item} {target} has."),
            SentenceKind::ProblemSetup,
            &[],
        );
        let todo: Vec<&str> = steps.iter().map(|s| self.names[s.person].as_str()).collect();
        let plan = chain.say(
            format!(" Plan: find {}.", todo.join(", then ")),
            SentenceKind::PlanGeneration,
            &[setup],
        );
        steps.iter().for_each(|step| chain.step(plan, step));
        let last: Vec<usize> = chain.found[self.target()].into_iter().collect();
        let therefore = format!(" Therefore {target} has {} {item}.", self.values[self.target()]);
        chain.say(therefore, SentenceKind::FinalAnswerEmission, &last);
        chain.sentences
    }

    /// Writes the sentence that finds a person's number.
    fn finding(&self, person: usize) -> String {
        let People { item, names, values, .. } = self;
        let name = &names[person];
        let value = values[person];
        match self.how[person] {
            How::Given => format!(" The problem says that {name} has {value} {item}."),
            How::Sum(a, b) => {
                let sum = format!("{} + {} = {value}", values[a], values[b]);
                format!(" {name} has as many as {} and {}, so {name} has {sum} {item}.", names[a], names[b])
            }
            How::Same(a) => format!(" {name} has as many as {}, so {name} has {value} {item}.", names[a]),
            How::More(a, d) => {
                let sum = format!("{} + {d} = {value}", values[a]);
                format!(" {name} has {d} more than {}, so {name} has {sum} {item}.", names[a])
            }
            How::Fewer(a, d) => {
                let difference = format!("{} - {d} = {value}", values[a]);
                format!(" {name} has {d} fewer than {}, so {name} has {difference} {item}.", names[a])
            }
        }
    }
}

impl Chain<'_> {
    /// Appends a sentence and returns its index.
    fn say(&mut self, text: String, kind: SentenceKind, depends_on: &[usize]) -> usize {
        let mut depends_on = depends_on.to_vec();
        depends_on.sort_unstable();
        depends_on.dedup();
        self.sentences.push(ChainSentence { text, kind, depends_on });
        self.sentences.len() - 1
    }

    /// Appends the sentences of a step; `plan` is the index of the sentence with the plan.
    fn step(&mut self, plan: usize, step: &Step) {
        let people = self.people;
        if let Some(musing) = &step.musing {
            self.say(musing.clone(), SentenceKind::Filler, &[]);
        }
        let how = people.how[step.person];
        let kind =
            if how == How::Given { SentenceKind::FactRetrieval } else { SentenceKind::ActiveComputation };
        let needs: Vec<usize> = how.parents().iter().filter_map(|&p| self.found[p]).chain([plan]).collect();
        self.found[step.person] = Some(self.say(people.finding(step.person), kind, &needs));
        if let Some(person) = step.recheck {
            let name = &people.names[person];
            let value = people.values[person];
            let wait = self.say(
                format!(" Wait, let me check {name} again."),
                SentenceKind::UncertaintyManagement,
                &[],
            );
            let needs: Vec<usize> = self.found[person].into_iter().chain([wait]).collect();
            self.say(
                format!(" Yes, {name} has {value} {}.", people.item),
                SentenceKind::SelfChecking,
                &needs,
            );
        }
    }
}

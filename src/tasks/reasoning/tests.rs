use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use super::{chain::Step, people::How};

/// Reads the people of a golden problem.
fn people(golden: &Value) -> People {
    let list = golden["people"].as_array().unwrap();
    let names: Vec<String> = list.iter().map(|p| p["name"].as_str().unwrap().to_string()).collect();
    let index = |name: &Value| names.iter().position(|n| n == name.as_str().unwrap()).unwrap();
    let number = |n: &Value| n.as_u64().unwrap() as u32;
    let how = |how: &Value| match how[0].as_str() {
        None => How::Given,
        Some("sum") => How::Sum(index(&how[1]), index(&how[2])),
        Some("same") => How::Same(index(&how[1])),
        Some("more") => How::More(index(&how[1]), number(&how[2])),
        _ => How::Fewer(index(&how[1]), number(&how[2])),
    };
    let values = list.iter().map(|p| number(&p["value"])).collect();
    let how = list.iter().map(|p| how(&p["how"])).collect();
    People { item: golden["item"].as_str().unwrap().into(), names, values, how }
}

/// Reads the steps of a golden chain from its musings and checks.
fn steps(people: &People, chain: &[ChainSentence]) -> Vec<Step> {
    let mut steps: Vec<Step> =
        people.needed().into_iter().map(|person| Step { person, musing: None, recheck: None }).collect();
    let mut n_found = 0;
    for sentence in chain {
        match sentence.kind {
            SentenceKind::Filler => steps[n_found].musing = Some(sentence.text.clone()),
            SentenceKind::FactRetrieval | SentenceKind::ActiveComputation => n_found += 1,
            SentenceKind::UncertaintyManagement => {
                let name =
                    sentence.text.trim_start_matches(" Wait, let me check ").trim_end_matches(" again.");
                steps[n_found - 1].recheck = people.names.iter().position(|n| n == name);
            }
            _ => {}
        }
    }
    steps
}

#[test]
fn problems_and_chains_read_as_in_training() {
    let golden: Vec<Value> = serde_json::from_str(include_str!("../golden/word_problems.json")).unwrap();
    let mut kinds = HashSet::new();
    for golden in &golden {
        let people = people(golden);
        let strings = |name: &str| serde_json::from_value::<Vec<String>>(golden[name].clone()).unwrap();
        let order: Vec<usize> = serde_json::from_value(golden["order"].clone()).unwrap();
        assert_eq!(order.iter().map(|&p| people.fact(p)).collect::<Vec<_>>(), strings("facts"));
        assert_eq!(people.question().trim_start(), golden["question"].as_str().unwrap());
        let chain: Vec<ChainSentence> = serde_json::from_value(golden["chain"].clone()).unwrap();
        assert_eq!(people.chain(&steps(&people, &chain)), chain);
        assert_eq!(people.answer(), golden["answer"].as_str().unwrap());
        kinds.extend(chain.into_iter().map(|s| s.kind));
    }
    assert_eq!(kinds.len(), SentenceKind::ALL.len() - 1, "all but result_consolidation: {kinds:?}");
}

/// Parses a sentence: the person and number that it states, and the numbers and sign that it computes with.
fn stated(text: &str) -> (String, u32, Option<(u32, char, u32)>) {
    let claim =
        text.rsplit_once(", so ").or_else(|| text.rsplit_once(" that ")).map_or(text, |(_, claim)| claim);
    let claim = claim.trim_start_matches(" Yes, ").trim_start_matches(" Therefore ").trim();
    let (name, number) = claim.split_once(" has ").unwrap();
    let words: Vec<&str> = number.split(' ').collect();
    let n = |word: &str| word.parse::<u32>().unwrap();
    match words.as_slice() {
        [a, sign, b, "=", c, _] => (name.into(), n(c), Some((n(a), sign.chars().next().unwrap(), n(b)))),
        [c, _] => (name.into(), n(c), None),
        _ => panic!("{text}"),
    }
}

/// Checks that every sentence follows from the sentences that it depends on and from the facts.
fn check_chain(problem: &WordProblem) {
    let facts: HashMap<&str, &str> =
        problem.facts.iter().map(|f| (f[1..].split_once(' ').unwrap().0, f.as_str())).collect();
    let chain = &problem.chain;
    for (i, sentence) in chain.iter().enumerate() {
        let needs = &sentence.depends_on;
        assert!(needs.is_sorted_by(|a, b| a < b) && needs.iter().all(|&j| j < i), "{sentence:?}");
        let found = needs
            .iter()
            .map(|&j| &chain[j])
            .filter(|s| matches!(s.kind, SentenceKind::FactRetrieval | SentenceKind::ActiveComputation));
        let found: HashMap<String, u32> =
            found.map(|s| stated(&s.text)).map(|(name, value, _)| (name, value)).collect();
        match sentence.kind {
            SentenceKind::Filler | SentenceKind::ProblemSetup | SentenceKind::UncertaintyManagement => {
                assert!(needs.is_empty())
            }
            SentenceKind::PlanGeneration => assert_eq!(*needs, [0]),
            SentenceKind::FactRetrieval => {
                let (name, value, _) = stated(&sentence.text);
                assert!(facts[name.as_str()].starts_with(&format!(" {name} has {value} ")) && *needs == [1]);
            }
            SentenceKind::ActiveComputation => {
                assert!(needs.contains(&1) && found.len() == needs.len() - 1 && !found.is_empty());
                check_computation(&sentence.text, &found, &facts);
            }
            SentenceKind::SelfChecking | SentenceKind::FinalAnswerEmission => {
                let (name, value, _) = stated(&sentence.text);
                assert_eq!(found, HashMap::from([(name, value)]), "{sentence:?}");
            }
            SentenceKind::ResultConsolidation => panic!("never made: {sentence:?}"),
        }
    }
}

fn check_computation(text: &str, found: &HashMap<String, u32>, facts: &HashMap<&str, &str>) {
    let (name, value, computed) = stated(text);
    let fact = facts[name.as_str()];
    assert!(found.keys().all(|person| fact.contains(person.as_str())), "{fact} needs {found:?}");
    assert!(value <= 99, "{text}");
    let sum: u32 = found.values().sum();
    match computed {
        None => assert_eq!(value, sum),
        Some((a, '+', b)) if found.len() == 2 => {
            assert!(a + b == value && sum == value && found.values().any(|&v| v == a));
        }
        Some((a, sign, b)) => {
            assert_eq!(a, sum);
            assert_eq!(value, if sign == '+' { a + b } else { a - b });
            assert!(
                fact.contains(&format!("has {b} {}", if sign == '+' { "more" } else { "fewer" })),
                "{fact} {text}"
            );
        }
    }
}

fn bytes_over_4(text: &str) -> Result<usize, Error> {
    Ok(text.len().div_ceil(4))
}

proptest! {
    #[test]
    fn dependencies_are_true(seed: u64, n_people in 1..=WordProblem::MAX_PEOPLE) {
        let problem = WordProblem::generate(n_people, seed).unwrap();
        assert_eq!(problem.facts.len(), n_people);
        check_chain(&problem);
        let (target, value, _) = stated(&problem.chain.last().unwrap().text);
        assert_eq!(&problem.answer, &format!(" The answer is {value}."));
        assert!(problem.question.ends_with(&format!(" does {target} have?")));
        assert_eq!(WordProblem::generate(n_people, seed).unwrap(), problem);
    }

    #[test]
    fn prompts_hold_facts_and_chain(seed: u64, n_people in 3..25_usize, n_tokens in 2000..12_000_usize) {
        let problem = WordProblem::generate(n_people, seed).unwrap();
        let prompt = problem.prompt(n_tokens, &mut bytes_over_4).unwrap();
        assert!(prompt.n_tokens <= n_tokens && n_tokens - prompt.n_tokens <= (n_tokens / 100).max(64));
        let text = |range: &Range<usize>| format!(" {}", &prompt.text[range.clone()]);
        let texts = |ranges: &[Range<usize>]| ranges.iter().map(text).collect::<Vec<_>>();
        assert_eq!(texts(&prompt.facts), problem.facts.clone());
        assert_eq!(texts(&prompt.chain), problem.chain.iter().map(|s| s.text.clone()).collect::<Vec<_>>());
        let chain: String = problem.chain.iter().map(|s| s.text.as_str()).collect();
        assert!(prompt.text.ends_with(&format!("\nQuestion:{}\nThink:{chain}", problem.question)));
        assert_eq!(&prompt.text[prompt.question.clone()], problem.question.trim());
        assert!(prompt.text.starts_with(' '));
        assert_eq!(problem.prompt(n_tokens, &mut bytes_over_4).unwrap(), prompt);
    }
}

#[test]
fn impossible_sizes_are_refused() {
    for n_people in [0, WordProblem::MAX_PEOPLE + 1] {
        let error = WordProblem::generate(n_people, 0).unwrap_err().to_string();
        assert!(
            error.contains(&format!("expected 1 to {}, found {n_people}", WordProblem::MAX_PEOPLE)),
            "{error}"
        );
    }
    let error = WordProblem::generate(24, 0).unwrap().prompt(100, &mut bytes_over_4).unwrap_err().to_string();
    assert!(error.contains("n_tokens of 100"), "{error}");
}

#[test]
fn seeds_give_different_problems() {
    let problems: HashSet<String> =
        (0..200).map(|seed| WordProblem::generate(5, seed).unwrap().facts.concat()).collect();
    assert_eq!(problems.len(), 200);
}

#[test]
fn kinds_have_their_published_names() {
    for kind in SentenceKind::ALL {
        assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
    }
}

#[test]
fn kinds_by_rule_agree_with_the_word_problems_own() {
    let mut right = 0;
    let mut all = 0;
    for seed in 0..20 {
        for sentence in WordProblem::generate(10, seed).unwrap().chain {
            if sentence.kind != SentenceKind::Filler {
                right += usize::from(SentenceKind::of(&sentence.text) == sentence.kind);
                all += 1;
            }
        }
    }
    assert!(right * 10 >= all * 8, "{right} of {all}");
}

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

/// A stand-in for a tokenizer: four bytes a token.
fn bytes_over_4(text: &str) -> Result<usize, Error> {
    Ok(text.len().div_ceil(4))
}

fn config(task: Task, n_tokens: usize, seed: u64) -> RulerConfig {
    RulerConfig { task, n_tokens, seed, ..Default::default() }
}

fn prompt(task: Task, n_tokens: usize, seed: u64) -> Prompt {
    config(task, n_tokens, seed).prompt(&mut bytes_over_4).unwrap()
}

fn texts<'a>(prompt: &'a Prompt, ranges: &[Range<usize>]) -> Vec<&'a str> {
    ranges.iter().map(|r| &prompt.text[r.clone()]).collect()
}

fn needles(prompt: &Prompt) -> Vec<&str> {
    texts(prompt, &prompt.needles)
}

/// Returns the text before and after the haystack, the same in every prompt of a task.
fn frame(task: Task) -> (&'static str, &'static str) {
    const ONE: &str = "A special magic number is hidden within the following text. Make sure to memorize it. \
                       I will quiz you about the number afterwards.\n ";
    const MANY: &str = "Some special magic numbers are hidden within the following text. Make sure to \
                        memorize it. I will quiz you about the numbers afterwards.\n ";
    match task {
        Task::NiahSingle3 | Task::NiahMultikey3 => {
            ("A special magic uuid is hidden", " mentioned in the provided text is")
        }
        Task::NiahMultivalue | Task::NiahMultiquery => (MANY, " mentioned in the provided text are"),
        Task::Vt => (
            "Memorize and track the chain(s) of variable assignment hidden in the following text.\n ",
            ", they are:",
        ),
        Task::Cwe => ("Below is a numbered list of words. ", " that appear most often in the list are:"),
        Task::Fwe => ("Read the following coded text and track", " frequently appeared words are:"),
        _ => (ONE, " mentioned in the provided text is"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..Default::default() })]

    #[test]
    fn prompts_hold_what_they_say(seed: u64, n_tokens in 1500..20_000_usize) {
        for task in Task::ALL {
            let n_tokens = if task == Task::Cwe { n_tokens.max(5000) } else { n_tokens };
            let p = prompt(task, n_tokens, seed);
            assert_eq!((p.task, p.seed, p.n_tokens), (task, seed, bytes_over_4(&p.text).unwrap()));
            let missing = n_tokens.checked_sub(p.n_tokens).unwrap();
            assert!(missing <= (n_tokens / 100).max(64), "{missing} of {n_tokens}: {task}");
            let (begin, end) = frame(task);
            assert!(p.text.starts_with(begin) && p.text.ends_with(end), "{task}");
            assert!(p.needles.is_sorted_by_key(|r| r.start));
            let needles = needles(&p);
            for answer in &p.answers {
                assert!(needles.iter().any(|n| n.contains(answer.as_str())), "{answer} in {needles:?}");
            }
            assert_eq!(score(&p.answer, &p.answers), 1.0);
            let gives_away = |text: &&str| p.answers.iter().any(|answer| text.contains(answer.as_str()));
            assert!(!texts(&p, &p.distractors).iter().any(gives_away));
            assert!(p.text[p.question.clone()].ends_with(['?', '.']) && p.question.start > p.needles[0].end);
            assert_eq!(&prompt(task, n_tokens, seed), &p);
        }
    }

    #[test]
    fn needles_stand_at_their_depth(seed: u64, i in 0..40_usize) {
        let depth = RulerConfig::depths()[i];
        for task in Task::ALL.into_iter().filter(|t| t.has_depth()) {
            let config = RulerConfig { depth: Some(depth), ..config(task, 16_384, seed) };
            let p = config.prompt(&mut bytes_over_4).unwrap();
            let asked = p.needles.iter().map(|r| r.start as f64 / p.text.len() as f64);
            let nearest = asked.map(|at| (at - depth).abs()).fold(1.0, f64::min);
            assert!(nearest < 0.03, "{task}: {nearest} from {depth}");
            assert_eq!(p.depth, Some(depth));
        }
    }

    #[test]
    fn any_length_gives_a_prompt_or_an_error(
        seed: u64,
        n_tokens in 0..1500_usize,
        depth in prop::option::of(-0.5..1.5_f64),
    ) {
        for task in Task::ALL {
            let made = RulerConfig { depth, ..config(task, n_tokens, seed) }.prompt(&mut bytes_over_4);
            assert!(made.is_err() || made.unwrap().n_tokens <= n_tokens);
        }
    }
}

#[test]
fn niah_prompts_read_as_in_training() {
    let p = prompt(Task::NiahMultikey1, 1000, 3);
    let key = needles(&p)[0]
        .strip_prefix("One of the special magic numbers for ")
        .unwrap()
        .split(" is: ")
        .next()
        .unwrap()
        .to_string();
    let end = format!(
        "\n What is the special magic number for {key} mentioned in the provided text? \
         The special magic number for {key} mentioned in the provided text is"
    );
    assert!(p.text.ends_with(&end), "{}", p.text);
    assert_eq!(p.answer, format!(" {}.", p.answers[0]));
    assert_eq!((p.needles.len(), p.distractors.len(), p.answers[0].len()), (1, 3, 7));
    let haystack = &p.text[p.text.find('\n').unwrap() + 1..p.text.rfind('\n').unwrap()];
    assert!(
        haystack.starts_with(' ')
            && haystack.ends_with('.')
            && !haystack.contains('\n')
            && !haystack.contains("  ")
    );
}

#[test]
fn several_answers_are_asked_in_one_question() {
    let p = prompt(Task::NiahMultiquery, 2000, 0);
    assert_eq!((p.needles.len(), p.answers.len(), p.distractors.len()), (4, 4, 0));
    assert!(
        p.text[p.question.clone()].starts_with("What are all the special magic numbers for "),
        "{}",
        p.text
    );
    assert_eq!(p.answer, format!(" {}.", p.answers.join(", ")));
    let p = prompt(Task::NiahMultivalue, 2000, 0);
    let before_value = |needle: &str| needle.split(" is: ").next().unwrap().to_string();
    assert_eq!(needles(&p).into_iter().map(before_value).collect::<HashSet<_>>().len(), 1);
    assert_eq!((p.needles.len(), p.answers.len()), (4, 4));
}

#[test]
fn haystacks_are_those_of_the_task() {
    let noise = prompt(Task::NiahSingle1, 2000, 1);
    let rest = noise.text.replace(&format!(" {}", needles(&noise)[0]), "");
    let haystack = &rest[rest.find('\n').unwrap() + 1..rest.rfind('\n').unwrap()];
    assert_eq!(haystack.replace(super::super::prose::NOISE, ""), "");
    let full = prompt(Task::NiahMultikey2, 4000, 1);
    let needle_bytes: usize = full.needles.iter().chain(&full.distractors).map(|r| r.len() + 1).sum();
    assert_eq!(needle_bytes, full.text.rfind('\n').unwrap() - full.text.find('\n').unwrap() - 1);
    assert!(full.distractors.len() > 100);
    let uuids = prompt(Task::NiahMultikey3, 4000, 1);
    assert_eq!(uuids.answers[0].len(), 36);
    assert!(!uuids.text.contains("number"));
}

#[test]
fn a_chain_of_variables_is_in_order() {
    let p = prompt(Task::Vt, 3000, 5);
    let lines: Vec<String> = needles(&p).iter().map(|l| l.to_string()).collect();
    assert_eq!((lines.len(), p.answers.len()), (5, 5));
    let value = lines[0].strip_prefix(&format!("VAR {} = ", p.answers[0])).unwrap().trim_end_matches('.');
    assert!(value.len() == 5 && p.text[p.question.clone()].contains(&format!("the value {value} in")));
    for (line, pair) in lines[1..].iter().zip(p.answers.windows(2)) {
        assert_eq!(*line, format!("VAR {} = VAR {}.", pair[1], pair[0]));
    }
    assert!(p.text.ends_with(&format!(", 5 variables are assigned the value {value}, they are:")));
}

#[test]
fn counted_words_are_the_most_frequent() {
    for (task, n_tokens, n_needles) in [(Task::Cwe, 8000, 300), (Task::Cwe, 3000, 60), (Task::Fwe, 3000, 0)] {
        let p = prompt(task, n_tokens, 2);
        let before = &p.text[..p.question.start];
        let list = &before[before.rfind(if task == Task::Cwe { "often.\n" } else { "words. " }).unwrap()..];
        let mut counts = HashMap::new();
        list.split_whitespace()
            .skip(1)
            .filter(|w| !w.contains('.'))
            .for_each(|w| *counts.entry(w).or_insert(0) += 1);
        let mut counts: Vec<(usize, &str)> = counts.into_iter().map(|(w, n)| (n, w)).collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let n = p.answers.len();
        let top: HashSet<&str> = counts[..n].iter().map(|c| c.1).collect();
        assert!(
            p.answers.iter().all(|a| top.contains(a.as_str())),
            "{task}: {:?} among {:?}",
            p.answers,
            &counts[..n + 2]
        );
        assert!(counts[n - 1].0 > counts[n].0);
        assert!(n_needles == 0 || p.needles.len() == n_needles);
        assert_eq!(p.needles.len(), counts[..n].iter().map(|c| c.0).sum::<usize>());
        assert!(needles(&p).iter().all(|w| p.answers.iter().any(|a| a == w)));
    }
}

#[test]
fn an_essay_is_the_haystack_where_prose_would_be() {
    let essay: String = (0..2000).map(|i| format!("Sentence {i} — of an essay?\n")).collect();
    let with = |task, n_tokens| {
        RulerConfig { essay: Some(essay.clone()), ..config(task, n_tokens, 0) }.prompt(&mut bytes_over_4)
    };
    let p = with(Task::NiahSingle2, 4000).unwrap();
    assert!(p.text.contains("afterwards.\n Sentence 0 — of an essay? Sentence 1 —"), "{}", &p.text[..300]);
    assert!(needles(&p)[0].ends_with(&format!("is: {}.", p.answers[0])));
    assert_eq!(with(Task::Vt, 4000).unwrap(), prompt(Task::Vt, 4000, 0));
    let error = with(Task::NiahSingle2, 100_000).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "essay: expected enough for a prompt of 100000 tokens, found 2000 sentences, which make one of 1"
        ),
        "{error}"
    );
    let empty = RulerConfig { essay: Some(String::new()), ..config(Task::NiahSingle2, 4000, 0) };
    assert!(empty.prompt(&mut bytes_over_4).unwrap_err().to_string().contains("0 sentences"));
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let error = |config: RulerConfig| config.prompt(&mut bytes_over_4).unwrap_err().to_string();
    let short = error(config(Task::NiahSingle2, 20, 0));
    assert!(short.contains("at least ") && short.contains("n_tokens of 20"), "{short}");
    let long = error(config(Task::Cwe, 1_000_000, 0));
    assert!(long.starts_with("cwe: expected enough for a prompt of 1000000 tokens, found 8"), "{long}");
    for depth in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(
            error(RulerConfig { depth: Some(depth), ..config(Task::Vt, 4000, 0) })
                .starts_with("depth: expected a share")
        );
    }
    assert!(
        error(RulerConfig { depth: Some(0.5), ..config(Task::Fwe, 4000, 0) })
            .contains("fwe asks for are everywhere")
    );
}

#[test]
fn seeds_give_different_prompts_and_lengths_the_same_needles() {
    for task in Task::ALL {
        assert_ne!(prompt(task, 6000, 0).answers, prompt(task, 6000, 1).answers, "{task}");
    }
    for task in [Task::NiahSingle2, Task::NiahMultikey1, Task::Vt] {
        let short = prompt(task, 2000, 9);
        let long = prompt(task, 9000, 9);
        assert_eq!(
            (&short.answers, short.depth, needles(&short)),
            (&long.answers, long.depth, needles(&long))
        );
    }
}

/// Fails when a new version of fastrand changes prompts: published figures name seeds.
#[test]
fn a_seed_means_the_same_prompt_in_every_version() {
    let drawn =
        Task::ALL.map(|task| prompt(task, 6000, 42)).map(|p| (p.answers[0].clone(), p.depth, p.text.len()));
    let expected: Vec<(String, Option<f64>, usize)> =
        serde_json::from_str(include_str!("../golden/seed_42.json")).unwrap();
    assert_eq!(drawn.as_slice(), expected, "{}", serde_json::to_string(drawn.as_slice()).unwrap());
}

#[test]
fn prompts_and_settings_travel_as_json() {
    let p = prompt(Task::NiahMultikey1, 1000, 3);
    assert_eq!(serde_json::from_str::<Prompt>(&serde_json::to_string(&p).unwrap()).unwrap(), p);
    let read: RulerConfig = serde_json::from_str(r#"{"task": "vt", "seed": 4}"#).unwrap();
    assert_eq!(read, config(Task::Vt, 16_384, 4));
    assert!(serde_json::from_str::<RulerConfig>(r#"{"tusk": "vt"}"#).is_err());
}

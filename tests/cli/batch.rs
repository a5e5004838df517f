//! Many prompts: what the tables hold, what is wrong with a line, and what is left of a run that was killed.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use serde_json::json;
use streamtrace::{
    Trace,
    study::{Study, Tables},
};
use tempfile::TempDir;

use crate::{MODEL, NEEDLE, object, stderr, streamtrace};

fn arguments<'a>(prompts: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let [prompts, out] = [prompts, out].map(|path| path.to_str().unwrap());
    let fixed = ["batch", "--device", "cpu", "--model", MODEL, "--prompts", prompts, "--out", out];
    [&fixed[..], more].concat()
}

#[track_caller]
fn batch(prompts: &Path, out: &Path, more: &[&str]) -> Output {
    let output = streamtrace(&arguments(prompts, out, more));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

fn start(prompts: &Path, out: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamtrace"));
    command.args(arguments(prompts, out, more)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn tables_hold_what_traces_say() {
    let folder = TempDir::new().unwrap();
    let (prompts, out) = (folder.path().join("prompts.jsonl"), folder.path().join("study"));
    let sentence = "She read the letter twice. ".repeat(12);
    let lines = [
        json!({"id": "needle", "prompt": NEEDLE.text, "answer": NEEDLE.answer, "spans": {"answer": NEEDLE.answer.trim()}}),
        json!({"id": "chain", "prompt": sentence}),
        json!({"id": "needle", "prompt": "again"}),
        json!({"id": "lost", "prompt": "A short one.", "spans": {"who": "nobody"}}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&prompts, format!("{text}no JSON\n")).unwrap();
    let counted = object(&batch(&prompts, &out, &["--json", "--keep", "traces", "--exhaustive"]));
    assert_eq!((&counted["traced"], &counted["failed"]), (&2.into(), &3.into()));

    let study = Study::open(&out).unwrap();
    let mut ids: Vec<&str> = study.prompts.iter().map(|row| row.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["chain", "line 3", "line 5", "lost", "needle"]);
    let row = |id: &str| study.prompts.iter().find(|row| row.id == id).unwrap();
    let error = |id: &str| row(id).error.clone().unwrap_or_default();
    assert!(error("line 3").contains("line 1") && error("line 5").contains("line 5"), "{:?}", study.prompts);
    assert!(error("lost").contains("nobody"), "{}", error("lost"));
    let needle = row("needle");
    assert!(needle.answer_survives == Some(true) && needle.answer_logprob.unwrap() > -0.5, "{needle:?}");
    assert_eq!((row("chain").answer_survives, row("chain").model.as_deref()), (None, Some("needle-6m")));

    // The rows are those of the trace beside them.
    let trace = Trace::open(out.join("traces/needle.trace")).unwrap();
    assert_eq!(needle.n_tokens, Some(trace.n_tokens()));
    let heads: Vec<_> = study.heads.iter().filter(|(id, _)| id == "needle").map(|(_, row)| row).collect();
    assert_eq!(heads.len(), trace.n_layers() * trace.n_heads());
    for head in heads {
        assert_eq!(head.blocks, trace.budgets(head.layer).unwrap().top_k(head.head));
    }
    let retrieval = study.retrieval_heads("answer").unwrap();
    let best = retrieval.ranking()[0];
    assert!(retrieval.n_prompts == 1 && best.score > 0.9, "{best:?}");
    let readers = study.readers("answer").unwrap();
    assert!(readers[0].1.mean > 0.5 && readers[0].1.mean <= 1.001, "{:?}", readers[0]);
    assert!(study.readers("who").unwrap_err().to_string().contains("answer"));
    let ranks = |of: &str| {
        study.anchors.iter().filter(|(id, _)| id == of).map(|(_, row)| row.rank).collect::<Vec<_>>()
    };
    assert_eq!((ranks("chain"), ranks("needle")), (vec![1, 2], vec![1, 2, 3, 4, 5]));
    assert!(study.anchors_by_kind()["fact_retrieval"].n > 1, "{:?}", study.anchors_by_kind());

    // What is there is not run again.
    let again = object(&batch(&prompts, &out, &["--json", "--exhaustive"]));
    assert_eq!((&again["before"], &again["traced"]), (&5.into(), &0.into()));
}

#[test]
fn a_killed_run_goes_on_and_shards_share_a_folder() {
    let folder = TempDir::new().unwrap();
    let (prompts, out) = (folder.path().join("prompts.jsonl"), folder.path().join("study"));
    let n = 16;
    let line = |i: usize| json!({"id": format!("p{i}"), "prompt": format!("Number {i}. {}", "A word and a word. ".repeat(20))});
    std::fs::write(&prompts, (0..n).map(|i| format!("{}\n", line(i))).collect::<String>()).unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..4 {
        let mut run = start(&prompts, &out, &[]);
        sleep(Duration::from_millis(random.u64(300..1200)));
        run.kill().unwrap();
        run.wait().unwrap();
        // What is there is whole.
        if out.join("anchors").exists() {
            Study::open(&out).unwrap();
        }
    }
    let mut shards = ["1/2", "2/2"].map(|shard| start(&prompts, &out, &["--shard", shard]));
    assert!(shards.iter_mut().all(|shard| shard.wait().unwrap().success()));
    let study = Study::open(&out).unwrap();
    assert!(study.prompts.iter().all(|row| row.error.is_none()), "{:?}", study.prompts);
    let mut ids: Vec<&str> = study.prompts.iter().map(|row| row.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), study.prompts.len(), study.heads.len()), (n, n, n * 48));
    let files = std::fs::read_dir(Tables::open(&out).unwrap().folder().join("heads")).unwrap().count();
    assert_eq!(files, n);
}

#[test]
fn a_shard_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    for (shard, status, told) in [("9/8", 2, "shards 1 to 8"), ("/4", 1, "SLURM_ARRAY_TASK_ID")] {
        let output = streamtrace(&arguments(Path::new("none.jsonl"), folder.path(), &["--shard", shard]));
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
}

#[test]
fn prompts_at_once_are_each_traced_once() {
    let folder = TempDir::new().unwrap();
    let (prompts, out) = (folder.path().join("prompts.jsonl"), folder.path().join("study"));
    let line =
        |i: usize| json!({"id": format!("p{i}"), "prompt": format!("Number {i} of a few short prompts.")});
    let text: String = (0..5).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(&prompts, format!("{text}no JSON\n")).unwrap();
    let counted = |more: &[&str]| object(&batch(&prompts, &out, &[&["--json"], more].concat()));
    let first = counted(&["--at-once", "3"]);
    assert_eq!((&first["before"], &first["traced"], &first["failed"]), (&0.into(), &5.into(), &1.into()));
    let mut ids: Vec<_> = Study::open(&out).unwrap().prompts.into_iter().map(|row| row.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["line 6", "p0", "p1", "p2", "p3", "p4"]);
    let merged = folder.path().join("merged");
    let again = counted(&["--at-once", "2", "--merged", merged.to_str().unwrap()]);
    let [study, merged] = [&out, &merged].map(|folder| Study::open(folder).unwrap());
    assert!(
        merged.prompts == study.prompts && merged.heads == study.heads && merged.anchors == study.anchors
    );
    assert_eq!((&again["before"], &again["traced"]), (&6.into(), &0.into()));
}

use std::{error::Error, path::Path};

use streamtrace::{
    DeviceChoice, LoadOptions, Search, Span, StreamConfig, Trace, Tracer,
    analysis::{SentenceAttention, auc},
    tasks::{ReasoningPrompt, SentenceKind, WordProblem},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let options = LoadOptions { model: root.join("models/needle-6m"), device: DeviceChoice::Cpu, memory: None };
    let tracer = Tracer::load_with(options)?;
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let mode = args[0].as_str();
    let n: u64 = args[1].parse()?;
    let tokens: usize = args[2].parse()?;
    let mut all: Vec<Vec<(f64, bool)>> = vec![Vec::new(); 48];
    let mut held: Vec<Vec<(f64, bool)>> = vec![Vec::new(); 48];
    for seed in 0..n {
        let problem = WordProblem::generate(12 + (seed as usize * 5) % 13, 100 + seed)?;
        let prompt = problem.prompt(tokens, &mut |t| tracer.count_tokens(t))?;
        let start = tracer.count_tokens(&prompt.text[..prompt.chain[0].start - 1])?;
        let mut config = StreamConfig {
            sink_blocks: 1,
            local_blocks: 5,
            pruned: Some(0.97),
            focus: Some(start..tracer.count_tokens(&prompt.text)?),
            ..Default::default()
        };
        match mode {
            "exhaustive" => config.search = Search::Exhaustive,
            "dense" => {
                config.pruned = None;
                config.top_k = 1 << 20;
            }
            _ => {}
        }
        let t0 = std::time::Instant::now();
        let trace = tracer.with(config).trace(&prompt.text)?;
        let spans: Vec<Span> =
            prompt.chain.iter().map(|r| Ok(trace.covering(r.clone())?.span)).collect::<Result<_, streamtrace::Error>>()?;
        let t1 = t0.elapsed();
        let into = if seed % 2 == 0 { &mut all } else { &mut held };
        for l in 0..6 {
            for h in 0..8 {
                let a = trace.sentence_attention(l, h, &spans)?;
                for (i, s) in problem.chain.iter().enumerate() {
                    for (j, t) in problem.chain[..i].iter().enumerate() {
                        if matches!(t.kind, SentenceKind::ProblemSetup | SentenceKind::PlanGeneration) {
                            continue;
                        }
                        into[l * 8 + h].push((a.get(i, j).unwrap() as f64, s.depends_on.contains(&j)));
                    }
                }
            }
        }
        {
            use std::io::Write;
            let mut f = std::fs::OpenOptions::new().create(true).append(true).open(format!("/tmp/pairs_{mode}_{tokens}.csv"))?;
            let heads: Vec<_> = (0..48).map(|h| trace.sentence_attention(h / 8, h % 8, &spans)).collect::<Result<_, _>>()?;
            for (i, s) in problem.chain.iter().enumerate() {
                for (j, t) in problem.chain[..i].iter().enumerate() {
                    let v: Vec<String> = heads.iter().map(|a| format!("{:.6}", a.get(i, j).unwrap())).collect();
                    // mean over queries of largest over keys
                    let m: Vec<String> = (0..48)
                        .map(|h| {
                            let best = spans[i]
                                .range()
                                .map(|q| {
                                    trace
                                        .attention_row(h / 8, h % 8, q)
                                        .unwrap()
                                        .iter()
                                        .filter(|(k, _)| spans[j].range().contains(k))
                                        .map(|x| x.1)
                                        .sum::<f32>()
                                })
                                .fold(0.0f32, f32::max);
                            format!("{best:.5}")
                        })
                        .collect();
                    writeln!(
                        f,
                        "{seed},{i},{j},{},{:?},{:?},{},{}",
                        s.depends_on.contains(&j) as u8,
                        s.kind,
                        t.kind,
                        v.join(","),
                        m.join(",")
                    )?;
                }
            }
        }
        println!(
            "{seed}: {} tokens, chain {} sentences, pruned {:.3} k {} {:.1}s {:.1}s",
            trace.n_tokens(),
            spans.len(),
            trace.summary().pruned,
            trace.summary().config.top_k,
            t1.as_secs_f64(),
            t0.elapsed().as_secs_f64()
        );
    }
    let mut ranked: Vec<(f64, usize)> = all.iter().enumerate().map(|(i, c)| (auc(c).unwrap(), i)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (a, i) in &ranked[..12] {
        println!("{}.{} {a:.3} held {:.3}", i / 8, i % 8, auc(&held[*i]).unwrap());
    }
    for n in [1, 2, 3, 4, 5, 6, 8] {
        let mean: Vec<(f64, bool)> =
            (0..held[0].len()).map(|c| (ranked[..n].iter().map(|(_, i)| held[*i][c].0).sum::<f64>(), held[0][c].1)).collect();
        println!("mean of {n}: {:.3}", auc(&mean).unwrap());
    }
    Ok(())
}

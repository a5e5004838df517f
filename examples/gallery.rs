//! Draws every kind of figure, from synthetic traces, into `target/gallery`:
//! `cargo run --features engine --example gallery`

use streamtrace::view::plot::Figure;

#[path = "../src/analysis/synthetic.rs"]
mod findings;
#[path = "../src/trace/synthetic.rs"]
mod synthetic;

use findings::{made_up_anchors, made_up_matrix};
use synthetic::{Shape, trace};

fn main() {
    maps();
    odd_maps();
    heat_maps();
    overviews();
    anchors_matrices_and_routes();
}

fn folder() -> std::path::PathBuf {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/gallery");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn save(name: &str, figure: &Figure) {
    let folder = folder();
    figure.save(folder.join(name).with_extension("svg")).unwrap();
    figure.save(folder.join(name).with_extension("png")).unwrap();
    println!("{name}: {:?}, {} bytes", figure.size(), figure.svg().len());
}

fn maps() {
    let t = trace(&Shape { n_tokens: 16_384, n_layers: 2, n_heads: 4, top_k: 100, ..Default::default() });
    let map = t.attention_map(1, 3).unwrap();
    save("map", &map.figure());
    let marked = map.mark("needle", 1632..1650).unwrap().mark("question", 16_300..16_360).unwrap();
    save("map-marked", &marked.figure());
    save("map-zoomed", &marked.clone().queries(15_000..16_384).unwrap().keys(1500..1800).unwrap().figure());
    save("map-blocks", &marked.clone().queries(15_000..15_128).unwrap().keys(1600..1700).unwrap().figure());
    let focused = marked.clone().queries(16_352..16_384).unwrap();
    save("map-focus", &focused.figure());
    save("map-texts", &focused.clone().keys(1620..1670).unwrap().figure());
    save("map-row", &focused.queries(t.output()).unwrap().keys(1620..1680).unwrap().figure());
    let sentences = (0..60).try_fold(t.attention_map(0, 0).unwrap(), |m, i| {
        m.mark(&format!("sentence {i}"), i * 270..i * 270 + 250)
    });
    save("map-sentences", &sentences.unwrap().figure());
}

fn odd_maps() {
    for (name, n_tokens, window) in [
        ("one", 1, None),
        ("few", 20, None),
        ("short", 157, None),
        ("window", 4000, Some(512)),
        ("long", 1 << 20, None),
    ] {
        let top_k = if n_tokens > 100_000 { 2 } else { 16 };
        let t = trace(&Shape { n_tokens, window, top_k, n_layers: 1, n_heads: 1, ..Default::default() });
        save(&format!("odd-{name}"), &t.attention_map(0, 0).unwrap().figure());
    }
}

fn heat_maps() {
    let trace = |n_layers, n_heads| trace(&Shape { n_layers, n_heads, n_tokens: 300, ..Default::default() });
    save("recall", &trace(6, 8).recall_map().unwrap().figure());
    save("recall-large", &trace(32, 32).recall_map().unwrap().figure());
    let mut scores = trace(5, 3).recall_map().unwrap();
    scores.row_name = "depth".into();
    scores.column_name = "tokens".into();
    scores.rows = ["0 %", "25 %", "50 %", "75 %", "100 %"].map(String::from).to_vec();
    scores.columns = ["4,096", "16,384", "131,072"].map(String::from).to_vec();
    scores.values[2][1] = None;
    scores.values[3][2] = Some(0.1);
    save("scores", &scores.figure());
}

fn overviews() {
    let small = Shape { n_tokens: 4096, n_layers: 6, n_heads: 8, top_k: 24, ..Default::default() };
    save("overview", &trace(&small).overview().unwrap());
    save(
        "overview-large",
        &trace(&Shape { n_layers: 32, n_heads: 32, n_tokens: 2048, ..small }).overview().unwrap(),
    );
    save(
        "overview-one",
        &trace(&Shape { n_layers: 1, n_heads: 1, ..Default::default() }).overview().unwrap(),
    );
}

fn anchors_matrices_and_routes() {
    for n in [7, 30, 400] {
        let anchors =
            made_up_anchors(n, "A sentence of some words that says that 3 + 4 = 7 marbles are in the box");
        save(&format!("anchors-{n}"), &anchors.figure());
        save(&format!("matrix-{n}"), &made_up_matrix(n).figure());
        save(&format!("kurtosis-{n}"), &anchors.kurtosis_figure());
        std::fs::write(folder().join(format!("anchors-{n}.html")), anchors.html()).unwrap();
    }
    let t = trace(&Shape { n_tokens: 16_384, n_layers: 32, n_heads: 4, top_k: 40, ..Default::default() });
    save("routes-deep", &t.routes(1630..1650, t.output()).unwrap().figure());
}

//! The picture of `--out`: scores by depth and length.

use streamtrace::{
    view::plot::{Figure, HeatMap, SideBySide},
    words::numbers::thousands,
};

use super::{
    Row,
    tally::{mean, median},
};

/// Draws the scores of one task, a column for each row of the table; those of dense attention beside them if
/// it was run. Each row has the same number of prompts at each depth.
pub fn scores(model: &str, depths: &[Option<f64>], rows: &[Row]) -> Figure {
    let n_prompts = rows[0].tally.scores.len() / depths.len();
    let title = format!("{} · {model}", rows[0].task);
    let prompts = format!("{n_prompts} prompt{} a cell", if n_prompts == 1 { "" } else { "s" });
    let map = |title: &str, facts: String, of: fn(&Row) -> &[f64]| HeatMap {
        title: title.into(),
        facts,
        measure: "RULER's score: share of the references in what the model writes".into(),
        row_name: "depth".into(),
        rows: depths.iter().flatten().map(|depth| format!("{:.0} %", 100.0 * depth)).collect(),
        column_name: "tokens".into(),
        columns: rows.iter().map(|row| thousands(row.n_tokens as u64)).collect(),
        values: (0..depths.len())
            .map(|depth| rows.iter().map(|row| mean(&of(row)[depth * n_prompts..][..n_prompts])).collect())
            .collect(),
    };
    let pruned = rows.iter().filter_map(|row| median(&row.tally.pruned)).fold(f64::INFINITY, f64::min);
    let search = format!("{} search, at least {:.1} % pruned", rows[0].search, 100.0 * pruned);
    if rows[0].tally.dense_scores.is_empty() {
        return map(&title, format!("{search}, {prompts}"), |row| &row.tally.scores).figure();
    }
    let maps = vec![
        map("dense attention", "every key".into(), |row| &row.tally.dense_scores),
        map("pruned", search, |row| &row.tally.scores),
    ];
    SideBySide { title, facts: prompts, maps }.figure()
}

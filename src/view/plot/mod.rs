//! Figures of traces: SVG with attributes only, legible on its own, small enough to keep in a notebook.
//!
//! In every map rows are queries, top to bottom, and columns are keys, left to right.

mod anchor_chart;
mod anchor_rows;
mod anchor_text;
mod attention_map;
mod bitmap;
mod broken_axis;
mod canvas;
mod causal_chart;
mod expert_strip;
mod figure;
mod grid;
mod head_scores;
mod heat_map;
mod labels;
mod last_row;
mod layout;
mod legend;
mod overview;
mod reading;
mod recall_map;
mod retrieval_map;
mod route_bundles;
mod route_graph;
mod rulers;
mod sentence_kinds;
mod sentence_matrix;
mod side_by_side;
#[cfg(feature = "parquet")]
mod study_chart;
mod svg;
mod theme;

pub use attention_map::AttentionMap;
pub use figure::Figure;
pub use heat_map::HeatMap;
pub(crate) use overview::overview_facts;
pub use side_by_side::SideBySide;

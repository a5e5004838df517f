//! Pictures of traces: SVG with attributes only, legible on its own, small enough to keep in a notebook.
//!
//! In every map rows are queries, top to bottom, and columns are keys, left to right.

mod anchor_chart;
mod anchor_text;
mod attention_map;
mod bitmap;
mod broken_axis;
mod canvas;
mod causal_chart;
mod figure;
#[cfg(test)]
mod gallery;
mod grid;
mod heat_map;
mod labels;
mod layout;
mod legend;
mod overview;
mod raster;
mod recall_map;
mod route_graph;
mod rulers;
mod sentence_kinds;
mod sentence_matrix;
#[cfg(test)]
pub(crate) mod synthetic;
mod theme;

pub use attention_map::AttentionMap;
pub use figure::Figure;
pub(crate) use figure::escaped;
pub use heat_map::HeatMap;
pub(crate) use labels::{count, percent, shortened, thousands};
pub(crate) use overview::overview_facts;
#[cfg(feature = "engine")]
pub use raster::png;

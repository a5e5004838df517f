//! The kernels' sources. No file includes another: each kernel is the concatenation of the files that it
//! needs.

macro_rules! text {
    ($file:literal) => {
        include_str!(concat!("../../../kernels/", $file, ".cu"))
    };
}

const PRELUDE: &str = text!("prelude");
const PRELUDE_SM90: &str = text!("prelude_sm90");
const WARP: &str = text!("warp");
const ACTIVATIONS: &str = text!("activations");
const GROUPED_ROWS: &str = text!("grouped_rows");
const TILES: &str = text!("tiles");
const BLOCKS: &str = text!("blocks");
const ATTENTION_TILES: &str = text!("attention_tiles");
const RECEIVED: &str = text!("received");
const ATTENTION_ROWS: &str = text!("attention_rows");
const SOFT_CAP: &str = text!("soft_cap");
const SEARCH: &str = text!("search");
const SCORE: &str = text!("score");
const ROWS: &str = text!("rows");
const QUERY_BLOCK: &str = text!("query_block");
const RANK: &str = text!("rank");
const SEGMENTS: &str = text!("segments");
const SEARCH_HIERARCHICAL: &str = text!("search_hierarchical");

/// Kernels that [`source`] knows.
#[cfg(test)]
pub const FILES: [&str; 21] = [
    "elementwise",
    "experts",
    "grouped",
    "grouped_sm90",
    "rms_norm",
    "rope",
    "pyramid",
    "clusters",
    "written",
    "dequantize",
    "proximity",
    "sentences",
    "recall",
    "sample",
    "search_exhaustive",
    "search_hierarchical",
    "attention",
    "attention_sm90",
    "attention_record",
    "attention_record_sm90",
    "attention_recorded",
];

/// Returns the whole source of a kernel.
pub fn source(file: &str) -> String {
    let parts: &[&str] = match file {
        "elementwise" => &[ACTIVATIONS, text!("elementwise")],
        "experts" => &[text!("experts")],
        "grouped" => &[TILES, ACTIVATIONS, GROUPED_ROWS, text!("grouped")],
        "grouped_sm90" => &[PRELUDE_SM90, TILES, ACTIVATIONS, GROUPED_ROWS, text!("grouped_sm90")],
        "rms_norm" => &[text!("rms_norm")],
        "rope" => &[text!("rope")],
        "pyramid" => &[text!("pyramid")],
        "clusters" => &[text!("clusters")],
        "written" => &[TILES, ROWS, text!("written")],
        "dequantize" => &[text!("dequantize")],
        "proximity" => &[BLOCKS, text!("proximity")],
        "sentences" => &[text!("sentences")],
        "recall" => &[text!("recall")],
        "search_exhaustive" => {
            &[TILES, BLOCKS, SOFT_CAP, SEARCH, ROWS, QUERY_BLOCK, SCORE, SEGMENTS, text!("search_exhaustive")]
        }
        "sample" => &[TILES, BLOCKS, SOFT_CAP, SEARCH, ROWS, QUERY_BLOCK, SCORE, SEGMENTS, text!("sample")],
        "search_hierarchical" => {
            &[TILES, BLOCKS, SOFT_CAP, SEARCH, ROWS, QUERY_BLOCK, SCORE, RANK, SEARCH_HIERARCHICAL]
        }
        "attention" => {
            &[TILES, BLOCKS, SOFT_CAP, ATTENTION_ROWS, ROWS, QUERY_BLOCK, ATTENTION_TILES, text!("attention")]
        }
        "attention_sm90" => &[PRELUDE_SM90, TILES, BLOCKS, SOFT_CAP, ATTENTION_ROWS, text!("attention_sm90")],
        "attention_record" => {
            &[TILES, BLOCKS, SOFT_CAP, ATTENTION_ROWS, ROWS, QUERY_BLOCK, RECEIVED, text!("attention_record")]
        }
        "attention_recorded" => &[
            TILES,
            BLOCKS,
            SOFT_CAP,
            ATTENTION_ROWS,
            ROWS,
            QUERY_BLOCK,
            ATTENTION_TILES,
            RECEIVED,
            text!("attention_recorded"),
        ],
        "attention_record_sm90" => {
            &[PRELUDE_SM90, TILES, BLOCKS, SOFT_CAP, ATTENTION_ROWS, text!("attention_record_sm90")]
        }
        _ => &[],
    };
    [&[PRELUDE, WARP], parts].concat().join("\n")
}

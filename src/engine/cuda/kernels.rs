//! The kernels' sources. No file includes another: each kernel is the files that it needs, one behind the other.

const PRELUDE: &str = include_str!("../../../kernels/prelude.cu");
const PRELUDE_SM90: &str = include_str!("../../../kernels/prelude_sm90.cu");
const SEARCH: &str = include_str!("../../../kernels/search.cu");
const SCORE_WARPS: &str = include_str!("../../../kernels/score_warps.cu");
const SCORE_WARPGROUPS: &str = include_str!("../../../kernels/score_warpgroups.cu");
const SEARCH_HIERARCHICAL: &str = include_str!("../../../kernels/search_hierarchical.cu");

/// The whole source of a kernel.
pub fn source(file: &str) -> String {
    let parts: &[&str] = match file {
        "elementwise" => &[include_str!("../../../kernels/elementwise.cu")],
        "rms_norm" => &[include_str!("../../../kernels/rms_norm.cu")],
        "rope" => &[include_str!("../../../kernels/rope.cu")],
        "pyramid" => &[include_str!("../../../kernels/pyramid.cu")],
        "clusters" => &[include_str!("../../../kernels/clusters.cu")],
        "written" => &[include_str!("../../../kernels/written.cu")],
        "proximity" => &[include_str!("../../../kernels/proximity.cu")],
        "sentences" => &[include_str!("../../../kernels/sentences.cu")],
        "recall" => &[include_str!("../../../kernels/recall.cu")],
        "search_exhaustive" => &[SEARCH, SCORE_WARPS, include_str!("../../../kernels/search_exhaustive.cu")],
        "search_hierarchical" => &[SEARCH, SCORE_WARPS, SEARCH_HIERARCHICAL],
        "search_hierarchical_sm90" => &[PRELUDE_SM90, SEARCH, SCORE_WARPGROUPS, SEARCH_HIERARCHICAL],
        "attention" => &[include_str!("../../../kernels/attention.cu")],
        "attention_sm90" => &[PRELUDE_SM90, include_str!("../../../kernels/attention_sm90.cu")],
        "attention_record" => &[include_str!("../../../kernels/attention_record.cu")],
        "attention_record_sm90" => &[PRELUDE_SM90, include_str!("../../../kernels/attention_record_sm90.cu")],
        _ => &[],
    };
    [&[PRELUDE], parts].concat().join("\n")
}

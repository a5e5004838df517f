//! Which kernels take which parameters, and of what size.

use cudarc::driver::DeviceRepr;

use super::{
    expert_params::{
        GatherParams, GroupedParams, ListParams, RouteParams, ScatterParams, SigmoidParams, SumParams,
    },
    params::{
        Anchors, AppendParams, AttentionParams, AttentionPartsParams, AttentionRecordedParams,
        AttentionWithoutParams, BiasParams, ClampedParams, ClusterParams, DequantizeParams, ExhaustiveParams,
        FiniteParams, Focus, GramParams, Hidden, HistogramParams, LengthsParams, Mask, Nodes, OnSinkParams,
        PairParams, Parts, ProximityParams, PyramidParams, RecallParams, RecordParams, RmsNormParams,
        RopeParams, Rows, Rule, SampleParams, SampleRecallParams, SearchParams, SentenceParams, Sizes,
        VerticalParams, WrittenOfBlocksParams, WrittenParams,
    },
    pointer::{DevicePointer, TensorMap},
};

/// The one argument of some kernels.
///
/// # Safety
/// The structure must have the fields of that of the same name in `kernels/`, and each kernel of
/// [`ENTRIES`](Self::ENTRIES) must take it.
pub unsafe trait KernelParams: DeviceRepr {
    const ENTRIES: &'static [&'static str];
}

macro_rules! kernel_params {
    ($($params:ty, $n_bytes:literal: $($entry:literal),+;)+) => {$(
        // SAFETY: plain numbers and addresses, laid out as C does; the test below compares the fields with
        // the kernels'.
        unsafe impl DeviceRepr for $params {}
        // SAFETY: as above; these kernels take it.
        unsafe impl KernelParams for $params {
            const ENTRIES: &'static [&'static str] = &[$($entry),+];
        }
        const _: () = assert!(size_of::<$params>() == $n_bytes);
    )+};
}

kernel_params! {
    AttentionParams<DevicePointer<u16>>, 96: "attention_sparse", "attention_dense";
    AttentionParams<TensorMap>, 512: "attention_sparse", "attention_dense";
    AttentionWithoutParams, 112: "attention_without", "attention_dense_without";
    AttentionPartsParams, 128: "attention_sparse_parts", "attention_dense_parts", "attention_of_parts";
    RecordParams<DevicePointer<u16>>, 136: "attention_record";
    RecordParams<TensorMap>, 384: "attention_record";
    AttentionRecordedParams, 240: "attention_recorded";
    SearchParams, 128: "search_hierarchical";
    ExhaustiveParams, 96: "exhaustive_norms", "exhaustive_scores", "exhaustive_select";
    SampleParams, 56: "sample_norms", "sample_masses";
    HistogramParams, 56: "sample_histogram";
    SampleRecallParams, 64: "sample_recall";
    PyramidParams, 48: "pyramid_spans", "pyramid_top";
    ClusterParams, 56: "clusters_of_blocks", "clusters_of_nodes";
    ProximityParams, 104: "proximity";
    GramParams, 24: "gram";
    WrittenParams, 32: "written";
    WrittenOfBlocksParams, 32: "written_of_blocks";
    SentenceParams, 32: "sentences_of_tokens";
    VerticalParams, 40: "vertical_scores";
    RecallParams, 40: "recall";
    OnSinkParams, 40: "on_sink";
    PairParams, 32: "swiglu", "geglu", "add";
    BiasParams, 32: "add_bias";
    AppendParams, 56: "append";
    FiniteParams, 24: "is_finite";
    RmsNormParams, 40: "rms_norm", "rms_norm_of_few";
    LengthsParams, 24: "lengths";
    RopeParams, 72: "rope";
    ClampedParams, 40: "clamped_swiglu";
    RouteParams, 88: "route";
    ListParams, 56: "rows_by_expert";
    GatherParams, 32: "gather_rows";
    ScatterParams, 40: "add_scattered";
    SumParams, 40: "sum_of_experts";
    GroupedParams, 64: "grouped_gate", "grouped_down";
    SigmoidParams, 32: "times_sigmoid";
    DequantizeParams, 40: "dequantize";
}

const _: () = assert!(size_of::<TensorMap>() == 128 && align_of::<TensorMap>() == 64);
const _: () = assert!(size_of::<Mask>() == 24 && size_of::<Rows>() == 8 && size_of::<Sizes>() == 12);
const _: () = assert!(size_of::<Hidden>() == 16 && size_of::<Parts>() == 24);
const _: () = assert!(size_of::<Focus>() == 16 && size_of::<Anchors>() == 24);
const _: () = assert!(size_of::<Rule>() == 8 && size_of::<Nodes>() == 32);

#[cfg(test)]
mod tests {
    use crate::engine::cuda::kernels;

    /// Returns the names of the fields of every structure in `source` whose opening line `opens` recognises.
    fn structures(source: &str, opens: &str) -> Vec<(String, String)> {
        let bodies =
            source.split(opens).skip(1).filter_map(|rest| rest.split_once('}').map(|(body, _)| body));
        let named = bodies.filter_map(|body| body.split_once('{'));
        named
            .map(|(name, body)| (name.split('<').next().unwrap_or(name).trim().into(), body.into()))
            .collect()
    }

    fn rust_fields(body: &str) -> Vec<String> {
        let fields = body.lines().filter_map(|line| line.trim().strip_prefix("pub "));
        fields.filter_map(|field| Some(field.split_once(':')?.0.into())).collect()
    }

    fn kernel_fields(body: &str) -> Vec<String> {
        let code: String = body.lines().map(|line| line.split("//").next().unwrap_or("")).collect();
        // A method ends the fields.
        let declared = code.split("DEVICE").next().unwrap_or("").to_string();
        let names =
            declared.split([',', ';']).filter_map(|one| one.split([' ', '*']).rfind(|word| !word.is_empty()));
        names.map(|name| name.split('[').next().unwrap_or(name).into()).collect()
    }

    #[test]
    fn fields_are_those_of_the_kernels_in_their_order() {
        let ours = [include_str!("params.rs"), include_str!("expert_params.rs")].concat();
        let ours = structures(&ours, "pub struct ");
        let mut n_compared = 0;
        for file in kernels::FILES {
            for (name, body) in structures(&kernels::source(file), "\nstruct ") {
                let Some((_, same)) = ours.iter().find(|(ours, _)| *ours == name) else { continue };
                assert_eq!(rust_fields(same), kernel_fields(&body), "{name} of {file}");
                n_compared += 1;
            }
        }
        assert!(n_compared > 40, "{n_compared}");
    }
}

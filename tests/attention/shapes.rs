//! Layers of every shape: random prompts, block sizes, groups of heads, head sizes, windows, soft caps and
//! searches.

use proptest::prelude::*;
use streamtrace::{
    Estimate, Search, StreamConfig,
    engine::{device::AttentionShape, peers::Parts},
    trace::{Blocks, Span},
};

use crate::{layer::Layer, naive::assert_close};

fn searches() -> impl Strategy<Value = Search> {
    let estimates = [Estimate::First, Estimate::Middle, Estimate::MeanSpread, Estimate::TwoMeans]
        .map(Search::Hierarchical);
    prop::sample::select(
        [&[Search::Exhaustive, Search::Window, Search::Random { seed: 3 }][..], &estimates].concat(),
    )
}

/// Makes settings that keep `extra` blocks beside those that are always kept.
fn settings() -> impl Strategy<Value = StreamConfig> {
    let sizes = prop::sample::select(vec![
        (1, 1),
        (32, 8),
        (64, 16),
        (9, 3),
        (2, 8),
        (5, 5),
        (40, 4),
        (16, 1),
        (128, 64),
    ]);
    let descent =
        (0..8usize, prop::sample::select(vec![2, 4, 8]), any::<bool>(), prop::sample::select(vec![0, 1, 70]));
    (sizes, 0..3usize, 0..4usize, 0..8usize, searches(), descent).prop_map(
        |((bq, bk), sink, local, extra, search, descent)| {
            let (beam, split, rescore, exact_queries) = descent;
            let sizes = StreamConfig {
                block_size_q: bq,
                block_size_k: bk,
                sink_blocks: sink,
                local_blocks: local,
                ..Default::default()
            };
            StreamConfig {
                top_k: sizes.always_kept() + extra,
                search,
                beam,
                split,
                rescore,
                exact_queries,
                ..sizes
            }
        },
    )
}

/// Picks heads in groups of 1 to 8, of the sizes that models have, and of odd ones.
fn shapes() -> impl Strategy<Value = AttentionShape> {
    let head_dims = prop::sample::select(vec![1, 2, 3, 7, 33, 64, 67, 80, 96, 128, 129, 192, 256]);
    let prompt = (1..200usize, prop::option::of(1..150usize), 1..40usize, any::<[prop::sample::Index; 2]>());
    let sinks = prop::option::of(-3.0..6.0f32);
    let caps = prop::option::of(prop::sample::select(vec![0.5f32, 50.0]));
    (prompt, 1..4usize, 1..9usize, head_dims, (caps, sinks), settings()).prop_map(
        |(prompt, n_kv_heads, group, head_dim, (soft_cap, sink), config)| {
            let (n_tokens, window, n_sentence, ends) = prompt;
            let blocks = Blocks {
                n_tokens,
                block_size_q: config.block_size_q,
                block_size_k: config.block_size_k,
                window,
            };
            let [a, b] = ends.map(|end| end.index(n_tokens + 1));
            AttentionShape {
                blocks,
                parts: Parts::default(),
                capacity: n_tokens,
                n_heads: n_kv_heads * group,
                n_kv_heads,
                head_dim,
                soft_cap,
                // Each head has another one.
                sinks: sink
                    .iter()
                    .flat_map(|sink| (0..n_kv_heads * group).map(move |head| sink - head as f32))
                    .collect(),
                config,
                focus: Span::from(a.min(b)..a.max(b)),
                sentences: (0..n_tokens)
                    .step_by(n_sentence)
                    .map(|t| Span::from(t..(t + n_sentence).min(n_tokens)))
                    .collect(),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_output_and_every_record_is_the_definition(shape in shapes()) {
        Layer::random(shape).assert_is_the_definition();
    }

    /// If all keys are equal, a query's output is the mean of the values that it may see.
    #[test]
    fn equal_keys_share_attention_equally(shape in shapes(), key in prop::sample::select(vec![0.0f32, 1.0, 65504.0, 1e-38, 1e15])) {
        let mut layer = Layer::random(shape);
        layer.shape.sinks = [].into();
        layer.heads.iter_mut().for_each(|head| (head.sink, _) = (None, head.keys.fill(key)));
        let (outputs, record) = layer.run();
        let blocks = layer.shape.blocks;
        for (h, head) in layer.heads.iter().enumerate() {
            for query in 0..blocks.n_tokens {
                let kept = record.mask.kept(h, query / blocks.block_size_q).iter();
                let keys: Vec<usize> =
                    kept.flat_map(|&b| blocks.keys(b as usize)).filter(|key| blocks.visible_keys(query).contains(key)).collect();
                let mut share = vec![0.0; blocks.n_tokens];
                keys.iter().for_each(|&key| share[key] = 1.0 / keys.len() as f64);
                let found = &outputs[(query * layer.shape.n_heads + h) * layer.shape.head_dim..][..layer.shape.head_dim];
                assert_close(found, &head.output(&share), 1e-5);
            }
        }
    }

    /// A NaN or an infinity among the queries or keys shows in the output, at the latest in the row of its
    /// own token, so a run that checks its layers' outputs finds it. It does not reach earlier rows.
    #[test]
    fn what_is_no_number_is_not_lost(
        shape in shapes(),
        at in any::<[prop::sample::Index; 3]>(),
        in_keys in any::<bool>(),
        bits in prop::sample::select(vec![0x7fc0_0000u32, 0x7fc0_0001, 0xffc0_01ff, 0x7f80_0000, 0xff80_0000]),
    ) {
        let mut layer = Layer::random(shape);
        let AttentionShape { blocks, n_heads, n_kv_heads, head_dim, .. } = layer.shape;
        let (head, token, dim) = (at[0].index(n_heads), at[1].index(blocks.n_tokens), at[2].index(head_dim));
        let number = f32::from_bits(bits);
        let of_group = layer.heads.chunks_mut(n_heads / n_kv_heads).nth(head / (n_heads / n_kv_heads)).unwrap();
        match in_keys {
            true => of_group.iter_mut().for_each(|h| h.keys[token * head_dim + dim] = number),
            false => layer.heads[head].queries[token * head_dim + dim] = number,
        }
        let (outputs, _) = layer.run();
        let row = |query: usize| &outputs[(query * n_heads + head) * head_dim..][..head_dim];
        // The token's own product may be −∞: then its query gives its key no attention, and its row
        // need not be NaN, if there is another key or a sink.
        let own: f32 = (0..head_dim).map(|d| layer.heads[head].queries[token * head_dim + d] * layer.heads[head].keys[token * head_dim + d]).sum();
        prop_assert!(own == f32::NEG_INFINITY && (in_keys || !layer.shape.sinks.is_empty()) || row(token).iter().all(|v| v.is_nan()), "{:?}", row(token));
        let first = blocks.queries(token / blocks.block_size_q).start;
        prop_assert!((0..first).all(|query| row(query).iter().all(|v| v.is_finite())), "rows before {}", first);
    }
}

//! The inner products of rows of activations with rows of weights in blocks.

use std::marker::PhantomData;

use pulp::NullaryFnOnce;

use super::{Format, Group, Instructions, Rows, simd::Plain};

/// Rows of activations that a block is multiplied with once it is read.
const TOGETHER: usize = 4;

/// Multiplies rows of activations with rows of weights; `out` is `[n_weight_rows, n_rows]`.
pub fn products<F: Format>(weights: &[u8], rows: &Rows, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        if let Some(simd) = V4::try_new() {
            return simd.vectorize(Products::<F, _> { simd, weights, rows, out, format: PhantomData });
        }
        if let Some(simd) = V3::try_new() {
            return simd.vectorize(Products::<F, _> { simd, weights, rows, out, format: PhantomData });
        }
    }
    pulp::Arch::new().dispatch(Products::<F, _> { simd: Plain, weights, rows, out, format: PhantomData });
}

/// The products, to be compiled for an instruction set; a closure would not be inlined.
struct Products<'a, F, S> {
    simd: S,
    weights: &'a [u8],
    rows: &'a Rows,
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format, S: Instructions> NullaryFnOnce for Products<'_, F, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Products { simd, weights, rows, out, .. } = self;
        let n_blocks = rows.n_groups / F::GROUPS;
        let weights = F::blocks(weights).chunks_exact(n_blocks);
        for (blocks, out) in weights.zip(out.chunks_exact_mut(rows.n_rows)) {
            let (fours, rest) = out.as_chunks_mut::<TOGETHER>();
            for (i, out) in fours.iter_mut().enumerate() {
                *out = dot::<F, S, TOGETHER>(simd, blocks, rows, i * TOGETHER);
            }
            let first = fours.len() * TOGETHER;
            for (i, out) in rest.iter_mut().enumerate() {
                [*out] = dot::<F, S, 1>(simd, blocks, rows, first + i);
            }
        }
    }
}

/// Inner products of a row of weights with `N` rows of activations from `first` on.
#[inline(always)]
fn dot<F: Format, S: Instructions, const N: usize>(
    simd: S,
    blocks: &[F::Block],
    rows: &Rows,
    first: usize,
) -> [f32; N] {
    let mut sums = [[0.0; 16]; N];
    let mut offsets = [0.0; N];
    let rows: [_; N] = std::array::from_fn(|i| rows.row(first + i));
    for (b, block) in blocks.iter().enumerate() {
        F::groups(
            simd,
            block,
            #[inline(always)]
            |group, weights| {
                let at = b * F::GROUPS + group;
                for i in 0..N {
                    let (codes, scales, halves) = rows[i];
                    let pairs = simd.pairs(&weights.codes, &codes[at]);
                    add::<F>(&mut sums[i], &pairs, scales[at], &weights);
                    offsets[i] += weights.offset[0] * halves[at][0] + weights.offset[1] * halves[at][1];
                }
            },
        );
    }
    std::array::from_fn(|i| sums[i].iter().sum::<f32>() + offsets[i])
}

/// Adds the products of a group to a row's sums.
#[inline(always)]
fn add<F: Format>(sums: &mut [f32; 16], pairs: &[f32; 16], scale: f32, weights: &Group) {
    let scale = [scale * weights.scale[0], scale * weights.scale[1]];
    for i in 0..16 {
        // Where both are the same, one vector serves.
        let scale = if F::WHOLE { scale[0] } else { scale[i / 8] };
        sums[i] = pairs[i].mul_add(scale, sums[i]);
    }
}

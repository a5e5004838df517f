//! The inner products of rows of activations with rows of weights in blocks.

use std::marker::PhantomData;

use pulp::NullaryFnOnce;

use super::{
    Format, Group, Instructions, Rows,
    simd::{Plain, Scale},
};

/// Rows of activations that a block is multiplied with once it is read.
const TOGETHER: usize = 4;

/// Multiplies rows of activations with rows of weights; `out` is `[n_weight_rows, n_rows]`.
pub fn multiply<F: Format>(weights: &[u8], rows: &Rows, out: &mut [f32]) {
    dispatch(Multiply::<F> { weights, rows, out, format: PhantomData });
}

/// Reads a row of weights.
pub fn read<F: Format>(weights: &[u8], out: &mut [f32]) {
    dispatch(Read::<F> { weights, out, format: PhantomData });
}

/// Work to be compiled for an instruction set; a closure would not be inlined.
trait Work {
    fn run<S: Instructions>(self, simd: S);
}

/// Work and an instruction set.
struct With<S, W>(S, W);

impl<S: Instructions, W: Work> NullaryFnOnce for With<S, W> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.1.run(self.0);
    }
}

/// Runs work with the best instruction set that the processor has.
fn dispatch(work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        if let Some(simd) = V4::try_new() {
            return simd.vectorize(With(simd, work));
        }
        if let Some(simd) = V3::try_new() {
            return simd.vectorize(With(simd, work));
        }
    }
    pulp::Arch::new().dispatch(With(Plain, work));
}

struct Read<'a, F> {
    weights: &'a [u8],
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Work for Read<'_, F> {
    #[inline(always)]
    fn run<S: Instructions>(self, simd: S) {
        let groups = self.out.as_chunks_mut::<32>().0.chunks_exact_mut(F::GROUPS);
        for (block, out) in F::blocks(self.weights).iter().zip(groups) {
            F::groups(
                simd,
                block,
                #[inline(always)]
                |group, weights| {
                    for (i, out) in out[group].iter_mut().enumerate() {
                        let product = weights.scale[i / 16] * f32::from(weights.codes[i]);
                        *out = if F::OFFSETS { product + weights.offset[i / 16] } else { product };
                    }
                },
            );
        }
    }
}

struct Multiply<'a, F> {
    weights: &'a [u8],
    rows: &'a Rows,
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Work for Multiply<'_, F> {
    #[inline(always)]
    fn run<S: Instructions>(self, simd: S) {
        let Multiply { weights, rows, out, .. } = self;
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
    let mut sums = [simd.zero(); N];
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
                    let scale = scale::<F>(scales[at], &weights);
                    sums[i] = simd.add(sums[i], &weights.codes, &codes[at], scale);
                    let [first, last] = halves[at];
                    if F::OFFSETS {
                        offsets[i] += match F::WHOLE {
                            true => weights.offset[0] * (first + last),
                            false => weights.offset[0] * first + weights.offset[1] * last,
                        };
                    }
                }
            },
        );
    }
    std::array::from_fn(|i| sum(simd.numbers(sums[i])) + offsets[i])
}

/// The scale of products with a group.
#[inline(always)]
fn scale<F: Format>(row: f32, weights: &Group) -> Scale {
    match F::WHOLE {
        true => Scale::Whole(row * weights.scale[0]),
        false => Scale::Halves([row * weights.scale[0], row * weights.scale[1]]),
    }
}

/// The sum of all numbers, of halves side by side.
#[inline(always)]
fn sum(mut sums: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use candle_core::{
        Device, Tensor,
        quantized::{GgmlDType, QTensor},
    };

    use super::{super::format::*, *};

    const WIDTH: usize = 512;

    /// Products of 6 rows with 5 rows of weights, by one instruction set.
    fn by<F: Format>(simd: impl Instructions, weights: &[u8], rows: &Rows) -> Vec<f32> {
        let mut out = vec![0.0; 30];
        Multiply::<F> { weights, rows, out: &mut out, format: PhantomData }.run(simd);
        out
    }

    fn agree<F: Format>(dtype: GgmlDType) {
        let mut random = fastrand::Rng::with_seed(5);
        let mut numbers = |n| -> Vec<f32> { (0..n * WIDTH).map(|_| random.f32() - 0.4).collect() };
        let weights = Tensor::from_vec(numbers(5), (5, WIDTH), &Device::Cpu).unwrap();
        let weights = QTensor::quantize(&weights, dtype).unwrap();
        let (bytes, rows) = (weights.data().unwrap(), Rows::new(&numbers(6), WIDTH));
        let plain = by::<F>(Plain, &bytes, &rows);
        let is_near = |found: &[f32]| found.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-3);
        let mut dispatched = vec![0.0; 30];
        multiply::<F>(&bytes, &rows, &mut dispatched);
        assert!(is_near(&dispatched), "{dtype:?}: {dispatched:?} for {plain:?}");
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            let found = by::<F>(simd, &bytes, &rows);
            assert!(is_near(&found), "{dtype:?}: {found:?} for {plain:?}");
        }
    }

    /// A format without offsets, with a fifth bit, with both, and with scales of half a group.
    #[test]
    fn instruction_sets_agree() {
        agree::<Q8_0>(GgmlDType::Q8_0);
        agree::<Q5_0>(GgmlDType::Q5_0);
        agree::<Q5_1>(GgmlDType::Q5_1);
        agree::<Q6K>(GgmlDType::Q6K);
    }
}

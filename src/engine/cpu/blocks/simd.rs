//! The steps of a product that compilers do not find on their own, for each instruction set.

/// An instruction set.
pub trait Instructions: Copy {
    /// 16 numbers that are summed side by side; the first 8 get the first half of each group.
    type Sums: Copy;

    fn zero(self) -> Self::Sums;

    /// Adds the products of a group's codes, times the scale of their half.
    fn add(self, sums: Self::Sums, weights: &[i8; 32], row: &[i16; 32], scale: Scale) -> Self::Sums;

    /// The 16 numbers.
    fn numbers(self, sums: Self::Sums) -> [f32; 16];

    /// 16 where the bit is set, else 0.
    fn sixteens(self, bits: u32) -> [i8; 32];

    /// The number of the bits of an f16.
    #[inline(always)]
    fn f16(self, bits: u16) -> f32 {
        let bits = u32::from(bits);
        // The exponent of f16 counts from 15, that of f32 from 127: 2¹¹² lies between; so do subnormals.
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        let magnitude = if bits & 0x7c00 == 0x7c00 { f32::INFINITY } else { magnitude };
        f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
    }
}

/// What the products of a group are multiplied with.
#[derive(Clone, Copy)]
pub enum Scale {
    Whole(f32),
    Halves([f32; 2]),
}

impl Scale {
    /// A number for each sum.
    #[inline(always)]
    fn spread(self) -> [f32; 16] {
        let halves = match self {
            Scale::Whole(scale) => return [scale; 16],
            Scale::Halves(halves) => halves,
        };
        let mut spread = [halves[0]; 16];
        spread[8..].fill(halves[1]);
        spread
    }
}

/// Whatever the compiler makes of it.
#[derive(Clone, Copy)]
pub struct Plain;

impl Instructions for Plain {
    type Sums = [f32; 16];

    #[inline(always)]
    fn zero(self) -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    fn add(self, mut sums: [f32; 16], weights: &[i8; 32], row: &[i16; 32], scale: Scale) -> [f32; 16] {
        let scale = scale.spread();
        for i in 0..16 {
            let product = |i: usize| i32::from(weights[i]) * i32::from(row[i]);
            sums[i] += scale[i] * (product(2 * i) + product(2 * i + 1)) as f32;
        }
        sums
    }

    #[inline(always)]
    fn numbers(self, sums: [f32; 16]) -> [f32; 16] {
        sums
    }

    #[inline(always)]
    fn sixteens(self, bits: u32) -> [i8; 32] {
        let mut sixteens = [0; 32];
        for (i, sixteen) in sixteens.iter_mut().enumerate() {
            *sixteen = (((bits >> i) & 1) << 4) as i8;
        }
        sixteens
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{__m128i, __m256, __m256i, __m512};

    use pulp::{
        cast,
        x86::{V3, V4},
    };

    use super::{Instructions, Scale};

    impl Instructions for V4 {
        type Sums = __m512;

        #[inline(always)]
        fn zero(self) -> __m512 {
            self.avx512f._mm512_setzero_ps()
        }

        #[inline(always)]
        fn add(self, sums: __m512, weights: &[i8; 32], row: &[i16; 32], scale: Scale) -> __m512 {
            let weights = self.avx512bw._mm512_cvtepi8_epi16(cast(*weights));
            let pairs = self.avx512f._mm512_cvtepi32_ps(self.avx512bw._mm512_madd_epi16(weights, cast(*row)));
            self.avx512f._mm512_fmadd_ps(pairs, cast(scale.spread()), sums)
        }

        #[inline(always)]
        fn numbers(self, sums: __m512) -> [f32; 16] {
            cast(sums)
        }

        #[inline(always)]
        fn sixteens(self, bits: u32) -> [i8; 32] {
            let all = self.avx512bw._mm512_maskz_set1_epi8(u64::from(bits), 16);
            cast(self.avx512f._mm512_castsi512_si256(all))
        }

        #[inline(always)]
        fn f16(self, bits: u16) -> f32 {
            let numbers: [f32; 16] = cast(self.avx512f._mm512_cvtph_ps(cast([bits; 16])));
            numbers[0]
        }
    }

    impl Instructions for V3 {
        type Sums = [__m256; 2];

        #[inline(always)]
        fn zero(self) -> [__m256; 2] {
            [self.avx._mm256_setzero_ps(); 2]
        }

        #[inline(always)]
        fn add(self, sums: [__m256; 2], weights: &[i8; 32], row: &[i16; 32], scale: Scale) -> [__m256; 2] {
            let weights: [__m128i; 2] = cast(*weights);
            let row: [__m256i; 2] = cast(*row);
            let scale: [__m256; 2] = cast(scale.spread());
            let half = |i: usize| {
                let pairs = self.avx2._mm256_madd_epi16(self.avx2._mm256_cvtepi8_epi16(weights[i]), row[i]);
                self.fma._mm256_fmadd_ps(self.avx._mm256_cvtepi32_ps(pairs), scale[i], sums[i])
            };
            [half(0), half(1)]
        }

        #[inline(always)]
        fn numbers(self, sums: [__m256; 2]) -> [f32; 16] {
            cast(sums)
        }

        #[inline(always)]
        fn sixteens(self, bits: u32) -> [i8; 32] {
            let mut sixteens = [0; 32];
            for (i, sixteen) in sixteens.iter_mut().enumerate() {
                let byte = (bits >> (i / 8 * 8)) as u8;
                *sixteen = if byte & (1 << (i % 8)) == 0 { 0 } else { 16 };
            }
            sixteens
        }
    }
}

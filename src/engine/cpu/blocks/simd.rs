//! The steps of a product that compilers do not find on their own, for each instruction set.

/// An instruction set.
pub trait Instructions: Copy {
    /// 16 products, each summed over two neighbours: the first 8 are of the first half.
    fn pairs(self, weights: &[i8; 32], row: &[i16; 32]) -> [f32; 16];

    /// 16 where the bit is set, else 0.
    fn sixteens(self, bits: u32) -> [i8; 32];
}

/// Whatever the compiler makes of it.
#[derive(Clone, Copy)]
pub struct Plain;

impl Instructions for Plain {
    #[inline(always)]
    fn pairs(self, weights: &[i8; 32], row: &[i16; 32]) -> [f32; 16] {
        let mut sums = [0.0; 16];
        for i in 0..16 {
            let product = |i: usize| i32::from(weights[i]) * i32::from(row[i]);
            sums[i] = (product(2 * i) + product(2 * i + 1)) as f32;
        }
        sums
    }

    #[inline(always)]
    fn sixteens(self, bits: u32) -> [i8; 32] {
        let mut sixteens = [0; 32];
        for i in 0..32 {
            sixteens[i] = (((bits >> i) & 1) << 4) as i8;
        }
        sixteens
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use pulp::{
        cast,
        x86::{V3, V4},
    };

    use super::Instructions;

    impl Instructions for V4 {
        #[inline(always)]
        fn pairs(self, weights: &[i8; 32], row: &[i16; 32]) -> [f32; 16] {
            let weights = self.avx512bw._mm512_cvtepi8_epi16(cast(*weights));
            cast(self.avx512f._mm512_cvtepi32_ps(self.avx512bw._mm512_madd_epi16(weights, cast(*row))))
        }

        #[inline(always)]
        fn sixteens(self, bits: u32) -> [i8; 32] {
            let all = self.avx512bw._mm512_maskz_set1_epi8(u64::from(bits), 16);
            cast(self.avx512f._mm512_castsi512_si256(all))
        }
    }

    impl Instructions for V3 {
        #[inline(always)]
        fn pairs(self, weights: &[i8; 32], row: &[i16; 32]) -> [f32; 16] {
            let weights: [std::arch::x86_64::__m128i; 2] = cast(*weights);
            let row: [std::arch::x86_64::__m256i; 2] = cast(*row);
            let half = |i: usize| {
                let sums = self.avx2._mm256_madd_epi16(self.avx2._mm256_cvtepi8_epi16(weights[i]), row[i]);
                self.avx._mm256_cvtepi32_ps(sums)
            };
            cast([half(0), half(1)])
        }

        #[inline(always)]
        fn sixteens(self, bits: u32) -> [i8; 32] {
            let mut spread = [0; 32];
            for i in 0..32 {
                spread[i] = (bits >> (i / 8 * 8)) as u8;
            }
            let mut sixteens = [0; 32];
            for i in 0..32 {
                sixteens[i] = if spread[i] & (1 << (i % 8)) == 0 { 0 } else { 16 };
            }
            sixteens
        }
    }
}

//! llama.cpp's formats of weights, read in groups of 32 numbers: 8-bit codes, each half of the group with a
//! scale and an offset.

use super::{Group, Instructions};

/// A format whose blocks take `BYTES` each and hold `GROUPS` groups.
pub trait Format {
    const GROUPS: usize;
    /// Whether the halves of a group have the same scale and offset.
    const WHOLE: bool;
    /// Whether there are offsets other than 0.
    const OFFSETS: bool;
    type Block: Copy;

    /// Cuts bytes into blocks.
    fn blocks(bytes: &[u8]) -> &[Self::Block];

    /// Reads all groups of a block, in order.
    fn groups(simd: impl Instructions, block: &Self::Block, on_group: impl FnMut(usize, Group));
}

/// Declares a format with its bytes per block and groups per block.
macro_rules! format {
    ($(#[$doc:meta])* $name:ident, $bytes:expr, $groups:expr, $whole:expr, $offsets:expr, $read:path) => {
        $(#[$doc])*
        pub struct $name;

        impl Format for $name {
            const GROUPS: usize = $groups;
            const WHOLE: bool = $whole;
            const OFFSETS: bool = $offsets;
            type Block = [u8; $bytes];

            #[inline(always)]
            fn blocks(bytes: &[u8]) -> &[Self::Block] {
                bytes.as_chunks().0
            }

            #[inline(always)]
            fn groups(simd: impl Instructions, block: &Self::Block, on_group: impl FnMut(usize, Group)) {
                $read(simd, block, on_group)
            }
        }
    };
}

format!(Q4_0, 18, 1, true, false, q4_0);
format!(Q4_1, 20, 1, true, true, q4_1);
format!(Q5_0, 22, 1, true, false, q5_0);
format!(Q5_1, 24, 1, true, true, q5_1);
format!(Q8_0, 34, 1, true, false, q8_0);
format!(Q2K, 84, 8, false, true, q2k);
format!(Q3K, 110, 8, false, false, q3k);
format!(Q4K, 144, 8, true, true, q4k);
format!(Q5K, 176, 8, true, true, q5k);
format!(Q6K, 210, 8, false, false, q6k);

/// The f16 whose bytes start at `at`.
#[inline(always)]
fn f16<const N: usize>(simd: impl Instructions, block: &[u8; N], at: usize) -> f32 {
    simd.f16(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// `N` bytes from `at` on.
#[inline(always)]
fn bytes<const N: usize, const BLOCK: usize>(block: &[u8; BLOCK], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

/// 32 codes; a loop, because what `array::map` makes of closures is not inlined.
#[inline(always)]
fn codes(code: impl Fn(usize) -> i8) -> [i8; 32] {
    let mut codes = [0; 32];
    for (i, to) in codes.iter_mut().enumerate() {
        *to = code(i);
    }
    codes
}

/// The low halves of 16 bytes, then the high ones.
#[inline(always)]
fn nibbles(packed: [u8; 16]) -> [i8; 32] {
    let mut codes = [0; 32];
    for i in 0..16 {
        codes[i] = (packed[i] & 15) as i8;
        codes[i + 16] = (packed[i] >> 4) as i8;
    }
    codes
}

#[inline(always)]
fn q4_0(simd: impl Instructions, block: &[u8; 18], mut on_group: impl FnMut(usize, Group)) {
    let nibbles = nibbles(bytes(block, 2));
    on_group(0, Group::whole(codes(|i| nibbles[i] - 8), f16(simd, block, 0), 0.0));
}

#[inline(always)]
fn q4_1(simd: impl Instructions, block: &[u8; 20], mut on_group: impl FnMut(usize, Group)) {
    on_group(0, Group::whole(nibbles(bytes(block, 4)), f16(simd, block, 0), f16(simd, block, 2)));
}

#[inline(always)]
fn q5_0(simd: impl Instructions, block: &[u8; 22], mut on_group: impl FnMut(usize, Group)) {
    let low = nibbles(bytes(block, 6));
    // The fifth bit counts 16, and all codes are 16 too many.
    let missing = simd.sixteens(!u32::from_le_bytes(bytes(block, 2)));
    on_group(0, Group::whole(codes(|i| low[i] - missing[i]), f16(simd, block, 0), 0.0));
}

#[inline(always)]
fn q5_1(simd: impl Instructions, block: &[u8; 24], mut on_group: impl FnMut(usize, Group)) {
    let low = nibbles(bytes(block, 8));
    let fifth = simd.sixteens(u32::from_le_bytes(bytes(block, 4)));
    let codes = codes(|i| low[i] | fifth[i]);
    on_group(0, Group::whole(codes, f16(simd, block, 0), f16(simd, block, 2)));
}

#[inline(always)]
fn q8_0(simd: impl Instructions, block: &[u8; 34], mut on_group: impl FnMut(usize, Group)) {
    let stored: [u8; 32] = bytes(block, 2);
    on_group(0, Group::whole(codes(|i| stored[i] as i8), f16(simd, block, 0), 0.0));
}

#[inline(always)]
fn q2k(simd: impl Instructions, block: &[u8; 84], mut on_group: impl FnMut(usize, Group)) {
    let (scale, offset) = (f16(simd, block, 80), f16(simd, block, 82));
    for group in 0..8 {
        let packed: [u8; 32] = bytes(block, 16 + group / 4 * 32);
        let scales = [block[2 * group], block[2 * group + 1]];
        on_group(
            group,
            Group {
                codes: codes(|i| (packed[i] >> (group % 4 * 2) & 3) as i8),
                scale: [scale * f32::from(scales[0] & 15), scale * f32::from(scales[1] & 15)],
                offset: [-offset * f32::from(scales[0] >> 4), -offset * f32::from(scales[1] >> 4)],
            },
        );
    }
}

#[inline(always)]
fn q3k(simd: impl Instructions, block: &[u8; 110], mut on_group: impl FnMut(usize, Group)) {
    let high: [u8; 32] = bytes(block, 0);
    let scale = f16(simd, block, 108);
    let six_bits = |i: usize| {
        let low = if i < 8 { block[96 + i] & 15 } else { block[96 + i - 8] >> 4 };
        let top = block[104 + i % 4] >> (i / 4 * 2) & 3;
        f32::from((low | top << 4) as i8 - 32)
    };
    for group in 0..8 {
        let packed: [u8; 32] = bytes(block, 32 + group / 4 * 32);
        let code = |i: usize| {
            let low = (packed[i] >> (group % 4 * 2) & 3) as i8;
            low - 4 + 4 * (high[i] >> group & 1) as i8
        };
        on_group(
            group,
            Group {
                codes: codes(code),
                scale: [scale * six_bits(2 * group), scale * six_bits(2 * group + 1)],
                offset: [0.0; 2],
            },
        );
    }
}

/// Scale and offset of a group of Q4_K or Q5_K, 6 bits each, as factors of the block's.
#[inline(always)]
fn six_bits<const N: usize>(block: &[u8; N], group: usize) -> [f32; 2] {
    let at = |i: usize| block[4 + i];
    let [scale, offset] = if group < 4 {
        [at(group) & 63, at(group + 4) & 63]
    } else {
        let both = at(group + 4);
        [(both & 15) | (at(group - 4) >> 6) << 4, (both >> 4) | (at(group) >> 6) << 4]
    };
    [f32::from(scale), f32::from(offset)]
}

#[inline(always)]
fn q4k(simd: impl Instructions, block: &[u8; 144], mut on_group: impl FnMut(usize, Group)) {
    let (scale, offset) = (f16(simd, block, 0), f16(simd, block, 2));
    for group in 0..8 {
        let packed: [u8; 32] = bytes(block, 16 + group / 2 * 32);
        let [s, o] = six_bits(block, group);
        let code = |i: usize| (packed[i] >> (group % 2 * 4) & 15) as i8;
        on_group(group, Group::whole(codes(code), scale * s, -offset * o));
    }
}

#[inline(always)]
fn q5k(simd: impl Instructions, block: &[u8; 176], mut on_group: impl FnMut(usize, Group)) {
    let (scale, offset) = (f16(simd, block, 0), f16(simd, block, 2));
    let high: [u8; 32] = bytes(block, 16);
    for group in 0..8 {
        let packed: [u8; 32] = bytes(block, 48 + group / 2 * 32);
        let [s, o] = six_bits(block, group);
        let code = |i: usize| (packed[i] >> (group % 2 * 4) & 15 | (high[i] >> group & 1) << 4) as i8;
        on_group(group, Group::whole(codes(code), scale * s, -offset * o));
    }
}

#[inline(always)]
fn q6k(simd: impl Instructions, block: &[u8; 210], mut on_group: impl FnMut(usize, Group)) {
    let scale = f16(simd, block, 208);
    for group in 0..8 {
        let (half, quarter) = (group / 4, group % 4);
        let low: [u8; 32] = bytes(block, half * 64 + quarter % 2 * 32);
        let high: [u8; 32] = bytes(block, 128 + half * 32);
        let code = |i: usize| {
            let low = low[i] >> (quarter / 2 * 4) & 15;
            let high = high[i] >> (quarter * 2) & 3;
            (low | high << 4) as i8 - 32
        };
        let scales = [block[192 + 2 * group], block[192 + 2 * group + 1]];
        on_group(
            group,
            Group {
                codes: codes(code),
                scale: [scale * f32::from(scales[0] as i8), scale * f32::from(scales[1] as i8)],
                offset: [0.0; 2],
            },
        );
    }
}

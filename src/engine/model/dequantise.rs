//! Numbers from llama.cpp's blocks.

use std::borrow::Cow;

use candle_core::{
    CpuStorage, Device,
    quantized::{GgmlDType, QStorage},
};
use half::f16;

use super::format::Format;

/// What the 4 bits of IQ4_NL and IQ4_XS stand for.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What the 4 bits of MXFP4 stand for: twice the numbers of a sign, two bits of exponent and one of mantissa.
const FP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Reads the numbers of whole blocks.
///
/// # Errors
/// candle's, and one for a format that is not read.
pub fn numbers(format: Format, blocks: &[u8]) -> candle_core::Result<Vec<f32>> {
    let n = blocks.len() / format.block_bytes() * format.block_size();
    match format {
        Format::IQ4_NL => Ok(of_blocks(blocks, n, iq4_nl)),
        Format::IQ4_XS => Ok(of_blocks(blocks, n, iq4_xs)),
        Format::MXFP4 => Ok(of_blocks(blocks, n, mxfp4)),
        _ => candles(format, blocks, n),
    }
}

/// Reads `n` numbers with candle.
fn candles(format: Format, blocks: &[u8], n: usize) -> candle_core::Result<Vec<f32>> {
    let dtype = match format {
        Format::F32 => GgmlDType::F32,
        Format::F16 => GgmlDType::F16,
        Format::BF16 => GgmlDType::BF16,
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q4_1 => GgmlDType::Q4_1,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q5_1 => GgmlDType::Q5_1,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q8_1 => GgmlDType::Q8_1,
        Format::Q2_K => GgmlDType::Q2K,
        Format::Q3_K => GgmlDType::Q3K,
        Format::Q4_K => GgmlDType::Q4K,
        Format::Q5_K => GgmlDType::Q5K,
        Format::Q6_K => GgmlDType::Q6K,
        Format::Q8_K => GgmlDType::Q8K,
        _ => candle_core::bail!("{format} is not read"),
    };
    match QStorage::from_data(Cow::Borrowed(blocks), &Device::Cpu, dtype)? {
        QStorage::Cpu(blocks) => match blocks.dequantize(n)? {
            CpuStorage::F32(numbers) => Ok(numbers),
            _ => candle_core::bail!("{format} gives numbers other than f32"),
        },
        _ => candle_core::bail!("{format} was read on another device"),
    }
}

/// Reads `n` numbers block by block: `read` gets the bytes of one and the place for its numbers.
fn of_blocks<const BYTES: usize, const N: usize>(
    blocks: &[u8],
    n: usize,
    read: fn(&[u8; BYTES], &mut [f32; N]),
) -> Vec<f32> {
    let mut numbers = vec![0.0; n];
    let places = numbers.as_chunks_mut().0;
    blocks.as_chunks().0.iter().zip(places).for_each(|(block, place)| read(block, place));
    numbers
}

/// Two bytes of scale, then 16 of pairs.
fn iq4_nl(block: &[u8; 18], to: &mut [f32; 32]) {
    pairs(&block[2..], &IQ4, half([block[0], block[1]]), to);
}

/// Two bytes of scale, 8 scales of 6 bits (their high two, then their low four), and 16 bytes of pairs for each.
fn iq4_xs(block: &[u8; 136], to: &mut [f32; 256]) {
    let scale = half([block[0], block[1]]);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (i, to) in to.as_chunks_mut().0.iter_mut().enumerate() {
        let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
        let of_part = i32::from(low) | i32::from(high >> (2 * i) & 3) << 4;
        pairs(&block[8 + 16 * i..][..16], &IQ4, scale * (of_part - 32) as f32, to);
    }
}

/// One byte of exponent, then 16 of pairs.
fn mxfp4(block: &[u8; 17], to: &mut [f32; 32]) {
    // 2 to the power of (exponent - 128), of which the two smallest are subnormal.
    let scale = match u32::from(block[0]) {
        small @ 0..2 => 0x0020_0000 << small,
        exponent => (exponent - 1) << 23,
    };
    pairs(&block[1..], &FP4, f32::from_bits(scale), to);
}

/// Reads 16 bytes of two numbers each: the low bits are the first 16 numbers, the high bits the last.
fn pairs(bytes: &[u8], meaning: &[i8; 16], scale: f32, to: &mut [f32; 32]) {
    let number = |bits: u8| scale * f32::from(meaning[usize::from(bits)]);
    let (first, last) = to.split_at_mut(16);
    for ((byte, first), last) in bytes.iter().zip(first).zip(last) {
        (*first, *last) = (number(byte & 15), number(byte >> 4));
    }
}

fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

//! llama.cpp's formats of numbers: plain ones, and blocks of a scale and a few bits per number.

use std::fmt;

/// A format by llama.cpp's name.
#[expect(non_camel_case_types, reason = "llama.cpp's names")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
    IQ2_XXS,
    IQ2_XS,
    IQ3_XXS,
    IQ1_S,
    IQ4_NL,
    IQ3_S,
    IQ2_S,
    IQ4_XS,
    I8,
    I16,
    I32,
    I64,
    F64,
    IQ1_M,
    BF16,
    TQ1_0,
    TQ2_0,
    MXFP4,
    NVFP4,
    Q1_0,
}

use Format::*;

/// What ggml.h and ggml-common.h say of a format.
struct Layout {
    /// Its number in a file.
    number: u32,
    format: Format,
    /// Numbers in a block.
    n_numbers: usize,
    /// Bytes of a block.
    n_bytes: usize,
    /// Whether its numbers can be read here.
    is_read: bool,
}

const fn read(number: u32, format: Format, n_numbers: usize, n_bytes: usize) -> Layout {
    Layout { number, format, n_numbers, n_bytes, is_read: true }
}

const fn named(number: u32, format: Format, n_numbers: usize, n_bytes: usize) -> Layout {
    Layout { number, format, n_numbers, n_bytes, is_read: false }
}

/// All formats, in the order of the enum.
const LAYOUTS: [Layout; 34] = [
    read(0, F32, 1, 4),
    read(1, F16, 1, 2),
    read(2, Q4_0, 32, 18),
    read(3, Q4_1, 32, 20),
    read(6, Q5_0, 32, 22),
    read(7, Q5_1, 32, 24),
    read(8, Q8_0, 32, 34),
    read(9, Q8_1, 32, 36),
    read(10, Q2_K, 256, 84),
    read(11, Q3_K, 256, 110),
    read(12, Q4_K, 256, 144),
    read(13, Q5_K, 256, 176),
    read(14, Q6_K, 256, 210),
    read(15, Q8_K, 256, 292),
    named(16, IQ2_XXS, 256, 66),
    named(17, IQ2_XS, 256, 74),
    named(18, IQ3_XXS, 256, 98),
    named(19, IQ1_S, 256, 50),
    read(20, IQ4_NL, 32, 18),
    named(21, IQ3_S, 256, 110),
    named(22, IQ2_S, 256, 82),
    read(23, IQ4_XS, 256, 136),
    named(24, I8, 1, 1),
    named(25, I16, 1, 2),
    named(26, I32, 1, 4),
    named(27, I64, 1, 8),
    named(28, F64, 1, 8),
    named(29, IQ1_M, 256, 56),
    read(30, BF16, 1, 2),
    named(34, TQ1_0, 256, 54),
    named(35, TQ2_0, 256, 66),
    read(39, MXFP4, 32, 17),
    named(40, NVFP4, 64, 36),
    named(41, Q1_0, 128, 18),
];

impl Format {
    /// Returns the format that a file means by `number`; `None` if llama.cpp has none of this number.
    pub fn of_number(number: u32) -> Option<Self> {
        LAYOUTS.iter().find(|layout| layout.number == number).map(|layout| layout.format)
    }

    /// Numbers in a block: 1 for a plain format.
    pub fn block_size(self) -> usize {
        self.layout().n_numbers
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.layout().n_bytes
    }

    /// Whether the numbers can be read.
    pub fn is_read(self) -> bool {
        self.layout().is_read
    }

    /// Lists the formats that can be read: "F32, F16, Q4_0, …".
    pub fn all_read() -> String {
        let names = LAYOUTS.iter().filter(|layout| layout.is_read).map(|layout| layout.format.to_string());
        names.collect::<Vec<_>>().join(", ")
    }

    fn layout(self) -> &'static Layout {
        &LAYOUTS[self as usize]
    }
}

/// llama.cpp's name, such as "Q4_K".
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_in_the_order_of_the_formats() {
        for (at, layout) in LAYOUTS.iter().enumerate() {
            assert_eq!(layout.format as usize, at, "{}", layout.format);
            assert_eq!(Format::of_number(layout.number), Some(layout.format));
        }
    }
}

//! Values of the macros that a kernel is compiled with.

use std::fmt;

/// The value of a macro.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Macro {
    Number(usize),
    Name(&'static str),
    /// The bits of an f32.
    Float(u32),
}

impl fmt::Display for Macro {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Macro::Number(n) => write!(f, "{n}"),
            Macro::Name(name) => f.write_str(name),
            Macro::Float(bits) => write_float(f, f32::from_bits(bits)),
        }
    }
}

/// Writes a positive, normal number or 0 exactly, as C++ reads it.
fn write_float(f: &mut fmt::Formatter, x: f32) -> fmt::Result {
    debug_assert!(x == 0.0 || x.is_normal() && x > 0.0, "{x}");
    if x == 0.0 {
        return f.write_str("0.0f");
    }
    let mantissa = x.to_bits() & 0x7F_FFFF | 0x80_0000;
    write!(f, "0x{mantissa:x}p{}f", (x.to_bits() >> 23) as i32 - 150)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_exactly() {
        let written = |x: f32| Macro::Float(x.to_bits()).to_string();
        assert_eq!([written(0.0), written(800.0), written(1.0)], ["0.0f", "0xc80000p-14f", "0x800000p-23f"]);
        let x = 50.0 * (96f32).sqrt();
        let (digits, exponent) =
            written(x).trim_end_matches('f').split_once('p').map_or((0, 0), |(digits, exponent)| {
                (i64::from_str_radix(&digits[2..], 16).unwrap(), exponent.parse().unwrap())
            });
        assert_eq!(digits as f64 * f64::powi(2.0, exponent), x as f64);
    }
}

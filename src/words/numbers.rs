//! Formats numbers for readers: 16,384, 95.2 %, 1.6 GB, 3.6 s.

use crate::error::Error;

/// Formats 1234567 as "1,234,567".
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number of things: "1 head", "8 heads".
pub fn count(number: usize, thing: &str) -> String {
    format!("{} {thing}{}", thousands(number as u64), if number == 1 { "" } else { "s" })
}

/// Formats a head's layer and number as the field does: "L3H0".
pub fn head_name(layer: usize, head: usize) -> String {
    format!("L{layer}H{head}")
}

/// Formats a share as a percentage, which rounds to 0 or 100 only if the share is exactly 0 or 1: "> 99.999 %".
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let decimals = (1..4).find(|&d| {
        let shown: f64 = format!("{percent:.d$}").parse().unwrap_or(percent);
        (shown < 100.0 || share >= 1.0) && (shown > 0.0 || share <= 0.0)
    });
    match decimals {
        Some(decimals) => {
            let text = format!("{percent:.decimals$}");
            format!("{} %", text.strip_suffix(".0").unwrap_or(&text))
        }
        None if share > 0.5 => "> 99.999 %".into(),
        None => "< 0.001 %".into(),
    }
}

const UNITS: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

/// Formats bytes in powers of 1000: "1.6 GB".
pub fn format_bytes(bytes: u64) -> String {
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) if bytes >= 100 * size => format!("{:.0} {unit}", bytes as f64 / *size as f64),
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

/// Rounds up to a number of bytes that [`format_bytes`] prints without loss.
pub fn rounded_up(bytes: u64) -> u64 {
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((_, size)) if bytes >= 100 * size => bytes.div_ceil(*size).saturating_mul(*size),
        Some((_, size)) => bytes.div_ceil(size / 10) * (size / 10),
        None => bytes,
    }
}

/// Parses "8GB", "500 MB", "1.5gb" or a plain number of bytes.
///
/// # Errors
/// [`Error::Setting`] for anything else.
pub fn parse_bytes(text: &str) -> Result<u64, Error> {
    let lower = text.trim().to_lowercase();
    let (number, size) = UNITS
        .iter()
        .find_map(|(unit, size)| Some((lower.strip_suffix(&unit.to_lowercase())?, *size)))
        .unwrap_or((lower.strip_suffix('b').unwrap_or(&lower), 1));
    match number.trim().parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok((number * size as f64) as u64),
        _ => Err(Error::setting(
            "memory",
            "an amount such as 8GB or 500MB",
            text,
            "write a number and kB, MB, GB or TB",
        )),
    }
}

/// Formats seconds: "3.6 s", or "12 ms" below a tenth of a second.
pub fn seconds(seconds: f64) -> String {
    if seconds < 0.1 { format!("{:.0} ms", 1000.0 * seconds) } else { format!("{seconds:.1} s") }
}

/// Formats nats: "0.0012 nats", or "1.2e-5 nats" below a thousandth.
pub fn nats(kl: f64) -> String {
    if kl.abs() < 1e-3 && kl != 0.0 { format!("{kl:.1e} nats") } else { format!("{kl:.4} nats") }
}

/// Formats a number as a person writes it, with two digits that count: "31", "0.007", far from 1 "5 × 10⁻⁷".
pub fn plain(number: f64) -> String {
    let size = number.abs();
    if number == 0.0 || !number.is_finite() {
        return format!("{}", number + 0.0);
    }
    if !(9.95e-5..999_999.5).contains(&size) {
        return power_of_ten(number);
    }
    let decimals = (1 - size.log10().floor() as i32).max(0) as usize;
    let text = format!("{number:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').into(),
        false => text,
    }
}

/// Formats a number with one digit that counts and a power of ten.
fn power_of_ten(number: f64) -> String {
    let text = format!("{number:.0e}");
    let (digit, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let raised = exponent.chars().map(|c| match c.to_digit(10) {
        Some(digit) => ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][digit as usize],
        None => '⁻',
    });
    let power = format!("10{}", raised.collect::<String>());
    match digit {
        "1" => power,
        "-1" => format!("-{power}"),
        _ => format!("{digit} × {power}"),
    }
}

/// Formats a number in millions or billions: "6.3 M", "8.0 B".
pub fn millions(number: u64) -> String {
    match number {
        0..1_000_000 => thousands(number),
        1_000_000..1_000_000_000 => format!("{:.1} M", number as f64 / 1e6),
        _ => format!("{:.1} B", number as f64 / 1e9),
    }
}

/// The middle number, the upper one of two; 0 for none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_048_576].map(thousands), ["0", "999", "1,000", "1,048,576"]);
        assert_eq!([1, 2].map(|n| count(n, "head")), ["1 head", "2 heads"]);
    }

    #[test]
    fn numbers_are_written_without_an_e() {
        assert_eq!(
            [0.0, 7e-3, 0.0123, 1.0, 31.46, 123_456.0].map(plain),
            ["0", "0.007", "0.012", "1", "31", "123456"]
        );
        assert_eq!([-0.0, -0.5, -4.0, 20.0, 0.0001].map(plain), ["0", "-0.5", "-4", "20", "0.0001"]);
        assert_eq!(
            [5e-7, -1e-5, 1e6, f64::MIN_POSITIVE].map(plain),
            ["5 × 10⁻⁷", "-10⁻⁵", "10⁶", "2 × 10⁻³⁰⁸"]
        );
        assert_eq!([f64::NAN, f64::INFINITY].map(plain), ["NaN", "inf"]);
    }

    #[test]
    fn percentages_do_not_round_to_the_ends() {
        assert_eq!([0.0, 0.5, 0.9517, 1.0].map(percent), ["0 %", "50 %", "95.2 %", "100 %"]);
        assert_eq!([0.99999, 0.9996, 0.0001].map(percent), ["99.999 %", "99.96 %", "0.01 %"]);
        assert_eq!([1.0 - 1e-9, 1e-9].map(percent), ["> 99.999 %", "< 0.001 %"]);
    }

    #[test]
    fn amounts_read_as_they_are_written() {
        for (text, bytes) in [
            ("8GB", 8_000_000_000),
            ("1.5 gb", 1_500_000_000),
            ("500MB", 500_000_000),
            ("12", 12),
            ("7 kB", 7000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1GB", "8 XB", "nan", "inf"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for bytes in [999, 1_001, 1_640_000_001, 99_999_999_999, 123_400_000, 8_000_000_000] {
            let enough = parse_bytes(&format_bytes(rounded_up(bytes))).unwrap();
            assert!(enough >= bytes && enough as f64 <= 1.1 * bytes as f64, "{enough} for {bytes}");
        }
        assert_eq!(
            [999, 1_000, 1_560_000_000, 123_400_000].map(format_bytes),
            ["999 B", "1.0 kB", "1.6 GB", "123 MB"]
        );
    }
}

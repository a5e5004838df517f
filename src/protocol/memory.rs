//! Memory in words and in bytes, and the plan that says beforehand what a run will take.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a run will hold at its peak, part by part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    pub n_tokens: usize,
    /// Bytes of each part.
    pub parts: Vec<(String, u64)>,
    /// What may be taken: the limit that was set, else what the device has free. Bytes.
    pub limit: u64,
    pub layout: Layout,
    /// What makes the run slower than it would be with more memory.
    pub slower: Option<String>,
}

/// What is where, and how much of it at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Rows of the prompt that are worked on together: whole query blocks.
    pub chunk_rows: usize,
    /// Whether the next layer's weights arrive while a layer runs.
    pub weights_ahead: bool,
    /// Whether hidden states wait in the host's memory between layers.
    pub hidden_on_host: bool,
}

impl MemoryPlan {
    /// Bytes of all parts.
    pub fn total(&self) -> u64 {
        self.parts.iter().fold(0, |total: u64, part| total.saturating_add(part.1))
    }

    /// # Errors
    /// [`Error::Memory`] when the plan does not fit its limit.
    pub fn check(&self) -> Result<(), Error> {
        if self.total() <= self.limit {
            return Ok(());
        }
        let needed = format_bytes(rounded_up(self.total()));
        let largest = self.parts.iter().max_by_key(|part| part.1).map_or("", |part| &part.0);
        Err(Error::Memory {
            fix: format!("raise the limit to {needed} or shorten the prompt (most is for {largest})"),
            needed,
            limit: format_bytes(self.limit),
        })
    }
}

const UNITS: [(&str, u64); 4] = [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];

/// "1.6 GB": powers of 1000.
pub fn format_bytes(bytes: u64) -> String {
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) if bytes >= 100 * size => format!("{:.0} {unit}", bytes as f64 / *size as f64),
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

/// The least amount from here on that [`format_bytes`] writes exactly.
fn rounded_up(bytes: u64) -> u64 {
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((_, size)) if bytes >= 100 * size => bytes.div_ceil(*size).saturating_mul(*size),
        Some((_, size)) => bytes.div_ceil(size / 10) * (size / 10),
        None => bytes,
    }
}

/// Bytes of "8GB", "500 MB", "1.5gb" or a plain number.
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
        _ => Err(Error::Setting {
            setting: "memory".into(),
            expected: "an amount such as 8GB or 500MB".into(),
            found: text.into(),
            fix: "write a number and kB, MB, GB or TB".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_they_are_written() {
        for (text, bytes) in
            [("8GB", 8_000_000_000), ("1.5 gb", 1_500_000_000), ("500MB", 500_000_000), ("12", 12), ("7 kB", 7000)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1GB", "8 XB", "nan", "inf"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
        for bytes in [999, 1_001, 1_640_000_001, 99_999_999_999, 123_400_000, 8_000_000_000] {
            let enough = parse_bytes(&format_bytes(rounded_up(bytes))).unwrap();
            assert!(enough >= bytes && enough as f64 <= 1.1 * bytes as f64, "{enough} for {bytes}");
        }
        assert_eq!([999, 1_000, 1_560_000_000, 123_400_000].map(format_bytes), ["999 B", "1.0 kB", "1.6 GB", "123 MB"]);
    }
}

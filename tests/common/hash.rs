//! Hashes of bytes.

use std::fmt::Write;

/// Returns the SHA-256 of some bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut digits = String::new();
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    hash.as_ref().iter().for_each(|byte| write!(digits, "{byte:02x}").unwrap());
    digits
}

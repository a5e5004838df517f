//! Text files as people have them: UTF-8 or UTF-16, with or without a byte order mark.

use std::{io::Read, path::Path};

use crate::error::Error;

/// Reads a text file, `-` for standard input. A byte order mark is dropped, UTF-16 with such a mark decoded; the
/// text is otherwise as it is written, with its line ends. `action` says what is read: "read the prompt".
///
/// # Errors
/// [`Error::File`] when the file cannot be read, or is no text in UTF-8 or UTF-16.
pub fn read_text(action: &str, path: &Path) -> Result<String, Error> {
    let bytes = if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    decode(bytes.map_err(Error::io(action, path))?).map_err(|why| Error::file(action, path, why))
}

/// Returns the text in `bytes`, or what they are and what to do.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    match bytes[..] {
        [0xff, 0xfe, 0, 0, ..] => Err(zeros()),
        [0xff, 0xfe, ref rest @ ..] => utf_16(rest, u16::from_le_bytes),
        [0xfe, 0xff, ref rest @ ..] => utf_16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, ref rest @ ..] => utf_8(rest.to_vec()),
        _ => {
            let n_zeros = bytes.iter().filter(|&&byte| byte == 0).count();
            if n_zeros > 1 && n_zeros * 4 >= bytes.len() { Err(zeros()) } else { utf_8(bytes) }
        }
    }
}

/// Says that letters take several bytes, most of them zeros.
fn zeros() -> String {
    "expected text in UTF-8, found zeros beside the letters, as in UTF-32, or in UTF-16 without its mark; save it as \
     UTF-8"
        .into()
}

fn utf_8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        format!(
            "expected text in UTF-8, found the byte {:#04x} at byte {at}; save it as UTF-8, for example by \
             iconv -f WINDOWS-1252 -t UTF-8",
            e.as_bytes()[at]
        )
    })
}

/// Decodes text whose letters are numbers of two bytes, as `number` reads them.
fn utf_16(bytes: &[u8], number: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks();
    let numbers: Vec<u16> = pairs.iter().map(|pair| number(*pair)).collect();
    String::from_utf16(&numbers).ok().filter(|_| rest.is_empty()).ok_or_else(|| {
        "expected text in UTF-16, as its first bytes say, found damaged letters; save it as UTF-8".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_dropped_and_line_ends_kept() {
        let text = "Où est\r\nla clé? 鍵 🔑\n";
        let le = text.encode_utf16().flat_map(u16::to_le_bytes);
        let be = text.encode_utf16().flat_map(u16::to_be_bytes);
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [0xff, 0xfe].into_iter().chain(le).collect(),
            [0xfe, 0xff].into_iter().chain(be).collect(),
        ] {
            assert_eq!(decode(bytes).unwrap(), text);
        }
        assert_eq!(decode(Vec::new()).unwrap(), "");
        // A zero on its own is part of the text.
        for text in ["one \0 two", "a\0b"] {
            assert_eq!(decode(text.into()).unwrap(), text);
        }
    }

    #[test]
    fn other_bytes_are_refused_by_name() {
        let without_mark: Vec<u8> = "the clé".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let utf_32 = "\u{feff}key".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        for (bytes, words) in [
            (b"caf\xe9".to_vec(), "the byte 0xe9 at byte 3; save it as UTF-8"),
            (without_mark, "UTF-16 without its mark"),
            (utf_32, "as in UTF-32"),
            (b"\xff\xfe\x00\xd8".to_vec(), "damaged letters"),
            (b"\xff\xfea\0b".to_vec(), "damaged letters"),
        ] {
            let why = decode(bytes).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }
}

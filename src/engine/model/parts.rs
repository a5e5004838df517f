//! The names of files that together hold one model: `stem-00002-of-00003.ending`.

/// One file of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part<'a> {
    /// What stands before the numbers, with the folder if there is one.
    pub stem: &'a str,
    /// From 1 on.
    pub number: usize,
    pub n_parts: usize,
    /// The ending, without its dot.
    ending: &'a str,
}

/// Most parts of a model.
const MOST: usize = 10_000;

/// Digits of each number.
const N_DIGITS: usize = 5;

impl<'a> Part<'a> {
    /// Reads the name or path of a file; `None` if it is not that of a part.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (name, ending) = name.rsplit_once('.')?;
        let (rest, n_parts) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let read = |digits: &str| {
            let are_digits = digits.len() == N_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|_| are_digits)
        };
        let (number, n_parts) = (read(number)?, read(n_parts)?);
        ((1..=n_parts).contains(&number) && n_parts <= MOST).then_some(Part { stem, number, n_parts, ending })
    }

    /// Returns the names of all parts, this one's among them.
    pub fn all(self) -> Vec<String> {
        let Part { stem, n_parts, ending, .. } = self;
        (1..=n_parts).map(|i| format!("{stem}-{i:05}-of-{n_parts:05}.{ending}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_numbers() {
        let part = Part::parse("Q8_0/x-of-y-00002-of-00003.gguf").unwrap();
        assert_eq!((part.stem, part.number, part.n_parts), ("Q8_0/x-of-y", 2, 3));
        assert_eq!(part.all()[2], "Q8_0/x-of-y-00003-of-00003.gguf");
        for other in [
            "x.gguf",
            "x-1-of-3.gguf",
            "x-00004-of-00003.gguf",
            "x-00000-of-00003.gguf",
            "x-00001-of-00002",
            "-of-.a",
        ] {
            assert_eq!(Part::parse(other), None, "{other}");
        }
    }
}

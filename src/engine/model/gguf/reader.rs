//! Reads the parts of a GGUF file's header one after the other, none past the file's end.

use std::ops::Range;

/// Most lists of lists: real files have none.
const MOST_NESTED: usize = 4;

/// llama.cpp's number of the type of lists.
const LIST: u32 = 9;

/// A value of the metadata. Texts and lists stay in the file.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(f64),
    Switch(bool),
    /// The bytes of a text.
    Text(Range<usize>),
    List(List),
}

/// A list in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct List {
    /// llama.cpp's number of the type of the items.
    kind: u32,
    n: usize,
    /// The byte at which the first item starts.
    start: usize,
}

/// A place in a file.
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// The next byte to read.
    pub at: usize,
    /// Whether lengths have 8 bytes, as since version 2, instead of 4.
    is_wide: bool,
}

/// What was found instead of the expected part.
#[derive(Debug)]
pub enum Found {
    /// The end of the file.
    End(String),
    /// Bytes that mean nothing that is known.
    Other(String),
}

impl Found {
    /// Adds where it was found.
    pub fn at(self, name: &str) -> Self {
        match self {
            Found::End(what) => Found::End(format!("{what} (at {name:?})")),
            Found::Other(what) => Found::Other(format!("{what} (at {name:?})")),
        }
    }
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], at: usize, is_wide: bool) -> Self {
        Reader { bytes, at, is_wide }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Found> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| Found::End("one whose header reaches past its end".into()))?;
        Ok(&self.bytes[std::mem::replace(&mut self.at, end)..end])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Found> {
        Ok(self.take(N)?.try_into().expect("N bytes"))
    }

    pub fn u32(&mut self) -> Result<u32, Found> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Found> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads a length or a count; one that no memory holds becomes the largest that there is.
    pub fn length(&mut self) -> Result<usize, Found> {
        let n = if self.is_wide { self.u64()? } else { self.u32()?.into() };
        Ok(usize::try_from(n).unwrap_or(usize::MAX))
    }

    /// Reads a text; returns its bytes without the zeros that some writers put at the end.
    pub fn text(&mut self) -> Result<Range<usize>, Found> {
        let n = self.length()?;
        let start = self.at;
        let text = self.take(n)?;
        let n = text.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Ok(start..start + n)
    }

    /// Reads a value of the type that llama.cpp gives the number `kind`.
    pub fn value(&mut self, kind: u32) -> Result<Value, Found> {
        self.nested(kind, 0)
    }

    fn nested(&mut self, kind: u32, depth: usize) -> Result<Value, Found> {
        Ok(match kind {
            0 => Value::Number(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Number(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Number(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Number(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Number(self.u32()?.into()),
            5 => Value::Number(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Number(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Switch(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            LIST if depth < MOST_NESTED => Value::List(self.list(depth + 1)?),
            LIST => return Err(Found::Other("lists in lists in lists, which make no sense".into())),
            10 => Value::Number(self.u64()? as f64),
            11 => Value::Number(i64::from_le_bytes(self.array()?) as f64),
            12 => Value::Number(f64::from_le_bytes(self.array()?)),
            unknown => {
                return Err(Found::Other(format!("a value of type {unknown}, which is not known")));
            }
        })
    }

    /// Reads a list and goes past its items.
    fn list(&mut self, depth: usize) -> Result<List, Found> {
        let (kind, n) = (self.u32()?, self.length()?);
        let start = self.at;
        match kind {
            0 | 1 | 7 => self.skip(n, 1)?,
            2 | 3 => self.skip(n, 2)?,
            4..=6 => self.skip(n, 4)?,
            10..=12 => self.skip(n, 8)?,
            // Each has bytes of its own, so that a count that lies ends with the file.
            _ => (0..n).try_for_each(|_| self.nested(kind, depth).map(drop))?,
        }
        Ok(List { kind, n, start })
    }

    fn skip(&mut self, n: usize, n_bytes: usize) -> Result<(), Found> {
        self.take(n.saturating_mul(n_bytes)).map(drop)
    }

    /// Reads the items of a list of this file once more.
    pub fn items(mut self, list: List) -> impl Iterator<Item = Value> + use<'a> {
        self.at = list.start;
        (0..list.n).map_while(move |_| self.value(list.kind).ok())
    }
}

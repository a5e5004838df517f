//! Edges as CSV, and as Parquet with the feature `parquet`.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use super::{Edge, EdgeRows, ExpertEdge, ExpertRows, SentenceEdge, SentenceEdgeRows};
use crate::{
    atomic_file::{ending, save},
    error::Error,
};

/// The columns of a row in the file: whole numbers, then the mass, if there is one.
trait Row {
    const NUMBERS: &'static [&'static str];

    /// Whether rows have a mass.
    const HAS_MASS: bool = true;

    fn numbers(&self) -> Vec<usize>;
    fn mass(&self) -> f32;
}

impl Row for Edge {
    const NUMBERS: &'static [&'static str] =
        &["layer", "head", "query_block", "key_block", "first_query", "first_key"];

    fn numbers(&self) -> Vec<usize> {
        vec![self.layer, self.head, self.query_block, self.key_block, self.first_query, self.first_key]
    }

    fn mass(&self) -> f32 {
        self.mass
    }
}

impl Row for SentenceEdge {
    const NUMBERS: &'static [&'static str] = &["layer", "head", "query_sentence", "key_sentence"];

    fn numbers(&self) -> Vec<usize> {
        vec![self.layer, self.head, self.query_sentence, self.key_sentence]
    }

    fn mass(&self) -> f32 {
        self.mass
    }
}

impl Row for ExpertEdge {
    const NUMBERS: &'static [&'static str] = &["layer", "token", "rank", "expert"];
    const HAS_MASS: bool = false;

    fn numbers(&self) -> Vec<usize> {
        vec![self.layer, self.token, self.rank, self.expert]
    }

    fn mass(&self) -> f32 {
        0.0
    }
}

impl ExpertRows {
    /// Writes the remaining rows to `x.csv`, or, with the feature `parquet`, to `x.parquet`: `layer`, `token`,
    /// `rank`, `expert`.
    ///
    /// # Errors
    /// As [`EdgeRows::save`].
    pub fn save(self, path: impl AsRef<Path>) -> Result<(), Error> {
        save_rows(path.as_ref(), self)
    }
}

impl EdgeRows {
    /// Writes the remaining rows to `x.csv`, or, with the feature `parquet`, to `x.parquet`: `layer`, `head`,
    /// `query_block`, `key_block`, `first_query`, `first_key` (tokens), `mass`.
    ///
    /// # Errors
    /// [`Error::Setting`] for another ending, [`Error::File`] when the file cannot be written,
    /// [`Error::Trace`] when the trace is damaged.
    pub fn save(self, path: impl AsRef<Path>) -> Result<(), Error> {
        save_rows(path.as_ref(), self)
    }
}

impl SentenceEdgeRows {
    /// Writes the remaining rows to `x.csv`, or, with the feature `parquet`, to `x.parquet`: `layer`, `head`,
    /// `query_sentence`, `key_sentence`, `mass`.
    ///
    /// # Errors
    /// As [`EdgeRows::save`].
    pub fn save(self, path: impl AsRef<Path>) -> Result<(), Error> {
        save_rows(path.as_ref(), self)
    }
}

#[cfg(feature = "parquet")]
const ENDINGS: &[&str] = &["csv", "parquet"];
/// Parquet needs the feature `parquet`.
#[cfg(not(feature = "parquet"))]
const ENDINGS: &[&str] = &["csv"];

/// Yields rows until the first that cannot be read, and keeps its error: the writers only know errors of
/// files.
struct UntilError<I> {
    rows: I,
    error: Option<Error>,
}

impl<R, I: Iterator<Item = Result<R, Error>>> Iterator for UntilError<I> {
    type Item = R;

    fn next(&mut self) -> Option<R> {
        self.rows.next()?.map_err(|error| self.error = Some(error)).ok()
    }
}

fn save_rows<R: Row>(path: &Path, rows: impl Iterator<Item = Result<R, Error>>) -> Result<(), Error> {
    let mut rows = UntilError { rows, error: None };
    let write: fn(&mut File, &mut dyn Iterator<Item = R>) -> io::Result<()> =
        match ending(path, "edges", ENDINGS)?.as_str() {
            #[cfg(feature = "parquet")]
            "parquet" => parquet::write,
            _ => csv,
        };
    save(path, |file| {
        write(file, &mut rows)?;
        // The partial file is thrown away: a file holds all rows or does not exist.
        rows.error.as_ref().map_or(Ok(()), |_| Err(io::ErrorKind::InvalidData.into()))
    })
    .map_err(|failed| rows.error.take().unwrap_or(failed))
}

fn csv<R: Row>(file: &mut File, rows: &mut dyn Iterator<Item = R>) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    let mass = R::HAS_MASS.then_some("mass");
    writeln!(out, "{}", R::NUMBERS.iter().copied().chain(mass).collect::<Vec<_>>().join(","))?;
    for row in rows {
        for (i, number) in row.numbers().into_iter().enumerate() {
            write!(out, "{}{number}", if i == 0 { "" } else { "," })?;
        }
        match R::HAS_MASS {
            true => writeln!(out, ",{}", row.mass())?,
            false => writeln!(out)?,
        }
    }
    out.flush()
}

#[cfg(feature = "parquet")]
mod parquet {
    use std::{fs::File, io, sync::Arc};

    use parquet::{
        data_type::{FloatType, Int32Type},
        errors::Result,
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use crate::analysis::edges::save::Row;

    /// Rows held in memory at a time.
    const ROWS: usize = 1 << 20;

    pub(super) fn write<R: Row>(file: &mut File, rows: &mut dyn Iterator<Item = R>) -> io::Result<()> {
        write_groups(file, rows).map_err(io::Error::other)
    }

    fn write_groups<R: Row>(file: &mut File, rows: &mut dyn Iterator<Item = R>) -> Result<()> {
        let numbers: String =
            R::NUMBERS.iter().map(|name| format!("REQUIRED INT32 {name} (INTEGER(32, false)); ")).collect();
        let mass = if R::HAS_MASS { "REQUIRED FLOAT mass; " } else { "" };
        let schema = Arc::new(parse_message_type(&format!("message edges {{ {numbers}{mass}}}"))?);
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default()))?;
        loop {
            let group: Vec<R> = (&mut *rows).take(ROWS).collect();
            if group.is_empty() {
                return writer.close().map(drop);
            }
            let mut columns = writer.next_row_group()?;
            for at in 0..R::NUMBERS.len() {
                // The numbers in a trace fit 32 bits, which Parquet stores as they are.
                let numbers: Vec<i32> = group.iter().map(|row| row.numbers()[at] as u32 as i32).collect();
                let Some(mut column) = columns.next_column()? else { continue };
                column.typed::<Int32Type>().write_batch(&numbers, None, None)?;
                column.close()?;
            }
            if let Some(mut column) = columns.next_column()? {
                let masses: Vec<f32> = group.iter().map(Row::mass).collect();
                column.typed::<FloatType>().write_batch(&masses, None, None)?;
                column.close()?;
            }
            columns.close()?;
        }
    }

    #[cfg(test)]
    mod tests {
        use parquet::{
            file::reader::{FileReader, SerializedFileReader},
            record::RowAccessor,
        };

        use crate::trace::synthetic::{Shape, trace};

        #[test]
        fn parquet_holds_every_edge() {
            let (folder, trace) =
                (tempfile::tempdir().unwrap(), trace(&Shape { n_tokens: 300, ..Default::default() }));
            let path = folder.path().join("edges.parquet");
            trace.edges().save(&path).unwrap();
            let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
            let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
            let edges: Vec<_> = trace.edges().map(Result::unwrap).collect();
            assert_eq!(rows.len(), edges.len());
            for (row, edge) in rows.iter().zip(edges) {
                let numbers: Vec<usize> = (0..6).map(|at| row.get_uint(at).unwrap() as usize).collect();
                assert_eq!(numbers, super::Row::numbers(&edge));
                assert_eq!(row.get_float(6).unwrap(), edge.mass);
            }
            let names: Vec<&String> = rows[0].get_column_iter().map(|(name, _)| name).collect();
            assert_eq!(
                names,
                ["layer", "head", "query_block", "key_block", "first_query", "first_key", "mass"]
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Error,
        trace::{
            ExpertsInfo,
            synthetic::{Shape, trace, trace as trace_of},
        },
    };

    #[test]
    fn experts_that_were_not_recorded_are_missed() {
        let error = trace(&Shape::default()).expert_edges().err().unwrap().to_string();
        assert!(error.contains("experts") && error.contains("StreamConfig::experts"), "{error}");
    }

    #[test]
    fn csv_holds_every_edge() {
        let (folder, trace) =
            (tempfile::tempdir().unwrap(), trace(&Shape { n_tokens: 300, ..Default::default() }));
        let path = folder.path().join("edges.CSV");
        trace.edges().save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("layer,head,query_block,key_block,first_query,first_key,mass"));
        for (line, edge) in lines.by_ref().zip(trace.edges().map(Result::unwrap)) {
            let (q, k) = (edge.query_block, edge.key_block);
            let expected = format!("{},{},{q},{k},{},{},{}", edge.layer, edge.head, 32 * q, 8 * k, edge.mass);
            assert_eq!(line, expected);
        }
        assert_eq!(lines.next(), None);
        assert_eq!(text.lines().count(), 1 + trace.edges().count());

        let experts = Some(ExpertsInfo { n_experts: 5, per_token: 2 });
        let trace = trace_of(&Shape { n_tokens: 30, n_layers: 2, experts, ..Default::default() });
        trace.expert_edges().unwrap().save(folder.path().join("experts.csv")).unwrap();
        let text = std::fs::read_to_string(folder.path().join("experts.csv")).unwrap();
        let start = "layer,token,rank,expert\n0,0,0,0\n0,0,1,1\n0,1,0,2\n";
        assert!(text.starts_with(start) && text.ends_with("1,29,0,3\n1,29,1,4\n"), "{text}");
        assert_eq!(text.lines().count(), 1 + 2 * 30 * 2);

        trace.sentence_edges().unwrap().save(folder.path().join("sentences.csv")).unwrap();
        let text = std::fs::read_to_string(folder.path().join("sentences.csv")).unwrap();
        assert!(text.starts_with("layer,head,query_sentence,key_sentence,mass\n0,0,0,0,"), "{text}");
    }

    #[test]
    fn other_endings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["edges.xlsx", "edges"] {
            let error = trace(&Shape::default()).edges().save(folder.path().join(name)).unwrap_err();
            assert!(matches!(error, Error::Setting { .. }) && error.to_string().contains(".csv"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

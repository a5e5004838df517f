//! The tables of a study: a folder for each, with a Parquet file for each prompt, which DuckDB and Polars read as one.
//!
//! A file is whole or not there, and is named by its prompt's id: whoever writes a prompt again, after it was killed or
//! beside another shard, puts the same rows in the same place. The file in `prompts` comes last: where it is, the prompt
//! is done.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{
    parquet::{self, Kind},
    rows::{AnchorRow, HeadRow, PromptRow, Rows, SpanRow},
};
use crate::{atomic_file::save, error::Error, trace::Trace};

/// A row of a table: its place, and its columns but for the prompt's id.
pub trait Row: Serialize + DeserializeOwned {
    const TABLE: &'static str;
    const COLUMNS: &'static [(&'static str, Kind)];
}

impl Row for PromptRow {
    const TABLE: &'static str = "prompts";
    const COLUMNS: &'static [(&'static str, Kind)] = &[
        ("model", Kind::Text),
        ("n_tokens", Kind::Whole),
        ("pruned", Kind::Real),
        ("recall", Kind::Real),
        ("next_token", Kind::Text),
        ("next_logprob", Kind::Real),
        ("answer_logprob", Kind::Real),
        ("answer_survives", Kind::Truth),
        ("seconds", Kind::Real),
        ("error", Kind::Text),
    ];
}

impl Row for HeadRow {
    const TABLE: &'static str = "heads";
    const COLUMNS: &'static [(&'static str, Kind)] = &[
        ("layer", Kind::Whole),
        ("head", Kind::Whole),
        ("recall", Kind::Real),
        ("blocks", Kind::Whole),
        ("kurtosis", Kind::Real),
    ];
}

impl Row for SpanRow {
    const TABLE: &'static str = "spans";
    const COLUMNS: &'static [(&'static str, Kind)] = &[
        ("span", Kind::Text),
        ("layer", Kind::Whole),
        ("head", Kind::Whole),
        ("mass", Kind::Real),
        ("copied", Kind::Real),
    ];
}

impl Row for AnchorRow {
    const TABLE: &'static str = "anchors";
    const COLUMNS: &'static [(&'static str, Kind)] = &[
        ("rank", Kind::Whole),
        ("score", Kind::Real),
        ("kind", Kind::Text),
        ("first_token", Kind::Whole),
        ("end_token", Kind::Whole),
        ("text", Kind::Text),
    ];
}

/// The folder of a study.
#[derive(Clone, Debug)]
pub struct Tables {
    folder: PathBuf,
}

impl Tables {
    /// Takes a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, Error> {
        let folder = folder.into();
        for table in [PromptRow::TABLE, HeadRow::TABLE, SpanRow::TABLE, AnchorRow::TABLE] {
            let table = folder.join(table);
            std::fs::create_dir_all(&table).map_err(Error::io("create", &table))?;
        }
        Ok(Tables { folder })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a prompt is done.
    pub fn has(&self, id: &str) -> bool {
        self.file::<PromptRow>(id).exists()
    }

    /// Writes a prompt's rows, and its trace if there is one to keep.
    ///
    /// # Errors
    /// [`Error::File`] when the disk is full: the prompt is not done then.
    pub fn write(&self, rows: &Rows, trace: Option<&Trace>) -> Result<(), Error> {
        let id = &rows.prompt.id;
        if let Some(trace) = trace {
            let traces = self.folder.join("traces");
            std::fs::create_dir_all(&traces).map_err(Error::io("create", &traces))?;
            trace.save(traces.join(format!("{id}.trace")))?;
        }
        self.write_table(id, &rows.heads)?;
        self.write_table(id, &rows.spans)?;
        self.write_table(id, &rows.anchors)?;
        self.write_table(id, std::slice::from_ref(&rows.prompt))
    }

    fn write_table<R: Row>(&self, id: &str, rows: &[R]) -> Result<(), Error> {
        let path = self.file::<R>(id);
        if rows.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("write", &path)(e)),
                _ => Ok(()),
            };
        }
        put(&path, rows.iter().map(|row| (id, row)))
    }

    /// Writes all rows of a table to one file, with the ids of their prompts.
    ///
    /// # Errors
    /// [`Error::File`] when the disk is full.
    pub(super) fn write_all<R: Row>(&self, rows: &[(String, R)]) -> Result<(), Error> {
        put(&self.file::<R>("all"), rows.iter().map(|(id, row)| (id.as_str(), row)))
    }

    /// Reads all rows of a table, with the ids of their prompts, in the order of the ids.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read or is no table.
    pub fn read<R: Row>(&self) -> Result<Vec<(String, R)>, Error> {
        let folder = self.folder.join(R::TABLE);
        let failed = Error::io("read", &folder);
        let entries = std::fs::read_dir(&folder).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let mut files: Vec<PathBuf> = entries.map_err(failed)?.iter().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "parquet"));
        files.sort();
        let mut rows = Vec::new();
        for file in files {
            for object in parquet::read(&file).map_err(Error::io("read", &file))? {
                let id = object.get("id").and_then(Value::as_str).unwrap_or_default().to_string();
                let row = serde_json::from_value(Value::Object(object));
                rows.push((id, row.map_err(|e| Error::file("read", &file, e))?));
            }
        }
        Ok(rows)
    }

    fn file<R: Row>(&self, id: &str) -> PathBuf {
        self.folder.join(R::TABLE).join(format!("{id}.parquet"))
    }
}

/// Writes rows to a file, with the ids of their prompts.
fn put<'a, R: Row + 'a>(path: &Path, rows: impl Iterator<Item = (&'a str, &'a R)>) -> Result<(), Error> {
    let columns = [&[("id", Kind::Text)], R::COLUMNS].concat();
    let object = |(id, row): (&str, &R)| {
        let mut object = match serde_json::to_value(row) {
            Ok(Value::Object(object)) => object,
            _ => Map::new(),
        };
        object.insert("id".into(), id.into());
        object
    };
    let rows: Vec<_> = rows.map(object).collect();
    save(path, |file| parquet::write(file, &columns, &rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_a_row_has_a_column() {
        let prompt = PromptRow {
            id: "a".into(),
            model: Some("m".into()),
            n_tokens: Some(7),
            pruned: Some(0.5),
            recall: Some(0.25),
            next_token: Some("x".into()),
            next_logprob: Some(-1.0),
            answer_logprob: Some(-2.0),
            answer_survives: Some(true),
            seconds: Some(3.0),
            error: Some("none".into()),
        };
        let head = HeadRow { layer: 1, head: 2, recall: Some(0.5), blocks: 3, kurtosis: Some(4.0) };
        let span = SpanRow { span: "s".into(), layer: 1, head: 2, mass: 0.5, copied: Some(1.0) };
        let (kind, text) = ("k".into(), "t".into());
        let anchor = AnchorRow { rank: 1, score: 0.5, kind, first_token: 2, end_token: 3, text };
        let rows = Rows { prompt, heads: vec![head], spans: vec![span], anchors: vec![anchor] };
        let folder = tempfile::tempdir().unwrap();
        let tables = Tables::open(folder.path()).unwrap();
        assert!(!tables.has("a"));
        tables.write(&rows, None).unwrap();
        assert!(tables.has("a"));
        let id = || "a".to_string();
        assert_eq!(tables.read().unwrap(), [(id(), rows.prompt.clone())]);
        assert_eq!(tables.read().unwrap(), [(id(), rows.heads[0].clone())]);
        assert_eq!(tables.read().unwrap(), [(id(), rows.spans[0].clone())]);
        assert_eq!(tables.read().unwrap(), [(id(), rows.anchors[0].clone())]);
        // What is written again is there once, and what is not there any more is gone.
        tables.write(&Rows { prompt: rows.prompt.clone(), ..Rows::default() }, None).unwrap();
        assert_eq!(tables.read::<PromptRow>().unwrap().len(), 1);
        assert!(tables.read::<HeadRow>().unwrap().is_empty());
    }
}

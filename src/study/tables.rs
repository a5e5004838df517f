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
        let columns = [&[("id", Kind::Text)], R::COLUMNS].concat();
        let object = |row: &R| {
            let mut object = match serde_json::to_value(row) {
                Ok(Value::Object(object)) => object,
                _ => Map::new(),
            };
            object.insert("id".into(), id.into());
            object
        };
        let rows: Vec<_> = rows.iter().map(object).collect();
        save(&path, |file| parquet::write(file, &columns, &rows))
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

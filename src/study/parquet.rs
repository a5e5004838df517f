//! Rows as Parquet: optional columns of text, whole numbers, real numbers and truth values.

use std::{fs::File, io, path::Path, sync::Arc};

use parquet::{
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::Result,
    file::{
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    record::Field,
    schema::parser::parse_message_type,
};
use serde_json::{Map, Value};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Text,
    Whole,
    Real,
    Truth,
}

/// Writes rows, each an object with the columns' names.
pub fn write(file: &mut File, columns: &[(&str, Kind)], rows: &[Map<String, Value>]) -> io::Result<()> {
    write_columns(file, columns, rows).map_err(io::Error::other)
}

fn write_columns(file: &mut File, columns: &[(&str, Kind)], rows: &[Map<String, Value>]) -> Result<()> {
    let column = |(name, kind): &(&str, Kind)| {
        let (kind, note) = match kind {
            Kind::Text => ("BYTE_ARRAY", " (UTF8)"),
            Kind::Whole => ("INT64", ""),
            Kind::Real => ("DOUBLE", ""),
            Kind::Truth => ("BOOLEAN", ""),
        };
        format!("OPTIONAL {kind} {name}{note}; ")
    };
    let columns_of_schema: String = columns.iter().map(column).collect();
    let schema = Arc::new(parse_message_type(&format!("message rows {{ {columns_of_schema}}}"))?);
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default()))?;
    let mut group = writer.next_row_group()?;
    for (name, kind) in columns {
        let values: Vec<&Value> = rows.iter().map(|row| row.get(*name).unwrap_or(&Value::Null)).collect();
        let Some(column) = group.next_column()? else { continue };
        match kind {
            Kind::Text => put::<ByteArrayType>(column, &values, |value| value.as_str().map(ByteArray::from))?,
            Kind::Whole => put::<Int64Type>(column, &values, Value::as_i64)?,
            Kind::Real => put::<DoubleType>(column, &values, Value::as_f64)?,
            Kind::Truth => put::<BoolType>(column, &values, Value::as_bool)?,
        }
    }
    group.close()?;
    writer.close().map(drop)
}

/// Writes the values that are there, and where.
fn put<T: DataType>(
    mut column: SerializedColumnWriter,
    values: &[&Value],
    take: impl Fn(&Value) -> Option<T::T>,
) -> Result<()> {
    let values: Vec<Option<T::T>> = values.iter().map(|value| take(value)).collect();
    let there: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    column.typed::<T>().write_batch(&values, Some(&there), None)?;
    column.close()
}

/// Reads the rows of a file.
pub fn read(path: &Path) -> io::Result<Vec<Map<String, Value>>> {
    let reader = SerializedFileReader::new(File::open(path)?).map_err(io::Error::other)?;
    let rows = reader.get_row_iter(None).map_err(io::Error::other)?;
    rows.map(|row| {
        let row = row.map_err(io::Error::other)?;
        Ok(row.get_column_iter().map(|(name, field)| (name.clone(), value_of(field))).collect())
    })
    .collect()
}

fn value_of(field: &Field) -> Value {
    match field {
        Field::Str(text) => text.as_str().into(),
        Field::Long(whole) => (*whole).into(),
        Field::Double(real) => (*real).into(),
        Field::Bool(truth) => (*truth).into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let columns = [("id", Kind::Text), ("n", Kind::Whole), ("share", Kind::Real), ("is", Kind::Truth)];
        let rows = [
            json!({"id": "ä\n", "n": -3, "share": 0.25, "is": true}),
            json!({"id": "", "n": null, "share": null, "is": null}),
            json!({"id": null, "n": 1_i64 << 60, "share": 1e300, "is": false}),
        ];
        let rows = rows.map(|row| row.as_object().unwrap().clone());
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        for rows in [&rows[..], &[]] {
            write(&mut File::create(&path).unwrap(), &columns, rows).unwrap();
            assert_eq!(read(&path).unwrap(), rows);
        }
        std::fs::write(&path, "no table").unwrap();
        assert!(read(&path).is_err());
    }
}

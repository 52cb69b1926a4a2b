//! Rows as lines of JSON: first the names of the columns, then a list of values a row. Text, whole numbers and
//! null are JSON's own; a double always has a point or an exponent; bytes are `{"hex": "…"}`.

use super::{Content, Table, damaged, hex};
use crate::StoreError;
use crate::database::Database;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::any::{AnyRow, AnyTypeInfoKind};
use sqlx::{AnyConnection, AssertSqlSafe, Column, Row, TypeInfo, ValueRef};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

/// Writes every table into `dir`, in the order in which they were made.
pub(super) async fn dump(
    connection: &mut AnyConnection,
    database: &Database,
    dir: &Path,
) -> Result<Vec<Table>, StoreError> {
    let mut tables = Vec::new();
    for name in names(connection, database).await? {
        let path = dir.join(format!("{name}.jsonl"));
        let mut lines = Lines::create(&path)?;
        let mut n_rows = 0;
        {
            let mut rows =
                sqlx::query(AssertSqlSafe(format!("SELECT * FROM {name}"))).fetch(&mut *connection);
            while let Some(row) = rows.try_next().await? {
                if n_rows == 0 {
                    let columns: Vec<_> = row.columns().iter().map(|column| json!(column.name())).collect();
                    lines.write(&Value::Array(columns))?;
                }
                lines.write(&Value::Array(values(&row)?))?;
                n_rows += 1;
            }
        }
        tables.push(Table { name, n_rows, content: lines.finish()? });
    }
    Ok(tables)
}

/// Replaces the rows of `tables` by those in `dir`, which were verified.
pub(super) async fn load(
    connection: &mut AnyConnection,
    database: &Database,
    dir: &Path,
    tables: &[Table],
) -> Result<(), StoreError> {
    if *database == Database::Sqlite {
        sqlx::raw_sql("PRAGMA defer_foreign_keys = ON").execute(&mut *connection).await?;
    }
    // Names come from a file and become part of a statement: only those that the migrations made.
    let known = names(connection, database).await?;
    for table in tables.iter().rev() {
        if !known.contains(&table.name) {
            return Err(damaged(&dir.join(&table.name), &"no table of this schema"));
        }
        let delete = format!("DELETE FROM {}", table.name);
        sqlx::query(AssertSqlSafe(delete)).execute(&mut *connection).await?;
    }
    for table in tables {
        load_table(connection, table, &dir.join(format!("{}.jsonl", table.name))).await?;
    }
    Ok(())
}

async fn load_table(connection: &mut AnyConnection, table: &Table, path: &Path) -> Result<(), StoreError> {
    let file = File::open(path).map_err(|e| StoreError::file("read", path, e))?;
    let mut columns: Vec<String> = Vec::new();
    let mut n_rows = 0;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|e| StoreError::file("read", path, e))?;
        if columns.is_empty() {
            columns = serde_json::from_str(&line).map_err(|e| damaged(path, &e))?;
            let is_name = |name: &String| {
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            };
            if columns.is_empty() || !columns.iter().all(is_name) {
                return Err(damaged(path, &"the first line names no columns"));
            }
            continue;
        }
        let values: Vec<Value> = serde_json::from_str(&line).map_err(|e| damaged(path, &e))?;
        if values.len() != columns.len() {
            return Err(damaged(path, &format!("row {} has {} values", n_rows + 1, values.len())));
        }
        insert(connection, &table.name, &columns, values).await.map_err(|error| match error {
            StoreError::DamagedFile { why, .. } => damaged(path, &format!("row {}: {why}", n_rows + 1)),
            other => other,
        })?;
        n_rows += 1;
    }
    if n_rows != table.n_rows {
        return Err(damaged(path, &format!("{n_rows} rows, backup.json says {}", table.n_rows)));
    }
    Ok(())
}

async fn insert(
    connection: &mut AnyConnection,
    table: &str,
    columns: &[String],
    values: Vec<Value>,
) -> Result<(), StoreError> {
    // A column that is not named is null; a null itself would need the column's type.
    let present: Vec<(&str, Value)> =
        columns.iter().map(String::as_str).zip(values).filter(|(_, value)| !value.is_null()).collect();
    let names: Vec<&str> = present.iter().map(|(name, _)| *name).collect();
    let places: Vec<String> = (1..=present.len()).map(|n| format!("${n}")).collect();
    let insert = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), places.join(", "));
    let mut query = sqlx::query(AssertSqlSafe(insert));
    for (name, value) in &present {
        let wrong = || damaged(Path::new(table), &format!("{name} is {value}"));
        query = match value {
            Value::String(text) => query.bind(text.clone()),
            Value::Number(number) => match number.as_i64() {
                Some(integer) => query.bind(integer),
                None => query.bind(number.as_f64().ok_or_else(wrong)?),
            },
            Value::Object(object) => {
                let text = object.get("hex").and_then(Value::as_str).ok_or_else(wrong)?;
                query.bind(from_hex(text).ok_or_else(wrong)?)
            }
            _ => return Err(wrong()),
        };
    }
    query.execute(connection).await?;
    Ok(())
}

/// The tables of the schema but `schema_versions`, the oldest first.
async fn names(connection: &mut AnyConnection, database: &Database) -> Result<Vec<String>, StoreError> {
    let statement = match database {
        Database::Sqlite => {
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' \
             AND name <> 'schema_versions' ORDER BY rowid"
        }
        Database::Postgres(_) => {
            "SELECT CAST(relname AS TEXT) FROM pg_class WHERE relkind = 'r' \
             AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) \
             AND relname <> 'schema_versions' ORDER BY oid"
        }
    };
    let rows: Vec<(String,)> = sqlx::query_as(statement).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

fn values(row: &AnyRow) -> Result<Vec<Value>, StoreError> {
    (0..row.len()).map(|i| value(row, i)).collect()
}

fn value(row: &AnyRow, i: usize) -> Result<Value, StoreError> {
    let raw = row.try_get_raw(i)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    Ok(match raw.type_info().kind() {
        AnyTypeInfoKind::SmallInt | AnyTypeInfoKind::Integer | AnyTypeInfoKind::BigInt => {
            json!(row.try_get::<i64, _>(i)?)
        }
        AnyTypeInfoKind::Real | AnyTypeInfoKind::Double => json!(row.try_get::<f64, _>(i)?),
        AnyTypeInfoKind::Text => json!(row.try_get::<String, _>(i)?),
        AnyTypeInfoKind::Blob => json!({ "hex": hex(&row.try_get::<Vec<u8>, _>(i)?) }),
        _ => {
            let value = raw.type_info().name().to_owned();
            return Err(StoreError::Damaged { table: "a backed-up table", value });
        }
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).ok()).collect()
}

/// A file of lines that knows its hash.
struct Lines<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl<'a> Lines<'a> {
    fn create(path: &'a Path) -> Result<Self, StoreError> {
        let file = BufWriter::new(crate::files::open_private(path)?);
        Ok(Lines { path, file, hash: Sha256::new(), bytes: 0 })
    }

    fn write(&mut self, value: &Value) -> Result<(), StoreError> {
        let line = format!("{value}\n");
        self.hash.update(line.as_bytes());
        self.bytes += line.len() as u64;
        self.file.write_all(line.as_bytes()).map_err(|e| StoreError::file("write", self.path, e))
    }

    fn finish(self) -> Result<Content, StoreError> {
        let file =
            self.file.into_inner().map_err(|e| StoreError::file("write", self.path, e.into_error()))?;
        file.sync_all().map_err(|e| StoreError::file("write", self.path, e))?;
        Ok(Content { bytes: self.bytes, sha256: hex(&self.hash.finalize()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&hex(&bytes)).unwrap(), bytes);
        for bad in ["0", "zz", "é0"] {
            assert_eq!(from_hex(bad), None);
        }
    }
}

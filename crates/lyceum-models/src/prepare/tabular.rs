//! Rows of a table to numbers: standardised numbers, one-hot categories, declared handling of what is missing.
//!
//! Statistics are fitted elsewhere, from training rows only; this module applies them, in training and in
//! serving alike.

use super::error::{PrepareError, excerpt, listing};
use lyceum_types::spec::Unseen;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One cell of a row, as a file or a request gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    Missing,
    Number(f64),
    Text(&'a str),
}

/// The feature columns in the order of the model's inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Encoder {
    pub columns: Vec<Column>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(flatten)]
    pub code: Code,
}

/// How a column becomes inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Code {
    /// `(x - mean) / std`, one input; with [`NumberMissing::Indicator`] a second one that is 1 where missing.
    Number { mean: f64, std: f64, missing: NumberMissing },
    /// One input a known value; then one for any other value with [`Unseen::Other`]; then one that is 1 where
    /// missing with [`CategoryMissing::Indicator`].
    Category { values: Vec<String>, unseen: Unseen, missing: CategoryMissing },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberMissing {
    Error,
    /// The training rows' mean or median.
    Fill(f64),
    /// The training rows' mean, and a second input that says so.
    Indicator(f64),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CategoryMissing {
    Error,
    /// The training rows' most frequent value.
    Fill(String),
    /// All values 0, and an input that says so.
    Indicator,
}

impl Encoder {
    /// Numbers a row becomes.
    pub fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
    }

    /// The name of each input: `age`, `zip=10115`, `zip=<other>`, `age=<missing>`.
    pub fn input_names(&self) -> Vec<String> {
        self.columns.iter().flat_map(Column::input_names).collect()
    }

    /// Appends one row. `cells` are in the order of `columns`.
    pub fn encode(&self, cells: &[Cell<'_>], out: &mut Vec<f32>) -> Result<(), PrepareError> {
        if cells.len() != self.columns.len() {
            return Err(self.wrong_count(cells.len()));
        }
        for (column, &cell) in self.columns.iter().zip(cells) {
            column.encode(cell, out)?;
        }
        Ok(())
    }

    /// Appends one row given by column names; absent and `null` fields are missing.
    pub fn encode_named(&self, row: &Map<String, Value>, out: &mut Vec<f32>) -> Result<(), PrepareError> {
        if let Some(name) = row.keys().find(|name| !self.columns.iter().any(|c| &c.name == *name)) {
            let names: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
            return Err(PrepareError::new(
                "unknown_field",
                name.as_str(),
                "the model has no such feature",
                format!("remove it; the features are {}", listing(&names)),
            ));
        }
        for column in &self.columns {
            column.encode_value(row.get(&column.name).unwrap_or(&Value::Null), out)?;
        }
        Ok(())
    }

    /// Appends one row given by values in the order of `columns`.
    pub fn encode_ordered(&self, values: &[Value], out: &mut Vec<f32>) -> Result<(), PrepareError> {
        if values.len() != self.columns.len() {
            return Err(self.wrong_count(values.len()));
        }
        for (column, value) in self.columns.iter().zip(values) {
            column.encode_value(value, out)?;
        }
        Ok(())
    }

    fn wrong_count(&self, got: usize) -> PrepareError {
        let names: Vec<String> = self.columns.iter().map(|c| c.name.clone()).collect();
        PrepareError::new(
            "wrong_shape",
            "row",
            format!("{got} values, but the model has {} features", names.len()),
            format!("send them in this order: {}", listing(&names)),
        )
    }
}

impl Column {
    pub fn width(&self) -> usize {
        match &self.code {
            Code::Number { missing, .. } => 1 + usize::from(matches!(missing, NumberMissing::Indicator(_))),
            Code::Category { values, unseen, missing } => {
                values.len()
                    + usize::from(*unseen == Unseen::Other)
                    + usize::from(*missing == CategoryMissing::Indicator)
            }
        }
    }

    /// Whether a value that training never saw has an input of its own.
    pub fn accepts_other(&self) -> bool {
        matches!(&self.code, Code::Category { unseen: Unseen::Other, .. })
    }

    fn input_names(&self) -> Vec<String> {
        let name = &self.name;
        match &self.code {
            Code::Number { missing, .. } => {
                let mut names = vec![name.clone()];
                if matches!(missing, NumberMissing::Indicator(_)) {
                    names.push(format!("{name}=<missing>"));
                }
                names
            }
            Code::Category { values, unseen, missing } => {
                let mut names: Vec<String> = values.iter().map(|v| format!("{name}={v}")).collect();
                if *unseen == Unseen::Other {
                    names.push(format!("{name}=<other>"));
                }
                if *missing == CategoryMissing::Indicator {
                    names.push(format!("{name}=<missing>"));
                }
                names
            }
        }
    }

    fn encode_value(&self, value: &Value, out: &mut Vec<f32>) -> Result<(), PrepareError> {
        match value {
            Value::Null => self.encode(Cell::Missing, out),
            Value::Bool(b) => self.encode(Cell::Text(if *b { "true" } else { "false" }), out),
            Value::Number(n) => match n.as_f64() {
                Some(x) => self.encode(Cell::Number(x), out),
                None => Err(self.not_finite(&n.to_string())),
            },
            Value::String(s) => self.encode(Cell::Text(s), out),
            Value::Array(_) | Value::Object(_) => Err(PrepareError::new(
                "not_a_scalar",
                self.name.as_str(),
                "an array or object stands where a single value belongs",
                "send a number, a string or null",
            )),
        }
    }

    /// Appends this column's inputs for one cell.
    pub fn encode(&self, cell: Cell<'_>, out: &mut Vec<f32>) -> Result<(), PrepareError> {
        match &self.code {
            Code::Number { mean, std, missing } => self.encode_number(cell, (*mean, *std), missing, out),
            Code::Category { values, unseen, missing } => {
                self.encode_category(cell, values, *unseen, missing, out)
            }
        }
    }

    fn encode_number(
        &self,
        cell: Cell<'_>,
        (mean, std): (f64, f64),
        missing: &NumberMissing,
        out: &mut Vec<f32>,
    ) -> Result<(), PrepareError> {
        let (x, indicator) = match (number(cell), missing) {
            (Ok(Some(x)), _) => (x, 0.0),
            (Ok(None), NumberMissing::Fill(fill)) => (*fill, 0.0),
            (Ok(None), NumberMissing::Indicator(fill)) => (*fill, 1.0),
            (Ok(None), NumberMissing::Error) => return Err(self.missing()),
            (Err(NumberProblem::NotFinite(text)), _) => return Err(self.not_finite(&text)),
            (Err(NumberProblem::NotANumber(text)), _) => return Err(self.not_a_number(&text)),
        };
        out.push(((x - mean) / std) as f32);
        if matches!(missing, NumberMissing::Indicator(_)) {
            out.push(indicator);
        }
        Ok(())
    }

    fn encode_category(
        &self,
        cell: Cell<'_>,
        values: &[String],
        unseen: Unseen,
        missing: &CategoryMissing,
        out: &mut Vec<f32>,
    ) -> Result<(), PrepareError> {
        let value = match (category(cell), missing) {
            (Some(value), _) => Some(value),
            (None, CategoryMissing::Fill(fill)) => Some(fill.clone()),
            (None, CategoryMissing::Indicator) => None,
            (None, CategoryMissing::Error) => return Err(self.missing()),
        };
        let start = out.len();
        out.resize(start + self.width(), 0.0);
        let Some(value) = value else {
            *out.last_mut().expect("an indicator column has an input: bug") = 1.0;
            return Ok(());
        };
        // The values are sorted, as `fit` wrote them.
        match values.binary_search(&value) {
            Ok(slot) => out[start + slot] = 1.0,
            Err(_) if unseen == Unseen::Other => out[start + values.len()] = 1.0,
            Err(_) => {
                out.truncate(start);
                return Err(PrepareError::new(
                    "unseen_category",
                    self.name.as_str(),
                    format!("the value {} did not occur in training", excerpt(&value)),
                    format!("use one of {}, or train with unseen = \"other\"", listing(values)),
                ));
            }
        }
        Ok(())
    }

    fn missing(&self) -> PrepareError {
        PrepareError::new(
            "missing_value",
            self.name.as_str(),
            "the value is missing",
            "fill it in, or train with missing = \"mean\", \"median\" or \"indicator\"",
        )
    }

    fn not_a_number(&self, text: &str) -> PrepareError {
        PrepareError::new(
            "not_a_number",
            self.name.as_str(),
            format!("{} is not a number", excerpt(text)),
            format!("write a number, or declare columns = {{ {} = \"category\" }}", toml_key(&self.name)),
        )
    }

    fn not_finite(&self, text: &str) -> PrepareError {
        PrepareError::new(
            "not_finite",
            self.name.as_str(),
            format!("{text} is not a finite number"),
            "leave the field empty where the value is missing and choose how with missing = …",
        )
    }
}

/// Why a cell is not a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberProblem {
    NotANumber(String),
    NotFinite(String),
}

/// The finite number in a cell; None where it is missing. Text is trimmed.
pub fn number(cell: Cell<'_>) -> Result<Option<f64>, NumberProblem> {
    let x = match cell {
        Cell::Missing => return Ok(None),
        Cell::Number(x) => x,
        Cell::Text(text) => {
            let text = text.trim();
            if text.is_empty() {
                return Ok(None);
            }
            text.parse().map_err(|_| NumberProblem::NotANumber(text.to_owned()))?
        }
    };
    // A number that f32 cannot hold would become infinite inside the model.
    if x.is_finite() && x.abs() <= f64::from(f32::MAX) {
        Ok(Some(x))
    } else {
        Err(NumberProblem::NotFinite(format!("{x:e}")))
    }
}

/// The category in a cell; None where it is missing. Text is trimmed; a number is written without a needless
/// fraction, so that `10115` in JSON equals `10115` in csv.
pub fn category(cell: Cell<'_>) -> Option<String> {
    match cell {
        Cell::Missing => None,
        Cell::Number(x) => Some(format!("{x}")),
        Cell::Text(text) => {
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        }
    }
}

/// A column's name as a TOML key.
fn toml_key(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare { name.to_owned() } else { format!("{name:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn encoder() -> Encoder {
        Encoder {
            columns: vec![
                Column {
                    name: "age".into(),
                    code: Code::Number { mean: 40.0, std: 10.0, missing: NumberMissing::Indicator(41.0) },
                },
                Column {
                    name: "zip".into(),
                    code: Code::Category {
                        values: vec!["10115".into(), "20095".into()],
                        unseen: Unseen::Other,
                        missing: CategoryMissing::Indicator,
                    },
                },
            ],
        }
    }

    fn named(encoder: &Encoder, row: Value) -> Result<Vec<f32>, PrepareError> {
        let mut out = Vec::new();
        encoder.encode_named(row.as_object().unwrap(), &mut out)?;
        Ok(out)
    }

    #[test]
    fn numbers_are_standardised_and_categories_are_one_hot() {
        let e = encoder();
        assert_eq!(e.width(), 6);
        assert_eq!(
            e.input_names(),
            ["age", "age=<missing>", "zip=10115", "zip=20095", "zip=<other>", "zip=<missing>"]
        );
        assert_eq!(named(&e, json!({"age": 50, "zip": "20095"})).unwrap(), [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(named(&e, json!({"age": 50, "zip": 10115})).unwrap(), [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(named(&e, json!({"zip": "x"})).unwrap(), [0.1, 1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(named(&e, json!({"age": 40, "zip": null})).unwrap(), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_row_from_csv_text_equals_the_same_row_from_json() {
        let e = encoder();
        let mut from_text = Vec::new();
        e.encode(&[Cell::Text(" 47.25 "), Cell::Text(" 10115")], &mut from_text).unwrap();
        assert_eq!(from_text, named(&e, json!({"age": 47.25, "zip": 10115})).unwrap());
    }

    #[test]
    fn refusals_name_the_field_and_the_fix() {
        let mut e = encoder();
        let error = named(&e, json!({"age": "old", "zip": "10115"})).unwrap_err();
        assert_eq!((error.code, error.field.as_str()), ("not_a_number", "age"));
        let error = named(&e, json!({"age": "NaN", "zip": "10115"})).unwrap_err();
        assert_eq!(error.code, "not_finite");
        let error = named(&e, json!({"age": 1e39, "zip": "10115"})).unwrap_err();
        assert_eq!(error.code, "not_finite");
        let error = named(&e, json!({"agee": 3})).unwrap_err();
        assert_eq!((error.code, error.field.as_str()), ("unknown_field", "agee"));
        assert!(error.fix.contains("age, zip"), "{}", error.fix);
        let error = e.encode_ordered(&[json!(3)], &mut Vec::new()).unwrap_err();
        assert_eq!(error.code, "wrong_shape");
        let Code::Category { unseen, .. } = &mut e.columns[1].code else { unreachable!() };
        *unseen = Unseen::Error;
        let error = named(&e, json!({"age": 1, "zip": "99999"})).unwrap_err();
        assert_eq!(error.code, "unseen_category");
        assert!(error.fix.contains("10115") && error.fix.contains("unseen = \"other\""), "{}", error.fix);
    }
}

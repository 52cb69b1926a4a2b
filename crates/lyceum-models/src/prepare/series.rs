//! Time series to `[steps, channels]` numbers, standardised per channel.

use super::error::{PrepareError, listing};
use super::tabular::{Cell, NumberProblem, number};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A series of `steps` steps with `mean.len()` channels: `(x - mean) / std` per channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub steps: usize,
    pub fields: Fields,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

/// What the names of a request's fields stand for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fields {
    /// Each name holds one number; together they are the series in time order (channels of a step adjacent).
    Steps(Vec<String>),
    /// Each name is a channel and holds an array of `steps` numbers.
    Channels(Vec<String>),
}

impl Series {
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    pub fn len(&self) -> usize {
        self.steps * self.channels()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends numbers in time order, the channels of a step adjacent.
    pub fn encode(
        &self,
        numbers: impl ExactSizeIterator<Item = f64>,
        out: &mut Vec<f32>,
    ) -> Result<(), PrepareError> {
        if numbers.len() != self.len() {
            return Err(self.wrong_count(numbers.len()));
        }
        let (start, channels) = (out.len(), self.channels());
        for (i, x) in numbers.enumerate() {
            if !x.is_finite() {
                out.truncate(start);
                let field = format!("step {} channel {}", i / channels, i % channels);
                return Err(not_finite(&field));
            }
            let c = i % channels;
            out.push(((x - self.mean[c]) / self.std[c]) as f32);
        }
        Ok(())
    }

    /// `[x, x, …]` in time order, or one array of channels a step.
    pub fn encode_ordered(&self, values: &[Value], out: &mut Vec<f32>) -> Result<(), PrepareError> {
        let mut numbers = Vec::with_capacity(self.len());
        for (t, value) in values.iter().enumerate() {
            match value {
                Value::Array(step) => {
                    if step.len() != self.channels() {
                        return Err(PrepareError::new(
                            "wrong_shape",
                            format!("step {t}"),
                            format!("{} numbers, but the model has {} channels", step.len(), self.channels()),
                            "send one number a channel",
                        ));
                    }
                    for x in step {
                        numbers.push(scalar(&format!("step {t}"), x)?);
                    }
                }
                x => numbers.push(scalar(&format!("value {t}"), x)?),
            }
        }
        self.encode(numbers.into_iter(), out)
    }

    pub fn encode_named(&self, row: &Map<String, Value>, out: &mut Vec<f32>) -> Result<(), PrepareError> {
        let (Fields::Steps(names) | Fields::Channels(names)) = &self.fields;
        if let Some(name) = row.keys().find(|name| !names.contains(name)) {
            return Err(PrepareError::new(
                "unknown_field",
                name.as_str(),
                "the model has no such field",
                format!("remove it; the fields are {}", listing(names)),
            ));
        }
        let mut numbers = vec![0.0; self.len()];
        for (i, name) in names.iter().enumerate() {
            let value = row.get(name).unwrap_or(&Value::Null);
            if let Fields::Steps(_) = self.fields {
                numbers[i] = scalar(name, value)?;
                continue;
            }
            let Some(steps) = value.as_array().filter(|steps| steps.len() == self.steps) else {
                return Err(PrepareError::new(
                    "wrong_shape",
                    name.as_str(),
                    format!("not an array of {} numbers", self.steps),
                    format!("send the last {} values of {name}, oldest first", self.steps),
                ));
            };
            for (t, x) in steps.iter().enumerate() {
                numbers[t * names.len() + i] = scalar(&format!("{name}[{t}]"), x)?;
            }
        }
        self.encode(numbers.into_iter(), out)
    }

    fn wrong_count(&self, got: usize) -> PrepareError {
        PrepareError::new(
            "wrong_shape",
            "series",
            format!("{got} numbers, but a series of this model has {}", self.len()),
            format!("send {} steps of {} numbers, oldest first", self.steps, self.channels()),
        )
    }
}

fn scalar(field: &str, value: &Value) -> Result<f64, PrepareError> {
    let cell = match value {
        Value::Number(n) => Cell::Number(n.as_f64().unwrap_or(f64::INFINITY)),
        Value::String(text) => Cell::Text(text),
        Value::Null => Cell::Missing,
        _ => return Err(not_a_number(field, "a value that is no number")),
    };
    match number(cell) {
        Ok(Some(x)) => Ok(x),
        Ok(None) => Err(PrepareError::new(
            "missing_value",
            field,
            "the value is missing",
            "a series may have no gaps: fill it in",
        )),
        Err(NumberProblem::NotFinite(_)) => Err(not_finite(field)),
        Err(NumberProblem::NotANumber(text)) => Err(not_a_number(field, &text)),
    }
}

fn not_finite(field: &str) -> PrepareError {
    PrepareError::new("not_finite", field, "not a finite number", "send finite numbers")
}

fn not_a_number(field: &str, what: &str) -> PrepareError {
    PrepareError::new("not_a_number", field, format!("{what} is not a number"), "send a number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn series() -> Series {
        Series {
            steps: 2,
            fields: Fields::Channels(vec!["a".into(), "b".into()]),
            mean: vec![1.0, 10.0],
            std: vec![2.0, 5.0],
        }
    }

    #[test]
    fn flat_nested_and_named_requests_give_the_same_numbers() {
        let s = series();
        let expected = vec![0.0, 0.0, 1.0, 2.0];
        let (mut flat, mut nested, mut named) = (Vec::new(), Vec::new(), Vec::new());
        s.encode_ordered(json!([1, 10, 3, 20]).as_array().unwrap(), &mut flat).unwrap();
        s.encode_ordered(json!([[1, 10], [3, 20]]).as_array().unwrap(), &mut nested).unwrap();
        s.encode_named(json!({"b": [10, 20], "a": [1, 3]}).as_object().unwrap(), &mut named).unwrap();
        assert_eq!((&flat, &nested, &named), (&expected, &expected, &expected));
    }

    #[test]
    fn gaps_wrong_lengths_and_unknown_fields_are_refused_by_name() {
        let s = series();
        let refused = |row: Value| {
            let error = s.encode_named(row.as_object().unwrap(), &mut Vec::new()).unwrap_err();
            (error.code, error.field)
        };
        assert_eq!(refused(json!({"a": [1, null], "b": [1, 2]})), ("missing_value", "a[1]".into()));
        assert_eq!(refused(json!({"a": [1], "b": [1, 2]})), ("wrong_shape", "a".into()));
        assert_eq!(refused(json!({"a": [1, 2], "b": [1, 2], "c": 3})), ("unknown_field", "c".into()));
        assert_eq!(s.encode([1.0].into_iter(), &mut Vec::new()).unwrap_err().code, "wrong_shape");
    }
}

//! Where Jinja shows that it lives in Python: how values are printed, `json.dumps`, methods of values.

use crate::tokenizer::{MARK_BEGIN, MARK_END};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};
use std::fmt::Write;

/// Nested values are at most this deep.
const DEPTH_MAX: usize = 100;

/// `{{ value }}`.
pub(super) fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number
        && !value.is_integer()
        && let Ok(number) = f64::try_from(value.clone())
    {
        return out.write_str(&float(number)).map_err(Error::from);
    }
    minijinja::escape_formatter(out, state, value)
}

/// `value | string`.
pub(super) fn string(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if value.kind() == ValueKind::Number && !value.is_integer() => float(number),
        _ => value.to_string(),
    }
}

/// `value is iterable`; none is not.
pub(super) fn is_iterable(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
}

/// Methods of strings, lists and dicts.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let text = |i: usize| arguments.get(i).and_then(Value::as_str);
    match (value.as_str(), name, arguments.len()) {
        (Some(whole), "removeprefix", 1) => {
            let prefix = text(0).ok_or_else(|| not_a_string(name))?;
            Ok(Value::from(whole.strip_prefix(prefix).unwrap_or(whole)))
        }
        (Some(whole), "removesuffix", 1) => {
            let suffix = text(0).ok_or_else(|| not_a_string(name))?;
            Ok(Value::from(whole.strip_suffix(suffix).unwrap_or(whole)))
        }
        (Some(whole), "partition", 1) => {
            let by = text(0).filter(|by| !by.is_empty()).ok_or_else(|| not_a_string(name))?;
            let parts = whole.split_once(by).map_or([whole, "", ""], |(left, right)| [left, by, right]);
            Ok(Value::from_iter(parts))
        }
        (Some(whole), "rpartition", 1) => {
            let by = text(0).filter(|by| !by.is_empty()).ok_or_else(|| not_a_string(name))?;
            let parts = whole.rsplit_once(by).map_or(["", "", whole], |(left, right)| [left, by, right]);
            Ok(Value::from_iter(parts))
        }
        (Some(whole), "rsplit", 2) => {
            let by = text(0).filter(|by| !by.is_empty()).ok_or_else(|| not_a_string(name))?;
            let n = usize::try_from(arguments[1].clone())?;
            let mut parts: Vec<&str> = whole.rsplitn(n.saturating_add(1), by).collect();
            parts.reverse();
            Ok(Value::from_iter(parts))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

fn not_a_string(method: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{method} needs a string that is not empty"))
}

/// `json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &mut State<'_, '_>, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(value) if value.is_none() || value.is_undefined() => None,
        Some(value) => match value.as_str() {
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(usize::try_from(value)?.min(64))),
        },
        None => None,
    };
    let mut separators = match indent {
        Some(_) => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    if let Some(given) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(given)
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings"))?;
        separators = (item, key);
    }
    let json = Json {
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        separators,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    json.write(&mut out, value, 0)?;
    state.consume_fuel((out.len() / 64) as u64)?;
    Ok(Value::from(out))
}

struct Json {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    separators: (String, String),
}

impl Json {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: the value is nested too deep"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => {
                let _ = write!(out, "{value}");
            }
            ValueKind::Number => match f64::try_from(value.clone())? {
                number if number.is_nan() => out.push_str("NaN"),
                number if number.is_infinite() => {
                    out.push_str(if number > 0.0 { "Infinity" } else { "-Infinity" })
                }
                number => out.push_str(&float(number)),
            },
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect::<Vec<_>>();
                self.write_many(out, ('[', ']'), items.len(), depth, |out, i| {
                    self.write(out, &items[i], depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.collect::<Vec<_>>();
                if self.sort_keys {
                    keys.sort_by_key(ToString::to_string);
                }
                self.write_many(out, ('{', '}'), keys.len(), depth, |out, i| {
                    self.write_string(out, &keys[i].to_string());
                    out.push_str(&self.separators.1);
                    self.write(out, &value.get_item(&keys[i])?, depth + 1)
                })?;
            }
            other => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {other} is not JSON")));
            }
        }
        Ok(())
    }

    fn write_many(
        &self,
        out: &mut String,
        around: (char, char),
        n: usize,
        depth: usize,
        mut write: impl FnMut(&mut String, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(around.0);
        for i in 0..n {
            if i > 0 {
                out.push_str(&self.separators.0);
            }
            self.new_line(out, depth + 1);
            write(out, i)?;
        }
        if n > 0 {
            self.new_line(out, depth);
        }
        out.push(around.1);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{C}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (c == '\u{7F}' && self.ensure_ascii) => {
                    let _ = write!(out, "\\u{:04x}", c as u32);
                }
                // Marks of guarded tokens are not part of the text.
                c if self.ensure_ascii && !c.is_ascii() && c != MARK_BEGIN && c != MARK_END => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits that read back, scientific below 1e-4 and from 1e16.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan".into()
        } else if number > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent: bug");
    let exponent: i32 = exponent.parse().expect("the exponent is a number: bug");
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9999999999999998.0, "9999999999999998.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e100, "1e+100"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}

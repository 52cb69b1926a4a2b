//! Calls that are written as Python's: `[name(key=value, …), …]`, or a line each.
//!
//! Only what is data is read: names of arguments and literals. A call without names for its arguments, or with
//! anything that would have to be computed, is none.

use serde_json::{Map, Number, Value as Json};

/// Values lie in each other at most this deep.
const DEPTH_MAX: usize = 64;

/// Names and arguments of the calls in `text`: a list of calls, or calls with line ends or `;` between them.
pub(super) fn calls(text: &str) -> Option<Vec<(String, Json)>> {
    let mut reader = Reader { rest: text.trim(), ends_line: false };
    let mut calls = Vec::new();
    if reader.take("[") {
        while !reader.take("]") {
            calls.push(reader.call()?);
            if !reader.take(",") && !reader.rest.starts_with(']') {
                return None;
            }
        }
    } else {
        while !reader.rest.is_empty() {
            calls.push(reader.call()?);
            let ends_line = reader.rest.is_empty() || reader.ends_line;
            if !ends_line && !reader.take(";") {
                return None;
            }
        }
    }
    reader.rest.is_empty().then_some(calls)
}

/// Letters of a function's or an argument's name at the beginning of `text`.
pub(super) fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')).unwrap_or(text.len());
    &text[..end]
}

struct Reader<'a> {
    rest: &'a str,
    /// A line ended in the space that was skipped last.
    ends_line: bool,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        let rest = self.rest.trim_start();
        self.ends_line = self.rest[..self.rest.len() - rest.len()].contains('\n');
        self.rest = rest;
    }

    fn take(&mut self, text: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(text) else { return false };
        self.rest = rest;
        self.skip_space();
        true
    }

    fn name(&mut self) -> Option<&'a str> {
        let name = name_at(self.rest);
        self.rest = &self.rest[name.len()..];
        self.skip_space();
        let begins = name.chars().next()?;
        (begins.is_alphabetic() || begins == '_').then_some(name)
    }

    fn call(&mut self) -> Option<(String, Json)> {
        let name = self.name()?.to_owned();
        if !self.take("(") {
            return None;
        }
        let mut arguments = Map::new();
        while !self.take(")") {
            let key = self.name()?.to_owned();
            if !self.take("=") || self.rest.starts_with('=') {
                return None;
            }
            let value = self.value(0)?;
            if arguments.insert(key, value).is_some() {
                return None;
            }
            if !self.take(",") && !self.rest.starts_with(')') {
                return None;
            }
        }
        Some((name, Json::Object(arguments)))
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.rest.chars().next()? {
            '"' | '\'' => self.string().map(Json::String),
            '[' => self.values('[', ']', depth),
            '(' => self.values('(', ')', depth),
            '{' => self.dict(depth),
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            _ => match self.name()? {
                "True" | "true" => Some(Json::Bool(true)),
                "False" | "false" => Some(Json::Bool(false)),
                "None" | "null" => Some(Json::Null),
                _ => None,
            },
        }
    }

    fn values(&mut self, open: char, close: char, depth: usize) -> Option<Json> {
        let close = String::from(close);
        self.take(open.encode_utf8(&mut [0; 4]));
        let mut values = Vec::new();
        while !self.take(&close) {
            values.push(self.value(depth + 1)?);
            if !self.take(",") && !self.rest.starts_with(&close) {
                return None;
            }
        }
        Some(Json::Array(values))
    }

    fn dict(&mut self, depth: usize) -> Option<Json> {
        self.take("{");
        let mut members = Map::new();
        while !self.take("}") {
            let key = self.string()?;
            if !self.take(":") {
                return None;
            }
            let value = self.value(depth + 1)?;
            members.insert(key, value);
            if !self.take(",") && !self.rest.starts_with('}') {
                return None;
            }
        }
        Some(Json::Object(members))
    }

    fn number(&mut self) -> Option<Json> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | '_');
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let text: String = self.rest[..end].chars().filter(|&c| c != '_').collect();
        self.rest = &self.rest[end..];
        self.skip_space();
        let plain = text.strip_prefix('+').unwrap_or(&text);
        if let Ok(number) = serde_json::from_str::<Number>(plain) {
            return Some(Json::Number(number));
        }
        // `.5`, `1.` and no word: `inf`, `nan`.
        let is_number = plain.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E'));
        Number::from_f64(plain.parse().ok().filter(|_| is_number)?).map(Json::Number)
    }

    fn string(&mut self) -> Option<String> {
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[1 + i + 1..];
                    self.skip_space();
                    return Some(text);
                }
                '\\' => {
                    let (_, c) = chars.next()?;
                    match c {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        '\n' => {}
                        'u' => text.push(unicode(&mut chars)?),
                        'x' => text.push(char::from(hex(&mut chars, 2)? as u8)),
                        '\\' | '\'' | '"' | '/' => text.push(c),
                        // Python keeps the backslash of what it does not know.
                        other => text.extend(['\\', other]),
                    }
                }
                '\n' => return None,
                c => text.push(c),
            }
        }
        None
    }
}

fn hex(chars: &mut std::str::CharIndices<'_>, n: usize) -> Option<u32> {
    (0..n).try_fold(0, |number, _| Some(number * 16 + chars.next()?.1.to_digit(16)?))
}

/// `\u` and four hexadecimal digits, or two of them that are one character, as JSON writes them.
fn unicode(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    let first = hex(chars, 4)?;
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first);
    }
    if chars.next()?.1 != '\\' || chars.next()?.1 != 'u' {
        return None;
    }
    let second = hex(chars, 4)?.checked_sub(0xDC00).filter(|&low| low < 0x400)?;
    char::from_u32(0x10000 + ((first - 0xD800) << 10) + second)
}

#[cfg(test)]
mod tests {
    use super::calls;
    use serde_json::json;

    #[test]
    fn literals_are_read_and_nothing_is_computed() {
        let text = r#"[f(a="x\"é\u00e9\ud83d\ude00\x41", b='it\'s', c=-1.5e3, d=[1, (2, 3),], e={"k": None, 'l': True}), g()]"#;
        let arguments =
            json!({"a": "x\"éé😀A", "b": "it's", "c": -1.5e3, "d": [1, [2, 3]], "e": {"k": null, "l": true}});
        assert_eq!(calls(text).unwrap(), [("f".to_owned(), arguments), ("g".to_owned(), json!({}))]);
        assert_eq!(calls("f(a=.5)\ng(b=1_000)\n").unwrap()[1].1, json!({"b": 1000}));
        assert_eq!(calls("f(a=1); g()").unwrap().len(), 2);
        for wrong in [
            "f(1)",
            "f(a=b)",
            "f(a=1+1)",
            "f(a=nan)",
            "f(a=1, a=2)",
            "f(a==1)",
            "f(a=\"x)",
            "f(a=1) g()",
            "[f()",
            "f",
            "f(a=g())",
            "1()",
            "[f() g()]",
            "f(a=\"\\ud83dx\")",
            "",
            "[f()] x",
        ] {
            let found = calls(wrong);
            assert!(found.is_none_or(|calls| calls.is_empty()), "{wrong}");
        }
        assert!(calls(&format!("f(a={}", "[".repeat(100_000))).is_none());
    }
}

//! What a batch asks, a line each: `{"custom_id", "method": "POST", "url", "body": {…}}`.
//!
//! One pass finds every error and holds no bodies. The same judgement is made when the file comes and again when a batch
//! begins, which knows its endpoint and the models of its project.

use super::Endpoint;
use crate::ServiceError;
use lyceum_store::vault::Contents;
use lyceum_train::data::report::{Issue, Place, Report};
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{BufRead, BufReader, Read};

/// A line that is a request, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// Where it begins in the file, and its bytes without the line break.
    pub at: u64,
    pub bytes: u64,
    pub custom_id: String,
    pub model: String,
}

/// What stands in a line.
#[derive(Deserialize)]
pub struct Asked {
    pub custom_id: String,
    pub body: Map<String, Value>,
}

/// Every line that is a request, and what is wrong with the others. Reads a file.
///
/// # Errors
/// The disk.
pub fn judge(
    contents: &Contents,
    shown: &str,
    endpoint: Option<Endpoint>,
) -> Result<(Vec<Line>, Report), ServiceError> {
    let failed = |error| ServiceError::internal("reading a batch", error);
    let mut reader = BufReader::with_capacity(1 << 20, contents.reader());
    let mut judge = Judge { shown, endpoint, ids: HashMap::new(), report: Report::default(), number: 0 };
    let (mut lines, mut text, mut at) = (Vec::new(), Vec::new(), 0);
    loop {
        text.clear();
        let most = limits::BODY_BYTES_MAX as u64 + 1;
        let n = (&mut reader).take(most).read_until(b'\n', &mut text).map_err(failed)? as u64;
        if n == 0 {
            break;
        }
        judge.number += 1;
        let is_first = judge.number == 1;
        if judge.number > limits::BATCH_LINES_MAX as u64 {
            let message = format!("a batch has {} lines at most", limits::BATCH_LINES_MAX);
            judge.say("", "too_many_requests", message, "make it several batches");
            break;
        }
        if n == most && !text.ends_with(b"\n") {
            let message = format!("the line is longer than {} bytes", limits::BODY_BYTES_MAX);
            judge.say("", "line_too_long", message, "write one JSON object a line");
            break;
        }
        let body = text.strip_suffix(b"\n").unwrap_or(&text);
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        let body = match body.strip_prefix(b"\xEF\xBB\xBF") {
            Some(rest) if is_first => {
                let hint = "save it as UTF-8 without a byte order mark (BOM)";
                judge.say("", "byte_order_mark", "the file begins with a byte order mark", hint);
                rest
            }
            _ => body,
        };
        if let Some((custom_id, model)) = judge.line(body, at) {
            lines.push(Line { number: judge.number, at, bytes: body.len() as u64, custom_id, model });
        }
        at += n;
    }
    if judge.number == 0 {
        let hint = "write one request a line, as {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {…}}";
        judge.report.push(Issue::new(shown, "empty_file", "the file is empty", hint));
    }
    Ok((lines, judge.report))
}

struct Judge<'a> {
    shown: &'a str,
    /// That of the batch; else that of the first line that has one.
    endpoint: Option<Endpoint>,
    /// The line that has each `custom_id`.
    ids: HashMap<String, u64>,
    report: Report,
    number: u64,
}

impl Judge<'_> {
    fn say(&mut self, pointer: &str, code: &str, message: impl Into<String>, hint: impl Into<String>) {
        let issue = Issue::new(self.shown, code, message, hint).at(Place::Line(self.number));
        self.report.push(if pointer.is_empty() { issue } else { issue.pointer(pointer) });
    }

    /// The `custom_id` and the model of a line without errors.
    fn line(&mut self, text: &[u8], at: u64) -> Option<(String, String)> {
        let before = self.report.n_errors();
        if text.iter().all(u8::is_ascii_whitespace) {
            self.say("", "blank_line", "the line is blank", "remove it");
            return None;
        }
        if let Err(error) = std::str::from_utf8(text) {
            let byte = error.valid_up_to() as u64;
            let message = format!("is not UTF-8 at byte {byte} of the line (byte {} of the file)", at + byte);
            self.say("", "not_utf8", message, "save the file as UTF-8");
            return None;
        }
        let object = match serde_json::from_slice::<Value>(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => {
                let hint = "write {\"custom_id\": …, \"method\": \"POST\", \"url\": …, \"body\": {…}}";
                self.say("", "not_an_object", "the line is no JSON object", hint);
                return None;
            }
            Err(error) => {
                let byte = error.column().saturating_sub(1).min(text.len()) as u64;
                let said = error.to_string();
                let said = said.split(" at line").next().unwrap_or_default();
                let message = format!(
                    "is not JSON at byte {byte} of the line (byte {} of the file): {said}",
                    at + byte
                );
                self.say(
                    "",
                    "invalid_json",
                    message,
                    "write one JSON object a line, without line breaks in it",
                );
                return None;
            }
        };
        for key in object.keys().filter(|key| !["custom_id", "method", "url", "body"].contains(&key.as_str()))
        {
            let key: String = key.chars().take(64).collect();
            let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
            let message = format!("\"{key}\" means nothing here");
            self.say(&pointer, "unknown_key", message, "there are custom_id, method, url and body");
        }
        let custom_id = self.custom_id(object.get("custom_id"));
        self.method(object.get("method"));
        self.url(object.get("url"));
        let model = self.body(object.get("body"));
        if self.report.n_errors() > before { None } else { Some((custom_id?, model?)) }
    }

    fn custom_id(&mut self, id: Option<&Value>) -> Option<String> {
        let (pointer, most) = ("/custom_id", limits::BATCH_CUSTOM_ID_CHARS_MAX);
        let Some(id) = id.and_then(Value::as_str).filter(|id| !id.is_empty()) else {
            let code = if id.is_none() { "missing_custom_id" } else { "invalid_custom_id" };
            self.say(pointer, code, "custom_id is no text", "give each line a text that no other line has");
            return None;
        };
        if id.chars().count() > most {
            self.say(
                pointer,
                "invalid_custom_id",
                format!("custom_id is longer than {most} characters"),
                "shorten it",
            );
            return None;
        }
        match self.ids.entry(id.to_owned()) {
            Entry::Vacant(free) => {
                free.insert(self.number);
                Some(id.to_owned())
            }
            Entry::Occupied(taken) => {
                let message = format!("custom_id is that of line {}", taken.get());
                self.say(
                    pointer,
                    "duplicate_custom_id",
                    message,
                    "give each line a text that no other line has",
                );
                None
            }
        }
    }

    fn method(&mut self, method: Option<&Value>) {
        if method.and_then(Value::as_str) != Some("POST") {
            let code = if method.is_none() { "missing_method" } else { "invalid_method" };
            self.say("/method", code, "method is not \"POST\"", "write \"method\": \"POST\"");
        }
    }

    fn url(&mut self, url: Option<&Value>) {
        let Some(url) = url.and_then(Value::as_str) else {
            let code = if url.is_none() { "missing_url" } else { "invalid_url" };
            self.say("/url", code, "url is no text", format!("write one of {}", Endpoint::all()));
            return;
        };
        match (Endpoint::parse(url), self.endpoint) {
            (None, _) => {
                let url: String = url.chars().take(64).collect();
                let message = format!("a batch asks nothing of {url:?}");
                self.say("/url", "invalid_url", message, format!("write one of {}", Endpoint::all()));
            }
            (Some(own), Some(first)) if own != first => {
                let message = format!("the url is {}, and the batch asks {}", own.as_str(), first.as_str());
                self.say("/url", "mismatched_url", message, "one endpoint a batch: make it several");
            }
            (own, _) => self.endpoint = own,
        }
    }

    fn body(&mut self, body: Option<&Value>) -> Option<String> {
        let Some(body) = body.and_then(Value::as_object) else {
            let code = if body.is_none() { "missing_body" } else { "invalid_body" };
            self.say("/body", code, "body is no object", "write what the endpoint is asked");
            return None;
        };
        for key in ["stream", "background"] {
            if body.get(key).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false))) {
                let message = format!("{key} means nothing in a batch: its answers are whole");
                self.say(&format!("/body/{key}"), "invalid_body", message, "leave it out");
            }
        }
        let model = body.get("model").and_then(Value::as_str).map(str::to_owned);
        if model.is_none() {
            self.say("/body/model", "missing_model", "model is no text", "name a model of GET /v1/models");
        }
        model
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &[u8], endpoint: Option<Endpoint>) -> (Vec<Line>, Report) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("batch.jsonl");
        std::fs::write(&path, text).unwrap();
        let contents = Contents::Plain(std::fs::File::open(&path).unwrap());
        judge(&contents, "batch.jsonl", endpoint).unwrap()
    }

    fn line(id: &str, url: &str, body: &str) -> String {
        format!("{{\"custom_id\":\"{id}\",\"method\":\"POST\",\"url\":\"{url}\",\"body\":{body}}}")
    }

    #[test]
    fn lines_are_found_where_they_are() {
        let all = [
            line("a", "/v1/completions", "{\"model\":\"m\"}"),
            line("bé", "/v1/completions", "{\"model\":\"n\"}"),
        ];
        for end in ["\n", "\r\n"] {
            for last in [end, ""] {
                let text = format!("{}{last}", all.join(end));
                let (lines, report) = judged(text.as_bytes(), Some(Endpoint::Completions));
                assert!(report.is_empty(), "{report}");
                for (i, found) in lines.iter().enumerate() {
                    let at = found.at as usize;
                    assert_eq!(&text[at..at + found.bytes as usize], all[i]);
                    assert_eq!(found.number, i as u64 + 1);
                }
                let names: Vec<(&str, &str)> =
                    lines.iter().map(|line| (line.custom_id.as_str(), line.model.as_str())).collect();
                assert_eq!(names, [("a", "m"), ("bé", "n")]);
            }
        }
    }

    #[test]
    fn every_error_has_its_line_its_pointer_and_a_hint() {
        let ok = line("ok", "/v1/completions", "{\"model\":\"m\"}");
        let check = |text: &str, pointer: Option<&str>, code: &str| {
            let (lines, report) = judged(format!("{ok}\n{text}\n").as_bytes(), None);
            assert_eq!(lines.len(), 1, "{text}");
            assert_eq!(report.errors.len(), 1, "{text}: {report}");
            let issue = &report.errors[0];
            assert_eq!(
                (issue.line, issue.pointer.as_deref(), issue.code.as_str()),
                (Some(2), pointer, code),
                "{text}"
            );
            assert!(!issue.hint.is_empty() && !issue.message.is_empty());
        };
        let body = "{\"model\":\"m\"}";
        let url = "/v1/completions";
        check("  ", None, "blank_line");
        check("{\"custom_id\": tru}", None, "invalid_json");
        check("[]", None, "not_an_object");
        check(&line("ok", url, body), Some("/custom_id"), "duplicate_custom_id");
        check(&line("", url, body), Some("/custom_id"), "invalid_custom_id");
        check(&line(&"x".repeat(513), url, body), Some("/custom_id"), "invalid_custom_id");
        check(&line("b", "/v1/rerank", body), Some("/url"), "invalid_url");
        check(&line("b", "/v1/embeddings", body), Some("/url"), "mismatched_url");
        check(&line("b", url, "[]"), Some("/body"), "invalid_body");
        check(&line("b", url, "{}"), Some("/body/model"), "missing_model");
        check(&line("b", url, "{\"model\":\"m\",\"stream\":true}"), Some("/body/stream"), "invalid_body");
        check(&line("b", url, body).replace("POST", "GET"), Some("/method"), "invalid_method");
        // Both that it is unknown and what is missing then.
        let (_, report) = judged(line("b", url, body).replace("\"method\"", "\"verb\"").as_bytes(), None);
        assert_eq!(report.counts.keys().collect::<Vec<_>>(), ["missing_method", "unknown_key"]);
    }

    #[test]
    fn where_json_breaks_is_told_in_the_line_and_in_the_file() {
        let ok = line("ok", "/v1/completions", "{\"model\":\"m\"}");
        let (_, report) = judged(format!("{ok}\n{{\"a\": nope}}\n").as_bytes(), None);
        let at = ok.len() + 1;
        assert!(
            report.errors[0]
                .message
                .contains(&format!("at byte 7 of the line (byte {} of the file)", at + 7)),
            "{report}"
        );
        let (_, report) = judged(b"\xEF\xBB\xBF\n", None);
        assert_eq!(report.counts.keys().collect::<Vec<_>>(), ["blank_line", "byte_order_mark"]);
        assert_eq!(judged(b"", None).1.errors[0].code, "empty_file");
    }

    #[test]
    fn ten_thousand_bad_lines_are_a_hundred_errors_and_counts() {
        let text = "{\"custom_id\": 3}\nnope\n".repeat(5000);
        let (lines, report) = judged(text.as_bytes(), None);
        assert!(lines.is_empty());
        assert_eq!(report.errors.len(), limits::DATA_ERRORS_SHOWN_MAX);
        let count = |code: &str| report.counts[code];
        assert_eq!(
            (count("invalid_json"), count("invalid_custom_id"), count("missing_body")),
            (5000, 5000, 5000)
        );
        let many = format!("{}\n", line("a", "/v1/completions", "{\"model\":\"m\"}"))
            .repeat(limits::BATCH_LINES_MAX + 2);
        let (_, report) = judged(many.as_bytes(), None);
        assert_eq!(
            (report.counts["too_many_requests"], report.counts["duplicate_custom_id"]),
            (1, limits::BATCH_LINES_MAX as u64 - 1)
        );
    }
}

//! Finds the calls in an answer, as its text comes.
//!
//! A call is told when it is whole. What looks like one and is none (broken JSON, a tool that was not offered, an
//! answer that was cut) is content, letter by letter: nothing that a model said is dropped. White space before a call
//! and after the last belongs to nothing. How the text was cut into pieces changes nothing. Formats without a marker
//! read JSON and Python's calls alike.

use super::{CallIds, Tool, ToolCall, ToolFormat};
use crate::held::{FENCE, ValueScan, Written, held_back, held_space};
use serde_json::Value as Json;

/// The language of a fenced block, and the name and id before a call's JSON, are at most this long.
const LANGUAGE_BYTES_MAX: usize = 16;
const HEAD_BYTES_MAX: usize = 256;

/// The name of an argument that `text` begins with, as Python's calls have it.
pub(super) fn name_of_python(text: &str) -> Option<&str> {
    Some(python::name_at(text)).filter(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
}

/// What an answer consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Content(String),
    Call(ToolCall),
}

/// How many calls an answer may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// `parallel_tool_calls` is false.
    One,
    Any,
}

/// Finds the calls in one answer.
#[derive(Clone, Debug)]
pub struct ToolParser {
    format: ToolFormat,
    names: Vec<String>,
    calls: Calls,
    ids: CallIds,
    n_calls: usize,
    state: State,
    held: String,
}

#[derive(Clone, Debug)]
enum State {
    /// Formats without a marker: the answer has not begun.
    Beginning,
    /// Text in which a marker may come.
    Text,
    /// After a marker, which is given back should no call follow.
    Call { opened: String, scan: ValueScan },
    /// Formats without a marker: it is text to the end.
    Plain,
    /// The one call that was asked for has been made.
    Done,
}

impl ToolParser {
    /// `seed` makes the ids of the calls.
    pub fn new(format: ToolFormat, tools: &[Tool], calls: Calls, seed: u64) -> Self {
        ToolParser {
            format,
            names: tools.iter().map(|tool| tool.name.clone()).collect(),
            calls,
            ids: CallIds::new(seed, format),
            n_calls: 0,
            state: match format {
                ToolFormat::Hermes | ToolFormat::Mistral => State::Text,
                _ => State::Beginning,
            },
            held: String::new(),
        }
    }

    /// What is certain with this text.
    pub fn push(&mut self, text: &str) -> Vec<Event> {
        self.held.push_str(text);
        let mut events = Vec::new();
        while self.step(&mut events, false) {}
        events
    }

    /// What is left at the end.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.step(&mut events, true) {}
        events
    }

    /// Calls so far.
    pub fn n_calls(&self) -> usize {
        self.n_calls
    }

    /// The one call that was asked for has been made: the answer can end here.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn marker(&self) -> &'static str {
        match self.format {
            ToolFormat::Hermes => "<tool_call>",
            ToolFormat::Mistral => "[TOOL_CALLS]",
            ToolFormat::Llama3 => "<|python_tag|>",
            ToolFormat::Json | ToolFormat::Pythonic | ToolFormat::ToolCode => FENCE,
        }
    }

    /// One transition; false where more text is needed.
    fn step(&mut self, events: &mut Vec<Event>, last: bool) -> bool {
        match self.state {
            State::Beginning => self.begin(last),
            State::Text => self.text(events, last),
            State::Call { .. } => self.call(events, last),
            State::Plain => {
                content(events, std::mem::take(&mut self.held));
                false
            }
            State::Done => {
                self.held.clear();
                false
            }
        }
    }

    /// The first word decides between a call and text.
    fn begin(&mut self, last: bool) -> bool {
        let space = self.held.len() - self.held.trim_start().len();
        let words = &self.held[space..];
        let marker = self.marker();
        let mut opened = self.held[..space].to_owned();
        if let Some(after) = words.strip_prefix(marker) {
            // The language of a fenced block stands before the line's end.
            let language = match (marker, after.find('\n')) {
                (FENCE, Some(end)) if end <= LANGUAGE_BYTES_MAX => end,
                (FENCE, None) if after.len() <= LANGUAGE_BYTES_MAX && !last => return false,
                (FENCE, _) => return self.plain(),
                _ => 0,
            };
            opened.push_str(&words[..marker.len() + language]);
        } else if marker.starts_with(words) && !last {
            return false;
        }
        let after = self.held[opened.len()..].trim_start();
        if after.is_empty() && !last {
            return false;
        }
        self.held.drain(..opened.len());
        self.state = State::Call { opened, scan: ValueScan::default() };
        true
    }

    fn plain(&mut self) -> bool {
        self.state = State::Plain;
        true
    }

    fn text(&mut self, events: &mut Vec<Event>, last: bool) -> bool {
        let marker = self.marker();
        if let Some(at) = self.held.find(marker) {
            let before = self.held[..at].trim_end();
            // Should no call follow, the space before the marker is content.
            let opened = self.held[before.len()..at + marker.len()].to_owned();
            content(events, before.to_owned());
            self.held.drain(..at + marker.len());
            self.state = State::Call { opened, scan: ValueScan::default() };
            return true;
        }
        if last {
            let text = std::mem::take(&mut self.held);
            if self.n_calls == 0 || !text.trim().is_empty() {
                content(events, text);
            }
            return false;
        }
        let certain = self.held.len() - held_back(&self.held, marker);
        let certain = certain - held_space(&self.held[..certain]);
        content(events, self.held.drain(..certain).collect());
        false
    }

    fn call(&mut self, events: &mut Vec<Event>, last: bool) -> bool {
        let State::Call { opened, scan } = &mut self.state else {
            unreachable!("only then is it called: bug")
        };
        let head = match call_head(self.format, &self.names, opened, &self.held) {
            Head::At(head) => head,
            Head::NotYet if !last => return false,
            Head::NotYet | Head::Never => return self.no_call(events),
        };
        let at = head.at;
        let end = match scan.end(&self.held[at..], head.written) {
            Some(end) => at + end,
            None if !last => return false,
            // A block that was not closed.
            None if head.written == Written::PythonBlock => self.held.len(),
            None => return self.no_call(events),
        };
        let Some(closed) = self.close(end, last) else { return false };
        let read = match (&head.name, head.written) {
            (Some(name), _) => with_name(name, &self.held[at..]),
            (None, Written::Json) => calls_of(&self.held[at..]),
            (None, _) => python::calls(&self.held[at..end]),
        };
        let known = |calls: &Vec<(String, Json)>| calls.iter().all(|(name, _)| self.names.contains(name));
        let Some(calls) = read.filter(|calls| !calls.is_empty() && known(calls)) else {
            return self.no_call(events);
        };
        for (name, arguments) in calls {
            self.n_calls += 1;
            let call = ToolCall { id: self.ids.draw(), name, arguments: arguments.to_string() };
            events.push(Event::Call(call));
            if self.calls == Calls::One {
                self.state = State::Done;
                return true;
            }
        }
        self.held.drain(..closed);
        self.state = match self.format {
            ToolFormat::Hermes | ToolFormat::Mistral => State::Text,
            _ => State::Call { opened: String::new(), scan: ValueScan::default() },
        };
        true
    }

    /// The end of a call with what closes it; `None` where that may still come.
    fn close(&self, end: usize, last: bool) -> Option<usize> {
        let closer = match self.format {
            ToolFormat::Hermes => "</tool_call>",
            ToolFormat::Json | ToolFormat::Pythonic | ToolFormat::ToolCode => FENCE,
            ToolFormat::Llama3 => ";",
            ToolFormat::Mistral => return Some(end),
        };
        let rest = &self.held[end..];
        let words = rest.trim_start();
        match words.starts_with(closer) {
            true => Some(self.held.len() - words.len() + closer.len()),
            false if closer.starts_with(words) && !last => None,
            false => Some(end),
        }
    }

    /// What was held for a call is content.
    fn no_call(&mut self, events: &mut Vec<Event>) -> bool {
        let State::Call { opened, .. } = std::mem::replace(&mut self.state, State::Text) else {
            unreachable!("only then is it called: bug")
        };
        match self.format {
            ToolFormat::Hermes | ToolFormat::Mistral => {
                // Text goes on after the marker, and another marker may follow.
                content(events, opened);
            }
            _ => {
                self.held.insert_str(0, &opened);
                if self.n_calls > 0 && self.held.trim().is_empty() {
                    self.held.clear();
                }
                self.state = State::Plain;
            }
        }
        true
    }
}

fn content(events: &mut Vec<Event>, text: String) {
    if !text.is_empty() {
        events.push(Event::Content(text));
    }
}

/// Where a call's JSON begins, after the name that some formats write before it.
enum Head {
    At(CallHead),
    NotYet,
    Never,
}

struct CallHead {
    name: Option<String>,
    at: usize,
    written: Written,
}

fn call_head(format: ToolFormat, names: &[String], opened: &str, text: &str) -> Head {
    let words = text.trim_start();
    let at = text.len() - words.len();
    let json = Head::At(CallHead { name: None, at, written: Written::Json });
    let has_marker = matches!(format, ToolFormat::Hermes | ToolFormat::Mistral);
    match words.chars().next() {
        None => Head::NotYet,
        Some('{') => json,
        Some('[') if has_marker => json,
        Some('[') => match words[1..].trim_start().chars().next() {
            None => Head::NotYet,
            Some(c) if c.is_alphabetic() || c == '_' => {
                python_head(names, words[1..].trim_start(), at, Written::PythonList)
            }
            Some(_) if format == ToolFormat::Llama3 => Head::Never,
            Some(_) => json,
        },
        Some(c) if opened.contains(FENCE) && !has_marker && (c.is_alphabetic() || c == '_') => {
            python_head(names, words, at, Written::PythonBlock)
        }
        Some(_) if format == ToolFormat::Mistral => {
            // name[CALL_ID]id[ARGS]{…}, name[ARGS]{…} or name{…}
            let Some(brace) = words.find('{').filter(|&brace| brace <= HEAD_BYTES_MAX) else {
                return if words.len() > HEAD_BYTES_MAX { Head::Never } else { Head::NotYet };
            };
            let name = words[..brace].split('[').next().unwrap_or_default().trim();
            Head::At(CallHead { name: Some(name.to_owned()), at: at + brace, written: Written::Json })
        }
        Some(_) => Head::Never,
    }
}

/// A call of Python's begins with the name of a tool and `(`: other code is told at once.
fn python_head(names: &[String], words: &str, at: usize, written: Written) -> Head {
    let name = python::name_at(words);
    let after = words[name.len()..].trim_start();
    let can_grow = name.len() == words.len() && names.iter().any(|known| known.starts_with(name));
    match names.iter().any(|known| known == name) {
        true if after.starts_with('(') => Head::At(CallHead { name: None, at, written }),
        true if after.is_empty() => Head::NotYet,
        _ if can_grow => Head::NotYet,
        _ => Head::Never,
    }
}

fn first_value(text: &str) -> Option<Json> {
    serde_json::Deserializer::from_str(text).into_iter().next()?.ok()
}

fn with_name(name: &str, text: &str) -> Option<Vec<(String, Json)>> {
    let arguments = first_value(text)?;
    arguments.is_object().then(|| vec![(name.to_owned(), arguments)])
}

/// Names and arguments of an object or a list of them.
fn calls_of(text: &str) -> Option<Vec<(String, Json)>> {
    match first_value(text)? {
        Json::Array(calls) => calls.into_iter().map(call_of).collect(),
        call => call_of(call).map(|call| vec![call]),
    }
}

fn call_of(call: Json) -> Option<(String, Json)> {
    let Json::Object(mut call) = call else { return None };
    if let Some(Json::Object(function)) = call.get("function") {
        // {"type": "function", "function": {"name": …, "arguments": …}}
        call = function.clone();
    }
    let Some(Json::String(name)) = call.remove("name") else { return None };
    let arguments = match call.remove("arguments").or_else(|| call.remove("parameters")) {
        None | Some(Json::Null) => Json::Object(serde_json::Map::new()),
        Some(Json::String(text)) => serde_json::from_str(&text).ok()?,
        Some(arguments) => arguments,
    };
    arguments.is_object().then_some((name, arguments))
}

mod python;
#[cfg(test)]
mod tests;

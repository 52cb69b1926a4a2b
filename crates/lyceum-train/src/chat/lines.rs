//! Lines of JSON that should be examples, in OpenAI's shapes: `{"messages", "tools"}`,
//! `{"input": {"messages", "tools"}, "preferred_output", "non_preferred_output"}`, `{"prompt", "completion"}`.
//!
//! One pass finds every error; a file is of one format, that of its first line that has one. Nothing here needs a
//! model, so a file can be judged when it is uploaded.

use crate::data::repeated::{Repeated, escaped, repeated_keys};
use crate::data::report::{DataError, Issue, Place, Report};
use lyceum_types::control::Control;
use lyceum_types::suggest::did_you_mean;
use serde_json::{Map, Value};

/// The shape of a file's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Chat,
    Preferences,
    Completions,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Chat => "chat",
            Format::Preferences => "preferences",
            Format::Completions => "prompt and completion",
        }
    }

    fn of(line: &Map<String, Value>) -> Option<Format> {
        let has = |keys: &[&str]| keys.iter().any(|key| line.contains_key(*key));
        if has(&["messages"]) {
            return Some(Format::Chat);
        }
        if has(&["input", "preferred_output", "non_preferred_output"]) {
            return Some(Format::Preferences);
        }
        has(&["prompt", "completion"]).then_some(Format::Completions)
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Format::Chat => &["messages", "tools", CALLS_AT_ONCE],
            Format::Preferences => &["input", "preferred_output", "non_preferred_output"],
            Format::Completions => &["prompt", "completion"],
        }
    }
}

/// A line that is an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    pub example: Example,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    Chat { messages: Vec<Message>, tools: Vec<Value> },
    Preferences { messages: Vec<Message>, tools: Vec<Value>, preferred: Vec<Message>, other: Vec<Message> },
    Completion { prompt: String, completion: String },
}

/// A message in OpenAI's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Without its weight.
    pub json: Value,
    pub is_assistant: bool,
    /// An assistant's answer that is learnt.
    pub has_loss: bool,
}

/// Whether an answer may call several tools at once.
const CALLS_AT_ONCE: &str = "parallel_tool_calls";

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
const MESSAGE_KEYS: [&str; 7] =
    ["role", "content", "name", "weight", "tool_calls", "tool_call_id", "reasoning_content"];

/// Judges a file: its format and its examples, those with errors left out. `shown` is the file's name in errors.
///
/// # Errors
/// Only where it was ended; what is wrong with the lines goes into the report.
pub fn judge(
    bytes: &[u8],
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<(Option<Format>, Vec<Line>), DataError> {
    let mut bytes = bytes;
    if let Some(rest) = bytes.strip_prefix(b"\xEF\xBB\xBF") {
        let message = "the file begins with a byte order mark";
        let hint = "save it as UTF-8 without a byte order mark (BOM)";
        report.push(Issue::new(shown, "byte_order_mark", message, hint).at(Place::Line(1)));
        bytes = rest;
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if body.is_empty() {
        let hint = "write one JSON object a line, as {\"messages\": […]}";
        report.push(Issue::new(shown, "empty_file", "the file is empty", hint));
        return Ok((None, Vec::new()));
    }
    let (mut format, mut lines, mut start) = (None, Vec::new(), 0);
    for (number, text) in (1u64..).zip(body.split(|&byte| byte == b'\n')) {
        control.check()?;
        let mut judge = Judge { shown, number, report, n_errors: 0 };
        if let Some(example) = judge.line(text, start, &mut format)
            && judge.n_errors == 0
        {
            lines.push(Line { number, example });
        }
        start += text.len() + 1;
    }
    Ok((format, lines))
}

/// One line under judgement.
struct Judge<'a> {
    shown: &'a str,
    number: u64,
    report: &'a mut Report,
    n_errors: usize,
}

impl Judge<'_> {
    fn say(&mut self, pointer: &str, code: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.n_errors += 1;
        let issue = Issue::new(self.shown, code, message, hint).at(Place::Line(self.number));
        self.report.push(if pointer.is_empty() { issue } else { issue.pointer(pointer) });
    }

    fn line(&mut self, text: &[u8], start: usize, format: &mut Option<Format>) -> Option<Example> {
        if text.iter().all(u8::is_ascii_whitespace) {
            self.say("", "blank_line", "the line is blank", "remove it");
            return None;
        }
        if let Err(error) = std::str::from_utf8(text) {
            let at = error.valid_up_to();
            let message = format!("is not UTF-8 at byte {at} of the line (byte {} of the file)", start + at);
            self.say("", "not_utf8", message, "save the file as UTF-8");
            return None;
        }
        let value = match serde_json::from_slice::<Value>(text) {
            Ok(value) => value,
            Err(error) => {
                let at = error.column().saturating_sub(1).min(text.len());
                let said = error.to_string();
                let said = said.split(" at line").next().unwrap_or_default().to_owned();
                let message =
                    format!("is not JSON at byte {at} of the line (byte {} of the file): {said}", start + at);
                self.say(
                    "",
                    "invalid_json",
                    message,
                    "write one JSON object a line, without line breaks in it",
                );
                return None;
            }
        };
        let Value::Object(object) = value else {
            self.say("", "not_an_object", "the line is no JSON object", "write {\"messages\": […]}");
            return None;
        };
        for Repeated { pointer, message } in repeated_keys(text) {
            self.say(&pointer, Repeated::CODE, message, Repeated::HINT);
        }
        let Some(own) = Format::of(&object) else {
            let message = "has none of messages, input, and prompt";
            let hint = "write {\"messages\": […]}, {\"prompt\": …, \"completion\": …}, or \
                {\"input\": {\"messages\": […]}, \"preferred_output\": […], \"non_preferred_output\": […]}";
            self.say("", "unknown_format", message, hint);
            return None;
        };
        let first = *format.get_or_insert(own);
        if first != own {
            let message =
                format!("is of the format {}, the lines before it are of {}", own.as_str(), first.as_str());
            self.say("", "mixed_formats", message, "keep one format a file");
            return None;
        }
        for key in object.keys().filter(|key| !own.keys().contains(&key.as_str())) {
            self.unknown_key(&format!("/{}", escaped(key)), key, own.keys());
        }
        match own {
            Format::Chat => self.chat(&object),
            Format::Preferences => self.preferences(&object),
            Format::Completions => self.completion(&object),
        }
    }

    fn unknown_key(&mut self, pointer: &str, key: &str, known: &[&'static str]) {
        let hint = match (key, did_you_mean(key, known.iter().copied())) {
            ("functions", _) => "write tools: functions are an older form of them".to_owned(),
            ("function_call", _) => "write tool_calls: a function_call is an older form of them".to_owned(),
            (_, Some(near)) => format!("did you mean \"{near}\"?"),
            _ => format!("remove it; there are {}", known.join(", ")),
        };
        self.say(pointer, "unknown_key", format!("\"{key}\" means nothing here"), hint);
    }

    fn chat(&mut self, line: &Map<String, Value>) -> Option<Example> {
        let messages = self.messages("/messages", line.get("messages"));
        let tools = self.tools("/tools", line.get("tools"));
        let messages = messages?;
        self.calls_at_once("", line, &[("/messages", line.get("messages"))]);
        match messages.iter().rposition(|message| message.is_assistant) {
            None => self.say(
                "/messages",
                "no_assistant_message",
                "no message is the assistant's, so there is nothing to learn",
                "end with {\"role\": \"assistant\", \"content\": …}",
            ),
            Some(last) if last + 1 < messages.len() => self.say(
                &format!("/messages/{}", messages.len() - 1),
                "last_message_not_assistant",
                "what follows the last answer teaches nothing",
                "end with the assistant's answer",
            ),
            Some(_) if !messages.iter().any(|message| message.has_loss) => self.say(
                "/messages",
                "nothing_to_learn",
                "every answer has weight 0",
                "give one of them weight 1, or leave the line out",
            ),
            Some(_) => {}
        }
        Some(Example::Chat { messages, tools })
    }

    fn preferences(&mut self, line: &Map<String, Value>) -> Option<Example> {
        const KEYS: [&str; 3] = ["messages", "tools", CALLS_AT_ONCE];
        let (mut messages, mut tools) = (None, Vec::new());
        match line.get("input") {
            Some(Value::Object(input)) => {
                for key in input.keys().filter(|key| !KEYS.contains(&key.as_str())) {
                    self.unknown_key(&format!("/input/{}", escaped(key)), key, &KEYS);
                }
                messages = self.messages("/input/messages", input.get("messages"));
                tools = self.tools("/input/tools", input.get("tools"));
            }
            found => {
                let what = if found.is_some() { "is no object" } else { "is missing" };
                self.say("/input", "missing_input", format!("input {what}"), "write {\"messages\": […]}");
            }
        }
        if let Some(messages) = &messages
            && messages.last().is_some_and(|message| message.is_assistant)
        {
            let pointer = format!("/input/messages/{}", messages.len() - 1);
            let message = "the input ends with an answer, and the outputs are answers too";
            self.say(&pointer, "input_ends_with_assistant", message, "end it with the user's message");
        }
        let preferred = self.output("/preferred_output", line.get("preferred_output"));
        let other = self.output("/non_preferred_output", line.get("non_preferred_output"));
        let (messages, preferred, other) = (messages?, preferred?, other?);
        if let Some(Value::Object(input)) = line.get("input") {
            let all = [
                ("/input/messages", input.get("messages")),
                ("/preferred_output", line.get("preferred_output")),
                ("/non_preferred_output", line.get("non_preferred_output")),
            ];
            self.calls_at_once("/input", input, &all);
        }
        if preferred == other {
            let message = "both outputs are the same, so neither is preferred";
            self.say("/non_preferred_output", "same_outputs", message, "leave the line out");
        }
        Some(Example::Preferences { messages, tools, preferred, other })
    }

    fn output(&mut self, pointer: &str, value: Option<&Value>) -> Option<Vec<Message>> {
        let messages = self.messages(pointer, value)?;
        if !messages.last().is_some_and(|message| message.is_assistant) {
            let hint = "write [{\"role\": \"assistant\", \"content\": …}]";
            self.say(pointer, "no_assistant_message", "the output does not end with an answer", hint);
        }
        Some(messages)
    }

    fn completion(&mut self, line: &Map<String, Value>) -> Option<Example> {
        let mut text = |key: &str| match line.get(key) {
            Some(Value::String(text)) => Some(text.clone()),
            found => {
                let what = if found.is_some() { "is no text" } else { "is missing" };
                self.say(
                    &format!("/{key}"),
                    &format!("missing_{key}"),
                    format!("{key} {what}"),
                    format!("add \"{key}\": \"…\""),
                );
                None
            }
        };
        let (prompt, completion) = (text("prompt"), text("completion"));
        let (prompt, completion) = (prompt?, completion?);
        if completion.is_empty() {
            let message = "the completion is empty, so there is nothing to learn";
            self.say(
                "/completion",
                "empty_completion",
                message,
                "write what should follow, or leave the line out",
            );
        }
        Some(Example::Completion { prompt, completion })
    }

    /// Where a line says that tools are called one at a time, none of its answers calls two.
    fn calls_at_once(&mut self, within: &str, line: &Map<String, Value>, all: &[(&str, Option<&Value>)]) {
        match line.get(CALLS_AT_ONCE) {
            Some(Value::Bool(false)) => {}
            None | Some(Value::Null | Value::Bool(true)) => return,
            Some(value) => {
                let message = format!("{value} is neither true nor false");
                let pointer = format!("{within}/{CALLS_AT_ONCE}");
                return self.say(&pointer, "wrong_parallel_tool_calls", message, "write true or false");
            }
        }
        for (pointer, messages) in all {
            for (i, message) in messages.and_then(Value::as_array).into_iter().flatten().enumerate() {
                let n = message["tool_calls"].as_array().map_or(0, Vec::len);
                if message["role"] == "assistant" && n > 1 {
                    let pointer = format!("{pointer}/{i}/tool_calls");
                    let said = format!("{n} tools are called at once, and {CALLS_AT_ONCE} is false");
                    let hint = "leave parallel_tool_calls out, or call one tool a message";
                    self.say(&pointer, "parallel_tool_calls", said, hint);
                }
            }
        }
    }

    fn tools(&mut self, pointer: &str, value: Option<&Value>) -> Vec<Value> {
        let Some(value) = value.filter(|value| !value.is_null()) else { return Vec::new() };
        let Some(tools) = value.as_array() else {
            self.say(
                pointer,
                "wrong_tools",
                "tools is no list",
                "write [{\"type\": \"function\", \"function\": {…}}]",
            );
            return Vec::new();
        };
        for (i, tool) in tools.iter().enumerate() {
            if tool["type"] != "function" || !tool["function"]["name"].is_string() {
                let hint = "write {\"type\": \"function\", \"function\": {\"name\": …, \"parameters\": {…}}}";
                self.say(&format!("{pointer}/{i}"), "wrong_tools", "is no function with a name", hint);
            }
        }
        tools.clone()
    }

    fn messages(&mut self, pointer: &str, value: Option<&Value>) -> Option<Vec<Message>> {
        let list = match value {
            Some(Value::Array(list)) if !list.is_empty() => list,
            found => {
                let what = match found {
                    None => "is missing",
                    Some(Value::Array(_)) => "is empty",
                    Some(_) => "is no list",
                };
                let hint = "write a list of {\"role\": …, \"content\": …}";
                self.say(pointer, "missing_messages", format!("the list of messages {what}"), hint);
                return None;
            }
        };
        Some(
            list.iter().enumerate().filter_map(|(i, m)| self.message(&format!("{pointer}/{i}"), m)).collect(),
        )
    }

    fn message(&mut self, pointer: &str, value: &Value) -> Option<Message> {
        let Value::Object(message) = value else {
            self.say(
                pointer,
                "not_an_object",
                "the message is no object",
                "write {\"role\": …, \"content\": …}",
            );
            return None;
        };
        for key in message.keys().filter(|key| !MESSAGE_KEYS.contains(&key.as_str())) {
            self.unknown_key(&format!("{pointer}/{}", escaped(key)), key, &MESSAGE_KEYS);
        }
        let role = match message.get("role") {
            Some(Value::String(role)) if ROLES.contains(&role.as_str()) => role.as_str(),
            found => {
                let what = found.map_or("is missing".to_owned(), |role| format!("{role} is none of them"));
                let near = found.and_then(Value::as_str).and_then(|role| did_you_mean(role, ROLES));
                let hint = near.map_or(format!("there are {}", ROLES.join(", ")), |near| {
                    format!("did you mean \"{near}\"?")
                });
                self.say(&format!("{pointer}/role"), "wrong_role", format!("the role {what}"), hint);
                return None;
            }
        };
        let is_assistant = role == "assistant";
        let has_loss = self.weight(pointer, message.get("weight"), is_assistant);
        self.calls(pointer, message, role);
        self.content(pointer, message, is_assistant);
        let mut json = message.clone();
        json.remove("weight");
        Some(Message { json: json.into(), is_assistant, has_loss: is_assistant && has_loss })
    }

    fn weight(&mut self, pointer: &str, value: Option<&Value>, is_assistant: bool) -> bool {
        let Some(value) = value.filter(|value| !value.is_null()) else { return true };
        let pointer = format!("{pointer}/weight");
        if !is_assistant {
            let message = "only the assistant's messages have a weight";
            self.say(&pointer, "misplaced_weight", message, "remove it");
            return true;
        }
        match value.as_f64() {
            Some(0.0) => false,
            Some(1.0) => true,
            _ => {
                self.say(&pointer, "wrong_weight", format!("{value} is neither 0 nor 1"), "write 0 or 1");
                true
            }
        }
    }

    fn calls(&mut self, pointer: &str, message: &Map<String, Value>, role: &str) {
        let wants = |value: Option<&Value>| value.is_some_and(|value| !value.is_null());
        if role == "tool" && !message.get("tool_call_id").is_some_and(Value::is_string) {
            let hint = "say which call it answers: \"tool_call_id\": \"call_…\"";
            self.say(
                &format!("{pointer}/tool_call_id"),
                "missing_tool_call_id",
                "a tool's message answers no call",
                hint,
            );
        }
        let Some(calls) = message.get("tool_calls").filter(|calls| wants(Some(calls))) else { return };
        let pointer = format!("{pointer}/tool_calls");
        if role != "assistant" {
            self.say(&pointer, "misplaced_tool_calls", "only the assistant calls tools", "remove them");
            return;
        }
        let hint = "write [{\"id\": …, \"type\": \"function\", \"function\": {\"name\": …, \"arguments\": \"{…}\"}}]";
        let Some(list) = calls.as_array().filter(|list| !list.is_empty()) else {
            self.say(&pointer, "wrong_tool_call", "tool_calls is no list of calls", hint);
            return;
        };
        for (i, call) in list.iter().enumerate() {
            let function = &call["function"];
            let arguments = match &function["arguments"] {
                Value::String(text) => {
                    serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
                }
                other => other.is_object(),
            };
            if !function["name"].is_string() || !arguments {
                let what = "is no call of a named function with JSON arguments";
                self.say(&format!("{pointer}/{i}"), "wrong_tool_call", what, hint);
            }
        }
    }

    fn content(&mut self, pointer: &str, message: &Map<String, Value>, is_assistant: bool) {
        let at = format!("{pointer}/content");
        let calls = message.get("tool_calls").is_some_and(|calls| !calls.is_null());
        match message.get("content") {
            Some(Value::String(text)) if is_assistant && text.is_empty() && !calls => {
                self.say(&at, "empty_answer", "the answer is empty", "write what the assistant should say");
            }
            Some(Value::String(_)) => {}
            Some(Value::Array(parts)) => {
                for (i, part) in parts.iter().enumerate() {
                    if part["type"] != "text" || !part["text"].is_string() {
                        let message = format!("a part of type {} is not read", part["type"]);
                        let hint = "write {\"type\": \"text\", \"text\": …}";
                        self.say(&format!("{at}/{i}"), "unsupported_content", message, hint);
                    }
                }
            }
            None | Some(Value::Null) if is_assistant && calls => {}
            found => {
                let what = if found.is_some_and(|v| !v.is_null()) { "is no text" } else { "is missing" };
                self.say(&at, "missing_content", format!("content {what}"), "add \"content\": \"…\"");
            }
        }
    }
}

//! Items of a conversation: as they are asked and kept, and as messages for the model's template.
//!
//! ```text
//! message user        → {role: user, content}
//! reasoning  ┐
//! message assistant  ├→ {role: assistant, reasoning_content, content, tool_calls}
//! function_call ┘
//! function_call_output → {role: tool, tool_call_id, name, content}
//! ```

use crate::error::ApiError;
use crate::wire::{new_id, unsupported};
use lyceum_types::limits;
use serde_json::{Map, Value, json};

/// What a request says, every item with its type, id and status.
pub fn parse(input: Value) -> Result<Vec<Value>, ApiError> {
    let all = match input {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(all) => all,
        _ => return Err(wrong("input", "invalid_type", "must be a text or a list of items")),
    };
    if all.is_empty() || all.len() > limits::MESSAGES_MAX {
        let what = format!("{} items are not between 1 and {}", all.len(), limits::MESSAGES_MAX);
        return Err(wrong("input", "invalid_value", &what));
    }
    all.into_iter().enumerate().map(|(i, item)| Reader { place: format!("input[{i}]") }.item(item)).collect()
}

fn wrong(param: &str, code: &'static str, what: &str) -> ApiError {
    ApiError::field(param, code, format!("{param}: {what}"))
}

/// Reads one item at its place in the request.
struct Reader {
    place: String,
}

impl Reader {
    fn wrong(&self, field: &str, what: &str) -> ApiError {
        wrong(&format!("{}{field}", self.place), "invalid_value", what)
    }

    fn item(&self, item: Value) -> Result<Value, ApiError> {
        let Value::Object(mut item) = item else { return Err(self.wrong("", "must be an object")) };
        item.retain(|_, value| !value.is_null());
        let kind = match item.get("type") {
            None if item.contains_key("role") => "message".to_owned(),
            Some(Value::String(kind)) => kind.clone(),
            _ => return Err(self.wrong(".type", "an item has a type")),
        };
        match kind.as_str() {
            "message" => self.message(item),
            "function_call" => {
                self.only(&item, &["type", "id", "call_id", "name", "arguments", "status"])?;
                let (call_id, name) = (self.text(&item, "call_id")?, self.text(&item, "name")?);
                let arguments = self.text(&item, "arguments")?;
                Ok(json!({"id": id(&item, "fc_"), "type": kind, "status": "completed", "call_id": call_id,
                    "name": name, "arguments": arguments}))
            }
            "function_call_output" => {
                self.only(&item, &["type", "id", "call_id", "output", "status"])?;
                let call_id = self.text(&item, "call_id")?;
                let output = match item.get("output") {
                    Some(Value::String(text)) => Value::from(text.clone()),
                    Some(Value::Array(parts)) => self.parts(parts, ".output", "input_text")?,
                    _ => return Err(self.wrong(".output", "must be a text or a list of texts")),
                };
                Ok(json!({"id": id(&item, "fco_"), "type": kind, "status": "completed", "call_id": call_id,
                    "output": output}))
            }
            "reasoning" => {
                self.only(&item, &["type", "id", "summary", "content", "status"])?;
                let content = match item.get("content") {
                    None => json!([]),
                    Some(Value::Array(parts)) => self.parts(parts, ".content", "reasoning_text")?,
                    Some(_) => return Err(self.wrong(".content", "must be a list of texts")),
                };
                if item.get("summary").is_some_and(|summary| *summary != json!([])) {
                    let param = format!("{}.summary", self.place);
                    return Err(unsupported(&param, "thoughts are read whole, from content"));
                }
                Ok(json!({"id": id(&item, "rs_"), "type": kind, "summary": [], "content": content}))
            }
            _ => {
                let what = "there are message, reasoning, function_call and function_call_output";
                Err(unsupported(&format!("{}.type", self.place), what))
            }
        }
    }

    fn message(&self, item: Map<String, Value>) -> Result<Value, ApiError> {
        self.only(&item, &["type", "id", "role", "content", "status", "phase"])?;
        let role = self.text(&item, "role")?;
        let part = match role.as_str() {
            "user" | "system" | "developer" => "input_text",
            "assistant" => "output_text",
            _ => return Err(self.wrong(".role", "there are user, assistant, system and developer")),
        };
        let content = match item.get("content") {
            Some(Value::String(text)) => json!([one_part(part, text)]),
            Some(Value::Array(parts)) => self.parts(parts, ".content", part)?,
            _ => return Err(self.wrong(".content", "must be a text or a list of texts")),
        };
        Ok(json!({"id": id(&item, "msg_"), "type": "message", "status": "completed", "role": role,
            "content": content}))
    }

    fn parts(&self, parts: &[Value], field: &str, expected: &str) -> Result<Value, ApiError> {
        let one = |(i, part): (usize, &Value)| {
            let text = match (part["type"].as_str(), &part["text"], &part["refusal"]) {
                (Some("refusal"), _, Value::String(text)) if expected == "output_text" => text,
                (Some(kind), Value::String(text), _) if kind == expected => text,
                (Some(kind), ..) if kind == expected => {
                    return Err(self.wrong(&format!("{field}[{i}].text"), "must be a text"));
                }
                _ => {
                    let param = format!("{}{field}[{i}].type", self.place);
                    return Err(unsupported(&param, &format!("here is {expected}")));
                }
            };
            Ok(one_part(expected, text))
        };
        parts.iter().enumerate().map(one).collect()
    }

    fn text(&self, item: &Map<String, Value>, field: &str) -> Result<String, ApiError> {
        let text = item.get(field).and_then(Value::as_str).map(str::to_owned);
        text.ok_or_else(|| self.wrong(&format!(".{field}"), "must be a text"))
    }

    fn only(&self, item: &Map<String, Value>, known: &[&str]) -> Result<(), ApiError> {
        match item.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(unsupported(&format!("{}.{key}", self.place), "leave it out")),
        }
    }
}

/// The item's own id, or a new one.
fn id(item: &Map<String, Value>, prefix: &str) -> String {
    let own = item.get("id").and_then(Value::as_str).filter(|id| id.len() <= 64 && !id.is_empty());
    own.map_or_else(|| new_id(prefix), str::to_owned)
}

fn one_part(kind: &str, text: &str) -> Value {
    match kind {
        "output_text" => json!({"type": kind, "text": text, "annotations": [], "logprobs": []}),
        _ => json!({"type": kind, "text": text}),
    }
}

/// Items that were parsed, as messages in OpenAI's chat shape. `developer` is what templates call `system`.
pub fn messages(instructions: Option<&str>, items: &[Value]) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(text) = instructions {
        messages.push(json!({"role": "system", "content": text}));
    }
    let mut turn = Turn::default();
    let mut names: Vec<(&str, &str)> = Vec::new();
    for item in items {
        let text = |field: &str| item[field].as_str().unwrap_or_default();
        match (text("type"), text("role")) {
            ("reasoning", _) => {
                turn.end_if_answered(&mut messages);
                turn.reasoning.push_str(&joined(&item["content"]));
            }
            ("message", "assistant") => {
                turn.end_if_answered(&mut messages);
                turn.content.push_str(&joined(&item["content"]));
            }
            ("function_call", _) => {
                names.push((text("call_id"), text("name")));
                let function = json!({"name": item["name"], "arguments": item["arguments"]});
                turn.calls.push(json!({"id": item["call_id"], "type": "function", "function": function}));
            }
            ("function_call_output", _) => {
                turn.end(&mut messages);
                let call_id = text("call_id");
                let Some((_, name)) = names.iter().find(|(id, _)| *id == call_id) else {
                    let message = format!("input: no call before the output of {call_id:?} has that call_id");
                    return Err(ApiError::field("input", "invalid_value", message));
                };
                let content = joined(&item["output"]);
                messages
                    .push(json!({"role": "tool", "tool_call_id": call_id, "name": name, "content": content}));
            }
            (_, role) => {
                turn.end(&mut messages);
                messages.push(json!({"role": role, "content": joined(&item["content"])}));
            }
        }
    }
    turn.end(&mut messages);
    Ok(messages)
}

/// What the assistant said in one turn.
#[derive(Default)]
struct Turn {
    reasoning: String,
    content: String,
    calls: Vec<Value>,
}

impl Turn {
    /// What follows an answer is the next turn, but for its calls.
    fn end_if_answered(&mut self, messages: &mut Vec<Value>) {
        if !self.content.is_empty() || !self.calls.is_empty() {
            self.end(messages);
        }
    }

    fn end(&mut self, messages: &mut Vec<Value>) {
        let Turn { reasoning, content, calls } = std::mem::take(self);
        if reasoning.is_empty() && content.is_empty() && calls.is_empty() {
            return;
        }
        let mut message = json!({"role": "assistant", "content": content});
        if !reasoning.is_empty() {
            message["reasoning_content"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        messages.push(message);
    }
}

/// The texts of parts, or the text itself.
fn joined(parts: &Value) -> String {
    match parts {
        Value::String(text) => text.clone(),
        parts => parts.as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_items_is_one_message_and_outputs_know_the_name_of_their_call() {
        let items = parse(json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "let me see", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "7"},
            {"role": "assistant", "content": "seven"},
        ]))
        .unwrap();
        assert_eq!(items[2]["id"], "rs_1");
        assert!(items.iter().all(|item| item["id"].is_string() && item["type"].is_string()));
        let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let expected = [
            json!({"role": "system", "content": "i"}),
            json!({"role": "developer", "content": "d"}),
            json!({"role": "user", "content": "ab"}),
            json!({"role": "assistant", "content": "let me see", "reasoning_content": "hm", "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "c1", "name": "f", "content": "7"}),
            json!({"role": "assistant", "content": "seven"}),
        ];
        assert_eq!(messages(Some("i"), &items).unwrap(), expected);
    }

    #[test]
    fn items_that_cannot_be_read_are_refused_at_their_place() {
        for (input, param) in [
            (json!([]), "input"),
            (json!(7), "input"),
            (json!([{"content": "a"}]), "input[0].type"),
            (json!([{"role": "tool", "content": "a"}]), "input[0].role"),
            (json!([{"type": "item_reference", "id": "msg_1"}]), "input[0].type"),
            (
                json!([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
                "input[0].content[0].type",
            ),
            (json!([{"role": "user", "content": "a", "name": "b"}]), "input[0].name"),
            (json!([{"type": "function_call", "call_id": "c", "name": "f"}]), "input[0].arguments"),
            (json!([{"type": "function_call_output", "call_id": "c"}]), "input[0].output"),
            (
                json!([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}]),
                "input[0].summary",
            ),
        ] {
            let error = parse(input.clone()).unwrap_err();
            assert_eq!(error.detail.param.as_deref(), Some(param), "{input}: {}", error.detail.message);
        }
        let lone = parse(json!([{"type": "function_call_output", "call_id": "c", "output": ""}])).unwrap();
        assert_eq!(messages(None, &lone).unwrap_err().detail.param.as_deref(), Some("input"));
    }
}

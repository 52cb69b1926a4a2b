//! Messages in the shape that chat templates read.

use super::ChatTemplate;
use crate::LanguageError;
use crate::tokenizer::Guard;
use serde_json::{Map, Value as Json};

/// Why messages cannot be put in shape; `message` counts from 0.
pub type MessagesError = LanguageError;

/// Roles of OpenAI's API. A template may know others.
pub const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// Messages of OpenAI's API in the shape that Hugging Face's templates read: members that are null are left out,
/// `arguments` of tool calls become objects, a content of text parts becomes one string, reasoning is
/// `reasoning_content`.
///
/// # Errors
/// A message that is no object, or a part of its content that is not text.
pub fn openai_messages(messages: &[Json]) -> Result<Vec<Json>, MessagesError> {
    messages.iter().enumerate().map(|(i, message)| openai_message(message, i)).collect()
}

fn openai_message(message: &Json, i: usize) -> Result<Json, MessagesError> {
    let Some(message) = message.as_object() else {
        return Err(LanguageError::Text(format!("messages[{i}] is not an object")));
    };
    let mut shaped = Map::new();
    for (key, value) in message {
        let value = match (key.as_str(), value) {
            (_, Json::Null) => continue,
            ("content", Json::Array(parts)) => Json::String(joined(parts, i)?),
            ("tool_calls", Json::Array(calls)) => calls.iter().map(with_object_arguments).collect(),
            _ => value.clone(),
        };
        shaped.insert(key.clone(), value);
    }
    let reasoning = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|key| message.get(*key));
    if let Some(reasoning) = reasoning.filter(|value| !value.is_null()) {
        shaped.insert("reasoning_content".into(), reasoning.clone());
        shaped.entry("thinking").or_insert_with(|| reasoning.clone());
    }
    Ok(shaped.into())
}

/// The text that a content of parts is to a model: one behind the other, nothing between them.
///
/// # Errors
/// A part of the `i`-th message that is not text.
pub fn joined(parts: &[Json], i: usize) -> Result<String, MessagesError> {
    let mut text = String::new();
    for part in parts {
        match (part["type"].as_str(), &part["text"], &part["refusal"]) {
            (Some("text" | "input_text" | "output_text"), Json::String(part), _)
            | (Some("refusal"), _, Json::String(part)) => text.push_str(part),
            (Some(other), ..) => {
                return Err(LanguageError::Text(format!(
                    "messages[{i}]: this model reads no content of type {other:?}"
                )));
            }
            (None, ..) => {
                return Err(LanguageError::Text(format!("messages[{i}]: a part of the content has no type")));
            }
        }
    }
    Ok(text)
}

fn with_object_arguments(call: &Json) -> Json {
    let mut call = call.clone();
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(parsed) = arguments.as_str().and_then(|text| serde_json::from_str::<Json>(text).ok())
        && parsed.is_object()
    {
        *arguments = parsed;
    }
    call
}

/// Roles in the template's words.
///
/// # Errors
/// One that the template does not name.
pub(super) fn name_roles(messages: &mut [Json], template: &ChatTemplate) -> Result<(), MessagesError> {
    for (i, message) in messages.iter_mut().enumerate() {
        let Some(Json::String(role)) = message.get_mut("role") else { continue };
        let Some(named) = template.role(role) else {
            return Err(LanguageError::Text(format!("messages[{i}].role: {}", unknown_role(role))));
        };
        if named != role.as_str() {
            *role = named.to_owned();
        }
    }
    Ok(())
}

/// Why a role is refused.
pub fn unknown_role(role: &str) -> String {
    format!("the model's chat template has no role {role:?}: there are {}", ROLES.join(", "))
}

/// The value with every string in it guarded. Keys are names, not texts, and stay.
pub(super) fn protect(value: &Json, guard: &Guard) -> Json {
    match value {
        Json::String(text) => Json::String(guard.protect(text).into_owned()),
        Json::Array(values) => values.iter().map(|value| protect(value, guard)).collect(),
        Json::Object(members) => {
            Json::Object(members.iter().map(|(key, value)| (key.clone(), protect(value, guard))).collect())
        }
        other => other.clone(),
    }
}

/// Adds a tag to the text of the last message.
pub(super) fn tag_last(messages: &mut [Json], tag: &str) -> Result<(), LanguageError> {
    match messages.last_mut().and_then(|message| message.get_mut("content")) {
        Some(Json::String(content)) => {
            content.push_str(tag);
            Ok(())
        }
        _ => Err(LanguageError::Text("the final message has no text to continue".into())),
    }
}

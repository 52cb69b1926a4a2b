//! The messages of a conversation, checked before a template reads them: what a template would stumble over is the
//! sender's to repair, and is named by its place.

use crate::ServiceError;
use lyceum_language::LanguageError;
use lyceum_language::template::{ChatTemplate, ROLES, openai_messages, unknown_role};
use serde_json::{Map, Value};

/// What a template is given by other fields of a request.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Messages of OpenAI's API in the shape that templates read.
///
/// # Errors
/// A message that is no object, without a role that the template has, or without content where it must have one.
pub(crate) fn shaped(messages: &[Value], template: &ChatTemplate) -> Result<Vec<Value>, ServiceError> {
    messages.iter().enumerate().try_for_each(|(i, message)| check(i, message, template))?;
    openai_messages(messages)
        .map_err(|error| ServiceError::invalid("messages", "invalid_value", plain(error)))
}

/// What a refusal says, without the kind of it where the field says that already.
pub(crate) fn plain(error: LanguageError) -> String {
    match error {
        LanguageError::Text(told) | LanguageError::Tools(told) => told,
        other => other.to_string(),
    }
}

fn check(i: usize, message: &Value, template: &ChatTemplate) -> Result<(), ServiceError> {
    let refused = |param: String, code, told: &str| Err(ServiceError::invalid(param, code, told));
    let Some(members) = message.as_object() else {
        let told = r#"must be an object, as {"role": "user", "content": "Hello"}"#;
        return refused(format!("messages[{i}]"), "invalid_type", told);
    };
    let place = format!("messages[{i}].role");
    let role = match members.get("role") {
        None | Some(Value::Null) => {
            let told = format!("missing; there are {}", ROLES.join(", "));
            return refused(place, "missing_required_parameter", &told);
        }
        Some(role) => role.as_str().filter(|role| !role.is_empty()),
    };
    let Some(role) = role else {
        return refused(place, "invalid_value", &format!("must be a word, as {}", ROLES.join(", ")));
    };
    if template.role(role).is_none() {
        return refused(place, "invalid_value", &unknown_role(role));
    }
    let place = format!("messages[{i}].content");
    match members.get("content") {
        Some(Value::String(_) | Value::Array(_)) => Ok(()),
        None | Some(Value::Null) if role == "assistant" && says_otherwise(members) => Ok(()),
        None | Some(Value::Null) => {
            let told = "missing; only an assistant's message with tool_calls needs none";
            refused(place, "missing_required_parameter", told)
        }
        Some(_) => refused(place, "invalid_type", "must be a text or a list of parts"),
    }
}

/// Whether a message of the assistant has something in the place of its content.
fn says_otherwise(members: &Map<String, Value>) -> bool {
    let said = ["tool_calls", "refusal", "reasoning_content", "thinking", "reasoning"];
    said.iter().any(|key| members.get(*key).is_some_and(|value| !value.is_null()))
}

/// A template that does not write what it was given: told to the sender, who alone can ask otherwise.
pub(crate) fn unwritten(error: LanguageError) -> ServiceError {
    let code = match &error {
        LanguageError::Refused(_) => "template_refused",
        LanguageError::Template(_) => "template_failed",
        _ => "invalid_value",
    };
    ServiceError::invalid("messages", code, plain(error))
}

/// Variables of the template that a request sets.
///
/// # Errors
/// One that is not the request's to set.
pub(crate) fn variables(variables: &Map<String, Value>) -> Result<(), ServiceError> {
    let Some(name) = RESERVED.iter().find(|name| variables.contains_key(**name)) else { return Ok(()) };
    let param = format!("chat_template_kwargs.{name}");
    Err(ServiceError::invalid(param, "invalid_value", "the request's other fields say this: leave it out"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(messages: &[Value]) -> Result<Vec<Value>, ServiceError> {
        let source =
            "{% for m in messages %}{% if m.role == 'documents' %}D{% endif %}{{ m.content }}{% endfor %}";
        shaped(messages, &ChatTemplate::new(source, Map::new()).unwrap())
    }

    fn refused(message: Value) -> (String, &'static str) {
        match of(&[json!({"role": "user", "content": "a"}), message]).unwrap_err() {
            ServiceError::Invalid { param, code, .. } => (param, code),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_no_template_can_write_is_refused_at_its_place() {
        let check = |message, place: &str, code| {
            assert_eq!(refused(message), (format!("messages[1]{place}"), code));
        };
        check(json!("hi"), "", "invalid_type");
        check(json!({"content": "x"}), ".role", "missing_required_parameter");
        check(json!({"role": null, "content": "x"}), ".role", "missing_required_parameter");
        check(json!({"role": 5, "content": "x"}), ".role", "invalid_value");
        check(json!({"role": "", "content": "x"}), ".role", "invalid_value");
        check(json!({"role": "user"}), ".content", "missing_required_parameter");
        check(json!({"role": "tool", "content": null}), ".content", "missing_required_parameter");
        check(json!({"role": "assistant", "content": null}), ".content", "missing_required_parameter");
        check(json!({"role": "user", "content": 5}), ".content", "invalid_type");
        check(json!({"role": "user", "content": {"a": 1}}), ".content", "invalid_type");
    }

    #[test]
    fn a_role_is_taken_where_openai_or_the_template_has_it() {
        for role in ["function", "developer", "documents"] {
            assert!(of(&[json!({"role": role, "name": "f", "content": "x"})]).is_ok(), "{role}");
        }
        for role in ["control", "asistant", "User"] {
            let found = refused(json!({"role": role, "content": "x"}));
            assert_eq!(found, ("messages[1].role".to_owned(), "invalid_value"), "{role}");
        }
    }

    #[test]
    fn an_assistant_who_called_needs_no_content() {
        let calls = json!([{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
        assert!(of(&[json!({"role": "assistant", "content": null, "tool_calls": calls})]).is_ok());
        assert!(of(&[json!({"role": "assistant", "refusal": "no"})]).is_ok());
    }
}

//! What a request asks of an answer's form, in the shape that chats have: functions, their choice, a format.

use crate::error::ApiError;
use crate::wire::unsupported;
use lyceum_service::chat::{AskedForm, Constraint};
use serde_json::{Value, json};

/// Functions as chats have them. A function that does not say `strict` is not held to it.
pub(super) fn chat_tools(tools: Vec<Value>) -> Result<Vec<Value>, ApiError> {
    let one = |(i, tool): (usize, Value)| {
        let place = |field: &str| format!("tools[{i}]{field}");
        let Value::Object(mut function) = tool else {
            let param = place("");
            return Err(ApiError::field(&param, "invalid_type", format!("{param}: must be an object")));
        };
        if function.remove("type") != Some("function".into()) {
            return Err(unsupported(&place(".type"), "functions can be offered"));
        }
        let known = ["name", "description", "parameters", "strict"];
        if let Some(key) = function.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(unsupported(&place(&format!(".{key}")), "leave it out"));
        }
        function.retain(|_, value| !value.is_null());
        Ok(json!({"type": "function", "function": function}))
    };
    tools.into_iter().enumerate().map(one).collect()
}

/// The choice as chats have it.
pub(super) fn chat_tool_choice(choice: Option<Value>) -> Result<Option<Value>, ApiError> {
    let Some(Value::Object(named)) = choice else { return Ok(choice) };
    match (named.get("type").and_then(Value::as_str), named.get("name")) {
        (Some("function"), Some(name)) => Ok(Some(json!({"type": "function", "function": {"name": name}}))),
        (Some("allowed_tools"), None) => {
            let functions = named.get("tools").and_then(Value::as_array).into_iter().flatten();
            let functions =
                functions.map(|one| json!({"type": one["type"], "function": {"name": one["name"]}}));
            let functions: Vec<Value> = functions.collect();
            let allowed = json!({"mode": named.get("mode"), "tools": functions});
            Ok(Some(json!({"type": "allowed_tools", "allowed_tools": allowed})))
        }
        _ => {
            let hint = "there are auto, none, required, one function by its name, and allowed_tools";
            Err(unsupported("tool_choice", hint))
        }
    }
}

/// The form that the answer must have.
pub(super) fn form(format: Option<&Value>) -> Result<Option<AskedForm>, ApiError> {
    let Some(format) = format.filter(|format| !format.is_null()) else { return Ok(None) };
    let refuse = |field: &str, what: &str| {
        let param = format!("text.format{field}");
        ApiError::field(&param, "invalid_value", format!("{param}: {what}"))
    };
    let form = |constraint| Ok(Some(AskedForm { constraint, field: "text.format" }));
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => form(Constraint::JsonObject),
        Some("json_schema") => {
            if format["name"].as_str().is_none_or(str::is_empty) {
                return Err(refuse(".name", "a name is needed"));
            }
            let strict = match &format["strict"] {
                Value::Null => false,
                Value::Bool(strict) => *strict,
                _ => return Err(refuse(".strict", "must be true or false")),
            };
            if !format["schema"].is_object() {
                return Err(refuse(".schema", "a schema is needed"));
            }
            form(Constraint::JsonSchema { schema: format["schema"].clone(), strict })
        }
        _ => Err(refuse(".type", "there are text, json_object and json_schema")),
    }
}

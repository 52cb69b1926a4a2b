//! The grammar of calls: what a model must write so that its calls can be parsed, and arguments that follow
//! their schemas.

use super::parse::Calls;
use super::{Tool, ToolChoice, ToolFormat};
use crate::LanguageError;
use crate::grammar::{check_schema, check_strict, escaped, json_rule, quoted};
use crate::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};

/// Rules of a grammar over calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolGrammar {
    rules: String,
}

impl ToolGrammar {
    pub(crate) fn rules(&self) -> &str {
        &self.rules
    }
}

/// The grammar that a request's tools ask for; `None` where nothing is forced: no tools, or `auto` with none
/// that is strict. Required and named calls follow their schemas, strict or not.
///
/// # Errors
/// A strict tool outside the strict subset, or a schema that cannot be guaranteed, with the tool and the place.
pub fn tool_grammar(
    tokenizer: &Tokenizer,
    format: ToolFormat,
    tools: &[Tool],
    choice: &ToolChoice,
    calls: Calls,
) -> Result<Option<ToolGrammar>, LanguageError> {
    for tool in tools.iter().filter(|tool| tool.strict) {
        check_strict(&tool.parameters).map_err(|error| of_tool(tool, error))?;
    }
    let offered: Vec<&Tool> = match choice {
        ToolChoice::None => return Ok(None),
        ToolChoice::Auto if !tools.iter().any(|tool| tool.strict) => return Ok(None),
        ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
        ToolChoice::Auto | ToolChoice::Required => tools.iter().collect(),
    };
    if offered.is_empty() {
        return Err(LanguageError::Tools("a call is forced and no tool is offered".into()));
    }
    for tool in &offered {
        check_schema(&tool.parameters, "").map_err(|error| of_tool(tool, error))?;
    }
    let many = calls == Calls::Any && !matches!(choice, ToolChoice::Named(_));
    let forced = *choice != ToolChoice::Auto;
    let marker = |text: &str| marker(tokenizer, text);
    let rules = match format {
        ToolFormat::Hermes => {
            let call = format!("{} SPACE? object SPACE? {}", marker("<tool_call>"), marker("</tool_call>"));
            let more = if many { "(SPACE? call)*" } else { "" };
            let body =
                format!("call: {call}\n{SPACE}object: {}\n", json_rule(&one_of(&offered, "arguments", "")));
            match forced {
                true => format!("start: call {more}\n{body}"),
                false => optional("<tool_call>", tokenizer, many, &body),
            }
        }
        ToolFormat::Mistral => {
            let items = if many { json!({}) } else { json!({"maxItems": 1}) };
            let mut list =
                json!({"type": "array", "items": one_of(&offered, "arguments", "/items"), "minItems": 1});
            list.as_object_mut()
                .expect("made above: bug")
                .extend(items.as_object().cloned().unwrap_or_default());
            let body =
                format!("call: {} SPACE? list\n{SPACE}list: {}\n", marker("[TOOL_CALLS]"), json_rule(&list));
            match forced {
                true => format!("start: call\n{body}"),
                false => optional("[TOOL_CALLS]", tokenizer, false, &body),
            }
        }
        ToolFormat::Llama3 | ToolFormat::Json => {
            let key = if format == ToolFormat::Llama3 { "parameters" } else { "arguments" };
            let more = match (many, format) {
                (true, ToolFormat::Llama3) => "(\";\" SPACE? object)*",
                (true, _) => "(SPACE object)*",
                _ => "",
            };
            let body = format!("{SPACE}object: {}\n", json_rule(&one_of(&offered, key, "")));
            match forced {
                true => format!("start: object {more}\n{body}"),
                // A call is the whole answer; what begins otherwise is text.
                false => format!("start: (object {more}) | TEXT\nTEXT: /[^{{\\[`< \\n](.|\\n)*/\n{body}"),
            }
        }
    };
    Ok(Some(ToolGrammar { rules }))
}

const SPACE: &str = "SPACE: /[ \\n]{1,4}/\n";

fn of_tool(tool: &Tool, error: LanguageError) -> LanguageError {
    match error {
        LanguageError::Grammar { at, what } => {
            LanguageError::Grammar { at: format!("tool {:?} parameters {at}", tool.name), what }
        }
        other => other,
    }
}

/// Text, then calls. The marker begins a call and nothing else.
fn optional(text: &str, tokenizer: &Tokenizer, many: bool, body: &str) -> String {
    let more = if many { "(SPACE? call)*" } else { "" };
    match special(tokenizer, text) {
        // Text cannot become a special token.
        Some(_) => format!("start: TEXT? (call {more})?\nTEXT: /(.|\\n)+/\n{body}"),
        None => {
            let escaped = escaped(text);
            format!(
                "start: TEXT? | before rest {more}\nTEXT: /(.|\\n)+/ & ~/(.|\\n)*{escaped}(.|\\n)*/\n\
                 before[lazy]: /(.|\\n)*{escaped}/\nrest: {}\n{body}",
                body.lines()
                    .next()
                    .and_then(|call| call.strip_prefix("call: "))
                    .and_then(|call| call.strip_prefix(&quoted(text)))
                    .unwrap_or_default()
            )
        }
    }
}

fn special(tokenizer: &Tokenizer, text: &str) -> Option<u32> {
    tokenizer.token_id(text).filter(|&id| tokenizer.is_special(id))
}

/// A marker as the vocabulary has it: a special token or its letters.
fn marker(tokenizer: &Tokenizer, text: &str) -> String {
    special(tokenizer, text).map_or_else(|| quoted(text), |id| format!("<[{id}]>"))
}

/// The schema of a call to one of these tools. `root` is where it will stand, a JSON pointer.
fn one_of(tools: &[&Tool], key: &str, root: &str) -> Json {
    let call = |(i, tool): (usize, &&Tool)| {
        let alternative = if tools.len() == 1 { String::new() } else { format!("/anyOf/{i}") };
        let mut arguments = tool.parameters.clone();
        move_references(&mut arguments, &format!("{root}{alternative}/properties/{key}"));
        json!({
            "type": "object",
            "properties": {"name": {"const": tool.name}, key: arguments},
            "required": ["name", key],
            "additionalProperties": false,
        })
    };
    let calls: Vec<Json> = tools.iter().enumerate().map(call).collect();
    match <[Json; 1]>::try_from(calls) {
        Ok([call]) => call,
        Err(calls) => json!({"anyOf": calls}),
    }
}

/// References of a schema are from its root; where it stands inside another they follow it there.
fn move_references(schema: &mut Json, to: &str) {
    match schema {
        Json::Object(members) => {
            for (key, value) in members {
                match value {
                    Json::String(reference) if key == "$ref" && reference.starts_with('#') => {
                        *reference = format!("#{to}{}", reference[1..].trim_end_matches('/'));
                    }
                    value => move_references(value, to),
                }
            }
        }
        Json::Array(values) => values.iter_mut().for_each(|value| move_references(value, to)),
        _ => {}
    }
}

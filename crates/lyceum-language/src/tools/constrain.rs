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
    offered: Vec<Tool>,
}

impl ToolGrammar {
    pub(crate) fn rules(&self) -> &str {
        &self.rules
    }

    /// The tools that can be called by it.
    pub(crate) fn offered(&self) -> &[Tool] {
        &self.offered
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
        ToolFormat::Pythonic | ToolFormat::ToolCode => {
            let (open, between, close) = match format {
                ToolFormat::Pythonic => ("[", ", ", "]"),
                _ => ("```tool_code\n", "\n", "\n```"),
            };
            let (open, between, close) = (quoted(open), quoted(between), quoted(close));
            let more = if many { format!("({between} call)*") } else { String::new() };
            let body = python_rules(&offered)?;
            match forced {
                true => format!("start: {open} call {more} {close}\n{body}"),
                false => {
                    format!(
                        "start: ({open} call {more} {close}) | TEXT\nTEXT: /[^{{\\[`< \\n](.|\\n)*/\n{body}"
                    )
                }
            }
        }
    };
    Ok(Some(ToolGrammar { rules, offered: offered.into_iter().cloned().collect() }))
}

/// Calls as Python's: `name(key=value, …)`, the arguments in the schema's order, the values as JSON, which Python
/// reads but for three words (`true`, `false`, `null`) that the parser knows.
fn python_rules(tools: &[&Tool]) -> Result<String, LanguageError> {
    let names: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
    let mut rules = format!("call: {}\n", names.join(" | "));
    for (i, tool) in tools.iter().enumerate() {
        let refuse = |what: &str| {
            let at = format!("tool {:?} parameters", tool.name);
            Err(LanguageError::Grammar { at, what: what.into() })
        };
        let known = ["type", "properties", "required", "additionalProperties", "$defs", "definitions"];
        let says_nothing = ["title", "description", "$schema", "$id", "default", "examples"];
        let schema = tool.parameters.as_object().cloned().unwrap_or_default();
        if let Some(key) =
            schema.keys().find(|k| !known.contains(&k.as_str()) && !says_nothing.contains(&k.as_str()))
        {
            return refuse(&format!("{key} cannot be kept where arguments are written one by one"));
        }
        let properties = schema.get("properties").and_then(Json::as_object).cloned().unwrap_or_default();
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
            .collect();
        if required.iter().any(|key| !properties.contains_key(*key)) {
            return refuse("an argument is required and has no schema");
        }
        let mut arguments = Vec::new();
        for (j, (key, of)) in properties.iter().enumerate() {
            if super::parse::name_of_python(key) != Some(key) {
                return refuse(&format!("{key:?} is no name of an argument of Python's"));
            }
            let mut of = match of {
                Json::Object(_) => of.clone(),
                other => json!({"allOf": [other]}),
            };
            for defined in ["$defs", "definitions"] {
                if let Some(all) = schema.get(defined) {
                    of[defined] = all.clone();
                }
            }
            if refers_elsewhere(&of) {
                return refuse("$ref can lead to $defs and nowhere else here");
            }
            rules += &format!("value_{i}_{j}: {}\n", json_rule(&of));
            let argument = format!("{} value_{i}_{j}", quoted(&format!("{key}=")));
            arguments.push((argument, required.contains(&key.as_str())));
        }
        let open = quoted(&format!("{}(", tool.name));
        // after_J: the arguments from J on, when others stand before them; first_J: when none does.
        let n = arguments.len();
        rules += &format!("call_{i}: {open} first_{i}_0 \")\"\nfirst_{i}_{n}: \"\"\nafter_{i}_{n}: \"\"\n");
        for (j, (argument, is_required)) in arguments.iter().enumerate() {
            let next = j + 1;
            let (skip_first, skip_after) = match is_required {
                true => (String::new(), String::new()),
                false => (format!(" | first_{i}_{next}"), format!(" | after_{i}_{next}")),
            };
            rules += &format!("first_{i}_{j}: {argument} after_{i}_{next}{skip_first}\n");
            rules += &format!("after_{i}_{j}: \", \" {argument} after_{i}_{next}{skip_after}\n");
        }
    }
    Ok(rules)
}

fn refers_elsewhere(schema: &Json) -> bool {
    match schema {
        Json::Object(members) => members.iter().any(|(key, value)| match value {
            Json::String(to) if key == "$ref" => {
                !(to.starts_with("#/$defs/") || to.starts_with("#/definitions/"))
            }
            value => refers_elsewhere(value),
        }),
        Json::Array(values) => values.iter().any(refers_elsewhere),
        _ => false,
    }
}

const SPACE: &str = "SPACE: /[ \\n]{1,4}/\n";

pub(crate) fn of_tool(tool: &Tool, error: LanguageError) -> LanguageError {
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

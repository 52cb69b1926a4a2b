//! Tools that a model can call: what a request offers, and how each family writes a call.
//!
//! [`parse`] finds calls in an answer; [`constrain`] makes the grammar that forces them.

pub mod constrain;
mod format;
pub mod parse;

pub use format::ToolFormat;
pub use parse::{Event, ToolParser};

use crate::LanguageError;
use serde_json::Value as Json;

/// A request offers at most this many tools (OpenAI's limit).
pub const TOOLS_MAX: usize = 128;
const NAME_CHARS_MAX: usize = 64;

/// A function that the model can call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    pub name: String,
    /// The schema of its arguments, an object's.
    pub parameters: Json,
    /// Arguments are guaranteed to follow the schema.
    pub strict: bool,
}

/// Whether the model may, must not or must call a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// A call that the model made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Unique among the calls of an answer: `call_…`.
    pub id: String,
    pub name: String,
    /// JSON, compact.
    pub arguments: String,
}

/// The tools of a request, in OpenAI's shape of chat completions.
///
/// # Errors
/// A tool of another type, without a proper name, with a name twice, or whose parameters are no schema of an
/// object; each names where it stands.
pub fn openai_tools(tools: &[Json]) -> Result<Vec<Tool>, LanguageError> {
    if tools.len() > TOOLS_MAX {
        return Err(LanguageError::bound(format!("{} tools", tools.len()), TOOLS_MAX));
    }
    let mut read: Vec<Tool> = Vec::with_capacity(tools.len());
    for (i, tool) in tools.iter().enumerate() {
        let wrong = |what: &str| LanguageError::Tools(format!("tools[{i}]{what}"));
        if tool["type"] != "function" {
            return Err(wrong(&format!(".type: only functions can be offered, not {}", tool["type"])));
        }
        let function = tool["function"].as_object().ok_or_else(|| wrong(".function is not an object"))?;
        let name =
            function.get("name").and_then(Json::as_str).ok_or_else(|| wrong(".function.name is missing"))?;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(good) {
            return Err(wrong(&format!(
                ".function.name: {name:?} is not 1 to 64 of letters, digits, _ and -"
            )));
        }
        if read.iter().any(|other| other.name == name) {
            return Err(wrong(&format!(".function.name: {name:?} is there twice")));
        }
        let parameters = match function.get("parameters") {
            None | Some(Json::Null) => serde_json::json!({"type": "object", "properties": {}}),
            Some(Json::Object(schema)) if schema.is_empty() => {
                serde_json::json!({"type": "object", "properties": {}})
            }
            Some(schema) if schema["type"] == "object" => schema.clone(),
            Some(_) => return Err(wrong(".function.parameters is not the schema of an object")),
        };
        let strict = match function.get("strict") {
            None | Some(Json::Null) => false,
            Some(Json::Bool(strict)) => *strict,
            Some(_) => return Err(wrong(".function.strict is not a boolean")),
        };
        read.push(Tool { name: name.to_owned(), parameters, strict });
    }
    Ok(read)
}

/// `tool_choice` of chat completions: a word, `{"type": "function", "function": {"name": …}}`, or
/// `{"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required", "tools": [function, …]}}`, whose tools
/// [`callable`] gives.
///
/// # Errors
/// It is none of these, names a tool that is not offered, or requires one where none is.
pub fn openai_tool_choice(choice: Option<&Json>, tools: &[Tool]) -> Result<ToolChoice, LanguageError> {
    let wrong = |what: String| Err(LanguageError::Tools(format!("tool_choice: {what}")));
    let choice = match choice {
        None | Some(Json::Null) => {
            return Ok(if tools.is_empty() { ToolChoice::None } else { ToolChoice::Auto });
        }
        Some(Json::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            other => return wrong(format!("{other:?} is none of auto, none, required")),
        },
        Some(choice) if choice["type"] == ALLOWED => match choice[ALLOWED]["mode"].as_str() {
            Some("auto") => ToolChoice::Auto,
            Some("required") => ToolChoice::Required,
            _ => return wrong(format!("{ALLOWED}.mode is none of auto, required")),
        },
        Some(choice) => match (choice["type"].as_str(), choice["function"]["name"].as_str()) {
            (Some("function"), Some(name)) => ToolChoice::Named(name.to_owned()),
            (Some(other), _) if other != "function" => {
                return wrong(format!("type {other:?} is none of function, {ALLOWED}"));
            }
            _ => return wrong(format!("{choice} names no function")),
        },
    };
    match &choice {
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            wrong(format!("{name:?} is not among the tools"))
        }
        ToolChoice::Required if tools.is_empty() => {
            wrong("a call is required and no tools are offered".into())
        }
        _ => Ok(choice),
    }
}

/// The type of a `tool_choice` that lets some of the tools be called.
const ALLOWED: &str = "allowed_tools";

/// The tools that may be called: those that `allowed_tools` names, else all. The model is told of all the same.
///
/// # Errors
/// It names none, what is no function, or one that is not offered.
pub fn callable(choice: Option<&Json>, tools: Vec<Tool>) -> Result<Vec<Tool>, LanguageError> {
    let Some(allowed) = choice.filter(|choice| choice["type"] == ALLOWED) else { return Ok(tools) };
    let wrong = |what: String| Err(LanguageError::Tools(format!("tool_choice: {ALLOWED}.tools{what}")));
    let Some(named) = allowed[ALLOWED]["tools"].as_array().filter(|named| !named.is_empty()) else {
        return wrong(" names no function".into());
    };
    for (i, one) in named.iter().enumerate() {
        match one["function"]["name"].as_str().filter(|_| one["type"] == "function") {
            None => return wrong(format!("[{i}] names no function")),
            Some(name) if !tools.iter().any(|tool| tool.name == name) => {
                return wrong(format!("[{i}]: {name:?} is not among the tools"));
            }
            Some(_) => {}
        }
    }
    let is_named = |tool: &Tool| named.iter().any(|one| one["function"]["name"] == tool.name.as_str());
    Ok(tools.into_iter().filter(is_named).collect())
}

/// Ids of calls, drawn from a seed: `call_` and 24 letters and digits; Mistral's templates take nine alone.
#[derive(Clone, Debug)]
pub struct CallIds {
    state: u64,
    format: ToolFormat,
}

impl CallIds {
    pub fn new(seed: u64, format: ToolFormat) -> Self {
        CallIds { state: seed, format }
    }

    fn draw(&mut self) -> String {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let (prefix, n) = if self.format == ToolFormat::Mistral { ("", 9) } else { ("call_", 24) };
        let letters = (0..n).map(|_| {
            // SplitMix64 (Steele et al. 2014).
            self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            char::from(LETTERS[((z ^ (z >> 31)) % 62) as usize])
        });
        prefix.chars().chain(letters.collect::<Vec<_>>()).collect()
    }
}

//! Chat templates: a conversation becomes the text that a model was trained to continue, as Hugging Face's
//! `apply_chat_template` renders it.
//!
//! A template is a Jinja program from the model's files and is not trusted: its size, its work and memory
//! (fuel), its depth and its output are bounded, and it reaches nothing but what is handed to it. What Hugging
//! Face adds to Jinja is here too: `raise_exception`, `strftime_now` (the time is handed in), `tojson` as
//! Python's `json.dumps` writes, `{% generation %}`, `break` and `continue`.

mod messages;
mod python;
mod strftime;
#[cfg(test)]
mod tests;

pub use messages::{MessagesError, ROLES, joined, openai_messages, unknown_role};

use crate::LanguageError;
use crate::tokenizer::Guard;
use minijinja::{Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};
use std::io::Write;

/// A template is at most this long, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 512 << 10;
/// Steps of a template, one more for each 64 bytes that it makes: about a second of work and 256 MiB.
const FUEL_MAX: u64 = 4_000_000;
/// A rendered conversation is at most this long, in bytes.
pub const RENDERED_BYTES_MAX: usize = 32 << 20;
const RECURSION_MAX: usize = 120;
const NAME: &str = "chat_template";

/// A model's chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    /// `bos_token`, `eos_token`, … as templates write them.
    special_tokens: Map<String, Json>,
}

/// What a template is rendered with.
#[derive(Clone, Debug, Default)]
pub struct Conversation<'a> {
    /// In the shape that templates read ([`openai_messages`] makes it).
    pub messages: &'a [Json],
    /// Tools in OpenAI's shape.
    pub tools: Option<&'a [Json]>,
    /// Objects with `title` and `text`.
    pub documents: Option<&'a [Json]>,
    pub end: End,
    /// Further variables of the template (`chat_template_kwargs`: `enable_thinking`, …).
    pub variables: Map<String, Json>,
    /// What `strftime_now` tells: seconds since 1970 in the time zone of the text.
    pub now: i64,
    /// Tokens that strings of the conversation must not forge; the text is then to be encoded with
    /// [`Specials::Protected`](crate::tokenizer::Specials::Protected).
    pub guard: Guard,
}

/// How the text ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// After the last message.
    #[default]
    AfterMessages,
    /// With the beginning of the assistant's turn (`add_generation_prompt`).
    GenerationPrompt,
    /// Within the last message, which the model continues (`continue_final_message`).
    ContinueFinalMessage,
}

/// Variables that a request cannot set.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
const CONTINUE_HERE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

impl ChatTemplate {
    /// Compiles a template. `special_tokens` has the texts of `bos_token`, `eos_token` and their like.
    ///
    /// # Errors
    /// It is too long, or is no Jinja.
    pub fn new(source: &str, special_tokens: Map<String, Json>) -> Result<Self, LanguageError> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(LanguageError::bound(
                format!("a chat template of {} bytes", source.len()),
                TEMPLATE_BYTES_MAX,
            ));
        }
        let mut environment = Environment::new();
        let syntax = minijinja::syntax::SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| LanguageError::Template(error.to_string()))?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL_MAX));
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_formatter(python::print);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter("tojson", python::tojson);
        environment.add_filter("string", python::string);
        environment.add_test("iterable", python::is_iterable);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime::strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| LanguageError::Template(told(&error)))?;
        Ok(ChatTemplate { environment, source: source.to_owned(), special_tokens })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template reads a variable of this name, as far as its text tells.
    pub fn mentions(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// What the template calls a role of a message: its own word, or where it has none for `developer`, `system`. None: a role
    /// that its text does not name, which it would leave out or write as a turn that no model has seen.
    pub fn role<'a>(&self, role: &'a str) -> Option<&'a str> {
        let names = |role: &str| self.mentions(&format!("'{role}'")) || self.mentions(&format!("\"{role}\""));
        match role {
            "developer" if !names(role) => Some("system"),
            _ if messages::ROLES.contains(&role) || names(role) => Some(role),
            _ => None,
        }
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// A message has a role that the template does not know, the template refuses the conversation
    /// ([`LanguageError::Refused`]), fails, or reaches a bound.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, LanguageError> {
        if let Some(name) = RESERVED.iter().find(|name| conversation.variables.contains_key(**name)) {
            return Err(LanguageError::Template(format!("the variable {name:?} cannot be set by a request")));
        }
        let guarded = |values: &[Json]| -> Vec<Json> {
            values.iter().map(|value| messages::protect(value, &conversation.guard)).collect()
        };
        let mut messages = guarded(conversation.messages);
        messages::name_roles(&mut messages, self)?;
        if conversation.end == End::ContinueFinalMessage {
            messages::tag_last(&mut messages, CONTINUE_HERE)?;
        }
        let mut variables = self.special_tokens.clone();
        for (name, value) in &conversation.variables {
            variables.insert(name.clone(), messages::protect(value, &conversation.guard));
        }
        let list = |values: Option<&[Json]>| values.map_or(Json::Null, |values| guarded(values).into());
        variables.insert("messages".into(), messages.into());
        variables.insert("tools".into(), list(conversation.tools));
        variables.insert("documents".into(), list(conversation.documents));
        let prompt = conversation.end == End::GenerationPrompt;
        variables.insert("add_generation_prompt".into(), prompt.into());
        variables.insert(strftime::NOW.into(), conversation.now.into());
        let text = self.render_variables(&variables)?;
        match conversation.end {
            End::ContinueFinalMessage => cut_at_tag(text),
            _ => Ok(text),
        }
    }

    fn render_variables(&self, variables: &Map<String, Json>) -> Result<String, LanguageError> {
        let template = self.environment.get_template(NAME).expect("added when it was made: bug");
        let mut out = Bounded(Vec::new());
        match template.render_captured_to(Value::from(minijinja::value::Serde(variables)), &mut out) {
            Ok(_) => String::from_utf8(out.0).map_err(|error| LanguageError::Template(error.to_string())),
            Err(_) if out.0.len() >= RENDERED_BYTES_MAX => {
                Err(LanguageError::bound("the rendered conversation", RENDERED_BYTES_MAX))
            }
            Err(error) => Err(render_error(&error)),
        }
    }
}

/// A text that refuses to grow over its bound.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > RENDERED_BYTES_MAX {
            self.0 = vec![0; RENDERED_BYTES_MAX];
            return Err(std::io::Error::other("the rendered conversation is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The text up to the tag; where the template trimmed the message's end, without the space before it.
fn cut_at_tag(mut text: String) -> Result<String, LanguageError> {
    let Some(at) = text.rfind(CONTINUE_HERE.trim_end()) else {
        return Err(LanguageError::Template(
            "the template drops the final message, so it cannot be continued".into(),
        ));
    };
    let kept = text[at..].starts_with(CONTINUE_HERE);
    text.truncate(at);
    if !kept {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

/// The detail of an error that `raise_exception` made begins with it.
const RAISED: &str = "\u{0}raised: ";

fn raise_exception(message: &Value) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

fn render_error(error: &minijinja::Error) -> LanguageError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(error) = current.downcast_ref::<minijinja::Error>() {
            if let Some(message) = error.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
                return LanguageError::Refused(message.to_owned());
            }
            if error.kind() == ErrorKind::OutOfFuel {
                return LanguageError::bound("the work of the chat template", FUEL_MAX as usize);
            }
        }
        cause = current.source();
    }
    LanguageError::Template(told(error))
}

fn told(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// `{% generation %}` marks the assistant's own words for training. Here it is a scope and prints its body.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find("%}").map_or(rest.len(), |end| end + 2);
        let tag = &rest[..end];
        let words = tag.trim_start_matches("{%").trim_end_matches("%}");
        let name = words.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => {
                // Another tag's text may hold what looks like one, so only its beginning is passed.
                out.push_str("{%");
                rest = &rest[2..];
                continue;
            }
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

//! What can be wrong with a tokenizer, a template, a text, a tool or a grammar.

use std::borrow::Cow;

/// The one error of this crate. Its text is safe to show to a client.
#[derive(Debug, thiserror::Error)]
pub enum LanguageError {
    /// The model's files: a tokenizer that cannot be built.
    #[error("tokenizer: {}", short(.0))]
    Tokenizer(String),
    /// The caller: a text or an id that this tokenizer does not express.
    #[error("text: {}", short(.0))]
    Text(String),
    /// The model's files: a chat template that is no template, or needs what is not there.
    #[error("chat template: {}", short(.0))]
    Template(String),
    /// The caller: the template itself refuses the conversation (`raise_exception`).
    #[error("the model's chat template refuses this conversation: {}", short(.0))]
    Refused(String),
    /// The caller: a tool or `tool_choice` that cannot be offered.
    #[error("tools: {}", short(.0))]
    Tools(String),
    /// The caller: a schema, regular expression or grammar that cannot be compiled. `at` is where it stands
    /// (a JSON pointer into the schema, or the name of the constraint).
    #[error("{}: {}", short(at), short(what))]
    Grammar { at: String, what: String },
    /// A bound was reached: size, time, depth.
    #[error("{what} is over the limit of {limit}")]
    Bound { what: String, limit: u64 },
}

/// What a file or a request said is shown, and never all of it.
fn short(text: &str) -> Cow<'_, str> {
    const HEAD_CHARS: usize = 400;
    match text.char_indices().nth(HEAD_CHARS) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{} …", &text[..end])),
    }
}

impl LanguageError {
    pub(crate) fn grammar(at: impl Into<String>, what: impl Into<String>) -> Self {
        LanguageError::Grammar { at: at.into(), what: what.into() }
    }

    pub(crate) fn bound(what: impl Into<String>, limit: usize) -> Self {
        LanguageError::Bound { what: what.into(), limit: limit as u64 }
    }
}

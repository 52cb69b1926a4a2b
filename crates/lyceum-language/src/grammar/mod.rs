//! Answers that follow a form: a JSON schema, a regular expression, a list of choices, a grammar, tool calls.
//!
//! A constraint is compiled once a request ([`GrammarCompiler::compile`]). Each answer has a [`Matcher`] of its
//! own, which is asked before every token what may come ([`Matcher::allowed`]) and told what came
//! ([`Matcher::accept`]). It fails closed: where it cannot tell, nothing is allowed and the answer ends with an
//! error. The grammars are `llguidance`'s (Earley parser over a lexer of derivatives).

mod culprit;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use schema::{SCHEMA_BYTES_MAX, check_schema, check_strict};

use crate::LanguageError;
use crate::reasoning::{Begins, ReasoningFormat};
use crate::tokenizer::Tokenizer;
use crate::tools::Tool;
use crate::tools::constrain::of_tool;
use llguidance::api::TopLevelGrammar;
use llguidance::{ParserFactory, panic_utils};
use serde_json::{Value as Json, json};
use std::fmt::Write;
use std::panic::AssertUnwindSafe;

/// A regular expression or grammar is at most this long, in bytes.
pub const GRAMMAR_BYTES_MAX: usize = 64 << 10;
/// Choices of one constraint, and their bytes together.
pub const CHOICES_MAX: usize = 1000;
const CHOICES_BYTES_MAX: usize = 64 << 10;
/// Steps that building the lexer may take: some tens of milliseconds.
const LEXER_FUEL: u64 = 1_000_000;

/// The form of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object (`response_format: json_object`).
    JsonObject,
    /// JSON of a schema.
    JsonSchema { schema: Json, strict: bool },
    /// The whole answer matches. `\d` and `\w` are ASCII, as in the patterns of schemas.
    Regex(String),
    /// The answer is one of these.
    Choice(Vec<String>),
    /// A grammar in `llguidance`'s dialect of Lark.
    Grammar(String),
    /// Rules that [`constrain`](crate::tools::constrain) made.
    Tools(crate::tools::constrain::ToolGrammar),
}

/// Compiles constraints for one vocabulary.
pub struct GrammarCompiler {
    factory: ParserFactory,
    n_words: usize,
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrammarCompiler of {} words", self.n_words)
    }
}

/// A compiled constraint; each answer takes a matcher of it.
#[derive(Clone)]
pub struct Grammar {
    matcher: llguidance::Matcher,
    n_words: usize,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grammar over {} words", self.n_words)
    }
}

impl GrammarCompiler {
    /// `n_logits`: how many tokens the model scores, which may be more than the vocabulary has.
    ///
    /// # Errors
    /// A tokenizer whose tokens are not bytes, or without a token that ends an answer.
    pub fn new(tokenizer: &Tokenizer, n_logits: usize) -> Result<Self, LanguageError> {
        let environment = vocabulary::environment(tokenizer, n_logits)?;
        let mut factory =
            panic_utils::catch_unwind(AssertUnwindSafe(|| ParserFactory::new_simple(&environment)))
                .map_err(|error| LanguageError::Tokenizer(format!("no trie can be made of it: {error}")))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.initial_lexer_fuel = LEXER_FUEL;
        // Errors must not repeat what a model said.
        limits.verbose_errors = false;
        Ok(GrammarCompiler { factory, n_words: n_logits.div_ceil(32) })
    }

    /// Compiles a constraint. `reasoning`: the model may think before it follows the form.
    ///
    /// # Errors
    /// A constraint over a bound, or one that cannot be guaranteed, with the place and the keyword.
    pub fn compile(
        &self,
        constraint: &Constraint,
        reasoning: Option<ReasoningFormat>,
    ) -> Result<Grammar, LanguageError> {
        let (name, rules) = rules(constraint)?;
        let lark = match (constraint, reasoning) {
            (_, None) => rules,
            (Constraint::Grammar(_), Some(_)) => {
                return Err(LanguageError::grammar(
                    name,
                    "a grammar cannot follow thinking; turn thinking off",
                ));
            }
            (_, Some(format)) => after_thinking(&rules, format),
        };
        self.compile_rules(name, lark).map_err(|error| match constraint {
            Constraint::JsonSchema { schema, .. } => culprit::find(self, schema).unwrap_or(error),
            Constraint::Tools(tools) => self.wrong_tool(tools.offered()).unwrap_or(error),
            _ => error,
        })
    }

    /// What is wrong with the first tool whose arguments cannot be compiled alone.
    fn wrong_tool(&self, tools: &[Tool]) -> Option<LanguageError> {
        tools.iter().find_map(|tool| {
            let alone = Constraint::JsonSchema { schema: tool.parameters.clone(), strict: false };
            self.compile(&alone, None).err().map(|error| of_tool(tool, error))
        })
    }

    /// Compiles rules; `name` is what errors say of where they stand.
    fn compile_rules(&self, name: &str, lark: String) -> Result<Grammar, LanguageError> {
        let told = |message: &str| match name {
            // Only who wrote the rules knows their lines.
            "grammar" => told(message),
            _ => without_place(&told(message)).to_owned(),
        };
        let matcher = panic_utils::catch_unwind(AssertUnwindSafe(|| {
            Ok(llguidance::Matcher::new(self.factory.create_parser(TopLevelGrammar::from_lark(lark))))
        }));
        let mut matcher = matcher.map_err(|error| LanguageError::grammar(name, told(&error.to_string())))?;
        if let Some(error) = matcher.get_error() {
            return Err(LanguageError::grammar(name, told(&error)));
        }
        // What nothing can satisfy is refused before a token is made.
        let mut grammar = Grammar { matcher: matcher.clone(), n_words: self.n_words };
        let mut words = vec![0; self.n_words];
        if let Err(error) = grammar.matcher().allowed(&mut words) {
            let LanguageError::Grammar { what, .. } = error else { return Err(error) };
            return Err(LanguageError::grammar(name, format!("no answer can begin: {what}")));
        }
        if !matcher.grammar_warnings().is_empty() {
            return Err(LanguageError::grammar(name, matcher.grammar_warnings().join("; ")));
        }
        grammar.matcher = matcher;
        Ok(grammar)
    }
}

impl Grammar {
    /// A matcher at the beginning of an answer.
    pub fn matcher(&self) -> Matcher {
        Matcher { inner: self.matcher.clone(), n_words: self.n_words }
    }
}

/// Follows one answer.
pub struct Matcher {
    inner: llguidance::Matcher,
    n_words: usize,
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matcher({:?})", self.inner.stop_reason())
    }
}

impl Matcher {
    /// Sets `words` to the tokens that may come: token `i` is bit `i % 32` of word `i / 32`. Where the answer may
    /// end, the tokens that end it are among them.
    ///
    /// # Errors
    /// Nothing may come, or a bound of the parser is reached; `words` is then zero.
    pub fn allowed(&mut self, words: &mut [u32]) -> Result<(), LanguageError> {
        words.fill(0);
        let mask = self.inner.compute_mask_or_eos().map_err(|error| self.failed(&error.to_string()))?;
        for (word, &allowed) in words.iter_mut().take(self.n_words).zip(mask.as_slice()) {
            *word = allowed;
        }
        if words.iter().all(|&word| word == 0) {
            return Err(self.failed("no token of the vocabulary can come next"));
        }
        Ok(())
    }

    /// This token came.
    ///
    /// # Errors
    /// It was not allowed.
    pub fn accept(&mut self, token: u32) -> Result<(), LanguageError> {
        if self.inner.is_stopped() {
            return Err(self.failed("a token came after the end"));
        }
        self.inner.consume_token(token).map_err(|error| self.failed(&error.to_string()))
    }

    /// Whether the answer is whole as it is.
    pub fn can_end(&mut self) -> bool {
        self.inner.is_stopped() && !self.inner.is_error() || self.inner.is_accepting().unwrap_or(false)
    }

    /// Whether nothing but the end can come.
    pub fn is_finished(&self) -> bool {
        self.inner.is_stopped() && !self.inner.is_error()
    }

    fn failed(&self, what: &str) -> LanguageError {
        LanguageError::grammar("the form of the answer", told(what))
    }
}

/// The library's message on one line, bounded. Its own state, behind a line that begins with `<`, and the lines of the
/// rules that it repeats are left out.
fn told(message: &str) -> String {
    const CHARS_MAX: usize = 300;
    let is_underline = |line: &str| line.chars().all(|c| c == '^' || c == ' ');
    let is_rule = |line: &str| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.len() < line.len() && (rest == " |" || rest.starts_with(" | "))
    };
    let said = message.lines().map(str::trim).take_while(|line| !line.starts_with('<'));
    let said: Vec<&str> = said.filter(|line| !is_underline(line) && !is_rule(line)).collect();
    match said.join(" ") {
        none if none == "NoExtensionBias" => "no token of the vocabulary can come next".to_owned(),
        whole => whole.chars().take(CHARS_MAX).collect(),
    }
}

/// What was told, without the line and the column of rules that nobody but this program wrote.
fn without_place(told: &str) -> &str {
    let place = |c: char| c.is_ascii_digit() || c == '(' || c == ')';
    let rest = told.strip_prefix("at ").and_then(|rest| rest.trim_start_matches(place).strip_prefix(": "));
    let rest = rest.unwrap_or(told);
    rest.strip_prefix("failed to compile JSON schema: ").unwrap_or(rest)
}

/// The name of a constraint in requests, and its rules.
fn rules(constraint: &Constraint) -> Result<(&'static str, String), LanguageError> {
    let bounded = |what: &str, n: usize, max: usize| match n > max {
        true => Err(LanguageError::bound(format!("{what} ({n})"), max)),
        false => Ok(()),
    };
    Ok(match constraint {
        Constraint::JsonObject => {
            ("json_object", format!("start: {}", json_rule(&json!({"type": "object"}))))
        }
        Constraint::JsonSchema { schema, strict } => {
            check_schema(schema, "")?;
            if *strict {
                check_strict(schema)?;
            }
            ("json_schema", format!("start: {}", json_rule(schema)))
        }
        Constraint::Regex(expression) => {
            bounded("the length of the regular expression", expression.len(), GRAMMAR_BYTES_MAX)?;
            let expression = llguidance::regex_to_lark(expression, "dw");
            ("regex", format!("start: /{expression}/"))
        }
        Constraint::Choice(choices) => {
            bounded("the number of choices", choices.len(), CHOICES_MAX)?;
            bounded("the length of the choices", choices.iter().map(String::len).sum(), CHOICES_BYTES_MAX)?;
            if choices.is_empty() {
                return Err(LanguageError::grammar("choice", "there is no choice"));
            }
            if choices.iter().any(String::is_empty) {
                return Err(LanguageError::grammar("choice", "a choice is empty"));
            }
            let mut rules = String::from("start: ");
            for (i, choice) in choices.iter().enumerate() {
                let _ = write!(rules, "{}{}", if i > 0 { " | " } else { "" }, quoted(choice));
            }
            ("choice", rules)
        }
        Constraint::Grammar(grammar) => {
            bounded("the length of the grammar", grammar.len(), GRAMMAR_BYTES_MAX)?;
            ("grammar", grammar.clone())
        }
        Constraint::Tools(tools) => ("tools", tools.rules().to_owned()),
    })
}

/// A rule for JSON of a schema. White space between tokens of JSON is bounded: an answer cannot be endless
/// blanks.
pub(crate) fn json_rule(schema: &Json) -> String {
    let mut schema = match schema {
        Json::Object(_) => schema.clone(),
        Json::Bool(true) => json!({}),
        other => json!({"allOf": [other]}),
    };
    schema["x-guidance"] = json!({"whitespace_pattern": r"[\x20\x0A]{1,16}"});
    format!("%json {schema}")
}

/// A literal of Lark.
pub(crate) fn quoted(text: &str) -> String {
    Json::String(text.to_owned()).to_string()
}

/// Text as an expression that stands between slashes.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$#&-~/".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn after_thinking(rules: &str, format: ReasoningFormat) -> String {
    let rules = rules.replacen("start:", "answer:", 1);
    let thought = format!(r"/(.|\n)*{}/", escaped(format.close));
    match format.begins {
        Begins::Inside => {
            format!("start: thought SPACE? answer\nthought[lazy]: {thought}\nSPACE: /[ \\n]{{1,4}}/\n{rules}")
        }
        Begins::Outside => format!(
            "start: ({} thought SPACE?)? answer\nthought[lazy]: {thought}\nSPACE: /[ \\n]{{1,4}}/\n{rules}",
            quoted(format.open)
        ),
    }
}

//! An example as the model will read it, and which of its tokens are learnt.
//!
//! The whole conversation is rendered and encoded once, as a request is. An answer begins where the conversation
//! before it, with the beginning of the assistant's turn, ends: that prompt is what the model is given when it
//! serves. It ends with the token that ends the turn; what the template writes after that (a line break) is never
//! the model's to say. Both places are found by encoding the shorter conversations: a token that straddles a border
//! belongs to the answer.

use super::lines::{Example, Line, Message};
use lyceum_language::LanguageError;
use lyceum_language::template::{ChatTemplate, Conversation, End, openai_messages};
use lyceum_language::tokenizer::{AddSpecial, Specials, Tokenizer};
use serde_json::Value;

/// What turns an example into tokens.
#[derive(Clone, Copy)]
pub struct Words<'a> {
    pub tokenizer: &'a Tokenizer,
    /// None: the model continues texts and does not converse.
    pub template: Option<&'a ChatTemplate>,
    /// What `strftime_now` tells templates: seconds since 1970.
    pub now: i64,
}

/// A sequence of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    pub ids: Vec<u32>,
    /// Of each token, whether the model learns to say it.
    pub has_loss: Vec<bool>,
}

impl Rendered {
    pub(super) fn cut(&mut self, n: usize) {
        self.ids.truncate(n);
        self.has_loss.truncate(n);
    }
}

/// What is wrong with an example once the model's words are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub pointer: String,
    pub code: &'static str,
    pub message: String,
    pub hint: &'static str,
}

/// The sequences of an example: one, or the preferred and the other.
pub fn sequences(line: &Line, words: Words<'_>) -> Result<Vec<Rendered>, Problem> {
    match &line.example {
        Example::Completion { prompt, completion } => Ok(vec![continued(prompt, completion, words)?]),
        Example::Chat { messages, tools } => Ok(vec![conversation(messages, tools, "/messages", words)?]),
        Example::Preferences { messages, tools, preferred, other } => {
            // What was said before is given.
            let given = messages.iter().map(|m| Message { has_loss: false, ..m.clone() });
            let given: Vec<Message> = given.collect();
            let with = |output: &[Message], pointer: &str| {
                conversation(&[&given[..], output].concat(), tools, pointer, words)
            };
            Ok(vec![with(preferred, "/preferred_output")?, with(other, "/non_preferred_output")?])
        }
    }
}

/// A prompt and what follows it: the tokens of each, and the token that ends a text.
fn continued(prompt: &str, completion: &str, words: Words<'_>) -> Result<Rendered, Problem> {
    let encode = |text: &str, pointer: &str| {
        let ids = words.tokenizer.encode(text, AddSpecial::Yes, Specials::AsText);
        ids.map_err(|error| refused(pointer, &error))
    };
    let before = encode(prompt, "/prompt")?;
    let mut ids = encode(&format!("{prompt}{completion}"), "/completion")?;
    let Some(end) = words.tokenizer.eos() else {
        let message = "the model has no token that ends a text".into();
        return Err(Problem {
            pointer: String::new(),
            code: "no_end_token",
            message,
            hint: "use a model that has one",
        });
    };
    if ids.last() != Some(&end) {
        ids.push(end);
    }
    let first = common(&before, &ids).max(1);
    let has_loss = (0..ids.len()).map(|i| i >= first).collect();
    Ok(Rendered { ids, has_loss })
}

fn conversation(
    messages: &[Message],
    tools: &[Value],
    pointer: &str,
    words: Words<'_>,
) -> Result<Rendered, Problem> {
    let Some(template) = words.template else {
        return Err(Problem {
            pointer: pointer.into(),
            code: "no_template",
            message: "the model's files have no chat template".into(),
            hint: "write lines of prompt and completion, or tune a model that converses",
        });
    };
    let json: Vec<Value> = messages.iter().map(|message| message.json.clone()).collect();
    let shaped = openai_messages(&json).map_err(|error| refused(pointer, &error))?;
    let encode = |n: usize, end: End| -> Result<Vec<u32>, Problem> {
        let conversation = Conversation {
            messages: &shaped[..n],
            tools: (!tools.is_empty()).then_some(tools),
            end,
            now: words.now,
            guard: words.tokenizer.guarded(template.source()),
            ..Conversation::default()
        };
        let text = template.render(&conversation).map_err(|error| refused(pointer, &error))?;
        let ids = words.tokenizer.encode(&text, AddSpecial::No, Specials::Protected);
        ids.map_err(|error| refused(pointer, &error))
    };
    let ids = encode(messages.len(), End::AfterMessages)?;
    let mut has_loss = vec![false; ids.len()];
    for i in (0..messages.len()).filter(|&i| messages[i].has_loss) {
        let first = common(&encode(i, End::GenerationPrompt)?, &ids);
        let through = match i + 1 == messages.len() {
            true => ids.len(),
            false => {
                let until = encode(i + 1, End::AfterMessages)?;
                let same = common(&until, &ids);
                // A last token may look different with what follows; more means another text.
                if same + 1 < until.len() {
                    return Err(rewritten(&format!("{pointer}/{i}")));
                }
                same
            }
        };
        let ends = words.tokenizer.ends();
        let last = ids[first.min(through)..through].iter().rposition(|id| ends.contains(id));
        let end = last.map_or(through, |last| first + last + 1);
        if first >= end || first == 0 {
            return Err(rewritten(&format!("{pointer}/{i}")));
        }
        has_loss[first..end].fill(true);
    }
    Ok(Rendered { ids, has_loss })
}

/// How many tokens both begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn rewritten(pointer: &str) -> Problem {
    Problem {
        pointer: pointer.into(),
        code: "answer_rewritten",
        message:
            "the model's template writes this answer differently once more is said, so what is learnt is not \
            what will be read"
                .into(),
        hint: "give each answer a line of its own, or set its weight to 0",
    }
}

fn refused(pointer: &str, error: &LanguageError) -> Problem {
    let code = match error {
        LanguageError::Refused(_) => "template_refused",
        LanguageError::Template(_) => "template_failed",
        _ => "unreadable_text",
    };
    let hint = "change the conversation to what the model's template takes";
    Problem { pointer: pointer.into(), code, message: error.to_string(), hint }
}

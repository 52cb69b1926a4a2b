//! The texts of a run, as ids of its model: plain ones, prompts with their true answers, and conversations.

use crate::guard::attacks::{self, Author, Said};
use crate::guard::texts as guarded;
use crate::{Language, Payer, Service, ServiceError};
use lyceum_language::template::{Conversation, End, openai_messages};
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_robust::reading::Scored;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use serde_json::Value;
use std::io::Read as _;

/// A text of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Every place is compared, and answers go on from its end.
    Text(String),
    /// Only the true answer's places are compared.
    Answered { prompt: String, answer: String },
    /// In OpenAI's shape; where the model said the last one, it is the true answer.
    Messages(Vec<Value>),
}

impl Prompt {
    /// A text, `{"text"}`, `{"prompt", "answer"}` or `{"messages"}`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_value(value: Value) -> Result<Self, String> {
        let members = match value {
            Value::String(text) => return Ok(Prompt::Text(text)),
            Value::Object(members) => members,
            _ => return Err("is neither a text nor an object".into()),
        };
        let keys: Vec<&str> = members.keys().map(String::as_str).collect();
        let text = |key: &str| match &members[key] {
            Value::String(text) => Ok(text.clone()),
            _ => Err(format!("{key} is no text")),
        };
        match keys[..] {
            ["text"] => Ok(Prompt::Text(text("text")?)),
            ["prompt"] => Ok(Prompt::Text(text("prompt")?)),
            ["answer", "prompt"] | ["prompt", "answer"] => {
                Ok(Prompt::Answered { prompt: text("prompt")?, answer: text("answer")? })
            }
            ["messages"] => match &members["messages"] {
                Value::Array(messages) if !messages.is_empty() => Ok(Prompt::Messages(messages.clone())),
                _ => Err("messages is no list with a message".into()),
            },
            _ => Err(format!(
                "has the keys {}; a text is {{\"text\"}}, {{\"prompt\", \"answer\"}} or {{\"messages\"}}",
                keys.join(", ")
            )),
        }
    }
}

/// What a model reads of a text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read {
    pub scored: Scored,
    /// What answers go on from.
    pub prompt: Vec<u32>,
}

/// The texts of a file: a JSON value a line where its name ends in `.jsonl`, else a text a line. Empty lines are none.
///
/// # Errors
/// The line that is wrong, and why.
pub fn of_file(name: &str, bytes: &[u8], first: Option<usize>) -> Result<Vec<Prompt>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("{name} is not UTF-8: {error}"))?;
    let is_json = name.to_ascii_lowercase().ends_with(".jsonl");
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let one = |(i, line): (usize, &str)| {
        if !is_json {
            return Ok(Prompt::Text(line.to_owned()));
        }
        let value = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", i + 1))?;
        Prompt::of_value(value).map_err(|why| format!("line {}: {why}", i + 1))
    };
    lines.take(first.unwrap_or(usize::MAX)).map(one).collect()
}

/// The texts of a file that a client brought.
pub(super) async fn brought(
    service: &Service,
    project: &Project,
    id: &str,
    first: Option<usize>,
) -> Result<Vec<Prompt>, ServiceError> {
    let file = crate::files::named(service.store(), project, "data", id).await?;
    if file.bytes > limits::ROBUSTNESS_FILE_BYTES_MAX {
        return Err(ServiceError::TooLarge { bytes_max: limits::ROBUSTNESS_FILE_BYTES_MAX });
    }
    let contents = lyceum_store::data_files::contents(service.store(), project, &file)?;
    let work = move || {
        let mut bytes = Vec::new();
        contents.reader().read_to_end(&mut bytes).map(|_| bytes)
    };
    let bytes = tokio::task::spawn_blocking(work).await;
    let bytes = bytes.map_err(|error| ServiceError::internal("reading texts broke off", error))?;
    let bytes = bytes.map_err(|error| ServiceError::internal("a file cannot be read", error))?;
    of_file(&file.name, &bytes, first).map_err(|why| ServiceError::invalid("data", "invalid_data", why))
}

/// Texts as ids, after the project's guard has read them.
///
/// # Errors
/// A text that the guard stops, that is too long or too short, or a conversation with a model that has none.
pub(super) async fn read(
    service: &Service,
    payer: &Payer,
    language: &Language,
    field: &str,
    prompts: Vec<Prompt>,
) -> Result<Vec<Read>, ServiceError> {
    let n = prompts.len();
    if n == 0 || n > limits::ROBUSTNESS_TEXTS_MAX {
        let message = format!("{field}: {n} texts are not between 1 and {}", limits::ROBUSTNESS_TEXTS_MAX);
        return Err(ServiceError::invalid(field, "invalid_value", message));
    }
    let mut all = Vec::with_capacity(n);
    for (i, mut prompt) in prompts.into_iter().enumerate() {
        let place = format!("{field}[{i}]");
        attacks::refuse(service, payer, || said(&prompt, &place)).await?;
        match &mut prompt {
            Prompt::Text(text) => {
                guarded::plain(service, &payer.project, vec![(place.clone(), text)]).await?;
            }
            Prompt::Answered { prompt, answer } => {
                let both = vec![(place.clone(), prompt), (place.clone(), answer)];
                guarded::plain(service, &payer.project, both).await?;
            }
            Prompt::Messages(messages) => guarded::messages(service, &payer.project, messages).await?,
        }
        all.push(encode(service, language, &prompt, &place)?);
    }
    Ok(all)
}

fn said(prompt: &Prompt, place: &str) -> Vec<Said> {
    let of = |text: &String| Said { author: Author::User, param: place.to_owned(), text: text.clone() };
    match prompt {
        Prompt::Text(text) => vec![of(text)],
        Prompt::Answered { prompt, answer } => vec![of(prompt), of(answer)],
        Prompt::Messages(messages) => attacks::of_messages(messages),
    }
}

fn encode(
    service: &Service,
    language: &Language,
    prompt: &Prompt,
    place: &str,
) -> Result<Read, ServiceError> {
    let wrong =
        |message: String| ServiceError::invalid(place, "invalid_value", format!("{place}: {message}"));
    let words = &language.words;
    let ids = |text: &str, add, specials| {
        words.tokenizer.encode(text, add, specials).map_err(|error| wrong(error.to_string()))
    };
    let (prompt, answer) = match prompt {
        Prompt::Text(text) => (ids(text, AddSpecial::Yes, Specials::Parsed)?, None),
        Prompt::Answered { prompt, answer } => {
            let answer = ids(answer, AddSpecial::No, Specials::AsText)?;
            (ids(prompt, AddSpecial::Yes, Specials::Parsed)?, Some(answer))
        }
        Prompt::Messages(messages) => {
            let template = words.template.as_ref().ok_or_else(|| {
                let id = language.version.id();
                wrong(format!("the files of {id} have no chat template: give texts"))
            })?;
            let is_said =
                messages.last().is_some_and(|m| m["role"] == "assistant" && m["content"].is_string());
            let (asked, answer) = match messages.split_last() {
                Some((last, before)) if is_said && !before.is_empty() => (before, last["content"].as_str()),
                _ => (&messages[..], None),
            };
            let shaped = openai_messages(asked).map_err(|error| wrong(error.to_string()))?;
            let conversation = Conversation {
                messages: &shaped,
                end: End::GenerationPrompt,
                now: Timestamp::now().seconds(),
                guard: words.tokenizer.guarded(template.source()),
                ..Conversation::default()
            };
            let text = template.render(&conversation).map_err(|error| wrong(error.to_string()))?;
            let answer = answer.map(|text| ids(text, AddSpecial::No, Specials::AsText)).transpose()?;
            (ids(&text, AddSpecial::No, Specials::Protected)?, answer)
        }
    };
    let from = if answer.is_some() { prompt.len() } else { 1 };
    let all = [&prompt[..], &answer.unwrap_or_default()].concat();
    let context = service.engine().positions_max(&language.model).unwrap_or(usize::MAX);
    let most = context.min(limits::ROBUSTNESS_TEXT_TOKENS_MAX);
    if prompt.is_empty() || all.len() <= from.max(1) || all.len() > most {
        let n = all.len();
        return Err(wrong(format!(
            "has {n} tokens ({} before its answer): a text has a token to go on from, one to compare, and {most} at most",
            prompt.len()
        )));
    }
    Ok(Read { scored: Scored { ids: all, from: from.max(1) }, prompt })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_are_read_of_lines_and_a_wrong_line_is_named() {
        let text = |t: &str| Prompt::Text(t.into());
        assert_eq!(of_file("a.txt", b"one\n\n two\n", None).unwrap(), [text("one"), text(" two")]);
        let lines = "\"one\"\n{\"text\": \"two\"}\n{\"prompt\": \"a\", \"answer\": \"b\"}\n{\"messages\": [{\"role\": \"user\"}]}";
        let found = of_file("a.JSONL", lines.as_bytes(), None).unwrap();
        assert_eq!(found[..2], [text("one"), text("two")]);
        assert_eq!(found[2], Prompt::Answered { prompt: "a".into(), answer: "b".into() });
        assert_eq!(found[3], Prompt::Messages(vec![json!({"role": "user"})]));
        assert_eq!(of_file("a.jsonl", lines.as_bytes(), Some(1)).unwrap().len(), 1);
        for (line, why) in [
            ("{\"txt\": 1}", "line 1: has the keys txt"),
            ("3", "line 1: is neither"),
            ("{\"messages\": []}", "line 1: messages is no list"),
            ("{", "line 1: EOF"),
        ] {
            let found = of_file("a.jsonl", line.as_bytes(), None).unwrap_err();
            assert!(found.starts_with(why), "{found}");
        }
    }
}

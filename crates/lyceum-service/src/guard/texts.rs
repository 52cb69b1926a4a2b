//! Where requests have their texts: they are taken out, read, and put back in the same order.

use super::{Guarded, Incoming, Text};
use crate::{Content, Service, ServiceError, chat};
use lyceum_guard::placeholder::Written;
use lyceum_language::template::joined;
use lyceum_types::ids::Project;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::VecDeque;

/// Why tools and the like are not masked.
const IS_CODE: &str = "it is code, which cannot be masked and stay what it is";

/// Looks through a conversation; None where nothing is looked for.
pub(crate) async fn chat(
    service: &Service,
    project: &Project,
    request: &mut chat::Request,
) -> Result<Option<Guarded>, ServiceError> {
    let Some(guard) = service.guard(project).await? else { return Ok(None) };
    guard.refuse_unplaceable(&[("logprobs", request.logprobs.is_some())])?;
    let mut texts = Vec::new();
    if guard.reads() {
        conversation("messages", &mut request.messages, &mut |param, written, text| {
            texts.push(Text { written, ..Text::new(param, std::mem::take(text)) });
        });
        for (i, tool) in request.tools.iter().enumerate() {
            strings(tool, &mut |text| texts.push(Text::fixed(format!("tools[{i}]"), text, IS_CODE)));
        }
        for (name, value) in &request.template_variables {
            let param = format!("chat_template_kwargs.{name}");
            strings(value, &mut |text| texts.push(Text::fixed(&param, text, IS_CODE)));
        }
        let why = "a masked text never matches it";
        texts.extend(request.stop.iter().map(|stop| Text::fixed("stop", stop, why)));
        if let Some(form) = &request.form {
            form_texts(&form.constraint, &mut |text| texts.push(Text::fixed(form.field, text, IS_CODE)));
        }
    }
    let (read, guarded) = guard.read(texts).await?;
    let mut read = VecDeque::from(read);
    if !read.is_empty() {
        conversation("messages", &mut request.messages, &mut |_, _, text| {
            *text = read.pop_front().expect("as many texts come back as went: bug");
        });
    }
    guarded.refuse_changed(&[("logprobs", request.logprobs.is_some())])?;
    Ok(Some(guarded))
}

/// Messages that nobody answers.
pub(crate) async fn messages(
    service: &Service,
    project: &Project,
    messages: &mut [Value],
) -> Result<(), ServiceError> {
    let Some(guard) = service.guard(project).await?.filter(Incoming::reads) else { return Ok(()) };
    let mut texts = Vec::new();
    conversation("messages", messages, &mut |param, written, text| {
        texts.push(Text { written, ..Text::new(param, std::mem::take(text)) });
    });
    let mut read = VecDeque::from(guard.read(texts).await?.0);
    conversation("messages", messages, &mut |_, _, text| {
        *text = read.pop_front().expect("as many texts come back as went: bug")
    });
    Ok(())
}

/// What is done with the text of a field.
type Visit<'a> = &'a mut dyn FnMut(&str, Written, &mut String);

/// Every text of messages in OpenAI's shape: contents, names, reasoning, arguments of calls. Roles, ids and the names of
/// functions are words of the contract. A content of several parts becomes the one text that a model reads: what begins in
/// one part and ends in the next is seen.
pub(crate) fn conversation(param: &str, messages: &mut [Value], visit: Visit<'_>) {
    for (i, message) in messages.iter_mut().enumerate() {
        let Some(members) = message.as_object_mut() else { continue };
        for (key, value) in members {
            if let ("content", Value::Array(parts)) = (key.as_str(), &*value)
                && let Ok(text) = joined(parts, i)
            {
                *value = Value::String(text);
            }
            let param = format!("{param}[{i}].{key}");
            match (key.as_str(), value) {
                ("role" | "tool_call_id", _) => {}
                ("tool_calls", Value::Array(calls)) => {
                    let arguments =
                        calls.iter_mut().filter_map(|call| call.pointer_mut("/function/arguments"));
                    // A text of JSON, which must stay one.
                    arguments.for_each(|arguments| match arguments {
                        Value::String(text) => visit(&param, Written::Json, text),
                        other => every_string(&param, other, visit),
                    });
                }
                ("content", Value::Array(parts)) => {
                    for part in parts.iter_mut().filter_map(Value::as_object_mut) {
                        for (key, value) in part {
                            if key != "type" {
                                every_string(&param, value, visit);
                            }
                        }
                    }
                }
                (_, value) => every_string(&param, value, visit),
            }
        }
    }
}

fn every_string(param: &str, value: &mut Value, visit: Visit<'_>) {
    match value {
        Value::String(text) => visit(param, Written::Plain, text),
        Value::Array(values) => values.iter_mut().for_each(|value| every_string(param, value, visit)),
        Value::Object(members) => members.values_mut().for_each(|value| every_string(param, value, visit)),
        _ => {}
    }
}

/// Every string of a value, names of members too.
pub(crate) fn strings(value: &Value, visit: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(values) => values.iter().for_each(|value| strings(value, visit)),
        Value::Object(members) => {
            for (name, value) in members {
                visit(name);
                strings(value, visit);
            }
        }
        Value::Number(number) => visit(&number.to_string()),
        _ => {}
    }
}

fn form_texts(form: &chat::Constraint, visit: &mut dyn FnMut(&str)) {
    match form {
        chat::Constraint::JsonSchema { schema, .. } => strings(schema, visit),
        chat::Constraint::Regex(text) | chat::Constraint::Grammar(text) => visit(text),
        chat::Constraint::Choice(texts) => texts.iter().for_each(|text| visit(text)),
        chat::Constraint::JsonObject | chat::Constraint::Tools(_) => {}
    }
}

/// Texts that a model reads and says nothing to: they are masked, and nothing comes back.
pub(crate) async fn plain(
    service: &Service,
    project: &Project,
    texts: Vec<(String, &mut String)>,
) -> Result<(), ServiceError> {
    let Some(guard) = service.guard(project).await?.filter(Incoming::reads) else { return Ok(()) };
    let taken = texts.iter().map(|(param, text)| Text::new(param, text.as_str())).collect();
    let (read, _) = guard.read(taken).await?;
    for ((_, text), read) in texts.into_iter().zip(read) {
        *text = read;
    }
    Ok(())
}

/// Texts whose characters are counted: what would be masked is refused.
pub(crate) async fn fixed(
    service: &Service,
    project: &Project,
    texts: impl IntoIterator<Item = (String, String)>,
    why: &'static str,
) -> Result<(), ServiceError> {
    let Some(guard) = service.guard(project).await? else { return Ok(()) };
    let texts = texts.into_iter().map(|(param, text)| Text::fixed(param, text, why)).collect();
    guard.read(texts).await.map(drop)
}

/// Inputs as a model may read them.
pub(crate) async fn contents<'a>(
    service: &Service,
    project: &Project,
    (param, contents): (&str, &'a [Content]),
) -> Result<Cow<'a, [Content]>, ServiceError> {
    if !service.guard(project).await?.is_some_and(|guard| guard.reads()) {
        return Ok(Cow::Borrowed(contents));
    }
    let mut contents = contents.to_vec();
    let texts = contents.iter_mut().enumerate();
    let texts = texts.flat_map(|(i, content)| of_content(&format!("{param}[{i}]"), content)).collect();
    plain(service, project, texts).await?;
    Ok(Cow::Owned(contents))
}

/// The texts of an input whose characters are counted.
pub(crate) async fn fixed_content(
    service: &Service,
    project: &Project,
    (param, content): (&str, &Content),
    why: &'static str,
) -> Result<(), ServiceError> {
    if !service.guard(project).await?.is_some_and(|guard| guard.reads()) {
        return Ok(());
    }
    let mut content = content.clone();
    let texts = of_content(param, &mut content).into_iter().map(|(param, text)| (param, text.clone()));
    let texts: Vec<_> = texts.collect();
    fixed(service, project, texts, why).await
}

/// The texts of an input of any kind. Numbers, pictures and sounds hold none.
pub(crate) fn of_content<'a>(param: &str, content: &'a mut Content) -> Vec<(String, &'a mut String)> {
    fn of_value<'a>(param: String, value: &'a mut Value, all: &mut Vec<(String, &'a mut String)>) {
        match value {
            Value::String(text) => all.push((param, text)),
            Value::Array(values) => {
                let values = values.iter_mut().enumerate();
                values.for_each(|(i, value)| of_value(format!("{param}[{i}]"), value, all));
            }
            Value::Object(members) => {
                members.iter_mut().for_each(|(name, value)| of_value(format!("{param}.{name}"), value, all));
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    match content {
        Content::Text(text) => all.push((param.to_owned(), text)),
        Content::Row(row) => {
            row.iter_mut().for_each(|(name, value)| of_value(format!("{param}.{name}"), value, &mut all));
        }
        Content::Values(values) => {
            let values = values.iter_mut().enumerate();
            values.for_each(|(i, value)| of_value(format!("{param}[{i}]"), value, &mut all));
        }
        Content::File(_) | Content::Numbers(_) => {}
    }
    all
}

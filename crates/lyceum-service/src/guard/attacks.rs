//! Texts that attack a model, by who wrote them: what users say, and what tools answer. They are not changed: the request
//! ends, and says which guard ended it, never with which words.

use super::texts::conversation;
use crate::injection::InjectionGuard;
use crate::{Content, Payer, Service, ServiceError};
use lyceum_guard::{Policy, Stop, Stops, Wanted, hidden};
use lyceum_types::limits;
use serde_json::Value;

/// Whose words a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Author {
    User,
    Tool,
    /// A role that a template has beside OpenAI's: what is asked of either holds.
    Other,
}

/// A text that a model would read, in a field of the request.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub author: Author,
    pub param: String,
    pub text: String,
}

impl Said {
    pub fn by_user(param: impl Into<String>, text: impl Into<String>) -> Self {
        Said { author: Author::User, param: param.into(), text: text.into() }
    }
}

/// What users, tools and others say in messages of OpenAI's shape. Operators and the model itself are not suspected.
pub(crate) fn of_messages(messages: &[Value]) -> Vec<Said> {
    let mut said = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let author = match message["role"].as_str() {
            Some("user") => Author::User,
            Some("tool" | "function") => Author::Tool,
            Some("system" | "developer" | "assistant") => continue,
            _ => Author::Other,
        };
        let mut message = [message.clone()];
        conversation("messages", &mut message, &mut |_, _, text| {
            said.push(Said { author, param: format!("messages[{i}]"), text: std::mem::take(text) });
        });
    }
    said
}

/// The texts of an input, which users wrote.
pub(crate) fn of_content(param: &str, content: &Content) -> Vec<Said> {
    let mut content = content.clone();
    let texts = super::texts::of_content(param, &mut content).into_iter();
    texts.map(|(param, text)| Said::by_user(param, text.clone())).collect()
}

/// Refuses texts that the project's policy takes for attacks; `said` is asked for only where one holds.
///
/// # Errors
/// An attack; a classifier that is not there or fails, so that nothing is known of a text.
pub(crate) async fn refuse(
    service: &Service,
    payer: &Payer,
    said: impl FnOnce() -> Vec<Said>,
) -> Result<(), ServiceError> {
    let standing = service.standing(&payer.project).await?;
    let policy = super::holding(&standing.guard).into_owned();
    if policy.is_off_for_attacks() {
        return Ok(());
    }
    let said = said();
    let n_bytes: usize = said.iter().map(|said| said.text.len()).sum();
    if policy.hidden_unicode.is_off() || n_bytes <= limits::GUARD_INLINE_BYTES_MAX {
        refuse_hidden(&policy, &said)?;
        return refuse_injections(service, payer, &policy, &said).await;
    }
    let looked = policy.clone();
    let looking = tokio::task::spawn_blocking(move || refuse_hidden(&looked, &said).map(|()| said)).await;
    let said =
        looking.map_err(|error| ServiceError::internal("looking through texts broke off", error))??;
    refuse_injections(service, payer, &policy, &said).await
}

fn refuse_hidden(policy: &Policy, said: &[Said]) -> Result<(), ServiceError> {
    let looked = said.iter().filter(|said| stops(&policy.hidden_unicode, said.author));
    for said in looked {
        if let Some(found) = hidden(&said.text).iter().find(|found| found.score >= Wanted::THRESHOLD) {
            let what = format!("hidden_unicode ({}, from character {})", found.kind, found.start);
            return Err(blocked(&said.param, &what));
        }
    }
    Ok(())
}

async fn refuse_injections(
    service: &Service,
    payer: &Payer,
    policy: &Policy,
    said: &[Said],
) -> Result<(), ServiceError> {
    let rule = &policy.prompt_injection;
    let looked: Vec<&Said> = said.iter().filter(|said| stops(&rule.stops, said.author)).collect();
    if looked.is_empty() {
        return Ok(());
    }
    let Some(guard) = InjectionGuard::find(service, &payer.project, None).await? else {
        tracing::error!("a project's policy looks for prompt injections, and no classifier is set up");
        return Err(ServiceError::GuardFailed);
    };
    let texts: Vec<&str> = looked.iter().map(|said| said.text.as_str()).collect();
    let (found, _) = guard.judge(service, payer, &texts).await?;
    let attack = looked.iter().zip(&found).find(|(_, found)| found.score >= rule.threshold);
    match attack {
        None => Ok(()),
        Some((said, found)) => {
            let what = format!("prompt_injection ({:.3} by {})", found.score, guard.id());
            Err(blocked(&said.param, &what))
        }
    }
}

fn stops(stops: &Stops, author: Author) -> bool {
    let of: &[Stop] = match author {
        Author::User => &[stops.user],
        Author::Tool => &[stops.tool],
        Author::Other => &[stops.user, stops.tool],
    };
    of.contains(&Stop::Block)
}

fn blocked(param: &str, what: &str) -> ServiceError {
    let message = format!("{param} was stopped by the project's guard: {what}");
    ServiceError::Guarded { param: Some(param.to_owned()), code: "content_blocked", message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn users_and_tools_are_told_apart_and_others_are_not_suspected() {
        let messages = [
            json!({"role": "system", "content": "a"}),
            json!({"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]}),
            json!({"role": "assistant", "content": "d"}),
            json!({"role": "tool", "tool_call_id": "1", "content": "e"}),
            json!({"role": "ipython", "content": "f"}),
        ];
        let said: Vec<_> = of_messages(&messages).into_iter().map(|s| (s.author, s.param, s.text)).collect();
        let of = |author, i: usize, text: &str| (author, format!("messages[{i}]"), text.to_owned());
        let want = [of(Author::User, 1, "bc"), of(Author::Tool, 3, "e"), of(Author::Other, 4, "f")];
        assert_eq!(said, want);
        let tools = Stops { tool: Stop::Block, ..Stops::default() };
        assert_eq!(
            [Author::User, Author::Tool, Author::Other].map(|a| stops(&tools, a)),
            [false, true, true]
        );
    }
}

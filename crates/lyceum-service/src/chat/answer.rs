//! One answer of a conversation: pieces of text become thinking, content and calls of tools, and each passes the
//! project's guard on its way out.

use super::{Delta, Ending, Finish, ToolCall};
use crate::ServiceError;
use crate::generation::Piece;
use crate::guard::{Guarded, Speech};
use lyceum_guard::placeholder::Written;
use lyceum_language::reasoning::{Part, ReasoningParser};
use lyceum_language::tools::{Event, ToolParser};

/// What separates one answer into its parts.
pub(super) struct Answer {
    reasoning: Option<ReasoningParser>,
    tools: Option<ToolParser>,
    n_calls: usize,
    /// Made and not yet told of.
    pub(super) token_ids: Vec<u32>,
    said: Said,
}

impl Answer {
    pub(super) fn new(
        reasoning: Option<ReasoningParser>,
        tools: Option<ToolParser>,
        (guarded, written): (Option<&Guarded>, Written),
    ) -> Self {
        Answer { reasoning, tools, n_calls: 0, token_ids: Vec::new(), said: Said::new(guarded, written) }
    }

    /// What a piece of text adds to the answer.
    pub(super) fn take(&mut self, piece: Piece) -> Result<Delta, ServiceError> {
        let is_last = piece.finish.is_some();
        let (choice, tokens, token_ids) = (piece.choice, piece.tokens, piece.token_ids);
        let mut delta = Delta { choice, tokens, token_ids, ..Delta::default() };
        let mut answered = String::new();
        match &mut self.reasoning {
            None => answered = piece.text,
            Some(reasoning) => {
                let mut parts = reasoning.push(&piece.text);
                if is_last {
                    parts.extend(reasoning.finish());
                }
                for part in parts {
                    match part {
                        Part::Reasoning(text) => delta.reasoning.push_str(&self.said.reasoning(text)?),
                        Part::Content(text) => answered.push_str(&text),
                    }
                }
            }
        }
        if is_last || !answered.is_empty() {
            delta.reasoning.push_str(&self.said.end_reasoning()?);
        }
        match &mut self.tools {
            None => delta.content = self.said.content(answered)?,
            Some(tools) => {
                let mut events = tools.push(&answered);
                if is_last {
                    events.extend(tools.finish());
                }
                for event in events {
                    match event {
                        Event::Content(text) => delta.content.push_str(&self.said.content(text)?),
                        Event::Call(call) => {
                            delta.content.push_str(&self.said.end_content()?);
                            delta.calls.push(self.said.call(call)?);
                        }
                    }
                }
            }
        }
        if is_last {
            delta.content.push_str(&self.said.end_content()?);
        }
        delta.first_call = self.n_calls;
        self.n_calls += delta.calls.len();
        delta.finish = piece.finish.map(|finish| match finish {
            Finish::Stop if self.n_calls > 0 => Ending::ToolCalls,
            Finish::Stop => Ending::Stop,
            Finish::Length => Ending::Length,
        });
        Ok(delta)
    }
}

impl Delta {
    pub(super) fn says_something(&self) -> bool {
        let silent = self.content.is_empty() && self.reasoning.is_empty() && self.calls.is_empty();
        !silent || !self.tokens.is_empty() || self.finish.is_some()
    }
}

/// What an answer says, on its way through the project's guard.
struct Said(Option<SaidTexts>);

struct SaidTexts {
    guarded: Guarded,
    written: Written,
    content: Speech,
    reasoning: Speech,
}

impl Said {
    fn new(guarded: Option<&Guarded>, written: Written) -> Self {
        Said(guarded.map(|guarded| SaidTexts {
            guarded: guarded.clone(),
            written,
            content: guarded.speech(written),
            reasoning: guarded.speech(Written::Plain),
        }))
    }

    fn content(&mut self, text: String) -> Result<String, ServiceError> {
        match &mut self.0 {
            None => Ok(text),
            Some(said) => said.content.push(&text),
        }
    }

    fn reasoning(&mut self, text: String) -> Result<String, ServiceError> {
        match &mut self.0 {
            None => Ok(text),
            Some(said) => said.reasoning.push(&text),
        }
    }

    /// What follows is another text: a call, or nothing.
    fn end_content(&mut self) -> Result<String, ServiceError> {
        let Some(said) = &mut self.0 else { return Ok(String::new()) };
        let next = said.guarded.speech(said.written);
        std::mem::replace(&mut said.content, next).finish()
    }

    fn end_reasoning(&mut self) -> Result<String, ServiceError> {
        let Some(said) = &mut self.0 else { return Ok(String::new()) };
        let next = said.guarded.speech(Written::Plain);
        std::mem::replace(&mut said.reasoning, next).finish()
    }

    fn call(&mut self, mut call: ToolCall) -> Result<ToolCall, ServiceError> {
        if let Some(said) = &mut self.0 {
            call.arguments = said.guarded.speech(Written::Json).whole(&call.arguments)?;
        }
        Ok(call)
    }
}

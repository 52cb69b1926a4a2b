//! An answer that grows, and the events that tell of it: whole and streamed answers are one path, since the whole
//! one is what the events lead to.
//!
//! ```text
//! response.created, (response.queued,) response.in_progress
//!   output_item.added
//!     content_part.added, (output_text | reasoning_text).delta …, .done, content_part.done
//!     function_call_arguments.delta, .done
//!   output_item.done                                  … the next item
//! response.completed | response.incomplete | response.failed
//! ```

use crate::error::ErrorDetail;
use crate::wire::new_id;
use lyceum_service::chat::{Delta, Ending, Likely, Token, ToolCall, Usage};
use lyceum_types::clock::Timestamp;
use serde_json::{Map, Value, json};

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub name: &'static str,
    pub data: Value,
}

/// What is known of an answer before its first word.
pub struct Head {
    pub id: String,
    /// Seconds since 1970.
    pub created_at: i64,
    pub model: String,
    /// Nobody waits: it begins as `queued`.
    pub background: bool,
    /// Fields that are shown as they were asked.
    pub echo: Map<String, Value>,
    /// Log-probabilities are given, with this many most likely tokens.
    pub n_top: Option<usize>,
}

/// The answer as it stands.
pub struct Answer {
    response: Value,
    n_top: Option<usize>,
    output: Vec<Value>,
    open: Option<Open>,
    /// Tokens whose text is not in an item yet.
    waiting: Vec<Token>,
    reasoning_tokens: usize,
    events: Vec<Event>,
    n_events: usize,
}

/// The item that grows now: its content is one text.
struct Open {
    kind: Kind,
    id: String,
    text: String,
    logprobs: Vec<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reasoning,
    Message,
}

impl Answer {
    pub fn begin(head: Head) -> Self {
        let mut response = json!({
            "id": head.id,
            "object": "response",
            "created_at": head.created_at,
            "completed_at": null,
            "status": if head.background { "queued" } else { "in_progress" },
            "background": head.background,
            "error": null,
            "incomplete_details": null,
            "model": head.model,
            "output": [],
            "usage": null,
        });
        for (key, value) in head.echo {
            response[key] = value;
        }
        let mut answer = Answer {
            response,
            n_top: head.n_top,
            output: Vec::new(),
            open: None,
            waiting: Vec::new(),
            reasoning_tokens: 0,
            events: Vec::new(),
            n_events: 0,
        };
        answer.stage("response.created");
        answer.stage(if head.background { "response.queued" } else { "response.in_progress" });
        answer
    }

    /// An answer of the background has a place.
    pub fn start(&mut self) {
        self.response["status"] = "in_progress".into();
        self.stage("response.in_progress");
    }

    fn stage(&mut self, name: &'static str) {
        let response = self.response.clone();
        self.event(name, json!({ "response": response }));
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The answer as it stands; whole once it has ended.
    pub fn response(&self) -> &Value {
        &self.response
    }

    /// Why the answer is what it is: a field beside OpenAI's.
    pub fn explain(&mut self, explanation: Value) {
        self.response["explanation"] = explanation;
    }

    /// Everything that was said, as the items of a later input.
    pub fn into_response(self) -> Value {
        self.response
    }

    /// Takes the next part of the answer.
    pub fn push(&mut self, delta: Delta) {
        self.waiting.extend(delta.tokens);
        if !delta.reasoning.is_empty() {
            if delta.content.is_empty() {
                self.reasoning_tokens += delta.token_ids.len();
                self.waiting.clear();
            }
            self.say(Kind::Reasoning, &delta.reasoning);
        }
        if !delta.content.is_empty() {
            self.say(Kind::Message, &delta.content);
        }
        for call in delta.calls {
            // Tokens of a call are no text.
            self.waiting.clear();
            self.close("completed");
            self.call(call);
        }
    }

    /// The answer is whole.
    pub fn end(&mut self, ending: Ending, usage: Usage) {
        let (status, name) = match ending {
            Ending::Stop | Ending::ToolCalls => ("completed", "response.completed"),
            Ending::Length => ("incomplete", "response.incomplete"),
        };
        self.close(status);
        if ending == Ending::Length {
            self.response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        } else {
            self.response["completed_at"] = Timestamp::now().seconds().into();
        }
        self.close_response(status, name, usage);
    }

    /// A client ended it. OpenAI's events have none for this: `response.incomplete` tells it, with its status.
    pub fn cancel(&mut self, usage: Usage) {
        self.close("incomplete");
        self.close_response("cancelled", "response.incomplete", usage);
    }

    /// The answer broke off.
    pub fn fail(&mut self, detail: &ErrorDetail, usage: Usage) {
        self.close("incomplete");
        let code = if detail.kind == "rate_limit_error" { "rate_limit_exceeded" } else { "server_error" };
        self.response["error"] = json!({"code": code, "message": detail.message});
        self.close_response("failed", "response.failed", usage);
    }

    fn close_response(&mut self, status: &str, name: &'static str, usage: Usage) {
        self.response["status"] = status.into();
        self.response["output"] = std::mem::take(&mut self.output).into();
        self.response["usage"] = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        });
        self.stage(name);
    }

    fn say(&mut self, kind: Kind, text: &str) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close("completed");
            self.open(kind);
        }
        let index = self.output.len();
        let Some(open) = &mut self.open else { return };
        open.text.push_str(text);
        let mut data = json!({"item_id": open.id, "output_index": index, "content_index": 0, "delta": text});
        let name = match kind {
            Kind::Reasoning => "response.reasoning_text.delta",
            Kind::Message => {
                let logprobs = logprobs(std::mem::take(&mut self.waiting), self.n_top);
                open.logprobs.extend(logprobs.iter().cloned());
                data["logprobs"] = logprobs.into();
                "response.output_text.delta"
            }
        };
        self.event(name, data);
    }

    fn open(&mut self, kind: Kind) {
        let prefix = if kind == Kind::Message { "msg_" } else { "rs_" };
        let open = Open { kind, id: new_id(prefix), text: String::new(), logprobs: Vec::new() };
        let index = self.output.len();
        let mut item = open.item("in_progress");
        item["content"] = json!([]);
        self.event("response.output_item.added", json!({"output_index": index, "item": item}));
        let part = open.part();
        let data = json!({"item_id": open.id, "output_index": index, "content_index": 0, "part": part});
        self.event("response.content_part.added", data);
        self.open = Some(open);
    }

    fn close(&mut self, status: &str) {
        let Some(mut open) = self.open.take() else { return };
        let index = self.output.len();
        let place = json!({"item_id": open.id, "output_index": index, "content_index": 0});
        let mut done = place.clone();
        done["text"] = open.text.clone().into();
        let name = match open.kind {
            Kind::Reasoning => "response.reasoning_text.done",
            Kind::Message => {
                // The text of a last token may have come before the token.
                open.logprobs.extend(logprobs(std::mem::take(&mut self.waiting), self.n_top));
                done["logprobs"] = open.logprobs.clone().into();
                "response.output_text.done"
            }
        };
        self.event(name, done);
        let mut data = place;
        data["part"] = open.part();
        self.event("response.content_part.done", data);
        let item = open.item(status);
        self.event("response.output_item.done", json!({"output_index": index, "item": item}));
        self.output.push(item);
    }

    fn call(&mut self, call: ToolCall) {
        let (id, index) = (new_id("fc_"), self.output.len());
        let item = |status: &str, arguments: &str| {
            json!({"id": id, "type": "function_call", "status": status, "call_id": call.id, "name": call.name,
                "arguments": arguments})
        };
        self.event(
            "response.output_item.added",
            json!({"output_index": index, "item": item("in_progress", "")}),
        );
        let place = json!({"item_id": id, "output_index": index});
        let mut data = place.clone();
        data["delta"] = call.arguments.clone().into();
        self.event("response.function_call_arguments.delta", data);
        let mut data = place;
        data["name"] = call.name.clone().into();
        data["arguments"] = call.arguments.clone().into();
        self.event("response.function_call_arguments.done", data);
        let item = item("completed", &call.arguments);
        self.event("response.output_item.done", json!({"output_index": index, "item": item}));
        self.output.push(item);
    }

    fn event(&mut self, name: &'static str, mut data: Value) {
        data["type"] = name.into();
        data["sequence_number"] = self.n_events.into();
        self.n_events += 1;
        self.events.push(Event { name, data });
    }
}

impl Open {
    fn part(&self) -> Value {
        match self.kind {
            Kind::Reasoning => json!({"type": "reasoning_text", "text": self.text}),
            Kind::Message => {
                json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs})
            }
        }
    }

    fn item(&self, status: &str) -> Value {
        let content = [self.part()];
        match self.kind {
            Kind::Reasoning => {
                json!({"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content})
            }
            Kind::Message => {
                json!({"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content})
            }
        }
    }
}

fn logprobs(tokens: Vec<Token>, n_top: Option<usize>) -> Vec<Value> {
    let Some(n_top) = n_top else { return Vec::new() };
    let top = |Likely { text, bytes, logprob }| json!({"token": text, "bytes": bytes, "logprob": logprob});
    let tokens = tokens.into_iter().map(|token| {
        let likely: Vec<Value> = token.top.into_iter().take(n_top).map(top).collect();
        json!({"token": token.text, "bytes": token.bytes, "logprob": token.logprob,
            "entropy": token.entropy, "top_logprobs": likely})
    });
    tokens.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin() -> Answer {
        let (id, model) = ("resp_1".to_owned(), "tiny@1".to_owned());
        Answer::begin(Head { id, created_at: 1, model, background: false, echo: Map::new(), n_top: Some(0) })
    }

    fn token(text: &str) -> Token {
        Token {
            text: text.into(),
            offset: 0,
            logprob: Some(-0.5),
            entropy: Some(0.25),
            bytes: text.into(),
            top: Vec::new(),
        }
    }

    #[test]
    fn thoughts_words_and_calls_are_items_of_their_own_in_numbered_events() {
        let mut answer = begin();
        let reasoning = Delta {
            reasoning: "hm".into(),
            token_ids: vec![1],
            tokens: vec![token("hm")],
            ..Delta::default()
        };
        answer.push(reasoning);
        answer.push(Delta { content: "a".into(), tokens: vec![token("a")], ..Delta::default() });
        answer.push(Delta { content: "b".into(), tokens: vec![token("b")], ..Delta::default() });
        let call = ToolCall { id: "call_1".into(), name: "f".into(), arguments: "{}".into() };
        answer.push(Delta { calls: vec![call], tokens: vec![token("<tool_call>")], ..Delta::default() });
        answer.end(Ending::ToolCalls, Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 5 });
        let events = answer.take_events();
        let names: Vec<&str> =
            events.iter().map(|event| event.name.trim_start_matches("response.")).collect();
        assert_eq!(
            names,
            [
                "created",
                "in_progress",
                "output_item.added",
                "content_part.added",
                "reasoning_text.delta",
                "reasoning_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
                "output_item.done",
                "output_item.added",
                "function_call_arguments.delta",
                "function_call_arguments.done",
                "output_item.done",
                "completed"
            ]
        );
        for (i, event) in events.iter().enumerate() {
            assert_eq!(
                (&event.data["sequence_number"], &event.data["type"]),
                (&json!(i), &json!(event.name))
            );
        }
        let whole = answer.response();
        assert_eq!(*whole, events.last().unwrap().data["response"]);
        let kinds: Vec<&Value> =
            whole["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
        assert_eq!(kinds, ["reasoning", "message", "function_call"]);
        let part = &whole["output"][1]["content"][0];
        assert_eq!((&part["text"], part["logprobs"].as_array().unwrap().len()), (&json!("ab"), 2));
        assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], 1);
        assert_eq!(whole["usage"]["total_tokens"], 8);
    }

    #[test]
    fn an_answer_without_room_is_incomplete_and_one_that_broke_off_failed() {
        let mut answer = begin();
        answer.push(Delta { content: "a".into(), ..Delta::default() });
        answer.end(Ending::Length, Usage::default());
        let response = answer.into_response();
        assert_eq!(
            (&response["status"], &response["output"][0]["status"]),
            (&json!("incomplete"), &json!("incomplete"))
        );
        assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
        let mut answer = begin();
        answer.push(Delta { content: "a".into(), ..Delta::default() });
        answer.cancel(Usage::default());
        assert_eq!(answer.take_events().last().unwrap().name, "response.incomplete");
        assert_eq!(answer.response()["status"], "cancelled");
        assert_eq!(answer.response()["output"][0]["content"][0]["text"], "a");
        let mut answer = begin();
        let detail = ErrorDetail {
            message: "m".into(),
            kind: "server_error",
            param: None,
            code: None,
            problems: None,
        };
        answer.fail(&detail, Usage::default());
        assert_eq!(answer.take_events().last().unwrap().name, "response.failed");
        assert_eq!(answer.response()["error"], json!({"code": "server_error", "message": "m"}));
    }
}

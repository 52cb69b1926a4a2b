//! `explain` in a request for an answer: the answer comes with why it is what it is.

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::wire::chat::Why;
use crate::wire::explanation::explanation;
use lyceum_service::chat::Delta;
use lyceum_service::explain::{self, Options, TargetChoice, What};
use lyceum_service::{Payer, guard};
use lyceum_types::ids::ModelRef;
use serde_json::{Value, json};

/// Who wants to know why.
pub(super) struct Asker {
    api: Api,
    payer: Payer,
    model: ModelRef,
    why: Why,
}

/// What was said so far, for who wants to know why.
pub(super) struct Said {
    pub(super) asker: Asker,
    pub(super) text: String,
    /// Nothing but the answer's text was said.
    pub(super) is_plain: bool,
}

impl Asker {
    /// What would be refused whatever the answer is, is refused before there is one.
    pub(super) async fn new(api: &Api, caller: &Caller, model: ModelRef, why: Why) -> Result<Self, ApiError> {
        guard::require_unchanged_answers(&api.service, &caller.project, "explain").await?;
        let options = Options { target: TargetChoice::Likeliest, ..why.options.clone() };
        let what = What::Conversation { messages: why.messages.clone(), completion: "a".into() };
        let request = explain::Request { model: model.clone(), what, options };
        explain::check(&api.service, &caller.project, &request).await?;
        Ok(Asker { api: api.clone(), payer: caller.payer.clone(), model, why })
    }

    /// The explanation; where it cannot be had, that and why: the answer is there all the same.
    pub(super) async fn explain(self, completion: String, is_plain: bool) -> Value {
        let failed = |code: &str, message: String| {
            let error = json!({"code": code, "message": message});
            json!({"object": "explanation", "status": "failed", "error": error})
        };
        if completion.is_empty() {
            return failed("empty_answer", "nothing was said that could be explained".into());
        }
        if !is_plain {
            let message = "an answer with reasoning or calls of tools is not explained in this version";
            return failed("not_implemented", message.into());
        }
        let Why { messages, options, extras } = self.why;
        let what = What::Conversation { messages, completion };
        let request = explain::Request { model: self.model, what, options };
        match explain::create(&self.api.service, &self.payer, request).await {
            Ok(explained) => explanation(&explained, extras),
            Err(error) => {
                let error = ApiError::from(error);
                failed(error.detail.code.unwrap_or("internal_error"), error.detail.message)
            }
        }
    }
}

impl Said {
    pub(super) fn new(asker: Asker) -> Said {
        Said { asker, text: String::new(), is_plain: true }
    }

    pub(super) fn hear(&mut self, delta: &Delta) {
        self.text.push_str(&delta.content);
        self.is_plain &= delta.reasoning.is_empty() && delta.calls.is_empty();
    }

    /// The explanation of what was heard.
    pub(super) async fn explain(self) -> Value {
        self.asker.explain(self.text, self.is_plain).await
    }
}

//! `explain` in a request for an answer: the answer comes with why it is what it is.

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::wire::chat::Why;
use crate::wire::explanation::explanation;
use lyceum_service::chat::Delta;
use lyceum_service::explain::{self, Frame, Options, Saying, TargetChoice, What};
use lyceum_service::{Payer, ServiceError, guard};
use lyceum_types::ids::ModelRef;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Who wants to know why.
pub(super) struct Asker {
    api: Api,
    payer: Payer,
    model: ModelRef,
    /// What the model was told beside the messages.
    frame: Frame,
    why: Why,
}

/// What was said so far, for who wants to know why.
pub(super) struct Said {
    asker: Asker,
    text: String,
    /// The whole answer as the model said it.
    token_ids: Vec<u32>,
    /// Nothing but the answer's text was said.
    is_plain: bool,
}

impl Asker {
    /// What would be refused whatever the answer is, is refused before there is one.
    pub(super) async fn new(
        api: &Api,
        caller: &Caller,
        (model, frame): (ModelRef, Frame),
        why: Why,
    ) -> Result<Self, ApiError> {
        guard::require_unchanged_answers(&api.service, &caller.project, "explain").await?;
        let options = Options { target: TargetChoice::Likeliest, part: None, ..why.options.clone() };
        let saying = Saying::Text("a".into());
        let what = What::Conversation { messages: why.messages.clone(), frame: frame.clone(), saying };
        let request = explain::Request { model: model.clone(), what, options };
        explain::check(&api.service, &caller.project, &request).await?;
        Ok(Asker { api: api.clone(), payer: caller.payer.clone(), model, frame, why })
    }
}

impl Said {
    pub(super) fn new(asker: Asker) -> Said {
        Said { asker, text: String::new(), token_ids: Vec::new(), is_plain: true }
    }

    /// Whose answer it is: the name that was asked may mean a newer version when it is explained.
    pub(super) fn of(&mut self, answering: ModelRef) {
        self.asker.model = answering;
    }

    pub(super) fn hear(&mut self, delta: &Delta) {
        self.text.push_str(&delta.content);
        self.token_ids.extend(&delta.token_ids);
        self.is_plain &= delta.reasoning.is_empty() && delta.calls.is_empty();
    }

    /// The explanation of what was heard; where it cannot be had, that and why: the answer is there all the same.
    pub(super) async fn explain(self) -> Value {
        self.explain_by(Instant::now()).await
    }

    /// The same for an answer that nobody waits for: where there is no room it is asked again, until `deadline`.
    pub(super) async fn explain_by(self, deadline: Instant) -> Value {
        let failed = |code: &str, message: String| {
            let error = json!({"code": code, "message": message});
            json!({"object": "explanation", "status": "failed", "error": error})
        };
        let Asker { api, payer, model, frame, why: Why { messages, options, extras } } = self.asker;
        // Words alone are explained as the text that they are.
        let saying = match self.is_plain && options.part.is_none() {
            true => Saying::Text(self.text),
            false => Saying::Tokens(self.token_ids),
        };
        let is_empty = match &saying {
            Saying::Text(text) => text.is_empty(),
            Saying::Tokens(ids) => ids.is_empty(),
        };
        if is_empty {
            return failed("empty_answer", "nothing was said that could be explained".into());
        }
        let request =
            explain::Request { model, what: What::Conversation { messages, frame, saying }, options };
        loop {
            let error = match explain::create(&api.service, &payer, request.clone()).await {
                Ok(explained) => return explanation(&explained, extras),
                Err(ServiceError::Overloaded { retry_after }) if Instant::now() + retry_after < deadline => {
                    tokio::time::sleep(retry_after).await;
                    continue;
                }
                Err(error) => ApiError::from(error),
            };
            return failed(error.detail.code.unwrap_or("internal_error"), error.detail.message);
        }
    }
}

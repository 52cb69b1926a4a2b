//! An answer that somebody waits for: it ends when they leave.

use crate::error::ApiError;
use crate::handlers::why::Said;
use crate::wire::responses::answer::{Answer, Event};
use futures_util::{Stream, StreamExt, stream};
use lyceum_service::chat::{Ending, Running};
use lyceum_service::responses::{self, Record, ResponseId};
use lyceum_service::{Service, ServiceError};
use lyceum_types::ids::Project;
use serde_json::Value;
use std::sync::Arc;

/// An answer that is being made. Dropping it ends it, and nothing of it is kept.
pub struct Making {
    pub running: Running,
    pub answer: Answer,
    pub keep: Option<Keep>,
    /// What was said, for who wants to know why.
    pub said: Option<Said>,
    /// How the answer ended, while it is still to be explained.
    pub ending: Option<Ending>,
}

/// Where an answer goes when it has ended.
pub struct Keep {
    pub service: Arc<Service>,
    pub project: Project,
    pub id: ResponseId,
    pub input: Vec<Value>,
}

impl Making {
    pub async fn whole(mut self) -> Result<Value, ApiError> {
        while !self.step().await? {}
        self.keep().await?;
        Ok(self.answer.into_response())
    }

    /// True when the answer has ended.
    async fn step(&mut self) -> Result<bool, ApiError> {
        if let Some(ending) = self.ending.take() {
            if let Some(said) = self.said.take() {
                self.answer.explain(said.explain().await);
            }
            self.answer.end(ending, self.running.usage());
            return Ok(true);
        }
        let Some(delta) = self.running.next().await? else {
            let error = ServiceError::internal("an answer ended without saying so", "bug");
            return Err(error.into());
        };
        let finish: Option<Ending> = delta.finish;
        if let Some(said) = &mut self.said {
            said.hear(&delta);
            // What was said is told before it is explained.
            self.ending = finish;
            self.answer.push(delta);
            return Ok(false);
        }
        self.answer.push(delta);
        if let Some(ending) = finish {
            self.answer.end(ending, self.running.usage());
        }
        Ok(finish.is_some())
    }

    async fn keep(&mut self) -> Result<(), ApiError> {
        let Some(Keep { service, project, id, input }) = self.keep.take() else { return Ok(()) };
        let record =
            Record { response: self.answer.response().clone(), input, events: Vec::new(), receipt: None };
        Ok(responses::save(&service, &project, id, record).await?)
    }

    /// The events of the next step; `true` with the last ones. An answer is kept before its end is told, so that
    /// whoever reads the end can go on from it.
    async fn next_events(&mut self) -> (Vec<Event>, bool) {
        let early = self.answer.take_events();
        if !early.is_empty() {
            return (early, false);
        }
        let stepped = self.step().await;
        let ended = match stepped {
            Ok(false) => return (self.answer.take_events(), false),
            Ok(true) => {
                let mut events = self.answer.take_events();
                match self.keep().await {
                    Ok(()) => return (events, true),
                    Err(error) => {
                        events.pop();
                        self.answer.fail(&error.detail, self.running.usage());
                        events.extend(self.answer.take_events());
                        return (events, true);
                    }
                }
            }
            Err(error) => error,
        };
        self.answer.fail(&ended.detail, self.running.usage());
        if let Err(error) = self.keep().await {
            tracing::error!(error = error.detail.message, "an answer that failed was not kept");
        }
        (self.answer.take_events(), true)
    }
}

pub fn events(making: Making) -> impl Stream<Item = Event> + Send {
    let steps = stream::unfold(Some(making), |making| async move {
        let mut making = making?;
        let (events, has_ended) = making.next_events().await;
        Some((stream::iter(events), (!has_ended).then_some(making)))
    });
    steps.flatten()
}

//! Answers of models that say all their steps in one pass: one prediction, told as the tokens of a sequence are.

use super::{Encoded, Options, Sampling, Speaker};
use crate::{Service, ServiceError};
use lyceum_engine::{CountPrompt, Event, Flow, Metered, Sink, TokenEvent};
use lyceum_models::InputShape;
use lyceum_models::batch::{Input, Tokens};

/// Asks for the answer: each step is its most likely token.
///
/// # Errors
/// What such a model cannot do was asked for.
pub(super) fn answer_at_once(
    service: &Service,
    speaker: &Speaker,
    (prompt, options): (&Encoded, &Options),
    mut sink: Sink,
    metered: Option<Metered>,
) -> Result<(), ServiceError> {
    let unsupported = |param: &str, fix: &str| {
        let message = format!("this model says its whole answer in one pass: {fix}");
        ServiceError::invalid(param, "unsupported_parameter", message)
    };
    if options.sampling.temperature != Some(0.0) {
        return Err(unsupported("temperature", "send temperature 0"));
    }
    if options.ignore_eos {
        return Err(unsupported("ignore_eos", "leave it out"));
    }
    let Sampling { presence_penalty, frequency_penalty, logit_bias, .. } = &options.sampling;
    for (param, is_asked) in [
        ("presence_penalty", *presence_penalty != 0.0),
        ("frequency_penalty", *frequency_penalty != 0.0),
        ("repetition_penalty", options.sampling.repetition_penalty.is_some_and(|penalty| penalty != 1.0)),
        ("logit_bias", !logit_bias.is_empty()),
    ] {
        if is_asked {
            return Err(unsupported(param, "leave it out"));
        }
    }
    for (param, asked) in [("logprobs", options.logprobs), ("prompt_logprobs", options.prompt_logprobs)] {
        if asked.is_some() {
            return Err(unsupported(param, "leave it out"));
        }
    }
    let InputShape::Pair { target_time: max_target, .. } = speaker.model().shape.input else {
        return Err(ServiceError::internal("a model answers at once and reads no source", "bug"));
    };
    let source = prompt.source.clone().unwrap_or_default();
    let input = Input::Pair { source: Tokens::single(&source), target: Tokens::single(&vec![0; max_target]) };
    let (mut end, never) = (speaker.ends(), speaker.never());
    end.extend(&options.stop_ids);
    let max_tokens = prompt.max_tokens;
    let tally = metered.as_ref().filter(|m| m.prompt == CountPrompt::Yes).map(|m| m.tally.clone());
    let reply = Box::new(move |result: Result<lyceum_engine::Prediction, lyceum_engine::EngineError>| {
        let prediction = match result {
            Ok(prediction) => prediction,
            Err(error) => {
                sink(Event::Failed(error));
                return;
            }
        };
        for (step, logits) in prediction.outputs.chunks_exact(prediction.width).enumerate() {
            let id = lyceum_models::answer::likeliest_but(logits, &never);
            if end.contains(&id) {
                sink(Event::Done(lyceum_engine::Finish::Stop));
                return;
            }
            if step == max_tokens {
                break;
            }
            if let Some(metered) = &metered {
                metered.tally.add_generated(1);
            }
            if sink(Event::Token(TokenEvent { id, logprobs: None })) == Flow::Stop {
                break;
            }
        }
        sink(Event::Done(lyceum_engine::Finish::Length));
    });
    let model = speaker.model().clone();
    service
        .engine()
        .predict(lyceum_engine::PredictRequest { model, input, tally, reply })
        .map_err(crate::refused)
}

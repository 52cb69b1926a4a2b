//! What answers of a language model cost: how fast a prompt is read and tokens follow it, one client, through the engine.

use crate::failure::{Exit, Failure};
use lyceum_engine::{Event, Flow, GenerateRequest};
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_service::card::measured::{Cost, TOKENS_PER_SECOND};
use lyceum_service::{Language, Service};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Answers that are timed, after one that is not.
const RUNS: usize = 6;
/// 97.5 % point of Student's t with `RUNS - 1` degrees of freedom.
const T: f64 = 2.570_581_836;
const PROMPT: usize = 256;
const ANSWER: usize = 64;
const DEADLINE: Duration = Duration::from_secs(300);

/// Times answers to prompts that share no beginning.
pub fn measure(service: &Arc<Service>, language: &Arc<Language>) -> Result<Vec<Cost>, Failure> {
    let id = language.version.id();
    if language.model.language_config().is_none() {
        let message = format!("no time of an answer of {id} is measured in this version");
        let why = "it makes vectors or numbers of texts; lyceum bench encoder times such models";
        return Err(Failure::new(Exit::Failed, "not_implemented", message, why, "leave --measure out"));
    }
    let context = language.manifest.context as usize;
    let (n_prompt, n_answer) =
        if context > PROMPT + ANSWER { (PROMPT, ANSWER) } else { (context / 2, context / 4) };
    if n_prompt < 2 || n_answer < 2 {
        let message = format!("{id} reads {context} tokens, too few for a measurement");
        return Err(Failure::new(
            Exit::Failed,
            "too_short",
            message,
            "nothing would be timed",
            "leave --measure out",
        ));
    }
    time(service, language, prompt(language, 0, n_prompt)?, n_answer)?;
    let (mut first, mut reading, mut making) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let (to_first, between) = time(service, language, prompt(language, run, n_prompt)?, n_answer)?;
        first.push(to_first * 1e3);
        reading.push(n_prompt as f64 / to_first);
        making.push((n_answer - 1) as f64 / between);
    }
    let method = format!(
        "one client, {n_prompt} tokens of prompt that were not kept, {n_answer} tokens of answer; mean of {RUNS}"
    );
    let cost = |name, unit, values: &[f64]| {
        let (value, half) = mean(values);
        Cost {
            name,
            value,
            unit,
            ci95: Some([value - half, value + half]),
            interval: "Student's t over answers, 95 %",
            n: RUNS as u64,
            method: method.clone(),
        }
    };
    Ok(vec![
        cost("time to the first token", "ms", &first),
        cost("tokens read per second", "tokens per second", &reading),
        cost(TOKENS_PER_SECOND, "tokens per second", &making),
    ])
}

fn mean(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, T * (variance / n).sqrt())
}

/// A prompt of so many tokens that begins as no other run's does.
fn prompt(language: &Language, run: usize, n: usize) -> Result<Vec<u32>, Failure> {
    let mut text = format!("{run} is where this page begins. ");
    while text.len() < n * 12 {
        text +=
            "The river ran low that summer, and the ferry lay on the stones where children climbed over it. ";
    }
    let ids = language.words.tokenizer.encode(&text, AddSpecial::Yes, Specials::AsText);
    let mut ids = ids.map_err(|error| Failure::internal("a prompt cannot be written", &error))?;
    ids.truncate(n);
    Ok(ids)
}

/// Seconds to the first token, and from it to the last.
fn time(
    service: &Service,
    language: &Language,
    prompt: Vec<u32>,
    n_answer: usize,
) -> Result<(f64, f64), Failure> {
    let (sender, receiver) = mpsc::channel();
    let sink = Box::new(move |event| {
        // Whoever waits no longer has dropped the other end.
        let _ = sender.send((event, Instant::now()));
        Flow::Continue
    });
    let began = Instant::now();
    let request = GenerateRequest {
        adapter: language.added.as_ref().map(|added| added.adapter.clone()),
        // An answer that ends early would be another length.
        never_tokens: language.words.tokenizer.ends().to_vec(),
        ..GenerateRequest::new(language.model.clone(), prompt, n_answer, sink)
    };
    let broken =
        |error: &(dyn std::error::Error + 'static)| Failure::internal("the measurement broke off", error);
    service.engine().generate(request).map_err(|error| broken(&error))?;
    let mut at = Vec::with_capacity(n_answer);
    loop {
        match receiver.recv_timeout(DEADLINE).map_err(|error| broken(&error))? {
            (Event::Token(_), when) => at.push(when),
            (Event::Prompt(_), _) => {}
            (Event::Failed(error), _) => return Err(broken(&error)),
            (Event::Done(_), _) => break,
        }
    }
    match (at.first(), at.last()) {
        (Some(first), Some(last)) if at.len() == n_answer => {
            Ok(((*first - began).as_secs_f64(), (*last - *first).as_secs_f64()))
        }
        _ => {
            let message = format!("an answer had {} tokens and not {n_answer}", at.len());
            Err(Failure::new(Exit::Failed, "broken_measurement", message, "it ended early", "try again"))
        }
    }
}

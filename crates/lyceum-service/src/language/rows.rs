//! Texts through an encoder. Rows of nearly one length share a batch: each is padded to the next step of a ladder
//! ([`steps`]), so that rows of all clients meet there, and padding changes no bit of a row. A request has only a few
//! batches in the engine at once, so that others come in between.

use super::Language;
use crate::meter::Share;
use crate::{Service, ServiceError, refused};
use lyceum_language::LanguageError;
use lyceum_models::batch::{Input, Tokens};
use lyceum_types::limits;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::oneshot;

/// Batches of one request that the engine has at once.
const BATCHES_AT_ONCE: usize = 4;

/// One text, or a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub ids: Vec<u32>,
    /// Where the second text of a pair begins.
    pub second: Option<u32>,
}

impl Row {
    /// # Errors
    /// It has no token, or more than the model reads; `param` is its place in the request.
    pub fn check(&self, language: &Language, param: &str) -> Result<(), ServiceError> {
        let context = language.manifest.context as usize;
        match self.ids.len() {
            0 => Err(ServiceError::invalid(param, "invalid_value", "there is nothing to read")),
            n if n > context => {
                let id = language.version.id();
                let message = format!("{n} tokens are more than the {context} that {id} reads: shorten it");
                Err(ServiceError::invalid(param, "context_length_exceeded", message))
            }
            _ => Ok(()),
        }
    }
}

/// What the tokenizer refuses, as the fault of a field.
pub(crate) fn inexpressible(param: &str, error: LanguageError) -> ServiceError {
    ServiceError::invalid(param, "invalid_value", error.to_string())
}

/// Refuses a request whose rows have more tokens than one request may have; how many they have.
pub(crate) fn n_tokens(rows: &[Row], param: &str) -> Result<u64, ServiceError> {
    let n: usize = rows.iter().map(|row| row.ids.len()).sum();
    if n > limits::ENCODED_TOKENS_MAX {
        let message = format!("{n} tokens are more than the {} of one request", limits::ENCODED_TOKENS_MAX);
        return Err(ServiceError::invalid(param, "invalid_value", message));
    }
    Ok(n as u64)
}

/// The length that a row of `length` tokens is padded to: at most an eighth is padding beyond 64 tokens.
fn steps(length: usize, context: usize) -> usize {
    let step = match length {
        0..=128 => 8,
        129..=256 => 16,
        _ => 32,
    };
    length.next_multiple_of(step).min(context).max(length)
}

/// Rows of equal steps, as many as a batch takes.
fn batches(rows: &[Row], context: usize) -> Vec<(usize, Vec<usize>)> {
    let mut ladder: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        ladder.entry(steps(row.ids.len(), context)).or_default().push(i);
    }
    let mut batches = Vec::new();
    for (time, places) in ladder {
        let n = (limits::PREDICT_TOKENS_A_BATCH / time.max(1)).clamp(1, limits::PREDICT_ROWS_A_BATCH);
        batches.extend(places.chunks(n).map(|places| (time, places.to_vec())));
    }
    batches
}

fn collate(rows: &[Row], time: usize, places: &[usize]) -> Tokens {
    let mut tokens = Tokens { n: places.len(), time, ..Tokens::default() };
    let pairs = places.iter().any(|&i| rows[i].second.is_some());
    for row in places.iter().map(|&i| &rows[i]) {
        tokens.ids.extend_from_slice(&row.ids);
        tokens.ids.resize(tokens.ids.len() + time - row.ids.len(), 0);
        tokens.lengths.push(row.ids.len() as u32);
        if pairs {
            tokens.second.push(row.second.unwrap_or(u32::MAX));
        }
    }
    tokens
}

/// The model's numbers for each row, in their order.
pub(crate) async fn encode(
    service: &Service,
    language: &Language,
    rows: &[Row],
    share: &Share,
) -> Result<Vec<Vec<f32>>, ServiceError> {
    let mut left = batches(rows, language.manifest.context as usize).into_iter();
    let mut waiting = VecDeque::new();
    let mut answers = vec![Vec::new(); rows.len()];
    loop {
        for (time, places) in left.by_ref().take(BATCHES_AT_ONCE - waiting.len()) {
            let (sender, receiver) = oneshot::channel();
            let (tally, held) = (share.tally(), share.clone());
            let reply = Box::new(move |result| {
                // The work is over before its answer is known.
                drop(held);
                // A client that left has dropped its end; its answer is dropped too.
                let _ = sender.send(result);
            });
            let input = Input::Tokens(collate(rows, time, &places));
            let request =
                lyceum_engine::PredictRequest { model: language.model.clone(), input, tally, reply };
            service.engine.predict(request).map_err(refused)?;
            waiting.push_back((places, receiver));
        }
        let Some((places, receiver)) = waiting.pop_front() else { return Ok(answers) };
        let prediction = service.await_reply(receiver).await?;
        let width = prediction.outputs.len() / places.len().max(1);
        for (place, row) in places.into_iter().zip(prediction.outputs.chunks_exact(width.max(1))) {
            answers[place] = row.to_vec();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_batch_that_is_within_its_bounds() {
        let rows: Vec<Row> = (0..3000).map(|i| Row { ids: vec![1; 1 + i * 7 % 500], second: None }).collect();
        let mut seen = vec![0; rows.len()];
        for (time, places) in batches(&rows, 500) {
            assert!(time * places.len() <= limits::PREDICT_TOKENS_A_BATCH && time <= 500);
            assert!(places.len() <= limits::PREDICT_ROWS_A_BATCH);
            for &i in &places {
                let length = rows[i].ids.len();
                assert!(length <= time && (length < 64 || (time - length) * 8 <= time), "{length} in {time}");
                seen[i] += 1;
            }
        }
        assert!(seen.iter().all(|&n| n == 1));
    }

    #[test]
    fn pairs_keep_where_their_second_text_begins() {
        let rows = [Row { ids: vec![5, 6, 7], second: Some(2) }, Row { ids: vec![8], second: None }];
        let tokens = collate(&rows, 4, &[1, 0]);
        assert_eq!(tokens.ids, [8, 0, 0, 0, 5, 6, 7, 0]);
        assert_eq!((tokens.lengths, tokens.second), (vec![1, 3], vec![u32::MAX, 2]));
        assert!(collate(&rows, 4, &[1]).second.is_empty());
    }
}

//! Predictions: requests of the same model and shape, from any clients, run as one batch.

use crate::{EngineError, EngineLimits, Gauges, Tally};
use lyceum_models::Model;
use lyceum_models::batch::{Input, Tokens};
use lyceum_nn::{Examples, Recording, Tape, Workspace};
use std::collections::VecDeque;
use std::sync::Arc;

/// Called once with the answer.
pub type Reply = Box<dyn FnOnce(Result<Prediction, EngineError>) + Send>;

/// Examples for one model.
pub struct PredictRequest {
    pub model: Arc<Model>,
    pub input: Input,
    /// Who counts what is read: tokens, or rows where the input has no tokens.
    pub tally: Option<Arc<Tally>>,
    pub reply: Reply,
}

/// Raw outputs (logits, or scaled numbers), row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    pub outputs: Vec<f32>,
    /// Numbers a row.
    pub width: usize,
    /// Rows of the batch in which this request ran.
    pub batch_rows: usize,
}

#[derive(Default)]
pub(crate) struct Predictor {
    queue: VecDeque<PredictRequest>,
}

impl Predictor {
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn push(&mut self, request: PredictRequest) {
        self.queue.push_back(request);
    }

    /// Runs the oldest request and all that can share its batch.
    pub(crate) fn step(&mut self, ws: &mut Workspace, gauges: &Gauges, limits: &EngineLimits) {
        let Some(first) = self.queue.pop_front() else { return };
        let mut rows = n_rows(&first.input);
        let rows_max = limits.batch_rows_max.min(limits.batch_tokens_max / n_steps(&first.input).max(1));
        let mut batch = vec![first];
        let mut i = 0;
        while i < self.queue.len() && rows < rows_max {
            let candidate = &self.queue[i];
            let more = n_rows(&candidate.input);
            let fits = Arc::ptr_eq(&candidate.model, &batch[0].model)
                && joins(&batch[0].input, &candidate.input)
                && rows + more <= rows_max;
            if fits {
                rows += more;
                batch.extend(self.queue.remove(i));
            } else {
                i += 1;
            }
        }
        gauges.predictions_done(batch.len());
        answer(ws, batch, rows);
    }
}

fn answer(ws: &mut Workspace, batch: Vec<PredictRequest>, rows: usize) {
    let model = batch[0].model.clone();
    let joined = join(&batch);
    let mut tape = Tape::new(ws, &model.params, Recording::Off, Examples::Even(rows));
    let outputs = match model.forward(&mut tape, &joined) {
        Ok(forward) => tape.value(forward.logits).to_vec(),
        Err(error) => {
            let error = EngineError::Input(error.to_string());
            return batch.into_iter().for_each(|request| (request.reply)(Err(error.clone())));
        }
    };
    let width = model.shape.output.width();
    let per_example = outputs.len() / rows.max(1);
    let mut start = 0;
    for request in batch {
        let end = start + n_rows(&request.input) * per_example;
        count(&request);
        let outputs = outputs[start..end].to_vec();
        start = end;
        (request.reply)(Ok(Prediction { outputs, width, batch_rows: rows }));
    }
}

/// Padding is not counted.
fn count(request: &PredictRequest) {
    let Some(tally) = &request.tally else { return };
    let sum = |lengths: &[u32]| lengths.iter().map(|&n| u64::from(n)).sum();
    match &request.input {
        Input::Dense { .. } => tally.add_passes(n_rows(&request.input) as u64),
        Input::Tokens(tokens) => tally.add_prompt(sum(&tokens.lengths)),
        Input::Pair { source, .. } => tally.add_prompt(sum(&source.lengths)),
    }
}

fn n_rows(input: &Input) -> usize {
    match input {
        Input::Dense { shape, data } => data.len() / shape.iter().product::<usize>().max(1),
        Input::Tokens(tokens) => tokens.n,
        Input::Pair { source, .. } => source.n,
    }
}

/// Steps of one row; an input without steps has none.
fn n_steps(input: &Input) -> usize {
    match input {
        Input::Dense { .. } => 0,
        Input::Tokens(tokens) => tokens.time,
        Input::Pair { source, target } => source.time.max(target.time),
    }
}

/// Whether two inputs have rows of one shape. Token rows join when they take equally many steps, padding
/// included: whoever asks decides how much of it is worth a larger batch.
fn joins(a: &Input, b: &Input) -> bool {
    match (a, b) {
        (Input::Dense { shape: a, .. }, Input::Dense { shape: b, .. }) => a == b,
        (Input::Tokens(a), Input::Tokens(b)) => a.time == b.time,
        (Input::Pair { source: a, target: c }, Input::Pair { source: b, target: d }) => {
            a.time == b.time && c.time == d.time
        }
        _ => false,
    }
}

fn join(batch: &[PredictRequest]) -> Input {
    let mut joined = batch[0].input.clone();
    for request in &batch[1..] {
        match (&mut joined, &request.input) {
            (Input::Dense { data, .. }, Input::Dense { data: more, .. }) => data.extend_from_slice(more),
            (Input::Tokens(tokens), Input::Tokens(more)) => append(tokens, more),
            (Input::Pair { source, target }, Input::Pair { source: more, target: too }) => {
                append(source, more);
                append(target, too);
            }
            _ => unreachable!("only inputs of one kind join: bug"),
        }
    }
    joined
}

fn append(tokens: &mut Tokens, more: &Tokens) {
    if !tokens.second.is_empty() || !more.second.is_empty() {
        tokens.second.resize(tokens.n, u32::MAX);
        tokens.second.extend_from_slice(&more.second);
        tokens.second.resize(tokens.n + more.n, u32::MAX);
    }
    tokens.n += more.n;
    tokens.ids.extend_from_slice(&more.ids);
    tokens.lengths.extend_from_slice(&more.lengths);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_where_their_second_text_begins_whoever_they_are_joined_with() {
        let row = |second: &[u32]| Tokens {
            n: 1,
            time: 2,
            ids: vec![1, 2],
            lengths: vec![2],
            second: second.to_vec(),
        };
        let mut joined = row(&[]);
        append(&mut joined, &row(&[]));
        assert_eq!((joined.n, joined.second.len()), (2, 0));
        append(&mut joined, &row(&[1]));
        append(&mut joined, &row(&[]));
        assert_eq!((joined.n, joined.second), (4, vec![u32::MAX, u32::MAX, 1, u32::MAX]));
    }
}

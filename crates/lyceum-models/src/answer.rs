//! Whole answers without a serving loop: what a model makes of sources or prompts when it takes the most
//! likely token each time. Used to measure exact matches; the serving engine has its own loop.

use crate::batch::{Input, Tokens};
use crate::decode::{DecodeRow, DecodeState, PAGE, RowClass, Rows};
use crate::model::{InputShape, Model};
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_nn::{Examples, NnError, Recording, Tape, Workspace};

/// What to continue.
pub enum Question<'a> {
    /// A source; the answer begins after `begin`.
    Source {
        source: &'a [u32],
        begin: u32,
    },
    Prompt(&'a [u32]),
}

/// What an answer may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// The token that ends an answer; it is not part of it.
    pub end: Option<u32>,
    /// Tokens that mean nothing in an answer.
    pub never: &'a [u32],
    pub n_tokens_max: usize,
}

impl Model {
    /// The greedy answer to each question.
    pub fn answers(
        &self,
        ws: &mut Workspace,
        questions: &[Question<'_>],
        bounds: Bounds<'_>,
    ) -> Result<Vec<Vec<u32>>, NnError> {
        if self.answers_at_once() {
            return questions.iter().map(|q| self.answer_at_once(ws, q, bounds)).collect();
        }
        let Bounds { end, never, n_tokens_max } = bounds;
        let mut states: Vec<(DecodeState, Vec<u32>)> = Vec::new();
        for question in questions {
            states.push(match question {
                Question::Source { source, begin } => (self.start(ws, Some(source))?, vec![*begin]),
                Question::Prompt(prompt) => (self.start(ws, None)?, prompt.to_vec()),
            });
        }
        let mut answers = vec![Vec::new(); questions.len()];
        let mut open: Vec<usize> = (0..questions.len()).collect();
        let width = self.shape.output.width();
        let n_prompt = |i: usize| match &questions[i] {
            Question::Source { .. } => 1,
            Question::Prompt(prompt) => prompt.len(),
        };
        // Pages for the longest answer to each question.
        let positions = |i| self.context().unwrap_or(0).min(n_prompt(i) + n_tokens_max);
        let mut n_pages = 0;
        let tables: Vec<Vec<u32>> = (0..questions.len())
            .map(|i| {
                let first = n_pages;
                n_pages += positions(i).div_ceil(PAGE) as u32;
                (first..n_pages).collect()
            })
            .collect();
        let mut pool = self.kv_shape(n_pages as usize, KvStorage::F32).map(KvPool::new);
        let room = |i: usize, answer: &Vec<u32>| {
            let prompt = n_prompt(i);
            answer.len() < n_tokens_max && self.context().is_none_or(|c| prompt + answer.len() <= c)
        };
        open.retain(|&i| room(i, &answers[i]));
        while !open.is_empty() {
            let mut rows: Vec<DecodeRow<'_>> = states
                .iter_mut()
                .enumerate()
                .filter(|(i, _)| open.binary_search(i).is_ok())
                .map(|(i, (state, tokens))| DecodeRow {
                    state,
                    tokens,
                    rows: Rows::Last,
                    pages: &tables[i],
                    adapter: None,
                    class: if answers[i].is_empty() { RowClass::Bulk } else { RowClass::Step },
                })
                .collect();
            let logits = self.decode(ws, pool.as_mut(), &mut rows)?;
            drop(rows);
            let mut still = Vec::new();
            for (&i, row) in open.iter().zip(logits.chunks_exact(width)) {
                let id = likeliest_but(row, never);
                if Some(id) == end {
                    continue;
                }
                answers[i].push(id);
                states[i].1 = vec![id];
                if room(i, &answers[i]) {
                    still.push(i);
                }
            }
            open = still;
            ws.recycle(logits);
        }
        Ok(answers)
    }

    /// One pass that says every step of the target.
    fn answer_at_once(
        &self,
        ws: &mut Workspace,
        question: &Question<'_>,
        Bounds { end, never, n_tokens_max: n_max }: Bounds<'_>,
    ) -> Result<Vec<u32>, NnError> {
        let Question::Source { source, .. } = question else {
            return Err(crate::model::wrong_input("answer", "a source"));
        };
        let n = match self.shape.input {
            InputShape::Pair { target_time, .. } => target_time.min(n_max),
            _ => n_max,
        };
        let target = Tokens::single(&vec![0; n]);
        let input = Input::Pair { source: Tokens::single(source), target };
        let mut tape = Tape::new(ws, &self.params, Recording::Off, Examples::Even(1));
        let forward = self.forward(&mut tape, &input)?;
        let rows = tape.value(forward.logits).chunks_exact(self.shape.output.width());
        let ids = rows.map(|row| likeliest_but(row, never));
        Ok(ids.take_while(|&id| Some(id) != end).collect())
    }
}

/// The position of the largest number, the first of equals.
pub fn likeliest(row: &[f32]) -> u32 {
    // The block with the highest first, without a branch a number; then where in it that stands first.
    const BLOCK: usize = 1024;
    let (mut at, mut most) = (0, f32::NEG_INFINITY);
    for (i, block) in row.chunks(BLOCK).enumerate() {
        let here = highest(block);
        if here > most {
            (at, most) = (i * BLOCK, here);
        }
    }
    (at + row[at..].iter().position(|&x| x == most).unwrap_or(0)) as u32
}

/// The highest of some numbers; those that are none are never it.
fn highest(row: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The likeliest token of a row of logits that is not among `never`.
pub fn likeliest_but(row: &[f32], never: &[u32]) -> u32 {
    let best = likeliest(row);
    if !never.contains(&best) {
        return best;
    }
    let (mut best, mut highest) = (best, f32::NEG_INFINITY);
    for (id, &x) in (0..).zip(row) {
        if x > highest && !never.contains(&id) {
            (best, highest) = (id, x);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_is_the_first_of_the_highest_wherever_it_stands() {
        let twin =
            |row: &[f32]| (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
        for n in [1, 2, 31, 32, 33, 64, 100, 1024, 2500] {
            for highest in (0..n).step_by(1 + n / 50) {
                let mut row: Vec<f32> = (0..n).map(|i| -((i * 7 % 5) as f32)).collect();
                row[highest] = 1.0;
                assert_eq!(likeliest(&row), highest as u32);
                row[n - 1] = 1.0;
                assert_eq!(likeliest(&row), twin(&row), "of equals the first");
                row[highest] = f32::NEG_INFINITY;
                row[0] = f32::NEG_INFINITY;
                assert_eq!(likeliest(&row), twin(&row));
            }
            assert_eq!(likeliest(&vec![f32::NEG_INFINITY; n]), 0);
        }
    }

    #[test]
    fn what_is_never_said_gives_way_to_the_next_likeliest() {
        let row = [1.0, 5.0, 4.0, 4.0];
        assert_eq!((likeliest(&row), likeliest_but(&row, &[])), (1, 1));
        assert_eq!((likeliest_but(&row, &[1]), likeliest_but(&row, &[1, 2])), (2, 3));
    }
}

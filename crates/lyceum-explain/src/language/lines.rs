//! Which lines of a fine-tuning pulled an answer where it is ([`crate::influence`]), in turns: forward layer by layer,
//! the head some rows at a time, and back, each layer computed anew. No turn is longer than one layer of the longest line, so
//! that others who are served wait for no whole line.
//!
//! Only what layers learn is followed, which is all of an adapter; a model whose embedding, norm or head is learnt is refused.
//!
//! Legend: T tokens of a line, C `hidden_size`.

use super::walk::no_numbers;
use super::{Turns, Work};
use crate::ExplainError;
use lyceum_models::Model;
use lyceum_models::batch::{Batch, IGNORE, Input, Target};
use lyceum_models::causal_lm::{LearntBack, Sections};
use lyceum_nn::{ParamKind, Workspace};
use lyceum_types::control::Control;
use std::sync::Arc;

/// Rows of one turn of the head. A row of SmolLM2-135M's takes what a token takes in eight layers, one of Qwen3-0.6B's in ten:
/// so many are about a layer of 512 tokens.
pub const HEAD_ROWS_A_TURN: usize = 64;

/// The influence of each line on the loss of `example` at one checkpoint, `∇ℓ(w, z) · ∇ℓ(w, x)`; to be added up over
/// checkpoints, times their learning rates.
///
/// # Errors
/// When a batch is no line, the model learns more than its layers, or the work is stopped.
pub fn line_products(
    turns: &mut dyn Turns,
    model: &Arc<Model>,
    example: &Batch,
    lines: impl Iterator<Item = Batch>,
    control: &Control,
) -> Result<Vec<f64>, ExplainError> {
    let own = line_gradient(turns, model, example, control)?;
    lines.map(|line| Ok(own.product(&line_gradient(turns, model, &line, control)?))).collect()
}

/// The gradient of a line's mean loss over what is learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct LineGradient(Vec<Vec<f32>>);

impl LineGradient {
    /// With another line's, of the same model.
    pub fn product(&self, other: &LineGradient) -> f64 {
        let pairs = self.0.iter().flatten().zip(other.0.iter().flatten());
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    }
}

/// `∇ℓ(w, z)` of the one line in `batch`.
///
/// # Errors
/// As [`line_products`].
pub fn line_gradient(
    turns: &mut dyn Turns,
    model: &Arc<Model>,
    batch: &Batch,
    control: &Control,
) -> Result<LineGradient, ExplainError> {
    let line = Line::read(batch)?;
    let sections = Sections::new(model.clone(), None, [1, line.ids.len()])?;
    let mut walk = Walk { sections, turns, control, found: Vec::new() };
    let inputs = walk.forward(line.ids)?;
    let sent = walk.head_back(&inputs[inputs.len() - 1], &line.asked)?;
    walk.back(&inputs, sent)?;
    let n_found: usize = walk.found.iter().map(Vec::len).sum();
    let params = &model.params;
    let learnt = params.ids().filter(|&id| params.kind(id) == ParamKind::Weight);
    let n_learnt: usize = learnt.map(|id| params.value(id).len()).sum();
    if n_found != n_learnt {
        let message = format!(
            "{n_learnt} numbers are learnt and the layers hold {n_found} of them: the numbers of an adapter are followed"
        );
        return Err(ExplainError::request("model", message));
    }
    Ok(LineGradient(walk.found))
}

/// What is read, and the rows that have a loss with their targets.
struct Line {
    ids: Vec<u32>,
    asked: Vec<(usize, i32)>,
}

impl Line {
    fn read(batch: &Batch) -> Result<Self, ExplainError> {
        let (Input::Tokens(tokens), Target::Steps(steps)) = (&batch.input, &batch.target) else {
            return Err(ExplainError::request("input", "is no line of tokens with a loss"));
        };
        let [length] = tokens.lengths[..] else {
            let message = format!("{} lines in the place of one", tokens.lengths.len());
            return Err(ExplainError::request("input", message));
        };
        let (Some(ids), Some(steps)) = (tokens.ids.get(..length as usize), steps.get(..length as usize))
        else {
            return Err(ExplainError::request("input", "has fewer tokens than its length says"));
        };
        let asked: Vec<(usize, i32)> =
            steps.iter().copied().enumerate().filter(|(_, step)| *step != IGNORE).collect();
        match asked.is_empty() {
            true => Err(ExplainError::request("input", "no token of the line has a loss")),
            false => Ok(Line { ids: ids.to_vec(), asked }),
        }
    }
}

struct Walk<'a> {
    sections: Sections,
    turns: &'a mut dyn Turns,
    control: &'a Control,
    /// Gradients, in the order in which the way back meets their parameters.
    found: Vec<Vec<f32>>,
}

impl Walk<'_> {
    fn turn(&mut self, n_passes: u64, work: Work) -> Result<Vec<Vec<f32>>, ExplainError> {
        self.control.check().map_err(ExplainError::Stopped)?;
        self.turns.turn(n_passes, work)
    }

    /// What each layer reads, and what the last gives, `[T, C]` each.
    fn forward(&mut self, ids: Vec<u32>) -> Result<Vec<Arc<Vec<f32>>>, ExplainError> {
        let of = self.sections.clone();
        let embedded = self.turn(0, Box::new(move |ws| Ok(vec![of.embed(ws, &ids)?])))?;
        let mut inputs = vec![Arc::new(last(embedded)?)];
        for i in 0..self.sections.n_layers() {
            let (of, x) = (self.sections.clone(), inputs[i].clone());
            let layer = move |ws: &mut Workspace| {
                let [_, y] = of.layer(ws, i, &x)?;
                Ok(vec![y])
            };
            inputs.push(Arc::new(last(self.turn(0, Box::new(layer))?)?));
        }
        Ok(inputs)
    }

    /// What the mean loss sends to what the last layer gave.
    fn head_back(&mut self, given: &[f32], asked: &[(usize, i32)]) -> Result<Vec<f32>, ExplainError> {
        let width = self.sections.width();
        let scale = 1.0 / asked.len() as f32;
        let mut sent = vec![0.0; given.len()];
        for (n_before, asked_now) in asked.chunks(HEAD_ROWS_A_TURN).enumerate() {
            let rows: Vec<f32> =
                asked_now.iter().flat_map(|(row, _)| &given[row * width..][..width]).copied().collect();
            let targets: Vec<i32> = asked_now.iter().map(|(_, target)| *target).collect();
            let of = self.sections.clone();
            let head = move |ws: &mut Workspace| Ok(vec![of.loss_back(ws, &rows, &targets, scale)?]);
            // The pass forward ends with the last of its rows.
            let is_last = (n_before + 1) * HEAD_ROWS_A_TURN >= asked.len();
            let arrived = last(self.turn(u64::from(is_last), Box::new(head))?)?;
            for ((row, _), arrived) in asked_now.iter().zip(arrived.chunks_exact(width)) {
                sent[row * width..][..width].copy_from_slice(arrived);
            }
        }
        Ok(sent)
    }

    fn back(&mut self, inputs: &[Arc<Vec<f32>>], mut sent: Vec<f32>) -> Result<(), ExplainError> {
        for i in (0..self.sections.n_layers()).rev() {
            let (of, x) = (self.sections.clone(), inputs[i].clone());
            let layer = move |ws: &mut Workspace| {
                let LearntBack { sent, mut weights } = of.layer_learnt_back(ws, (i, &x), &sent)?;
                weights.push(sent);
                Ok(weights)
            };
            let mut found = self.turn(u64::from(i == 0), Box::new(layer))?;
            sent = found.pop().ok_or_else(no_numbers)?;
            self.found.extend(found);
        }
        Ok(())
    }
}

fn last(mut found: Vec<Vec<f32>>) -> Result<Vec<f32>, ExplainError> {
    found.pop().ok_or_else(no_numbers)
}

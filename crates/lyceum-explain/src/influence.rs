//! Which training rows pulled an answer where it is: TracIn over checkpoints,
//! `I(z, x) = Σ_t η_t ∇ℓ(w_t, z) · ∇ℓ(w_t, x)` (Pruthi et al. 2020, arXiv:2002.08484).
//!
//! Positive rows lowered the loss of the example when they were trained on, negative ones raised it. The sum is
//! over the checkpoints that were kept, so it is an approximation of what training did; and it takes each step
//! for one of plain gradient descent, whatever the optimiser was.
//!
//! A row's influence on itself is large where the model had to learn the row by heart: mislabelled rows come
//! first ([`self_influence`]).

use crate::ExplainError;
use lyceum_models::Model;
use lyceum_models::batch::Batch;
use lyceum_nn::{Examples, Grads, ParamKind, Recording, Tape, Workspace};
use lyceum_types::control::Control;

/// A model as it was at one time, and the learning rate then.
pub struct Checkpoint<'a> {
    pub model: &'a Model,
    pub lr: f64,
}

/// The influence of each row on the loss of `example`; every batch holds one example.
///
/// # Errors
/// When nothing was kept, a batch does not fit the model, or the work is stopped.
pub fn influence(
    checkpoints: &[Checkpoint<'_>],
    example: &Batch,
    rows: &[Batch],
    ws: &mut Workspace,
    control: &Control,
) -> Result<Vec<f64>, ExplainError> {
    if checkpoints.is_empty() {
        return Err(ExplainError::request("model", "no checkpoint of its training was kept"));
    }
    let mut sums = vec![0.0; rows.len()];
    for checkpoint in checkpoints {
        let own = gradient(checkpoint.model, example, ws)?;
        for (sum, row) in sums.iter_mut().zip(rows) {
            control.check().map_err(ExplainError::Stopped)?;
            *sum += checkpoint.lr * product(checkpoint.model, &own, row, ws)?;
        }
    }
    Ok(sums)
}

/// The influence of each row on itself, `Σ_t η_t ‖∇ℓ(w_t, x)‖²`, in one pass a checkpoint and batch.
///
/// # Errors
/// As [`influence`]; and where an operation mixes examples.
pub fn self_influence(
    checkpoints: &[Checkpoint<'_>],
    rows: &[Batch],
    ws: &mut Workspace,
    control: &Control,
) -> Result<Vec<f64>, ExplainError> {
    let mut sums = vec![0.0; rows.iter().map(|batch| batch.n).sum()];
    for checkpoint in checkpoints {
        let mut place = 0;
        for batch in rows {
            control.check().map_err(ExplainError::Stopped)?;
            let params = &checkpoint.model.params;
            let mut tape = Tape::new(ws, params, Recording::Weights, Examples::Even(batch.n));
            let (loss, _) = checkpoint.model.loss(&mut tape, batch, 1.0)?;
            tape.backward_inputs(loss, &[1.0]);
            let mut squares = vec![0.0; batch.n];
            tape.example_norms(&mut squares)?;
            for (sum, square) in sums[place..].iter_mut().zip(squares) {
                *sum += checkpoint.lr * square;
            }
            place += batch.n;
        }
    }
    Ok(sums)
}

/// `∇ℓ(w, z)`, `ℓ` the mean loss of the one example in `batch`.
///
/// # Errors
/// When there are more examples, or the batch does not fit the model.
pub fn gradient(model: &Model, batch: &Batch, ws: &mut Workspace) -> Result<Grads, ExplainError> {
    if batch.n != 1 {
        return Err(ExplainError::request("input", format!("{} examples in the place of one", batch.n)));
    }
    let mut grads = Grads::new(&model.params);
    let mut tape = Tape::new(ws, &model.params, Recording::Weights, batch.examples());
    let scale = 1.0 / batch.target.n_terms().max(1) as f32;
    let (loss, _) = model.loss(&mut tape, batch, scale)?;
    tape.backward(loss, &mut grads);
    grads.finish();
    Ok(grads)
}

/// `own · ∇ℓ(w, x)` over all that is learnt.
///
/// # Errors
/// As [`gradient`].
pub fn product(model: &Model, own: &Grads, row: &Batch, ws: &mut Workspace) -> Result<f64, ExplainError> {
    let theirs = gradient(model, row, ws)?;
    let learnt = model.params.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight);
    let dot = |id| -> f64 {
        let pairs = own.value(id).iter().zip(theirs.value(id));
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    Ok(learnt.map(dot).sum())
}

//! Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290): of each pair of answers one is
//! preferred,
//!
//! `loss = scale · Σ_pairs −ln σ(m)`, `m = β·((p_c − q_c) − (p_r − q_r))`,
//!
//! where `p` is the sum of an answer's log-probabilities, `q` what the reference model gave it, c the chosen and r
//! the rejected answer. Logits `[R, V]`, one target a row; answer `2i` is the chosen one of pair `i`, `2i + 1`
//! the rejected one. Backward: `dp_c = −scale·β·σ(−m) = −dp_r`, and `dz_r = −dp·(softmax(z_r) − onehot(t_r))`.

use super::{Op, Operation};
use crate::tape::{Backward, Saved, SavedIds, Tape, Var};
use crate::{NnError, Shape};
use lyceum_kernels::softmax::{cross_entropy, cross_entropy_backward};

/// Answers in pairs, and what the reference gave them.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// The first row of each answer, and the end of the last one.
    pub offsets: &'a [u32],
    /// The reference's sum of log-probabilities of each answer.
    pub reference: &'a [f32],
    pub beta: f32,
}

#[derive(Clone, Copy)]
pub(crate) struct Preference {
    logits: Var,
    targets: SavedIds,
    lse: Saved,
    /// A row's `−dloss/dp`.
    weights: Saved,
}

impl Tape<'_> {
    /// The scalar loss; see the module.
    pub fn preference(
        &mut self,
        logits: Var,
        targets: &[i32],
        pairs: Pairs<'_>,
        scale: f32,
    ) -> Result<Var, NnError> {
        let op = "preference";
        let shape = self.shape(logits);
        let (rows, classes) = (shape.len() / shape.last().max(1), shape.last());
        let ends = pairs.offsets.last().copied() == Some(rows as u32) && pairs.offsets.first() == Some(&0);
        if targets.len() != rows || !ends || !pairs.offsets.is_sorted() {
            let want = format!("{} rows, one a target, in answers that follow one another", targets.len());
            return Err(NnError::shape(op, "logits", shape, want));
        }
        let n = pairs.offsets.len() - 1;
        if !n.is_multiple_of(2) || pairs.reference.len() != n {
            let want = format!("{n} answers in pairs, with one number each");
            return Err(NnError::shape(op, "reference", Shape::new(&[pairs.reference.len()]), want));
        }
        let outside = |&(_, &t): &(usize, &i32)| !(0..classes as i64).contains(&i64::from(t));
        if let Some((position, &t)) = targets.iter().enumerate().find(outside) {
            return Err(NnError::Index { op, index: t.into(), position, size: classes });
        }
        let (mut losses, mut lse) = (self.take(rows), self.take(rows));
        cross_entropy(self.value(logits), classes, targets, &mut losses, &mut lse);
        let range = |answer: usize| pairs.offsets[answer] as usize..pairs.offsets[answer + 1] as usize;
        let reward = |answer: usize| {
            let p: f64 = losses[range(answer)].iter().map(|&l| -f64::from(l)).sum();
            p - f64::from(pairs.reference[answer])
        };
        let (beta, mut sum) = (f64::from(pairs.beta), 0.0);
        let mut weights = self.take(rows);
        for chosen in (0..n).step_by(2) {
            let margin = beta * (reward(chosen) - reward(chosen + 1));
            // −ln σ(m), without overflow on either side.
            sum += (-margin.abs()).exp().ln_1p() + (-margin).max(0.0);
            let pull = (f64::from(scale) * beta / (1.0 + margin.exp())) as f32;
            weights[range(chosen)].fill(pull);
            weights[range(chosen + 1)].fill(-pull);
        }
        let mut value = self.take(1);
        value[0] = (sum * f64::from(scale)) as f32;
        self.give(losses);
        let records = self.needs_grad(&[logits], &[]);
        let (targets, lse) = (self.save_ids(bytemuck::cast_slice(targets)), self.save(lse));
        let op = Op::Preference(Preference { logits, targets, lse, weights: self.save(weights) });
        Ok(self.push(op, Shape::new(&[]), value, records))
    }
}

impl Operation for Preference {
    fn name(&self) -> &'static str {
        "preference"
    }

    fn backward_inputs(&self, back: &mut Backward<'_>) {
        back.grad(self.logits, |view, dy, dz, write| {
            let targets = bytemuck::cast_slice(view.ids(self.targets));
            let (z, classes) = (view.value(self.logits), view.shape(self.logits).last());
            let (lse, weights) = (view.saved(self.lse), view.saved(self.weights));
            cross_entropy_backward(z, classes, targets, lse, dy[0], Some(weights), dz, write);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Check;

    const OFFSETS: [u32; 5] = [0, 2, 3, 5, 8];
    const TARGETS: [i32; 8] = [1, 4, 0, 2, 2, 3, 0, 1];

    #[test]
    fn gradients_agree_with_finite_differences() {
        Check::new(1).mixes_examples().input(&[8, 5]).run(|tape, x, _| {
            let reference = &[-2.0, -1.5, -4.0, -3.0];
            tape.preference(x[0], &TARGETS, Pairs { offsets: &OFFSETS, reference, beta: 0.7 }, 0.5)
        });
    }

    #[test]
    fn a_model_that_is_its_reference_has_a_loss_of_ln_2() {
        let mut ws = crate::Workspace::new();
        let params = crate::Params::new();
        let mut tape = Tape::new(&mut ws, &params, crate::Recording::Off, crate::Examples::Even(1));
        let logits = tape.input(&[8, 5], &[0.0; 40]).unwrap();
        let one = -(5f32.ln());
        let reference: Vec<f32> = OFFSETS.windows(2).map(|w| one * (w[1] - w[0]) as f32).collect();
        let pairs = Pairs { offsets: &OFFSETS, reference: &reference, beta: 0.1 };
        let loss = tape.preference(logits, &TARGETS, pairs, 0.5).unwrap();
        assert!((tape.value(loss)[0] - 2f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn answers_without_a_partner_are_refused() {
        Check::new(1).input(&[3, 5]).fails("preference", |tape, x, _| {
            let pairs = Pairs { offsets: &[0, 2, 3, 3], reference: &[0.0; 3], beta: 0.1 };
            tape.preference(x[0], &[0, 1, 2], pairs, 1.0)
        });
    }
}

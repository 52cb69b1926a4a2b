//! Direct logit attribution (Elhage et al. 2021, "A mathematical framework for transformer circuits"): what the embedding,
//! and attention and the feed-forward network of each layer, add to a logit.
//!
//! The residual stream at a row is a sum, `h = Σ c`, and a logit is `w · (h ⊙ g / √(mean h² + ε))`. With the scale of the last
//! norm held at what it was, the logit is linear in the terms: `z = Σ (w ⊙ g · rstd) · c`, exactly. What a term adds *through
//! later layers* is theirs. A head whose weights are stored in few bits rounds the numbers that it reads, too: what that
//! makes of the logit stands beside the terms, as `head.rounding`.

use super::Found;
use super::walk::Walker;
use crate::{ExplainError, Of};
use lyceum_models::causal_lm::Walk;

pub(super) fn attribute(walker: &mut Walker<'_>) -> Result<Found, ExplainError> {
    let entry = walker.embedded()?;
    let (width, n_layers) = (walker.question.sections.width(), walker.question.sections.n_layers());
    let mut rows: Vec<usize> = walker.question.target.terms().iter().map(|term| term.row).collect();
    rows.sort_unstable();
    rows.dedup();
    // The rows of the target, after each half of each layer.
    let of_rows = |x: &[f32]| -> Vec<f32> {
        rows.iter().flat_map(|row| x[row * width..][..width].iter().copied()).collect()
    };
    let mut stream = Vec::with_capacity(2 * n_layers + 1);
    let forward = walker.forward_and(entry, 1, |_, middle, y| {
        stream.push(of_rows(middle));
        stream.push(of_rows(y));
    })?;
    let scale = walker.question.sections.model().language_config().and_then(|config| config.embedding_scale);
    let embedded: Vec<f32> = of_rows(&forward.inputs[0]).iter().map(|x| x * scale.unwrap_or(1.0)).collect();
    stream.insert(0, embedded);
    // The identity rule of the norm is the linearisation, and there is no other constant: what is sent on is `w ⊙ g · rstd`.
    let (sent, _) = walker.head_back(&forward, Walk::Relevance { epsilon: f32::MIN_POSITIVE })?;
    let direction = of_rows(&sent);
    let along =
        |x: &[f32]| -> f64 { x.iter().zip(&direction).map(|(&x, &d)| f64::from(x) * f64::from(d)).sum() };
    let sums: Vec<f64> = stream.iter().map(|x| along(x)).collect();
    let rounding = forward.scores[0] - sums[sums.len() - 1];
    let terms = std::iter::once(sums[0]).chain(sums.windows(2).map(|pair| pair[1] - pair[0]));
    let values = terms.chain([rounding]).collect();
    let halves = (0..n_layers).flat_map(|i| [format!("layers.{i}.attention"), format!("layers.{i}.mlp")]);
    let names =
        std::iter::once("embedding".to_owned()).chain(halves).chain(["head.rounding".to_owned()]).collect();
    Ok(Found { output: forward.scores[0], values, base_value: Some(0.0), of: Of::Components(names) })
}

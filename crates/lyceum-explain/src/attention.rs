//! What attention weighs, and its rollout. These are weights, not explanations: a weight says where a layer read
//! from, not how much that counted (Jain & Wallace 2019, arXiv:1902.10186). Rollout is a heuristic.

use crate::session::Session;
use crate::{Device, ExplainError, Subject, Wanted};
use lyceum_nn::AttentionMap;
use lyceum_types::control::Control;

/// The weights of every attention of one example, in the order of the layers.
pub fn maps(
    subject: &Subject,
    device: &mut dyn Device,
    control: &Control,
) -> Result<Vec<AttentionMap>, ExplainError> {
    let session = Session::start(subject, "attention", Wanted::Attention, 1, device, control)?;
    let maps = session.first.map(|first| first.maps).unwrap_or_default();
    if maps.is_empty() {
        return Err(ExplainError::Unsupported {
            method: "attention",
            what: "a model without attention".into(),
            fix: "use gradient_x_input, integrated_gradients or relevance",
        });
    }
    Ok(maps)
}

/// Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928): with `Â = ½ mean over heads + ½ I`, rows brought
/// to 1, `R = Â_L · … · Â_1`, `[T, T]`: how much of row `t` of the last layer comes from token `s`. Cross
/// attention is left out.
///
/// # Errors
/// When no layer attends to its own sequence, or sequences differ in length.
pub fn rollout(maps: &[AttentionMap]) -> Result<Vec<f32>, ExplainError> {
    let own: Vec<&AttentionMap> = maps.iter().filter(|m| m.is_self).collect();
    let Some(first) = own.first() else {
        return Err(ExplainError::request("method", "no layer attends to its own sequence"));
    };
    let n = first.n_queries;
    if own.iter().any(|m| m.n_queries != n) {
        let message = "source and target have attentions of their own: rollout is of one sequence";
        return Err(ExplainError::request("method", message));
    }
    let mut whole: Vec<f32> = (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect();
    for map in own {
        let mut mixed = vec![0.0f32; n * n];
        for head in map.weights[..map.heads * n * n].chunks_exact(n * n) {
            mixed.iter_mut().zip(head).for_each(|(m, w)| *m += w / map.heads as f32);
        }
        for (t, row) in mixed.chunks_exact_mut(n).enumerate() {
            row[t] += 1.0;
            let sum: f32 = row.iter().sum();
            row.iter_mut().for_each(|w| *w /= sum);
        }
        let product = |i: usize| (0..n).map(|k| mixed[i / n * n + k] * whole[k * n + i % n]).sum();
        whole = (0..n * n).map(product).collect();
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollout_multiplies_half_attention_half_itself() {
        let map = |weights: Vec<f32>| AttentionMap {
            batch: 1,
            heads: 1,
            n_queries: 2,
            n_keys: 2,
            is_self: true,
            weights,
        };
        let maps = [map(vec![1.0, 0.0, 0.5, 0.5]), map(vec![0.0, 1.0, 1.0, 0.0])];
        // Â_1 = [[1, 0], [1/4, 3/4]], Â_2 = [[1/2, 1/2], [1/2, 1/2]].
        assert_eq!(rollout(&maps).unwrap(), [0.625, 0.375, 0.625, 0.375]);
        assert!(rollout(&[]).is_err());
    }
}

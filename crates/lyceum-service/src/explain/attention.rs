//! Weights of attention as an answer of their own: never called an explanation.

use super::options::{BaselineChoice, Granularity, Options};
use crate::ServiceError;
use std::ops::Range;

/// What attention weighed; `spans` are the characters of each token.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionShown {
    /// `weights` of every layer and head, or the `rollout` over all layers.
    pub kind: &'static str,
    pub text: String,
    pub spans: Vec<Range<usize>>,
    /// Layer, head, `[n_queries, n_keys]` of tokens; one pseudo-layer and head for a rollout.
    pub maps: Vec<Map>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    pub layer: usize,
    pub head: usize,
    pub n_queries: usize,
    pub n_keys: usize,
    /// Queries and keys are the same sequence.
    pub is_self: bool,
    pub weights: Vec<f32>,
}

pub(super) fn shown(
    maps: Vec<lyceum_nn::AttentionMap>,
    rollout: bool,
    (text, spans): (String, Vec<Range<usize>>),
) -> Result<AttentionShown, ServiceError> {
    if rollout {
        let weights = lyceum_explain::attention::rollout(&maps).map_err(super::refused)?;
        let n = maps.iter().find(|m| m.is_self).map_or(0, |m| m.n_queries);
        let map = Map { layer: 0, head: 0, n_queries: n, n_keys: n, is_self: true, weights };
        return Ok(AttentionShown { kind: "rollout", text, spans, maps: vec![map] });
    }
    let heads = maps.iter().enumerate().flat_map(|(layer, map)| {
        let size = map.n_queries * map.n_keys;
        map.weights.chunks_exact(size.max(1)).enumerate().map(move |(head, weights)| Map {
            layer,
            head,
            n_queries: map.n_queries,
            n_keys: map.n_keys,
            is_self: map.is_self,
            weights: weights.to_vec(),
        })
    });
    Ok(AttentionShown { kind: "weights", text, spans, maps: heads.collect() })
}

/// Weights are read off one pass over the input: what chooses parts, references and checks of an explanation has no
/// meaning here.
pub(super) fn refuse_settings(options: &Options) -> Result<(), ServiceError> {
    let given = [
        ("granularity", !matches!(options.granularity, None | Some(Granularity::Token))),
        ("quantity", options.quantity.is_some()),
        ("baseline", options.baseline != BaselineChoice::Auto),
        ("evaluate", !options.evaluate.is_empty()),
        ("counterfactual", options.counterfactual.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((param, _)) => {
            let message = "attention weights are of tokens and are compared with nothing: leave it out";
            Err(ServiceError::invalid(param, "unsupported_parameter", message))
        }
    }
}

//! Methods that need log-probabilities alone: the answer is scored again with parts of the prompt left out.

use super::score::{self, Scored};
use super::target::Target;
use super::text::Left;
use super::{Asked, CONTEXTCITE, LEAVE_ONE_OUT};
use crate::meter::Share;
use crate::{Service, ServiceError};
use lyceum_explain::contextcite::{self, Fit};
use lyceum_explain::{Attribution, Checks, Explanation, Of, Quantity, Usage};
use lyceum_types::ids::Project;
use std::collections::HashMap;

/// How many of the most important parts are left out at once, to see what falls.
const DROPS: [usize; 3] = [1, 3, 5];

/// The answer with everything, without each part, and without any.
pub(super) async fn leave_one_out(
    service: &Service,
    project: &Project,
    asked: &Asked,
    share: Share,
) -> Result<Explanation, ServiceError> {
    let n = asked.prompt.n_parts();
    let lefts: Vec<Left<'_>> =
        std::iter::once(Left::Nothing).chain((0..n).map(Left::Part)).chain([Left::All]).collect();
    let (values, n_passes) = values(service, project, asked, &lefts, &share).await?;
    let (output, base) = (values[0], values[n + 1]);
    let attribution = |without: &f64| Attribution { value: output - without, stderr: None };
    Ok(Explanation {
        method: LEAVE_ONE_OUT,
        exact: true,
        base_value: Some(base),
        attributions: values[1..=n].iter().map(attribution).collect(),
        usage: Usage { forward_passes: n_passes, backward_passes: 0 },
        ..asked.blank(output)
    })
}

/// A sparse linear model of the answer's log-odds over random subsets of the parts ([`contextcite`]).
pub(super) async fn contextcite(
    service: &Service,
    project: &Project,
    asked: &Asked,
    (n_masks, share): (usize, Share),
) -> Result<Explanation, ServiceError> {
    let n_parts = asked.prompt.n_parts();
    let masks = contextcite::masks(n_parts, n_masks, asked.seed);
    let lefts: Vec<Left<'_>> =
        std::iter::once(Left::Nothing).chain(masks.iter().map(|mask| Left::Only(mask))).collect();
    let (mut logprobs, mut n_passes) = values(service, project, asked, &lefts, &share).await?;
    let whole = logprobs.remove(0);
    let (said, scale) = match &asked.target {
        Target::Said { range, .. } => (contextcite::log_odds as fn(f64) -> f64, range.len() as f64),
        // The difference of two log-probabilities is the log-odds of one against the other already.
        Target::Contrast { .. } | Target::Label { not: Some(_), .. } => {
            (std::convert::identity as fn(f64) -> f64, 1.0)
        }
        // A label is one answer, however many tokens it has.
        Target::Label { .. } => (contextcite::log_odds as fn(f64) -> f64, 1.0),
    };
    let values_of: Vec<f64> = logprobs.into_iter().map(said).collect();
    let n_held_out = contextcite::n_held_out(masks.len());
    let n_fit = masks.len() - n_held_out;
    let linear = contextcite::fit(&masks[..n_fit], &values_of[..n_fit], scale, contextcite::ALPHA);
    let lds = linear.score(&masks[n_fit..], &values_of[n_fit..]);
    let order = linear.order();
    let dropped: Vec<Vec<bool>> =
        drops(n_parts).map(|k| (0..n_parts).map(|part| !order[..k].contains(&part)).collect()).collect();
    let lefts: Vec<Left<'_>> = dropped.iter().map(|mask| Left::Only(mask)).collect();
    let (without, n_more) = values(service, project, asked, &lefts, &share).await?;
    n_passes += n_more;
    let drops = drops(n_parts).zip(&without).map(|(k, without)| (k, whole - without)).collect();
    let attributions = linear.weights.iter().map(|&value| Attribution { value, stderr: None }).collect();
    Ok(Explanation {
        method: CONTEXTCITE,
        exact: false,
        quantity: "log_odds",
        attributions,
        fit: Some(Fit {
            linear,
            alpha: contextcite::ALPHA,
            lds,
            masks,
            values: values_of,
            n_held_out,
            drops,
        }),
        usage: Usage { forward_passes: n_passes, backward_passes: 0 },
        ..asked.blank(said(whole))
    })
}

/// Passes that the two methods take beside one a part or one a mask, before `each` is multiplied.
pub(super) fn n_beside(n_parts: usize) -> usize {
    1 + drops(n_parts).count()
}

fn drops(n_parts: usize) -> impl Iterator<Item = usize> {
    DROPS.into_iter().filter(move |&k| k <= n_parts)
}

/// The target's value with these left out, and how many texts were scored: equal texts are scored once.
async fn values(
    service: &Service,
    project: &Project,
    asked: &Asked,
    lefts: &[Left<'_>],
    share: &Share,
) -> Result<(Vec<f64>, u64), ServiceError> {
    let (mut texts, mut places) = (Vec::<Scored>::new(), Vec::with_capacity(lefts.len()));
    let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
    for &left in lefts {
        let prompt = asked.prompt.tokens(&asked.language, left)?;
        let first = *known.entry(prompt).or_insert_with_key(|prompt| {
            texts.extend(asked.target.texts(prompt));
            texts.len() - asked.target.n_texts()
        });
        places.push(first);
    }
    let n_passes = texts.len() as u64;
    let scores = score::all(service, project, &asked.language, texts, share).await?;
    let value = |&first: &usize| asked.target.value(&scores[first..]);
    let values: Vec<f64> = places.iter().map(value).collect();
    if !values.iter().all(|value| value.is_finite()) {
        let message = "a token of the answer has no probability where a part is left out".into();
        return Err(ServiceError::Uncomputable { message });
    }
    Ok((values, n_passes))
}

impl Asked {
    /// An explanation of which nothing is known but what is asked and came out.
    pub(super) fn blank(&self, output: f64) -> Explanation {
        Explanation {
            method: "",
            exact: false,
            quantity: Quantity::LogProbability.name(),
            terms: self.target.terms(),
            output,
            outputs: Vec::new(),
            base_value: None,
            of: Of::Features,
            attributions: Vec::new(),
            elements: None,
            checks: Checks::default(),
            fit: None,
            baseline: "drop",
            seed: self.seed,
            usage: Usage::default(),
        }
    }
}

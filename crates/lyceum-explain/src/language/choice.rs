//! One label of a question over others: each label is a text of its own behind the same prompt, and what is explained is
//! a number of all their log-probabilities.
//!
//! With `L_k` the log-probability of label `k`, and `p_k = e^{L_k} / Σ_j e^{L_j}` its share among the labels, the number is
//! `ln p_c`, `p_c`, or a difference `L_c − L_n` (which is `ln p_c − ln p_n`: the others leave it). Its gradient is
//! `Σ_k w_k ∇L_k`, so the ways back of the labels are added with these weights, at every node of a path with those of the
//! node.

use super::path::{self, Base, Path};
use super::walk::{Forward, Walker};
use super::{Found, LanguageMethod, LanguageQuestion, TOKENS_A_TURN, Turns, explanation};
use crate::{ExplainError, Explanation, Of, Quantity, Steps};
use lyceum_models::causal_lm::Walk;
use lyceum_types::control::Control;

/// One of several labels, or one over another.
#[derive(Clone)]
pub struct Choice {
    /// A label each, whose log-probability is the question's target: prompt, parts, method and bounds are the same in all.
    pub labels: Vec<LanguageQuestion>,
    /// Places in `labels`.
    pub chosen: usize,
    pub not: Option<usize>,
    /// The probability instead of its logarithm.
    pub probability: bool,
}

impl Choice {
    /// The number of these log-probabilities, and its derivative by each.
    fn value(&self, logs: &[f64]) -> (f64, Vec<f64>) {
        let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logs.iter().map(|log| (log - highest).exp()).sum();
        let shares: Vec<f64> = logs.iter().map(|log| (log - highest).exp() / sum).collect();
        let (chosen, not) = (self.chosen, self.not);
        let unit = |k: usize, of: usize| if k == of { 1.0 } else { 0.0 };
        let value = match (self.probability, not) {
            (false, None) => logs[chosen] - highest - sum.ln(),
            (false, Some(not)) => logs[chosen] - logs[not],
            (true, not) => shares[chosen] - not.map_or(0.0, |not| shares[not]),
        };
        let weight = |k: usize| match (self.probability, not) {
            (false, None) => unit(k, chosen) - shares[k],
            (false, Some(not)) => unit(k, chosen) - unit(k, not),
            (true, not) => {
                let of = |label: usize| shares[label] * (unit(k, label) - shares[k]);
                of(chosen) - not.map_or(0.0, of)
            }
        };
        (value, (0..logs.len()).map(weight).collect())
    }
}

/// Attributes a choice to parts of the prompt.
///
/// # Errors
/// As [`attribute`](super::attribute); a method that does not follow gradients; labels without a question.
pub fn attribute_choice(
    choice: &Choice,
    turns: &mut dyn Turns,
    control: &Control,
) -> Result<Explanation, ExplainError> {
    let places = [Some(choice.chosen), choice.not].into_iter().flatten();
    let Some(first) = choice.labels.first().filter(|_| places.max() < Some(choice.labels.len())) else {
        return Err(ExplainError::request("target", "no such label"));
    };
    let mut walker = Walker::new(first, turns, control);
    let found = match first.method {
        LanguageMethod::GradientInput => gradient_input(&mut walker, choice)?,
        LanguageMethod::IntegratedGradients { n_steps } => {
            integrated_gradients(&mut walker, choice, n_steps)?
        }
        method => {
            let message = format!("{} explains the logit of one label", method.name());
            return Err(ExplainError::request("quantity", message));
        }
    };
    let quantity = if choice.probability { Quantity::Probability } else { Quantity::LogProbability };
    explanation(&walker, quantity, found)
}

fn gradient_input<'a>(walker: &mut Walker<'a>, choice: &'a Choice) -> Result<Found, ExplainError> {
    walker.require(choice.labels.len() as u64)?;
    let entries = embedded(walker, choice)?;
    let forwards = forward(walker, choice, entries.clone(), 1)?;
    let logs: Vec<f64> = forwards.iter().map(|forward| forward.scores[0]).collect();
    let (output, weights) = choice.value(&logs);
    let mut values = vec![0.0; choice.labels[0].n_parts];
    for (((forward, entry), weight), label) in forwards.iter().zip(&entries).zip(weights).zip(&choice.labels)
    {
        walker.question = label;
        let (sent, _) = walker.back(forward, Walk::Gradient)?;
        let own = walker.of_parts(entry.iter().zip(&sent).map(|(x, g)| f64::from(*x) * f64::from(*g)));
        values.iter_mut().zip(own).for_each(|(sum, own)| *sum += weight * own);
    }
    Ok(Found { output, values, base_value: None, of: Of::Features })
}

/// [`path`](super::path) of all labels together.
struct ChoicePath<'a> {
    choice: &'a Choice,
    /// The embeddings of each label's text.
    entries: Vec<Vec<f32>>,
    base: Base,
}

impl<'a> ChoicePath<'a> {
    /// A label's entry here on the path.
    fn at(&self, alpha: f64, label: usize, walker: &Walker<'a>) -> Vec<f32> {
        let parts = walker.elements_of(&self.choice.labels[label]);
        let number = |((i, &x), part): ((usize, &f32), Option<u32>)| match part {
            Some(_) => self.base.at(alpha, (i, x)),
            None => x,
        };
        self.entries[label].iter().enumerate().zip(parts).map(number).collect()
    }
}

impl<'a> Path<'a> for ChoicePath<'a> {
    fn passes(&self) -> usize {
        self.choice.labels.len()
    }

    fn value(&mut self, walker: &mut Walker<'a>, alpha: f64) -> Result<f64, ExplainError> {
        let entries = (0..self.passes()).map(|label| self.at(alpha, label, walker)).collect();
        let forwards = forward(walker, self.choice, entries, 1)?;
        Ok(self.choice.value(&forwards.iter().map(|forward| forward.scores[0]).collect::<Vec<f64>>()).0)
    }

    fn weighed(&mut self, walker: &mut Walker<'a>, nodes: &[(f64, f64)]) -> Result<Vec<f64>, ExplainError> {
        let (choice, n_labels) = (self.choice, self.passes());
        let longest = choice.labels.iter().map(|label| label.ids.len()).max().unwrap_or(1);
        let together = (TOKENS_A_TURN / (longest * n_labels).max(1)).clamp(1, 16);
        let mut sums: Vec<Vec<f64>> = self.entries.iter().map(|entry| vec![0.0; entry.len()]).collect();
        for nodes in nodes.chunks(together) {
            let all =
                |label: usize| nodes.iter().flat_map(|(alpha, _)| self.at(*alpha, label, walker)).collect();
            let entered: Vec<Vec<f32>> = (0..n_labels).map(all).collect();
            let forwards = forward(walker, choice, entered, nodes.len())?;
            let weights = |node: usize| {
                choice.value(&forwards.iter().map(|forward| forward.scores[node]).collect::<Vec<f64>>()).1
            };
            let weights: Vec<Vec<f64>> = (0..nodes.len()).map(weights).collect();
            for (label, forward) in forwards.iter().enumerate() {
                walker.question = &choice.labels[label];
                let (sent, _) = walker.back(forward, Walk::Gradient)?;
                for (node, gradient) in sent.chunks_exact(self.entries[label].len()).enumerate() {
                    let weight = nodes[node].1 * weights[node][label];
                    sums[label].iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += weight * f64::from(g));
                }
            }
        }
        let mut values = vec![0.0; choice.labels[0].n_parts];
        for ((sums, entry), label) in sums.iter().zip(&self.entries).zip(&choice.labels) {
            walker.question = label;
            let ways = entry.iter().enumerate().map(|(i, &x)| self.base.way((i, x)));
            let own = walker.of_parts(sums.iter().zip(ways).map(|(sum, way)| sum * way));
            values.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        Ok(values)
    }
}

fn integrated_gradients<'a>(
    walker: &mut Walker<'a>,
    choice: &'a Choice,
    steps: Steps,
) -> Result<Found, ExplainError> {
    path::require(walker, choice.labels.len(), steps)?;
    let entries = embedded(walker, choice)?;
    let base = Base::of(walker)?;
    path::integrate(&mut ChoicePath { choice, entries, base }, walker, steps)
}

/// The embeddings of each label's text.
fn embedded<'a>(walker: &mut Walker<'a>, choice: &'a Choice) -> Result<Vec<Vec<f32>>, ExplainError> {
    let of = |label| {
        walker.question = label;
        walker.embedded()
    };
    choice.labels.iter().map(of).collect()
}

/// Every label's text forward, from `n` entries each.
fn forward<'a>(
    walker: &mut Walker<'a>,
    choice: &'a Choice,
    entries: Vec<Vec<f32>>,
    n: usize,
) -> Result<Vec<Forward>, ExplainError> {
    let of = |(label, entries)| {
        walker.question = label;
        walker.forward(entries, n)
    };
    choice.labels.iter().zip(entries).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The derivatives are those of small differences.
    #[test]
    fn weights_are_the_derivatives_of_the_value() {
        let logs = [-3.0, -0.5, -1.25, -7.0];
        for (not, probability) in [(None, false), (Some(3), false), (None, true), (Some(0), true)] {
            let choice = Choice { labels: Vec::new(), chosen: 2, not, probability };
            let (_, weights) = choice.value(&logs);
            for (k, weight) in weights.into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut logs = logs;
                    logs[k] += by;
                    choice.value(&logs).0
                };
                let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((slope - weight).abs() < 1e-8, "{not:?} {probability} {k}: {slope} {weight}");
            }
        }
    }
}

//! Language models that were imported: attributions to their tokens by gradients, by relevance, and to their layers by the
//! logits that each adds (direct logit attribution).
//!
//! A pass is cut into sections of one layer ([`lyceum_models::causal_lm::Sections`]), each a turn on the device: others are
//! served between two of them, and what is held is one layer and the numbers between layers. Works on every stored form of
//! the weights and with an adapter.
//!
//! Reading order: [`attribute`], [`walk`] (forward, and back), [`path`] (integrated gradients), [`logits`], [`choice`] (one
//! label over others), [`lines`] (which lines of a fine-tuning pulled an answer).

mod choice;
mod lines;
mod logits;
mod path;
mod walk;

pub use choice::{Choice, attribute_choice};
pub use lines::{HEAD_ROWS_A_TURN, LineGradient, line_gradient, line_products};

use crate::session::finite;
use crate::{Attribution, Checks, ExplainError, Explanation, Of, Quantity, Steps, Target, Usage};
use lyceum_models::causal_lm::{Sections, Walk};
use lyceum_nn::{NnError, StoredProducts, Workspace};
use lyceum_types::control::Control;
use walk::Walker;

/// Tokens of one turn where several examples are asked side by side.
const TOKENS_A_TURN: usize = 512;
/// How far attributions may be from adding up, relative to what they explain.
const COMPLETENESS: f64 = 1e-4;

/// A device on which work takes turns.
pub trait Turns {
    /// Runs `work` in its turn and waits for it; `n_passes` are the passes that end with it.
    ///
    /// # Errors
    /// What `work` says; the device does not answer.
    fn turn(&mut self, n_passes: u64, work: Work) -> Result<Vec<Vec<f32>>, ExplainError>;
}

/// One turn's work: numbers in what it holds, numbers out.
pub type Work = Box<dyn FnOnce(&mut Workspace) -> Result<Vec<Vec<f32>>, NnError> + Send>;

impl Turns for crate::ThisThread {
    fn turn(&mut self, _n_passes: u64, work: Work) -> Result<Vec<Vec<f32>>, ExplainError> {
        Ok(work(self.workspace())?)
    }
}

/// How a language model's answer is attributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LanguageMethod {
    /// `∂f/∂x ⊙ x`, summed over a token's embedding.
    GradientInput,
    /// Its integral from no embedding (where nothing stands before the parts: the vocabulary's mean) to the token's, over the
    /// tokens that belong to a part (Gauss–Legendre).
    IntegratedGradients { n_steps: Steps },
    /// AttnLRP (Achtibat et al. 2024, arXiv:2402.05602).
    Relevance { epsilon: f32 },
    /// What each half of each layer adds to the logit, through the last norm with its scale held fixed.
    DirectLogit,
}

impl LanguageMethod {
    pub fn name(self) -> &'static str {
        match self {
            LanguageMethod::GradientInput => "gradient_x_input",
            LanguageMethod::IntegratedGradients { .. } => "integrated_gradients",
            LanguageMethod::Relevance { .. } => "relevance",
            LanguageMethod::DirectLogit => "direct_logit_attribution",
        }
    }

    /// What it explains where the caller does not say: what follows sums explains the logit.
    pub fn quantity(self) -> Quantity {
        match self {
            LanguageMethod::GradientInput | LanguageMethod::IntegratedGradients { .. } => {
                Quantity::LogProbability
            }
            LanguageMethod::Relevance { .. } | LanguageMethod::DirectLogit => Quantity::Logit,
        }
    }

    /// Whether it begins where parts of the prompt have no embedding.
    pub fn has_baseline(self) -> bool {
        matches!(self, LanguageMethod::GradientInput | LanguageMethod::IntegratedGradients { .. })
    }

    /// A path adds up where what it explains has a gradient: products that round what they read go up in steps, which no
    /// gradient sees (SmolLM2-135M in Q4_1 goes up and down by 0.13 nats within 1e-6 of its path, in bf16 by 0.02). What is
    /// followed is then the model with the same stored weights and products in f32, and how far it is from what is served stands in
    /// the base.
    fn stored_products(self) -> StoredProducts {
        match self {
            LanguageMethod::IntegratedGradients { .. } => StoredProducts::Unrounded,
            _ => StoredProducts::Served,
        }
    }

    /// Whether it can explain this quantity.
    pub fn explains(self, quantity: Quantity) -> bool {
        match self {
            LanguageMethod::GradientInput | LanguageMethod::IntegratedGradients { .. } => {
                !matches!(quantity, Quantity::Value { .. })
            }
            LanguageMethod::Relevance { .. } | LanguageMethod::DirectLogit => quantity == Quantity::Logit,
        }
    }
}

/// A whole question.
#[derive(Clone)]
pub struct LanguageQuestion {
    /// Of one example, as long as `ids`.
    pub sections: Sections,
    /// Prompt and answer.
    pub ids: Vec<u32>,
    /// Rows count in `ids`: the row that says token `t` is `t − 1`.
    pub target: Target,
    /// The part of each token; what is of none (a template's words, the answer itself) stays as it is.
    pub of_token: Vec<Option<u32>>,
    pub n_parts: usize,
    pub method: LanguageMethod,
    pub max_passes: u64,
    pub seed: u64,
}

impl LanguageQuestion {
    /// Whether nothing stands before the parts.
    fn begins_with_a_part(&self) -> bool {
        self.of_token.first().is_some_and(Option::is_some)
    }
}

/// Attributes the target to parts of the prompt, or to layers.
///
/// # Errors
/// More passes than `max_passes`; a cancellation; numbers that are not finite; a device that does not answer.
pub fn attribute(
    question: &LanguageQuestion,
    turns: &mut dyn Turns,
    control: &Control,
) -> Result<Explanation, ExplainError> {
    let mut walker = Walker::new(question, turns, control);
    let found = match question.method {
        LanguageMethod::GradientInput => gradient_input(&mut walker)?,
        LanguageMethod::IntegratedGradients { n_steps } => integrated_gradients(&mut walker, n_steps)?,
        LanguageMethod::Relevance { epsilon } => relevance(&mut walker, epsilon)?,
        LanguageMethod::DirectLogit => logits::attribute(&mut walker)?,
    };
    explanation(&walker, question.target.quantity(), found)
}

/// What was found, in the words of an explanation.
fn explanation(walker: &Walker<'_>, quantity: Quantity, found: Found) -> Result<Explanation, ExplainError> {
    let question = walker.question;
    finite("the model's output", found.output)?;
    for &value in &found.values {
        finite("an attribution", value)?;
    }
    let sum: f64 = found.values.iter().sum();
    let gap = found.base_value.map(|base| (found.output - base - sum).abs());
    let complete = found.base_value.map(|base| is_complete(found.output, base, sum));
    Ok(Explanation {
        method: question.method.name(),
        exact: question.method == LanguageMethod::DirectLogit,
        quantity: quantity.name(),
        terms: question.target.terms().to_vec(),
        output: found.output,
        outputs: Vec::new(),
        base_value: found.base_value,
        of: found.of,
        attributions: found.values.iter().map(|&value| Attribution { value, stderr: None }).collect(),
        elements: None,
        checks: Checks { completeness_gap: gap, complete, ..Checks::default() },
        fit: None,
        baseline: match question.method {
            LanguageMethod::IntegratedGradients { .. } if question.begins_with_a_part() => "mean_embedding",
            method if method.has_baseline() => "zeros",
            _ => "none",
        },
        seed: question.seed,
        usage: walker.usage,
    })
}

/// What a method found.
struct Found {
    output: f64,
    values: Vec<f64>,
    base_value: Option<f64>,
    of: Of,
}

fn is_complete(output: f64, base: f64, sum: f64) -> bool {
    (output - base - sum).abs() <= COMPLETENESS * (output - base).abs().max(1.0)
}

fn gradient_input(walker: &mut Walker<'_>) -> Result<Found, ExplainError> {
    let entry = walker.embedded()?;
    let forward = walker.forward(entry.clone(), 1)?;
    let (sent, _) = walker.back(&forward, Walk::Gradient)?;
    let values = walker.of_parts(entry.iter().zip(&sent).map(|(x, g)| f64::from(*x) * f64::from(*g)));
    Ok(Found { output: forward.scores[0], values, base_value: None, of: Of::Features })
}

/// [`path`] of an answer: embeddings of what moves grow from the base.
struct AnswerPath {
    entry: Vec<f32>,
    moves: Vec<bool>,
    base: path::Base,
}

impl AnswerPath {
    fn at(&self, alpha: f64) -> impl Iterator<Item = f32> {
        let number = move |((i, &x), &moves): ((usize, &f32), &bool)| {
            if moves { self.base.at(alpha, (i, x)) } else { x }
        };
        self.entry.iter().enumerate().zip(&self.moves).map(number)
    }
}

impl<'a> path::Path<'a> for AnswerPath {
    fn passes(&self) -> usize {
        1
    }

    fn value(&mut self, walker: &mut Walker<'a>, alpha: f64) -> Result<f64, ExplainError> {
        Ok(walker.forward(self.at(alpha).collect(), 1)?.scores[0])
    }

    fn weighed(&mut self, walker: &mut Walker<'a>, nodes: &[(f64, f64)]) -> Result<Vec<f64>, ExplainError> {
        let mut sums = vec![0.0f64; self.entry.len()];
        let together = (TOKENS_A_TURN / walker.time().max(1)).clamp(1, 16);
        for nodes in nodes.chunks(together) {
            let entries: Vec<f32> = nodes.iter().flat_map(|(alpha, _)| self.at(*alpha)).collect();
            let forward = walker.forward(entries, nodes.len())?;
            let (sent, _) = walker.back(&forward, Walk::Gradient)?;
            for (gradient, (_, weight)) in sent.chunks_exact(self.entry.len()).zip(nodes) {
                sums.iter_mut().zip(gradient).for_each(|(sum, &g)| *sum += weight * f64::from(g));
            }
        }
        let ways = self.entry.iter().enumerate().map(|(i, &x)| self.base.way((i, x)));
        Ok(walker.of_parts(sums.iter().zip(ways).map(|(sum, way)| sum * way)))
    }
}

fn integrated_gradients(walker: &mut Walker<'_>, steps: Steps) -> Result<Found, ExplainError> {
    path::require(walker, 1, steps)?;
    let entry = walker.embedded()?;
    let moves = walker.of_elements().map(|part| part.is_some()).collect();
    let base = path::Base::of(walker)?;
    path::integrate(&mut AnswerPath { entry, moves, base }, walker, steps)
}

fn relevance(walker: &mut Walker<'_>, epsilon: f32) -> Result<Found, ExplainError> {
    if !epsilon.is_finite() || epsilon <= 0.0 {
        return Err(ExplainError::request("epsilon", "must be a positive number"));
    }
    let entry = walker.embedded()?;
    let forward = walker.forward(entry.clone(), 1)?;
    let (sent, absorbed) = walker.back(&forward, Walk::Relevance { epsilon })?;
    let all = || entry.iter().zip(&sent).map(|(x, c)| f64::from(*x) * f64::from(*c));
    // What belongs to no part is in the base, beside what constants took.
    let fixed: f64 = all().zip(walker.of_elements()).filter(|(_, part)| part.is_none()).map(|(r, _)| r).sum();
    let values = walker.of_parts(all());
    Ok(Found { output: forward.scores[0], values, base_value: Some(absorbed + fixed), of: Of::Features })
}

/// Passes, in the words of an answer.
fn counted(usage: &mut Usage, forward: u64, back: u64) {
    usage.forward_passes += forward;
    usage.backward_passes += back;
}

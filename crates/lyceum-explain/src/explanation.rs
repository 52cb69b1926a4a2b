//! The answer: one object for every kind of model, input and method.

use crate::Term;
use crate::contextcite::Fit;

/// Attributions with what they add up to and what was measured about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub method: &'static str,
    /// The method computes its definition exactly (up to rounding), with no sampling and no approximation.
    pub exact: bool,
    /// Name of the quantity that is explained.
    pub quantity: &'static str,
    /// What of the outputs it is of; a class that the model chose is named here.
    pub terms: Vec<Term>,
    /// Its value for the example.
    pub output: f64,
    /// All outputs of the example, `[rows, width]`: the answer that is explained.
    pub outputs: Vec<f32>,
    /// What remains where every feature is absent; with it, attributions of a complete method add up to
    /// `output`. None where the method has no such notion.
    pub base_value: Option<f64>,
    pub of: Of,
    /// One a feature, or one a unit of the layer, in order.
    pub attributions: Vec<Attribution>,
    /// Of each number of the input, where the method gives it.
    pub elements: Option<Vec<f32>>,
    pub checks: Checks,
    /// Of methods that fit a model of the model.
    pub fit: Option<Fit>,
    pub baseline: &'static str,
    pub seed: u64,
    pub usage: Usage,
}

/// What the attributions are of.
#[derive(Clone, Debug, PartialEq)]
pub enum Of {
    /// The features of the input.
    Features,
    /// The units of a hidden layer with these sizes.
    Layer { name: String, dims: Vec<usize> },
    /// Parts of the model that add to its output, by name.
    Components(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attribution {
    pub value: f64,
    /// Standard error, for methods that sample.
    pub stderr: Option<f64>,
}

/// What was measured; None: not evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checks {
    /// `|output − base_value − Σ attributions|`, for methods that promise 0.
    pub completeness_gap: Option<f64>,
    /// Whether that gap is small (1e-3 of the difference that is explained, 1e-4 for imported language models; three standard
    /// errors for sampled methods).
    pub complete: Option<bool>,
    /// The quantity of the measures below.
    pub quantity: Option<&'static str>,
    /// Fall of the output when the most important features are taken away; larger is better.
    pub comprehensiveness: Option<f64>,
    /// Fall of the output when only the most important features are left; smaller is better.
    pub sufficiency: Option<f64>,
    /// Area under the output while features are deleted, most important first; smaller is better.
    pub deletion_auc: Option<f64>,
    /// Area under the output while features are inserted, most important first; larger is better.
    pub insertion_auc: Option<f64>,
    /// Mean squared difference between what attributions say of random removals and what happens.
    pub infidelity: Option<f64>,
    /// Largest relative change of the attributions under small changes of the input.
    pub sensitivity: Option<f64>,
    /// Each of the first four for random orders: mean and standard error of the mean.
    pub random_control: RandomControl,
    /// Every measured one of the four is better than the control by more than two standard errors.
    pub faithful: Option<bool>,
}

/// The same measures for orders that know nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RandomControl {
    pub comprehensiveness: Option<[f64; 2]>,
    pub sufficiency: Option<[f64; 2]>,
    pub deletion_auc: Option<[f64; 2]>,
    pub insertion_auc: Option<[f64; 2]>,
}

/// Examples that went through the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub forward_passes: u64,
    pub backward_passes: u64,
}

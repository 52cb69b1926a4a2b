//! What is asked: one example on its model, and how to explain it.

use crate::{Check, ExplainError, Groups, Method, Target};
use lyceum_models::batch::Input;
use lyceum_models::{Model, OutputShape};
use std::sync::Arc;

/// One example, its target and its features.
#[derive(Clone)]
pub struct Subject {
    pub(crate) model: Arc<Model>,
    pub(crate) input: Input,
    pub(crate) target: Target,
    pub(crate) groups: Groups,
}

impl Subject {
    /// # Errors
    /// When the input is not one example, or the features are not those of its units (tokens; of a pair, the
    /// source's; else numbers).
    pub fn new(
        model: Arc<Model>,
        input: Input,
        target: Target,
        groups: Groups,
    ) -> Result<Self, ExplainError> {
        let (n, n_units) = match &input {
            Input::Dense { shape, data } => {
                let width = shape.iter().product::<usize>().max(1);
                (data.len() / width, width)
            }
            Input::Tokens(tokens) => (tokens.n, tokens.time),
            Input::Pair { source, .. } => (source.n, source.time),
        };
        if n != 1 {
            return Err(ExplainError::request("input", format!("{n} examples; one is explained at a time")));
        }
        if groups.n_units() != n_units {
            let message = format!("{} units have a feature, the input has {n_units}", groups.n_units());
            return Err(ExplainError::request("granularity", message));
        }
        let n_rows = match (&model.shape.output, &input) {
            (OutputShape::Classes { .. } | OutputShape::Values { .. }, _) => 1,
            (_, Input::Tokens(tokens)) => tokens.time,
            (_, Input::Pair { target, .. }) => target.time,
            // A series that is answered at each step; a picture's rows are its steps.
            (_, Input::Dense { shape, .. }) => n_steps(shape),
        };
        if target.last_row() >= n_rows {
            let message = format!("step {}, but there are {n_rows}", target.last_row());
            return Err(ExplainError::request("target", message));
        }
        Ok(Subject { model, input, target, groups })
    }

    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// The steps that a recurrent model reads `[steps, channels]` or `[1, rows, columns]` in.
pub fn n_steps(shape: &[usize]) -> usize {
    match *shape {
        [_, rows, _] => rows,
        [steps, _] => steps,
        _ => 1,
    }
}

/// What stands for a feature that is absent, and where paths begin.
#[derive(Clone, Debug, PartialEq)]
pub enum Baseline {
    /// Zeros: no light, the mean of a standardised column, no embedding.
    Zeros,
    /// One value for each number of the input.
    Values(Vec<f32>),
    /// Rows of data; an absent feature is averaged over them (the interventional value).
    Background(Vec<Vec<f32>>),
    /// Texts: absent tokens are left out. A text of which nothing is left is one token without embedding.
    Drop,
}

impl Baseline {
    pub fn name(&self) -> &'static str {
        match self {
            Baseline::Zeros => "zeros",
            Baseline::Values(_) => "values",
            Baseline::Background(_) => "background",
            Baseline::Drop => "drop",
        }
    }
}

/// A whole question.
#[derive(Clone)]
pub struct Request {
    pub subject: Subject,
    pub method: Method,
    pub baseline: Baseline,
    /// Measures of faithfulness to take beside the completeness gap.
    pub evaluate: Vec<Check>,
    /// The most examples that may go forward through the model, checks included.
    pub max_passes: u64,
    pub seed: u64,
}

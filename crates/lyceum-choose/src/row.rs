//! One measured row of a candidate or a baseline. What was not measured is None, and [`crate::Selection`] says why.

use crate::limits::Excess;
use crate::race::Out;
use crate::serve::Serving;
use crate::served::{Asked, Facts};
use lyceum_types::manifest::Metric;
use lyceum_types::spec::Spec;
use lyceum_types::spec::choose::Explainability;

#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    /// `mlp`, …; of a baseline, `baseline`.
    pub family: String,
    /// None for a baseline, and for a model that exists.
    pub job: Option<Spec>,
    /// The model that exists, and what it is asked with the first seed's examples.
    pub served: Option<(Facts, Asked)>,
    pub standing: Standing,
    /// Over the held-out rows and all seeds.
    pub quality: Option<Metric>,
    pub parameters: Option<u64>,
    /// Of one answer.
    pub operations: Option<u64>,
    /// Weights as they are served, and what one batch of all clients needs beside them.
    pub ram_bytes: Option<u64>,
    /// Of the weight file.
    pub disk_bytes: Option<u64>,
    pub serving: Option<Serving>,
    pub usd_per_1k: Option<f64>,
    /// Of the first seed, in full.
    pub training_seconds: Option<f64>,
    /// Of the first seed.
    pub ece: Option<Metric>,
    pub explained: Option<Explained>,
    pub robustness: Option<Robustness>,
    /// None: trained without privacy, whose ε is infinite.
    pub epsilon: Option<f64>,
    /// On the front of quality and processor time.
    pub pareto: bool,
}

/// How far answers can be explained.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// The method without sampling or approximation, where there is one.
    pub exact: Option<&'static str>,
    /// A method whose attributions were measured.
    pub measured: Option<Faithfulness>,
}

/// How much more comprehensive attributions were than random ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Faithfulness {
    pub method: &'static str,
    /// Mean of comprehensiveness less the random control's.
    pub over_random: Metric,
}

impl Explained {
    /// The strongest level that holds.
    pub fn level(&self) -> Option<Explainability> {
        let faithful = self.measured.as_ref().is_some_and(|m| m.over_random.ci95[0] > 0.0);
        match (self.exact, faithful) {
            (Some(_), _) => Some(Explainability::Exact),
            (None, true) => Some(Explainability::Faithful),
            (None, false) => None,
        }
    }
}

/// What is left under attack.
#[derive(Clone, Debug, PartialEq)]
pub struct Robustness {
    /// The attack with its budget.
    pub method: String,
    /// None: the method has no one size.
    pub eps: Option<f64>,
    pub accuracy: Metric,
}

/// How a row ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Trained in full and compared.
    Finalist,
    /// A simple method, compared and not served.
    Baseline,
    /// Breaks a limit.
    Excluded(Vec<Excess>),
    Out(Out),
}

impl Row {
    pub fn new(name: String, family: String, job: Option<Spec>) -> Self {
        Row {
            name,
            family,
            job,
            served: None,
            standing: Standing::Finalist,
            quality: None,
            parameters: None,
            operations: None,
            ram_bytes: None,
            disk_bytes: None,
            serving: None,
            usd_per_1k: None,
            training_seconds: None,
            ece: None,
            explained: None,
            robustness: None,
            epsilon: None,
            pareto: false,
        }
    }
}

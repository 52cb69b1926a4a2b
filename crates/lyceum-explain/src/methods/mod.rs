//! The methods, one a file: what each needs, and its door.

mod ablation;
mod conductance;
mod grad_cam;
mod gradient;
mod integrated_gradients;
mod kernel_shap;
mod linear_shap;
mod relevance;
mod shapley;
mod shapley_sampling;
mod smooth_grad;

pub(crate) use shapley_sampling::permutation;

use crate::session::Session;
use crate::{Baseline, ExplainError, Of, Quantity, Subject, Wanted};
use lyceum_models::{InputShape, Model};

/// The most features of an exact Shapley value: 2^12 coalitions.
pub const SHAPLEY_FEATURES_MAX: usize = 12;

/// How to attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// `|∂f/∂x|` (Simonyan et al. 2013, arXiv:1312.6034).
    Saliency,
    /// `∂f/∂x ⊙ (x − baseline)`.
    GradientInput,
    /// The mean of gradient × input over inputs with noise of `deviation` times the input's range (Smilkov et
    /// al. 2017, arXiv:1706.03825).
    SmoothGrad { n_samples: usize, deviation: f64 },
    /// The gradient's integral from the baseline to the input (Sundararajan et al. 2017, arXiv:1703.01365).
    IntegratedGradients { n_steps: Steps },
    /// Planes of a convolution, weighed by their mean gradient (Selvaraju et al. 2016, arXiv:1610.02391). None:
    /// the last layer whose planes have more than one pixel.
    GradCam { layer: Option<String> },
    /// Integrated gradients through the units of a hidden layer (Dhamdhere et al. 2018, arXiv:1805.12233).
    Conductance { layer: String, n_steps: usize },
    /// Layer-wise relevance by the ε-rule; AttnLRP's rules for attention, Arras' for recurrent cells
    /// ([`lyceum_nn::Tape::relevance`]).
    Relevance { epsilon: f32 },
    /// The fall of the output when one feature is absent.
    Ablation,
    /// The fall of the output when a window is absent, averaged over the windows that cover a unit (Zeiler &
    /// Fergus 2013, arXiv:1311.2901). Rows and columns of an image; steps of texts and series (first number 1).
    Occlusion { window: [usize; 2], stride: [usize; 2] },
    /// Shapley values from every coalition.
    Shapley,
    /// Shapley values from random orders (Castro et al. 2009, doi:10.1016/j.cor.2008.04.004).
    ShapleySampling { n_permutations: usize },
    /// Shapley values by weighted least squares over coalitions (Lundberg & Lee 2017, arXiv:1705.07874).
    KernelShap { n_samples: usize },
    /// `w·(x − E[x])`.
    LinearShap,
}

/// Nodes on the path from the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// 50, and twice as many while the completeness gap is large and passes are left.
    Refined,
    Fixed(usize),
}

/// A method as a list of methods shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MethodInfo {
    pub name: &'static str,
    pub exact: bool,
    /// Passes for `n` features, in words.
    pub passes: &'static str,
    /// None where the method can explain the model; else why not.
    pub refusal: Option<String>,
}

/// What a method found.
pub(crate) struct Attributed {
    pub(crate) values: Vec<f64>,
    pub(crate) stderr: Option<Vec<f64>>,
    pub(crate) elements: Option<Vec<f32>>,
    pub(crate) of: Of,
    /// Set where the method promises that it and the values add up to the output.
    pub(crate) base_value: Option<f64>,
    pub(crate) exact: bool,
}

impl Attributed {
    /// Attributions of every number of the entry, summed over features.
    fn of_elements(session: &Session<'_>, elements: Vec<f32>) -> Self {
        let values = session.subject.groups.sums(&elements);
        Attributed {
            values,
            stderr: None,
            elements: Some(elements),
            of: Of::Features,
            base_value: None,
            exact: false,
        }
    }

    fn of_features(values: Vec<f64>) -> Self {
        Attributed { values, stderr: None, elements: None, of: Of::Features, base_value: None, exact: false }
    }
}

impl Method {
    /// Every method with its usual settings.
    pub fn all() -> Vec<Method> {
        vec![
            Method::Saliency,
            Method::GradientInput,
            Method::SmoothGrad { n_samples: 32, deviation: 0.1 },
            Method::IntegratedGradients { n_steps: Steps::Refined },
            Method::GradCam { layer: None },
            Method::Conductance { layer: String::new(), n_steps: 50 },
            Method::Relevance { epsilon: 1e-6 },
            Method::Ablation,
            Method::Occlusion { window: [3, 3], stride: [1, 1] },
            Method::Shapley,
            Method::ShapleySampling { n_permutations: 32 },
            Method::KernelShap { n_samples: 512 },
            Method::LinearShap,
        ]
    }

    pub fn name(&self) -> &'static str {
        match self {
            Method::Saliency => "saliency",
            Method::GradientInput => "gradient_x_input",
            Method::SmoothGrad { .. } => "smooth_grad",
            Method::IntegratedGradients { .. } => "integrated_gradients",
            Method::GradCam { .. } => "grad_cam",
            Method::Conductance { .. } => "conductance",
            Method::Relevance { .. } => "relevance",
            Method::Ablation => "feature_ablation",
            Method::Occlusion { .. } => "occlusion",
            Method::Shapley => "shapley",
            Method::ShapleySampling { .. } => "shapley_sampling",
            Method::KernelShap { .. } => "kernel_shap",
            Method::LinearShap => "linear_shap",
        }
    }

    /// The method of a name, with its usual settings.
    pub fn named(name: &str) -> Option<Method> {
        Method::all().into_iter().find(|m| m.name() == name)
    }

    pub fn info(&self, refusal: Option<String>) -> MethodInfo {
        let (exact, passes) = match self {
            Method::Saliency | Method::GradientInput | Method::Relevance { .. } | Method::GradCam { .. } => {
                (false, "1 and 1 back")
            }
            Method::SmoothGrad { .. } => (false, "n_samples, as many back"),
            Method::IntegratedGradients { .. } => {
                (false, "n_steps, as many back; else 50, 100, 200, … until it adds up")
            }
            Method::Conductance { .. } => (false, "n_steps, as many back"),
            Method::Ablation => (true, "1 a feature"),
            Method::Occlusion { .. } => (true, "1 a window"),
            Method::Shapley => (true, "2^features (at most 12) times the rows of the background"),
            Method::ShapleySampling { .. } => (false, "n_permutations times features"),
            Method::KernelShap { .. } => (false, "n_samples times the rows of the background"),
            Method::LinearShap => (true, "1 and 1 back"),
        };
        MethodInfo { name: self.name(), exact, passes, refusal }
    }

    /// Whether the method leaves features out instead of following gradients, and so can drop tokens.
    pub fn can_drop(&self) -> bool {
        matches!(
            self,
            Method::Ablation | Method::Shapley | Method::ShapleySampling { .. } | Method::KernelShap { .. }
        )
    }

    /// Why this method cannot explain any input of this model.
    pub fn check_model(&self, model: &Model) -> Result<(), ExplainError> {
        let refuse = |what: &str, fix: &'static str| {
            Err(ExplainError::Unsupported { method: self.name(), what: what.into(), fix })
        };
        match self {
            Method::GradCam { .. } if !model.is_convolutional() => {
                refuse("a model without convolutions", "use gradient_x_input or integrated_gradients")
            }
            Method::LinearShap if !model.is_linear() => {
                refuse("a model that is not linear", "use shapley, kernel_shap or shapley_sampling")
            }
            Method::Conductance { .. } if model.is_linear() => {
                refuse("a model without hidden layers", "use linear_shap or integrated_gradients")
            }
            Method::Occlusion { .. } if matches!(model.shape.input, InputShape::Features { .. }) => {
                refuse("columns without an order: it moves a window", "use feature_ablation")
            }
            _ => Ok(()),
        }
    }

    /// Whether attributions are in units of the output, so that they can be compared with removals.
    pub(crate) fn in_units_of_output(&self) -> bool {
        !matches!(self, Method::Saliency | Method::GradCam { .. } | Method::Conductance { .. })
    }

    /// Why this method cannot explain this subject; what only a pass can tell comes later.
    pub(crate) fn check(&self, subject: &Subject) -> Result<(), ExplainError> {
        let refuse = |what: &str, fix: &'static str| {
            Err(ExplainError::Unsupported { method: self.name(), what: what.into(), fix })
        };
        self.check_model(&subject.model)?;
        let n = subject.groups.n();
        let positive = |param: &'static str, n: usize| match n {
            0 => Err(ExplainError::request(param, "must be at least 1")),
            _ => Ok(()),
        };
        match self {
            Method::LinearShap | Method::Relevance { .. }
                if !matches!(subject.target.quantity(), Quantity::Logit | Quantity::Value { .. }) =>
            {
                refuse("a probability: it follows sums", "explain the logit")
            }
            Method::Shapley if n > SHAPLEY_FEATURES_MAX => {
                let what =
                    format!("{n} features: it asks every coalition, of at most {SHAPLEY_FEATURES_MAX}");
                refuse(&what, "use kernel_shap or shapley_sampling, or a coarser granularity")
            }
            Method::KernelShap { .. } | Method::ShapleySampling { .. } if n < 2 => {
                refuse("a single feature", "use feature_ablation, or a finer granularity")
            }
            Method::Occlusion { window, stride } => {
                if window.contains(&0) || stride.contains(&0) {
                    return Err(ExplainError::request("window", "window and stride must be at least 1"));
                }
                Ok(())
            }
            Method::IntegratedGradients { n_steps: Steps::Fixed(n_steps) }
            | Method::Conductance { n_steps, .. } => positive("n_steps", *n_steps),
            Method::SmoothGrad { n_samples, deviation } => {
                if !deviation.is_finite() || *deviation < 0.0 {
                    return Err(ExplainError::request("deviation", "must be a number from 0"));
                }
                if *n_samples < 2 {
                    return Err(ExplainError::request("n_samples", "must be at least 2: it has a deviation"));
                }
                Ok(())
            }
            Method::Relevance { epsilon } if !epsilon.is_finite() || *epsilon <= 0.0 => {
                Err(ExplainError::request("epsilon", "must be a positive number"))
            }
            Method::ShapleySampling { n_permutations } if *n_permutations < 2 => {
                Err(ExplainError::request("n_permutations", "must be at least 2: it has a deviation"))
            }
            Method::KernelShap { n_samples } if *n_samples < 2 * n => {
                let message = format!("{n_samples} are too few for {n} features: at least {}", 2 * n);
                Err(ExplainError::request("n_samples", message))
            }
            _ => Ok(()),
        }
    }

    /// What the first pass, over the example as it is, can already give.
    pub(crate) fn first_wanted(&self) -> Wanted {
        match self {
            Method::Saliency | Method::GradientInput | Method::LinearShap => Wanted::Gradients,
            Method::Relevance { epsilon } => Wanted::Relevance { epsilon: *epsilon },
            _ => Wanted::Scores,
        }
    }

    pub(crate) fn run(
        &self,
        session: &mut Session<'_>,
        baseline: &Baseline,
        seed: u64,
    ) -> Result<Attributed, ExplainError> {
        match self {
            Method::Saliency => gradient::saliency(session),
            Method::GradientInput => gradient::gradient_input(session, baseline),
            Method::SmoothGrad { n_samples, deviation } => {
                smooth_grad::attribute(session, *n_samples, *deviation, seed)
            }
            Method::IntegratedGradients { n_steps } => {
                integrated_gradients::attribute(session, baseline, *n_steps)
            }
            Method::GradCam { layer } => grad_cam::attribute(session, layer.as_deref()),
            Method::Conductance { layer, n_steps } => {
                conductance::attribute(session, baseline, layer, *n_steps)
            }
            Method::Relevance { epsilon } => relevance::attribute(session, *epsilon),
            Method::Ablation => ablation::ablate(session, baseline),
            Method::Occlusion { window, stride } => ablation::occlude(session, baseline, *window, *stride),
            Method::Shapley => shapley::attribute(session, baseline),
            Method::ShapleySampling { n_permutations } => {
                shapley_sampling::attribute(session, baseline, *n_permutations, seed)
            }
            Method::KernelShap { n_samples } => kernel_shap::attribute(session, baseline, *n_samples, seed),
            Method::LinearShap => linear_shap::attribute(session, baseline),
        }
    }
}

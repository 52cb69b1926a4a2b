//! `method` of a request and the settings beside it: a setting that the method does not have is refused by its name.

use super::OptionsBody;
use crate::error::ApiError;
use crate::wire::{unsupported, within};
use lyceum_service::explain::{
    CONTEXTCITE, DIRECT_LOGIT, LEAVE_ONE_OUT, Method, MethodChoice, Steps, TRACIN,
};
use lyceum_types::limits;

/// How many steps, samples and permutations are asked for; within their bounds.
struct Counts {
    steps: Option<usize>,
    samples: Option<usize>,
    permutations: Option<usize>,
}

impl OptionsBody {
    /// The method with its settings; `at` is the path of a field.
    pub(super) fn method(&self, at: &impl Fn(&str) -> String) -> Result<MethodChoice, ApiError> {
        let name = self.method.as_deref().unwrap_or("auto");
        let mut method = named(name, at)?;
        if let Some(field) = self.foreign_setting(name, method.as_ref()) {
            return Err(unsupported(&at(field), &format!("it is no setting of {name}: leave it out")));
        }
        let bounded = |field: &str, n: Option<usize>| match n {
            None => Ok(None),
            Some(n) => within(&at(field), n, 1, limits::EXPLAIN_SAMPLES_MAX).map(Some),
        };
        let counts = Counts {
            steps: bounded("n_steps", self.n_steps)?,
            samples: bounded("n_samples", self.n_samples)?,
            permutations: bounded("n_permutations", self.n_permutations)?,
        };
        if let Some(method) = &mut method {
            self.set(method, &counts, at)?;
        }
        if name == TRACIN && !at("").is_empty() {
            let message =
                format!("{}: row influence is asked for alone, at POST /v1/explanations", at("method"));
            return Err(ApiError::field(at("method"), "unsupported_method", message));
        }
        Ok(match (name, method) {
            ("attention_weights", _) => MethodChoice::Attention { rollout: false },
            ("attention_rollout", _) => MethodChoice::Attention { rollout: true },
            (CONTEXTCITE, _) => MethodChoice::ContextCite { n_samples: counts.samples },
            (DIRECT_LOGIT, _) => MethodChoice::DirectLogit,
            (TRACIN, _) => MethodChoice::Tracin,
            (_, Some(method)) => MethodChoice::Named(method),
            (_, None) => MethodChoice::Auto,
        })
    }

    /// A setting that was sent and that the method does not have.
    fn foreign_setting(&self, name: &str, method: Option<&Method>) -> Option<&'static str> {
        let is = |f: fn(&Method) -> bool| method.is_some_and(f);
        let steps = |m: &Method| matches!(m, Method::IntegratedGradients { .. } | Method::Conductance { .. });
        let samples = |m: &Method| matches!(m, Method::SmoothGrad { .. } | Method::KernelShap { .. });
        let layers = |m: &Method| matches!(m, Method::GradCam { .. } | Method::Conductance { .. });
        let moves = is(|m| matches!(m, Method::Occlusion { .. }));
        let settings = [
            ("n_steps", self.n_steps.is_some(), is(steps)),
            ("n_samples", self.n_samples.is_some(), is(samples) || name == CONTEXTCITE),
            ("layer", self.layer.is_some(), is(layers)),
            (
                "n_permutations",
                self.n_permutations.is_some(),
                is(|m| matches!(m, Method::ShapleySampling { .. })),
            ),
            ("deviation", self.deviation.is_some(), is(|m| matches!(m, Method::SmoothGrad { .. }))),
            ("epsilon", self.epsilon.is_some(), is(|m| matches!(m, Method::Relevance { .. }))),
            ("window", self.window.is_some(), moves),
            ("stride", self.stride.is_some(), moves),
        ];
        settings.into_iter().find(|(_, is_sent, fits)| *is_sent && !fits).map(|(field, ..)| field)
    }

    fn set(
        &self,
        method: &mut Method,
        counts: &Counts,
        at: &impl Fn(&str) -> String,
    ) -> Result<(), ApiError> {
        match method {
            Method::IntegratedGradients { n_steps } => {
                *n_steps = counts.steps.map_or(Steps::Refined, Steps::Fixed);
            }
            Method::Conductance { layer, n_steps } => {
                *n_steps = counts.steps.unwrap_or(*n_steps);
                let Some(sent) = &self.layer else {
                    let message = format!("{}: name a hidden layer, such as hidden.0", at("layer"));
                    return Err(ApiError::field(at("layer"), "missing_required_parameter", message));
                };
                layer.clone_from(sent);
            }
            Method::SmoothGrad { n_samples, deviation } => {
                *n_samples = counts.samples.unwrap_or(*n_samples);
                *deviation = self.deviation.unwrap_or(*deviation);
            }
            Method::KernelShap { n_samples } => *n_samples = counts.samples.unwrap_or(*n_samples),
            Method::ShapleySampling { n_permutations } => {
                *n_permutations = counts.permutations.unwrap_or(*n_permutations);
            }
            Method::GradCam { layer } => layer.clone_from(&self.layer),
            Method::Relevance { epsilon } => *epsilon = self.epsilon.unwrap_or(*epsilon),
            Method::Occlusion { window, stride } => {
                *window = self.window.unwrap_or(*window);
                *stride = self.stride.unwrap_or(*stride);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The method of this name, with its own settings; None where it is chosen later or has no settings.
fn named(name: &str, at: &impl Fn(&str) -> String) -> Result<Option<Method>, ApiError> {
    match name {
        "auto" | CONTEXTCITE | DIRECT_LOGIT | "attention_weights" | "attention_rollout" | TRACIN => Ok(None),
        // The name by which the wire knows ablation with tokens left out.
        LEAVE_ONE_OUT => Ok(Some(Method::Ablation)),
        name => Method::named(name).map(Some).ok_or_else(|| {
            let all: Vec<&str> = Method::all().iter().map(Method::name).collect();
            let (param, all) = (at("method"), all.join(", "));
            let message = format!(
                "{param}: {name:?} is none of auto, {LEAVE_ONE_OUT}, {CONTEXTCITE}, {DIRECT_LOGIT}, attention_weights, \
                 attention_rollout, {TRACIN}, {all}"
            );
            ApiError::field(param, "unsupported_method", message)
        }),
    }
}

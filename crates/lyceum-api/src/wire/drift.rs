//! `GET /v1/models/{id}/drift` and what begins a new reference.

use lyceum_robust::drift::sketch::FeatureDrift;
use lyceum_service::drift::{Drift, LEVEL, Report, language};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelDrift)]
pub struct DriftBody {
    /// `model.drift`
    object: &'static str,
    model: String,
    /// What the window is compared with: `training`, or `window` (of a language model).
    reference: &'static str,
    /// Of a language model: when its reference window began; null before the first answer.
    reference_since: Option<i64>,
    /// Of a language model: answers that the reference window has, and is to have before anything is compared.
    reference_n: Option<u64>,
    reference_wanted: Option<u64>,
    /// When the window began; null where nothing was predicted since the model was loaded, or (of a language model) since
    /// the reference was full.
    since: Option<i64>,
    /// Rows, or answers, of the window.
    n: u64,
    /// Features are called drifted where `p_holm` is below it.
    level: f64,
    drifted: Vec<String>,
    features: Vec<FeatureBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FeatureDrift)]
pub struct FeatureBody {
    name: String,
    /// `ks` (a lower bound that the training sketch, or the bins of two windows, prove: it invents no drift) or `chi_squared`.
    test: &'static str,
    statistic: f64,
    p_value: f64,
    /// After Holm's correction over all tests of the window.
    p_holm: f64,
    /// After Benjamini and Hochberg's.
    p_bh: f64,
    psi: f64,
    /// Whether values are missing more or less often; null where none ever was.
    missing_p_value: Option<f64>,
    n: u64,
    n_reference: u64,
}

/// A new reference window.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DriftReference)]
pub struct ReferenceBody {
    /// Answers that it is to have; without it 1000.
    pub answers: Option<u64>,
}

impl From<Drift> for DriftBody {
    fn from(drift: Drift) -> Self {
        match drift {
            Drift::Rows(report) => report.into(),
            Drift::Language(report) => report.into(),
        }
    }
}

impl From<language::Report> for DriftBody {
    fn from(report: language::Report) -> Self {
        let language::Report { model, reference, wanted, since, n, features } = report;
        DriftBody {
            reference: "window",
            reference_since: reference.map(|(since, _)| since.seconds()),
            reference_n: Some(reference.map_or(0, |(_, n)| n)),
            reference_wanted: Some(wanted),
            ..Report { model, since, n, features }.into()
        }
    }
}

impl From<Report> for DriftBody {
    fn from(report: Report) -> Self {
        let drifted = report.features.iter().filter(|f| f.p_holm < LEVEL).map(|f| f.name.clone());
        DriftBody {
            object: "model.drift",
            reference: "training",
            reference_since: None,
            reference_n: None,
            reference_wanted: None,
            since: report.since.map(|since| since.seconds()),
            n: report.n,
            level: LEVEL,
            drifted: drifted.collect(),
            features: report.features.into_iter().map(FeatureBody::from).collect(),
            model: report.model,
        }
    }
}

impl From<FeatureDrift> for FeatureBody {
    fn from(f: FeatureDrift) -> Self {
        FeatureBody {
            name: f.name,
            test: f.test,
            statistic: f.tested.statistic,
            p_value: f.tested.p_value,
            p_holm: f.p_holm,
            p_bh: f.p_bh,
            psi: f.psi,
            missing_p_value: f.missing.map(|m| m.p_value),
            n: f.n,
            n_reference: f.n_reference,
        }
    }
}

//! `GET /v1/models/{id}/drift`.

use lyceum_robust::drift::sketch::FeatureDrift;
use lyceum_service::drift::{LEVEL, Report};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelDrift)]
pub struct DriftBody {
    /// `model.drift`
    object: &'static str,
    model: String,
    /// When the window began; null where nothing was predicted since the model was loaded.
    since: Option<i64>,
    /// Rows of the window.
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
    /// `ks` (a lower bound that the training sketch proves: it invents no drift) or `chi_squared`.
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

impl From<Report> for DriftBody {
    fn from(report: Report) -> Self {
        let drifted = report.features.iter().filter(|f| f.p_holm < LEVEL).map(|f| f.name.clone());
        DriftBody {
            object: "model.drift",
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

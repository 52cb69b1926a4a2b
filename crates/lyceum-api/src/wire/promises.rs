//! What single requests of `:predict` and decisions want to be promised of their answers, and what they are told:
//! certificates, prediction sets, calibration, how strange a row is.

use lyceum_robust::conformal::Score;
use lyceum_service::robustness::calibration::{Members, PredictionSet};
use lyceum_service::robustness::certificate::{Certificate, Certify};
use lyceum_service::robustness::strange::Strange;
use lyceum_service::robustness::{OodAsked, Promises, SetAsked};
use lyceum_types::manifest::CalibrationReport;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A certificate by randomised smoothing (Cohen et al. 2019).
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Certify)]
pub struct CertifyBody {
    /// The noise's standard deviation, in the unit that the answer names.
    pub sigma: f64,
    /// Samples a row; 1000 where it is not said.
    pub n: Option<u64>,
    /// How likely the certificate may be wrong; 0.001 where it is not said.
    pub alpha: Option<f64>,
    #[serde(default)]
    pub seed: u64,
}

/// A set of labels, or an interval, that holds the truth with probability `1 - alpha`.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PredictionSetRequest)]
pub struct PredictionSetBody {
    pub alpha: f64,
    /// `lac` (small sets, the default) or `aps` (sets that are larger for harder rows).
    pub score: Option<ScoreBody>,
}

#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PredictionSetScore)]
pub enum ScoreBody {
    Lac,
    Aps,
}

/// What a request wants to be promised.
pub fn promises(certify: Option<CertifyBody>, set: Option<PredictionSetBody>, ood: Option<bool>) -> Promises {
    Promises {
        ood: if ood == Some(true) { OodAsked::Yes } else { OodAsked::No },
        certify: certify.map(|body| Certify {
            sigma: body.sigma,
            n: body.n.unwrap_or(1000),
            alpha: body.alpha.unwrap_or(0.001),
            seed: body.seed,
        }),
        prediction_set: set.map(|body| SetAsked {
            alpha: body.alpha,
            score: match body.score {
                None | Some(ScoreBody::Lac) => Score::Lac,
                Some(ScoreBody::Aps) => Score::Aps,
            },
        }),
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Certificate)]
pub struct CertificateBody {
    /// The smoothed classifier's class; null where it abstained.
    pub class: Option<String>,
    /// No row within it (Euclidean, in `unit`) has another class of the smoothed classifier.
    pub radius: f64,
    pub abstained: bool,
    /// The lower bound of the class's probability under the noise.
    pub p_lower: f64,
    pub unit: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PredictionSet)]
pub struct SetBody {
    /// Likeliest first; of a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// One for each number of the answer; of a regression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intervals: Option<Vec<[f64; 2]>>,
    pub alpha: f64,
    pub n_calibration: usize,
    pub score: &'static str,
    /// What is promised, and what not.
    pub guarantee: String,
}

/// A temperature that is part of the version's weights.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Calibration)]
pub struct CalibrationBody {
    pub method: String,
    pub temperature: f64,
    /// Validation rows that it was fitted on.
    pub n: u64,
    /// The version that was calibrated.
    pub parent: String,
}

impl From<CalibrationReport> for CalibrationBody {
    fn from(report: CalibrationReport) -> Self {
        let CalibrationReport { method, temperature, n, parent, .. } = report;
        CalibrationBody { method, temperature, n, parent }
    }
}

/// How unlike the training rows an input is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OutOfDistribution)]
pub struct OodBody {
    /// Of a table: 1 less the Bonferroni-corrected share of training rows whose strangest feature is as far out.
    pub ood_score: Option<f64>,
    /// That feature, and the share of training rows at least as far out in it.
    pub feature: Option<String>,
    pub tail: Option<f64>,
    /// Of a classifier: the share of validation rows at least as strange by energy (small: strange).
    pub energy_p_value: Option<f64>,
    /// The same by the likeliest class's probability.
    pub max_probability_p_value: Option<f64>,
    pub n_reference: Option<usize>,
}

impl From<Strange> for OodBody {
    fn from(strange: Strange) -> Self {
        let (features, logits) = (strange.features, strange.logits);
        OodBody {
            ood_score: features.as_ref().map(|f| f.score),
            tail: features.as_ref().map(|f| f.tail),
            feature: features.map(|f| f.feature),
            energy_p_value: logits.map(|l| l.energy_p),
            max_probability_p_value: logits.map(|l| l.max_probability_p),
            n_reference: logits.map(|l| l.n_reference),
        }
    }
}

impl From<Certificate> for CertificateBody {
    fn from(certificate: Certificate) -> Self {
        CertificateBody {
            abstained: certificate.class.is_none(),
            class: certificate.class,
            radius: certificate.radius,
            p_lower: certificate.p_lower,
            unit: certificate.unit,
        }
    }
}

impl From<PredictionSet> for SetBody {
    fn from(set: PredictionSet) -> Self {
        let (labels, intervals) = match set.members {
            Members::Labels(labels) => (Some(labels), None),
            Members::Intervals(intervals) => (None, Some(intervals)),
        };
        SetBody {
            labels,
            intervals,
            alpha: set.alpha,
            n_calibration: set.n_calibration,
            score: set.score,
            guarantee: set.guarantee,
        }
    }
}

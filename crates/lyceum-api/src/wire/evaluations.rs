//! `/v1/evaluations`

use super::model_ref;
use crate::error::ApiError;
use lyceum_service::evaluations::{Asked, Beside, Evaluation};
use lyceum_types::manifest::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EvaluationRequest)]
pub struct Body {
    /// A model that was trained here.
    pub model: String,
    /// The id of a file with rows and their answers, in the format of the model's training data.
    pub file: String,
}

impl Body {
    pub fn parse(self) -> Result<Asked, ApiError> {
        Ok(Asked { model: model_ref(&self.model)?, file: self.file })
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Evaluation)]
pub struct EvaluationBody {
    /// `evaluation`
    pub object: &'static str,
    /// `name@3`
    pub model: String,
    pub file: String,
    /// `{"accuracy": {"value", "ci95", "n"}, …}`
    #[schema(value_type = Object)]
    pub metrics: BTreeMap<String, Metric>,
    /// The same of the trivial method; null: the version has none.
    #[schema(value_type = Option<Object>)]
    pub baseline: Option<BTreeMap<String, Metric>>,
    /// `majority`, `mean`, `last_value`, `bigram`
    pub baseline_name: Option<String>,
    /// Why there is none.
    pub baseline_missing: Option<String>,
    pub usage: EvaluationUsage,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EvaluationUsage {
    /// Rows that went through the model; of an answer that is generated, one a token.
    pub passes: u64,
}

impl EvaluationBody {
    pub fn new(found: Evaluation, file: String, passes: u64) -> Self {
        let (baseline, baseline_name, baseline_missing) = match found.beside {
            Beside::Baseline { name, metrics } => (Some(metrics), Some(name), None),
            Beside::Missing(why) => (None, None, Some(why)),
        };
        EvaluationBody {
            object: "evaluation",
            model: found.model,
            file,
            metrics: found.metrics,
            baseline,
            baseline_name,
            baseline_missing,
            usage: EvaluationUsage { passes },
        }
    }
}

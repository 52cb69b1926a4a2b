//! `POST /v1/models/{m}:predict`, as KServe v1.

use super::explain::OptionsBody;
use super::promises::{CalibrationBody, CertificateBody, CertifyBody, OodBody, PredictionSetBody, SetBody};
use crate::error::ApiError;
use base64::Engine as _;
use lyceum_service::Content;
use lyceum_service::predict::Prediction;
use lyceum_service::robustness::Promised;
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PredictRequest)]
pub struct Body {
    /// Each an object of features, an array of values, a text, or `{"b64": "…"}` with a picture or wav file.
    pub instances: Vec<Value>,
    /// Also say why: `explanations` then has one for each instance.
    pub explain: Option<OptionsBody>,
    /// A certificate for each instance.
    pub certify: Option<CertifyBody>,
    /// A prediction set or interval for each instance.
    pub prediction_set: Option<PredictionSetBody>,
    /// How unlike the training rows each instance is.
    pub ood: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PredictResponse)]
pub struct Response {
    /// Each `{"label", "probabilities"}`, a number, or numbers.
    #[schema(value_type = Vec<Value>)]
    pub predictions: Vec<PredictionBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    pub explanations: Option<Vec<Value>>,
    /// Where `certify` was asked for, one an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<CertificateBody>>,
    /// Where `prediction_set` was asked for, one an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction_sets: Option<Vec<SetBody>>,
    /// Where `ood` was asked for, one an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ood: Option<Vec<OodBody>>,
    /// Of a version whose probabilities are calibrated; where it is missing they are as training left them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationBody>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum PredictionBody {
    Label { label: String, probabilities: Map<String, Value> },
    Number(f64),
    Numbers(Vec<f64>),
    Steps(Vec<PredictionBody>),
}

impl Body {
    pub fn parse(self) -> Result<Vec<Content>, ApiError> {
        instances(self.instances)
    }
}

pub fn instances(values: Vec<Value>) -> Result<Vec<Content>, ApiError> {
    let n = values.len();
    if n == 0 || n > limits::INSTANCES_MAX {
        let message = format!("instances: {n} are not between 1 and {}", limits::INSTANCES_MAX);
        return Err(ApiError::field("instances", "invalid_value", message));
    }
    values.into_iter().enumerate().map(|(i, value)| instance(&format!("instances[{i}]"), value)).collect()
}

/// One raw input at the place `param` of a request.
pub fn instance(param: &str, value: Value) -> Result<Content, ApiError> {
    match value {
        Value::Object(row) => match row.get("b64") {
            Some(Value::String(data)) if row.len() == 1 => {
                match base64::engine::general_purpose::STANDARD.decode(data) {
                    Ok(bytes) => Ok(Content::File(bytes)),
                    Err(_) => {
                        let param = format!("{param}.b64");
                        Err(ApiError::field(
                            param.clone(),
                            "invalid_value",
                            format!("{param}: the base64 is broken"),
                        ))
                    }
                }
            }
            _ => Ok(Content::Row(row)),
        },
        Value::Array(values) => Ok(Content::Values(values)),
        Value::String(text) => Ok(Content::Text(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            let message = format!("{param}: must be an object, an array or a text");
            Err(ApiError::field(param, "invalid_type", message))
        }
    }
}

impl Response {
    pub fn new(predictions: Vec<Prediction>, promised: Promised) -> Self {
        let certificates = promised.certificates;
        Self {
            predictions: predictions.into_iter().map(body).collect(),
            explanations: None,
            calibration: promised.calibration.map(CalibrationBody::from),
            certificates: certificates.map(|all| all.into_iter().map(CertificateBody::from).collect()),
            ood: promised.strange.map(|all| all.into_iter().map(OodBody::from).collect()),
            prediction_sets: promised.sets.map(|all| all.into_iter().map(SetBody::from).collect()),
        }
    }
}

fn body(prediction: Prediction) -> PredictionBody {
    match prediction {
        Prediction::Label { label, probabilities } => {
            let probabilities = probabilities.into_iter().map(|(label, p)| (label, Value::from(p))).collect();
            PredictionBody::Label { label, probabilities }
        }
        Prediction::Number(number) => PredictionBody::Number(number),
        Prediction::Numbers(numbers) => PredictionBody::Numbers(numbers),
        Prediction::Steps(steps) => PredictionBody::Steps(steps.into_iter().map(body).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(body: Value) -> Result<Vec<Content>, ApiError> {
        crate::body::parse::<Body>(body.to_string().as_bytes())?.parse()
    }

    #[test]
    fn an_instance_is_a_row_values_a_text_or_a_file() {
        let body = json!({"instances": [{"a": 1}, [1, "x", null], "text", {"b64": "AQI="}, {"b64": "AQI=", "c": 1}]});
        let contents = parse(body).unwrap();
        assert!(matches!(&contents[0], Content::Row(row) if row.len() == 1));
        assert!(matches!(&contents[1], Content::Values(values) if values.len() == 3));
        assert_eq!(contents[2], Content::Text("text".into()));
        assert_eq!(contents[3], Content::File(vec![1, 2]));
        assert!(matches!(&contents[4], Content::Row(row) if row.len() == 2));
    }

    #[test]
    fn what_is_no_instance_is_refused_by_its_place() {
        for (body, param) in [
            (json!({}), "instances"),
            (json!({"instances": []}), "instances"),
            (json!({"instances": {}}), "instances"),
            (json!({"instances": [[1], 2]}), "instances[1]"),
            (json!({"instances": [null]}), "instances[0]"),
            (json!({"instances": [{"b64": "!"}]}), "instances[0].b64"),
            (json!({"instances": [[1]], "parameters": {}}), "parameters"),
            (json!({"instances": vec![json!([1]); limits::INSTANCES_MAX + 1]}), "instances"),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!((error.status.as_u16(), error.detail.param.as_deref()), (400, Some(param)));
        }
    }
}

//! How tokens are chosen, as completions and chats ask for it.

use super::within;
use crate::error::ApiError;
use lyceum_service::completions::Sampling;
use lyceum_types::limits;
use std::collections::BTreeMap;

/// The fields as they stand in a request.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<i64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub logit_bias: Option<BTreeMap<String, f64>>,
    pub seed: Option<i64>,
}

impl Fields {
    /// # Errors
    /// The field that is out of its bounds.
    pub fn parse(self) -> Result<Sampling, ApiError> {
        let number = |param: &str, value: Option<f64>, min: f64, max: f64| {
            value.map(|value| within(param, value, min, max).map(|x| x as f32)).transpose()
        };
        let top_k = match within("top_k", self.top_k.unwrap_or(-1), -1, limits::TOP_K_MAX as i64)? {
            -1 | 0 => None,
            k => Some(k as usize),
        };
        Ok(Sampling {
            temperature: number("temperature", self.temperature, 0.0, 2.0)?,
            top_p: number("top_p", self.top_p, 0.0, 1.0)?,
            top_k,
            min_p: number("min_p", self.min_p, 0.0, 1.0)?,
            repetition_penalty: number("repetition_penalty", self.repetition_penalty, 0.01, 10.0)?,
            presence_penalty: number("presence_penalty", self.presence_penalty, -2.0, 2.0)?.unwrap_or(0.0),
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?.unwrap_or(0.0),
            logit_bias: logit_bias(self.logit_bias.unwrap_or_default())?,
            // Two's complement: every number that a client may send is its own seed.
            seed: self.seed.map(|seed| seed as u64),
        })
    }
}

/// Ids as texts, with -100 to 100 each.
fn logit_bias(map: BTreeMap<String, f64>) -> Result<Vec<(u32, f32)>, ApiError> {
    if map.len() > limits::LOGIT_BIAS_MAX {
        let message = format!("logit_bias: {} tokens are more than {}", map.len(), limits::LOGIT_BIAS_MAX);
        return Err(ApiError::field("logit_bias", "invalid_value", message));
    }
    map.into_iter()
        .map(|(id, bias)| {
            let param = format!("logit_bias.{id}");
            let number = id.parse().map_err(|_| {
                ApiError::field(&param, "invalid_value", format!("{param}: the key is no token id"))
            })?;
            Ok((number, within(&param, bias, -100.0, 100.0)? as f32))
        })
        .collect()
}

//! What is asked of an export.

use crate::error::ApiError;
use lyceum_service::export::Format;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    format: Option<String>,
}

impl ExportQuery {
    /// # Errors
    /// A form that there is not.
    pub fn parse(self) -> Result<Option<Format>, ApiError> {
        let Some(asked) = self.format else { return Ok(None) };
        let found = Format::ALL.into_iter().find(|format| format.as_str() == asked);
        let wrong = || {
            let asked: String = asked.chars().take(64).collect();
            let message = format!("format: {asked:?} is not safetensors, gguf or peft");
            ApiError::field("format", "invalid_value", message)
        };
        found.ok_or_else(wrong).map(Some)
    }
}

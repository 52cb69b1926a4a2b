//! `/v1/uploads`, as OpenAI's `Upload` and `UploadPart`.

use super::batches::ExpiresAfter;
use super::files::FileBody;
use super::{advisory, within};
use crate::error::ApiError;
use lyceum_service::files;
use lyceum_service::uploads::{NewUpload, Part, Upload};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateUploadRequest)]
pub struct Body {
    /// Of all parts together: 8 GiB at most, 64 GiB of a file of the purpose `model`.
    pub bytes: u64,
    /// Its extension says the format.
    pub filename: String,
    pub mime_type: String,
    /// As of `POST /v1/files`.
    pub purpose: String,
    pub expires_after: Option<ExpiresAfter>,
}

impl Body {
    pub fn parse(self) -> Result<NewUpload, ApiError> {
        let wrong = |param: &str, message: &str| {
            ApiError::field(param, "invalid_value", format!("{param}: {message}"))
        };
        let name = self.filename;
        if name.trim().is_empty()
            || name.chars().count() > limits::FILE_NAME_CHARS_MAX
            || name.chars().any(char::is_control)
        {
            return Err(wrong("filename", "is empty, too long or has control characters"));
        }
        advisory("mime_type", Some(&self.mime_type))?;
        if !self.mime_type.contains('/') {
            return Err(wrong("mime_type", "must be a type as application/jsonl"));
        }
        let purpose = files::purpose(&self.purpose)?;
        let bytes_max = match purpose {
            files::MODEL => limits::MODEL_UPLOAD_BYTES_MAX,
            _ => limits::UPLOAD_BYTES_MAX,
        };
        Ok(NewUpload {
            name,
            purpose,
            mime_type: self.mime_type,
            bytes: within("bytes", self.bytes, 1, bytes_max)?,
            expires_after: self.expires_after.map(|after| after.parse("expires_after")).transpose()?,
        })
    }
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CompleteUploadRequest)]
pub struct CompleteBody {
    /// In the order of the bytes.
    pub part_ids: Vec<String>,
    /// Of all bytes, in hexadecimal digits.
    pub md5: Option<String>,
}

/// The form that brings a part, in `multipart/form-data`.
#[derive(Debug, ToSchema)]
#[schema(as = AddUploadPartRequest)]
#[expect(dead_code, reason = "the form is read part by part; this is its shape in the document")]
pub struct PartForm {
    /// At most 64 MiB.
    #[schema(format = Binary, value_type = String)]
    pub data: Vec<u8>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Upload)]
pub struct UploadBody {
    pub id: String,
    /// `upload`
    pub object: &'static str,
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_at: i64,
    pub filename: String,
    pub purpose: String,
    /// `pending`, `completed`, `cancelled` or `expired`
    pub status: &'static str,
    /// An hour after its creation; of the purpose `model` a day.
    pub expires_at: i64,
    /// The file that it became.
    pub file: Option<FileBody>,
}

impl UploadBody {
    pub fn new(upload: Upload, file: Option<FileBody>) -> Self {
        Self {
            id: upload.id,
            object: "upload",
            bytes: upload.bytes,
            created_at: upload.created_at,
            filename: upload.name,
            purpose: upload.purpose,
            status: upload.status.as_str(),
            expires_at: upload.expires_at,
            file,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadPart)]
pub struct PartBody {
    pub id: String,
    /// `upload.part`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: i64,
    pub upload_id: String,
}

impl From<Part> for PartBody {
    fn from(part: Part) -> Self {
        let (id, upload_id) = (part.id.to_string(), part.upload.to_string());
        Self { id, object: "upload.part", created_at: part.created_at.seconds(), upload_id }
    }
}

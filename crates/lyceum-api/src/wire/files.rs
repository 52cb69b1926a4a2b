//! `/v1/files`, as OpenAI's `File`.

use crate::error::ApiError;
use lyceum_service::files::{DataFile, Order, Query};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The form that brings a file, in `multipart/form-data`.
#[derive(Debug, ToSchema)]
#[schema(as = CreateFileRequest)]
#[expect(dead_code, reason = "the form is read part by part; this is its shape in the document")]
pub struct CreateFile {
    /// The bytes; its file name says the format (rows.csv, rows.jsonl, …).
    #[schema(format = Binary, value_type = String)]
    pub file: Vec<u8>,
    /// `assistants`, `batch`, `fine-tune`, `vision`, `user_data`, `evals`, or `model` (a part of one that
    /// `POST /v1/models` imports, with a key that may change models)
    pub purpose: String,
    pub expires_after: Option<ExpiresAfter>,
}

#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "the form is read part by part; this is its shape in the document")]
pub struct ExpiresAfter {
    /// `created_at`
    pub anchor: String,
    /// From 3600 (an hour) to 2592000 (30 days).
    pub seconds: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OpenAIFile)]
pub struct FileBody {
    pub id: String,
    /// `file`
    pub object: &'static str,
    pub bytes: u64,
    /// Seconds since 1970.
    pub created_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    pub filename: String,
    pub purpose: String,
    /// `processed`: a file is here when it is whole.
    pub status: &'static str,
    /// Of the bytes.
    pub sha256: String,
}

impl From<DataFile> for FileBody {
    fn from(file: DataFile) -> Self {
        Self {
            id: file.id.to_string(),
            object: "file",
            bytes: file.bytes,
            created_at: file.created_at.seconds(),
            expires_at: file.expires_at.map(|at| at.seconds()),
            filename: file.name,
            purpose: file.purpose,
            status: "processed",
            sha256: file.sha256,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FileList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<FileBody>,
    /// Empty where the list is.
    pub first_id: String,
    pub last_id: String,
    pub has_more: bool,
}

impl FileList {
    pub fn new((files, has_more): (Vec<DataFile>, bool)) -> Self {
        let data: Vec<FileBody> = files.into_iter().map(FileBody::from).collect();
        let id = |file: Option<&FileBody>| file.map_or_else(String::new, |file| file.id.clone());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct FileDeleted {
    pub id: String,
    /// `file`
    pub object: &'static str,
    pub deleted: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    pub purpose: Option<String>,
    pub after: Option<String>,
    pub limit: Option<u32>,
    pub order: Option<String>,
}

impl ListQuery {
    pub fn parse(self) -> Result<Query, ApiError> {
        let limit = self.limit.unwrap_or(limits::FILES_LISTED_MAX);
        let limit = super::within("limit", limit, 1, limits::FILES_LISTED_MAX)?;
        let order = match self.order.as_deref() {
            None | Some("desc") => Order::NewestFirst,
            Some("asc") => Order::OldestFirst,
            Some(_) => {
                return Err(ApiError::field("order", "invalid_value", "order: must be asc or desc"));
            }
        };
        let after = self.after.map(|id| {
            id.parse().map_err(|error| ApiError::field("after", "invalid_value", format!("after: {error}")))
        });
        Ok(Query { purpose: self.purpose, after: after.transpose()?, limit, order })
    }
}

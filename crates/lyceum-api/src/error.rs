//! The one place where errors become HTTP statuses and OpenAI's error JSON.
//!
//! A client reads what it can act on: a message, the field, a stable code. Anything that is not its fault is
//! logged here with its cause and the request id, and answered without either.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use lyceum_service::ServiceError;
use lyceum_service::files::Report;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::ToSchema;

/// An error as the client sees it.
#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub detail: ErrorDetail,
    pub retry_after: Option<Duration>,
}

/// `{"error": {…}}`
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `permission_error`, `rate_limit_error`, `insufficient_quota`,
    /// `server_error`; where a rate limit is reached, `requests` or `tokens`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field that is at fault, such as `questions[0].choices`.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// What is wrong with a file that was brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problems: Option<Box<Problems>>,
}

/// The first hundred errors of a file, and how many there are of each code.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = FileProblems)]
pub struct Problems {
    pub errors: Vec<Problem>,
    pub counts: BTreeMap<String, u64>,
}

/// An error of a file, at its place.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = FileProblem)]
pub struct Problem {
    /// The file, and of an archive the file in it.
    pub file: String,
    /// From 1.
    pub line: Option<u64>,
    /// Of a table.
    pub column: Option<String>,
    /// A JSON pointer within the line, or the index of an array's row.
    pub pointer: Option<String>,
    pub code: String,
    pub message: String,
    pub hint: String,
}

impl From<&Report> for Problems {
    fn from(report: &Report) -> Self {
        let problem = |issue: &lyceum_service::files::Issue| Problem {
            file: lyceum_service::files::name_of(&issue.file).to_owned(),
            line: issue.line,
            column: issue.column.clone(),
            pointer: issue.pointer.clone(),
            code: issue.code.clone(),
            message: issue.message.clone(),
            hint: issue.hint.clone(),
        };
        Self { errors: report.errors.iter().map(problem).collect(), counts: report.counts.clone() }
    }
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        let detail =
            ErrorDetail { message: message.into(), kind, param: None, code: Some(code), problems: None };
        Self { status, detail, retry_after: None }
    }

    /// 400: this field is wrong.
    pub fn field(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message).at(Some(param.into()))
    }

    /// 501: this field asks for what this version cannot do.
    pub fn not_implemented(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "invalid_request_error", "not_implemented", message)
            .at(Some(param.into()))
    }

    /// 400: the request as a whole cannot be read.
    pub fn unreadable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// 400: what stands behind the question mark of the URL.
    pub fn query(rejection: &QueryRejection) -> Self {
        let text = rejection.body_text();
        let told = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match told.split_once(": ").filter(|(name, _)| is_name(name)) {
            Some((name, why)) if why.starts_with("unknown field") => {
                Self::field(name, "unknown_parameter", told)
            }
            Some((name, _)) => Self::field(name, "invalid_value", told),
            None => Self::unreadable("invalid_query", told),
        }
    }

    pub fn too_large(bytes_max: usize) -> Self {
        let message = format!("the request body is larger than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message)
    }

    pub fn too_slow() -> Self {
        let message = "the request body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", "request_timeout", message)
    }

    pub fn unknown_route(method: &str, path: &str) -> Self {
        let message =
            format!("unknown request URL: {method} {path}; see /openapi.json for those that there are");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_url", message)
    }

    pub fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("{path} does not take {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
    }

    pub fn wrong_media_type() -> Self {
        let message = "the body must be JSON, with content-type: application/json";
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            "unsupported_media_type",
            message,
        )
    }

    pub fn not_a_form() -> Self {
        let message = "the body must be a form, with content-type: multipart/form-data and its boundary";
        let (status, code) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
        Self::new(status, "invalid_request_error", code, message)
    }

    pub fn compressed(encoding: &str) -> Self {
        let message = format!("Content-Encoding: {encoding} is not supported; send the body as it is");
        let (status, code) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding");
        Self::new(status, "invalid_request_error", code, message).at(Some("Content-Encoding".into()))
    }

    pub fn panicked() -> Self {
        Self::internal()
    }

    fn internal() -> Self {
        let message = "the server failed to answer; its log has the cause under this x-request-id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message)
    }

    /// A field that was refused here, for a use case that knows where it stands in the request.
    pub fn into_refusal(self) -> ServiceError {
        let ErrorDetail { message, param, code, .. } = self.detail;
        let param = param.unwrap_or_default();
        match self.status {
            StatusCode::NOT_IMPLEMENTED => ServiceError::not_implemented(param, message),
            _ => ServiceError::invalid(param, code.unwrap_or("invalid_value"), message),
        }
    }

    fn at(mut self, param: Option<String>) -> Self {
        self.detail.param = param;
        self
    }

    fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let message = error.to_string();
        match error {
            ServiceError::Invalid { param, code, .. } => Self::field(param, code, message),
            ServiceError::Unsupported { param, code, .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request_error", code, message)
                    .at(Some(param))
            }
            ServiceError::NotImplemented { param, .. } => Self::not_implemented(param, message),
            ServiceError::NotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
            }
            ServiceError::ModelNotFound { .. } => {
                Self::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message)
                    .at(Some("model".into()))
            }
            ServiceError::ModelForbidden { .. } => {
                Self::new(StatusCode::FORBIDDEN, "invalid_request_error", "model_not_found", message)
                    .at(Some("model".into()))
            }
            ServiceError::ProjectArchived { .. } => {
                Self::new(StatusCode::FORBIDDEN, "permission_error", "project_archived", message)
            }
            ServiceError::Refused { code, .. } => Self::unreadable(code, message),
            ServiceError::RateLimited(reached) => {
                let (status, kind) = (StatusCode::TOO_MANY_REQUESTS, reached.what.kind());
                let retry_after = reached.retry_after;
                Self { retry_after, ..Self::new(status, kind, "rate_limit_exceeded", message) }
            }
            ServiceError::Guarded { param, code: "guard_blocked_output", .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_request_error",
                "guard_blocked_output",
                message,
            )
            .at(param),
            ServiceError::Guarded { param, code, .. } => Self::unreadable(code, message).at(param),
            ServiceError::GuardFailed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "guard_failed", message)
            }
            ServiceError::Uncomputable { .. } => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_request_error",
                "not_computable",
                message,
            ),
            ServiceError::KeyMissing => {
                Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "missing_api_key", message)
            }
            ServiceError::KeyRefused { code } => {
                Self::new(StatusCode::UNAUTHORIZED, "authentication_error", code, message)
            }
            ServiceError::ScopeMissing { .. } => {
                Self::new(StatusCode::FORBIDDEN, "permission_error", "insufficient_permissions", message)
            }
            ServiceError::OperatorOnly { .. } => {
                Self::new(StatusCode::FORBIDDEN, "permission_error", "operator_only", message)
            }
            ServiceError::IdempotencyConflict => {
                Self::new(StatusCode::CONFLICT, "invalid_request_error", "idempotency_key_reused", message)
            }
            ServiceError::IdempotencyUnderWay => {
                Self::new(StatusCode::CONFLICT, "invalid_request_error", "idempotency_key_in_use", message)
                    .retry_after(Duration::from_secs(1))
            }
            ServiceError::Overloaded { retry_after } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "overloaded", message)
                    .retry_after(retry_after)
            }
            ServiceError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "file_too_large", message)
            }
            ServiceError::WrongFile { param, report } => {
                let mut error = Self::field(param, "invalid_file", message);
                error.detail.problems = Some(Box::new(Problems::from(&*report)));
                error
            }
            ServiceError::Conflict { code, .. } => {
                Self::new(StatusCode::CONFLICT, "invalid_request_error", code, message)
            }
            ServiceError::BudgetExhausted { .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota", message)
            }
            ServiceError::QuotaReached { .. } => {
                Self::new(StatusCode::FORBIDDEN, "permission_error", "quota_reached", message)
            }
            ServiceError::NotReady { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "not_ready", message)
                    .retry_after(Duration::from_secs(1))
            }
            ServiceError::DeadlinePassed => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout", message)
            }
            ServiceError::Internal { .. } | ServiceError::Damaged { .. } => {
                log(&error);
                Self::internal()
            }
        }
    }
}

/// The whole chain of causes, once. Texts of errors carry names and sizes, never prompts, inputs or keys.
fn log(error: &ServiceError) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    tracing::error!(error = text, "request failed");
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

//! `/v1/organization/invites[/{id}]`: refused by name, because nothing here sends mail.

use crate::error::{ApiError, ErrorBody};

fn refuse() -> ApiError {
    let message = "invites: nothing here sends mail; add a user with lyceum admin users add";
    ApiError::not_implemented("invites", message)
}

/// Invitations need mail, which nothing here sends: `lyceum admin users add` adds a user.
#[utoipa::path(get, path = "/v1/organization/invites", tag = "administration",
    responses((status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn list() -> ApiError {
    refuse()
}

/// As the list.
#[utoipa::path(post, path = "/v1/organization/invites", tag = "administration", request_body = Object,
    responses((status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn create() -> ApiError {
    refuse()
}

/// As the list.
#[utoipa::path(get, path = "/v1/organization/invites/{id}", tag = "administration", params(("id" = String, Path)),
    responses((status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn find() -> ApiError {
    refuse()
}

/// As the list.
#[utoipa::path(delete, path = "/v1/organization/invites/{id}", tag = "administration", params(("id" = String, Path)),
    responses((status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 501, body = ErrorBody)))]
pub async fn delete() -> ApiError {
    refuse()
}

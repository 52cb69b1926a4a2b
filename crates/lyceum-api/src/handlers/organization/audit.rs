//! `GET /v1/organization/audit_logs`

use super::Pairs;
use crate::Api;
use crate::auth::Administrator;
use crate::error::{ApiError, ErrorBody};
use crate::wire::organization::List;
use crate::wire::organization::audit::{LogEntry, Wanted};
use axum::extract::State;
use axum::{Extension, Json};
use lyceum_service::tenancy::Page;
use lyceum_service::tenancy::audit;
use lyceum_service::tenancy::projects::{self, Which};
use lyceum_service::{ServiceError, standing};
use lyceum_types::clock::Timestamp;

/// What was done in the organisation, newest first.
#[utoipa::path(get, path = "/v1/organization/audit_logs", tag = "administration",
    params(("limit" = Option<u32>, Query), ("after" = Option<String>, Query), ("before" = Option<String>, Query),
        ("event_types[]" = Option<Vec<String>>, Query), ("project_ids[]" = Option<Vec<String>>, Query),
        ("actor_ids[]" = Option<Vec<String>>, Query), ("actor_emails[]" = Option<Vec<String>>, Query),
        ("resource_ids[]" = Option<Vec<String>>, Query), ("effective_at[gt]" = Option<i64>, Query),
        ("effective_at[gte]" = Option<i64>, Query), ("effective_at[lt]" = Option<i64>, Query),
        ("effective_at[lte]" = Option<i64>, Query), ("tenant_only" = Option<bool>, Query)),
    responses((status = 200, body = List<LogEntry>), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub async fn list(
    State(api): State<Api>,
    Extension(by): Extension<Administrator>,
    Pairs(query): Pairs,
) -> Result<Json<List<LogEntry>>, ApiError> {
    let wanted = Wanted::parse(query)?;
    if wanted.tenant_only {
        return Ok(Json(List::new(Vec::new(), false)));
    }
    standing::note_login_failures(&api.service, Timestamp::now()).await?;
    let (store, page) = (api.service.store(), wanted.page.page());
    let listed = audit::list(store, by.tenant(), &wanted.filter, page, wanted.before.as_deref()).await;
    let listed = listed.map_err(ServiceError::from)?;
    let named =
        projects::list(store, by.tenant(), Which::All, Page::WHOLE).await.map_err(ServiceError::from)?;
    let names = named.data.into_iter().map(|described| (described.project.id, described.name)).collect();
    let data = listed.data.into_iter().map(|entry| LogEntry::new(entry, by.tenant(), &names)).collect();
    Ok(Json(List::new(data, listed.has_more)))
}

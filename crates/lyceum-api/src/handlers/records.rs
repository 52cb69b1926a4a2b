//! What routes of work in the background share: its records.

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use lyceum_service::background::{self, Record};
use lyceum_service::runs::Kind;

/// The caller's newest records of a kind.
pub(super) async fn newest(
    api: &Api,
    caller: Caller,
    kind: Kind,
    most: usize,
) -> Result<Vec<Record>, ApiError> {
    Ok(background::list(&api.service, &caller.project, kind, most).await?)
}

/// One of the caller's records of a kind, as it stands.
pub(super) async fn one(api: &Api, caller: Caller, kind: Kind, id: String) -> Result<Record, ApiError> {
    Ok(background::find(&api.service, &caller.project, kind, &id).await?)
}

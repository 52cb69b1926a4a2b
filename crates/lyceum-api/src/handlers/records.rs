//! What routes of work in the background share: its records, looked for off the runtime because they are files.

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
    let look =
        move |service: &lyceum_service::Service| background::list(service, &caller.project, kind, most);
    Ok(background::off_runtime(&api.service, look).await?)
}

/// One of the caller's records of a kind, as it stands.
pub(super) async fn one(api: &Api, caller: Caller, kind: Kind, id: String) -> Result<Record, ApiError> {
    let look = move |service: &lyceum_service::Service| background::find(service, &caller.project, kind, &id);
    Ok(background::off_runtime(&api.service, look).await?)
}

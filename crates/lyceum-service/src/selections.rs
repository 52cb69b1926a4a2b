//! What choices among models found, as `lyceum choose` kept it. A choice is made at the command line: it needs data
//! files, and requests cannot bring them yet.

use crate::{Service, ServiceError};
use lyceum_store::{StoreError, selections};
use lyceum_types::ids::{Project, SelectionId};
use serde_json::Value;

/// Documents that one list gives: the newest.
const LISTED_MAX: usize = 100;

/// Why no choice begins here.
pub fn create() -> ServiceError {
    let message = "model selections are not made over HTTP in this version: they train on data files, and there is no \
                   /v1/files to bring them. Run lyceum choose SPEC on the server's data folder; its result is then \
                   under GET /v1/model_selections";
    ServiceError::NotImplemented { param: "data".into(), message: message.into() }
}

/// The document of one choice.
pub async fn find(service: &Service, project: &Project, id: &str) -> Result<Value, ServiceError> {
    let unknown = || ServiceError::NotFound { what: "model selection", id: id.to_owned() };
    let asked: SelectionId = id.parse().map_err(|_| unknown())?;
    read(service, project, vec![asked]).await?.pop().ok_or_else(unknown)
}

/// The documents of the newest choices, newest first.
pub async fn list(service: &Service, project: &Project) -> Result<Vec<Value>, ServiceError> {
    let mut ids = selections::list(service.store(), project)?;
    ids.reverse();
    ids.truncate(LISTED_MAX);
    read(service, project, ids).await
}

/// Reads off the runtime; a document that is gone is left out.
async fn read(
    service: &Service,
    project: &Project,
    ids: Vec<SelectionId>,
) -> Result<Vec<Value>, ServiceError> {
    let (store, project) = (service.store().clone(), project.clone());
    let work =
        move || {
            let mut documents = Vec::new();
            for id in ids {
                match selections::find(&store, &project, &id) {
                    Ok(text) => documents.push(serde_json::from_str(&text).map_err(|source| {
                        ServiceError::Damaged { id: id.to_string(), source: source.into() }
                    })?),
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(documents)
        };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ServiceError::internal("reading broke off", error))?
}

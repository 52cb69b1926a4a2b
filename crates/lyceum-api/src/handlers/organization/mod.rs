//! `/v1/organization/…`: administration, with an organisation's key and with no other.
//!
//! Each handler works within the organisation of its key: what belongs to another one is not found.

pub mod admin_keys;
pub mod audit;
pub mod budgets;
pub mod guard;
pub mod invites;
pub mod keys;
pub mod limits;
pub mod people;
pub mod prices;
pub mod projects;
pub mod retention;
pub mod shares;

use crate::Api;
use crate::auth::Administrator;
use crate::error::ApiError;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use lyceum_service::ServiceError;
use lyceum_service::tenancy::projects as stored;
use lyceum_types::ids::Project;

/// The pairs of a query, in their order.
pub struct Pairs(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query: Result<Query<Vec<(String, String)>>, QueryRejection> =
            Query::from_request_parts(parts, state).await;
        let Query(pairs) = query.map_err(|error| ApiError::query(&error))?;
        Ok(Self(pairs))
    }
}

/// A project of the organisation, by its id.
async fn project(api: &Api, by: &Administrator, id: &str) -> Result<stored::Described, ApiError> {
    let id: String = id.chars().take(64).collect();
    let found = stored::find(api.service.store(), &by.project(&id)).await.map_err(ServiceError::from)?;
    Ok(found)
}

/// [`project`], of which nothing but its name is wanted.
async fn found(api: &Api, by: &Administrator, id: &str) -> Result<Project, ApiError> {
    Ok(project(api, by, id).await?.project)
}

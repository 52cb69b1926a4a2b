//! `GET /v1/models`, as OpenAI's `Model` with what else is known of a version.

use lyceum_service::models::Listed;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`
    pub object: &'static str,
    pub data: Vec<Model>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// What requests name: `name` for the newest version that is not held, `name@3` for one version.
    pub id: String,
    /// `model`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: i64,
    pub owned_by: String,
    /// The version behind the id: `name@3`.
    pub root: String,
    /// The version that an adapter adds to; null for other models.
    pub parent: Option<String>,
    pub family: String,
    pub task: String,
    pub params: u64,
    pub bytes: u64,
    /// Of the weight file.
    pub sha256: String,
    /// Why `name` passes this version over; null: it does not.
    pub held: Option<String>,
}

impl From<Listed> for Model {
    fn from(listed: Listed) -> Self {
        let version = listed.version;
        Self {
            id: listed.id,
            object: "model",
            created: version.created_at.seconds(),
            owned_by: listed.owner,
            root: version.id(),
            parent: listed.parent,
            family: version.family,
            task: version.task,
            params: version.n_params,
            bytes: version.bytes,
            sha256: version.sha256,
            held: version.held,
        }
    }
}

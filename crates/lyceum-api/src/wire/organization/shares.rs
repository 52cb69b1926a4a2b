//! Models that projects may ask though another project has them.

use super::Identified;
use crate::error::ApiError;
use lyceum_service::shares::{Share, With};
use lyceum_types::ids::{ModelName, Project};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A model of a project, every version, and who else may ask it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelShare)]
pub struct ShareBody {
    /// `organization.project.model_share`
    pub object: &'static str,
    /// `shr-MODEL@` and a project's id, `organization` or `everyone`.
    pub id: String,
    pub model: String,
    /// Whose model it is.
    pub project_id: String,
    pub with: Whom,
}

/// Who may ask.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelShareWith)]
pub struct Whom {
    /// `project`, `organization` (every project of it) or `everyone` (every project of every organisation).
    #[serde(rename = "type")]
    pub kind: String,
    /// Of `project`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Of `organization`; in a request it is the key's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<String>,
}

const ORGANIZATION: &str = "organization";
const EVERYONE: &str = "everyone";

impl Identified for ShareBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<Share> for ShareBody {
    fn from(share: Share) -> Self {
        let whom =
            |kind: &str, project_id, organization_id| Whom { kind: kind.into(), project_id, organization_id };
        let (end, with) = match share.with {
            With::Project(project) => (project.id.clone(), whom("project", Some(project.id), None)),
            With::Organization(tenant) => (ORGANIZATION.into(), whom(ORGANIZATION, None, Some(tenant))),
            With::Everyone => (EVERYONE.into(), whom(EVERYONE, None, None)),
        };
        Self {
            object: "organization.project.model_share",
            id: format!("shr-{}@{end}", share.name),
            model: share.name.to_string(),
            project_id: share.owner.id,
            with,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ModelShareCreateRequest)]
pub struct CreateShare {
    /// A name without a version: all versions, also those to come.
    pub model: String,
    pub with: Whom,
}

impl CreateShare {
    pub fn parse(self, owner: Project) -> Result<Share, ApiError> {
        let wrong =
            |param: &str, why: &str| ApiError::field(param, "invalid_value", format!("{param}: {why}"));
        let name = self.model.parse().map_err(|error: lyceum_types::ids::BadId| wrong("model", error.why))?;
        let Whom { kind, project_id, organization_id } = self.with;
        if organization_id.as_ref().is_some_and(|id| *id != owner.tenant || kind != ORGANIZATION) {
            return Err(wrong("with.organization_id", "a key shares within its own organisation"));
        }
        let with = match (kind.as_str(), project_id) {
            ("project", Some(id)) => With::Project(Project { tenant: owner.tenant.clone(), id }),
            ("project", None) => return Err(wrong("with.project_id", "which project is missing")),
            (_, Some(_)) => return Err(wrong("with.project_id", "belongs to the type project")),
            (ORGANIZATION, None) => With::Organization(owner.tenant.clone()),
            (EVERYONE, None) => With::Everyone,
            _ => return Err(wrong("with.type", "must be project, organization or everyone")),
        };
        Ok(Share { owner, name, with })
    }
}

/// The share that an id names.
pub fn share_of(id: &str, owner: &Project) -> Option<(ModelName, With)> {
    let (name, end) = id.strip_prefix("shr-")?.split_once('@')?;
    let with = match end {
        ORGANIZATION => With::Organization(owner.tenant.clone()),
        EVERYONE => With::Everyone,
        id => With::Project(Project { tenant: owner.tenant.clone(), id: id.to_owned() }),
    };
    Some((name.parse().ok()?, with))
}

//! Projects, what they keep, which models they may ask.

use super::{Identified, says_nothing};
use crate::error::ApiError;
use lyceum_service::tenancy::projects::Described;
use lyceum_types::short::short;
use lyceum_types::tenancy::{ListMode, ModelPermissions, OrganizationRetention, ProjectRetention};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Project)]
pub struct ProjectBody {
    pub id: String,
    /// `organization.project`
    pub object: &'static str,
    pub name: String,
    pub created_at: i64,
    pub archived_at: Option<i64>,
    /// `active` or `archived`
    pub status: &'static str,
    /// The master key that opens what the project keeps; null: that is not encrypted, or was erased.
    pub external_key_id: Option<String>,
}

impl Identified for ProjectBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl ProjectBody {
    pub fn new(described: Described, external_key_id: Option<String>) -> Self {
        Self {
            id: described.project.id,
            object: "organization.project",
            name: described.name,
            created_at: described.created_at.seconds(),
            archived_at: described.archived_at.map(|at| at.seconds()),
            status: if described.archived_at.is_some() { "archived" } else { "active" },
            external_key_id,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectCreateRequest)]
pub struct CreateProject {
    pub name: String,
    /// `GLOBAL`: the data is where the installation is.
    pub residency: Option<String>,
    /// The server's master key: what the project keeps is encrypted. Without one it is not.
    pub external_key_id: Option<String>,
}

impl CreateProject {
    /// The name, and the master key that is asked for.
    pub fn parse(self) -> Result<(String, Option<String>), ApiError> {
        let residency = self.residency.filter(|residency| residency != "GLOBAL");
        says_nothing("residency", residency.as_ref(), "the data is where the installation is: GLOBAL")?;
        Ok((self.name, self.external_key_id))
    }
}

/// Every field may be left out, and so may all of them together.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectEraseRequest)]
pub struct EraseProject {
    /// The project's id once more: where it is another one, nothing is erased.
    pub confirm: Option<String>,
}

impl EraseProject {
    /// # Errors
    /// What is confirmed is not the project of the path.
    pub fn parse(self, id: &str) -> Result<(), ApiError> {
        match self.confirm {
            Some(confirm) if confirm != id => {
                let message = format!(
                    "confirm: names {}, and the path {}; nothing was erased",
                    short(&confirm),
                    short(id)
                );
                Err(ApiError::field("confirm", "invalid_value", message))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectUpdateRequest)]
pub struct UpdateProject {
    pub name: Option<String>,
    pub external_key_id: Option<String>,
}

impl UpdateProject {
    pub fn parse(self) -> Result<Option<String>, ApiError> {
        let why = "a project is encrypted from its first byte or not at all: make another";
        says_nothing("external_key_id", self.external_key_id.as_ref(), why)?;
        Ok(self.name)
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DataRetention {
    /// `organization.data_retention` or `project.data_retention`
    pub object: &'static str,
    #[serde(rename = "type")]
    pub kind: &'static str,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UpdateDataRetention)]
pub struct UpdateRetention {
    /// `zero_data_retention` or `modified_abuse_monitoring`; for a project also `organization_default` and `none`.
    pub retention_type: String,
}

impl UpdateRetention {
    fn parse<T: std::str::FromStr<Err = lyceum_types::ids::BadId>>(&self) -> Result<T, ApiError> {
        if self.retention_type.starts_with("enhanced_") {
            let message = "retention_type: there is no monitoring that an enhanced type could do without";
            return Err(ApiError::not_implemented("retention_type", message));
        }
        let wrong = |error: lyceum_types::ids::BadId| {
            ApiError::field("retention_type", "invalid_value", format!("retention_type: {}", error.why))
        };
        self.retention_type.parse().map_err(wrong)
    }

    pub fn of_organization(&self) -> Result<OrganizationRetention, ApiError> {
        self.parse()
    }

    pub fn of_project(&self) -> Result<ProjectRetention, ApiError> {
        self.parse()
    }
}

/// The models that a project may ask. A deny list without ids denies nothing, which holds where nothing was set.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectModelPermissions)]
pub struct Permissions {
    /// `project.model_permissions`
    pub object: &'static str,
    /// `allow_list` or `deny_list`
    pub mode: &'static str,
    /// `name`: all versions; `name@3`: one.
    pub model_ids: Vec<String>,
}

impl From<Option<&ModelPermissions>> for Permissions {
    fn from(models: Option<&ModelPermissions>) -> Self {
        Self {
            object: "project.model_permissions",
            mode: models.map_or(ListMode::DenyList, |models| models.mode).as_str(),
            model_ids: models.map(|models| models.ids().to_vec()).unwrap_or_default(),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectModelPermissionsUpdateRequest)]
pub struct UpdatePermissions {
    pub mode: String,
    pub model_ids: Vec<String>,
}

impl UpdatePermissions {
    pub fn parse(self) -> Result<ModelPermissions, ApiError> {
        let wrong = |param: &'static str| {
            move |error: lyceum_types::ids::BadId| {
                ApiError::field(param, "invalid_value", format!("{param}: {:?} {}", error.text, error.why))
            }
        };
        let mode: ListMode = self.mode.parse().map_err(wrong("mode"))?;
        ModelPermissions::new(mode, self.model_ids).map_err(wrong("model_ids"))
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct PermissionsDeleted {
    /// `project.model_permissions.deleted`
    pub object: &'static str,
    pub deleted: bool,
}

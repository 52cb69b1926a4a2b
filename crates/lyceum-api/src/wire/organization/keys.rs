//! Keys of projects and of the organisation: everything but the secret, which only a creation shows.

use super::Identified;
use crate::error::ApiError;
use lyceum_service::tenancy::admin_keys::AdminKey;
use lyceum_service::tenancy::people::User;
use lyceum_service::tenancy::service_accounts::ServiceAccount;
use lyceum_types::ids::KeyScope;
use lyceum_types::limits;
use lyceum_types::tenancy::ProjectRole;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// Whose a key is, as far as it is anybody's: keys of the command line are nobody's.
pub enum Owner {
    Nobody,
    User(User, ProjectRole),
    ServiceAccount(ServiceAccount),
}

#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ProjectApiKeyOwner)]
pub struct OwnerBody {
    /// `user` or `service_account`; absent: the key was made on the command line and is nobody's.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<OwnerDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<OwnerDetail>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectApiKeyOwnerDetail)]
pub struct OwnerDetail {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub name: String,
    pub created_at: i64,
    pub role: &'static str,
}

impl From<Owner> for OwnerBody {
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Nobody => Self::default(),
            Owner::User(user, role) => {
                let detail = OwnerDetail {
                    id: user.id.to_string(),
                    email: Some(user.email.unwrap_or_default()),
                    name: user.name,
                    created_at: user.added_at.seconds(),
                    role: role.as_str(),
                };
                Self { kind: Some("user"), user: Some(detail), service_account: None }
            }
            Owner::ServiceAccount(account) => {
                let detail = OwnerDetail {
                    id: account.id.to_string(),
                    email: None,
                    name: account.name,
                    created_at: account.created_at.seconds(),
                    role: account.role.map_or("none", ProjectRole::as_str),
                };
                Self { kind: Some("service_account"), user: None, service_account: Some(detail) }
            }
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectApiKey)]
pub struct ProjectKey {
    /// `organization.project.api_key`
    pub object: &'static str,
    pub redacted_value: String,
    pub name: String,
    pub created_at: i64,
    pub last_used_at: Option<i64>,
    pub id: String,
    /// `active`: who leaves a project loses the keys for it.
    pub owner_project_access: &'static str,
    pub owner: OwnerBody,
    /// When it ends by itself.
    pub expires_at: Option<i64>,
    /// What it may do: `inference`, `metrics`, `admin`.
    pub scopes: Vec<&'static str>,
    /// The secret, where the key was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Identified for ProjectKey {
    fn id(&self) -> &str {
        &self.id
    }
}

impl ProjectKey {
    pub fn new(key: lyceum_service::keys::Key, owner: Owner) -> Self {
        let scopes = key.grant.scopes.iter().map(|scope| scope.as_str()).collect();
        Self {
            object: "organization.project.api_key",
            redacted_value: if key.hint.is_empty() { "sk-...".into() } else { key.hint },
            name: key.grant.name,
            created_at: key.created_at.seconds(),
            last_used_at: key.last_used_at.map(|at| at.seconds()),
            id: key.id.to_string(),
            owner_project_access: "active",
            owner: owner.into(),
            expires_at: key.grant.expires_at.map(|at| at.seconds()),
            scopes,
            value: None,
        }
    }
}

/// A service account's key with its secret, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectServiceAccountApiKey)]
pub struct AccountKey {
    /// `organization.project.service_account.api_key`
    pub object: &'static str,
    pub value: String,
    pub name: String,
    pub created_at: i64,
    pub id: String,
}

impl From<(lyceum_service::keys::Key, lyceum_service::keys::KeySecret)> for AccountKey {
    fn from((key, secret): (lyceum_service::keys::Key, lyceum_service::keys::KeySecret)) -> Self {
        Self {
            object: "organization.project.service_account.api_key",
            value: secret.reveal().to_owned(),
            name: key.grant.name,
            created_at: key.created_at.seconds(),
            id: key.id.to_string(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AdminApiKey)]
pub struct AdminKeyBody {
    /// `organization.admin_api_key`
    pub object: &'static str,
    pub id: String,
    pub name: String,
    pub redacted_value: String,
    pub created_at: i64,
    pub expires_at: Option<i64>,
    pub last_used_at: Option<i64>,
    pub owner: AdminKeyOwner,
    /// What it may do: `organization.read`, `organization.write`.
    pub scopes: Vec<&'static str>,
    /// The secret, where the key was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AdminApiKeyOwner)]
pub struct AdminKeyOwner {
    /// `user`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `organization.user`
    pub object: &'static str,
    pub id: String,
    pub name: String,
    pub created_at: i64,
    pub role: &'static str,
}

impl Identified for AdminKeyBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<AdminKey> for AdminKeyBody {
    fn from(key: AdminKey) -> Self {
        let scopes = key.grant.scopes.iter().map(|scope| scope.as_str()).collect();
        let owner = AdminKeyOwner {
            kind: "user",
            object: "organization.user",
            id: key.owner.id.to_string(),
            name: key.owner.name,
            created_at: key.owner.added_at.seconds(),
            role: key.owner.role.as_str(),
        };
        Self {
            object: "organization.admin_api_key",
            id: key.id.to_string(),
            name: key.grant.name,
            redacted_value: key.hint,
            created_at: key.created_at.seconds(),
            expires_at: key.grant.expires_at.map(|at| at.seconds()),
            last_used_at: key.last_used_at.map(|at| at.seconds()),
            owner,
            scopes,
            value: None,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AdminApiKeyCreateRequest)]
pub struct CreateAdminKey {
    pub name: String,
    /// From 1 to 31536000 (a year); absent: it does not end by itself.
    pub expires_in_seconds: Option<u64>,
    /// `organization.read` or `organization.write`; default: `organization.write`.
    pub scopes: Option<Vec<String>>,
}

impl CreateAdminKey {
    pub fn parse(self) -> Result<(String, Option<Duration>, Vec<KeyScope>), ApiError> {
        let seconds = self.expires_in_seconds;
        if let Some(seconds) = seconds {
            crate::wire::within("expires_in_seconds", seconds, 1, limits::ADMIN_KEY_SECONDS_MAX)?;
        }
        let scopes = self.scopes.unwrap_or_else(|| vec!["organization.write".into()]);
        let wrong = |error: lyceum_types::ids::BadId| {
            ApiError::field("scopes", "invalid_value", format!("scopes: {}", error.why))
        };
        let scopes = scopes.iter().map(|scope| scope.parse().map_err(wrong)).collect::<Result<_, _>>()?;
        Ok((self.name, seconds.map(Duration::from_secs), scopes))
    }
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the old key lives on beside the new one; default: 0, it ends at once. At most 7776000 (90 days).
    pub overlap_seconds: Option<u64>,
}

impl RotateKey {
    pub fn parse(&self) -> Result<Duration, ApiError> {
        let seconds = self.overlap_seconds.unwrap_or(0);
        let max = limits::KEY_OVERLAP_MAX.as_secs();
        Ok(Duration::from_secs(crate::wire::within("overlap_seconds", seconds, 0, max)?))
    }
}

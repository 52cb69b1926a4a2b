//! Users, their places in projects, service accounts.

use super::{Identified, says_nothing};
use crate::error::ApiError;
use lyceum_service::tenancy::people::{Member, NewUser, User};
use lyceum_service::tenancy::service_accounts::{FirstKey, ServiceAccount};
use lyceum_types::ids::{KeyScope, UserId};
use lyceum_types::tenancy::{ProjectRole, Role};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserBody {
    /// `organization.user`
    pub object: &'static str,
    pub id: String,
    pub name: String,
    pub email: Option<String>,
    /// `owner` or `reader`
    pub role: &'static str,
    pub added_at: i64,
    /// The newest use of a key of the user's, as of a minute ago; null: none was used.
    pub api_key_last_used_at: Option<i64>,
    /// The one that the first start made.
    pub is_default: bool,
    pub is_service_account: bool,
}

impl Identified for UserBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<User> for UserBody {
    fn from(user: User) -> Self {
        Self {
            object: "organization.user",
            id: user.id.to_string(),
            name: user.name,
            email: user.email,
            role: user.role.as_str(),
            added_at: user.added_at.seconds(),
            api_key_last_used_at: user.key_used_at.map(|at| at.seconds()),
            is_default: user.is_default,
            is_service_account: false,
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserCreateRequest)]
pub struct CreateUser {
    pub name: String,
    /// No other user of the organisation has it.
    pub email: Option<String>,
    /// `owner` or `reader`; left out: `reader`.
    pub role: Option<String>,
}

impl CreateUser {
    pub fn parse(self) -> Result<NewUser, ApiError> {
        let role = self.role.map_or(Ok(Role::Reader), |role| parse("role", &role))?;
        Ok(NewUser { name: self.name, email: self.email, role, is_default: false })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserRoleUpdateRequest)]
pub struct UpdateUser {
    /// `owner` or `reader`
    pub role: Option<String>,
    pub role_id: Option<String>,
    pub technical_level: Option<String>,
    pub developer_persona: Option<String>,
}

impl UpdateUser {
    pub fn parse(self) -> Result<Option<Role>, ApiError> {
        says_nothing("role_id", self.role_id.as_ref(), "there are the roles owner and reader: set role")?;
        says_nothing("technical_level", self.technical_level.as_ref(), "nothing reads it")?;
        says_nothing("developer_persona", self.developer_persona.as_ref(), "nothing reads it")?;
        self.role.map(|role| parse("role", &role)).transpose()
    }
}

fn parse<T: std::str::FromStr<Err = lyceum_types::ids::BadId>>(
    param: &'static str,
    text: &str,
) -> Result<T, ApiError> {
    text.parse().map_err(|error: lyceum_types::ids::BadId| {
        ApiError::field(param, "invalid_value", format!("{param}: {}", error.why))
    })
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectUser)]
pub struct MemberBody {
    /// `organization.project.user`
    pub object: &'static str,
    pub id: String,
    pub name: String,
    pub email: Option<String>,
    /// `owner` or `member`
    pub role: &'static str,
    pub added_at: i64,
}

impl Identified for MemberBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<Member> for MemberBody {
    fn from(member: Member) -> Self {
        Self {
            object: "organization.project.user",
            id: member.user.id.to_string(),
            name: member.user.name,
            email: member.user.email,
            role: member.role.as_str(),
            added_at: member.added_at.seconds(),
        }
    }
}

/// A user of the organisation, by id or address, and the role in the project.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectUserCreateRequest)]
pub struct CreateMember {
    pub user_id: Option<String>,
    pub email: Option<String>,
    /// `owner` or `member`
    pub role: String,
}

pub enum Whom {
    Id(UserId),
    Email(String),
}

impl CreateMember {
    pub fn parse(self) -> Result<(Whom, ProjectRole), ApiError> {
        let role = parse("role", &self.role)?;
        match (self.user_id, self.email) {
            (Some(id), None) => Ok((Whom::Id(crate::wire::organization_id("user", &id)?), role)),
            (None, Some(email)) => Ok((Whom::Email(email), role)),
            _ => {
                let message = "user_id: give the user's id or the address, one of both";
                Err(ApiError::field("user_id", "invalid_value", message))
            }
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectUserUpdateRequest)]
pub struct UpdateMember {
    /// `owner` or `member`
    pub role: Option<String>,
}

impl UpdateMember {
    pub fn parse(self) -> Result<Option<ProjectRole>, ApiError> {
        self.role.map(|role| parse("role", &role)).transpose()
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectServiceAccount)]
pub struct AccountBody {
    /// `organization.project.service_account`
    pub object: &'static str,
    pub id: String,
    pub name: String,
    /// `owner`, `member` or `none`
    pub role: &'static str,
    pub created_at: i64,
}

impl Identified for AccountBody {
    fn id(&self) -> &str {
        &self.id
    }
}

impl From<ServiceAccount> for AccountBody {
    fn from(account: ServiceAccount) -> Self {
        Self {
            object: "organization.project.service_account",
            id: account.id.to_string(),
            name: account.name,
            role: account.role.map_or("none", ProjectRole::as_str),
            created_at: account.created_at.seconds(),
        }
    }
}

/// A new service account with its key, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectServiceAccountCreateResponse)]
pub struct AccountCreated {
    #[serde(flatten)]
    pub account: AccountBody,
    /// Null where none was made.
    pub api_key: Option<super::keys::AccountKey>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectServiceAccountCreateRequest)]
pub struct CreateAccount {
    pub name: String,
    /// Without a role and without a key.
    pub create_service_account_only: Option<bool>,
}

impl CreateAccount {
    pub fn parse(self) -> (String, FirstKey) {
        let bare = self.create_service_account_only.unwrap_or(false);
        (self.name, if bare { FirstKey::None } else { FirstKey::Made })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UpdateProjectServiceAccountBody)]
pub struct UpdateAccount {
    pub name: Option<String>,
    /// `owner` or `member`
    pub role: Option<String>,
}

impl UpdateAccount {
    pub fn parse(self) -> Result<(Option<String>, Option<ProjectRole>), ApiError> {
        let role = self.role.map(|role| parse("role", &role)).transpose()?;
        Ok((self.name, role))
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateProjectServiceAccountApiKeyBody)]
pub struct CreateAccountKey {
    pub name: Option<String>,
    /// `inference`, `metrics`, `admin`; default: `inference`
    pub scopes: Option<Vec<String>>,
}

impl CreateAccountKey {
    pub fn parse(self) -> Result<(String, Vec<KeyScope>), ApiError> {
        let scopes = self.scopes.unwrap_or_else(|| vec!["inference".into()]);
        let scopes = scopes.iter().map(|scope| parse("scopes", scope)).collect::<Result<Vec<_>, _>>()?;
        Ok((self.name.unwrap_or_else(|| "Secret Key".into()), scopes))
    }
}

//! `lyceum admin users|service-accounts`

use super::Desk;
use crate::failure::Failure;
use clap::Subcommand;
use lyceum_store::tenancy::Page;
use lyceum_store::tenancy::people::{self, Member, NewUser, User};
use lyceum_store::tenancy::service_accounts::{self, FirstKey, ServiceAccount};
use lyceum_types::ids::{ServiceAccountId, UserId};
use lyceum_types::tenancy::ProjectRole;
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub enum Users {
    /// Add a user to the organisation
    Add {
        name: String,
        #[arg(long)]
        email: Option<String>,
        /// owner, reader
        #[arg(long, default_value = "reader")]
        role: String,
    },
    /// Show the users: of the organisation, or of a project
    Ls {
        #[arg(long, value_name = "PROJECT")]
        project: Option<String>,
    },
    /// Give a user another role in the organisation (owner, reader), or one in a project (owner, member)
    Role {
        id: String,
        role: String,
        #[arg(long, value_name = "PROJECT")]
        project: Option<String>,
    },
    /// Remove a user, with all keys: from the organisation, or from a project
    Rm {
        id: String,
        #[arg(long, value_name = "PROJECT")]
        project: Option<String>,
    },
}

impl Users {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        let (store, tenant, act) = (&desk.store, desk.tenant.as_str(), desk.act());
        match self {
            Users::Add { name, email, role } => {
                let new = NewUser { name, email, role: role.parse()?, is_default: false };
                let user = people::add_user(store, tenant, new, &act).await?;
                desk.say(&told(&user), user.id.as_str());
            }
            Users::Ls { project } => {
                let header = ["id", "name", "email", "role"];
                let rows = match project {
                    None => {
                        let users = people::users(store, tenant, &[], Page::WHOLE).await?.data;
                        users.iter().map(|user| row(user, told(user), user.role.as_str())).collect()
                    }
                    Some(id) => {
                        let project = desk.project(&id).await?;
                        let members = people::members(store, &project, Page::WHOLE).await?.data;
                        let one = |member: &Member| {
                            let mut json = told(&member.user);
                            json["project_role"] = Value::from(member.role.as_str());
                            row(&member.user, json, member.role.as_str())
                        };
                        members.iter().map(one).collect()
                    }
                };
                desk.list("users", &header, rows);
            }
            Users::Role { id, role, project } => {
                let user: UserId = id.parse()?;
                match project {
                    None => people::set_user_role(store, tenant, &user, role.parse()?, &act).await?,
                    Some(project) => {
                        let project = desk.project(&project).await?;
                        people::set_member(store, &project, &user, role.parse()?, &act).await?;
                    }
                }
                desk.say(&json!({"event": "done", "id": id, "role": role}), format!("{id} is {role}"));
            }
            Users::Rm { id, project } => {
                let user: UserId = id.parse()?;
                match project {
                    None => people::delete_user(store, tenant, &user, &act).await?,
                    Some(project) => {
                        let project = desk.project(&project).await?;
                        people::remove_member(store, &project, &user, &act).await?;
                    }
                }
                desk.say(&json!({"event": "done", "id": id}), format!("removed {id}"));
            }
        }
        Ok(())
    }
}

fn told(user: &User) -> Value {
    json!({"id": user.id.as_str(), "name": user.name, "email": user.email, "role": user.role.as_str(),
        "added": user.added_at.seconds()})
}

fn row(user: &User, json: Value, role: &str) -> (Value, Vec<String>) {
    let email = user.email.clone().unwrap_or_default();
    (json, vec![user.id.to_string(), user.name.clone(), email, role.to_owned()])
}

#[derive(Debug, Subcommand)]
pub enum ServiceAccounts {
    /// Make a service account and a key for it, which is shown once
    Create {
        project: String,
        name: String,
        /// Without a role and without a key
        #[arg(long)]
        no_key: bool,
    },
    /// Show the service accounts of a project
    Ls { project: String },
    /// Remove a service account; its keys stop
    Rm { project: String, id: String },
}

impl ServiceAccounts {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        let (store, act) = (&desk.store, desk.act());
        match self {
            ServiceAccounts::Create { project, name, no_key } => {
                let project = desk.project(&project).await?;
                let first = if no_key { FirstKey::None } else { FirstKey::Made };
                let (account, key) = service_accounts::create(store, &project, &name, first, &act).await?;
                let mut json = account_told(&account);
                match key {
                    None => desk.say(&json, account.id.as_str()),
                    Some((key, secret)) => {
                        json["key_id"] = Value::from(key.id.as_str());
                        json["key"] = Value::from(secret.reveal());
                        desk.show(&json, secret.reveal(), &format!("{} of {}", key.id, account.id));
                    }
                }
            }
            ServiceAccounts::Ls { project } => {
                let project = desk.project(&project).await?;
                let all = service_accounts::list(store, &project, Page::WHOLE).await?.data;
                let row = |account: &ServiceAccount| {
                    let role = account.role.map_or("none", ProjectRole::as_str);
                    (
                        account_told(account),
                        vec![account.id.to_string(), account.name.clone(), role.to_owned()],
                    )
                };
                desk.list("service_accounts", &["id", "name", "role"], all.iter().map(row).collect());
            }
            ServiceAccounts::Rm { project, id } => {
                let project = desk.project(&project).await?;
                let account: ServiceAccountId = id.parse()?;
                service_accounts::delete(store, &project, &account, &act).await?;
                desk.say(&json!({"event": "done", "id": id}), format!("removed {id}"));
            }
        }
        Ok(())
    }
}

fn account_told(account: &ServiceAccount) -> Value {
    json!({"id": account.id.as_str(), "name": account.name,
        "role": account.role.map_or("none", ProjectRole::as_str), "created": account.created_at.seconds()})
}

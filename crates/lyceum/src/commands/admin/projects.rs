//! `lyceum admin organizations|projects|models|retention`

use super::Desk;
use crate::failure::Failure;
use crate::time;
use clap::{Args, Subcommand};
use lyceum_service::encryption;
use lyceum_store::keys::KeyGrant;
use lyceum_store::tenancy::projects::{self, Described, Which};
use lyceum_store::tenancy::{Page, admin_keys};
use lyceum_types::ids::KeyScope;
use lyceum_types::tenancy::{ListMode, ModelPermissions};
use serde_json::{Value, json};

#[derive(Debug, Subcommand)]
pub enum Organizations {
    /// Make an organisation with a first project, and its first admin key, which is shown once
    Create { name: String },
    /// Show the organisations
    Ls,
}

impl Organizations {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        match self {
            Organizations::Create { name } => {
                let act = desk.act();
                let (made, project) = projects::create_organization(&desk.store, &name, &act).await?;
                let owner = admin_keys::operator(&desk.store, &made.id, &act).await?;
                let scopes = vec![KeyScope::OrganizationWrite];
                let grant = KeyGrant { name: "first".into(), scopes, expires_at: None };
                let created = admin_keys::create(&desk.store, &made.id, &owner.id, grant, &act).await?;
                let (key, secret) = created;
                let json = json!({"id": made.id, "name": made.name, "project": project.project.id,
                    "admin_key_id": key.id.as_str(), "admin_key": secret.reveal()});
                let note = format!("{} with the project {}; its admin key", made.id, project.project.id);
                desk.show(&json, secret.reveal(), &note);
            }
            Organizations::Ls => {
                let all = projects::organizations(&desk.store).await?.into_iter().map(|found| {
                    let json = json!({"id": found.id, "name": found.name,
                        "retention_type": found.retention.as_str(), "created": found.created_at.seconds()});
                    (json, vec![found.id, found.name, found.retention.to_string()])
                });
                desk.list("organizations", &["id", "name", "retention"], all.collect());
            }
        }
        Ok(())
    }
}

#[derive(Debug, Subcommand)]
pub enum Projects {
    /// Make a project
    Create {
        name: String,
        /// Seal what it keeps with a key of its own, which the master key opens
        #[arg(long)]
        encrypted: bool,
    },
    /// End an encrypted project and destroy its key: nothing that it kept can be read again; prints a signed receipt
    Erase {
        id: String,
        /// Once more, because nothing brings it back
        #[arg(long, value_name = "ID")]
        confirm: String,
    },
    /// Show the projects
    Ls {
        /// Archived ones too
        #[arg(long)]
        archived: bool,
    },
    /// Give a project another name
    Rename { id: String, name: String },
    /// End a project for good: its keys stop, nothing of it can be changed
    Archive { id: String },
}

fn told(found: &Described) -> Value {
    json!({"id": found.project.id, "name": found.name, "created": found.created_at.seconds(),
        "archived_at": found.archived_at.map(|at| at.seconds()), "retention_type": found.retention.as_str()})
}

impl Projects {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        match self {
            Projects::Create { name, encrypted } => {
                if encrypted && desk.store.keyring().master_id().is_none() {
                    return Err(no_master());
                }
                let asked = (&*desk.tenant, &*name);
                let made = encryption::create_project(&desk.store, asked, encrypted, &desk.act()).await?;
                desk.say(&told(&made), &made.project.id);
            }
            Projects::Erase { id, confirm } => {
                confirmed(&id, &confirm)?;
                let project = desk.project(&id).await?;
                let receipt = encryption::erase(&desk.store, &project, &desk.act()).await?;
                desk.say(&receipt, format!("{receipt:#}"));
            }
            Projects::Ls { archived } => {
                let which = if archived { Which::All } else { Which::Active };
                let all = projects::list(&desk.store, &desk.tenant, which, Page::WHOLE).await?;
                let row = |found: Described| {
                    let ended = found.archived_at.map_or_else(|| "active".to_owned(), time::for_people);
                    let retention = found.retention.to_string();
                    (told(&found), vec![found.project.id, found.name, ended, retention])
                };
                let header = ["id", "name", "archived", "retention"];
                desk.list("projects", &header, all.data.into_iter().map(row).collect());
            }
            Projects::Rename { id, name } => {
                let project = desk.project(&id).await?;
                projects::rename(&desk.store, &project, &name, &desk.act()).await?;
                desk.say(&json!({"event": "done", "id": id}), format!("{id} is called {name:?}"));
            }
            Projects::Archive { id } => {
                let project = desk.project(&id).await?;
                projects::archive(&desk.store, &project, &desk.act()).await?;
                desk.say(&json!({"event": "done", "id": id}), format!("archived {id}"));
            }
        }
        Ok(())
    }
}

/// Whether the project that is to be erased was named twice.
pub(super) fn confirmed(id: &str, confirm: &str) -> Result<(), Failure> {
    if id == confirm {
        return Ok(());
    }
    let message = format!("--confirm says {confirm:?}, not {id:?}");
    let why = "what is erased cannot be brought back";
    Err(Failure::usage(message, why, format!("--confirm {id}, if you mean it")))
}

fn no_master() -> Failure {
    let fix = "lyceum admin master-key create FILE, then LYCEUM_MASTER_KEY_FILE=FILE";
    Failure::usage("there is no master key", "it opens the keys of encrypted projects", fix)
}

#[derive(Debug, Subcommand)]
pub enum Models {
    /// Show what a project may ask
    Show { project: String },
    /// These models and no others: name, name@3
    Allow { project: String, models: Vec<String> },
    /// All models but these
    Deny { project: String, models: Vec<String> },
    /// Every model again
    All { project: String },
}

impl Models {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        let (id, models) = match self {
            Models::Show { project } => (project, None),
            Models::All { project } => (project, Some(None)),
            Models::Allow { project, models } => {
                (project, Some(Some(ModelPermissions::new(ListMode::AllowList, models)?)))
            }
            Models::Deny { project, models } => {
                (project, Some(Some(ModelPermissions::new(ListMode::DenyList, models)?)))
            }
        };
        let project = desk.project(&id).await?;
        if let Some(models) = models {
            projects::set_models(&desk.store, &project, models.as_ref(), &desk.act()).await?;
        }
        let holds = projects::standing(&desk.store, &project).await?.models;
        let json = json!({"project": id, "mode": holds.as_ref().map(|models| models.mode.as_str()),
            "model_ids": holds.as_ref().map(ModelPermissions::ids).unwrap_or_default()});
        let words = match &holds {
            None => format!("{id} may ask every model"),
            Some(models) => {
                let names = models.ids().join(", ");
                let which = if models.mode == ListMode::AllowList { "only" } else { "all but" };
                format!("{id} may ask {which}: {names}")
            }
        };
        desk.say(&json, words);
        Ok(())
    }
}

#[derive(Debug, Args)]
pub struct Retention {
    /// What holds from now on: zero_data_retention, modified_abuse_monitoring; for a project also
    /// organization_default, none
    pub(super) kind: Option<String>,
    /// Of this project, not of the organisation
    #[arg(long, value_name = "PROJECT")]
    pub(super) project: Option<String>,
}

impl Retention {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        let (of, holds) = match &self.project {
            None => {
                if let Some(kind) = &self.kind {
                    let act = desk.act();
                    projects::set_organization_retention(&desk.store, &desk.tenant, kind.parse()?, &act)
                        .await?;
                }
                let found = projects::organization(&desk.store, &desk.tenant).await?;
                (found.id, found.retention.as_str())
            }
            Some(id) => {
                let project = desk.project(id).await?;
                if let Some(kind) = &self.kind {
                    projects::set_retention(&desk.store, &project, kind.parse()?, &desk.act()).await?;
                }
                (id.clone(), projects::find(&desk.store, &project).await?.retention.as_str())
            }
        };
        desk.say(&json!({"id": of, "retention_type": holds}), format!("{of}: {holds}"));
        Ok(())
    }
}

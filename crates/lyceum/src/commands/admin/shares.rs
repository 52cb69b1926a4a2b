//! `lyceum admin share|unshare|shares`: models that projects may ask though another project has them.

use super::remote::{every, text};
use super::{Desk, list, say};
use crate::context::Context;
use crate::failure::Failure;
use crate::remote::{Client, path_of};
use clap::{Args, Subcommand};
use lyceum_store::models::shares::{self, Share, With};
use lyceum_types::ids::{ModelName, Project};
use serde_json::{Value, json};

/// Which model, and who may ask it.
#[derive(Debug, Args)]
pub struct Asked {
    model: String,
    /// One project
    #[arg(long, value_name = "PROJECT", conflicts_with_all = ["all_projects", "everyone"])]
    with: Option<String>,
    /// Every project of the organisation
    #[arg(long, conflicts_with = "everyone")]
    all_projects: bool,
    /// Every project of every organisation
    #[arg(long)]
    everyone: bool,
    /// The project that has the model
    #[arg(long, value_name = "PROJECT", default_value = "default")]
    owner: String,
}

#[derive(Debug, Subcommand)]
pub enum Shares {
    /// Let others ask a model, all its versions
    Add(Asked),
    /// Take that back: the next request does not find it
    Remove(Asked),
    /// Show what the organisation's projects share
    Ls,
}

impl Asked {
    async fn share(self, desk: &Desk<'_>) -> Result<Share, Failure> {
        let with = match (self.with, self.all_projects, self.everyone) {
            (Some(id), ..) => With::Project(desk.any_project(&id).await?),
            (None, true, _) => With::Organization(desk.tenant.clone()),
            (None, _, true) => With::Everyone,
            (None, false, false) => return Err(nobody()),
        };
        let owner = Project { tenant: desk.tenant.clone(), id: self.owner };
        let name: ModelName = self.model.parse()?;
        Ok(Share { owner, name, with })
    }
}

impl Asked {
    /// The path of the owner's shares, the body that shares, and the end of the share's id.
    fn remote(&self) -> Result<(String, Value, String), Failure> {
        let (with, end) = match (&self.with, self.all_projects, self.everyone) {
            (Some(id), ..) => (json!({"type": "project", "project_id": id}), id.as_str()),
            (None, true, _) => (json!({"type": "organization"}), "organization"),
            (None, _, true) => (json!({"type": "everyone"}), "everyone"),
            (None, false, false) => return Err(nobody()),
        };
        let body = json!({"model": self.model, "with": with});
        let id = format!("shr-{}@{end}", self.model);
        Ok((shares_of(&self.owner), body, id))
    }
}

fn nobody() -> Failure {
    let fix = "--with PROJECT, --all-projects or --everyone";
    Failure::usage("nobody is named", "a model is shared with somebody", fix)
}

fn shares_of(project: &str) -> String {
    format!("/v1/organization/projects/{}/model_shares", path_of(project))
}

/// Who may ask, in the words of the command line.
fn with_of(share: &Value) -> String {
    let with = &share["with"];
    match with["type"].as_str() {
        Some("project") => text(with, "project_id"),
        Some("organization") => format!("every project of {}", text(with, "organization_id")),
        _ => "everyone".to_owned(),
    }
}

impl Shares {
    /// The same of a server's projects.
    pub(super) fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let done = |share: &Value, model: &str, with: String, verb: &str| {
            let json = json!({"event": "done", "model": model, "with": with});
            say(context, &json, format!("{model} is {verb} with {}", with_of(share)));
        };
        match self {
            Shares::Add(asked) => {
                let (path, body, _) = asked.remote()?;
                let share = client.post(&path, &body)?;
                done(&share, &asked.model, with_of(&share), "shared");
            }
            Shares::Remove(asked) => {
                let (path, _, id) = asked.remote()?;
                let share = every(client, &path)?.into_iter().find(|share| share["id"] == id.as_str());
                client.delete(&format!("{path}/{}", path_of(&id)))?;
                let share = share.unwrap_or_default();
                done(&share, &asked.model, with_of(&share), "no longer shared");
            }
            Shares::Ls => {
                let mut all = Vec::new();
                for project in every(client, "/v1/organization/projects?include_archived=true")? {
                    all.extend(every(client, &shares_of(&text(&project, "id")))?);
                }
                all.sort_by_key(|share| (text(share, "project_id"), text(share, "model")));
                let row = |share: Value| {
                    let (model, owner, with) =
                        (text(&share, "model"), text(&share, "project_id"), with_of(&share));
                    (json!({"model": model, "owner": owner, "with": with}), vec![model, owner, with])
                };
                let header = ["model", "owner", "with"];
                list(context, "shares", &header, all.into_iter().map(row).collect());
            }
        }
        Ok(())
    }

    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        let (share, verb) = match self {
            Shares::Add(asked) => {
                let share = asked.share(desk).await?;
                shares::share(&desk.store, &share, &desk.act()).await?;
                (share, "shared")
            }
            Shares::Remove(asked) => {
                let share = asked.share(desk).await?;
                shares::unshare(&desk.store, &share, &desk.act()).await?;
                (share, "no longer shared")
            }
            Shares::Ls => {
                let all = shares::list(&desk.store, &desk.tenant).await?;
                let row = |share: Share| {
                    let with = share.with.to_string();
                    let json = json!({"model": share.name.as_str(), "owner": share.owner.id, "with": with});
                    (json, vec![share.name.to_string(), share.owner.id, with])
                };
                desk.list("shares", &["model", "owner", "with"], all.into_iter().map(row).collect());
                return Ok(());
            }
        };
        let json = json!({"event": "done", "model": share.name.as_str(), "with": share.with.to_string()});
        desk.say(&json, format!("{} is {verb} with {}", share.name, share.with));
        Ok(())
    }
}

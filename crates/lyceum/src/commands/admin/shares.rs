//! `lyceum admin share|unshare|shares`: models that projects may ask though another project has them.

use super::Desk;
use crate::failure::Failure;
use clap::{Args, Subcommand};
use lyceum_store::models::shares::{self, Share, With};
use lyceum_types::ids::{ModelName, Project};
use serde_json::json;

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
            (None, false, false) => {
                let fix = "--with PROJECT, --all-projects or --everyone";
                return Err(Failure::usage("nobody is named", "a model is shared with somebody", fix));
            }
        };
        let owner = Project { tenant: desk.tenant.clone(), id: self.owner };
        let name: ModelName = self.model.parse()?;
        Ok(Share { owner, name, with })
    }
}

impl Shares {
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

//! `lyceum admin …`: organisations, projects, users, service accounts, admin keys, limits, retention; on the data folder
//! itself, with no key. What a running server knows by heart it reads again within half a second.

mod guard;
mod keys;
mod limits;
mod master;
mod people;
mod projects;
pub(in crate::commands) mod remote;
mod shares;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, Subcommand};
use lyceum_store::Store;
use lyceum_store::tenancy::{self, Act};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use serde_json::Value;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Admin {
    /// The organisation, where there are several
    #[arg(long, global = true, value_name = "ORG", default_value = "default")]
    org: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Organisations: tenants that know nothing of each other
    #[command(subcommand)]
    Organizations(projects::Organizations),
    /// Projects of the organisation
    #[command(subcommand)]
    Projects(projects::Projects),
    /// The key that opens what encrypted projects keep
    #[command(subcommand)]
    MasterKey(master::Master),
    /// Check the signature of the receipt of an erasure
    VerifyReceipt { file: PathBuf },
    /// Models that projects may ask though another project has them
    #[command(subcommand)]
    Shares(shares::Shares),
    /// Which models a project may ask
    #[command(subcommand)]
    Models(projects::Models),
    /// What is kept of requests and answers
    Retention(projects::Retention),
    /// What a project's texts are looked through for, on their way in and out
    Guard(guard::Guard),
    /// Keys of the organisation, for administration over HTTP
    #[command(subcommand)]
    Keys(keys::Keys),
    /// People of the organisation and their places in projects
    #[command(subcommand)]
    Users(people::Users),
    /// Programs with keys of their own
    #[command(subcommand)]
    ServiceAccounts(people::ServiceAccounts),
    /// How much may be asked
    #[command(subcommand)]
    Limits(limits::Limits),
}

impl Admin {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match &self.command {
            Command::MasterKey(master::Master::Create { file }) => {
                return master::Master::create(file, context);
            }
            Command::VerifyReceipt { file } => return master::verify_receipt(file, context),
            _ => {}
        }
        let store = context.store().await?;
        let tenant = organization(&store, &self.org).await?;
        let desk = Desk { context, store, tenant };
        match self.command {
            Command::Organizations(command) => command.run(&desk).await,
            Command::Projects(command) => command.run(&desk).await,
            Command::MasterKey(command) => command.run(&desk),
            Command::VerifyReceipt { file } => master::verify_receipt(&file, context),
            Command::Shares(command) => command.run(&desk).await,
            Command::Models(command) => command.run(&desk).await,
            Command::Retention(command) => command.run(&desk).await,
            Command::Guard(command) => command.run(&desk).await,
            Command::Keys(command) => command.run(&desk).await,
            Command::Users(command) => command.run(&desk).await,
            Command::ServiceAccounts(command) => command.run(&desk).await,
            Command::Limits(command) => command.run(&desk).await,
        }
    }
}

/// The organisation that `--org` means: by its id, or by a name that only one has.
///
/// # Errors
/// There is none, or several have the name.
pub(in crate::commands) async fn organization(store: &Store, named: &str) -> Result<String, Failure> {
    let all = tenancy::projects::organizations(store).await?;
    if all.iter().any(|organization| organization.id == named) {
        return Ok(named.to_owned());
    }
    let fix = "lyceum admin organizations ls shows them";
    match &all.iter().filter(|organization| organization.name == named).collect::<Vec<_>>()[..] {
        [] => {
            let message = format!("organisation {named:?} not found");
            Err(Failure::new(Exit::NotFound, "not_found", message, "none has this id or name", fix))
        }
        [one] => Ok(one.id.clone()),
        several => {
            let message = format!("{} organisations are called {named:?}", several.len());
            Err(Failure::usage(message, "a name says which only where one has it", fix))
        }
    }
}

/// Where administration is done: a store, and one organisation of it.
struct Desk<'a> {
    context: &'a Context,
    store: Store,
    tenant: String,
}

impl Desk<'_> {
    fn act(&self) -> Act {
        Act::of_command_line(Timestamp::now())
    }

    /// A project of the organisation that is there.
    async fn project(&self, id: &str) -> Result<Project, Failure> {
        let project = Project { tenant: self.tenant.clone(), id: id.to_owned() };
        Ok(tenancy::projects::find(&self.store, &project).await?.project)
    }

    /// A project of whichever organisation.
    async fn any_project(&self, id: &str) -> Result<Project, Failure> {
        for organization in tenancy::projects::organizations(&self.store).await? {
            let project = Project { tenant: organization.id, id: id.to_owned() };
            if id != Project::default_project().id
                && tenancy::projects::find(&self.store, &project).await.is_ok()
            {
                return Ok(project);
            }
        }
        self.project(id).await
    }

    fn say(&self, json: &Value, words: impl AsRef<str>) {
        say(self.context, json, words);
    }

    fn list(&self, name: &str, header: &[&str], rows: Vec<(Value, Vec<String>)>) {
        list(self.context, name, header, rows);
    }

    fn show(&self, json: &Value, secret: &str, note: &str) {
        show(self.context, json, secret, note);
    }
}

/// One thing: its JSON for programs, its words for people.
pub(in crate::commands) fn say(context: &Context, json: &Value, words: impl AsRef<str>) {
    match context.is_json() {
        true => output::json_line(json),
        false => output::text(words),
    }
}

/// Several things under a name: JSON for programs, a table for people.
pub(in crate::commands) fn list(
    context: &Context,
    name: &str,
    header: &[&str],
    rows: Vec<(Value, Vec<String>)>,
) {
    if context.is_json() {
        let all: Vec<Value> = rows.into_iter().map(|(json, _)| json).collect();
        return output::json_line(&serde_json::json!({ name: all }));
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    output::table(header, &rows);
}

/// A secret that is shown this once.
pub(in crate::commands) fn show(context: &Context, json: &Value, secret: &str, note: &str) {
    if context.is_json() {
        return output::json_line(json);
    }
    output::text(secret);
    output::note(format!("{note}: it is shown this once"));
}

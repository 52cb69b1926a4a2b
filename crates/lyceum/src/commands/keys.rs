//! `lyceum keys create|ls|revoke|rotate`

use crate::commands::admin::organization;
use crate::context::Context;
use crate::failure::Failure;
use crate::{output, time};
use clap::{Args, Subcommand};
use lyceum_store::Store;
use lyceum_store::keys::{self, Key, KeyGrant, KeyOwner, KeySecret};
use lyceum_store::tenancy::projects::Which;
use lyceum_store::tenancy::{Act, Page, projects};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyId, KeyScope, Project};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct Keys {
    /// The project, where there are several
    #[arg(long, global = true, value_name = "PROJECT")]
    pub(in crate::commands) project: Option<String>,
    /// The organisation of the project
    #[arg(long, global = true, value_name = "ORG", default_value = "default")]
    pub(in crate::commands) org: String,
    #[command(subcommand)]
    pub(in crate::commands) command: Command,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum Command {
    /// Make a key and show it once
    Create {
        /// What the key is called
        #[arg(long, default_value = "")]
        name: String,
        /// What it may do: inference, metrics, admin (repeat for several)
        #[arg(long = "scope", value_name = "SCOPE", default_value = "inference")]
        scopes: Vec<String>,
        /// When it ends, from now: 30m, 12h, 90d (default: never)
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        /// Whose it is: a user of the project, or one of its service accounts (default: nobody's)
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
    },
    /// Show the keys, without their secrets
    Ls,
    /// End a key at once
    Revoke {
        /// `key_…`, as `keys ls` shows it
        id: String,
    },
    /// Make a successor with the same rights and limits; the key itself lives on for the overlap
    Rotate {
        /// `key_…`, as `keys ls` shows it
        id: String,
        /// How long both are valid: 30m, 12h, 7d (default: the old one ends at once)
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
}

/// Projects that a refusal names at most.
const PROJECTS_NAMED: u32 = 20;

/// The keys of one project.
struct Of<'a> {
    context: &'a Context,
    store: Store,
    project: Project,
}

impl Keys {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let project = project_of(&store, (&self.org, self.project), context).await?;
        let of = Of { context, store, project };
        match self.command {
            Command::Create { name, scopes, expires, owner } => {
                create(&of, name, &scopes, expires, owner).await
            }
            Command::Ls => list(&of).await,
            Command::Revoke { id } => revoke(&of, &id).await,
            Command::Rotate { id, overlap } => rotate(&of, &id, overlap).await,
        }
    }
}

/// The project that is meant: the one that is named, else an organisation's only one.
async fn project_of(
    store: &Store,
    (org, project): (&str, Option<String>),
    context: &Context,
) -> Result<Project, Failure> {
    let tenant = organization(store, org).await?;
    if let Some(id) = project {
        return Ok(projects::find(store, &Project { tenant, id }).await?.project);
    }
    if tenant == context.project.tenant {
        return Ok(context.project.clone());
    }
    let page = Page { after: None, limit: PROJECTS_NAMED };
    let found = projects::list(store, &tenant, Which::Active, page).await?;
    match &found.data[..] {
        [only] => Ok(only.project.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|found| found.project.id.as_str()).collect();
            let message = format!("{org} has {} projects", if names.is_empty() { "no" } else { "several" });
            let why = format!("a key is of one project; there are {}", names.join(", "));
            Err(Failure::usage(message, why, "add --project PROJECT"))
        }
    }
}

async fn create(
    of: &Of<'_>,
    name: String,
    scopes: &[String],
    expires: Option<String>,
    owner: Option<String>,
) -> Result<(), Failure> {
    let now = Timestamp::now();
    let mut granted: Vec<KeyScope> = Vec::new();
    for scope in scopes.iter().flat_map(|scopes| scopes.split(',')) {
        let scope = scope.trim().parse()?;
        if !granted.contains(&scope) {
            granted.push(scope);
        }
    }
    let expires_at = expires
        .as_deref()
        .map(|text| time::duration(text, "--expires 90d"))
        .transpose()?
        .map(|duration| now.plus(duration));
    let owner = match owner {
        None => KeyOwner::Nobody,
        Some(id) if id.starts_with("user_") => KeyOwner::User(id.parse()?),
        Some(id) => KeyOwner::ServiceAccount(id.parse()?),
    };
    let grant = KeyGrant { name, scopes: granted, expires_at };
    let made = keys::create_for(&of.store, &of.project, grant, owner, &Act::of_command_line(now)).await?;
    show(of.context, made);
    Ok(())
}

async fn rotate(of: &Of<'_>, id: &str, overlap: Option<String>) -> Result<(), Failure> {
    let overlap = overlap.map(|text| time::duration(&text, "--overlap 12h")).transpose()?;
    let (overlap, act) = (overlap.unwrap_or(Duration::ZERO), Act::of_command_line(Timestamp::now()));
    show(of.context, keys::rotate(&of.store, &of.project, &id.parse()?, overlap, &act).await?);
    Ok(())
}

fn show(context: &Context, (key, secret): (Key, KeySecret)) {
    if context.is_json() {
        output::json_line(&json!({
            "id": key.id.as_str(),
            "key": secret.reveal(),
            "scopes": scope_names(&key),
            "expires_at": key.grant.expires_at.map(Timestamp::seconds),
        }));
        return;
    }
    output::text(secret.reveal());
    output::note(format!("{} ({}): it is shown this once", key.id, scope_names(&key).join(", ")));
}

async fn list(of: &Of<'_>) -> Result<(), Failure> {
    let context = of.context;
    let keys = keys::list(&of.store, &of.project).await?;
    let now = Timestamp::now();
    if context.is_json() {
        let keys: Vec<Value> = keys.iter().map(|key| line(key, now)).collect();
        output::json_line(&json!({ "keys": keys }));
        return Ok(());
    }
    let moment = |time: Option<Timestamp>| time.map_or_else(|| "never".to_owned(), time::for_people);
    let row = |key: &Key| {
        vec![
            key.id.to_string(),
            key.grant.name.clone(),
            scope_names(key).join(", "),
            status(key, now).to_owned(),
            moment(key.grant.expires_at),
            moment(key.last_used_at),
        ]
    };
    let header = ["id", "name", "scopes", "status", "expires", "last used"];
    output::table(&header, &keys.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

async fn revoke(of: &Of<'_>, id: &str) -> Result<(), Failure> {
    let id: KeyId = id.parse()?;
    keys::revoke(&of.store, &of.project, &id, Timestamp::now()).await?;
    if of.context.is_json() {
        output::json_line(&json!({ "event": "done", "id": id.as_str() }));
    } else {
        output::text(format!("revoked {id}"));
    }
    Ok(())
}

fn line(key: &Key, now: Timestamp) -> Value {
    json!({
        "id": key.id.as_str(),
        "name": key.grant.name,
        "scopes": scope_names(key),
        "status": status(key, now),
        "created": key.created_at.seconds(),
        "expires_at": key.grant.expires_at.map(Timestamp::seconds),
        "last_used_at": key.last_used_at.map(Timestamp::seconds),
    })
}

fn scope_names(key: &Key) -> Vec<&'static str> {
    key.grant.scopes.iter().map(|scope| scope.as_str()).collect()
}

fn status(key: &Key, now: Timestamp) -> &'static str {
    match (key.revoked_at, key.grant.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now => "expired",
        _ => "active",
    }
}

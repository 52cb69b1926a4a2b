//! `lyceum alias ls|set|rm|rollback` and `lyceum approve`: names that move between versions.

use crate::context::Context;
use crate::failure::Failure;
use crate::remote::{Client, path_of};
use crate::{output, time};
use clap::{Args, Subcommand};
use lyceum_service::registry::{self, Act, Actor};
use lyceum_store::StoreError;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{Alias as Name, ModelName, ModelRef, VersionRef};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Alias {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the aliases of a model and what happened to them
    Ls {
        /// `name`
        model: String,
    },
    /// Point an alias at a version: alias set digits@3 prod
    Set {
        /// `name@VERSION`
        model: String,
        alias: String,
        /// From now on it moves to approved versions only, and its version cannot be deleted
        #[arg(long, conflicts_with = "unprotect")]
        protect: bool,
        /// It moves freely again
        #[arg(long)]
        unprotect: bool,
        /// Why, for the history
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Point an alias back at the version that it had before
    Rollback {
        /// `name@alias`
        model: String,
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Take an alias away
    Rm {
        /// `name@alias`
        model: String,
        #[arg(long, default_value = "")]
        note: String,
    },
}

/// Say that you take responsibility for a version: what protected aliases ask for
#[derive(Debug, Args)]
pub struct Approve {
    /// `name@VERSION`
    model: String,
    /// What it rests on
    #[arg(long, default_value = "")]
    note: String,
}

impl Alias {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Ls { model } => list(context, &model).await,
            Command::Set { model, alias, protect, unprotect, note } => {
                let protect = (protect || unprotect).then_some(protect);
                set(context, &model, &alias, protect, note).await
            }
            Command::Rollback { model, note } => {
                let (name, alias) = aliased(&model)?;
                let store = context.store().await?;
                let moved = registry::roll_back(&store, &context.project, &name, &alias, &act(note)).await?;
                told(context, &name, &alias, Some(moved.0), Some(moved.1));
                Ok(())
            }
            Command::Rm { model, note } => {
                let (name, alias) = aliased(&model)?;
                let store = context.store().await?;
                let was = registry::remove_alias(&store, &context.project, &name, &alias, &act(note)).await?;
                told(context, &name, &alias, Some(was), None);
                Ok(())
            }
        }
    }
}

impl Alias {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.command {
            Command::Ls { model } => {
                let name: ModelName = model.parse()?;
                let path = format!("/v1/models/{}", path_of(name.as_str()));
                let list = |noun: &str| -> Result<Vec<Value>, Failure> {
                    let found = client.get(&format!("{path}/{noun}"))?;
                    Ok(found["data"].as_array().cloned().unwrap_or_default())
                };
                listed(context, &name, &list("aliases")?, &list("history")?);
            }
            Command::Set { model, alias, protect, unprotect, note } => {
                let (name, version) = numbered(&model)?;
                let alias: Name = alias.parse()?;
                let mut body = json!({ "alias": alias.as_str(), "note": note });
                if protect || unprotect {
                    body["protected"] = json!(protect);
                }
                let moved = client.post(&format!("/v1/models/{}/aliases", path_of(&model)), &body)?;
                told(context, &name, &alias, number(&moved["before"]), Some(version));
            }
            Command::Rollback { model, note } => {
                let (name, alias) = aliased(&model)?;
                let path = format!("/v1/models/{}/aliases/{alias}/rollback", path_of(name.as_str()));
                let moved = client.post(&path, &json!({ "note": note }))?;
                told(context, &name, &alias, number(&moved["before"]), number(&moved["version"]));
            }
            Command::Rm { model, note } => {
                if !note.is_empty() {
                    let why = "the route that takes an alias away keeps no note";
                    return Err(Failure::usage("--note has no meaning with --url here", why, "leave it out"));
                }
                let (name, alias) = aliased(&model)?;
                client.delete(&format!("/v1/models/{}/aliases/{alias}", path_of(name.as_str())))?;
                told(context, &name, &alias, None, None);
            }
        }
        Ok(())
    }
}

impl Approve {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        numbered(&self.model)?;
        let path = format!("/v1/models/{}/approve", path_of(&self.model));
        let done = client.post(&path, &json!({ "note": self.note }))?;
        if context.is_json() {
            output::json_line(&json!({ "event": "done", "approved": done["id"] }));
        } else {
            output::text(format!("{} is approved by this key", self.model));
        }
        Ok(())
    }

    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (name, number) = numbered(&self.model)?;
        let store = context.store().await?;
        match registry::approve(&store, &context.project, &name, number, &act(self.note)).await {
            Ok(()) => {}
            Err(error @ StoreError::NotFound { .. }) => return Err(context.explain(&store, error).await),
            Err(error) => return Err(error.into()),
        }
        if context.is_json() {
            output::json_line(&json!({ "event": "done", "approved": format!("{name}@{number}") }));
        } else {
            output::text(format!("{name}@{number} is approved by {}", user()));
        }
        Ok(())
    }
}

async fn set(
    context: &Context,
    model: &str,
    alias: &str,
    protect: Option<bool>,
    note: String,
) -> Result<(), Failure> {
    let (name, number) = numbered(model)?;
    let alias: Name = alias.parse()?;
    let store = context.store().await?;
    let (at, to) = ((&name, &alias), (number, protect));
    match registry::set_alias(&store, &context.project, at, to, &act(note)).await {
        Ok(before) => {
            told(context, &name, &alias, before, Some(number));
            Ok(())
        }
        Err(error @ StoreError::NotFound { .. }) => Err(context.explain(&store, error).await),
        Err(error) => Err(error.into()),
    }
}

async fn list(context: &Context, model: &str) -> Result<(), Failure> {
    let name: ModelName = model.parse()?;
    let store = context.store().await?;
    let aliases = registry::aliases(&store, &context.project, &name).await?;
    let history = registry::history(&store, &context.project, &name).await?;
    let aliases: Vec<_> = aliases
        .iter()
        .map(|a| json!({ "alias": a.alias.as_str(), "version": a.version, "protected": a.protected }))
        .collect();
    let history: Vec<_> = history
        .iter()
        .map(|event| {
            json!({
                "event": event.kind.as_str(), "version": event.version, "alias": event.alias,
                "before": event.before, "actor": event.actor, "note": event.note,
                "created_at": event.at.seconds(),
            })
        })
        .collect();
    listed(context, &name, &aliases, &history);
    Ok(())
}

fn listed(context: &Context, name: &ModelName, aliases: &[Value], history: &[Value]) {
    if context.is_json() {
        output::json_line(&json!({ "model": name.as_str(), "aliases": aliases, "history": history }));
        return;
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let rows: Vec<_> = aliases
        .iter()
        .map(|a| {
            let protected = if a["protected"] == true { "approved versions only" } else { "" };
            vec![text(&a["alias"]), format!("{name}@{}", a["version"]), protected.to_owned()]
        })
        .collect();
    output::table(&["alias", "version", "moves to"], &rows);
    let rows: Vec<_> = history
        .iter()
        .map(|event| {
            let seconds = event["created_at"].as_i64().unwrap_or_default();
            let when = time::for_people(Timestamp::from_millis(seconds.saturating_mul(1000)));
            let mut row = vec![when, text(&event["event"]).replace('_', " ")];
            row.extend(["alias", "before", "version", "actor", "note"].map(|field| text(&event[field])));
            row
        })
        .collect();
    output::text("");
    output::table(&["when", "what", "alias", "from", "version", "who", "note"], &rows);
}

fn told(context: &Context, name: &ModelName, alias: &Name, before: Option<u32>, now: Option<u32>) {
    if context.is_json() {
        let alias = format!("{name}@{alias}");
        output::json_line(&json!({ "event": "done", "alias": alias, "before": before, "version": now }));
        return;
    }
    output::text(match (before, now) {
        (Some(before), Some(now)) => format!("{name}@{alias} is version {now} (was {before})"),
        (None, Some(now)) => format!("{name}@{alias} is version {now}"),
        (_, None) => format!("{name}@{alias} is gone"),
    });
}

/// What is typed now.
pub fn act(note: String) -> Act {
    Act { actor: Actor::User(user()), note, now: Timestamp::now() }
}

/// The user of the machine, as the history names who typed a command.
fn user() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_default();
    if name.is_empty() { "command line".into() } else { format!("{name} (command line)") }
}

pub fn numbered(model: &str) -> Result<(ModelName, u32), Failure> {
    let reference: ModelRef = model.parse()?;
    match reference.version {
        VersionRef::Number(number) => Ok((reference.name, number)),
        _ => Err(Failure::usage(
            format!("{model} names no version by number"),
            "what is said of a version must stay true when newer ones come",
            "write NAME@2",
        )),
    }
}

fn aliased(model: &str) -> Result<(ModelName, Name), Failure> {
    let reference: ModelRef = model.parse()?;
    match reference.version {
        VersionRef::Alias(alias) => Ok((reference.name, alias)),
        _ => Err(Failure::usage(format!("{model} names no alias"), "only aliases move", "write NAME@prod")),
    }
}

//! `lyceum alias ls|set|rm|rollback` and `lyceum approve`: names that move between versions.

use crate::context::Context;
use crate::failure::Failure;
use crate::{output, time};
use clap::{Args, Subcommand};
use lyceum_store::StoreError;
use lyceum_store::registry::{self, Act};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{Alias as Name, ModelName, ModelRef, VersionRef};
use serde_json::json;

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

impl Approve {
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
    if context.is_json() {
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
        output::json_line(&json!({ "model": name.as_str(), "aliases": aliases, "history": history }));
        return Ok(());
    }
    let rows: Vec<_> = aliases
        .iter()
        .map(|a| {
            let protected = if a.protected { "approved versions only" } else { "" };
            vec![a.alias.to_string(), format!("{name}@{}", a.version), protected.to_owned()]
        })
        .collect();
    output::table(&["alias", "version", "moves to"], &rows);
    let rows: Vec<_> = history
        .iter()
        .map(|event| {
            vec![
                time::for_people(event.at),
                event.kind.as_str().replace('_', " "),
                event.alias.clone().unwrap_or_default(),
                event.before.map_or_else(String::new, |before| before.to_string()),
                event.version.to_string(),
                event.actor.clone(),
                event.note.clone(),
            ]
        })
        .collect();
    output::text("");
    output::table(&["when", "what", "alias", "from", "version", "who", "note"], &rows);
    Ok(())
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

fn act(note: String) -> Act {
    Act { actor: user(), note, now: Timestamp::now() }
}

/// The user of the machine, as the history names who typed a command.
pub fn user() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("USERNAME")).unwrap_or_default();
    if name.is_empty() { "command line".into() } else { format!("{name} (command line)") }
}

fn numbered(model: &str) -> Result<(ModelName, u32), Failure> {
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

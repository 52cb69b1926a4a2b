//! `lyceum keys create|ls|revoke`

use crate::context::Context;
use crate::failure::Failure;
use crate::{output, time};
use clap::{Args, Subcommand};
use lyceum_store::keys::{self, Key, KeyGrant};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyId, KeyScope};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Keys {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
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
    },
    /// Show the keys, without their secrets
    Ls,
    /// End a key at once
    Revoke {
        /// `key_…`, as `keys ls` shows it
        id: String,
    },
}

impl Keys {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Create { name, scopes, expires } => create(context, name, &scopes, expires).await,
            Command::Ls => list(context).await,
            Command::Revoke { id } => revoke(context, &id).await,
        }
    }
}

async fn create(
    context: &Context,
    name: String,
    scopes: &[String],
    expires: Option<String>,
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
    let store = context.store().await?;
    let grant = KeyGrant { name, scopes: granted, expires_at };
    let (key, secret) = keys::create(&store, &context.project, grant, now).await?;
    if context.is_json() {
        output::json_line(&json!({
            "id": key.id.as_str(),
            "key": secret.reveal(),
            "scopes": scope_names(&key),
            "expires_at": key.grant.expires_at.map(Timestamp::seconds),
        }));
        return Ok(());
    }
    output::text(secret.reveal());
    output::note(format!("{} ({}): it is shown this once", key.id, scope_names(&key).join(", ")));
    Ok(())
}

async fn list(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let keys = keys::list(&store, &context.project).await?;
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

async fn revoke(context: &Context, id: &str) -> Result<(), Failure> {
    let id: KeyId = id.parse()?;
    let store = context.store().await?;
    keys::revoke(&store, &context.project, &id, Timestamp::now()).await?;
    if context.is_json() {
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

//! `lyceum admin keys create|ls|revoke|rotate`

use super::Desk;
use crate::failure::Failure;
use crate::time;
use clap::Subcommand;
use lyceum_store::keys::{KeyGrant, KeySecret};
use lyceum_store::tenancy::Page;
use lyceum_store::tenancy::admin_keys::{self, AdminKey, Order};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{AdminKeyId, KeyScope, UserId};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key and show it once
    Create {
        /// What the key is called
        #[arg(long, default_value = "")]
        name: String,
        /// What it may do: organization.read, organization.write
        #[arg(long = "scope", value_name = "SCOPE", default_value = "organization.write")]
        scopes: Vec<String>,
        /// When it ends, from now: 30m, 12h, 90d (default: never)
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        /// Whose it is (default: the oldest owner's)
        #[arg(long, value_name = "USER")]
        user: Option<String>,
    },
    /// Show the keys, without their secrets
    Ls,
    /// End a key at once
    Revoke { id: String },
    /// Make a successor; the key itself lives on for the overlap
    Rotate {
        id: String,
        /// 30m, 12h, 7d (default: it ends at once)
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
}

impl Keys {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        let (store, tenant, act) = (&desk.store, desk.tenant.as_str(), desk.act());
        match self {
            Keys::Create { name, scopes, expires, user } => {
                let scopes = scopes.iter().flat_map(|scopes| scopes.split(','));
                let scopes: Vec<KeyScope> =
                    scopes.map(|scope| scope.trim().parse()).collect::<Result<_, _>>()?;
                let lives_for = expires.as_deref().map(|text| time::duration(text, "--expires 90d"));
                let expires_at = lives_for.transpose()?.map(|lives_for| act.now.plus(lives_for));
                let owner: UserId = match user {
                    Some(user) => user.parse()?,
                    None => admin_keys::operator(store, tenant, &act).await?.id,
                };
                let grant = KeyGrant { name, scopes, expires_at };
                shown(desk, admin_keys::create(store, tenant, &owner, grant, &act).await?);
            }
            Keys::Ls => {
                let keys = admin_keys::list(store, tenant, Order::OldestFirst, Page::WHOLE).await?;
                let row = |key: AdminKey| {
                    let moment =
                        |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), time::for_people);
                    let row = vec![
                        key.id.to_string(),
                        key.grant.name.clone(),
                        scopes(&key).join(", "),
                        key.owner.name.clone(),
                        moment(key.grant.expires_at),
                        moment(key.last_used_at),
                    ];
                    (line(&key), row)
                };
                let header = ["id", "name", "scopes", "owner", "expires", "last used"];
                desk.list("keys", &header, keys.data.into_iter().map(row).collect());
            }
            Keys::Revoke { id } => {
                let key: AdminKeyId = id.parse()?;
                admin_keys::revoke(store, tenant, &key, &act).await?;
                desk.say(&json!({"event": "done", "id": id}), format!("revoked {id}"));
            }
            Keys::Rotate { id, overlap } => {
                let overlap = overlap.map(|text| time::duration(&text, "--overlap 12h")).transpose()?;
                let overlap = overlap.unwrap_or(Duration::ZERO);
                shown(desk, admin_keys::rotate(store, tenant, &id.parse()?, overlap, &act).await?);
            }
        }
        Ok(())
    }
}

fn scopes(key: &AdminKey) -> Vec<&'static str> {
    key.grant.scopes.iter().map(|scope| scope.as_str()).collect()
}

fn line(key: &AdminKey) -> Value {
    json!({"id": key.id.as_str(), "name": key.grant.name, "scopes": scopes(key), "owner": key.owner.id.as_str(),
        "created": key.created_at.seconds(), "expires_at": key.grant.expires_at.map(Timestamp::seconds),
        "last_used_at": key.last_used_at.map(Timestamp::seconds)})
}

fn shown(desk: &Desk<'_>, (key, secret): (AdminKey, KeySecret)) {
    let mut json = line(&key);
    json["key"] = Value::from(secret.reveal());
    desk.show(&json, secret.reveal(), key.id.as_str());
}

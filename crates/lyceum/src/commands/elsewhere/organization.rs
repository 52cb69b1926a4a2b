//! `keys` and `audit` through a server, with a key of the organisation.

use crate::commands::admin::remote::{every, joined, moment, text};
use crate::commands::admin::{list, say, show};
use crate::commands::audit::{self, Audit};
use crate::commands::keys::{self, Keys};
use crate::context::Context;
use crate::failure::Failure;
use crate::remote::{Client, path_of};
use crate::time;
use lyceum_store::tenancy::audit::{self as chain, Broken, Entry, Verified};
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};

fn one_organization(org: &str) -> Result<(), Failure> {
    if org == "default" {
        return Ok(());
    }
    let why = "a key belongs to one organisation, and a server takes no other from it";
    Err(Failure::usage("--org does not go with --url", why, "give that organisation's key"))
}

impl Keys {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        one_organization(&self.org)?;
        let project = self.project.unwrap_or_else(|| context.project.id.clone());
        let project = format!("/v1/organization/projects/{}", path_of(&project));
        let of = |id: &str, rest: &str| format!("{project}/api_keys/{}{rest}", path_of(id));
        let shown = |key: &Value, scopes: Value| {
            let json = json!({"id": key["id"], "key": key["value"], "scopes": scopes, "expires_at": key["expires_at"]});
            show(context, &json, &text(key, "value"), &text(key, "id"));
        };
        match self.command {
            keys::Command::Create { name, scopes, expires, owner } => {
                let Some(account) = owner.filter(|owner| owner.starts_with("svc_acct_")) else {
                    let why =
                        "a server makes keys of service accounts, and nobody's keys at the command line only";
                    let fix =
                        "add --owner svc_acct_…; lyceum admin service-accounts --url makes one, with its key";
                    return Err(Failure::usage("whose is the key to be?", why, fix));
                };
                if expires.is_some() {
                    let why = "a service account's key ends when it is revoked";
                    return Err(Failure::usage("--expires does not go with --url", why, "leave it out"));
                }
                let scopes: Vec<&str> =
                    scopes.iter().flat_map(|scopes| scopes.split(',')).map(str::trim).collect();
                let mut body = json!({"scopes": scopes});
                if !name.is_empty() {
                    body["name"] = name.into();
                }
                let path = format!("{project}/service_accounts/{}/api_keys", path_of(&account));
                shown(&client.post(&path, &body)?, body["scopes"].clone());
            }
            keys::Command::Ls => {
                let now = Timestamp::now().seconds();
                let row = |key: &Value| {
                    let is_over = key["expires_at"].as_i64().is_some_and(|end| end <= now);
                    let status = if is_over { "expired" } else { "active" };
                    let json = json!({"id": key["id"], "name": key["name"], "scopes": key["scopes"], "status": status,
                        "created": key["created_at"], "expires_at": key["expires_at"], "last_used_at": key["last_used_at"]});
                    let cells =
                        vec![text(key, "id"), text(key, "name"), joined(key, "scopes"), status.to_owned()];
                    let times = ["expires_at", "last_used_at"].map(|field| moment(key, field));
                    (json, cells.into_iter().chain(times).collect())
                };
                let all = every(client, &format!("{project}/api_keys"))?;
                let header = ["id", "name", "scopes", "status", "expires", "last used"];
                list(context, "keys", &header, all.iter().map(row).collect());
            }
            keys::Command::Revoke { id } => {
                client.delete(&of(&id, ""))?;
                say(context, &json!({"event": "done", "id": id}), format!("revoked {id}"));
            }
            keys::Command::Rotate { id, overlap } => {
                let overlap = overlap.map(|text| time::duration(&text, "--overlap 12h")).transpose()?;
                let body = json!({"overlap_seconds": overlap.unwrap_or_default().as_secs()});
                let made = client.post(&of(&id, "/rotate"), &body)?;
                shown(&made, made["scopes"].clone());
            }
        }
        Ok(())
    }
}

impl Audit {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        one_organization(&self.org)?;
        let limit = match self.command {
            audit::Command::Verify { head } => return verify(context, client, head.as_deref()),
            audit::Command::Ls { limit } => limit,
        };
        let path = format!("/v1/organization/audit_logs?limit={}", limit.clamp(1, 100));
        let (mut all, mut after, mut has_more) = (Vec::new(), String::new(), true);
        while has_more && all.len() < limit as usize {
            let page = client.get(&format!("{path}{after}"))?;
            all.extend(page["data"].as_array().into_iter().flatten().cloned());
            has_more = page["has_more"] == true;
            after = format!("&after={}", path_of(&text(&page, "last_id")));
        }
        has_more |= all.len() > limit as usize;
        all.truncate(limit as usize);
        let detail = |entry: &Value| entry[text(entry, "type")].clone();
        if context.is_json() {
            let line = |entry: &Value| {
                let mut data = detail(entry);
                let resource = data.as_object_mut().and_then(|data| data.remove("id")).unwrap_or(json!(""));
                json!({"seq": entry["chain"]["seq"], "id": entry["id"], "type": entry["type"], "effective_at": entry["effective_at"],
                    "project": entry["project"]["id"], "actor": actor(entry), "resource": resource, "data": data,
                    "hash": entry["hash"]})
            };
            let entries: Vec<Value> = all.iter().map(line).collect();
            crate::output::json_line(&json!({"entries": entries, "has_more": has_more}));
            return Ok(());
        }
        let row = |entry: &Value| {
            let project = text(&entry["project"], "id");
            let resource = text(&detail(entry), "id");
            vec![
                entry["chain"]["seq"].to_string(),
                moment(entry, "effective_at"),
                text(entry, "type"),
                project,
                actor(entry),
                resource,
            ]
        };
        let header = ["#", "when", "what", "project", "by", "to"];
        crate::output::table(&header, &all.iter().map(row).collect::<Vec<_>>());
        Ok(())
    }
}

/// Who did it: a key, or a word.
fn actor(entry: &Value) -> String {
    let actor = &entry["actor"];
    let id = [&actor["api_key"]["id"], &actor["session"]["user"]["id"]].into_iter().find_map(Value::as_str);
    id.unwrap_or_default().to_owned()
}

/// Fetches every entry and recomputes the chain here: nothing is taken from the server but what each entry says. What a
/// server leaves off at the end is missed only by who kept a head.
fn verify(context: &Context, client: &Client, known: Option<&str>) -> Result<(), Failure> {
    let mut all = every(client, "/v1/organization/audit_logs")?;
    all.reverse();
    let (mut previous, mut is_passed) = (String::new(), known.is_none_or(str::is_empty));
    let tenant = all.first().map(|entry| text(&entry["chain"], "tenant")).unwrap_or_default();
    for (seq, entry) in (1..).zip(&all) {
        let entry = entry_of(entry).ok_or_else(|| {
            let broken = Broken { seq, id: text(entry, "id"), why: "it is not whole".into() };
            audit::refused(&broken)
        })?;
        let hash =
            chain::follows(&tenant, &entry, seq, &previous).map_err(|broken| audit::refused(&broken))?;
        previous = hash.to_owned();
        is_passed |= known == Some(previous.as_str());
    }
    if !is_passed {
        let why = "the chain does not pass the head that was kept of it".to_owned();
        return Err(audit::refused(&Broken { seq: 1, id: String::new(), why }));
    }
    audit::told(context, &Verified { entries: all.len() as i64, head: previous });
    Ok(())
}

/// An entry as it was hashed, from what a server tells of it.
fn entry_of(told: &Value) -> Option<Entry> {
    let link = &told["chain"];
    let resource = link["resource"].as_str()?.to_owned();
    let mut data = told.get(told["type"].as_str()?)?.clone();
    // Where something was changed, its id was put among the change.
    if !resource.is_empty() && data.as_object_mut()?.remove("id")? != resource.as_str() {
        return None;
    }
    let user = &told["actor"]["api_key"]["user"];
    let some = |value: &Value| value.as_str().map(str::to_owned);
    Some(Entry {
        seq: link["seq"].as_i64()?,
        id: some(&told["id"])?,
        effective_at: Timestamp::from_millis(link["effective_at_ms"].as_i64()?),
        kind: some(&told["type"])?,
        project: some(&told["project"]["id"]),
        actor: actor(told),
        actor_user: some(&user["id"]),
        actor_email: some(&user["email"]),
        resource,
        data,
        previous: some(&link["previous"])?,
        hash: some(&told["hash"])?,
    })
}

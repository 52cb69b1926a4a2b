//! The audit log: what was done, by whom, to what.

use super::{Asked, AskedPage, Identified};
use crate::error::ApiError;
use lyceum_service::tenancy::audit::{self, Entry, Filter};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One entry. The field that has the entry's type as its name holds the id of what was changed and the change.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLog)]
pub struct LogEntry {
    pub id: String,
    /// Such as `project.created`.
    #[serde(rename = "type")]
    pub kind: String,
    pub effective_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<LogProject>,
    /// OpenAI's actor: an `api_key` of a user or a project, or a `session` of the command line or the server itself.
    pub actor: Value,
    /// sha256 of the entry and the hash before it, hexadecimal; `lyceum audit verify` recomputes it.
    pub hash: String,
    /// With it whoever has every entry recomputes the hashes.
    pub chain: Link,
    #[serde(flatten)]
    pub change: Map<String, Value>,
}

/// What the hash of an entry is of, beside what is told of it: canonical JSON (RFC 8785) of `tenant`, `seq`, `id`,
/// `effective_at_ms`, `type`, `project`, `actor`, `actor_user`, `actor_email`, `resource` and `data`, then `previous`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLogLink)]
pub struct Link {
    pub tenant: String,
    /// Its place, from 1.
    pub seq: i64,
    pub effective_at_ms: i64,
    /// What was changed; where it is not empty, it stands as `id` among the change.
    pub resource: String,
    /// The hash of the entry before it; empty before the first.
    pub previous: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLogProject)]
pub struct LogProject {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Identified for LogEntry {
    fn id(&self) -> &str {
        &self.id
    }
}

impl LogEntry {
    pub fn new(entry: Entry, tenant: &str, names: &BTreeMap<String, String>) -> Self {
        let chain = Link {
            tenant: tenant.to_owned(),
            seq: entry.seq,
            effective_at_ms: entry.effective_at.millis(),
            resource: entry.resource.clone(),
            previous: entry.previous.clone(),
        };
        let actor = match &entry.actor_user {
            Some(user) => {
                let mut user = json!({ "id": user });
                if let Some(email) = &entry.actor_email {
                    user["email"] = Value::from(email.as_str());
                }
                json!({"type": "api_key", "api_key": {"id": entry.actor, "type": "user", "user": user}})
            }
            None if !matches!(entry.actor.as_str(), "command_line" | "server" | audit::OPERATOR) => {
                json!({"type": "api_key", "api_key": {"id": entry.actor}})
            }
            None => json!({"type": "session", "session": {"user": {"id": entry.actor}}}),
        };
        let mut detail = match entry.data {
            Value::Object(detail) => detail,
            _ => Map::new(),
        };
        if !entry.resource.is_empty() {
            detail.insert("id".into(), Value::from(entry.resource));
        }
        let mut change = Map::new();
        change.insert(entry.kind.clone(), Value::Object(detail));
        let project = entry.project.map(|id| LogProject { name: names.get(&id).cloned(), id });
        let (id, kind, hash) = (entry.id, entry.kind, entry.hash);
        Self { id, kind, effective_at: entry.effective_at.seconds(), project, actor, hash, chain, change }
    }
}

/// What a query of the log asks.
pub struct Wanted {
    pub filter: Filter,
    pub page: AskedPage,
    pub before: Option<String>,
    /// Only what concerns several organisations at once, of which there is nothing.
    pub tenant_only: bool,
}

impl Wanted {
    pub fn parse(query: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut asked = Asked::new(query);
        let mut seconds =
            |bound: &str| asked.parsed::<i64>(&format!("effective_at[{bound}]"), "seconds since 1970");
        let (gt, gte, lt, lte) = (seconds("gt")?, seconds("gte")?, seconds("lt")?, seconds("lte")?);
        let from = [gt.map(|gt| gt.saturating_add(1)), gte].into_iter().flatten().max();
        let to = [lt.map(|lt| lt.saturating_sub(1)), lte].into_iter().flatten().min();
        let filter = Filter {
            kinds: asked.many("event_types"),
            projects: asked.many("project_ids"),
            actors: asked.many("actor_ids"),
            emails: asked.many("actor_emails"),
            resources: asked.many("resource_ids"),
            from,
            to,
        };
        let page = asked.page()?;
        let before = asked.one("before")?;
        let tenant_only = asked.parsed("tenant_only", "true or false")?.unwrap_or(false);
        asked.done()?;
        Ok(Self { filter, page, before, tenant_only })
    }
}

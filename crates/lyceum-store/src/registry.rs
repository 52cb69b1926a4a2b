//! Names that move: aliases (`digits@prod`), approvals, and what happened to them.
//!
//! A version is what it is for ever (its folder is hashed); an alias is the one thing that changes, so each of its
//! moves is an event that is kept, also after the version is gone. A protected alias moves only to approved versions
//! that no gate holds back. The version of an alias cannot be deleted.

use crate::db::Transaction;
use crate::tenancy::audit;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{Alias, BadId, KeyId, ModelName, Project};
use lyceum_types::limits;
use serde_json::json;

/// Who did something, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub actor: Actor,
    pub note: String,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A user of the machine, as the history names them.
    User(String),
    /// A key of the project.
    Key(KeyId),
}

impl Act {
    fn who(&self) -> &str {
        match &self.actor {
            Actor::User(name) => name,
            Actor::Key(id) => id.as_str(),
        }
    }

    /// The same for the audit log.
    pub(crate) fn audited(&self) -> audit::Act {
        let actor = match &self.actor {
            Actor::User(_) => audit::Actor::CommandLine,
            Actor::Key(id) => audit::Actor::ProjectKey(id.clone()),
        };
        audit::Act { actor, now: self.now }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    Approved,
    /// Its bare name serves it although its gate held it back.
    Promoted,
    Set,
    RolledBack,
    Removed,
    Deleted,
}

impl EventKind {
    const ALL: [EventKind; 6] = [
        EventKind::Approved,
        EventKind::Promoted,
        EventKind::Set,
        EventKind::RolledBack,
        EventKind::Removed,
        EventKind::Deleted,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Approved => "approved",
            EventKind::Promoted => "promoted",
            EventKind::Set => "set",
            EventKind::RolledBack => "rolled_back",
            EventKind::Removed => "removed",
            EventKind::Deleted => "deleted",
        }
    }

    /// Its type in the audit log.
    fn audited(self) -> &'static str {
        match self {
            EventKind::Approved => "model.approved",
            EventKind::Promoted => "model.promoted",
            EventKind::Set => "model_alias.updated",
            EventKind::RolledBack => "model_alias.rolled_back",
            EventKind::Removed => "model_alias.deleted",
            EventKind::Deleted => "model.deleted",
        }
    }
}

/// One thing that happened to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub version: u32,
    pub alias: Option<String>,
    /// Where the alias pointed before.
    pub before: Option<u32>,
    pub actor: String,
    pub note: String,
    pub at: Timestamp,
}

/// An alias as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    pub alias: Alias,
    pub version: u32,
    pub protected: bool,
}

/// Says that somebody takes responsibility for a version.
pub async fn approve(
    store: &Store,
    project: &Project,
    name: &ModelName,
    number: u32,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    state_of(&mut transaction, project, name, number).await?;
    let event = NewEvent { kind: EventKind::Approved, version: number, alias: None, before: None };
    record(&mut transaction, project, name, event, act).await?;
    transaction.commit().await?;
    Ok(())
}

/// Points an alias at a version that no gate holds back. `protect` sets whether its next moves need an approval; None leaves that as it is.
/// Returns where it pointed before.
///
/// # Errors
/// [`StoreError::Held`] and [`StoreError::NotApproved`]; [`StoreError::NotFound`].
pub async fn set_alias(
    store: &Store,
    project: &Project,
    (name, alias): (&ModelName, &Alias),
    (number, protect): (u32, Option<bool>),
    act: &Act,
) -> Result<Option<u32>, StoreError> {
    if alias.as_str() == "latest" {
        let why = "always is the newest version and cannot be set";
        return Err(BadId { what: "alias", text: "latest".into(), why }.into());
    }
    let mut transaction = store.write().await?;
    let held = state_of(&mut transaction, project, name, number).await?;
    let old = pointer(&mut transaction, project, name, alias).await?;
    let protected = protect.unwrap_or(old.as_ref().is_some_and(|old| old.protected));
    let id = format!("{name}@{number}");
    // Whoever asks by an alias asks for what somebody stands behind: a promotion says so first.
    if let Some(why) = held {
        return Err(StoreError::Held { id, why });
    }
    // Neither the first move nor the one that lifts the protection slips past an approval.
    let asks_approval = protected || old.as_ref().is_some_and(|old| old.protected);
    if asks_approval && !is_approved(&mut transaction, project, name, number).await? {
        return Err(StoreError::NotApproved { id, alias: alias.to_string() });
    }
    point(&mut transaction, project, name, &Pointer { alias: alias.clone(), version: number, protected })
        .await?;
    let before = old.map(|old| old.version);
    let event = NewEvent { kind: EventKind::Set, version: number, alias: Some(alias), before };
    record(&mut transaction, project, name, event, act).await?;
    transaction.commit().await?;
    Ok(before)
}

/// Points an alias at the version that it had before its last move that was not undone, and that is still there.
/// Returns (before, now).
///
/// # Errors
/// [`StoreError::NotFound`]: the alias, or anything to go back to.
pub async fn roll_back(
    store: &Store,
    project: &Project,
    name: &ModelName,
    alias: &Alias,
    act: &Act,
) -> Result<(u32, u32), StoreError> {
    let mut transaction = store.write().await?;
    let current = pointer(&mut transaction, project, name, alias).await?;
    let Some(current) = current else {
        return Err(StoreError::NotFound { what: "alias", id: format!("{name}@{alias}") });
    };
    let mut earlier = standing(&events(&mut *transaction, project, name).await?, alias);
    earlier.pop();
    let target = loop {
        let Some(version) = earlier.pop() else {
            let id = format!("{name}@{alias} before version {}", current.version);
            return Err(StoreError::NotFound { what: "alias", id });
        };
        match state_of(&mut transaction, project, name, version).await {
            Ok(_) if version != current.version => break version,
            // What is deleted cannot be served.
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    };
    let before = current.version;
    point(&mut transaction, project, name, &Pointer { version: target, ..current }).await?;
    let event =
        NewEvent { kind: EventKind::RolledBack, version: target, alias: Some(alias), before: Some(before) };
    record(&mut transaction, project, name, event, act).await?;
    transaction.commit().await?;
    Ok((before, target))
}

/// Takes an alias away.
pub async fn remove_alias(
    store: &Store,
    project: &Project,
    name: &ModelName,
    alias: &Alias,
    act: &Act,
) -> Result<u32, StoreError> {
    let mut transaction = store.write().await?;
    let Some(old) = pointer(&mut transaction, project, name, alias).await? else {
        return Err(StoreError::NotFound { what: "alias", id: format!("{name}@{alias}") });
    };
    sqlx::query("DELETE FROM model_aliases WHERE tenant = $1 AND project = $2 AND name = $3 AND alias = $4")
        .bind(&project.tenant)
        .bind(&project.id)
        .bind(name.as_str())
        .bind(alias.as_str())
        .execute(&mut *transaction)
        .await?;
    let (kind, before) = (EventKind::Removed, Some(old.version));
    let event = NewEvent { kind, version: old.version, alias: Some(alias), before };
    record(&mut transaction, project, name, event, act).await?;
    transaction.commit().await?;
    Ok(old.version)
}

/// The aliases of a name, by alphabet.
pub async fn aliases(store: &Store, project: &Project, name: &ModelName) -> Result<Vec<Pointer>, StoreError> {
    let rows: Vec<(String, i64, i64)> = sqlx::query_as(
        "SELECT alias, version, protected FROM model_aliases \
         WHERE tenant = $1 AND project = $2 AND name = $3 ORDER BY alias",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .fetch_all(&store.reader)
    .await?;
    rows.into_iter().map(parse_pointer).collect()
}

/// What happened to a name, the oldest first.
pub async fn history(store: &Store, project: &Project, name: &ModelName) -> Result<Vec<Event>, StoreError> {
    events(&store.reader, project, name).await
}

/// Notes in the audit log that a version's files were handed out, in this form. Nothing of the name changes.
pub async fn exported(
    store: &Store,
    project: &Project,
    name: &ModelName,
    number: u32,
    format: &str,
    act: &Act,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let event = audit::Event {
        kind: "model.exported",
        project: Some(&project.id),
        resource: &format!("{name}@{number}"),
        data: json!({ "version": number, "format": format }),
    };
    audit::append(&mut transaction, &project.tenant, &act.audited(), event).await?;
    Ok(transaction.commit().await?)
}

/// What is done with a version that changes neither it nor its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Later answers are compared with the next so many.
    DriftReference { answers: u64 },
    /// It left a server's memory.
    Unloaded,
}

/// Notes in the audit log what is done with a version, before it is done.
pub async fn note(
    store: &Store,
    project: &Project,
    id: &str,
    (deed, act): (Deed, &audit::Act),
) -> Result<(), StoreError> {
    let (kind, data) = match deed {
        Deed::DriftReference { answers } => ("model.drift_reference_set", json!({ "answers": answers })),
        Deed::Unloaded => ("model.unloaded", json!({})),
    };
    let mut transaction = store.write().await?;
    let event = audit::Event { kind, project: Some(&project.id), resource: id, data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    Ok(transaction.commit().await?)
}

/// The versions that an alias had, the one it has now last; what was rolled back is not among them.
fn standing(events: &[Event], alias: &Alias) -> Vec<u32> {
    let mut versions = Vec::new();
    for event in events.iter().filter(|event| event.alias.as_deref() == Some(alias.as_str())) {
        match event.kind {
            EventKind::Set => {
                // Set before events were kept.
                if versions.is_empty() {
                    versions.extend(event.before);
                }
                versions.push(event.version);
            }
            EventKind::RolledBack => {
                while versions.last().is_some_and(|last| *last != event.version) {
                    versions.pop();
                }
            }
            EventKind::Removed => versions.clear(),
            EventKind::Approved | EventKind::Promoted | EventKind::Deleted => {}
        }
    }
    versions
}

/// Why a version is held back; None: it is not.
async fn state_of(
    transaction: &mut Transaction,
    project: &Project,
    name: &ModelName,
    number: u32,
) -> Result<Option<String>, StoreError> {
    let row: Option<(Option<String>,)> = sqlx::query_as(
        "SELECT held FROM model_versions \
         WHERE tenant = $1 AND project = $2 AND name = $3 AND version = $4 AND state = 'ready'",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .bind(i64::from(number))
    .fetch_optional(&mut **transaction)
    .await?;
    match row {
        Some((held,)) => Ok(held),
        None => Err(StoreError::NotFound { what: "model", id: format!("{name}@{number}") }),
    }
}

async fn is_approved(
    transaction: &mut Transaction,
    project: &Project,
    name: &ModelName,
    number: u32,
) -> Result<bool, StoreError> {
    let (n,): (i64,) = sqlx::query_as(
        "SELECT COUNT(*) FROM model_events \
         WHERE tenant = $1 AND project = $2 AND name = $3 AND version = $4 AND kind = 'approved'",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .bind(i64::from(number))
    .fetch_one(&mut **transaction)
    .await?;
    Ok(n > 0)
}

async fn pointer(
    transaction: &mut Transaction,
    project: &Project,
    name: &ModelName,
    alias: &Alias,
) -> Result<Option<Pointer>, StoreError> {
    let row: Option<(String, i64, i64)> = sqlx::query_as(
        "SELECT alias, version, protected FROM model_aliases \
         WHERE tenant = $1 AND project = $2 AND name = $3 AND alias = $4",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .bind(alias.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    row.map(parse_pointer).transpose()
}

async fn point(
    transaction: &mut Transaction,
    project: &Project,
    name: &ModelName,
    to: &Pointer,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO model_aliases (tenant, project, name, alias, version, protected) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, project, name, alias) \
         DO UPDATE SET version = excluded.version, protected = excluded.protected",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .bind(to.alias.as_str())
    .bind(i64::from(to.version))
    .bind(i64::from(to.protected))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

pub(crate) struct NewEvent<'a> {
    pub kind: EventKind,
    pub version: u32,
    pub alias: Option<&'a Alias>,
    pub before: Option<u32>,
}

/// Keeps what happened, for the name and for the audit log.
pub(crate) async fn record(
    transaction: &mut Transaction,
    project: &Project,
    name: &ModelName,
    event: NewEvent<'_>,
    act: &Act,
) -> Result<(), StoreError> {
    if act.note.chars().count() > limits::NOTE_CHARS_MAX {
        let text = act.note.chars().take(64).collect();
        return Err(BadId { what: "note", text, why: "must have 2,000 characters at most" }.into());
    }
    sqlx::query(
        "INSERT INTO model_events \
         (tenant, project, id, name, version, kind, alias, before, actor, note, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(uuid::Uuid::now_v7().simple().to_string())
    .bind(name.as_str())
    .bind(i64::from(event.version))
    .bind(event.kind.as_str())
    .bind(event.alias.map(|alias| alias.as_str().to_owned()))
    .bind(event.before.map(i64::from))
    .bind(act.who())
    .bind(&act.note)
    .bind(act.now.millis())
    .execute(&mut **transaction)
    .await?;
    let resource = match event.alias {
        Some(alias) => format!("{name}@{alias}"),
        None => format!("{name}@{}", event.version),
    };
    let audited = audit::Event {
        kind: event.kind.audited(),
        project: Some(&project.id),
        resource: &resource,
        data: json!({ "version": event.version, "before": event.before, "note": act.note }),
    };
    audit::append(transaction, &project.tenant, &act.audited(), audited).await
}

type EventRow = (String, i64, Option<String>, Option<i64>, String, String, i64);

async fn events<'c>(
    from: impl sqlx::Executor<'c, Database = sqlx::Any>,
    project: &Project,
    name: &ModelName,
) -> Result<Vec<Event>, StoreError> {
    let rows: Vec<EventRow> = sqlx::query_as(
        "SELECT kind, version, alias, before, actor, note, created_at FROM model_events \
         WHERE tenant = $1 AND project = $2 AND name = $3 ORDER BY id",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(name.as_str())
    .fetch_all(from)
    .await?;
    rows.into_iter().map(parse_event).collect()
}

fn parse_event(row: EventRow) -> Result<Event, StoreError> {
    let (kind, version, alias, before, actor, note, at) = row;
    let kind =
        EventKind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or_else(|| damaged(&kind))?;
    let number = |n: i64| u32::try_from(n).map_err(|_| damaged(&n.to_string()));
    Ok(Event {
        kind,
        version: number(version)?,
        alias,
        before: before.map(number).transpose()?,
        actor,
        note,
        at: Timestamp::from_millis(at),
    })
}

fn parse_pointer((alias, version, protected): (String, i64, i64)) -> Result<Pointer, StoreError> {
    Ok(Pointer {
        alias: alias.parse().map_err(|_| damaged(&alias))?,
        version: u32::try_from(version).map_err(|_| damaged(&version.to_string()))?,
        protected: protected != 0,
    })
}

fn damaged(value: &str) -> StoreError {
    StoreError::Damaged { table: "model_events", value: value.into() }
}

#[cfg(test)]
mod tests;

//! The audit log: entries are added, never changed, and each holds the hash of the one before it.
//!
//! `hash = sha256(canonical JSON (RFC 8785) of the entry ‖ previous hash)`, both hashes in hexadecimal; the first
//! entry follows the empty text. The organisation's row holds the last number and hash, so an end that was cut off
//! is seen as well. Who can write the database can also write a new chain from its first entry on: what protects
//! against that is a copy of the head ([`Verified`]) kept elsewhere.

use super::{Listed, Page, Writing};
use crate::{Store, StoreError};
use lyceum_types::card::canonical;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{AdminKeyId, KeyId, UserId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Who does something, and when.
#[derive(Clone, Debug)]
pub struct Act {
    pub actor: Actor,
    pub now: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Whoever can write the data folder.
    CommandLine,
    /// The server by itself.
    Server,
    /// A key of an organisation, and whose it is.
    AdminKey { id: AdminKeyId, tenant: String, user: UserId, email: Option<String> },
    /// A key of a project.
    ProjectKey(KeyId),
}

impl Act {
    pub fn of_command_line(now: Timestamp) -> Self {
        Self { actor: Actor::CommandLine, now }
    }

    pub fn of_server(now: Timestamp) -> Self {
        Self { actor: Actor::Server, now }
    }
}

/// Who acts on another organisation, as that one's log tells it.
pub const OPERATOR: &str = "operator";

/// What is done.
#[derive(Clone)]
pub(crate) struct Event<'a> {
    /// OpenAI's name of it.
    pub kind: &'static str,
    /// None: the organisation itself.
    pub project: Option<&'a str>,
    /// The id of what is changed.
    pub resource: &'a str,
    pub data: Value,
}

/// An entry as its row tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub seq: i64,
    pub id: String,
    pub effective_at: Timestamp,
    pub kind: String,
    pub project: Option<String>,
    /// `command_line`, `server`, the id of a key, or `operator`: a key of the installation's first organisation.
    pub actor: String,
    pub actor_user: Option<String>,
    pub actor_email: Option<String>,
    pub resource: String,
    pub data: Value,
    pub previous: String,
    pub hash: String,
}

impl Entry {
    /// What the hash is of, but for the hash before it.
    fn content(&self, tenant: &str) -> Value {
        json!({
            "tenant": tenant,
            "seq": self.seq,
            "id": self.id,
            "effective_at_ms": self.effective_at.millis(),
            "type": self.kind,
            "project": self.project.as_deref().unwrap_or(""),
            "actor": self.actor,
            "actor_user": self.actor_user.as_deref().unwrap_or(""),
            "actor_email": self.actor_email.as_deref().unwrap_or(""),
            "resource": self.resource,
            "data": self.data,
        })
    }

    fn hash_after(&self, tenant: &str, previous: &str) -> String {
        let mut hasher = Sha256::new();
        hasher.update(canonical(&self.content(tenant)).as_bytes());
        hasher.update(previous.as_bytes());
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Adds an entry within the transaction of what it tells.
pub(crate) async fn append(
    transaction: &mut Writing,
    tenant: &str,
    act: &Act,
    event: Event<'_>,
) -> Result<(), StoreError> {
    let head: Option<(i64, String)> = sqlx::query_as(
        "UPDATE organizations SET audit_seq = audit_seq + 1 WHERE tenant = $1 RETURNING audit_seq, audit_hash",
    )
    .bind(tenant)
    .fetch_optional(&mut **transaction)
    .await?;
    let (seq, previous) =
        head.ok_or_else(|| StoreError::NotFound { what: "organization", id: tenant.to_owned() })?;
    let (actor, actor_user, actor_email) = match &act.actor {
        Actor::CommandLine => ("command_line".to_owned(), None, None),
        Actor::Server => ("server".to_owned(), None, None),
        Actor::ProjectKey(id) => (id.to_string(), None, None),
        // No organisation learns who works for another.
        Actor::AdminKey { tenant: own, .. } if own != tenant => (OPERATOR.to_owned(), None, None),
        Actor::AdminKey { id, user, email, .. } => (id.to_string(), Some(user.to_string()), email.clone()),
    };
    let mut entry = Entry {
        seq,
        id: format!("audit_log-{}", uuid::Uuid::now_v7().simple()),
        effective_at: act.now,
        kind: event.kind.to_owned(),
        project: event.project.map(str::to_owned),
        actor,
        actor_user,
        actor_email,
        resource: event.resource.to_owned(),
        data: event.data,
        previous,
        hash: String::new(),
    };
    entry.hash = entry.hash_after(tenant, &entry.previous);
    insert(transaction, tenant, &entry).await?;
    sqlx::query("UPDATE organizations SET audit_hash = $2 WHERE tenant = $1")
        .bind(tenant)
        .bind(&entry.hash)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Adds an entry to the logs of the organisations that an act holds for, and to the log of the one that acts.
pub(crate) async fn append_to(
    transaction: &mut Writing,
    mut tenants: Vec<String>,
    act: &Act,
    event: Event<'_>,
) -> Result<(), StoreError> {
    if let Actor::AdminKey { tenant, .. } = &act.actor
        && !tenants.contains(tenant)
    {
        tenants.push(tenant.clone());
    }
    for tenant in tenants {
        append(transaction, &tenant, act, event.clone()).await?;
    }
    Ok(())
}

async fn insert(transaction: &mut Writing, tenant: &str, entry: &Entry) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_logs (tenant, seq, id, effective_at, type, project, actor, actor_user, actor_email, \
         resource, data, previous, hash) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(tenant)
    .bind(entry.seq)
    .bind(&entry.id)
    .bind(entry.effective_at.millis())
    .bind(&entry.kind)
    .bind(entry.project.as_deref().unwrap_or(""))
    .bind(&entry.actor)
    .bind(entry.actor_user.as_deref().unwrap_or(""))
    .bind(entry.actor_email.as_deref().unwrap_or(""))
    .bind(&entry.resource)
    .bind(canonical(&entry.data))
    .bind(&entry.previous)
    .bind(&entry.hash)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Counts logins that failed, as one entry: `code` is what they were told.
pub async fn note_login_failures(
    store: &Store,
    tenant: &str,
    code: &str,
    count: u64,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    let message = format!("{count} requests were refused with {code}");
    let event = Event {
        kind: "login.failed",
        project: None,
        resource: "",
        data: json!({"error_code": code, "error_message": message, "count": count}),
    };
    append(&mut transaction, tenant, &Act::of_server(now), event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Which entries are wanted; an empty list is no condition.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub kinds: Vec<String>,
    pub projects: Vec<String>,
    /// Ids of keys or users.
    pub actors: Vec<String>,
    pub emails: Vec<String>,
    pub resources: Vec<String>,
    /// Seconds since 1970, both included.
    pub from: Option<i64>,
    pub to: Option<i64>,
}

impl Filter {
    fn takes(&self, entry: &Entry) -> bool {
        let among = |list: &[String], found: Option<&str>| {
            list.is_empty() || found.is_some_and(|found| list.iter().any(|wanted| wanted == found))
        };
        let actor = [Some(entry.actor.as_str()), entry.actor_user.as_deref()];
        let is_actor = self.actors.is_empty() || actor.iter().any(|actor| among(&self.actors, *actor));
        let second = entry.effective_at.seconds();
        among(&self.kinds, Some(&entry.kind))
            && among(&self.projects, entry.project.as_deref())
            && is_actor
            && among(&self.emails, entry.actor_email.as_deref())
            && among(&self.resources, Some(&entry.resource))
            && self.from.is_none_or(|from| second >= from)
            && self.to.is_none_or(|to| second <= to)
    }
}

const CHUNK: i64 = 512;

/// Entries, newest first; a page after an id holds older ones, a page before it the ones just newer.
///
/// # Errors
/// `after` or `before` names no entry of the organisation.
pub async fn list(
    store: &Store,
    tenant: &str,
    filter: &Filter,
    page: Page<'_>,
    before: Option<&str>,
) -> Result<Listed<Entry>, StoreError> {
    let mut found = Vec::new();
    if let Some(before) = before {
        let mut from = seq_of(store, tenant, before).await?;
        let until = match page.after {
            Some(after) => Some(seq_of(store, tenant, after).await?),
            None => None,
        };
        // Newest first, as far as the page reaches from the entry on: the ones that follow it directly.
        while found.len() <= page.limit as usize {
            let chunk = entries(store, tenant, from + 1, Direction::Up).await?;
            let Some(last) = chunk.last() else { break };
            from = last.seq;
            let inside = |entry: &Entry| until.is_none_or(|until| entry.seq < until);
            found.extend(chunk.into_iter().filter(|entry| inside(entry) && filter.takes(entry)));
        }
        let mut listed = Listed::of(page, found);
        listed.data.reverse();
        return Ok(listed);
    }
    let mut from = match page.after {
        Some(after) => seq_of(store, tenant, after).await? - 1,
        None => i64::MAX,
    };
    while found.len() <= page.limit as usize && from > 0 {
        let chunk = entries(store, tenant, from, Direction::Down).await?;
        let Some(last) = chunk.last() else { break };
        from = last.seq - 1;
        found.extend(chunk.into_iter().filter(|entry| filter.takes(entry)));
    }
    Ok(Listed::of(page, found))
}

async fn seq_of(store: &Store, tenant: &str, id: &str) -> Result<i64, StoreError> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT seq FROM audit_logs WHERE tenant = $1 AND id = $2")
        .bind(tenant)
        .bind(id)
        .fetch_optional(&store.reader)
        .await?;
    let missing = || StoreError::NotFound { what: "audit log entry", id: id.chars().take(64).collect() };
    row.map(|(seq,)| seq).ok_or_else(missing)
}

enum Direction {
    Up,
    Down,
}

async fn entries(
    store: &Store,
    tenant: &str,
    from: i64,
    direction: Direction,
) -> Result<Vec<Entry>, StoreError> {
    let sql = match direction {
        Direction::Up => {
            "SELECT seq, id, effective_at, type, project, actor, actor_user, actor_email, resource, data, \
             previous, hash FROM audit_logs WHERE tenant = $1 AND seq >= $2 ORDER BY seq LIMIT $3"
        }
        Direction::Down => {
            "SELECT seq, id, effective_at, type, project, actor, actor_user, actor_email, resource, data, \
             previous, hash FROM audit_logs WHERE tenant = $1 AND seq <= $2 ORDER BY seq DESC LIMIT $3"
        }
    };
    let rows: Vec<Row> =
        sqlx::query_as(sql).bind(tenant).bind(from).bind(CHUNK).fetch_all(&store.reader).await?;
    // A row that cannot be read is for `verify` to name; a list shows the others.
    Ok(rows.into_iter().filter_map(|row| entry(row).ok()).collect())
}

type Row = (i64, String, i64, String, String, String, String, String, String, String, String, String);

fn entry(row: Row) -> Result<Entry, Broken> {
    let (seq, id, effective_at, kind, project, actor, user, email, resource, text, previous, hash) = row;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let data: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if canonical(&data) != text {
        return Err(Broken { seq, id, why: "its data is not what was written".into() });
    }
    Ok(Entry {
        seq,
        id,
        effective_at: Timestamp::from_millis(effective_at),
        kind,
        project: some(project),
        actor,
        actor_user: some(user),
        actor_email: some(email),
        resource,
        data,
        previous,
        hash,
    })
}

/// A chain that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    pub entries: i64,
    /// The hash of the last entry: whoever keeps a copy of it can tell later that nothing before it was changed.
    pub head: String,
}

/// The first entry that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub seq: i64,
    /// Empty where the entry is missing.
    pub id: String,
    pub why: String,
}

/// Recomputes the whole chain of an organisation. `known` is a head that was kept elsewhere: the chain must pass it.
///
/// # Errors
/// There is no such organisation; the database. A broken chain is an answer, not an error.
pub async fn verify(
    store: &Store,
    tenant: &str,
    known: Option<&str>,
) -> Result<Result<Verified, Broken>, StoreError> {
    let mut transaction = store.snapshot().await?;
    let head: Option<(i64, String)> =
        sqlx::query_as("SELECT audit_seq, audit_hash FROM organizations WHERE tenant = $1")
            .bind(tenant)
            .fetch_optional(&mut *transaction)
            .await?;
    let (n_entries, head) =
        head.ok_or_else(|| StoreError::NotFound { what: "organization", id: tenant.to_owned() })?;
    let mut previous = String::new();
    let mut n_seen = 0;
    let mut is_passed = known.is_none_or(str::is_empty);
    loop {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT seq, id, effective_at, type, project, actor, actor_user, actor_email, resource, data, previous, \
             hash FROM audit_logs WHERE tenant = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        )
        .bind(tenant)
        .bind(n_seen)
        .bind(CHUNK)
        .fetch_all(&mut *transaction)
        .await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            match follow(tenant, row, n_seen + 1, &previous) {
                Ok(hash) => previous = hash,
                Err(broken) => return Ok(Err(broken)),
            }
            n_seen += 1;
            is_passed |= known == Some(previous.as_str());
        }
    }
    let broken = |why: &str| Broken { seq: n_seen + 1, id: String::new(), why: why.into() };
    Ok(match n_seen.cmp(&n_entries) {
        std::cmp::Ordering::Less => Err(broken("it is missing: the log has been cut off here")),
        std::cmp::Ordering::Greater => Err(Broken {
            seq: n_entries + 1,
            ..broken("it was added to the log behind the organisation's back")
        }),
        std::cmp::Ordering::Equal if previous != head => {
            Err(Broken { seq: n_seen, ..broken("the organisation's row holds another hash of it") })
        }
        std::cmp::Ordering::Equal if !is_passed => {
            Err(Broken { seq: 1, ..broken("the chain does not pass the head that was kept of it") })
        }
        std::cmp::Ordering::Equal => Ok(Verified { entries: n_entries, head }),
    })
}

/// Whether an entry is the one that was written at place `seq` after the hash `previous`; gives its own hash.
///
/// # Errors
/// It is not.
pub fn follows<'a>(tenant: &str, entry: &'a Entry, seq: i64, previous: &str) -> Result<&'a str, Broken> {
    let broken = |why: &str| Broken { seq, id: entry.id.clone(), why: why.into() };
    if entry.seq != seq {
        return Err(Broken { seq, id: String::new(), why: "it is missing".into() });
    }
    if entry.previous != previous {
        return Err(broken("it does not follow the entry before it"));
    }
    if entry.hash_after(tenant, previous) != entry.hash {
        return Err(broken("its hash is not that of what it says"));
    }
    Ok(&entry.hash)
}

/// The hash of the entry in `row`, which must be the one that was written at place `seq` after `previous`.
fn follow(tenant: &str, row: Row, seq: i64, previous: &str) -> Result<String, Broken> {
    if row.0 != seq {
        return Err(Broken { seq, id: String::new(), why: "it is missing".into() });
    }
    let entry = entry(row)?;
    follows(tenant, &entry, seq, previous).map(str::to_owned)
}

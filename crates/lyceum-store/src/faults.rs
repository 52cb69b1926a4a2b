//! Acknowledged = readable, under faults: every operation on the disk of every kind of write fails once as a worn disk
//! (EIO) and once as a full one (ENOSPC), and the database is full once on the way.
//!
//! What is covered: the store's own files ([`disk`](crate::files::disk)) and SQLite's refusal for want of space.
//! What is not: SQLite's and PostgreSQL's own reads and writes of their files, and a disk that lies about a flush.

use crate::data_files::{self, Incoming, Kept, NewFile};
use crate::files::disk::faults;
use crate::files::{Staging, write_durably};
use crate::layout::{MANIFEST, WEIGHTS};
use crate::ledger::desk::Settlement;
use crate::ledger::{Class, Counts, Entry, Outcome, Request, Spool, entries, recovery};
use crate::models::{self, NewVersion};
use crate::responses::{self, ResponseId};
use crate::{Layout, Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{FileId, ModelRef, Project};
use std::collections::BTreeMap;
use std::path::Path;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// What the issue asks for; there are as many as there are operations.
const FAULTS_MIN: usize = 200;

/// What was acknowledged, and must be readable ever after.
#[derive(Default)]
struct Acknowledged {
    files: BTreeMap<FileId, Vec<u8>>,
    /// By their references.
    versions: BTreeMap<String, Vec<u8>>,
    responses: BTreeMap<ResponseId, Vec<u8>>,
    entries: Vec<String>,
    n_refused: usize,
}

/// What is written under a fault.
#[derive(Clone, Copy, Debug)]
enum Write {
    File,
    Version,
    Response,
    /// The answer was kept before, and is replaced.
    ResponseAgain,
    Settle,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The operation of this number fails.
    Disk(u64, i32),
    /// The database takes nothing more.
    Database,
}

async fn open(root: &Path) -> Store {
    Store::open(Layout::new(root), NOW).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_readable_and_what_was_refused_leaves_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).await;
    let mut known = Acknowledged::default();
    let mut n_faults = 0;
    for write in [Write::File, Write::Version, Write::Response, Write::ResponseAgain, Write::Settle] {
        for code in [EIO, ENOSPC] {
            for nth in 0.. {
                if !round(&store, write, Fault::Disk(nth, code), &mut known).await {
                    break;
                }
                n_faults += 1;
            }
        }
        if !crate::conformance::on_postgres() {
            n_faults += usize::from(round(&store, write, Fault::Database, &mut known).await);
        }
        // As after a crash: what was left on the way is gone, what was acknowledged is not.
        store.close().await;
        store = open(dir.path()).await;
        check(&store, &known).await;
    }
    // Again in other orders, until there were as many as were asked for.
    let mut dice = 7u64;
    while n_faults < FAULTS_MIN {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let writes = [Write::File, Write::Version, Write::Response, Write::ResponseAgain, Write::Settle];
        let write = writes[(dice >> 33) as usize % writes.len()];
        let fault = Fault::Disk((dice >> 40) % 12, [EIO, ENOSPC][(dice >> 60) as usize % 2]);
        n_faults += usize::from(round(&store, write, fault, &mut known).await);
    }
    check(&store, &known).await;
    store.close().await;
    check(&open(dir.path()).await, &known).await;
    let Acknowledged { files, versions, responses, entries, n_refused } = &known;
    println!(
        "{n_faults} faults: {n_refused} writes refused; {} files, {} versions, {} answers, {} entries kept",
        files.len(),
        versions.len(),
        responses.len(),
        entries.len()
    );
    assert!(*n_refused > FAULTS_MIN / 2, "faults that nobody notices prove nothing: {n_refused}");
}

/// One write under one fault; whether the fault struck.
async fn round(store: &Store, write: Write, fault: Fault, known: &mut Acknowledged) -> bool {
    let root = store.layout().root().to_owned();
    match fault {
        Fault::Disk(nth, code) => faults::strike(&root, nth, code),
        Fault::Database => store.fill().await,
    }
    let done = attempt(store, write, known, &root).await;
    let has_struck = match fault {
        Fault::Disk(..) => faults::end(&root),
        Fault::Database => {
            store.unfill().await;
            done.is_err()
        }
    };
    match done {
        Ok(()) => {}
        Err(error) if has_struck => {
            known.n_refused += 1;
            let is_told = match fault {
                Fault::Disk(_, EIO) => matches!(error, StoreError::File { .. }),
                Fault::Disk(..) | Fault::Database => matches!(error, StoreError::DiskFull { .. }),
            };
            assert!(is_told, "{write:?} {fault:?}: {error:?}");
        }
        Err(error) => panic!("{write:?} {fault:?} was refused without a fault: {error}"),
    }
    has_struck
}

async fn attempt(
    store: &Store,
    write: Write,
    known: &mut Acknowledged,
    root: &Path,
) -> Result<(), StoreError> {
    let project = Project::default_project();
    let content = uuid::Uuid::now_v7().simple().to_string().into_bytes();
    match write {
        Write::File => {
            let mut incoming = Incoming::begin(store, &project)?;
            incoming.write(&content[..10])?;
            incoming.write(&content[10..])?;
            let new = NewFile { name: "a.csv".into(), purpose: "user_data".into(), expires_at: None };
            match data_files::keep(store, &project, new, incoming.end()?, NOW).await? {
                Kept::Kept(file) => drop(known.files.insert(file.id, content)),
                other => panic!("{other:?}"),
            }
        }
        Write::Version => {
            let staging = Staging::create(store.layout())?;
            write_durably(&staging.path().join(WEIGHTS), &content)?;
            let new = NewVersion {
                name: "m".parse().unwrap(),
                family: "mlp".into(),
                task: "classify".into(),
                n_params: 1,
                bytes: 32,
                sha256: "ab".into(),
                job: None,
                held: None,
            };
            let manifest = |n: u32| n.to_string().into_bytes();
            let version = models::publish(store, &project, new, staging, manifest, NOW).await?;
            known.versions.insert(version.id(), content);
        }
        Write::Response => {
            let id = ResponseId::new();
            let saved = responses::save(store, &project, &id, &content, NOW);
            // Its end is told after this returns: a refused one may be there, but then it is whole.
            if saved.is_err() {
                let found = responses::read(store, &project, &id, NOW);
                assert!(found.map_or(true, |found| found == content));
            }
            saved?;
            known.responses.insert(id, content);
        }
        Write::ResponseAgain => {
            let Some((id, before)) = known.responses.iter_mut().next_back() else { return Ok(()) };
            let saved = responses::save(store, &project, id, &content, NOW);
            let found = responses::read(store, &project, id, NOW)?;
            assert!(found == content || (saved.is_err() && found == *before), "neither the old nor the new");
            *before = found;
            saved?;
        }
        Write::Settle => settle(store, known, String::from_utf8(content).unwrap(), root).await?,
    }
    Ok(())
}

/// A process that writes what it owes to its spool and to the ledger, and dies; the next one settles for it.
async fn settle(store: &Store, known: &mut Acknowledged, id: String, root: &Path) -> Result<(), StoreError> {
    let entry = |id: &str| Entry {
        request: Request {
            id: id.into(),
            tenant: "default".into(),
            project: "default".into(),
            api_key: "key_1".into(),
            model: "m".into(),
            model_version: 1,
            route: "/v1/completions".into(),
            class: Class::Interactive,
            started_at: NOW,
        },
        outcome: Outcome::Completed,
        counts: Counts { output_tokens: 3, ..Counts::default() },
        price: 1,
        cost: 3,
        settled_at: NOW,
    };
    let mut spool = Spool::create(store.layout())?;
    let (first, second) = (format!("req_{id}_1"), format!("req_{id}_2"));
    let mut refused = Ok(());
    let mut pending = Vec::new();
    for id in [&first, &second] {
        // Either place is enough for an acknowledgement; where both refuse, it is nowhere.
        let spooled = spool.settled(&entry(id));
        let is_spooled = spooled.is_ok();
        refused = refused.and(spooled);
        if is_spooled {
            pending.push(entry(id));
        }
        // The first goes to the database only where the spool did not take it, and into the next file of the spool.
        if id == &first && is_spooled {
            known.entries.push(id.clone());
            refused = refused.and(spool.begin_anew([].iter(), pending.iter()));
            continue;
        }
        let group = [Settlement { entry: entry(id), holds: vec![] }];
        let committed = entries::commit(store, spool.owner(), &group).await;
        if is_spooled || committed.is_ok() {
            known.entries.push(id.clone());
        }
        refused = refused.and(committed);
    }
    drop(spool);
    faults::spend(root);
    store.unfill().await;
    let recovered = recovery::recover(store, NOW).await?;
    assert_eq!(recovered.n_damaged, 0, "half a line spoilt another");
    refused
}

async fn check(store: &Store, known: &Acknowledged) {
    let project = Project::default_project();
    for (id, content) in &known.files {
        let file = data_files::find(store, &project, id, NOW).await.unwrap();
        assert_eq!(std::fs::read(file.path).unwrap(), *content);
    }
    for (id, content) in &known.versions {
        let reference: ModelRef = id.parse().unwrap();
        let version = models::resolve(store, &project, &reference).await.unwrap();
        assert_eq!(version.dir.join(WEIGHTS).read().unwrap(), *content);
        let manifest = version.dir.join(MANIFEST).read().unwrap();
        models::check_manifest(&version.dir, &manifest).unwrap();
        assert_eq!(manifest, version.number.to_string().into_bytes());
    }
    for (id, content) in &known.responses {
        assert_eq!(responses::read(store, &project, id, NOW).unwrap(), *content);
    }
    let end = Timestamp::from_millis(i64::MAX);
    let since = Timestamp::from_millis(0);
    let rows = entries::list(store, "default", (since, end), "", 10_000).await.unwrap();
    let mut found: Vec<&str> = rows.iter().map(|row| row.request.id.as_str()).collect();
    let mut wanted: Vec<&str> = known.entries.iter().map(String::as_str).collect();
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted, "each that was acknowledged once, and no other");
    // Nothing but what was acknowledged has a row.
    assert_eq!(models::list(store, &project).await.unwrap().len(), known.versions.len());
    let all = data_files::Query {
        purpose: None,
        after: None,
        limit: 10_000,
        order: data_files::Order::OldestFirst,
    };
    assert_eq!(data_files::list(store, &project, &all, NOW).await.unwrap().0.len(), known.files.len());
}

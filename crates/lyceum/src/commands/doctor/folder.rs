//! The data folder and the database: whether they can be written, whether others read them, and whether what was kept
//! is still what was kept.

use super::{Check, Found};
use crate::commands::blobs::damaged;
use crate::config::Config;
use crate::context::Context;
use crate::failure::{Exit, Failure, causes};
use crate::output;
use lyceum_store::blobs::{self, Depth, Stored};
use lyceum_store::data_files::{self, Order, Query};
use lyceum_store::jobs::{self, State};
use lyceum_store::ledger::spool::Dead;
use lyceum_store::models::{self, Version};
use lyceum_store::tenancy::audit::{self, Filter};
use lyceum_store::tenancy::projects::Which;
use lyceum_store::tenancy::{Page, projects};
use lyceum_store::{Layout, Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use std::path::Path;
use std::time::Duration;

/// What a server needs to live for a while: logs of the database, spools, a checkpoint.
const FREE_BYTES_LEAST: u64 = 256 << 20;
/// Clocks of one machine differ by no more, however they were set.
const CLOCK_SLACK: Duration = Duration::from_secs(300);
const FILES_PAGE: u32 = 1_000;

/// A megabyte there and back, and room for more.
pub fn writing(config: &Config) -> Result<String, Failure> {
    let root = &config.data_dir.value;
    lyceum_store::files::create_private_dir(root).map_err(|error| at(root, error.into()))?;
    let path = root.join(format!(".doctor-{}", std::process::id()));
    let content = vec![7u8; 1 << 20];
    let written = std::fs::write(&path, &content).and_then(|()| std::fs::read(&path));
    let removed = match written {
        Ok(_) => std::fs::remove_file(&path),
        // Half of it may be there.
        Err(_) => std::fs::remove_file(&path).or(Ok(())),
    };
    let read = written.and_then(|read| removed.map(|()| read));
    let read = read.map_err(|error| Failure::file("write to", root, &error))?;
    if read != content {
        let message = format!("{}: what was written is not what was read", root.display());
        let why = "the disk or its driver is faulty";
        return Err(at(root, Failure::new(Exit::Failed, "storage", message, why, "check the disk")));
    }
    match free_bytes(root) {
        Some(free) if free < FREE_BYTES_LEAST => {
            let message = format!("{}: {} are free", root.display(), output::bytes(free));
            let why = format!("a server wants at least {}", output::bytes(FREE_BYTES_LEAST));
            let fix = "free some space, or move the data folder: --data-dir, lyceum backup";
            Err(at(root, Failure::new(Exit::Failed, "disk_full", message, why, fix)))
        }
        Some(free) => Ok(format!("a megabyte was written and read back; {} are free", output::bytes(free))),
        None => Ok("a megabyte was written and read back".into()),
    }
}

/// What this user may still write; None where the system does not say.
fn free_bytes(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let found = rustix::fs::statvfs(path).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

/// Whether only this user reads what was kept.
pub fn permissions(config: &Config) -> Result<String, Vec<Failure>> {
    let layout = Layout::new(&config.data_dir.value);
    let root = layout.root();
    let log = root.join("lyceum.db-wal");
    let looked_at = [
        (root.to_owned(), "700"),
        (layout.database(), "600"),
        (log, "600"),
        (root.join("card_signing.key"), "600"),
    ];
    let wrong: Vec<Failure> =
        looked_at.iter().filter_map(|(path, mode)| open_to_others(path, mode)).collect();
    if wrong.is_empty() { Ok("nobody else can read the data folder".into()) } else { Err(wrong) }
}

#[cfg(unix)]
fn open_to_others(path: &Path, mode: &str) -> Option<Failure> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    if found & 0o077 == 0 {
        return None;
    }
    let message = format!("{} has the mode {found:o}: other users can get at it", path.display());
    let why = "it holds keys, models and what users sent";
    let fix = format!("chmod {mode} {}", path.display());
    Some(at(path, Failure::new(Exit::Failed, "open_to_others", message, why, fix)))
}

#[cfg(not(unix))]
fn open_to_others(_path: &Path, _mode: &str) -> Option<Failure> {
    None
}

/// The database, and all that it knows of.
pub async fn kept(context: &Context) -> Vec<Check> {
    let names = ["models", "files", "jobs", "audit log", "ledger", "clock", "object store"];
    let opened = match context.store().await {
        Ok(store) => store.check().await.map(|()| store).map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    let store = match opened {
        Ok(store) => store,
        Err(failure) => {
            let wrong = Found::Wrong(vec![of_database(context, failure)]);
            let left_out = |name| Check { name, found: Found::LeftOut("the database does not open") };
            return std::iter::once(Check { name: "database", found: wrong })
                .chain(names.into_iter().map(left_out))
                .collect();
        }
    };
    let (config, now) = (&context.config, Timestamp::now());
    let told = format!("{} in {}", config.database.value, config.data_dir.value.display());
    // What opens may have pages that were changed under it.
    let pages = store.check_pages().await.map(|()| told);
    let pages = pages.map_err(|error| {
        let is_damaged = matches!(error, StoreError::DamagedFile { .. });
        let mut failure = Failure::from(error);
        if is_damaged {
            let fix = "stop the server, and restore the newest backup that lyceum backup verify finds whole";
            (failure.code, failure.fix) = ("damaged_database".into(), fix.into());
        }
        failure
    });
    let mut checks = vec![Check::new("database", pages)];
    let owners = match owners(&store).await {
        Ok(owners) => owners,
        Err(failure) => {
            checks.push(Check { name: "organisations", found: Found::Wrong(vec![failure]) });
            return checks;
        }
    };
    let (open, closed) = openable(&store, &owners);
    // Known from rows: where this process was told of no bucket, too.
    let held = match blobs::stored(&store).await {
        Ok(held) => held,
        Err(error) => {
            checks.push(Check { name: names[6], found: Found::Wrong(vec![error.into()]) });
            return checks;
        }
    };
    let has_objects = store.blobs().is_some() || held.n_objects > 0;
    let versions = match super::machine::chosen() {
        Ok(_) => every_version(&store, &open, has_objects).await.map(|told| told + &closed).into(),
        Err(_) => Found::LeftOut("nothing can be computed by the processor as it was chosen"),
    };
    checks.push(Check { name: names[0], found: versions });
    checks.push(Check::new(names[1], every_file(&store, &open, (has_objects, now)).await));
    checks.push(Check::new(names[2], every_job(&store, &open).await));
    checks.push(Check::new(names[3], every_log(&store, &owners).await));
    checks.push(Check::new(names[4], spools(&store)));
    checks.push(Check::new(names[5], clock(&store, &owners, now).await));
    checks.push(Check::new(names[6], objects(&store, held).await));
    store.close().await;
    checks
}

/// An opening that failed names the database, and where a server of its own is configured, what to look at there.
fn of_database(context: &Context, mut failure: Failure) -> Failure {
    let database = &context.config.database;
    if database.value != lyceum_store::Database::Sqlite {
        failure.message = format!("{} ({}) does not open", database.value, database.origin);
        failure.fix = "start that server, or correct the URL: lyceum config show --origin".into();
        failure.place.key = Some("database".into());
        return failure;
    }
    let layout = Layout::new(&context.config.data_dir.value);
    at(&layout.database(), failure)
}

/// Those whose documents this process can open, and what is said of the others: they are encrypted, and it was not given
/// their key, or it is destroyed.
fn openable(store: &Store, owners: &Owners) -> (Vec<(String, Vec<Project>)>, String) {
    let mut n_closed = 0;
    let mut opens = |project: &Project| {
        let closed =
            matches!(store.keyring().of(project), Err(StoreError::Locked { .. } | StoreError::Erased { .. }));
        n_closed += u32::from(closed);
        !closed
    };
    let owners: Vec<_> = owners
        .iter()
        .map(|(tenant, projects)| {
            (tenant.clone(), projects.iter().filter(|project| opens(project)).cloned().collect())
        })
        .collect();
    let said = match n_closed {
        0 => String::new(),
        n => format!("; not looked at: {n} encrypted projects that this process cannot open"),
    };
    (owners, said)
}

/// Every organisation with its projects.
async fn owners(store: &Store) -> Result<Vec<(String, Vec<Project>)>, Failure> {
    let mut owners = Vec::new();
    for organization in projects::organizations(store).await? {
        let listed = projects::list(store, &organization.id, Which::All, Page::WHOLE).await?;
        owners.push((organization.id, listed.data.into_iter().map(|found| found.project).collect()));
    }
    Ok(owners)
}

type Owners = [(String, Vec<Project>)];

fn every_project(owners: &Owners) -> impl Iterator<Item = &Project> {
    owners.iter().flat_map(|(_, projects)| projects)
}

/// Every version's files are those that were registered, and a trained model answers as it did after training.
async fn every_version(store: &Store, owners: &Owners, has_objects: bool) -> Result<String, Vec<Failure>> {
    let mut versions: Vec<Version> = Vec::new();
    for project in every_project(owners) {
        versions.extend(models::list(store, project).await.map_err(|error| vec![error.into()])?);
    }
    let (n, mut wrong) = (versions.len(), Vec::new());
    let n_elsewhere = versions.iter().filter(|version| is_elsewhere(has_objects, version.dir.path())).count();
    for version in versions.into_iter().filter(|version| !is_elsewhere(has_objects, version.dir.path())) {
        let (id, dir) = (version.id(), version.dir.path().to_owned());
        let looked = tokio::task::spawn_blocking(move || lyceum_service::integrity::check(version));
        let looked =
            looked.await.map_err(|error| vec![Failure::internal("a look at a model broke off", &error)])?;
        if let Err(error) = looked {
            let message = format!("the files of {id} are damaged ({})", dir.display());
            let fix = format!(
                "lyceum backup restore brings them back; or lyceum rm {id} and train or import it again"
            );
            wrong.push(at(&dir, Failure::new(Exit::Failed, "damaged_model", message, causes(&error), fix)));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(format!("{n} versions, every byte as it was registered{}", elsewhere(n_elsewhere)))
}

/// Whether what a row names has no copy here and an object store may hold it: who needs it fetches it, by its hash.
fn is_elsewhere(has_objects: bool, path: &Path) -> bool {
    has_objects && !path.exists()
}

fn elsewhere(n: usize) -> String {
    if n == 0 { String::new() } else { format!(" but {n} without a copy here") }
}

/// The object store takes, gives and removes, and has what the rows refer to.
async fn objects(store: &Store, held: Stored) -> Result<String, Vec<Failure>> {
    let Some(there) = store.blobs() else {
        if held.n_objects == 0 {
            return Ok("none: bytes lie in the data folder".into());
        }
        let message = format!("{} objects lie in an object store, and `blobs` names none", held.n_objects);
        let why = "what has no copy in this data folder is not found without it";
        let mut failure = Failure::new(
            Exit::Failed,
            "object_store",
            message,
            why,
            "set blobs = \"s3://BUCKET/PREFIX\" in lyceum.toml to where they are, or to where a copy of that is",
        );
        failure.place.key = Some("blobs".into());
        return Err(vec![failure]);
    };
    let looked = async {
        there.check().await?;
        blobs::compare(store, Depth::Lengths).await
    };
    let compared = looked.await.map_err(|error| vec![Failure::from(error)])?;
    if !compared.damaged.is_empty() {
        return Err(compared.damaged.into_iter().map(damaged).collect());
    }
    let (place, n) = (there.place(), compared.n_objects);
    Ok(format!("{place}: an object was written, read back and removed; {n} that are referred to are there"))
}

/// Every file that was brought is there in its length.
async fn every_file(
    store: &Store,
    owners: &Owners,
    (has_objects, now): (bool, Timestamp),
) -> Result<String, Vec<Failure>> {
    let (mut n, mut n_elsewhere, mut wrong) = (0, 0, Vec::new());
    for project in every_project(owners) {
        let mut query = Query { purpose: None, after: None, limit: FILES_PAGE, order: Order::OldestFirst };
        loop {
            let page = data_files::list(store, project, &query, now).await;
            let (files, has_more) = page.map_err(|error| vec![error.into()])?;
            n += files.len();
            for file in &files {
                if is_elsewhere(has_objects, &file.path) {
                    n_elsewhere += 1;
                    continue;
                }
                let place = data_files::place(store, project, file).map_err(|error| vec![error.into()])?;
                let why = match place.n_bytes() {
                    Ok(n) if n == file.bytes => continue,
                    Ok(n) => format!("it has {n} bytes, {} came", file.bytes),
                    Err(error) => error.to_string(),
                };
                let message = format!("{} is not what was brought: {}", file.id, file.path.display());
                let fix =
                    format!("lyceum backup restore brings it back; or delete {} and bring it again", file.id);
                wrong.push(at(&file.path, Failure::new(Exit::Failed, "damaged_file", message, why, fix)));
            }
            query.after = files.last().map(|file| file.id.clone());
            if !has_more {
                break;
            }
        }
    }
    if wrong.is_empty() { Ok(format!("{n} files, all there{}", elsewhere(n_elsewhere))) } else { Err(wrong) }
}

/// No job claims to run whose process is gone.
async fn every_job(store: &Store, owners: &Owners) -> Result<String, Vec<Failure>> {
    let (mut n, mut wrong) = (0, Vec::new());
    for project in every_project(owners) {
        let jobs = jobs::list(store, project).await.map_err(|error| vec![error.into()])?;
        n += jobs.len();
        for job in jobs.iter().filter(|job| job.state == State::Running) {
            let is_dead = jobs::is_broken_off(store, job, Timestamp::now());
            if !is_dead.map_err(|error| vec![error.into()])? {
                continue;
            }
            let path = store.layout().job_lock(&job.id);
            let message = format!("{} was broken off at step {} of {}", job.id, job.step, job.steps);
            let why = "its process is gone, and nothing goes on with it";
            let fix = match job.request {
                Some(_) => "lyceum serve goes on with it".to_owned(),
                None => format!("lyceum jobs resume {0}, or lyceum jobs cancel {0}", job.id),
            };
            wrong.push(at(&path, Failure::new(Exit::Failed, "job_broken_off", message, why, fix)));
        }
    }
    if wrong.is_empty() { Ok(format!("{n} jobs, none broken off")) } else { Err(wrong) }
}

/// Every organisation's log is one chain.
async fn every_log(store: &Store, owners: &Owners) -> Result<String, Vec<Failure>> {
    let (mut n, mut wrong) = (0, Vec::new());
    for (tenant, _) in owners {
        match audit::verify(store, tenant, None).await.map_err(|error| vec![error.into()])? {
            Ok(verified) => n += verified.entries,
            Err(broken) => {
                let message = format!("entry {} of the audit log of {tenant}: {}", broken.seq, broken.why);
                let why = "somebody has changed the database";
                let fix = format!("lyceum audit verify --org {tenant}, and compare it with a backup");
                wrong.push(Failure::new(Exit::Failed, "audit_broken", message, why, fix));
            }
        }
    }
    if wrong.is_empty() { Ok(format!("{n} entries, chained")) } else { Err(wrong) }
}

/// What processes left that are gone: the next server settles it, where it can be read.
fn spools(store: &Store) -> Result<String, Vec<Failure>> {
    let dead = Dead::find(store.layout()).map_err(|error| vec![error.into()])?;
    let (mut n_open, mut wrong) = (0, Vec::new());
    for process in &dead {
        let replay = process.read().map_err(|error| vec![error.into()])?;
        n_open += replay.open.len() + replay.settled.len();
        if replay.n_damaged > 0 {
            let path = store.layout().spool();
            let owner = &process.owner;
            let message =
                format!("{} lines of {owner} in {} cannot be read", replay.n_damaged, path.display());
            let why = "what that process did and did not write down elsewhere may go unbilled";
            let fix = format!(
                "copy {owner}.* from there to compare with clients' logs; the next lyceum serve settles the rest"
            );
            wrong.push(at(&path, Failure::new(Exit::Failed, "damaged_spool", message, why, fix)));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(match n_open {
        0 => "nothing waits to be settled".into(),
        n => format!(
            "{n} requests of {} processes that are gone are settled by the next lyceum serve",
            dead.len()
        ),
    })
}

/// Nothing was kept in the future.
async fn clock(store: &Store, owners: &Owners, now: Timestamp) -> Result<String, Failure> {
    let mut newest = Timestamp::from_millis(0);
    for (tenant, projects) in owners {
        let page = Page { after: None, limit: 1 };
        let last = audit::list(store, tenant, &Filter::default(), page, None).await?;
        newest = last.data.iter().map(|entry| entry.effective_at).fold(newest, Timestamp::max);
        for project in projects {
            let versions = models::list(store, project).await?;
            newest = versions.iter().map(|version| version.created_at).fold(newest, Timestamp::max);
        }
    }
    if newest > now.plus(CLOCK_SLACK) {
        let message =
            format!("the clock says {}, and something was kept at {}", now.date_time(), newest.date_time());
        let why = "keys, leases, budgets and certificates end by the clock";
        let fix = "set the clock (timedatectl set-ntp true); if it is right, it was wrong before";
        return Err(Failure::new(Exit::Failed, "wrong_clock", message, why, fix));
    }
    Ok(format!("{}, and nothing is newer", now.date_time()))
}

/// The failure at this place, where it names none.
fn at(path: &Path, mut failure: Failure) -> Failure {
    failure.place.file.get_or_insert_with(|| path.display().to_string());
    failure
}

//! The server's worker: gives jobs that wait to processes of their own, one of each kind at a time.
//!
//! A process of its own keeps training away from the device thread that answers, ends at once when the server does,
//! and cannot take the server with it. What it left unfinished waits again: the lock on its job is free. A choice then
//! begins anew, a training goes on from its last checkpoint.
//!
//! The process of an encrypted project's job is handed that project's key on its stdin, each time it is begun, and never the
//! master key; what it says on stderr stays in memory, for it may speak of rows. It is ended when the project is erased.

use crate::context::Context;
use crate::failure::Failure;
use crate::training::{self, Takes};
use lyceum_service::Service;
use lyceum_store::StoreError;
use lyceum_store::jobs::{self, Job, Kind, State};
use lyceum_store::vault::ProjectKey;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use lyceum_types::limits;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the worker sleeps when nobody wakes it: another process may have queued a job, or died with one.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a process may fail to begin a job: somebody who looks at its lock holds it for an instant.
const BEGINNINGS_MAX: u32 = 3;
/// How often it looks whether its process has ended.
const WAIT: Duration = Duration::from_millis(100);
/// Of what a process says that is held in memory.
const SAID_BYTES_MAX: usize = 16 << 10;

/// Works until the control ends it.
pub async fn work(context: &Context, service: &Service) -> Result<(), Failure> {
    tokio::join!(
        lane(context, service, Kind::Choose, service.selections_wanted()),
        lane(context, service, Kind::Train, service.trainings_wanted()),
    );
    Ok(())
}

/// What went wrong with one job, one time after the other.
#[derive(Default)]
struct Troubles {
    job: Option<JobId>,
    not_begun: u32,
    /// Deaths since the job reached this step.
    step: u64,
    deaths: u32,
}

impl Troubles {
    fn of(&mut self, job: &Job) -> &mut Self {
        if self.job.as_ref() != Some(&job.id) {
            *self = Troubles { job: Some(job.id.clone()), ..Troubles::default() };
        }
        self
    }
}

/// The jobs of one kind, one after the other; a project's next one comes after those of others.
async fn lane(context: &Context, service: &Service, kind: Kind, wanted: &tokio::sync::Notify) {
    let (mut troubles, mut last) = (Troubles::default(), None::<Project>);
    while context.control.check().is_ok() {
        match jobs::next_waiting(service.store(), kind, last.as_ref(), Timestamp::now()).await {
            Ok(Some(job)) => {
                last = Some(job.project.clone());
                let context = context.of(job.project.clone());
                match make(&context, service, &job).await {
                    Ok(left) => {
                        if let Some(message) = left.and_then(|left| died(&mut troubles, &left)) {
                            end(&context, service, &job, &message).await;
                        }
                        continue;
                    }
                    Err(failure) => {
                        let (message, why) = (&failure.message, &failure.why);
                        // Of an encrypted project why it failed may be a row's words; the job's own row has them, sealed.
                        let told = match service.store().keyring().is_encrypted(&job.project) {
                            Ok(false) => why.as_str(),
                            _ => "",
                        };
                        tracing::warn!(job = %job.id, message, why = told, "a job was not begun");
                        let troubles = troubles.of(&job);
                        troubles.not_begun += 1;
                        if troubles.not_begun >= BEGINNINGS_MAX {
                            end(&context, service, &job, why).await;
                        }
                    }
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the queue of jobs cannot be read"),
        }
        tokio::select! {
            () = wanted.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = ended(context) => {}
        }
    }
}

/// Why a training is given up whose process died; None: it goes on. (A choice counts its beginnings itself.)
fn died(troubles: &mut Troubles, left: &Job) -> Option<String> {
    if left.kind != Kind::Train {
        return None;
    }
    let troubles = troubles.of(left);
    if left.step > troubles.step {
        (troubles.step, troubles.deaths) = (left.step, 0);
    }
    troubles.deaths += 1;
    tracing::warn!(job = %left.id, step = left.step, deaths = troubles.deaths, "the process of a job died");
    let times = troubles.deaths;
    (times >= limits::TRAINING_DEATHS_MAX).then(|| {
        format!(
            "its process died {times} times after step {}: it may need more memory than there is",
            left.step
        )
    })
}

async fn ended(context: &Context) {
    while context.control.check().is_ok() {
        tokio::time::sleep(WAIT).await;
    }
}

/// Waits for the process that works on one job. What it could not do stands in the job's row; only a process that
/// never came to claim the job is an error here. The job, where its process died in the middle.
async fn make(context: &Context, service: &Service, job: &Job) -> Result<Option<Job>, Failure> {
    let keyring = service.store().keyring();
    let key = keyring.of(&job.project)?;
    let mut process = start(context, service, job, key.as_ref())?;
    loop {
        if context.control.check().is_err() {
            // Dropping the process ends it.
            return Ok(None);
        }
        if key.is_some() && matches!(keyring.of(&job.project), Err(StoreError::Erased { .. })) {
            // It has the key in its memory; who erases the project writes the job's end.
            return Ok(None);
        }
        let ended =
            process.child.try_wait().map_err(|error| Failure::internal("a process is lost", &error))?;
        if ended.is_some() {
            break;
        }
        tokio::time::sleep(WAIT).await;
    }
    let found = jobs::find(service.store(), &context.project, &job.id).await?;
    let is_untouched = found.attempt == job.attempt && matches!(found.state, State::Queued | State::Running);
    if is_untouched {
        let said = process.said();
        let last = said.lines().last().unwrap_or("it said nothing").chars().take(500).collect::<String>();
        let error = std::io::Error::other(last);
        return Err(Failure::internal("the process that should work on the job did not begin", &error));
    }
    Ok((found.state == State::Running).then_some(found))
}

fn start(
    context: &Context,
    service: &Service,
    job: &Job,
    key: Option<&ProjectKey>,
) -> Result<Process, Failure> {
    let failed = |error: std::io::Error| Failure::internal("no process can be started", &error);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("--json").arg("--data-dir").arg(&context.config.data_dir.value);
    if context.config.threads.value > 0 {
        command.arg("--threads").arg(context.config.threads.value.to_string());
    }
    command.args(["jobs", "resume", job.id.as_str(), "--waiting"]);
    command.args(["--of", &job.project.tenant, &job.project.id]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let errors = service.store().layout().job_dir(&job.id).join("stderr.txt");
    match key {
        None => drop(command.stderr(std::fs::File::create(&errors).map_err(failed)?)),
        Some(_) => {
            command.arg("--sealed").env_remove("LYCEUM_MASTER_KEY_FILE");
            command.stdin(Stdio::piped()).stderr(Stdio::piped());
        }
    }
    // Ctrl-C at the server's terminal is the server's: it ends this process itself.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut process = Process { child: command.spawn().map_err(failed)?, errors: Errors::In(errors) };
    if let Some(key) = key {
        // A pipe holds it before anybody reads; dropped, it is closed.
        let handed = process.child.stdin.take().map(|mut stdin| stdin.write_all(key.bytes()));
        handed.unwrap_or(Ok(())).map_err(failed)?;
        process.errors = Errors::Held(process.child.stderr.take().map(hold));
    }
    Ok(process)
}

/// Reads what a process says until it ends; the last of it.
fn hold(mut said: ChildStderr) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let (mut last, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = said.read(&mut part) {
            last.extend_from_slice(&part[..n]);
            last.drain(..last.len().saturating_sub(SAID_BYTES_MAX));
        }
        last
    })
}

/// Ends a job that no process could be brought to begin.
async fn end(context: &Context, service: &Service, job: &Job, message: &str) {
    let store = service.store();
    let ended = match training::take(context, store, &job.id, Takes::Waiting).await {
        Ok(claim) => {
            jobs::finish_failed(store, &claim, message, Timestamp::now()).await.map_err(Failure::from)
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = ended {
        tracing::warn!(job = %job.id, message = failure.message, "the job's end was not written");
    }
}

/// Ended when it is dropped.
struct Process {
    child: Child,
    errors: Errors,
}

/// What it says on stderr.
enum Errors {
    In(PathBuf),
    /// In memory only.
    Held(Option<JoinHandle<Vec<u8>>>),
}

impl Process {
    /// The end of what it said, after its own end.
    fn said(&mut self) -> String {
        match &mut self.errors {
            Errors::In(path) => std::fs::read_to_string(path).unwrap_or_default(),
            Errors::Held(held) => {
                let said = held.take().and_then(|held| held.join().ok()).unwrap_or_default();
                String::from_utf8_lossy(&said).into_owned()
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The server's worker: gives choices that wait to processes of their own, one at a time.
//!
//! A process of its own keeps training away from the device thread that answers, ends at once when the server does,
//! and cannot take the server with it. What it left unfinished waits again: the lock on its job is free.

use super::job::{self, Takes};
use crate::context::Context;
use crate::failure::Failure;
use lyceum_service::Service;
use lyceum_store::jobs::{self, Job, Kind, State};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::JobId;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long the worker sleeps when nobody wakes it: another process may have queued a choice, or died with one.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often a process may fail to begin a choice: somebody who looks at its lock holds it for an instant.
const BEGINNINGS_MAX: u32 = 3;
/// How often it looks whether its process has ended.
const WAIT: Duration = Duration::from_millis(100);

/// Works until the control ends it.
pub async fn work(context: &Context, service: &Service) -> Result<(), Failure> {
    let mut failed: Option<(JobId, u32)> = None;
    while context.control.check().is_ok() {
        match jobs::next_waiting(service.store(), Kind::Choose).await {
            Ok(Some(job)) if job.project == context.project => {
                let Err(failure) = make(context, service, &job).await else { continue };
                tracing::warn!(job = %job.id, message = failure.message, why = failure.why, "a choice was not begun");
                let before = failed.filter(|(id, _)| *id == job.id).map_or(0, |(_, n)| n);
                if before + 1 >= BEGINNINGS_MAX {
                    end(context, service, &job, &failure.why).await;
                }
                failed = Some((job.id, before + 1));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the queue of choices cannot be read"),
        }
        tokio::select! {
            () = service.selections_wanted().notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = ended(context) => {}
        }
    }
    Ok(())
}

async fn ended(context: &Context) {
    while context.control.check().is_ok() {
        tokio::time::sleep(WAIT).await;
    }
}

/// Waits for the process that makes one choice. What it could not do stands in the job's row; only a process that
/// never came to claim the job is an error here.
async fn make(context: &Context, service: &Service, job: &Job) -> Result<(), Failure> {
    let errors = service.store().layout().job_dir(&job.id).join("stderr.txt");
    let mut process = Process(start(context, job, &errors)?);
    loop {
        if context.control.check().is_err() {
            // Dropping the process ends it.
            return Ok(());
        }
        let ended = process.0.try_wait().map_err(|error| Failure::internal("a process is lost", &error))?;
        if ended.is_some() {
            break;
        }
        tokio::time::sleep(WAIT).await;
    }
    let found = jobs::find(service.store(), &context.project, &job.id).await?;
    let is_untouched = found.attempt == job.attempt && matches!(found.state, State::Queued | State::Running);
    if is_untouched {
        let said = std::fs::read_to_string(&errors).unwrap_or_default();
        let last = said.lines().last().unwrap_or("it said nothing").chars().take(500).collect::<String>();
        let error = std::io::Error::other(last);
        return Err(Failure::internal("the process that should choose did not begin", &error));
    }
    Ok(())
}

fn start(context: &Context, job: &Job, errors: &Path) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::internal("no process can be started", &error);
    let stderr = std::fs::File::create(errors).map_err(failed)?;
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("--json").arg("--data-dir").arg(&context.config.data_dir.value);
    if context.config.threads.value > 0 {
        command.arg("--threads").arg(context.config.threads.value.to_string());
    }
    command.args(["jobs", "resume", job.id.as_str(), "--waiting"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    // Ctrl-C at the server's terminal is the server's: it ends this process itself.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(failed)
}

/// Ends a job that no process could be brought to begin.
async fn end(context: &Context, service: &Service, job: &Job, message: &str) {
    let store = service.store();
    let ended = match job::take(context, store, &job.id, Takes::Waiting).await {
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
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

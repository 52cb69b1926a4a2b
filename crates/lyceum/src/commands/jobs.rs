//! `lyceum jobs ls|pause|resume|logs|cancel`

use crate::commands::choose;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::training::{self, Takes};
use crate::{output, time, tuning};
use clap::{Args, Subcommand};
use lyceum_service::files;
use lyceum_store::Store;
use lyceum_store::jobs::{self, Job, Kind, State, kept};
use lyceum_store::vault::{self, ProjectKey};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use serde_json::{Value, json};
use std::io::Read;

#[derive(Debug, Args)]
pub struct Jobs {
    #[command(subcommand)]
    pub(in crate::commands) command: Command,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum Command {
    /// Show the jobs
    Ls,
    /// Continue a job from its last checkpoint; a choice begins anew
    Resume {
        /// `job_…`, as `jobs ls` shows it
        id: String,
        /// Only if it has not ended (for the server)
        #[arg(long, hide = true)]
        waiting: bool,
        /// Whose it is (for the server)
        #[arg(long, hide = true, num_args = 2, value_names = ["TENANT", "PROJECT"])]
        of: Option<Vec<String>>,
        /// The project's key comes on stdin (for the server)
        #[arg(long, hide = true, requires = "of")]
        sealed: bool,
    },
    /// Show what a job has said
    Logs {
        /// `job_…`, as `jobs ls` shows it
        id: String,
    },
    /// Ask a training to stop so that it goes on later, with jobs resume
    Pause {
        /// `job_…`, as `jobs ls` shows it
        id: String,
    },
    /// Ask a job to end; its last checkpoint is kept
    Cancel {
        /// `job_…`, as `jobs ls` shows it
        id: String,
    },
}

impl Jobs {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Ls => list(context).await,
            Command::Resume { id, waiting, of, sealed } => {
                let takes = if waiting { Takes::Waiting } else { Takes::Any };
                match of.as_deref() {
                    Some([tenant, project]) => {
                        let project = Project { tenant: tenant.clone(), id: project.clone() };
                        let mut context = context.of(project);
                        if sealed {
                            context.handed = Some(handed_key()?);
                        }
                        resume(&context, &id, takes).await
                    }
                    _ => resume(context, &id, takes).await,
                }
            }
            Command::Logs { id } => logs(context, &id).await,
            Command::Pause { id } => pause(context, &id).await,
            Command::Cancel { id } => cancel(context, &id).await,
        }
    }
}

/// The key of the job's project, which the server writes to stdin: neither arguments nor environment of a process are a
/// secret from others of its user.
fn handed_key() -> Result<ProjectKey, Failure> {
    let mut bytes = [0; 32];
    let read = std::io::stdin().read_exact(&mut bytes);
    let key = ProjectKey::of_bytes(&bytes);
    bytes.fill(0);
    read.map_err(|error| Failure::internal("no key came on stdin", &error))?;
    key.ok_or_else(|| Failure::internal("no key came on stdin", &std::io::Error::other("it is cut short")))
}

async fn list(context: &Context) -> Result<(), Failure> {
    let store = context.store().await?;
    let jobs = jobs::list(&store, &context.project).await?;
    let mut lines = Vec::with_capacity(jobs.len());
    for job in &jobs {
        lines.push((job, status(&store, job)?));
    }
    if context.is_json() {
        let jobs: Vec<Value> = lines.iter().map(|(job, status)| line(job, status)).collect();
        output::json_line(&json!({ "jobs": jobs }));
        return Ok(());
    }
    let row = |(job, status): &(&Job, &'static str)| {
        vec![
            job.id.to_string(),
            job.model.clone(),
            job.kind.as_str().to_owned(),
            (*status).to_owned(),
            format!("{}/{}", job.step, job.steps),
            time::for_people(job.created_at),
            job.message.clone(),
        ]
    };
    let header = ["id", "model", "kind", "status", "step", "created", "message"];
    output::table(&header, &lines.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

fn line(job: &Job, status: &str) -> Value {
    json!({
        "id": job.id.as_str(),
        "model": job.model,
        "kind": job.kind.as_str(),
        "status": status,
        "step": job.step,
        "steps": job.steps,
        "message": job.message,
        "created": job.created_at.seconds(),
    })
}

/// The state of the row; a job whose process has died says so, because nothing else will.
fn status(store: &Store, job: &Job) -> Result<&'static str, Failure> {
    if jobs::is_broken_off(store, job, Timestamp::now())? {
        return Ok("interrupted");
    }
    Ok(job.state.as_str())
}

async fn resume(context: &Context, id: &str, takes: Takes) -> Result<(), Failure> {
    let id: JobId = id.parse()?;
    let store = context.store().await?;
    let job = jobs::find(&store, &context.project, &id).await?;
    if job.kind == Kind::Choose {
        return choose::job::resume(context, &store, &job, takes).await;
    }
    if let (State::Done, Some(outcome)) = (job.state, &job.outcome) {
        return training::say_done(context, outcome);
    }
    if let Some(mut plan) = tuning::plan_of(&job) {
        files::of_job(&store, &job, &mut plan.base_dir).await?;
        let claim = training::take(context, &store, &id, takes).await?;
        return tuning::run(context, &store, claim, plan).await;
    }
    let mut plan = training::plan_of(&job)?;
    files::of_job(&store, &job, &mut plan.base_dir).await?;
    let claim = training::take(context, &store, &id, takes).await?;
    training::run_claimed(context, &store, claim, plan).await
}

async fn logs(context: &Context, id: &str) -> Result<(), Failure> {
    let id: JobId = id.parse()?;
    let store = context.store().await?;
    // A job of another project has no log here.
    jobs::find(&store, &context.project, &id).await?;
    kept::have_log(&store, &id).await?;
    let path = vault::job_folder(&store, &context.project, &id)?.join(kept::LOG);
    let lines = match vault::lines::read(&path, 0, u64::MAX) {
        Ok(lines) => lines,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let why = "it has not begun";
            return Err(Failure::new(
                Exit::NotFound,
                "no_log",
                format!("job {id} has said nothing"),
                why,
                "wait",
            ));
        }
        Err(error) => return Err(Failure::file("read", path.path(), &error)),
    };
    for (_, line) in lines {
        // The last line may be half written: its process may be writing it.
        if serde_json::from_str::<serde::de::IgnoredAny>(&line).is_ok() {
            output::text(line);
        }
    }
    Ok(())
}

async fn pause(context: &Context, id: &str) -> Result<(), Failure> {
    let id: JobId = id.parse()?;
    let store = context.store().await?;
    if jobs::find(&store, &context.project, &id).await?.kind == Kind::Choose {
        let (message, why) = (format!("{id} is a choice"), "one begins anew, so there is nothing to keep");
        let fix = format!("lyceum jobs cancel {id} ends it");
        return Err(Failure::new(Exit::Conflict, "wrong_state", message, why, fix));
    }
    let state = jobs::pause(&store, &context.project, &id, Timestamp::now()).await?.state;
    if context.is_json() {
        output::json_line(&json!({ "event": "done", "id": id.as_str(), "status": state.as_str() }));
    } else if state == State::Paused {
        output::text(format!("paused {id}; lyceum jobs resume {id} continues it"));
    } else {
        output::text(format!("asked {id} to stop; lyceum jobs resume {id} continues it"));
    }
    Ok(())
}

async fn cancel(context: &Context, id: &str) -> Result<(), Failure> {
    let id: JobId = id.parse()?;
    let store = context.store().await?;
    let state = jobs::cancel(&store, &context.project, &id, Timestamp::now()).await?;
    if context.is_json() {
        output::json_line(&json!({ "event": "done", "id": id.as_str(), "status": state.as_str() }));
    } else if state == State::Cancelled {
        output::text(format!("cancelled {id}"));
    } else {
        output::text(format!(
            "asked {id} to end; lyceum jobs resume {id} continues from its last checkpoint (a choice begins anew)"
        ));
    }
    Ok(())
}

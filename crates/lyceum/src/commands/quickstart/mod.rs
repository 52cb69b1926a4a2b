//! `lyceum quickstart`: from nothing to six served models and a private twin of one, on data in the binary.
//!
//! Each starter is an ordinary job from an ordinary spec; nothing here trains or measures by itself. The
//! server is up before the first job ends, so every model answers as soon as it is registered.

mod choice;
mod show;
mod starters;
mod trust;

use crate::commands::serve;
use crate::context::Context;
use crate::failure::Failure;
use crate::training::{self, Plan};
use crate::{assemble, output};
use clap::Args;
use lyceum_service::Service;
use lyceum_store::tenancy::admin_keys;
use lyceum_store::{Store, jobs, models};
use lyceum_types::clock::Timestamp;
use lyceum_types::spec::Spec;
use serde_json::{Value, json};
use starters::{STARTERS, Starter};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// The folder of the starters' data below the data folder.
const FOLDER: &str = "starter";

#[derive(Debug, Args)]
pub struct Quickstart {
    /// The port to serve on; 0 takes a free one
    #[arg(long)]
    port: Option<u16>,
    /// Train and show, but do not serve
    #[arg(long)]
    no_serve: bool,
    /// Shuffle the training labels: every score must fall to the trivial baseline's
    #[arg(long)]
    shuffle_labels: bool,
}

impl Quickstart {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let started = Instant::now();
        let store = context.store().await?;
        let service = assemble::service(&context.config, store.clone())?;
        let folder = write_starters(context)?;
        let serving = async {
            if self.no_serve {
                return Ok(());
            }
            let port = self.port.unwrap_or(context.config.port.value);
            let first = admin_keys::bootstrap(&store, &context.project, Timestamp::now()).await?;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let origins = context.config.cors_origins.value.clone();
            let place = serve::Place { address, tls: None, origins };
            serve::listen(context, service.clone(), place, first.as_ref()).await
        };
        let training = async {
            let mut names = Vec::new();
            for starter in &STARTERS {
                self.one(context, &store, &service, &folder, starter, &mut names).await?;
            }
            if !self.shuffle_labels {
                choice::show(context, &store, &folder).await?;
            }
            let seconds = started.elapsed().as_secs_f64();
            say_all(context, &names, seconds, self.no_serve);
            Ok::<(), Failure>(())
        };
        tokio::try_join!(serving, training)?;
        Ok(())
    }

    /// Trains a starter, or takes what an earlier run made of it, and lets it answer once.
    async fn one(
        &self,
        context: &Context,
        store: &Store,
        service: &Arc<Service>,
        folder: &std::path::Path,
        starter: &Starter,
        names: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let mut spec = Spec::from_toml(starter.spec, starter.spec_name)?;
        if self.shuffle_labels {
            spec.data.shuffle_labels = true;
            spec.name = format!("{}-shuffled", spec.name);
        }
        let found = models::list(store, &context.project).await?;
        let found = found.into_iter().rev().find(|version| version.name.as_str() == spec.name);
        if !context.is_json() {
            output::text(format!("\n{}: {}", spec.name, starter.what));
        }
        match found.as_ref().and_then(|version| version.job.clone()) {
            Some(job) => match jobs::find(store, &context.project, &job).await?.outcome {
                Some(line) => training::say_done(context, &line)?,
                None => output::note(format!("{} was trained before", spec.name)),
            },
            None => {
                let plan = Plan { spec: spec.clone(), base_dir: folder.to_owned() };
                let id = training::create(context, store, &plan).await?;
                training::run(context, store, &id, plan).await?;
            }
        }
        let shown = show::answer(service, &context.project, &spec.name, starter).await?;
        if !context.is_json() {
            output::text(shown);
        }
        if !self.shuffle_labels {
            trust::show(context, service, &spec.name, starter).await?;
        }
        let has_twin = spec.name == trust::WITH_TWIN;
        names.push(spec.name);
        if has_twin {
            names.push(trust::twin(context, store, service, folder, starter).await?);
        }
        Ok(())
    }
}

/// Writes the data that ships with the binary, so that the jobs are ordinary ones that can be resumed.
fn write_starters(context: &Context) -> Result<PathBuf, Failure> {
    let folder = context.config.data_dir.value.join(FOLDER);
    let failed = |path: &std::path::Path, error: std::io::Error| Failure::file("write", path, &error);
    std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    for starter in &STARTERS {
        let path = folder.join(starter.file);
        if std::fs::metadata(&path).is_ok_and(|found| found.len() == starter.data.len() as u64) {
            continue;
        }
        std::fs::write(&path, starter.data).map_err(|error| failed(&path, error))?;
    }
    folder.canonicalize().map_err(|error| failed(&folder, error))
}

fn say_all(context: &Context, names: &[String], seconds: f64, no_serve: bool) {
    if context.is_json() {
        output::json_line(&json!({ "event": "done", "models": names, "seconds": seconds }));
        return;
    }
    let port = context.config.port.value;
    output::text(format!("\n{} models in {seconds:.0} s: {}", names.len(), names.join(", ")));
    output::text(
        "No large language model is bundled; lyceum import PATH takes in a model that was exported elsewhere.",
    );
    if no_serve {
        output::text("lyceum serve serves them.");
        return;
    }
    let instance = Value::String("37+58".into());
    output::text(format!(
        "Ask one (KEY is the key above, or one of lyceum keys create):\n  curl -s http://127.0.0.1:{port}/v1/completions \
         -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' \
         -d '{{\"model\":\"addition\",\"prompt\":{instance},\"temperature\":0}}'\nCtrl-C ends the server."
    ));
}

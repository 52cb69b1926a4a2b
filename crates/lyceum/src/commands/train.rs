//! `lyceum train SPEC`

use crate::context::Context;
use crate::failure::Failure;
use crate::training::{self, Plan};
use crate::{files, gate, tuning};
use clap::Args;
use lyceum_types::ids::ModelName;
use lyceum_types::spec::Spec;
use lyceum_types::spec::parse::{Job, SpecErrors};
use lyceum_types::spec::tune::TuneSpec;
use std::path::{Path, PathBuf};

const SPEC_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Args)]
pub struct Train {
    /// A job spec: TOML, or JSON where the name ends with .json
    pub(in crate::commands) spec: PathBuf,
    /// Another name for the model
    #[arg(long)]
    pub(in crate::commands) name: Option<String>,
    /// Another seed
    #[arg(long)]
    pub(in crate::commands) seed: Option<u64>,
    /// What the new version must stand beside the one that its name serves, or be held: max_drop=0.02, and where
    /// wanted data=FILE, suite=FILE (as `lyceum attack` reads it), rows=N; as [gate] in the spec
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub(in crate::commands) gate: Option<String>,
}

impl Train {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let (job, base_dir) = read_job(&self.spec)?;
        let mut spec = match job {
            Job::Train(spec) => *spec,
            Job::Tune(spec) => return self.tune(context, *spec, base_dir).await,
        };
        if let Some(name) = self.name {
            name.parse::<ModelName>()?;
            spec.name = name;
        }
        if let Some(seed) = self.seed {
            spec.seed = seed;
        }
        if let Some(text) = &self.gate {
            let gate = gate::from_flag(text)?;
            if let Some([key, why, fix]) = gate.refusal(spec.task, &spec.data, spec.privacy.as_ref()) {
                let mut failure = Failure::usage(format!("this job cannot have --gate {text:?}"), why, fix);
                failure.place.key = Some(key.to_owned());
                return Err(failure);
            }
            spec.gate = Some(gate);
        }
        spec.gate.as_ref().map(gate::suite).transpose()?;
        let plan = Plan { spec, base_dir };
        let store = context.store().await?;
        let id = training::create(context, &store, &plan).await?;
        training::run(context, &store, &id, plan).await
    }
}

impl Train {
    /// A job whose family is an imported model's name.
    async fn tune(self, context: &Context, mut spec: TuneSpec, base_dir: PathBuf) -> Result<(), Failure> {
        if let Some(name) = self.name {
            name.parse::<ModelName>()?;
            spec.name = name;
        }
        spec.seed = self.seed.unwrap_or(spec.seed);
        if self.gate.is_some() {
            let why = "that of a fine-tuning compares losses, and is written in its spec";
            let fix = "write [gate] with max_rise = 0.02 and data = \"gate.jsonl\" in the spec";
            return Err(Failure::usage("a fine-tuning cannot have --gate", why, fix));
        }
        let store = context.store().await?;
        let plan = tuning::plan(context, &store, spec, base_dir).await?;
        let id = tuning::create(context, &store, &plan).await?;
        let claim = training::take(context, &store, &id, training::Takes::Any).await?;
        tuning::run(context, &store, claim, plan).await
    }
}

/// A job spec of either kind, and the folder that its paths are relative to.
pub fn read_job(path: &Path) -> Result<(Job, PathBuf), Failure> {
    read_document(path, Job::from_toml, Job::from_json)
}

/// A job spec, and the folder that its paths are relative to.
pub fn read_spec(path: &Path) -> Result<(Spec, PathBuf), Failure> {
    read_document(path, Spec::from_toml, Spec::from_json)
}

/// A document that people write, in TOML or JSON, and the folder that its paths are relative to.
pub fn read_document<T>(
    path: &Path,
    from_toml: fn(&str, &str) -> Result<T, SpecErrors>,
    from_json: fn(&serde_json::Value) -> Result<T, SpecErrors>,
) -> Result<(T, PathBuf), Failure> {
    let document = parse(path, from_toml, from_json)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Absolute, so that the job can be resumed from anywhere.
    let base_dir = folder.canonicalize().map_err(|error| Failure::file("open", folder, &error))?;
    Ok((document, base_dir))
}

fn parse<T>(
    path: &Path,
    from_toml: fn(&str, &str) -> Result<T, SpecErrors>,
    from_json: fn(&serde_json::Value) -> Result<T, SpecErrors>,
) -> Result<T, Failure> {
    let text = files::read_text(path, SPEC_BYTES_MAX)?;
    let shown = path.display().to_string();
    if path.extension().is_none_or(|extension| extension != "json") {
        return Ok(from_toml(&text, &shown)?);
    }
    let value = serde_json::from_str(&text).map_err(|error| {
        let mut failure =
            Failure::usage(error.to_string(), "the job spec is no JSON", "correct it at this place");
        failure.place.file = Some(shown.clone());
        failure.place.line = Some(error.line());
        failure.place.column = Some(error.column());
        failure
    })?;
    from_json(&value).map_err(|mut errors| {
        errors.file = Some(shown);
        errors.into()
    })
}

//! `lyceum import PATH`: a GGUF file, a folder in Hugging Face's layout, an adapter of either kind, a folder that `lyceum
//! export` wrote, or the bare weights of a model that a job spec describes. What is none of these is refused by name.

use crate::commands::train::read_spec;
use crate::context::Context;
use crate::failure::Failure;
use crate::{files, output};
use clap::Args;
use lyceum_kernels::stored::Stored;
use lyceum_models::causal_lm::families::FAMILIES;
use lyceum_models::encoder::MODEL_TYPES;
use lyceum_service::imports::trained::{self, Exported};
use lyceum_service::imports::{self, BringError, Brought, Wanted, quant};
use lyceum_service::language::import::{Arrival, Imported};
use lyceum_service::language::open::Layout;
use lyceum_store::models::Version;
use lyceum_store::tenancy::Act;
use lyceum_train::TrainError;
use lyceum_train::version::{VersionFiles, VersionName, version_files};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelName, ModelRef};
use lyceum_types::limits;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = families())]
pub struct Import {
    /// A GGUF file; a folder with `config.json` and safetensors (Hugging Face's layout); a LoRA adapter (PEFT's layout or
    /// GGUF); a folder that `lyceum export` wrote; or a `.safetensors` file with --spec
    pub path: PathBuf,
    /// For bare weights: the job spec of their model. Its data gives scales, labels and vocabulary
    #[arg(long, value_name = "SPEC")]
    pub spec: Option<PathBuf>,
    /// Another name for the model
    #[arg(long)]
    pub name: Option<String>,
    /// For GGUF and Hugging Face's layout: what matrices become when the model is loaded
    #[arg(long, value_name = "TYPE", value_parser = quant)]
    pub quant: Option<Stored>,
    /// For GGUF and Hugging Face's layout: the longest sequence in tokens, at most what the model can read
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// For adapters: the imported model that it adds to
    #[arg(long, value_name = "MODEL")]
    pub base: Option<ModelRef>,
}

/// The families whose files are read, for `--help`.
fn families() -> String {
    let (language, encoders) = (FAMILIES.map(|family| family.model_type).join(", "), MODEL_TYPES.join(", "));
    format!(
        "Families (model_type of config.json):\n  language models: {language}\n  encoders: {encoders}\n\
         GGUF files are those of language models."
    )
}

impl Import {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let act = Act::of_command_line(Timestamp::now());
        if self.spec.is_some() {
            let exported = self.adopted(context).await?;
            let (name, source) = (self.name, self.path.display().to_string());
            let name: ModelName = name.unwrap_or_else(|| exported.manifest.name.clone()).parse()?;
            let store = context.store().await?;
            let done = trained::publish(&store, &context.project, exported, name, (source, &act)).await?;
            tell(context, &done);
            return Ok(());
        }
        let wanted = self.wanted()?;
        let store = context.store().await?;
        let done = imports::bring(&store, &context.project, wanted, &context.control, &act).await?;
        tell(context, &done);
        Ok(())
    }

    fn wanted(self) -> Result<Wanted, Failure> {
        Ok(Wanted {
            source: self.path.display().to_string(),
            path: self.path,
            name: self.name.map(|name| name.parse()).transpose()?,
            layout: Layout { quant: self.quant, context: self.context },
            base: self.base,
            licence: None,
            trained_bytes_max: limits::WEIGHT_FILE_BYTES_MAX,
        })
    }

    /// Bare weights with the spec that describes their model.
    pub(super) async fn adopted(&self, context: &Context) -> Result<Exported, Failure> {
        let Import { path, spec, quant, context: tokens, base, .. } = self;
        if base.is_some() {
            return Err(BringError::BaseOfNone { path: path.clone() }.into());
        }
        if quant.is_some() || tokens.is_some() {
            return Err(BringError::LayoutOfTrained { path: path.clone() }.into());
        }
        match spec {
            Some(spec) if path.is_file() => adopt(context, path, spec).await,
            Some(_) if path.is_dir() => {
                let why = "an exported folder says itself what it is";
                Err(Failure::usage("--spec goes with a .safetensors file", why, "leave --spec out"))
            }
            _ => Err(Failure::file("open", path, &std::io::Error::from(std::io::ErrorKind::NotFound))),
        }
    }
}

/// What came of an import, and where it is.
pub fn tell(context: &Context, done: &Brought) {
    match done {
        Brought::Imported(done) => say(context, done),
        Brought::Trained(version, arrival) => say_trained(context, version, *arrival),
    }
}

/// A model that Lyceum trained, and where it is.
fn say_trained(context: &Context, version: &Version, arrival: Arrival) {
    if context.is_json() {
        output::json_line(&json!({
            "event": "done", "model": version.id(), "sha256": version.sha256, "path": version.dir.path(),
            "already_there": arrival == Arrival::AlreadyThere,
        }));
    } else {
        output::text(whereabouts(version, arrival));
    }
}

fn whereabouts(version: &Version, arrival: Arrival) -> String {
    match arrival {
        Arrival::New => format!("{} is in {}", version.id(), version.dir.display()),
        Arrival::AlreadyThere => format!("already there as {}, in {}", version.id(), version.dir.display()),
    }
}

fn say(context: &Context, done: &Imported) {
    let Imported { version, manifest, arrival, notes } = done;
    if context.is_json() {
        output::json_line(&json!({
            "event": "done", "model": version.id(), "sha256": version.sha256, "path": version.dir.path(),
            "kind": manifest.kind, "family": manifest.family, "n_parameters": manifest.n_parameters,
            "context": manifest.context, "quant": manifest.quant, "licence": manifest.licence,
            "base": manifest.base, "notes": notes, "already_there": *arrival == Arrival::AlreadyThere,
        }));
        return;
    }
    for note in summary(notes) {
        output::note(note);
    }
    let millions = manifest.n_parameters as f64 / 1e6;
    let licence = manifest.licence.as_deref().unwrap_or("not said in its files");
    output::text(format!(
        "{}\n  {}, {millions:.0} million parameters, context {}, licence: {licence}",
        whereabouts(version, *arrival),
        manifest.family,
        manifest.context
    ));
    if let Some(base) = &manifest.base {
        output::text(format!("  adds to {}", base.model));
    }
}

/// The first notes, and how many there are besides.
pub fn summary(notes: &[String]) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut lines: Vec<String> = notes.iter().take(SHOWN).cloned().collect();
    if notes.len() > SHOWN {
        lines.push(format!("and {} tensors more like these", notes.len() - SHOWN));
    }
    lines
}

/// Bare weights as the model of a spec, measured on the spec's data.
async fn adopt(context: &Context, weights: &Path, spec: &Path) -> Result<Exported, Failure> {
    let (spec, base_dir) = read_spec(spec)?;
    let bytes = files::read_bytes(weights, limits::WEIGHT_FILE_BYTES_MAX)?;
    let control = context.control.clone();
    let name = VersionName {
        name: spec.name.clone(),
        // The store gives the number; the manifest gets it there.
        version: 0,
        created: Timestamp::now().seconds().max(0) as u64,
        job: None,
    };
    let work = move || {
        let fitted = lyceum_train::adopt(&spec, &base_dir, &bytes, &control)?;
        version_files(&spec, &fitted, &name)
    };
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| Failure::internal("the import broke off", &error))?;
    let VersionFiles { manifest, files } = done.map_err(|error| {
        let is_weights = matches!(error, TrainError::Model(_));
        let mut failure = Failure::from(error);
        if is_weights {
            failure.message = format!("{}: {}", weights.display(), failure.message);
            failure.why = "the weights are not those of the spec's model on this data".into();
            failure.fix = "make the spec's [model] and data those of the training".into();
            failure.place.file = Some(weights.display().to_string());
        }
        failure
    })?;
    Ok(Exported { manifest, files })
}

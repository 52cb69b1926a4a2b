//! `lyceum import PATH`: a GGUF file, a folder in Hugging Face's layout, an adapter of either kind, a folder that `lyceum
//! export` wrote, or the bare weights of a model that a job spec describes. What is none of these is refused by name.

use crate::commands::show;
use crate::commands::train::read_spec;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{files, output};
use clap::Args;
use lyceum_kernels::stored::Stored;
use lyceum_models::bundle;
use lyceum_models::causal_lm::families::FAMILIES;
use lyceum_models::encoder::MODEL_TYPES;
use lyceum_service::language::adapter::{self, ImportAdapter};
use lyceum_service::language::import::{self as language, Arrival, Imported};
use lyceum_service::language::open::{GGUF, Layout};
use lyceum_store::files::Staging;
use lyceum_store::layout::{MANIFEST, MANIFEST_SHA256, WEIGHTS};
use lyceum_store::models::{self, NewVersion, Version};
use lyceum_store::{Store, StoreError};
use lyceum_train::TrainError;
use lyceum_train::checkpoint::digest;
use lyceum_train::version::{VersionFiles, VersionName, version_files};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelName, ModelRef, VersionRef};
use lyceum_types::limits;
use lyceum_types::manifest::{Base, ImportedManifest, Manifest};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};

const MANIFEST_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Args)]
#[command(after_help = families())]
pub struct Import {
    /// A GGUF file; a folder with `config.json` and safetensors (Hugging Face's layout); a LoRA adapter (PEFT's layout or
    /// GGUF); a folder that `lyceum export` wrote; or a `.safetensors` file with --spec
    path: PathBuf,
    /// For bare weights: the job spec of their model. Its data gives scales, labels and vocabulary
    #[arg(long, value_name = "SPEC")]
    spec: Option<PathBuf>,
    /// Another name for the model
    #[arg(long)]
    name: Option<String>,
    /// For GGUF and Hugging Face's layout: what matrices become when the model is loaded
    #[arg(long, value_name = "TYPE", value_parser = quant)]
    quant: Option<Stored>,
    /// For GGUF and Hugging Face's layout: the longest sequence in tokens, at most what the model can read
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// For adapters: the imported model that it adds to
    #[arg(long, value_name = "MODEL")]
    base: Option<ModelRef>,
}

/// The families whose files are read, for `--help`.
fn families() -> String {
    let (language, encoders) = (FAMILIES.map(|family| family.model_type).join(", "), MODEL_TYPES.join(", "));
    format!(
        "Families (model_type of config.json):\n  language models: {language}\n  encoders: {encoders}\n\
         GGUF files are those of language models."
    )
}

/// The types that a model can be quantised to when it is loaded.
pub fn quant(text: &str) -> Result<Stored, String> {
    let kinds = [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0, Stored::Q4K];
    let names = || kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    let found = kinds.into_iter().find(|kind| kind.name() == text.to_ascii_lowercase());
    found.ok_or_else(|| format!("there are {}", names()))
}

impl Import {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let is_exported = self.path.join(MANIFEST).exists();
        if self.spec.is_none() && !is_exported && adapter::is_importable(&self.path) {
            return self.import_adapter(context).await;
        }
        if self.spec.is_none() && self.path.join(MANIFEST).is_file() {
            let known = show::read_known_in(&self.path, &self.path.display().to_string());
            if let Ok(show::Known::Imported(manifest)) = known {
                return self.import_again(context, *manifest).await;
            }
        }
        if self.base.is_some() {
            return Err(self.no_adapter());
        }
        if self.spec.is_none() && language::is_importable(&self.path) && !is_exported {
            return self.import(context).await;
        }
        if self.quant.is_some() || self.context.is_some() {
            let why = "they say how a GGUF file or a model of Hugging Face's layout is laid out";
            let message = format!("--quant and --context do not go with {}", self.path.display());
            return Err(Failure::usage(message, why, "leave them out"));
        }
        let Exported { mut manifest, files: contents } = match (&self.spec, self.path.is_file()) {
            (Some(spec), true) => adopt(context, &self.path, spec).await?,
            (None, true) => return Err(no_folder(&self.path)?),
            (Some(_), false) if self.path.is_dir() => {
                let why = "an exported folder says itself what it is";
                return Err(Failure::usage("--spec goes with a .safetensors file", why, "leave --spec out"));
            }
            (_, false) => read(&self.path)?,
        };
        if let Some(name) = self.name {
            manifest.name = name;
        }
        let name: ModelName = manifest.name.parse()?;
        let store = context.store().await?;
        if let Some(version) = there_already(&store, context, &name, &manifest, &contents).await? {
            say_trained(context, &version, Arrival::AlreadyThere);
            return Ok(());
        }
        let staging = Staging::of(&store, &context.project)?;
        let mut bytes = 0;
        for (file, content) in &contents {
            let path = staging.place().join(file);
            path.write(content).map_err(|error| Failure::file("write", path.path(), &error))?;
            if file == WEIGHTS {
                bytes = content.len() as u64;
            }
        }
        let new = NewVersion {
            name,
            family: manifest.spec.model.family().to_owned(),
            task: manifest.spec.task.as_str().to_owned(),
            n_params: manifest.n_parameters,
            bytes,
            sha256: manifest.weights_sha256.clone(),
            // The job stayed where the model was trained, and so did its gate.
            job: None,
            held: None,
        };
        let write_manifest = |number: u32| {
            manifest.version = number;
            serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data: bug")
        };
        let version =
            models::publish(&store, &context.project, new, staging, write_manifest, Timestamp::now()).await?;
        say_trained(context, &version, Arrival::New);
        Ok(())
    }
}

impl Import {
    /// A model that another program wrote.
    async fn import(self, context: &Context) -> Result<(), Failure> {
        let name = match &self.name {
            Some(name) => name.parse()?,
            None => language::name_of(&self.path)?,
        };
        let store = context.store().await?;
        let request = language::Import {
            source: self.path.display().to_string(),
            layout: Layout { quant: self.quant, context: self.context },
            path: self.path,
            name,
            licence: None,
        };
        bring_in(context, &store, request).await
    }

    /// What is added to a model that was imported before.
    async fn import_adapter(self, context: &Context) -> Result<(), Failure> {
        if self.quant.is_some() || self.context.is_some() {
            let why = "an adapter is added to its base as that is laid out";
            return Err(Failure::usage(
                "--quant and --context do not go with an adapter",
                why,
                "leave them out",
            ));
        }
        let store = context.store().await?;
        let base = match self.base {
            Some(base) => base,
            None => said_base(&store, context, &self.path).await?,
        };
        let name = match &self.name {
            Some(name) => name.parse()?,
            None => language::name_of(&self.path)?,
        };
        let source = self.path.display().to_string();
        let request = ImportAdapter { path: self.path, name, base, source, licence: None };
        bring_adapter_in(context, &store, request).await
    }

    fn as_its_base_is_laid_out(&self) -> Result<(), Failure> {
        if self.quant.is_none() && self.context.is_none() {
            return Ok(());
        }
        let why = "an adapter is added to its base as that is laid out";
        Err(Failure::usage("--quant and --context do not go with an adapter", why, "leave them out"))
    }

    fn no_adapter(&self) -> Failure {
        let message = format!("--base does not go with {}", self.path.display());
        let why =
            "it says what an adapter adds to, and this is none: no adapter_config.json, no GGUF adapter";
        Failure::usage(message, why, "leave it out")
    }

    /// A model that another program wrote and `lyceum export` handed on: what was said of it stays said.
    async fn import_again(self, context: &Context, manifest: ImportedManifest) -> Result<(), Failure> {
        for (file, expected) in &manifest.files {
            let path = self.path.join(show::plain_name(file)?);
            let found = show::sha256_of(&path)?;
            if found != *expected {
                let why = format!("its sha256 is {found}, not {expected}");
                let fix = "export it again from where it came";
                let message = format!("{file} is damaged");
                return Err(Failure::new(Exit::Failed, "not_a_model", message, why, fix));
            }
        }
        if manifest.base.is_none() && self.base.is_some() {
            return Err(self.no_adapter());
        }
        if let Some(base) = manifest.base {
            self.as_its_base_is_laid_out()?;
            let store = context.store().await?;
            let base = match self.base {
                Some(base) => base,
                None => exported_base(&store, context, &base).await?,
            };
            let name = self.name.unwrap_or(manifest.name).parse()?;
            let (source, licence) = (manifest.source, manifest.licence);
            let request = ImportAdapter { path: self.path, name, base, source, licence };
            return bring_adapter_in(context, &store, request).await;
        }
        let quant = match &manifest.quant {
            Some(name) => Some(quant(name).map_err(|why| {
                let fix = "use a newer lyceum, or say --quant";
                Failure::new(Exit::Failed, "not_a_model", format!("no type is called {name}"), why, fix)
            })?),
            None => None,
        };
        let file = self.path.join(GGUF);
        let request = language::Import {
            name: self.name.unwrap_or(manifest.name).parse()?,
            source: manifest.source,
            layout: Layout {
                quant: self.quant.or(quant),
                context: Some(self.context.unwrap_or(manifest.context as usize)),
            },
            path: if file.is_file() { file } else { self.path },
            licence: manifest.licence,
        };
        let store = context.store().await?;
        bring_in(context, &store, request).await
    }
}

/// Imports and says what came of it.
pub async fn bring_in(context: &Context, store: &Store, request: language::Import) -> Result<(), Failure> {
    let done = language::import(store, &context.project, request, &context.control).await?;
    say(context, &done);
    Ok(())
}

/// Imports an adapter and says what came of it.
pub async fn bring_adapter_in(
    context: &Context,
    store: &Store,
    request: ImportAdapter,
) -> Result<(), Failure> {
    let base = request.base.to_string();
    let done = match adapter::import(store, &context.project, request, &context.control).await {
        Ok(done) => done,
        Err(language::ImportError::Store(StoreError::NotFound { what: "model", .. })) => {
            let why = "an adapter adds to a model that is here";
            let fix = format!("import or pull {base} first; lyceum ls shows what is there");
            let message = format!("the base {base} is not there");
            return Err(Failure::new(Exit::NotFound, "model_not_found", message, why, fix));
        }
        Err(error) => return Err(error.into()),
    };
    say(context, &done);
    Ok(())
}

/// The imported model that an adapter's description names as its base.
pub async fn said_base(store: &Store, context: &Context, path: &Path) -> Result<ModelRef, Failure> {
    let said = adapter::base_said(path);
    if let Some(said) = &said
        && let Some(version) = adapter::imported_as(store, &context.project, said).await?
    {
        return Ok(reference(&version));
    }
    let why = match &said {
        Some(said) => format!("its description says it adds to {said}, which was not pulled here"),
        None => "its description does not say".into(),
    };
    let fix = match &said {
        Some(said) => format!("lyceum pull {said} first, or say which imported model it is: --base NAME"),
        None => "say which imported model: --base NAME".into(),
    };
    let message = format!("{}: what does the adapter add to?", path.display());
    Err(Failure::new(Exit::NotFound, "base_model_missing", message, why, fix))
}

/// The version with the weights that an exported adapter was imported for.
async fn exported_base(store: &Store, context: &Context, base: &Base) -> Result<ModelRef, Failure> {
    let all = models::list(store, &context.project).await?;
    if let Some(version) = all.iter().rev().find(|version| version.sha256 == base.sha256) {
        return Ok(reference(version));
    }
    let message = format!("the adapter's base {} is not there", base.model);
    let why = format!("no model here has weights with sha256 {}", base.sha256);
    let fix = "import the base first, or say another with --base NAME";
    Err(Failure::new(Exit::NotFound, "base_model_missing", message, why, fix))
}

fn reference(version: &Version) -> ModelRef {
    ModelRef { name: version.name.clone(), version: VersionRef::Number(version.number) }
}

/// The version of this name that is this model, in its numbers and files; what each import and training has of its own
/// (the time, the job) makes no difference. One that is damaged is no reason not to import it anew.
async fn there_already(
    store: &Store,
    context: &Context,
    name: &ModelName,
    manifest: &Manifest,
    contents: &[(String, Vec<u8>)],
) -> Result<Option<Version>, Failure> {
    // As it is read back; a number that JSON has no form for is equal to nothing.
    let text = serde_json::to_vec(manifest).expect("a manifest is plain data: bug");
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return Ok(None) };
    let versions = models::list(store, &context.project).await?;
    let alike = |version: &Version| version.name == *name && version.sha256 == manifest.weights_sha256;
    for version in versions.into_iter().rev().filter(alike) {
        models::have(store, &version).await?;
        let Ok(show::Known::Trained(there)) = show::read_known(&version) else { continue };
        let same = Manifest {
            version: there.version,
            created: there.created,
            job: there.job.clone(),
            seconds: there.seconds,
            ..manifest.clone()
        };
        let is_whole = |(file, content): &(String, Vec<u8>)| {
            version.dir.join(file).read().is_ok_and(|found| found == *content)
        };
        if same == *there && contents.iter().all(is_whole) {
            return Ok(Some(version));
        }
    }
    Ok(None)
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

pub fn say(context: &Context, done: &Imported) {
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
fn summary(notes: &[String]) -> Vec<String> {
    const SHOWN: usize = 3;
    let mut lines: Vec<String> = notes.iter().take(SHOWN).cloned().collect();
    if notes.len() > SHOWN {
        lines.push(format!("and {} tensors more like these", notes.len() - SHOWN));
    }
    lines
}

/// What stands in an exported folder.
struct Exported {
    manifest: Manifest,
    /// Names and contents of all files but the manifest.
    files: Vec<(String, Vec<u8>)>,
}

/// Reads a folder: the files each held to its hash, the model held to its probes.
fn read(folder: &Path) -> Result<Exported, Failure> {
    let bad = |message: String, why: String| {
        let fix = "import a folder that lyceum export wrote";
        let mut failure = Failure::new(Exit::Failed, "not_a_model", message, why, fix);
        failure.place.file = Some(folder.display().to_string());
        failure
    };
    if !folder.is_dir() {
        if !folder.exists() {
            return Err(Failure::file("open", folder, &std::io::Error::from(std::io::ErrorKind::NotFound)));
        }
        return Err(bad(format!("{} is no folder", folder.display()), "it is no file either".into()));
    }
    if !folder.join(MANIFEST).exists() {
        let message = format!("{} holds no model", folder.display());
        let why = format!("there is neither config.json (Hugging Face's layout) nor {MANIFEST} in it");
        return Err(bad(message, why));
    }
    let text = files::read_text(&folder.join(MANIFEST), MANIFEST_BYTES_MAX)?;
    models::check_manifest(folder, text.as_bytes())
        .map_err(|error| bad(format!("{MANIFEST} is damaged"), error.to_string()))?;
    let manifest: Manifest = serde_json::from_str(&text)
        .map_err(|error| bad(format!("{MANIFEST} cannot be read"), error.to_string()))?;
    let mut contents = Vec::with_capacity(manifest.files.len());
    for (file, expected) in &manifest.files {
        if file.contains(['/', '\\']) || file.starts_with('.') || file == MANIFEST || file == MANIFEST_SHA256
        {
            return Err(bad(
                format!("{file:?} is no name of a model's file"),
                "it could lead elsewhere".into(),
            ));
        }
        let content = files::read_bytes(&folder.join(file), limits::WEIGHT_FILE_BYTES_MAX)?;
        let found = digest(&content);
        if found != *expected {
            return Err(bad(format!("{file} is damaged"), format!("its sha256 is {found}, not {expected}")));
        }
        contents.push((file.clone(), content));
    }
    let weights = contents.iter().find(|(file, _)| file == WEIGHTS).map(|(_, content)| content);
    let weights =
        weights.ok_or_else(|| bad(format!("there is no {WEIGHTS}"), "the manifest lists none".into()))?;
    if digest(weights) != manifest.weights_sha256 {
        return Err(bad(format!("{WEIGHTS} is damaged"), "its sha256 is not the manifest's".into()));
    }
    bundle::open(&manifest, weights)
        .map_err(|error| bad("the model cannot be built".into(), crate::failure::causes(&error)))?;
    Ok(Exported { manifest, files: contents })
}

/// Why a file is not taken as it is, by what it begins with.
fn no_folder(path: &Path) -> Result<Failure, Failure> {
    let mut head = [0; 8];
    let n = std::fs::File::open(path)
        .and_then(|mut file| file.read(&mut head))
        .map_err(|error| Failure::file("read", path, &error))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let is = |magic: &[u8]| head[..n].starts_with(magic);
    let (why, fix) = if extension == "onnx" {
        ("it is an ONNX file, which is not read in this version yet", "export its weights as safetensors")
    } else if is(b"PK\x03\x04") || is(&[0x80]) {
        (
            "it looks like a pickle, which can run code when it is read",
            "write it with safetensors.torch.save_file(model.state_dict(), \"model.safetensors\")",
        )
    } else if extension != "safetensors" {
        (
            "it is no GGUF file, and no other single file holds a model",
            "give a GGUF file; a folder with config.json and safetensors; a LoRA adapter; a folder that lyceum export \
             wrote; or a .safetensors file with --spec",
        )
    } else {
        (
            "weights alone do not say what they are",
            "add --spec SPEC: the job spec of the model, with the data of its scales, labels and vocabulary",
        )
    };
    let message = format!("{} is no model by itself", path.display());
    let mut failure = Failure::new(Exit::Failed, "not_a_model", message, why, fix);
    failure.place.file = Some(path.display().to_string());
    Ok(failure)
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

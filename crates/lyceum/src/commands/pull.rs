//! `lyceum pull REF`: a model of a hub, or an adapter of one that is here, fetched, verified, and imported.

use crate::commands::{import, show};
use crate::context::Context;
use crate::failure::{Exit, Failure, causes};
use crate::output;
use crate::progress::Progress;
use clap::Args;
use lyceum_hub::{HubError, Pulled, Reference, Settings};
use lyceum_kernels::stored::Stored;
use lyceum_service::language::adapter::{self, ImportAdapter};
use lyceum_service::language::import::{Arrival, Import, Imported};
use lyceum_service::language::open::Layout;
use lyceum_store::Store;
use lyceum_store::models::{self, Version};
use lyceum_types::ids::{ModelName, ModelRef};
use lyceum_types::manifest::ImportedManifest;
use serde_json::json;

#[derive(Debug, Args)]
#[command(
    after_help = "Environment: HF_ENDPOINT (the hub), HF_TOKEN, HF_HOME or HF_HUB_CACHE (the cache, shared with \
    Hugging Face's own tools), HF_HUB_OFFLINE=1 (only what is in the cache)."
)]
pub struct Pull {
    /// `org/name` or `hf.co/org/name`; `org/name:Q4_K_M` takes the GGUF file of this type
    reference: String,
    /// Another name for the model (default: org/name)
    #[arg(long)]
    name: Option<String>,
    /// What matrices become when the model is loaded
    #[arg(long, value_name = "TYPE", value_parser = import::quant)]
    quant: Option<Stored>,
    /// The longest sequence in tokens, at most what the model can read
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// For adapters: the imported model that it adds to (default: the pulled one that its description names)
    #[arg(long, value_name = "MODEL")]
    base: Option<ModelRef>,
}

impl Pull {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let reference: Reference = self.reference.parse()?;
        let name: ModelName = match &self.name {
            Some(name) => name.parse()?,
            None => reference.id().parse()?,
        };
        let store = context.store().await?;
        let pulled = fetch(context, reference.clone()).await?;
        let what = match &pulled.file {
            Some(file) => format!("{}/{file}", reference.id()),
            None => reference.id(),
        };
        let source = format!("hf.co/{what}@{}", pulled.commit);
        let layout = Layout { quant: self.quant, context: self.context };
        if let Some((version, manifest)) = there_already(&store, context, &name, &source).await?
            && manifest.quant.as_deref() == layout.quant.map(|quant| quant.name())
            && self.context.is_none_or(|n| n as u64 == manifest.context)
            && self.base.is_none()
        {
            let (arrival, notes) = (Arrival::AlreadyThere, Vec::new());
            import::say(context, &Imported { version, manifest, arrival, notes });
            return Ok(());
        }
        let licence = pulled.licence.clone();
        if adapter::is_importable(&pulled.path) {
            if layout != Layout::default() {
                let why = "an adapter is added to its base as that is laid out";
                let message = "--quant and --context do not go with an adapter";
                return Err(Failure::usage(message, why, "leave them out"));
            }
            let base = match self.base {
                Some(base) => base,
                None => import::said_base(&store, context, &pulled.path).await?,
            };
            let request = ImportAdapter { path: pulled.path, name, base, source, licence };
            return import::bring_adapter_in(context, &store, request).await;
        }
        if let Some(base) = &self.base {
            let message = format!("--base {base} does not go with {}", reference.id());
            let why = "it says what an adapter adds to, and this is a whole model";
            return Err(Failure::usage(message, why, "leave it out"));
        }
        let request = Import { path: pulled.path, name, source, layout, licence };
        import::bring_in(context, &store, request).await
    }
}

/// Brings the files into the cache.
async fn fetch(context: &Context, reference: Reference) -> Result<Pulled, Failure> {
    let (control, is_json) = (context.control.clone(), context.is_json());
    let work = move || {
        let settings = Settings::from_env(|name| std::env::var(name).ok());
        let mut progress = Progress::new("pull", is_json);
        let mut report = |p: lyceum_hub::Progress<'_>| {
            let message =
                format!("bytes, {} of {}: {}", output::bytes(p.done), output::bytes(p.whole), p.file);
            progress.at(p.done, p.whole, &message);
        };
        let pulled = lyceum_hub::pull(&reference, &settings, &control, &mut report);
        progress.finish();
        pulled
    };
    let done = tokio::task::spawn_blocking(work).await;
    let pulled = done.map_err(|error| Failure::internal("the pull broke off", &error))??;
    if context.is_json() {
        output::json_line(&json!({
            "event": "fetched", "path": pulled.path, "commit": pulled.commit, "bytes_fetched": pulled.bytes_fetched
        }));
    }
    Ok(pulled)
}

/// The version of this name that came from these very files.
async fn there_already(
    store: &Store,
    context: &Context,
    name: &ModelName,
    source: &str,
) -> Result<Option<(Version, ImportedManifest)>, Failure> {
    let versions = models::list(store, &context.project).await?;
    let same_name = versions.into_iter().rev().filter(|version| version.name == *name);
    for version in same_name {
        // One that is damaged is no reason not to import it anew.
        if let Ok(show::Known::Imported(manifest)) = show::read_known(&version)
            && manifest.source == source
        {
            return Ok(Some((version, *manifest)));
        }
    }
    Ok(None)
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        let (text, why) = (error.to_string(), causes(&error));
        match error {
            HubError::Reference { .. } => Failure::usage(
                text,
                "a reference names a model of the hub",
                "write org/name or org/name:Q4_K_M",
            ),
            HubError::NotFound { .. } => {
                let why = "there is none, or it is private";
                Failure::new(
                    Exit::NotFound,
                    "model_not_found",
                    text,
                    why,
                    "check the name; HF_TOKEN shows private ones",
                )
            }
            HubError::Denied { .. } => {
                let why = "the model is private, or asks to agree to its terms first";
                let fix = "set HF_TOKEN to a token of an account that may read it";
                Failure::new(Exit::Auth, "denied", text, why, fix)
            }
            HubError::Files { .. } => {
                let why = "lyceum reads safetensors with tokenizer.json and config.json, and GGUF files";
                Failure::new(Exit::Failed, "not_a_model", text, why, "name another file or another model")
            }
            HubError::Network { .. } | HubError::Truncated { .. } => {
                let why = "the hub or the network; what came is kept";
                Failure::new(
                    Exit::Unreachable,
                    "unreachable",
                    text,
                    why,
                    "run it again: it continues where it was",
                )
            }
            HubError::WrongHash { .. } => {
                let why = "other bytes came than the hub announced; they were thrown away";
                Failure::new(
                    Exit::Failed,
                    "wrong_hash",
                    text,
                    why,
                    "run it again; if it stays, do not trust the hub",
                )
            }
            HubError::Certificates { .. } => {
                let why = "certificates of hubs are checked against this file, as SSL_CERT_FILE says";
                Failure::new(
                    Exit::Failed,
                    "bad_certificates",
                    text,
                    why,
                    "name a PEM file with certificates, or unset it",
                )
            }
            HubError::Offline { .. } => {
                let why = "nothing may be fetched";
                Failure::new(
                    Exit::NotFound,
                    "model_not_found",
                    text,
                    why,
                    "unset HF_HUB_OFFLINE, or pull it once before",
                )
            }
            HubError::File { operation, path, source } => Failure::file(operation, &path, &source),
            HubError::Stopped(_) => Failure::new(
                Exit::Interrupted,
                "interrupted",
                text,
                why,
                "run it again: it continues where it was",
            ),
        }
    }
}

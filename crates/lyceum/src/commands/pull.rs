//! `lyceum pull REF`: a model of a hub, or an adapter of one that is here, fetched, verified, and imported.

use crate::commands::import;
use crate::context::Context;
use crate::failure::{Exit, Failure, causes};
use crate::output;
use crate::progress::Progress;
use clap::Args;
use lyceum_hub::{HubError, Pulled, Reference, Settings};
use lyceum_kernels::stored::Stored;
use lyceum_service::imports::pulled::{self, NewPull};
use lyceum_service::imports::quant;
use lyceum_service::language::open::Layout;
use lyceum_store::tenancy::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::ModelRef;
use serde_json::json;

#[derive(Debug, Args)]
#[command(
    after_help = "Environment: HF_ENDPOINT (the hub), HF_TOKEN, HF_HOME or HF_HUB_CACHE (the cache, shared with \
    Hugging Face's own tools), HF_HUB_OFFLINE=1 (only what is in the cache)."
)]
pub struct Pull {
    /// `org/name` or `hf.co/org/name`; `org/name:Q4_K_M` takes the GGUF file of this type
    pub reference: String,
    /// Another name for the model (default: org/name)
    #[arg(long)]
    pub name: Option<String>,
    /// What matrices become when the model is loaded
    #[arg(long, value_name = "TYPE", value_parser = quant)]
    pub quant: Option<Stored>,
    /// The longest sequence in tokens, at most what the model can read
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// For adapters: the imported model that it adds to (default: the pulled one that its description names)
    #[arg(long, value_name = "MODEL")]
    pub base: Option<ModelRef>,
}

impl Pull {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let new = NewPull {
            reference: self.reference.parse()?,
            name: self.name.map(|name| name.parse()).transpose()?,
            layout: Layout { quant: self.quant, context: self.context },
            base: self.base,
        };
        let store = context.store().await?;
        let pulled = fetch(context, new.reference.clone()).await?;
        let act = Act::of_command_line(Timestamp::now());
        let done = pulled::import(&store, &context.project, (new, pulled), &context.control, &act).await?;
        import::tell(context, &done);
        Ok(())
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

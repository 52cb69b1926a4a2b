//! The real service on a free port with a temporary data folder, and small models with random weights.

use crate::client::Client;
use lyceum_engine::{Engine, EngineLimits};
use lyceum_models::Model;
use lyceum_models::prepare::tabular::{Code, Column, Encoder, NumberMissing};
use lyceum_models::prepare::text::{Specials, Tokenizer};
use lyceum_models::prepare::vision::Pixels;
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_service::Service;
use lyceum_store::files::Staging;
use lyceum_store::keys::{self, KeyGrant};
use lyceum_store::models::{self, NewVersion};
use lyceum_store::tenancy::Act;
use lyceum_store::tenancy::admin_keys::{self, AdminKey};
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::manifest::{FORMAT_VERSION, FeatureSketch, Manifest};
use lyceum_types::spec::Spec;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What somebody does on the server's machine.
pub fn by_hand() -> Act {
    Act::of_command_line(Timestamp::now())
}

pub struct House {
    pub client: Client,
    pub service: Arc<Service>,
    pub dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl House {
    pub async fn new() -> Self {
        Self::with(EngineLimits::default()).await
    }

    pub async fn with(engine: EngineLimits) -> Self {
        Self::over(tempfile::tempdir().unwrap(), engine).await
    }

    /// Ends the service as a crash does: whatever it was doing is left as it is.
    pub async fn again(self) -> Self {
        Self::over(self.die().await, EngineLimits::default()).await
    }

    /// The data folder that a crash leaves.
    pub async fn die(self) -> tempfile::TempDir {
        let House { dir, server, service, .. } = self;
        server.abort();
        let _ = server.await;
        drop(service);
        dir
    }

    pub async fn over(dir: tempfile::TempDir, engine: EngineLimits) -> Self {
        Self::built(dir, engine, |service| service).await
    }

    /// With a service that is built in another way.
    pub async fn built(
        dir: tempfile::TempDir,
        engine: EngineLimits,
        build: impl FnOnce(Service) -> Service,
    ) -> Self {
        let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap();
        Self::of_built(store, dir, engine, build).await
    }

    /// Over a store in this folder.
    pub async fn of(store: Store, dir: tempfile::TempDir, engine: EngineLimits) -> Self {
        Self::of_built(store, dir, engine, |service| service).await
    }

    async fn of_built(
        store: Store,
        dir: tempfile::TempDir,
        engine: EngineLimits,
        build: impl FnOnce(Service) -> Service,
    ) -> Self {
        let grant = KeyGrant { name: "test".into(), scopes: vec![KeyScope::Admin], expires_at: None };
        let (_, secret) =
            keys::create(&store, &Project::default_project(), grant, Timestamp::now()).await.unwrap();
        let service = Arc::new(build(Service::new(store, Engine::start(engine).unwrap())));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = service.clone();
        let server = tokio::spawn(lyceum_api::serve(listener, serving, async {
            let _ = stopped.await;
        }));
        let client = Client { address, key: Some(secret.reveal().to_owned()) };
        Self { client, service, dir, stop: Some(stop), server }
    }

    /// Stops taking requests and waits for those under way.
    pub async fn stop(mut self) -> std::io::Result<()> {
        let _ = self.stop.take().unwrap().send(());
        self.server.await.unwrap()
    }

    pub async fn key(&self, scopes: &[KeyScope], expires_at: Option<Timestamp>) -> (keys::Key, String) {
        let grant = KeyGrant { name: "test".into(), scopes: scopes.to_vec(), expires_at };
        let project = Project::default_project();
        let created = Timestamp::from_millis(0);
        let (key, secret) = keys::create(self.service.store(), &project, grant, created).await.unwrap();
        (key, secret.reveal().to_owned())
    }

    /// A client with a key of the organisation, and the key.
    pub async fn admin(
        &self,
        tenant: &str,
        scopes: &[KeyScope],
        expires_at: Option<Timestamp>,
    ) -> (AdminKey, Client) {
        let (store, act) = (self.service.store(), Act::of_command_line(Timestamp::from_millis(0)));
        let owner = admin_keys::operator(store, tenant, &act).await.unwrap();
        let grant = KeyGrant { name: "test".into(), scopes: scopes.to_vec(), expires_at };
        let (key, secret) = admin_keys::create(store, tenant, &owner.id, grant, &act).await.unwrap();
        (key, Client { key: Some(secret.reveal().to_owned()), ..self.client.clone() })
    }

    /// Publishes a model of this preparation with random weights.
    pub async fn publish(&self, name: &str, task: &str, model: &str, preparation: Preparation) {
        self.publish_with(name, task, model, preparation, Kept::default()).await;
    }

    /// As [`publish`](Self::publish), with what training keeps beside the weights.
    pub async fn publish_with(
        &self,
        name: &str,
        task: &str,
        model: &str,
        preparation: Preparation,
        kept: Kept,
    ) {
        let store = self.service.store();
        let spec = format!(
            "name = \"{}\"\ntask = \"{task}\"\nseed = 1\n[data]\ntrain = \"x.csv\"\n{}\n[model]\n{model}\n[train]\nsteps = 1\nbatch_size = 1\n",
            name.replace('/', "-"),
            if task == "classification" || task == "regression" { "target = \"y\"" } else { "" }
        );
        let spec = Spec::from_toml(&spec, "test.toml").unwrap_or_else(|errors| panic!("{errors}"));
        let shape = preparation.shape();
        let built = Model::new(&spec.model, &shape, 7).unwrap();
        let weights = lyceum_nn::weights::to_safetensors(&built.params).unwrap();
        let weights_sha256 = sha256(&weights);
        let staging = Staging::create(store.layout()).unwrap();
        std::fs::write(staging.path().join("model.safetensors"), &weights).unwrap();
        let mut files = std::collections::BTreeMap::new();
        if let Some(bytes) = kept.valid_logits {
            std::fs::write(staging.path().join("valid_logits.safetensors"), &bytes).unwrap();
            files.insert("valid_logits.safetensors".to_owned(), sha256(&bytes));
        }
        let new = NewVersion {
            name: name.parse().unwrap(),
            family: spec.model.family().into(),
            task: task.into(),
            n_params: 1,
            bytes: weights.len() as u64,
            sha256: weights_sha256.clone(),
            job: None,
            held: None,
        };
        let manifest = |version| {
            let manifest = Manifest {
                format_version: FORMAT_VERSION,
                name: name.into(),
                version,
                created: 1,
                job: None,
                spec,
                preparation: serde_json::to_value(&preparation).unwrap(),
                shape: serde_json::to_value(&shape).unwrap(),
                n_parameters: 1,
                weights_sha256,
                data: vec![],
                metrics: Default::default(),
                baseline: None,
                strong_baseline: None,
                verdict: None,
                steps: 1,
                seconds: 1.0,
                split: Default::default(),
                features: kept.features,
                probes: serde_json::Value::Null,
                privacy: None,
                calibration: None,
                files,
            };
            serde_json::to_vec(&manifest).unwrap()
        };
        models::publish(store, &Project::default_project(), new, staging, manifest, Timestamp::now())
            .await
            .unwrap();
    }

    /// A table of two numbers to `no` or `yes`.
    pub async fn publish_table(&self, name: &str) {
        self.publish(name, "classification", "family = \"mlp\"\nhidden = [8]", table(labels(&["no", "yes"])))
            .await;
    }

    /// A language model over `a` to `h` and space, with a context of 24.
    pub async fn publish_poet(&self, name: &str) {
        let tokenizer = Tokenizer::chars(["abcdefgh "], Specials { bos: true, ..Default::default() });
        let preparation = Preparation {
            input: InputPreparation::Text { tokenizer, max_tokens: 24 },
            output: OutputPreparation::Tokens,
        };
        let model = "family = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 2\n\
             dim_feedforward = 32\ncontext = 24\npositional = \"learned\"\nnorm_first = true";
        self.publish(name, "language_modeling", model, preparation).await;
    }
}

/// What training keeps beside the weights.
#[derive(Default)]
pub struct Kept {
    pub valid_logits: Option<Vec<u8>>,
    pub features: Vec<FeatureSketch>,
}

pub fn labels(names: &[&str]) -> OutputPreparation {
    OutputPreparation::Labels { names: names.iter().map(|&name| name.to_owned()).collect() }
}

pub fn table(output: OutputPreparation) -> Preparation {
    let column = |name: &str| Column {
        name: name.into(),
        code: Code::Number { mean: 0.0, std: 1.0, missing: NumberMissing::Error },
    };
    let encoder = Encoder { columns: vec![column("a"), column("b")] };
    Preparation { input: InputPreparation::Tabular(encoder), output }
}

pub fn picture(output: OutputPreparation) -> Preparation {
    let pixels = Pixels { shape: [1, 2, 2], scale: 255.0, file_scale: 255.0, mean: vec![], std: vec![] };
    Preparation { input: InputPreparation::Image(pixels), output }
}

pub fn text(output: OutputPreparation) -> Preparation {
    let tokenizer = Tokenizer::bytes(Specials::default());
    Preparation { input: InputPreparation::Text { tokenizer, max_tokens: 16 }, output }
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

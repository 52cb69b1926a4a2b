//! Use cases: one file each, in words of the product. No HTTP, no SQL, no mathematics.
//!
//! A use case takes a project and a request that cannot be malformed, finds the model ([`resident`] keeps the
//! loaded ones), asks the engine and gives words back. The engine calls back on its own thread; here those
//! calls become channels, so that a caller that goes away cancels its work by dropping what it holds.
//!
//! Reading order: [`completions`], [`chat`], [`responses`], [`embeddings`], [`rerank`], [`moderations`] ([`injection`]), [`tokens`], [`decisions`], [`cascades`],
//! [`predict`], [`infer`], [`explain`], [`robustness`], [`evaluations`],
//! [`background`], [`batches`], [`card`], then [`meter`] (who pays), [`usage`], [`spending`], [`models`], [`files`], [`uploads`], [`imports`] (models from elsewhere), [`selections`], [`keys`],
//! [`standing`], [`rates`], [`guard`] (what texts are looked through for), [`retention`], [`receipts`] (what became of a request), [`idempotency`], [`health`].

#![forbid(unsafe_code)]

pub mod audits;
pub mod background;
pub mod batches;
pub mod card;
pub mod cascades;
pub mod chat;
pub mod completions;
pub mod decisions;
pub mod drift;
pub mod embeddings;
pub mod encryption;
mod error;
pub mod evaluations;
pub mod explain;
pub mod export;
pub mod files;
pub mod fine_tuning;
mod generation;
pub mod guard;
pub mod health;
pub mod idempotency;
pub mod imports;
pub mod infer;
pub mod injection;
pub mod integrity;
pub mod keys;
pub mod language;
mod messages;
pub mod meter;
pub mod models;
pub mod moderations;
pub mod predict;
pub mod privacy;
pub mod rates;
pub mod receipts;
pub mod registry;
pub mod rerank;
pub mod residency;
mod resident;
pub mod responses;
pub mod retention;
pub mod robustness;
pub mod saw;
pub mod selections;
pub mod shares;
pub mod spending;
pub mod standing;
mod stops;
pub mod tokens;
pub mod uploads;
pub mod usage;

/// What is watched of sequences.
pub mod observed {
    pub use lyceum_engine::{Distribution, Ended, Histogram, Observed};
}

pub use error::ServiceError;
pub use language::Language;
pub use lyceum_engine::{Counted, Engine, Load, Tally};
pub use lyceum_store::{runs, tenancy, vault};
pub use meter::{Ledger, Payer};
pub use resident::Resident;

use lyceum_engine::EngineError;
use lyceum_models::prepare::{Prepared, PreparedValue};
use lyceum_store::Store;
use lyceum_store::models::Version;
use lyceum_types::ids::{ModelName, ModelRef, Project, VersionRef};
use lyceum_types::limits;
use meter::Share;
use resident::Residents;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, oneshot};

/// What a request gives a model to read.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Text(String),
    /// A picture or wav file, as the model wants.
    File(Vec<u8>),
    /// Features by name.
    Row(Map<String, Value>),
    /// Values in the model's order.
    Values(Vec<Value>),
    /// Numbers in the model's order.
    Numbers(Vec<f32>),
}

/// Everything that use cases share.
pub struct Service {
    store: Store,
    engine: Engine,
    residents: Residents<Resident>,
    languages: Residents<Language>,
    /// Places for explanations under way, and those that can be asked for again.
    explaining: Semaphore,
    explanations: explain::Kept,
    background: background::Background,
    live_responses: responses::live::Live,
    selections_wanted: Notify,
    batches_wanted: Notify,
    trainings_wanted: Notify,
    ledger: Arc<Ledger>,
    standings: standing::Standings,
    rates: Arc<rates::Rates>,
    language_drift: Arc<drift::watched::Watches>,
    /// What is tried before it is a version ([`host`](Service::host)).
    guests: Mutex<Vec<Arc<Language>>>,
    /// What guards reported and left, of all requests.
    flagged: Arc<guard::flags::Flags>,
    guards: injection::Guards,
    analyser: lyceum_guard::Analyser,
    /// What files of models of one project may take until they are imported.
    model_uploads_bytes_max: u64,
    /// The hub that models are fetched from; None: the operator allows no pulls.
    hub: Option<imports::pulled::Hub>,
    /// The turn to open a model that comes from elsewhere, and the place of the one pull under way.
    importing: Arc<Semaphore>,
    pulling: Arc<Semaphore>,
}

impl Service {
    pub fn new(store: Store, engine: Engine) -> Self {
        let ledger = Ledger::new(store.clone(), engine.clone());
        let language_drift = Arc::new(drift::watched::Watches::new(store.clone()));
        Self {
            ledger,
            store,
            engine,
            residents: Residents::new(usize::MAX),
            languages: Residents::new(language::memory_budget()),
            explaining: Semaphore::new(limits::EXPLANATIONS_MAX),
            explanations: explain::Kept::default(),
            background: background::Background::default(),
            live_responses: responses::live::Live::default(),
            selections_wanted: Notify::new(),
            batches_wanted: Notify::new(),
            trainings_wanted: Notify::new(),
            standings: standing::Standings::default(),
            rates: Arc::default(),
            language_drift,
            guests: Mutex::default(),
            flagged: Arc::default(),
            guards: injection::Guards::default(),
            analyser: lyceum_guard::Analyser::default(),
            model_uploads_bytes_max: limits::MODEL_UPLOADS_MIB_DEFAULT << 20,
            hub: None,
            importing: Arc::new(Semaphore::new(1)),
            pulling: Arc::new(Semaphore::new(1)),
        }
    }

    /// With this much room for files of models of one project.
    #[must_use]
    pub fn with_model_uploads(self, bytes_max: u64) -> Self {
        Self { model_uploads_bytes_max: bytes_max, ..self }
    }

    /// With a hub that keys which may change models let the server fetch from.
    #[must_use]
    pub fn with_hub(self, hub: imports::pulled::Hub) -> Self {
        Self { hub: Some(hub), ..self }
    }

    pub(crate) fn model_uploads_bytes_max(&self) -> u64 {
        self.model_uploads_bytes_max
    }

    /// With this much memory for imported models that are loaded at once; without it, seven tenths of the machine's.
    #[must_use]
    pub fn with_language_memory(self, bytes_max: usize) -> Self {
        Self { languages: Residents::new(bytes_max), ..self }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// What is counted of requests.
    pub fn rates(&self) -> &Arc<rates::Rates> {
        &self.rates
    }

    /// The version that a reference means, if the project may ask it; counts it for the request under way.
    pub(crate) async fn resolve(
        &self,
        project: &Project,
        reference: &ModelRef,
    ) -> Result<Version, ServiceError> {
        if let Some(guest) = self.guest(&reference.name, &reference.version) {
            return Ok(guest.version.clone());
        }
        let version = lyceum_store::models::shares::ask(&self.store, project, reference).await?;
        let standing = self.standing(project).await?;
        if standing
            .decided
            .models
            .as_ref()
            .is_some_and(|models| !models.allows(&version.name, version.number))
        {
            return Err(ServiceError::ModelForbidden {
                project: project.id.clone(),
                id: reference.to_string(),
            });
        }
        if let Some(meter) = rates::current() {
            meter.model(&version.name)?;
        }
        Ok(version)
    }

    /// As [`resolve`](Self::resolve), of a model that the project has itself: who is merely given one to ask neither
    /// changes it nor learns what it was made of.
    ///
    /// # Errors
    /// It is another project's.
    pub(crate) async fn own(&self, project: &Project, reference: &ModelRef) -> Result<Version, ServiceError> {
        let version = self.resolve(project, reference).await?;
        if version.owner == *project {
            return Ok(version);
        }
        let message =
            format!("{} is shared with this project, which may ask it and nothing else", version.id());
        Err(ServiceError::Refused { code: "shared_model", message })
    }

    /// The loaded model that a reference means; loads it when it is asked for the first time.
    pub async fn resident(
        &self,
        project: &Project,
        reference: &ModelRef,
    ) -> Result<Arc<Resident>, ServiceError> {
        let version = self.resolve(project, reference).await?;
        self.resident_of(version).await
    }

    /// As [`resident`](Self::resident), of a version that was resolved.
    pub(crate) async fn resident_of(&self, version: Version) -> Result<Arc<Resident>, ServiceError> {
        if cascades::is_cascade(&version) {
            return Err(cascades::refused(&version));
        }
        if language::is_imported(&version) {
            return Err(imported(&version));
        }
        self.residents.load(version, resident::read).await
    }

    /// The imported model that a reference means; loads it when it is asked for the first time.
    pub async fn language(
        &self,
        project: &Project,
        reference: &ModelRef,
    ) -> Result<Arc<Language>, ServiceError> {
        let version = self.resolve(project, reference).await?;
        self.language_of(version).await
    }

    /// As [`language`](Self::language), of a version that was resolved.
    pub(crate) async fn language_of(&self, version: Version) -> Result<Arc<Language>, ServiceError> {
        if let Some(guest) = self.guest(&version.name, &VersionRef::Number(version.number)) {
            return Ok(guest);
        }
        if cascades::is_cascade(&version) {
            return Err(cascades::refused(&version));
        }
        if !language::is_imported(&version) {
            let message = format!(
                "{} does not converse: ask it with POST /v1/completions, /v1/decisions or :predict",
                version.id()
            );
            return Err(ServiceError::unsupported("model", "unsupported_model", message));
        }
        if !language::adapter::is_adapter(&version) {
            return self.languages.load(version, language::read).await;
        }
        // The base is asked for with its adapter, so it is not the first to go.
        let base = language::adapter::base_of(&self.store, &version).await?;
        let base = self.languages.load(base, language::read).await?;
        let read = move |version| language::adapter::read(version, &base);
        self.languages.load(version, read).await
    }

    /// What guards reported and left as it was, since the start.
    pub fn flagged(&self) -> &guard::flags::Flags {
        &self.flagged
    }

    /// Lets a model that is no version yet be asked in this process, as number 0 of its name: a number that nobody can
    /// write, so only code asks for it.
    pub fn host(&self, guest: Arc<Language>) {
        self.guests.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(guest);
    }

    fn guest(&self, name: &ModelName, number: &VersionRef) -> Option<Arc<Language>> {
        if *number != VersionRef::Number(0) {
            return None;
        }
        let guests = self.guests.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        guests.iter().find(|guest| guest.version.name == *name).cloned()
    }

    /// The imported models that are loaded now.
    pub fn languages(&self) -> Vec<Arc<Language>> {
        self.languages.loaded()
    }

    /// Memory that imported models do not take of what they may.
    pub(crate) fn language_room(&self) -> usize {
        self.languages.room()
    }

    /// Lets all versions of a project go: what was erased is in no memory of this process.
    pub fn unload_project(&self, project: &Project) {
        self.residents.unload_project(project);
        self.languages.unload_project(project);
        self.language_drift.unload_project(project);
    }

    /// Lets imported models go that nobody asked for since `idle`; how many.
    pub fn unload_idle(&self, idle: Duration) -> usize {
        self.languages.unload_idle(idle)
    }

    /// Lets an imported model go; false where it is not loaded.
    pub async fn unload(&self, project: &Project, reference: &ModelRef) -> Result<bool, ServiceError> {
        let version = self.own(project, reference).await?;
        Ok(self.languages.unload(&version))
    }

    /// Lets versions go that were deleted, with what leans on them; requests under way keep what they hold.
    pub fn forget(&self, deleted: &[Version]) {
        for version in deleted {
            self.residents.unload(version);
            self.languages.unload(version);
        }
    }

    /// Wakes the worker that makes choices: one was asked for.
    pub fn selections_wanted(&self) -> &Notify {
        &self.selections_wanted
    }

    /// Wakes the worker that trains: a training was asked for.
    pub fn trainings_wanted(&self) -> &Notify {
        &self.trainings_wanted
    }

    /// The models that are loaded now.
    pub fn residents(&self) -> Vec<Arc<Resident>> {
        self.residents.loaded()
    }

    /// Outputs of the model, a row an example, in their order.
    ///
    /// Examples go to the engine in groups of one length, so no row is padded and each answer is, bit for
    /// bit, the one that it would be alone.
    async fn predict(
        &self,
        resident: &Resident,
        examples: Vec<Prepared>,
        share: &Share,
    ) -> Result<Vec<Vec<f32>>, ServiceError> {
        let mut groups: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (i, example) in examples.iter().enumerate() {
            groups.entry(lengths(&example.value)).or_default().push(i);
        }
        let mut waiting = Vec::new();
        for places in groups.into_values() {
            for places in places.chunks(limits::PREDICT_ROWS_A_BATCH) {
                let group: Vec<Prepared> = places.iter().map(|&i| examples[i].clone()).collect();
                waiting.push((places.to_vec(), self.submit(resident, &group, share)?));
            }
        }
        let mut rows = vec![Vec::new(); examples.len()];
        for (places, receiver) in waiting {
            let prediction = self.await_reply(receiver).await?;
            let per_row = prediction.outputs.len() / places.len();
            for (place, row) in places.into_iter().zip(prediction.outputs.chunks_exact(per_row.max(1))) {
                rows[place] = row.to_vec();
            }
        }
        Ok(rows)
    }

    fn submit(
        &self,
        resident: &Resident,
        group: &[Prepared],
        share: &Share,
    ) -> Result<oneshot::Receiver<Result<lyceum_engine::Prediction, EngineError>>, ServiceError> {
        let (sender, receiver) = oneshot::channel();
        let (tally, held) = (share.tally(), share.clone());
        let reply = Box::new(move |result| {
            // The work is over before its answer is known.
            drop(held);
            // A client that left has dropped its end; its answer is dropped too.
            let _ = sender.send(result);
        });
        let input = resident.preparation.collate(group);
        let request = lyceum_engine::PredictRequest { model: resident.model.clone(), input, tally, reply };
        self.engine.predict(request).map_err(refused)?;
        Ok(receiver)
    }

    async fn await_reply(
        &self,
        receiver: oneshot::Receiver<Result<lyceum_engine::Prediction, EngineError>>,
    ) -> Result<lyceum_engine::Prediction, ServiceError> {
        match tokio::time::timeout(limits::REQUEST_TIMEOUT, receiver).await {
            Err(_) => Err(ServiceError::DeadlinePassed),
            Ok(Err(_)) => Err(refused(EngineError::Stopped)),
            Ok(Ok(result)) => result.map_err(refused),
        }
    }
}

fn imported(version: &Version) -> ServiceError {
    let message = format!("{} was imported: this takes models that Lyceum trained", version.id());
    ServiceError::unsupported("model", "unsupported_model", message)
}

fn lengths(value: &PreparedValue) -> (usize, usize) {
    match value {
        PreparedValue::Dense(_) => (0, 0),
        PreparedValue::Tokens(ids) => (ids.len(), 0),
        PreparedValue::Pair { source, target } => (source.len(), target.len()),
    }
}

/// What the engine says instead of an answer.
fn refused(error: EngineError) -> ServiceError {
    match error {
        EngineError::Overloaded { .. } => ServiceError::Overloaded { retry_after: Duration::from_secs(1) },
        EngineError::Stopped => ServiceError::NotReady { message: "the engine has stopped".into() },
        // Inputs are checked by the preparation, so what the model refuses is a fault of ours.
        EngineError::Constraint(message) => {
            ServiceError::internal("what the answer had to follow allowed no token", message)
        }
        EngineError::Input(message) => ServiceError::internal("the model refused a prepared input", message),
    }
}

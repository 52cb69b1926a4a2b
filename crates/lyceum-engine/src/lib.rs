//! Serving: one thread owns the device; everyone else hands it work and gets answers.
//!
//! The engine knows token ids, tensors and models; it does not know text, tenants, files or HTTP. Answers
//! come through functions that the caller gives ([`Reply`], [`Sink`]), so that no async runtime is needed
//! here.
//!
//! The loop of the device thread ([`device`]) has four lines: take what has arrived, make one batch of
//! predictions, make one step of generation, run one task. Predictions of different clients run as one batch, tokens of
//! different sequences as one step; a row's bits do not depend on its neighbours, so everyone gets the
//! answer that they would have had alone. A sequence that can never fit into memory is refused when it comes,
//! what fits is never refused later.

#![forbid(unsafe_code)]

mod device;
mod generate;
mod observed;
mod places;
mod predict;
mod tally;

pub use generate::{
    BitMask, Event, Finish, Flow, GenerateRequest, Logprobs, Priority, Sampling, Sink, Tenant, TokenEvent,
    TokenMask,
};
pub use lyceum_nn::ops::cached_attention::KvStorage;
pub use observed::{Distribution, Ended, Histogram, Observed};
pub use places::Places;
pub use predict::{PredictRequest, Prediction, Reply};
pub use tally::{CountPrompt, Counted, Metered, Tally};

use lyceum_models::Model;
use lyceum_models::decode::PAGE;
use places::Door;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How much the engine takes in before it says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Predictions that wait.
    pub predictions_queued_max: usize,
    /// Rows of one batch of predictions.
    pub batch_rows_max: usize,
    /// Tokens of one batch of predictions, padding included; one request alone may have more.
    pub batch_tokens_max: usize,
    /// Sequences that wait or run.
    pub sequences_max: usize,
    /// Sequences that run at once.
    pub sequences_running_max: usize,
    /// Prompt tokens of one sequence in one step.
    pub prefill_tokens_max: usize,
    /// Tokens of all sequences of a model in one step.
    pub step_tokens_max: usize,
    /// Of these, tokens of the batch class while there is work of the interactive one.
    pub batch_tokens_beside_max: usize,
    /// Models that generate at once, each with its own memory for keys and values; the others wait.
    pub models_max: usize,
    /// Memory for the keys and values of one model's sequences; fixed when the model first generates.
    pub kv_bytes_per_model_max: usize,
    /// What keys and values are stored as.
    pub kv_storage: KvStorage,
    /// Whether beginnings that were computed are kept for whoever begins the same.
    pub prefix_cache: bool,
    /// Tokens that are guessed from what was said before; 0: none.
    pub draft_tokens_max: usize,
    /// A step of the device thread that takes longer hangs.
    pub step_time_max: Duration,
}

impl Default for EngineLimits {
    fn default() -> Self {
        EngineLimits {
            predictions_queued_max: 1024,
            batch_rows_max: 256,
            batch_tokens_max: 16_384,
            sequences_max: 1024,
            sequences_running_max: 64,
            prefill_tokens_max: 256,
            step_tokens_max: 512,
            batch_tokens_beside_max: 16,
            models_max: 8,
            kv_bytes_per_model_max: 1 << 30,
            kv_storage: KvStorage::F32,
            prefix_cache: true,
            draft_tokens_max: 4,
            step_time_max: Duration::from_secs(300),
        }
    }
}

impl EngineLimits {
    /// Pages of the model's pool: what the memory holds, but no more than all running sequences can need.
    /// None for models that keep nothing in pages.
    pub fn kv_pages(&self, model: &Model) -> Option<usize> {
        let page_bytes = model.kv_shape(0, self.kv_storage)?.page_bytes();
        let by_memory = self.kv_bytes_per_model_max / page_bytes.max(1);
        let needed = model.context().map(|context| context.div_ceil(PAGE) * self.sequences_running_max);
        Some(needed.map_or(by_memory, |needed| needed.min(by_memory)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Too much is waiting; the caller should come back later.
    #[error("engine: {what} are at their limit of {limit}")]
    Overloaded { what: &'static str, limit: usize },
    /// The device thread is gone: a bug, and the process is unhealthy.
    #[error("engine: the device thread has stopped")]
    Stopped,
    /// The caller's input does not fit the model.
    #[error("{0}")]
    Input(String),
    /// What decides which tokens are allowed has failed, or allows none.
    #[error("engine: {0}")]
    Constraint(String),
}

/// What is in the engine now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub predictions_queued: usize,
    pub sequences: usize,
    /// Pages of keys and values that sequences hold; kept beginnings that nobody uses are not among them.
    pub kv_pages_used: usize,
    /// Pages that there are, of all models that have some.
    pub kv_pages: usize,
    /// Of `sequences`, those that are in the passes.
    pub sequences_running: usize,
}

#[derive(Default)]
pub(crate) struct Gauges {
    predictions: AtomicUsize,
    kv_pages_used: AtomicUsize,
    kv_pages: AtomicUsize,
    sequences_running: AtomicUsize,
    dead: AtomicBool,
    pulse: device::Pulse,
    observed: Arc<Observed>,
}

/// The door; clones share the device.
#[derive(Clone)]
pub struct Engine {
    work: mpsc::Sender<Work>,
    gauges: Arc<Gauges>,
    /// For sequences.
    door: Arc<Door>,
    counted: Arc<tally::Counters>,
    limits: EngineLimits,
}

pub(crate) enum Work {
    Predict(PredictRequest),
    Generate(Box<GenerateRequest>, Places),
    Task(Task),
}

pub(crate) type Task = Box<dyn FnOnce() + Send>;

impl Engine {
    /// Starts the device thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(limits: EngineLimits) -> std::io::Result<Self> {
        let (work, inbox) = mpsc::channel();
        let gauges = Arc::new(Gauges::default());
        let seen = gauges.clone();
        std::thread::Builder::new().name("device".into()).spawn(move || device::run(inbox, &seen, limits))?;
        Ok(Engine { work, gauges, door: Door::new(limits.sequences_max), counted: Arc::default(), limits })
    }

    /// Queues a prediction; the reply is called once, on the device thread, and must not block.
    pub fn predict(&self, request: PredictRequest) -> Result<(), EngineError> {
        admit(&self.gauges.predictions, self.limits.predictions_queued_max, "predictions")?;
        self.work.send(Work::Predict(request)).map_err(|_| {
            self.gauges.predictions.fetch_sub(1, Ordering::Relaxed);
            EngineError::Stopped
        })
    }

    /// Lets a request in before anything is done for it: places for `n` sequences, or none.
    ///
    /// # Errors
    /// As many wait and run as may.
    pub fn reserve(&self, tenant: Tenant, priority: Priority, n: usize) -> Result<Places, EngineError> {
        self.door.take(tenant, priority, n)
    }

    /// Queues a sequence; its sink is called for every token, on the device thread, and must not block.
    pub fn generate(&self, request: GenerateRequest) -> Result<(), EngineError> {
        let mut places = self.reserve(request.tenant, request.priority, 1)?;
        self.generate_in(&mut places, request)
    }

    /// Queues a sequence in one of the places that its request holds.
    ///
    /// # Errors
    /// The input does not fit the model.
    pub fn generate_in(&self, places: &mut Places, request: GenerateRequest) -> Result<(), EngineError> {
        request.check(&self.limits)?;
        let place = places.split().expect("a request has a place for each of its sequences: bug");
        let request = GenerateRequest {
            tenant: place.tenant(),
            priority: place.priority(),
            arrived: Instant::now(),
            ..request
        };
        self.work.send(Work::Generate(Box::new(request), place)).map_err(|_| EngineError::Stopped)
    }

    /// The most positions that one sequence of the model can have here: what the model can, and what the memory for
    /// keys and values holds. None where there is no limit.
    pub fn positions_max(&self, model: &Model) -> Option<usize> {
        let by_memory = self.limits.kv_pages(model).map(|pages| pages * PAGE);
        [by_memory, model.context()].into_iter().flatten().min()
    }

    /// What keys and values are stored as.
    pub fn kv_storage(&self) -> KvStorage {
        self.limits.kv_storage
    }

    /// Runs `task` on the device thread between two steps: for readiness proofs and explanations.
    pub fn with_device(&self, task: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
        self.work.send(Work::Task(Box::new(task))).map_err(|_| EngineError::Stopped)
    }

    pub fn load(&self) -> Load {
        Load {
            predictions_queued: self.gauges.predictions.load(Ordering::Relaxed),
            sequences: self.door.n_held(),
            kv_pages_used: self.gauges.kv_pages_used.load(Ordering::Relaxed),
            kv_pages: self.gauges.kv_pages.load(Ordering::Relaxed),
            sequences_running: self.gauges.sequences_running.load(Ordering::Relaxed),
        }
    }

    /// A tally for one request; what it counts is in [`Engine::counted`] too.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::new(Tally::new(self.counted.clone()))
    }

    /// What was done for all tallies since the start.
    pub fn counted(&self) -> Counted {
        self.counted.read()
    }

    /// Times and lengths of sequences since the start.
    pub fn observed(&self) -> &Observed {
        &self.gauges.observed
    }

    /// False after a panic on the device thread, and while one of its steps takes longer than any should.
    pub fn is_healthy(&self) -> bool {
        let hangs = self.gauges.pulse.step_time() > self.limits.step_time_max;
        !self.gauges.dead.load(Ordering::Relaxed) && !hangs
    }
}

/// Takes one place under `limit`, or says that there is none.
fn admit(gauge: &AtomicUsize, limit: usize, what: &'static str) -> Result<(), EngineError> {
    let taken = gauge.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1));
    taken.map(|_| ()).map_err(|_| EngineError::Overloaded { what, limit })
}

//! Serving: one thread owns the device; everyone else hands it work and gets answers.
//!
//! The engine knows token ids, tensors and models; it does not know text, tenants, files or HTTP. Answers
//! come through functions that the caller gives ([`Reply`], [`Sink`]), so that no async runtime is needed
//! here.
//!
//! The loop of the device thread ([`device`]) has four lines: take what has arrived, make one batch of
//! predictions, make one step of generation, run one task. Predictions of different clients run as one batch, tokens of
//! different sequences as one step; a row's bits do not depend on its neighbours, so everyone gets the
//! answer that they would have had alone.

#![forbid(unsafe_code)]

mod device;
mod generate;
mod predict;
mod sampler;

pub use generate::{Event, Finish, Flow, GenerateRequest, Logprobs, Sink, TokenEvent};
pub use predict::{PredictRequest, Prediction, Reply};
pub use sampler::Sampling;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

/// How much the engine takes in before it says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// Predictions that wait.
    pub predictions_queued_max: usize,
    /// Rows of one batch of predictions.
    pub batch_rows_max: usize,
    /// Sequences that wait or run.
    pub sequences_max: usize,
    /// Sequences that run at once.
    pub sequences_running_max: usize,
    /// Prompt tokens of one sequence in one step.
    pub prefill_tokens_max: usize,
}

impl Default for EngineLimits {
    fn default() -> Self {
        EngineLimits {
            predictions_queued_max: 1024,
            batch_rows_max: 256,
            sequences_max: 1024,
            sequences_running_max: 64,
            prefill_tokens_max: 256,
        }
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
}

/// What is in the engine now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub predictions_queued: usize,
    pub sequences: usize,
}

#[derive(Default)]
pub(crate) struct Gauges {
    predictions: AtomicUsize,
    sequences: AtomicUsize,
    dead: AtomicBool,
}

/// The door; clones share the device.
#[derive(Clone)]
pub struct Engine {
    work: mpsc::Sender<Work>,
    gauges: Arc<Gauges>,
    limits: EngineLimits,
}

pub(crate) enum Work {
    Predict(PredictRequest),
    Generate(Box<GenerateRequest>),
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
        Ok(Engine { work, gauges, limits })
    }

    /// Queues a prediction; the reply is called once, on the device thread, and must not block.
    pub fn predict(&self, request: PredictRequest) -> Result<(), EngineError> {
        admit(&self.gauges.predictions, self.limits.predictions_queued_max, "predictions")?;
        self.send(Work::Predict(request), &self.gauges.predictions)
    }

    /// Queues a sequence; its sink is called for every token, on the device thread, and must not block.
    pub fn generate(&self, request: GenerateRequest) -> Result<(), EngineError> {
        request.check()?;
        admit(&self.gauges.sequences, self.limits.sequences_max, "sequences")?;
        self.send(Work::Generate(Box::new(request)), &self.gauges.sequences)
    }

    /// Runs `task` on the device thread between two steps: for readiness proofs and explanations.
    pub fn with_device(&self, task: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
        self.work.send(Work::Task(Box::new(task))).map_err(|_| EngineError::Stopped)
    }

    pub fn load(&self) -> Load {
        Load {
            predictions_queued: self.gauges.predictions.load(Ordering::Relaxed),
            sequences: self.gauges.sequences.load(Ordering::Relaxed),
        }
    }

    /// False after a panic on the device thread.
    pub fn is_healthy(&self) -> bool {
        !self.gauges.dead.load(Ordering::Relaxed)
    }

    fn send(&self, work: Work, gauge: &AtomicUsize) -> Result<(), EngineError> {
        self.work.send(work).map_err(|_| {
            gauge.fetch_sub(1, Ordering::Relaxed);
            EngineError::Stopped
        })
    }
}

/// Takes one place under `limit`, or says that there is none.
fn admit(gauge: &AtomicUsize, limit: usize, what: &'static str) -> Result<(), EngineError> {
    let taken = gauge.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1));
    taken.map(|_| ()).map_err(|_| EngineError::Overloaded { what, limit })
}

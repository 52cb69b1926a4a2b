//! What a run tells while it runs. Training writes nothing itself but checkpoints into the folder that it is
//! given; whoever observes it prints, stores and serves.

use crate::data::Warning;
use crate::error::TrainError;
use lyceum_seal::KeyedPath;
use lyceum_types::manifest::{DataFile, Metric};
use std::collections::BTreeMap;

/// Something happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The data was judged and is fit for training.
    Data {
        n_train: usize,
        n_valid: usize,
        n_test: usize,
        warnings: &'a [Warning],
    },
    /// A private run is about to take this of its training file, at this δ; an error keeps it from starting.
    /// Told at every start; a resumed run takes nothing a second time.
    Private {
        data_sha256: &'a str,
        event: lyceum_privacy::Event,
        delta: f64,
    },
    /// A run without noise is about to read this file; an error keeps it from starting. Told at every start.
    Unprotected {
        file: &'a DataFile,
    },
    /// What the run will cost, measured on a few steps that are then thrown away. The memory is None where the
    /// system does not tell it.
    Quote {
        steps: u64,
        seconds: f64,
        memory_bytes: Option<u64>,
        n_parameters: usize,
    },
    /// The run goes on after this many steps.
    Resumed {
        step: u64,
        path: &'a KeyedPath,
        trained: Trained,
    },
    /// One optimiser step (counted from 1).
    Step(StepEvent),
    /// Metrics of the validation part.
    Eval {
        step: u64,
        metrics: &'a BTreeMap<String, Metric>,
    },
    Checkpoint {
        step: u64,
        path: &'a KeyedPath,
    },
    /// Early stopping ended the run; the weights of `best_step` are kept.
    StoppedEarly {
        step: u64,
        best_step: u64,
    },
    /// One fold of cross-validation has ended.
    Fold {
        fold: usize,
        n_folds: usize,
        metrics: &'a BTreeMap<String, Metric>,
        /// Rows that its run was trained on.
        trained_rows: u64,
    },
    /// The model is trained and is being measured.
    Measuring,
}

/// What the steps of a run so far were trained on, as often as they were: a function of the run and the step alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    /// Tokens in the examples of a fine-tuning.
    Tokens(u64),
    /// Rows, of a stream windows; of a private run as many as are drawn on average, for how many were is no one's to know.
    Rows(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepEvent {
    pub step: u64,
    pub total_steps: u64,
    pub epoch: u64,
    pub loss: f64,
    pub grad_norm: f64,
    /// As [`StepReport::token_accuracy`](crate::run::StepReport::token_accuracy).
    pub token_accuracy: Option<f64>,
    pub lr: f64,
    pub samples_per_s: f64,
    pub eta_s: f64,
    pub trained: Trained,
}

/// Sees a run. The event's return value can end it.
pub trait Observer {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError>;

    /// Where checkpoints are kept; None keeps none.
    fn checkpoint_dir(&self) -> Option<KeyedPath>;

    /// A checkpoint is about to be written. What was told of the steps that it has is never told again, so who keeps it
    /// makes it as durable now.
    fn before_checkpoint(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    /// 256 bits that nobody knows, for the noise of a private run.
    fn noise_key(&mut self) -> Result<[u8; 32], TrainError> {
        Err(TrainError::Privacy("this run has no source of secrets for its noise".into()))
    }
}

/// Sees nothing and keeps nothing.
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event<'_>) -> Result<(), TrainError> {
        Ok(())
    }
    fn checkpoint_dir(&self) -> Option<KeyedPath> {
        None
    }
}

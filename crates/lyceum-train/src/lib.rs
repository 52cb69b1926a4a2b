//! Training: from a job spec and data files to a measured model.
//!
//! The path: [`data`] judges and prepares, [`run`] takes one step, [`fit`] is the loop, [`measure`] says how
//! good the model is and what simple methods reach, [`version`] lays out the files of the result. Language models
//! that exist already are fine-tuned by [`tune`], on [`chat`]s, through the same loop. Everything that a run depends on is in the spec, the data and the seed; progress goes to an [`observer`]. This crate
//! does not know SQL, HTTP or tenants.

#![forbid(unsafe_code)]

pub mod baseline;
pub mod chat;
pub mod checkpoint;
pub mod data;
mod drive;
mod error;
pub mod eval;
pub mod fit;
mod likeliest;
pub mod measure;
pub mod observer;
pub mod optim;
pub mod order;
pub mod past;
pub mod preview;
pub mod private;
pub mod robust;
pub mod run;
pub mod schedule;
pub mod tune;
pub mod version;

pub use error::TrainError;
pub use fit::{Fitted, Learnt, adopt, fit, learn, quoted, train};
pub use observer::{Event, Observer, Silent, StepEvent, Trained};

//! How well a model stands what the world does to its inputs: attacks, certificates, calibration, prediction
//! sets, drift and corruptions.
//!
//! The path: `lyceum_models::space` says in which units inputs may move and how far, [`threat`] how much, [`victim`] is
//! the model with its gradients, [`attack`] is the one door to all attacks and counts what is left, with the
//! five signs of a masked gradient. [`certify`] proves what no attack can do. [`calibrate`] and [`conformal`]
//! say how far a probability can be believed, [`drift`] and [`ood`] whether a row still looks like the
//! training rows, [`corrupt`] what ordinary damage does, [`environments`] whether the answers depend on the
//! machine. Of language models [`reading`] reads texts and writes answers in one environment,
//! [`precision`] says how far that is from another, [`redteam`] whether a system prompt keeps its
//! secret.
//!
//! Everything here is a function of a model, rows, parameters and a seed. This crate knows models, tapes and
//! numbers; it does not know JSON shapes, files, HTTP, SQL or the time of day.

#![forbid(unsafe_code)]

use rand::SeedableRng;

pub mod attack;
pub mod calibrate;
pub mod cascade;
pub mod certify;
pub mod conformal;
pub mod corrupt;
pub mod drift;
pub mod environments;
mod error;
pub mod objective;
pub mod ood;
pub mod plane;
pub mod precision;
pub mod reading;
pub mod redteam;
pub mod share;
pub mod threat;
pub mod victim;

pub use error::RobustError;
pub use lyceum_models::space::{Domain, Layout, Norm};
pub use threat::{Spent, Threat};
pub use victim::Victim;

/// The generator of one use of a seed.
pub(crate) fn generator(seed: u64, stream: u64) -> rand_chacha::ChaCha8Rng {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

//! What training with noise promises, and what attacks say about it.
//!
//! The mechanism is the Poisson-subsampled Gaussian: each step draws every example by itself with probability
//! q, sums what the drawn ones contribute (each at most C in norm), and adds noise N(0, σ²C²). Neighbours are
//! data sets that differ by one example that is there or not (add/remove); the answer is the larger of both
//! directions.
//!
//! This crate is mathematics: no tensors, no files, no clock, no generator. It never offers the central-limit
//! accountant (GDP): that one reports less than what is spent.
//!
//! Reading order: [`mechanism`] (what was done), [`account`] (what it costs: [`rdp`], [`pld`]), [`calibrate`]
//! (the noise for a cost), [`audit`] and [`membership`] (what attacks find), [`words`] (what it means).

#![forbid(unsafe_code)]

pub mod account;
pub mod audit;
pub mod calibrate;
mod error;
mod math;
pub mod mechanism;
pub mod membership;
pub mod pld;
pub mod rdp;
pub mod words;

pub use account::{Accountant, Guarantee, epsilon};
pub use calibrate::sigma;
pub use error::PrivacyError;
pub use mechanism::Event;

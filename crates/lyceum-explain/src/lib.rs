//! Why a model answered what it did: how much each part of its input counts, by a method that the caller names,
//! with what the method promises measured beside it.
//!
//! The one door is [`attribute`]. It takes a [`Request`] that cannot be wrong (one example on its model, a
//! target, groups of input numbers that count as one feature, a baseline) and gives one [`Explanation`] for all
//! kinds of input. Work is cut into bounded [`Pass`]es that a [`Device`] runs one after the other, so that a
//! device which also serves stays free between them; every pass is counted, and none runs beyond `max_passes`
//! or after a cancellation. Everything random comes from the request's seed.
//!
//! This crate knows models, tapes and numbers. It does not know words, pictures, JSON, HTTP or SQL: callers turn
//! tokens, patches and columns into [`Groups`] and back. What cannot be computed is refused with the reason.
//!
//! Reading order: [`target`], [`request`], [`pass`], [`attribute`], then `methods/` (one a file),
//! [`faithfulness`], and beside them [`contextcite`], [`language`], [`attention`], [`influence`], [`counterfactual`].

#![forbid(unsafe_code)]

pub mod attention;
mod attribute;
pub mod contextcite;
pub mod counterfactual;
mod error;
mod explanation;
mod faithfulness;
mod groups;
pub mod influence;
pub mod language;
mod methods;
mod pass;
mod quadrature;
mod request;
mod session;
mod target;

pub use attribute::attribute;
pub use error::ExplainError;
pub use explanation::{Attribution, Checks, Explanation, Of, RandomControl, Usage};
pub use faithfulness::Check;
pub use groups::Groups;
pub use methods::{Method, MethodInfo, Steps};
pub use pass::{Device, Layer, Pass, PassResult, ThisThread, Wanted};
pub use request::{Baseline, Request, Subject, n_steps};
pub use target::{Quantity, Target, Term};

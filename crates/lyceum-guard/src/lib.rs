//! What a text holds that should not leave, or not come in: personal data and secrets.
//!
//! ```text
//! text ──segment──▶ blocks ──recognisers──▶ candidates ──resolve──▶ findings
//!   (a stream too)   │                                                 │
//!                    └── what cannot hold anything flows on at once     └──rewrite──▶ text
//! ```
//!
//! Text in, findings out: no tensors, no files, no clock, no tenants, no HTTP. Every walk over a text is linear in
//! its length, and whole texts go through the same steps as streams, so that how a stream is cut changes nothing.
//!
//! Reading order: [`finding`] (what is found), [`recogniser`] (who finds it), [`segment`] and [`sentence`] (where it may lie),
//! [`recognise`] (what Lyceum knows to find), [`analyse`], [`stream`] (a text that is changed while it comes),
//! [`placeholder`] (names that stand for values, and the way back), [`operate`] (what else may stand there), [`policy`];
//! beside them [`exfiltration`] (addresses that carry a text away) and [`hidden`] (what a reader does not see).

#![forbid(unsafe_code)]

mod abbreviation;
pub mod analyse;
mod checks;
mod context;
pub mod error;
pub mod exfiltration;
pub mod finding;
pub mod hidden;
pub mod operate;
pub mod placeholder;
pub mod policy;
pub mod recognise;
pub mod recogniser;
pub mod segment;
pub mod sentence;
pub mod stream;

pub use analyse::{Analyser, Wanted};
pub use error::GuardError;
pub use exfiltration::Exfiltration;
pub use finding::{Category, Finding, Kind};
pub use hidden::hidden;
pub use placeholder::{Keep, Names, Redact, Restorer};
pub use policy::{Action, Injections, Policy, Rule, Stop, Stops};
pub use recogniser::{Candidate, Passage, Recogniser};
pub use stream::{Replace, Rewriter};

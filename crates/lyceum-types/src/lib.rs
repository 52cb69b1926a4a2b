//! The words that all crates share: ids, job specs, manifests, error codes, limits.
//!
//! No I/O, no tensors, no async. Documents that people or programs write to disk (job specs, manifests)
//! derive serde here; everything else that is on the wire lives in [`wire`].

#![forbid(unsafe_code)]

pub mod card;
pub mod cascade;
pub mod clock;
pub mod control;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod short;
pub mod spec;
pub mod suggest;
pub mod tenancy;

//! What must survive: keys, models, jobs and idempotency keys in SQL, and the folders they point at.
//!
//! Several processes (the server, `lyceum train`, `lyceum ls`) use one data folder at the same time. The
//! database is the truth; a folder without its row is rubbish, and a row without its folder cannot come to
//! be. This crate knows no tensors and no HTTP; it takes the time as an argument.
//!
//! Reading order: [`layout`] (where things lie), [`files`] (durable files, staging, locks), [`Store`] (the
//! rows; [`Database`] says in which database), then one file per table: [`keys`], [`tenancy`], [`models`], [`registry`], [`jobs`], [`idempotency`], [`privacy`], [`data_files`], [`ledger`];
//! [`selections`], [`runs`] and [`responses`] are documents in files; [`backup`] takes all of it along; [`vault`] seals what encrypted projects keep;
//! [`blobs`]: an object store, where there is one.

#![forbid(unsafe_code)]

pub mod backup;
pub mod batches;
pub mod blobs;
#[cfg(test)]
mod conformance;
pub mod data_files;
mod database;
mod db;
pub mod drift;
mod error;
pub mod evidence;
#[cfg(test)]
mod faults;
pub mod files;
pub mod idempotency;
pub mod jobs;
pub mod keys;
pub mod layout;
pub mod ledger;
pub mod models;
pub mod privacy;
pub mod registry;
pub mod responses;
pub mod runs;
mod schema;
pub mod selections;
pub mod tenancy;
pub mod uploads;
pub mod vault;

pub use blobs::Blobs;
pub use database::Database;
pub use db::Store;
pub use error::StoreError;
pub use files::WorkLock;
pub use layout::Layout;

//! Architectures, and the preparation of text, images, sound and tables: the same code for training and
//! serving.
//!
//! A model is plain code that calls the operations of `lyceum-nn`. This crate knows shapes and the names
//! that checkpoints carry; it does not know optimisers, files of data, HTTP or tenants.

#![forbid(unsafe_code)]

pub mod answer;
pub mod batch;
pub mod bundle;
pub mod causal_lm;
pub mod cnn;
pub mod decode;
pub mod encoder;
mod from_checkpoint;
pub mod layers;
pub mod mlp;
pub mod model;
mod operations;
pub mod probe;
pub mod recurrent;
pub mod space;
pub mod transformer;
pub mod walk;

pub use from_checkpoint::LoadError;
pub use model::{Forward, InputShape, Model, ModelError, ModelShape, OutputShape};
pub mod prepare;

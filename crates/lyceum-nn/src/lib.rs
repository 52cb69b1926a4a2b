//! The tape: forward and backward over fused operations.
//!
//! An operation is a layer-sized step with its own file under [`ops`]. A model is plain code that calls
//! operations on a [`Tape`]; the same code trains (recording), serves (not recording), is explained and is
//! attacked (recording gradients of inputs only). This crate knows shapes, parameters and gradients; it does
//! not know architectures, data files, optimisers or HTTP.
//!
//! Reading order: [`shape`], [`params`], [`tape`] (forward and the walk back), [`ops::linear`] as the model
//! of an operation, [`weights`] for files.

#![forbid(unsafe_code)]

pub mod check;
pub mod checkpoint;
mod error;
pub mod gguf;
mod norms;
pub mod ops;
pub mod params;
pub mod shape;
pub mod tape;
pub mod weights;
mod workspace;

pub use error::NnError;
pub use lyceum_kernels::activation::Activation;
pub use lyceum_kernels::class::RowClass;
pub use lyceum_kernels::matmul::{Precision, Write};
pub use params::{Grads, Init, ParamId, ParamKind, Params};
pub use shape::Shape;
pub use tape::{
    AttentionMap, Dropout, Examples, Phase, Recording, Relevance, RowClasses, StoredProducts, Tape, Var,
};
pub use workspace::Workspace;

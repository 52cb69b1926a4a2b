//! SIMD and threads: the arithmetic under every model.
//!
//! Plain slices in, plain slices out. This crate knows shapes and strides; it does not know tensors, tapes,
//! models or files, and it is the only crate that may contain `unsafe`. Shapes are asserted: a caller that
//! passes a wrong one has a bug (`lyceum-nn` turns users' shapes into errors before it comes here).
//!
//! Reading order: [`cpu`] chooses the path, [`pool`] runs it on threads, [`simd`] is one set of lane
//! operations with an implementation per path, and every kernel is written once over it.
//!
//! Three rules hold everywhere:
//! * **Row order.** The bits of a row never depend on the rows computed beside it, nor on the thread count.
//! * **Twins.** The portable path is the slow clear twin; tests compare the others with it.
//! * **No allocation after warm-up.** Scratch memory is per thread and kept ([`scratch`]).

#![allow(clippy::too_many_arguments, reason = "a kernel takes its shapes beside its slices")]
#![allow(unsafe_code, reason = "the one crate for it; every block says why it is sound")]

#[cfg(target_arch = "x86_64")]
mod amx;
mod chacha;
pub mod cpu;
pub mod pool;
mod row;
pub mod scratch;
mod simd;
#[cfg(test)]
mod testing;
pub mod turns;

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod class;
pub mod conv;
pub mod distribution;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gaussian;
pub mod group_norm;
pub mod matmul;
pub mod norm;
pub mod optim;
pub mod pooling;
pub mod recurrent;
pub mod rope;
pub mod softmax;
pub mod stored;

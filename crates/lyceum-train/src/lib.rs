#![forbid(unsafe_code)]

pub mod data;
pub mod eval;
pub mod schedule;
pub mod baseline;

//! Choice: which model is enough for this task, these limits and this data.
//!
//! The path: [`candidates`] says who runs, [`limits`] who cannot win and by how much, [`race`] spends the budget by
//! successive halving, [`lab`] is what a race asks of training, [`serve`] what an answer costs on this machine, [`trust`] what a model withstands,
//! [`served`] is what candidates that exist
//! already are asked through and [`asked`] what they are asked, [`scores`] compares two candidates on the same rows and seeds, [`holm`] makes many comparisons honest, [`ties`]
//! and [`pareto`] order what is left, and [`rule`] takes one and says what is given up. [`choose`] is the door.
//!
//! `scores`, `holm`, `ties`, `pareto`, `rule` and the schedule of `race` are pure; everything that is measured is
//! measured by the code that trains and serves (`lyceum_train`, `lyceum_engine`). This crate does not know JSON
//! shapes, SQL, HTTP or tenants. It stands above training and serving because it needs both.

#![forbid(unsafe_code)]

pub mod asked;
pub mod candidates;
mod choose;
mod error;
mod existing;
pub mod holm;
pub mod lab;
pub mod limits;
pub mod pareto;
pub mod race;
pub mod row;
pub mod rule;
pub mod scores;
pub mod serve;
pub mod served;
pub mod ties;
pub mod trust;
mod words;

pub use choose::{Event, Pair, Recommendation, Selection, Tie, Watch, choose};
pub use error::ChooseError;
pub use row::{Row, Standing};

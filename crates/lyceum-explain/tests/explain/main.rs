//! Explanations against Captum's and SHAP's numbers, and what they promise for models of every family.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod against_captum;
mod cases;
mod language;
mod lasso;
mod matrix;
mod promises;
mod rows;

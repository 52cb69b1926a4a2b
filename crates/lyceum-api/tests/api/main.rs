//! The real service over real sockets: every contract, and every way to be refused.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

mod adapters;
mod audits;
mod background;
mod batch_routes;
mod batches;
mod card;
mod cascades;
mod client;
mod contracts;
mod decisions;
mod door;
mod encoders;
mod explain;
mod explain_decisions;
mod explain_language;
mod explain_matrix;
mod explain_parts;
mod extras;
mod families;
mod files;
mod fine_tuning;
mod guard;
mod guard_names;
mod house;
mod language;
mod ledger;
mod load;
mod moderations;
mod money;
mod passes;
mod receipts;
mod registry;
mod responses;
mod robust_language;
mod robust_matrix;
mod robustness;
mod selections;
mod strangers;
mod tenancy;
mod tiny;
mod tls;
mod uploads;
mod vault;
mod watched;

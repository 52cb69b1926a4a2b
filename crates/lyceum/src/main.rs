//! AI models as a service in one binary: this is its door.
//!
//! The path through it: [`cli`] (what was typed) → [`config`] (what holds, and from where) → [`commands`] (one
//! file each, over the crates below) → [`output`] (results to stdout) or [`failure`] (what went wrong, why and
//! what to do). [`assemble`] is the only file that names concrete backends.

#![forbid(unsafe_code)]

mod assemble;
mod bucket;
mod checkpoints;
mod cli;
mod commands;
mod config;
mod context;
mod failure;
mod files;
mod gate;
mod guarding;
mod objects;
mod output;
mod progress;
mod remote;
mod results;
mod serving;
mod time;
mod training;
mod tuning;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let as_json = cli::wants_json(&arguments);
    match cli::parse(&arguments).and_then(|cli| cli.map_or(Ok(()), commands::run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(as_json);
            ExitCode::from(failure.exit.code())
        }
    }
}

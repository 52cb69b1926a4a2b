//! `lyceum config show [--origin]`

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every value that holds
    Show {
        /// Also where each value came from
        #[arg(long)]
        origin: bool,
    },
}

impl Config {
    pub fn run(self, context: &Context) -> Result<(), Failure> {
        let Command::Show { origin } = self.command;
        let rows = context.config.rows();
        if context.is_json() {
            let value = |value: String, from: String| {
                if origin { json!({ "value": value, "origin": from }) } else { Value::from(value) }
            };
            let values: Map<String, Value> = rows
                .into_iter()
                .map(|(key, text, from)| (key.to_owned(), value(text, from.to_string())))
                .collect();
            output::json_line(&json!({ "config": values }));
            return Ok(());
        }
        let header: &[&str] = if origin { &["key", "value", "origin"] } else { &["key", "value"] };
        let row = |(key, value, from): (&str, String, &crate::config::Origin)| {
            let mut row = vec![key.to_owned(), value];
            if origin {
                row.push(from.to_string());
            }
            row
        };
        output::table(header, &rows.into_iter().map(row).collect::<Vec<_>>());
        Ok(())
    }
}

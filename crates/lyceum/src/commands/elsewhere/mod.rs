//! Commands that ask a server (`--url`) in the place of the data folder: the same words, the same output.
//!
//! What a server does not offer is refused here with the reason; every command is decided by name, so that a new one is
//! not forgotten.

mod answers;
mod brought;
mod eval;
mod explained;
mod export;
mod imports;
mod models;
mod money;
mod organization;
mod preview;
mod training;
mod trust;
mod usage;

use crate::cli::Command;
use crate::context::Context;
use crate::failure::Failure;
use crate::remote::Client;

/// Asks the server.
pub async fn dispatch(command: Command, context: &Context, client: &Client) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => args.run_remote(context, client),
        Command::Show(args) => args.run_remote(context, client),
        Command::Card(args) => args.run_remote(context, client),
        Command::Alias(args) => args.run_remote(context, client),
        Command::Approve(args) => args.run_remote(context, client),
        Command::Promote(args) => args.run_remote(context, client),
        Command::Lineage(args) => args.run_remote(context, client),
        Command::Rm(args) => args.run_remote(context, client),
        Command::Run(args) => args.run_remote(context, client).await,
        Command::Predict(args) => args.run_remote(context, client),
        Command::Explain(args) => args.run_remote(context, client),
        Command::Embed(args) => args.run_remote(context, client).await,
        Command::Eval(args) => args.run_remote(context, client).await,
        Command::Attack(args) => args.run_remote(context, client).await,
        Command::Calibrate(args) => args.run_remote(context, client),
        Command::Cascade(args) => args.run_remote(context, client).await,
        Command::Drift(args) => args.run_remote(context, client),
        Command::Choose(args) => args.run_remote(context, client).await,
        Command::Preview(args) => args.run_remote(context, client).await,
        Command::Train(args) => args.run_remote(context, client).await,
        Command::Jobs(args) => args.run_remote(context, client).await,
        Command::Privacy(args) => args.run_remote(context, client).await,
        Command::Usage(args) => args.run_remote(context, client),
        Command::Export(args) => args.run_remote(context, client),
        Command::Import(args) => args.run_remote(context, client).await,
        Command::Pull(args) => args.run_remote(context, client),
        Command::Files(args) => args.run_remote(context, client),
        Command::Batches(args) => args.run_remote(context, client),
        Command::Pii(args) => args.run_remote(context, client),
        Command::Admin(args) => args.run_remote(context, client),
        Command::Keys(args) => args.run_remote(context, client),
        Command::Audit(args) => args.run_remote(context, client),
        Command::Prices(args) => args.run_remote(context, client),
        Command::Budgets(args) => args.run_remote(context, client),
        Command::Openapi(args) => args.run_remote(context, client),
        other => Err(refused(&other)),
    }
}

/// Why a command has no counterpart on a server.
fn refused(command: &Command) -> Failure {
    let (name, why) = match command {
        Command::Quickstart(_) => ("quickstart", "it trains starters in a data folder"),
        Command::Serve(_) => ("serve", "it is the server"),
        Command::Blobs(_) => {
            ("blobs", "what lies in an object store is of every organisation there, and a key is of one")
        }
        Command::Backup(_) => {
            ("backup", "it copies what every organisation there keeps, and a key is of one")
        }
        _ => ("this command", "it works on the data folder"),
    };
    let fix = "run it on the server's machine, without --url and with LYCEUM_URL unset";
    Failure::usage(format!("lyceum {name} cannot ask a server"), why, fix)
}

//! `lyceum admin master-key|receipt`: the key that opens what encrypted projects keep, and receipts of erasures.

use super::Desk;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::Subcommand;
use lyceum_service::card::seal;
use lyceum_service::vault::MasterKey;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A receipt has a few hundred bytes.
const RECEIPT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub enum Master {
    /// Make a new master key in a file outside the data folder
    Create { file: PathBuf },
    /// Wrap the keys of all projects with another master key; what they seal stays as it is
    Replace { file: PathBuf },
    /// Show which master key this process has
    Show,
}

impl Master {
    /// Made without a store, which may want the very key.
    pub fn create(file: &Path, context: &Context) -> Result<(), Failure> {
        let made = MasterKey::create(file)?;
        let words = format!(
            "{} is in {}: set master_key_file (LYCEUM_MASTER_KEY_FILE) to it, and keep a copy; without it nothing of an \
             encrypted project can be read",
            made.id(),
            file.display()
        );
        match context.is_json() {
            true => output::json_line(&json!({"id": made.id(), "file": file.display().to_string()})),
            false => output::text(words),
        }
        Ok(())
    }

    pub fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        let keyring = desk.store.keyring();
        match self {
            Master::Create { file } => Self::create(&file, desk.context),
            Master::Replace { file } => {
                let next = MasterKey::read(&file)?;
                let n = keyring.rewrap(&next)?;
                let json = json!({"id": next.id(), "projects": n});
                let words = format!(
                    "{n} keys of projects are wrapped by {} now: set master_key_file to {} for every process, then destroy \
                     the old one",
                    next.id(),
                    file.display()
                );
                desk.say(&json, words);
                Ok(())
            }
            Master::Show => {
                let id = keyring.master_id();
                desk.say(&json!({"id": id}), id.unwrap_or("none: master_key_file is not set"));
                Ok(())
            }
        }
    }
}

/// Whether the receipt of an erasure is what was signed.
pub fn verify_receipt(file: &Path, context: &Context) -> Result<(), Failure> {
    let text = crate::files::read_text(file, RECEIPT_BYTES_MAX)?;
    let receipt: Value = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
    seal::check(&receipt).map_err(refused)?;
    let key = receipt["signed_by"]["public_key"].clone();
    match context.is_json() {
        true => output::json_line(&json!({"holds": true, "public_key": key})),
        false => output::text(format!(
            "the signature holds; the key is {} (compare it with the one you trust)",
            key.as_str().unwrap_or_default()
        )),
    }
    Ok(())
}

fn refused(why: String) -> Failure {
    let fix = "ask for the receipt again: lyceum admin projects erase ID gives the same";
    Failure::new(Exit::Failed, "receipt_does_not_hold", "the receipt is not what was signed", why, fix)
}

//! `lyceum privacy receipt FILE`: whether a receipt is what a server signed, and of which request and answer it is.

use crate::commands::admin::say;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::files;
use crate::remote::Client;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use lyceum_service::receipts::check;
use lyceum_train::checkpoint::digest;
use lyceum_types::limits;
use serde_json::{Value, json};
use std::path::PathBuf;

/// How the event of a stream begins that has the receipt.
const EVENT: &[u8] = b"event: privacy_receipt\n";

#[derive(Debug, Args)]
pub(in crate::commands) struct ReceiptArgs {
    /// The header's value, the document, or a whole stream as it came
    file: PathBuf,
    /// The body that was asked, byte for byte
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The body that was answered, byte for byte; a stream up to its receipt
    #[arg(long, value_name = "FILE")]
    answer: Option<PathBuf>,
}

impl ReceiptArgs {
    /// With a client, the server says whether the key is its own.
    pub(in crate::commands) fn run(self, context: &Context, client: Option<&Client>) -> Result<(), Failure> {
        let bytes = files::read_bytes(&self.file, limits::BODY_BYTES_MAX as u64)?;
        let receipt = read(&bytes).ok_or_else(|| {
            let why = "it is neither JSON, nor base64 of it, nor a stream with an event privacy_receipt";
            let message = format!("{} holds no receipt", self.file.display());
            Failure::usage(message, why, "keep the header X-Privacy-Receipt of the answer in a file")
        })?;
        check(&receipt).map_err(refused)?;
        let mut found = json!({"holds": true, "public_key": receipt["signed_by"]["public_key"]});
        let bodies =
            [("request", &self.request, "request_sha256"), ("answer", &self.answer, "answer_sha256")];
        for (what, path, field) in bodies {
            let Some(path) = path else { continue };
            let bytes = files::read_bytes(path, limits::BODY_BYTES_MAX as u64)?;
            let own = if what == "answer" { before_receipt(&bytes) } else { &bytes };
            if receipt[field] != digest(own).as_str() {
                return Err(refused(format!("{} is not the {what} that it is of", path.display())));
            }
            found[what] = true.into();
        }
        if let Some(client) = client {
            let told = client.post("/v1/privacy/receipts/verify", &json!({"receipt": receipt}))?;
            if told["signed_by_this_server"] != true {
                return Err(refused("the server does not know the key as its own".into()));
            }
            found["signed_by_this_server"] = true.into();
        }
        let key = receipt["signed_by"]["public_key"].as_str().unwrap_or_default();
        let trust = if client.is_some() { "the server's own" } else { "compare it with the one you trust" };
        say(context, &found, format!("the signature holds; the key is {key} ({trust})\n{receipt:#}"));
        Ok(())
    }
}

/// A receipt in any of the forms in which it comes.
fn read(bytes: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if let Some((_, event)) = text.split_once("event: privacy_receipt\n") {
        let data = event.lines().next()?.strip_prefix("data: ")?;
        return serde_json::from_str::<Value>(data).ok().map(|event| event["privacy_receipt"].clone());
    }
    if let Ok(document) = serde_json::from_str::<Value>(text) {
        return Some(document);
    }
    serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()
}

/// What a stream said before its receipt; all of what is no stream.
fn before_receipt(bytes: &[u8]) -> &[u8] {
    let at = bytes.windows(EVENT.len()).rposition(|window| window == EVENT);
    at.map_or(bytes, |at| &bytes[..at])
}

fn refused(why: String) -> Failure {
    let fix = "keep the receipt, the request and the answer as they came, byte for byte";
    Failure::new(Exit::Failed, "receipt_does_not_hold", "the receipt is not what was signed", why, fix)
}

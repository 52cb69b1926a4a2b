//! `lyceum audit verify|ls`

use crate::commands::admin::{organization, say};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::{output, time};
use clap::{Args, Subcommand};
use lyceum_store::tenancy::Page;
use lyceum_store::tenancy::audit::{self, Entry, Filter};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Audit {
    /// The organisation, where there are several
    #[arg(long, global = true, value_name = "ORG", default_value = "default")]
    pub(in crate::commands) org: String,
    #[command(subcommand)]
    pub(in crate::commands) command: Command,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum Command {
    /// Recompute the chain of hashes, and name the first entry that is not what was written
    Verify {
        /// The last hash that an earlier verification printed must be in the chain
        #[arg(long, value_name = "HASH", value_parser = hash)]
        head: Option<String>,
    },
    /// Show what was done, newest first
    Ls {
        /// Entries that are shown
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

/// A hash as a verification prints it. Anything else is in no chain, whoever wrote that.
fn hash(text: &str) -> Result<String, &'static str> {
    let is_hash = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hash
        .then(|| text.to_owned())
        .ok_or("a head is 64 digits of 0-9 and a-f, as lyceum audit verify prints it")
}

impl Audit {
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let store = context.store().await?;
        let tenant = organization(&store, &self.org).await?;
        match self.command {
            Command::Verify { head } => {
                let verified = audit::verify(&store, &tenant, head.as_deref()).await?;
                told(context, &verified.map_err(|broken| refused(&broken))?);
            }
            Command::Ls { limit } => {
                let page = Page { after: None, limit };
                let listed = audit::list(&store, &tenant, &Filter::default(), page, None).await?;
                if context.is_json() {
                    let all: Vec<Value> = listed.data.iter().map(line).collect();
                    output::json_line(&json!({"entries": all, "has_more": listed.has_more}));
                } else {
                    let row = |entry: &Entry| {
                        vec![
                            entry.seq.to_string(),
                            time::for_people(entry.effective_at),
                            entry.kind.clone(),
                            entry.project.clone().unwrap_or_default(),
                            entry.actor.clone(),
                            entry.resource.clone(),
                        ]
                    };
                    let header = ["#", "when", "what", "project", "by", "to"];
                    output::table(&header, &listed.data.iter().map(row).collect::<Vec<_>>());
                }
            }
        }
        Ok(())
    }
}

/// Says that the chain holds.
pub(in crate::commands) fn told(context: &Context, verified: &audit::Verified) {
    let json = json!({"event": "verified", "entries": verified.entries, "head": verified.head});
    say(context, &json, format!("{} entries, one chain; its head is {}", verified.entries, verified.head));
}

/// Says where it does not.
pub(in crate::commands) fn refused(broken: &audit::Broken) -> Failure {
    let message = format!("entry {} of the audit log: {}", broken.seq, broken.why);
    let why = match broken.id.as_str() {
        "" => "somebody has changed the database".to_owned(),
        id => format!("somebody has changed the database; the entry is {id}"),
    };
    let fix = "compare it with a backup: lyceum backup verify";
    Failure::new(Exit::Failed, "audit_broken", message, why, fix)
}

fn line(entry: &Entry) -> Value {
    json!({"seq": entry.seq, "id": entry.id, "type": entry.kind, "effective_at": entry.effective_at.seconds(),
        "project": entry.project, "actor": entry.actor, "resource": entry.resource, "data": entry.data,
        "hash": entry.hash})
}

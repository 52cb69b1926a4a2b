//! `usage` through a server, with a key of the organisation.

use crate::commands::admin::remote::every;
use crate::commands::usage::{By, Groups, Usage};
use crate::context::Context;
use crate::failure::Failure;
use crate::remote::Client;
use crate::time;
use lyceum_store::ledger::{Counts, UNIT};
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};

/// Fields of an entry that a server and the command line call the same.
const SAME: [&str; 12] = [
    "route",
    "class",
    "outcome",
    "price",
    "cost_usd",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "training_tokens",
    "training_rows",
    "cpu_seconds",
    "passes",
];
/// The pages that every route is on one of.
const KINDS: [&str; 6] =
    ["completions", "embeddings", "moderations", "predictions", "explanations", "trainings"];

impl Usage {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let group = match self.by {
            By::Key => "&group_by=api_key_id",
            By::Project => "&group_by=project_id",
            By::Model => "&group_by=model",
            By::Day => "",
            By::Request => return self.entries(context, client),
        };
        let ago = time::duration(&self.since, "--since 30d")?;
        let since = (Timestamp::now().millis() - ago.as_millis() as i64) / 1000;
        let span = format!("start_time={since}&bucket_width=1d{group}");
        let mut groups = Groups::new();
        for kind in KINDS {
            for_each_result(client, &format!("/v1/organization/usage/{kind}?{span}"), |start, result| {
                let (n, counts, _) = groups.entry(self.name_of(start, result)).or_default();
                *n += result["num_model_requests"].as_u64().unwrap_or_default();
                *counts += counted(result);
            })?;
        }
        for_each_result(client, &format!("/v1/organization/costs?{span}"), |start, result| {
            let usd = result["amount"]["value"].as_f64().unwrap_or_default();
            // Sums are whole millionths.
            groups.entry(self.name_of(start, result)).or_default().2 += (usd * UNIT as f64).round() as i64;
        })?;
        self.told_sums(context, groups)
    }

    /// What a result is summed up under.
    fn name_of(&self, start: Timestamp, result: &Value) -> String {
        let text = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
        match self.by {
            By::Key => text("api_key_id"),
            By::Project => text("project_id"),
            By::Model => text("model"),
            By::Day | By::Request => start.date_time().chars().take(10).collect(),
        }
    }

    /// Every entry of the ledger.
    fn entries(&self, context: &Context, client: &Client) -> Result<(), Failure> {
        let ago = time::duration(&self.since, "--since 30d")?;
        let since = Timestamp::now().millis() - ago.as_millis() as i64;
        let path = format!("/v1/organization/usage/requests?start_time={}", since.div_euclid(1000));
        let line = |entry: &Value| {
            let settled_at = Timestamp::from_millis(entry["settled_at_ms"].as_i64().unwrap_or_default());
            let model = format!("{}@{}", entry["model"].as_str().unwrap_or_default(), entry["model_version"]);
            let mut row = json!({"request": entry["id"], "time": settled_at.date_time(),
                "project": entry["project_id"], "key": entry["api_key_id"], "model": model});
            for field in SAME {
                row[field] = entry[field].clone();
            }
            row
        };
        let all: Vec<Value> = every(client, &path)?.iter().map(line).collect();
        self.told(context, &all)
    }
}

/// What a page of usage counts, in the ledger's words; a page has what its kind of work can count.
fn counted(result: &Value) -> Counts {
    let n = |field: &str| result[field].as_u64().unwrap_or_default();
    Counts {
        input_tokens: n("input_tokens"),
        cached_tokens: n("input_cached_tokens"),
        output_tokens: n("output_tokens"),
        training_tokens: n("trained_tokens"),
        training_rows: n("trained_rows"),
        cpu_seconds: n("cpu_seconds"),
        passes: n("num_passes"),
    }
}

/// Every result of every page, with where its bucket begins.
fn for_each_result(
    client: &Client,
    question: &str,
    mut each: impl FnMut(Timestamp, &Value),
) -> Result<(), Failure> {
    let mut page = String::new();
    loop {
        let found = client.get(&format!("{question}{page}"))?;
        for bucket in found["data"].as_array().into_iter().flatten() {
            let start = Timestamp::from_millis(bucket["start_time"].as_i64().unwrap_or_default() * 1000);
            bucket["results"].as_array().into_iter().flatten().for_each(|result| each(start, result));
        }
        match found["next_page"].as_str() {
            Some(next) if found["has_more"] == true => page = format!("&page={next}"),
            _ => return Ok(()),
        }
    }
}

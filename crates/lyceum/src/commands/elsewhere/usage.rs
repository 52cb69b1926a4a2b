//! `usage` through a server, with a key of the organisation.

use crate::commands::admin::remote::every;
use crate::commands::usage::{By, Usage};
use crate::context::Context;
use crate::failure::Failure;
use crate::remote::Client;
use crate::{output, time};
use lyceum_types::clock::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Fields of an entry that a server and the command line call the same.
const SAME: [&str; 11] = [
    "route",
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
/// The columns for people, as the command names them here, and what a server calls them.
const SHOWN: [(&str, &str); 8] = [
    ("requests", "num_model_requests"),
    ("input_tokens", "input_tokens"),
    ("cached_tokens", "input_cached_tokens"),
    ("output_tokens", "output_tokens"),
    ("training_tokens", "trained_tokens"),
    ("training_rows", "trained_rows"),
    ("cpu_seconds", "cpu_seconds"),
    ("passes", "num_passes"),
];
const KINDS: [&str; 5] = ["completions", "embeddings", "predictions", "explanations", "trainings"];

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
        let mut sums: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for kind in KINDS {
            let question = format!("/v1/organization/usage/{kind}?start_time={since}&bucket_width=1d{group}");
            for_each_bucket(client, &question, |bucket| {
                let day = Timestamp::from_millis(bucket["start_time"].as_i64().unwrap_or_default() * 1000);
                for result in bucket["results"].as_array().into_iter().flatten() {
                    let text = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
                    let name = match self.by {
                        By::Key => text("api_key_id"),
                        By::Project => text("project_id"),
                        By::Model => text("model"),
                        By::Day | By::Request => day.date_time().chars().take(10).collect(),
                    };
                    let sum = sums.entry(name).or_default();
                    for (field, n) in result.as_object().into_iter().flatten() {
                        if let Some(n) = n.as_u64() {
                            *sum.entry(field.clone()).or_default() += n;
                        }
                    }
                }
            })?;
        }
        let by = self.by.name();
        if context.is_json() {
            let rows: Vec<Value> = sums
                .into_iter()
                .map(|(name, sum)| {
                    let mut row = json!({ by: name });
                    sum.into_iter().for_each(|(field, n)| row[field] = Value::from(n));
                    row
                })
                .collect();
            output::json_line(&json!({ "usage": rows }));
            return Ok(());
        }
        let header: Vec<&str> = std::iter::once(by).chain(SHOWN.map(|(shown, _)| shown)).collect();
        let rows: Vec<Vec<String>> = sums
            .iter()
            .map(|(name, sum)| {
                let n = |(_, field): (&str, &str)| sum.get(field).copied().unwrap_or_default().to_string();
                std::iter::once(name.clone()).chain(SHOWN.map(n)).collect()
            })
            .collect();
        self.print(&header, &rows)
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

fn for_each_bucket(client: &Client, question: &str, mut each: impl FnMut(&Value)) -> Result<(), Failure> {
    let mut page = String::new();
    loop {
        let found = client.get(&format!("{question}{page}"))?;
        found["data"].as_array().into_iter().flatten().for_each(&mut each);
        match found["next_page"].as_str() {
            Some(next) if found["has_more"] == true => page = format!("&page={next}"),
            _ => return Ok(()),
        }
    }
}

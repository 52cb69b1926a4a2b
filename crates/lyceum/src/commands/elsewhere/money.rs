//! `prices` and `budgets` through a server, with a key of the organisation.

use crate::commands::admin::remote::every;
use crate::commands::budgets::{self, Budgets, Whose};
use crate::commands::prices::{self, Prices};
use crate::commands::usage::usd;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::{Client, path_of};
use serde_json::{Map, Value, json};

const PRICES: &str = "/v1/organization/prices";
const BUDGETS: &str = "/v1/organization/budgets";

impl Prices {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        let line = |price: &Value| {
            json!({"price": price["version"], "org": price["organization_id"], "project": price["project_id"],
                "model": price["model"], "usd_per_million": price["usd_per_million"], "created": price["created_at"]})
        };
        match self.command {
            prices::Command::Set(args) => {
                let (organization, project, model) = args.place();
                let rates: Map<String, Value> = args
                    .rates()
                    .named()
                    .iter()
                    .map(|(name, rate)| ((*name).into(), usd(*rate).into()))
                    .collect();
                let body = json!({"model": model, "organization_id": organization, "project_id": project,
                    "usd_per_million": rates});
                prices::added(context, &line(&client.post(PRICES, &body)?));
            }
            prices::Command::List => {
                prices::told(context, every(client, PRICES)?.iter().map(line).collect());
            }
        }
        Ok(())
    }
}

impl Budgets {
    pub fn run_remote(self, context: &Context, client: &Client) -> Result<(), Failure> {
        match self.command {
            budgets::Command::Set { limit, whose } => {
                let mut body = json!({"limit_usd": usd(limit), "period": whose.period});
                let fields = [
                    ("organization_id", &whose.org),
                    ("project_id", &whose.project),
                    ("api_key_id", &whose.api_key),
                ];
                for (field, value) in fields {
                    if let Some(value) = value {
                        body[field] = value.as_str().into();
                    }
                }
                let set = client.post(BUDGETS, &body)?;
                budgets::done_with(context, set["id"].as_str().unwrap_or_default(), limit);
            }
            budgets::Command::Rm { whose } => {
                let id = found(client, &whose)?;
                client.delete(&format!("{BUDGETS}/{}", path_of(&id)))?;
                budgets::removed(context);
            }
            budgets::Command::List => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let line = |budget: &Value| {
                    json!({"id": budget["id"], "org": budget["organization_id"],
                        "project": text(&budget["project_id"]), "key": text(&budget["api_key_id"]),
                        "period": budget["period"], "limit_usd": budget["limit_usd"],
                        "spent_usd": budget["spent_usd"], "reserved_usd": budget["reserved_usd"]})
                };
                budgets::told(context, every(client, BUDGETS)?.iter().map(line).collect());
            }
        }
        Ok(())
    }
}

/// The id of the budget that is meant. Which organisation is the key's, a server does not say: where none is named, the
/// one of the place that is there counts, and several are refused.
fn found(client: &Client, whose: &Whose) -> Result<String, Failure> {
    let is_meant = |budget: &&Value| {
        budget["project_id"].as_str() == whose.project.as_deref()
            && budget["api_key_id"].as_str() == whose.api_key.as_deref()
            && budget["period"] == whose.period.as_str()
            && whose.org.as_deref().is_none_or(|org| budget["organization_id"] == org)
    };
    let all = every(client, BUDGETS)?;
    let meant: Vec<&Value> = all.iter().filter(is_meant).collect();
    match meant.as_slice() {
        [one] => Ok(one["id"].as_str().unwrap_or_default().to_owned()),
        [] => {
            let fix = "lyceum budgets list with the same --url shows what there is";
            Err(Failure::new(
                Exit::NotFound,
                "not_found",
                "there is no such budget",
                "nothing was removed",
                fix,
            ))
        }
        _ => {
            let why = "several organisations have one";
            Err(Failure::usage("which budget is meant?", why, "name the organisation: --org ORG"))
        }
    }
}

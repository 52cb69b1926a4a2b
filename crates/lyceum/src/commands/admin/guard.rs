//! `lyceum admin guard PROJECT`: what a project's texts are looked through for.

use super::{Desk, say};
use crate::assemble;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::remote::Client;
use clap::Args;
use lyceum_guard::{Action, Kind, Policy, Rule, Wanted};
use lyceum_store::tenancy::guards;
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Guard {
    project: String,
    /// What models read: off, mask, redact, block
    #[arg(long, value_name = "ACTION")]
    input: Option<String>,
    /// What models say: off, mask, redact, block
    #[arg(long, value_name = "ACTION")]
    output: Option<String>,
    /// Of the directions that are set: only these, as EMAIL_ADDRESS,IBAN_CODE (default: everything that is known)
    #[arg(long, value_name = "ENTITIES", value_delimiter = ',')]
    types: Option<Vec<String>>,
    /// Of the directions that are set: the lowest score of a finding, 0 to 1 (default: 0.5)
    #[arg(long)]
    threshold: Option<f32>,
    /// A model of the project that gives labels to tokens: with it PERSON, LOCATION, ORGANIZATION, NRP and DATE_TIME are
    /// looked for
    #[arg(long, value_name = "MODEL")]
    ner_model: Option<String>,
    /// No model of names any more
    #[arg(long, conflicts_with = "ner_model")]
    no_ner_model: bool,
}

impl Guard {
    pub async fn run(self, desk: &Desk<'_>) -> Result<(), Failure> {
        self.check()?;
        let project = desk.project(&self.project).await?;
        let mut policy = guards::policy(&desk.store, &project).await?;
        if self.input.is_some() || self.output.is_some() || self.ner_model.is_some() || self.no_ner_model {
            if let Some(action) = &self.input {
                policy.input = self.rule(action)?;
            }
            if let Some(action) = &self.output {
                policy.output = self.rule(action)?;
            }
            if self.ner_model.is_some() || self.no_ner_model {
                policy.ner_model = self.ner_model.clone();
            }
            without_model(&policy)?;
            if policy.looks_for_names() {
                // Whether the model knows names is known by opening it.
                let service = assemble::service(&desk.context.config, desk.store.clone())?;
                lyceum_service::guard::set_policy(&service, &project, &policy, &desk.act()).await?;
            } else {
                guards::set_policy(&desk.store, &project, &policy, &desk.act()).await?;
            }
        }
        desk.say(&told(&self.project, &policy), words(&self.project, &policy));
        Ok(())
    }

    pub(super) fn project(&self) -> &str {
        &self.project
    }

    fn check(&self) -> Result<(), Failure> {
        let has_words = self.types.is_some() || self.threshold.is_some();
        if self.input.is_none() && self.output.is_none() && has_words {
            let why = "types and threshold belong to a direction";
            return Err(Failure::usage("no direction was set", why, "add --input ACTION or --output ACTION"));
        }
        Ok(())
    }

    /// The same of a server's project.
    pub(super) fn run_remote(self, context: &Context, client: &Client, path: &str) -> Result<(), Failure> {
        self.check()?;
        let mut body = json!({});
        for (direction, action) in [("input", &self.input), ("output", &self.output)] {
            if let Some(action) = action {
                body[direction] = json!({"action": action, "types": self.types,
                    "threshold": self.threshold.unwrap_or(Wanted::THRESHOLD)});
            }
        }
        if self.ner_model.is_some() || self.no_ner_model {
            body["ner_model"] = json!(self.ner_model);
        }
        let is_asked = body.as_object().is_some_and(|body| body.is_empty());
        let holds = if is_asked { client.get(path)? } else { client.post(path, &body)? };
        let wrong = |direction: &str| {
            let why = format!("its {direction} is no rule that this release reads");
            Failure::new(
                Exit::Failed,
                "unreadable",
                "the server's policy cannot be read",
                why,
                "use the same release",
            )
        };
        let rule = |direction: &'static str| read(&holds[direction]).ok_or_else(|| wrong(direction));
        let ner_model = holds["ner_model"].as_str().map(str::to_owned);
        let policy =
            Policy { input: rule("input")?, output: rule("output")?, ner_model, ..Policy::default() };
        say(context, &told(&self.project, &policy), words(&self.project, &policy));
        Ok(())
    }

    fn rule(&self, action: &str) -> Result<Rule, Failure> {
        let wrong = |message: String| {
            Failure::usage(message, "a policy must be clear", "lyceum admin guard --help shows the words")
        };
        let action: Action = action.parse().map_err(|why| wrong(format!("{action:?} {why}")))?;
        let kind = |name: &String| name.parse::<Kind>().map_err(|error| wrong(error.to_string()));
        let kinds = self.types.as_ref().map(|types| types.iter().map(kind).collect()).transpose()?;
        let threshold = self.threshold.unwrap_or(Wanted::THRESHOLD);
        if !(0.0..=1.0).contains(&threshold) {
            return Err(wrong(format!("--threshold {threshold}: not between 0 and 1")));
        }
        Ok(Rule { action, wanted: Wanted { kinds, threshold } })
    }
}

/// Refuses kinds that nothing would find.
fn without_model(policy: &Policy) -> Result<(), Failure> {
    let named = [&policy.input, &policy.output].into_iter().filter_map(Rule::kinds).flatten();
    match named.copied().find(|kind| kind.takes_a_model()) {
        Some(kind) if policy.ner_model.is_none() => {
            let message = format!("{kind} takes a model that knows names, and the policy names none");
            let fix = "add --ner-model MODEL: an imported token classifier of the project";
            Err(Failure::usage(message, "no rule finds names", fix))
        }
        _ => Ok(()),
    }
}

/// A rule as a server tells it.
fn read(rule: &Value) -> Option<Rule> {
    let kinds = rule["types"]
        .as_array()
        .map(|types| types.iter().map(|name| name.as_str()?.parse().ok()).collect::<Option<Vec<Kind>>>());
    let kinds = match kinds {
        Some(kinds) => Some(kinds?),
        None => None,
    };
    let threshold = rule["threshold"].as_f64()? as f32;
    Some(Rule { action: rule["action"].as_str()?.parse().ok()?, wanted: Wanted { kinds, threshold } })
}

fn told(project: &str, policy: &Policy) -> Value {
    let rule = |rule: &Rule| {
        json!({"action": rule.action.as_str(), "threshold": rule.wanted.threshold,
            "types": rule.kinds().map(|kinds| kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>())})
    };
    json!({"project": project, "input": rule(&policy.input), "output": rule(&policy.output),
        "ner_model": policy.ner_model})
}

fn words(project: &str, policy: &Policy) -> String {
    let rule = |rule: &Rule| {
        let types =
            rule.kinds().map(|kinds| kinds.iter().map(Kind::to_string).collect::<Vec<_>>().join(", "));
        match (rule.action, types) {
            (Action::Off, _) => "off".to_owned(),
            (action, types) => {
                let types = types.unwrap_or_else(|| "everything known".into());
                format!("{action} {types} from {}", rule.wanted.threshold)
            }
        }
    };
    let names = policy.ner_model.as_ref().map(|model| format!("; names by {model}")).unwrap_or_default();
    format!("{project}: in: {}; out: {}{names}", rule(&policy.input), rule(&policy.output))
}

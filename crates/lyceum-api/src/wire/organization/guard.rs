//! What a project's texts are looked through for.

use crate::error::ApiError;
use crate::wire::{pii, within};
use lyceum_service::guard::lyceum_guard::{Action, Injections, Kind, Policy, Rule, Stop, Stops, Wanted};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectGuardPolicy)]
pub struct GuardPolicy {
    /// `project.guard_policy`
    pub object: &'static str,
    /// What models read.
    pub input: RuleBody,
    /// What models say.
    pub output: RuleBody,
    /// The project's model that knows names; null: names are not looked for.
    pub ner_model: Option<String>,
    /// Texts that try to give a model other orders, by the classifier that the server is set up with.
    pub prompt_injection: InjectionsBody,
    /// Characters that a model reads and people do not see.
    pub hidden_unicode: StopsBody,
    /// Addresses in answers that carry data away: `off`, `redact` or `block`.
    pub data_exfiltration: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GuardInjections)]
pub struct InjectionsBody {
    /// Of what users say: `off` or `block`.
    pub user: &'static str,
    /// Of what tools answer.
    pub tool: &'static str,
    /// From this probability on.
    pub threshold: f64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GuardStops)]
pub struct StopsBody {
    /// Of what users say: `off` or `block`.
    pub user: &'static str,
    /// Of what tools answer.
    pub tool: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GuardRule)]
pub struct RuleBody {
    /// `off`; `flag`: it stays, and its kind is told in `X-Guard-Flagged`; `mask`: a name stands for what was found, and what came in is brought back in the answer; `redact`: its kind
    /// stands for it; `block`: the request ends.
    pub action: &'static str,
    /// Null: everything that is known.
    pub types: Option<Vec<&'static str>>,
    pub threshold: f32,
}

impl From<&Rule> for RuleBody {
    fn from(rule: &Rule) -> Self {
        let types = rule.kinds().map(|kinds| kinds.iter().copied().map(Kind::as_str).collect());
        Self { action: rule.action.as_str(), types, threshold: rule.wanted.threshold }
    }
}

impl From<&Policy> for GuardPolicy {
    fn from(policy: &Policy) -> Self {
        Self {
            object: "project.guard_policy",
            input: (&policy.input).into(),
            output: (&policy.output).into(),
            ner_model: policy.ner_model.clone(),
            prompt_injection: InjectionsBody {
                user: policy.prompt_injection.stops.user.as_str(),
                tool: policy.prompt_injection.stops.tool.as_str(),
                threshold: policy.prompt_injection.threshold,
            },
            hidden_unicode: StopsBody {
                user: policy.hidden_unicode.user.as_str(),
                tool: policy.hidden_unicode.tool.as_str(),
            },
            data_exfiltration: policy.data_exfiltration.as_str(),
        }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProjectGuardPolicyUpdateRequest)]
pub struct UpdateGuardPolicy {
    /// Left out: as it was.
    pub input: Option<UpdateRule>,
    /// Left out: as it was.
    pub output: Option<UpdateRule>,
    /// A model of the project that gives labels to tokens, `name@alias`; null: none; left out: as it was.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub ner_model: Option<Option<String>>,
    /// Left out: as it was.
    pub prompt_injection: Option<UpdateInjections>,
    /// Left out: as it was.
    pub hidden_unicode: Option<UpdateStops>,
    /// `off`, `redact` or `block`; left out: as it was.
    pub data_exfiltration: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GuardInjectionsUpdate)]
pub struct UpdateInjections {
    /// `off` or `block`; left out: `off`.
    pub user: Option<String>,
    /// `off` or `block`; left out: `off`.
    pub tool: Option<String>,
    /// 0 to 1; 0.5 by default.
    pub threshold: Option<f64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GuardStopsUpdate)]
pub struct UpdateStops {
    /// `off` or `block`; left out: `off`.
    pub user: Option<String>,
    /// `off` or `block`; left out: `off`.
    pub tool: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GuardRuleUpdate)]
pub struct UpdateRule {
    /// `off`, `flag`, `mask`, `redact` or `block`.
    pub action: String,
    /// Entities such as `EMAIL_ADDRESS`; null or left out: everything that is known.
    pub types: Option<Vec<String>>,
    /// The lowest score of a finding, 0 to 1; 0.5 by default.
    pub threshold: Option<f32>,
}

/// Tells null from what is left out.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl UpdateGuardPolicy {
    /// The policy that holds then.
    pub fn parse(self, was: &Policy) -> Result<Policy, ApiError> {
        let ner_model = self.ner_model.unwrap_or_else(|| was.ner_model.clone());
        let rule = |param: &str, update: Option<UpdateRule>, was: &Rule| match update {
            None => Ok(was.clone()),
            Some(update) => update.parse(param, ner_model.as_deref()),
        };
        let prompt_injection = match self.prompt_injection {
            None => was.prompt_injection,
            Some(update) => {
                let threshold = update.threshold.unwrap_or(Injections::THRESHOLD);
                let threshold = within("prompt_injection.threshold", threshold, 0.0, 1.0)?;
                let stops = stops("prompt_injection", update.user.as_deref(), update.tool.as_deref())?;
                Injections { stops, threshold }
            }
        };
        let hidden_unicode = match self.hidden_unicode {
            None => was.hidden_unicode,
            Some(update) => stops("hidden_unicode", update.user.as_deref(), update.tool.as_deref())?,
        };
        let data_exfiltration = match self.data_exfiltration.as_deref() {
            None => was.data_exfiltration,
            Some("off") => Action::Off,
            Some("redact") => Action::Redact,
            Some("block") => Action::Block,
            Some(_) => {
                let message = "data_exfiltration: must be one of: off redact block";
                return Err(ApiError::field("data_exfiltration", "invalid_value", message));
            }
        };
        let input = rule("input", self.input, &was.input)?;
        let output = rule("output", self.output, &was.output)?;
        let named = [&input, &output].into_iter().filter_map(Rule::kinds).flatten();
        if let (Some(kind), None) = (named.copied().find(|kind| kind.takes_a_model()), &ner_model) {
            let message = format!("ner_model: {kind} is looked for, which takes a model that knows names");
            return Err(ApiError::field("ner_model", "invalid_value", message));
        }
        Ok(Policy { input, output, ner_model, prompt_injection, hidden_unicode, data_exfiltration })
    }
}

fn stops(param: &str, user: Option<&str>, tool: Option<&str>) -> Result<Stops, ApiError> {
    let stop = |name: &str, text: Option<&str>| {
        let param = format!("{param}.{name}");
        let wrong = |why| ApiError::field(&param, "invalid_value", format!("{param}: {why}"));
        text.map_or(Ok(Stop::Off), |text| text.parse().map_err(wrong))
    };
    Ok(Stops { user: stop("user", user)?, tool: stop("tool", tool)? })
}

impl UpdateRule {
    fn parse(self, param: &str, ner_model: Option<&str>) -> Result<Rule, ApiError> {
        let action = self.action.parse().map_err(|why| {
            let param = format!("{param}.action");
            ApiError::field(&param, "invalid_value", format!("{param}: {why}"))
        })?;
        let kinds =
            self.types.map(|types| pii::kinds(&format!("{param}.types"), &types, ner_model)).transpose()?;
        let threshold = self.threshold.unwrap_or(Wanted::THRESHOLD);
        let threshold = within(&format!("{param}.threshold"), threshold, 0.0, 1.0)?;
        Ok(Rule { action, wanted: Wanted { kinds, threshold } })
    }
}

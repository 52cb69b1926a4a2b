//! What a project's texts are looked through for.

use crate::error::ApiError;
use crate::wire::{pii, within};
use lyceum_service::guard::lyceum_guard::{Kind, Policy, Rule, Wanted};
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
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GuardRule)]
pub struct RuleBody {
    /// `off`; `mask`: a name stands for what was found, and what came in is brought back in the answer; `redact`: its kind
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
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GuardRuleUpdate)]
pub struct UpdateRule {
    /// `off`, `mask`, `redact` or `block`.
    pub action: String,
    /// Entities such as `EMAIL_ADDRESS`; null or left out: everything that is known.
    pub types: Option<Vec<String>>,
    /// The lowest score of a finding, 0 to 1; 0.5 by default.
    pub threshold: Option<f32>,
}

impl UpdateGuardPolicy {
    /// The policy that holds then.
    pub fn parse(self, was: &Policy) -> Result<Policy, ApiError> {
        let rule = |param: &str, update: Option<UpdateRule>, was: &Rule| match update {
            None => Ok(was.clone()),
            Some(update) => update.parse(param),
        };
        Ok(Policy {
            input: rule("input", self.input, &was.input)?,
            output: rule("output", self.output, &was.output)?,
        })
    }
}

impl UpdateRule {
    fn parse(self, param: &str) -> Result<Rule, ApiError> {
        let action = self.action.parse().map_err(|why| {
            let param = format!("{param}.action");
            ApiError::field(&param, "invalid_value", format!("{param}: {why}"))
        })?;
        let kinds = self.types.map(|types| pii::kinds(&format!("{param}.types"), &types)).transpose()?;
        let threshold = self.threshold.unwrap_or(Wanted::THRESHOLD);
        let threshold = within(&format!("{param}.threshold"), threshold, 0.0, 1.0)?;
        Ok(Rule { action, wanted: Wanted { kinds, threshold } })
    }
}

//! What a project's texts are looked through for. A project without a row is not guarded.

use super::audit::{self, Act, Event};
use super::projects::require_active;
use crate::{Store, StoreError};
use lyceum_guard::{Action, Injections, Kind, Policy, Rule, Stops, Wanted};
use lyceum_types::card::canonical;
use lyceum_types::ids::Project;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A policy as its row has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyRow {
    input: RuleRow,
    output: RuleRow,
    /// Rows of before had none of these.
    #[serde(default)]
    prompt_injection: Option<InjectionsRow>,
    #[serde(default)]
    hidden_unicode: Option<StopsRow>,
    #[serde(default)]
    data_exfiltration: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ner_model: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectionsRow {
    user: String,
    tool: String,
    threshold: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopsRow {
    user: String,
    tool: String,
}

impl From<&Policy> for PolicyRow {
    fn from(policy: &Policy) -> Self {
        let injections = &policy.prompt_injection;
        let stops = |stops: &Stops| (stops.user.as_str().to_owned(), stops.tool.as_str().to_owned());
        let (user, tool) = stops(&injections.stops);
        let prompt_injection = Some(InjectionsRow { user, tool, threshold: injections.threshold });
        let (user, tool) = stops(&policy.hidden_unicode);
        PolicyRow {
            input: (&policy.input).into(),
            output: (&policy.output).into(),
            prompt_injection,
            hidden_unicode: Some(StopsRow { user, tool }),
            data_exfiltration: Some(policy.data_exfiltration.to_string()),
            ner_model: policy.ner_model.clone(),
        }
    }
}

impl PolicyRow {
    fn read(self) -> Option<Policy> {
        let stops =
            |user: &str, tool: &str| Some(Stops { user: user.parse().ok()?, tool: tool.parse().ok()? });
        let prompt_injection = match self.prompt_injection {
            None => Injections::default(),
            Some(row) => Injections { stops: stops(&row.user, &row.tool)?, threshold: row.threshold },
        };
        let hidden_unicode = match self.hidden_unicode {
            None => Stops::default(),
            Some(row) => stops(&row.user, &row.tool)?,
        };
        let data_exfiltration = match self.data_exfiltration {
            None => Action::Off,
            Some(action) => action.parse().ok()?,
        };
        let (input, output) = (self.input.read()?, self.output.read()?);
        let ner_model = self.ner_model;
        Some(Policy { input, output, ner_model, prompt_injection, hidden_unicode, data_exfiltration })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleRow {
    action: String,
    types: Option<Vec<String>>,
    threshold: f32,
}

impl From<&Rule> for RuleRow {
    fn from(rule: &Rule) -> Self {
        let types = rule.kinds().map(|kinds| kinds.iter().map(Kind::to_string).collect());
        Self { action: rule.action.to_string(), types, threshold: rule.wanted.threshold }
    }
}

impl RuleRow {
    fn read(self) -> Option<Rule> {
        let kinds = self.types.map(|types| types.iter().map(|name| name.parse().ok()).collect());
        let kinds: Option<Option<Vec<Kind>>> = kinds.map_or(Some(None), |kinds: Option<_>| kinds.map(Some));
        let wanted = Wanted { kinds: kinds?, threshold: self.threshold };
        Some(Rule { action: self.action.parse().ok()?, wanted })
    }
}

/// sha256 of the canonical JSON (RFC 8785) of a policy as the audit log tells it, under `guard_policy`.
pub fn fingerprint(policy: &Policy) -> String {
    let text = canonical(&json!(PolicyRow::from(policy)));
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What holds for a project.
///
/// # Errors
/// A row that this release cannot read: then nothing is known, and no text may pass.
pub async fn policy(store: &Store, project: &Project) -> Result<Policy, StoreError> {
    let row: Option<(String,)> =
        sqlx::query_as("SELECT policy FROM guard_policies WHERE tenant = $1 AND project = $2")
            .bind(&project.tenant)
            .bind(&project.id)
            .fetch_optional(&store.reader)
            .await?;
    let Some((text,)) = row else { return Ok(Policy::default()) };
    let policy = serde_json::from_str(&text).ok().and_then(PolicyRow::read);
    policy.ok_or(StoreError::Damaged { table: "guard_policies", value: text })
}

/// Says what a project's texts are looked through for from now on.
pub async fn set_policy(
    store: &Store,
    project: &Project,
    policy: &Policy,
    act: &Act,
) -> Result<(), StoreError> {
    let row = PolicyRow::from(policy);
    let document = json!(row);
    let mut transaction = store.write().await?;
    require_active(&mut transaction, project).await?;
    sqlx::query(
        "INSERT INTO guard_policies (tenant, project, policy) VALUES ($1, $2, $3) \
         ON CONFLICT (tenant, project) DO UPDATE SET policy = excluded.policy",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(document.to_string())
    .execute(&mut *transaction)
    .await?;
    let data = json!({"changes_requested": {"guard_policy": document}});
    let event = Event { kind: "project.updated", project: Some(&project.id), resource: &project.id, data };
    audit::append(&mut transaction, &project.tenant, act, event).await?;
    transaction.commit().await?;
    Ok(())
}

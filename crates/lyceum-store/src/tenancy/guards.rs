//! What a project's texts are looked through for. A project without a row is not guarded.

use super::audit::{self, Act, Event};
use super::projects::require_active;
use crate::{Store, StoreError};
use lyceum_guard::{Kind, Policy, Rule, Wanted};
use lyceum_types::ids::Project;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// A policy as its row has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyRow {
    input: RuleRow,
    output: RuleRow,
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
    let read = |row: PolicyRow| Some(Policy { input: row.input.read()?, output: row.output.read()? });
    let policy = serde_json::from_str(&text).ok().and_then(read);
    policy.ok_or(StoreError::Damaged { table: "guard_policies", value: text })
}

/// Says what a project's texts are looked through for from now on.
pub async fn set_policy(
    store: &Store,
    project: &Project,
    policy: &Policy,
    act: &Act,
) -> Result<(), StoreError> {
    let row = PolicyRow { input: (&policy.input).into(), output: (&policy.output).into() };
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

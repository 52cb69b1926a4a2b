//! What a private training costs its file: told and held to the budget before it begins, and read from the ledger
//! afterwards.

use super::{Asked, found};
use crate::privacy::{Account, accounts, judge};
use crate::{Service, ServiceError};
use lyceum_privacy::account::ADJACENCY;
use lyceum_privacy::{PrivacyError, epsilon};
use lyceum_store::jobs::{self, Kind};
use lyceum_store::privacy as ledger;
use lyceum_store::privacy::Spend;
use lyceum_train::chat::Chats;
use lyceum_train::data::Loaded;
use lyceum_train::private::{Private, accountant};
use lyceum_train::{TrainError, run};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use lyceum_types::manifest::PrivacyReport;
use lyceum_types::spec::privacy::PrivacySpec;
use lyceum_types::spec::tune::TuneSpec;
use lyceum_types::spec::{Spec, TrainSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The quote of a private training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Of the training file.
    pub data_sha256: String,
    pub q: f64,
    pub sigma: f64,
    pub steps: u64,
    /// Lines or rows that all steps draw on average: what is paid for, because how many are drawn is a secret.
    pub expected_rows: u64,
    /// None: there is no noise, nothing is promised.
    pub epsilon: Option<f64>,
    pub delta: f64,
    pub accountant: String,
    pub conversion: String,
    pub adjacency: String,
    pub unit: String,
    pub max_grad_norm: f64,
    pub canaries: Option<u64>,
}

impl Planned {
    pub(super) fn of_tune(
        spec: &TuneSpec,
        train: &TrainSpec,
        chats: &Chats,
        steps: u64,
    ) -> Result<Option<Self>, ServiceError> {
        let private = Private::tuned(spec, train, chats.train.len(), steps).map_err(refused)?;
        let file = chats.files.iter().find(|file| file.role == "train");
        let (Some(private), Some(file), Some(privacy)) = (private, file, &spec.privacy) else {
            return Ok(None);
        };
        Self::of(privacy, &private, file.sha256.clone(), steps).map(Some)
    }

    pub(super) fn of_spec(spec: &Spec, loaded: &Loaded) -> Result<Option<Self>, ServiceError> {
        let Some(privacy) = &spec.privacy else { return Ok(None) };
        let steps = run::total_steps(&spec.train, spec.seed, &loaded.train);
        let shape = loaded.preparation.shape();
        let private = Private::new(spec, privacy, &shape, loaded.train.len(), steps).map_err(refused)?;
        let Some(file) = loaded.files.iter().find(|file| file.role == "train") else { return Ok(None) };
        Self::of(privacy, &private, file.sha256.clone(), steps).map(Some)
    }

    fn of(
        privacy: &PrivacySpec,
        private: &Private,
        data_sha256: String,
        steps: u64,
    ) -> Result<Self, ServiceError> {
        let event = private.event(steps).map_err(refused)?;
        let accountant = accountant(privacy.accountant);
        let cost = epsilon(&[event], privacy.target_delta, accountant).map_err(out_of_range)?;
        Ok(Planned {
            data_sha256,
            q: event.q(),
            sigma: event.sigma(),
            steps,
            expected_rows: (private.mechanism.expected_batch * steps as f64).round() as u64,
            epsilon: cost.epsilon.is_finite().then_some(cost.epsilon),
            delta: cost.delta,
            accountant: accountant.as_str().into(),
            conversion: accountant.conversion().into(),
            adjacency: ADJACENCY.into(),
            unit: "example".into(),
            max_grad_norm: privacy.max_grad_norm,
            canaries: privacy.audit.map(|audit| audit.canaries as u64),
        })
    }

    /// What its process will take of the file's budget.
    fn spend(&self, job: String) -> Spend {
        Spend {
            data_sha256: self.data_sha256.clone(),
            job,
            q: self.q,
            sigma: self.sigma,
            steps: self.steps,
            delta: self.delta,
            created_at: Timestamp::now(),
        }
    }

    /// What all steps draw of something of which the file has `of_all`, in expectation.
    pub(super) fn expected(&self, of_all: u64) -> u64 {
        (self.q * self.steps as f64 * of_all as f64).round() as u64
    }
}

/// Whether the file's budget has what a training will take, beside what those before it took or wait to take; the training's
/// process takes it.
///
/// # Errors
/// 409 `privacy_budget_exceeded`.
pub(super) async fn afford(
    service: &Service,
    project: &Project,
    planned: &Planned,
) -> Result<(), ServiceError> {
    let budgets = ledger::budgets(service.store(), project).await?;
    let Some(budget) = budgets.into_iter().find(|budget| budget.data_sha256 == planned.data_sha256) else {
        return Ok(());
    };
    let mut others = ledger::spends(service.store(), project).await?;
    others.retain(|spend| spend.data_sha256 == planned.data_sha256);
    for job in jobs::unfinished(service.store(), project).await? {
        let Some(request) = job.request.as_deref().filter(|_| job.kind == Kind::Train) else { continue };
        let asked: Asked = serde_json::from_str(request)
            .map_err(|source| ServiceError::Damaged { id: job.id.to_string(), source: source.into() })?;
        let id = job.id.to_string();
        let waits = asked.privacy.filter(|plan| plan.data_sha256 == planned.data_sha256);
        if let Some(plan) = waits.filter(|_| others.iter().all(|spend| spend.job != id)) {
            others.push(plan.spend(id));
        }
    }
    let new = planned.spend(String::new());
    super::blocking(move || {
        judge(Some(&budget), &others, &new)
            .map_err(|message| ServiceError::Conflict { code: "privacy_budget_exceeded", message })
    })
    .await
}

/// What is known of the privacy of one training.
#[derive(Clone, Debug)]
pub struct JobPrivacy {
    pub job: JobId,
    /// As it was quoted; None: nothing is promised.
    pub planned: Option<Planned>,
    /// What the job took of its file, from the ledger: nothing before its process has begun.
    pub ledger: Vec<Spend>,
    /// What is promised of what it made; None until it is done.
    pub guarantee: Option<PrivacyReport>,
    /// All jobs on the same file together.
    pub composition: Vec<Account>,
}

/// The ledger of one training and what its end promises.
pub async fn of_job(service: &Service, project: &Project, id: &str) -> Result<JobPrivacy, ServiceError> {
    let training = super::told(service, found(service, project, id).await?)?;
    let job = training.job;
    let damaged =
        |source: serde_json::Error| ServiceError::Damaged { id: job.id.to_string(), source: source.into() };
    let outcome: Value =
        job.outcome.as_deref().map_or(Ok(Value::Null), serde_json::from_str).map_err(damaged)?;
    let guarantee = match &outcome["privacy"] {
        Value::Null => None,
        report => Some(serde_json::from_value(report.clone()).map_err(damaged)?),
    };
    let mut composition = accounts(service, project).await?;
    composition.retain(|account| account.is_of(&job.id));
    let all = composition.iter().flat_map(|account| &account.spends);
    let ledger = all.filter(|spend| spend.job == job.id.as_str()).cloned().collect();
    Ok(JobPrivacy { job: job.id.clone(), planned: training.asked.privacy, ledger, guarantee, composition })
}

/// What training refuses of a promise is the caller's.
fn refused(error: TrainError) -> ServiceError {
    ServiceError::invalid("privacy", "invalid_value", error.to_string())
}

fn out_of_range(error: PrivacyError) -> ServiceError {
    ServiceError::invalid("privacy", "invalid_value", error.to_string())
}

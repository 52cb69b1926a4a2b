//! What training costs in privacy, what data sets may lose, and what a version promises.

use crate::{Service, ServiceError};
use lyceum_privacy::calibrate::Target;
use lyceum_privacy::{Accountant, Event, Guarantee, PrivacyError, epsilon, sigma};
use lyceum_store::layout::MANIFEST;
use lyceum_store::privacy::{self, Budget};
pub use lyceum_store::privacy::{Spend, Unprotected};
use lyceum_store::tenancy::Act;
use lyceum_store::vault::KeyedPath;
use lyceum_store::{data_files, evidence};
use lyceum_types::card::{Number, Part};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, ModelRef, Project};
use lyceum_types::manifest::PrivacyReport;
use serde::Deserialize;

/// A data set's budget and what was taken of it.
#[derive(Clone, Debug)]
pub struct Account {
    pub data_sha256: String,
    pub budget: Option<Budget>,
    pub spends: Vec<Spend>,
    /// Jobs that read it without noise: no ε holds for them, and `spent` has nothing of them.
    pub unprotected: Vec<Unprotected>,
    /// Of all spends together, at the budget's δ (else the smallest that a job promised).
    pub spent: Guarantee,
}

impl Account {
    /// Whether a job read it, with noise or without.
    pub fn is_of(&self, job: &JobId) -> bool {
        self.spends.iter().any(|spend| spend.job == job.as_str())
            || self.unprotected.iter().any(|plain| plain.job == job.as_str())
    }

    /// What all jobs on it come to, in words.
    pub fn statement(&self) -> String {
        let jobs = |n: usize| format!("{n} job{}", if n == 1 { "" } else { "s" });
        let (n, n_plain) = (self.spends.len(), self.unprotected.len());
        let whole = lyceum_privacy::words::statement(&self.spent, "example");
        match (n, n_plain) {
            (_, 0) => format!("Of {} on this data file together: {whole}", jobs(n)),
            (0, _) => format!("{} read this data file without noise: no ε holds.", jobs(n_plain)),
            _ => format!(
                "{} read this data file without noise: no ε holds for what they made, nor for all jobs together. \
                 Of the other {} alone: {whole}",
                jobs(n_plain),
                jobs(n)
            ),
        }
    }
}

/// ε of one setting. Leaves the caller's thread: a distribution takes tens of milliseconds.
pub async fn cost(event: Event, delta: f64, accountant: Accountant) -> Result<Guarantee, ServiceError> {
    blocking(move || epsilon(&[event], delta, accountant)).await
}

/// The noise multiplier for a target.
pub async fn noise(target: Target, q: f64, steps: u64, accountant: Accountant) -> Result<f64, ServiceError> {
    blocking(move || sigma(target, q, steps, &[], accountant)).await
}

/// Sets a data set's budget.
pub async fn set_budget(
    service: &Service,
    project: &Project,
    data_sha256: String,
    (target, accountant): (Target, Accountant),
    act: &Act,
) -> Result<Account, ServiceError> {
    let is_hash = data_sha256.len() == 64 && data_sha256.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hash {
        let message = "must be the sha256 of the file, 64 hexadecimal digits";
        return Err(ServiceError::invalid("data_sha256", "invalid_value", message));
    }
    let budget = Budget {
        data_sha256: data_sha256.to_ascii_lowercase(),
        epsilon: target.epsilon,
        delta: target.delta,
        accountant: accountant.as_str().into(),
        created_at: act.now,
    };
    privacy::set_budget(service.store(), project, &budget, act).await?;
    let all = accounts(service, project).await?;
    let found = all.into_iter().find(|account| account.data_sha256 == budget.data_sha256);
    found.ok_or_else(|| ServiceError::internal("the budget was written and is not there", "store"))
}

/// Every data set that has a budget or was spent of.
pub async fn accounts(service: &Service, project: &Project) -> Result<Vec<Account>, ServiceError> {
    let budgets = privacy::budgets(service.store(), project).await?;
    let spends = privacy::spends(service.store(), project).await?;
    let unprotected = privacy::unprotected(service.store(), project).await?;
    blocking(move || together(budgets, spends, &unprotected)).await
}

/// Refuses a job without noise on one of these files of `/v1/files`, each with its field, where that has a budget.
///
/// # Errors
/// 400 `privacy_required` at its field; a file that is not there.
pub(crate) async fn refuse_unprotected(
    service: &Service,
    project: &Project,
    files: &[(&str, &str)],
) -> Result<(), ServiceError> {
    let budgets = privacy::budgets(service.store(), project).await?;
    if budgets.is_empty() {
        return Ok(());
    }
    for (param, id) in files {
        let id = id.parse().map_err(lyceum_store::StoreError::from)?;
        let file = data_files::find(service.store(), project, &id, Timestamp::now()).await?;
        if let Some(budget) = budgets.iter().find(|budget| budget.data_sha256 == file.sha256) {
            return Err(ServiceError::invalid(*param, "privacy_required", unprotected(&file.name, budget)));
        }
    }
    Ok(())
}

/// Why a job without noise does not train on a file that has a budget.
pub fn unprotected(file: &str, budget: &Budget) -> String {
    format!(
        "{file} has a privacy budget, ε = {} at δ = {} over all jobs, and this job has no privacy, so no ε would hold: \
         ask for privacy (dp_sgd), or train on a file without a budget",
        budget.epsilon, budget.delta
    )
}

/// Budgets and spends by data set, each with what the spends come to.
pub fn together(
    budgets: Vec<Budget>,
    spends: Vec<Spend>,
    unprotected: &[Unprotected],
) -> Result<Vec<Account>, PrivacyError> {
    let mut hashes: Vec<String> = budgets.iter().map(|b| b.data_sha256.clone()).collect();
    hashes.extend(spends.iter().map(|s| s.data_sha256.clone()));
    hashes.sort();
    hashes.dedup();
    let account = |data_sha256: String| {
        let budget = budgets.iter().find(|b| b.data_sha256 == data_sha256).cloned();
        let spends: Vec<Spend> = spends.iter().filter(|s| s.data_sha256 == data_sha256).cloned().collect();
        let unprotected = unprotected.iter().filter(|u| u.data_sha256 == data_sha256).cloned().collect();
        let smallest = spends.iter().map(|s| s.delta).fold(1e-5, f64::min);
        let delta = budget.as_ref().map_or(smallest, |b| b.delta);
        let accountant = accountant(budget.as_ref().map_or("pld", |b| &b.accountant));
        let spent = epsilon(&events(&spends)?, delta, accountant)?;
        Ok(Account { data_sha256, budget, spends, unprotected, spent })
    };
    hashes.into_iter().map(account).collect()
}

/// Whether a job may take this of a data set: an error says why not.
pub fn judge(budget: Option<&Budget>, others: &[Spend], new: &Spend) -> Result<(), String> {
    let Some(budget) = budget else { return Ok(()) };
    let total = || -> Result<f64, PrivacyError> {
        let mut events = events(others)?;
        events.push(Event::new(new.q, new.sigma, new.steps)?);
        Ok(epsilon(&events, budget.delta, accountant(&budget.accountant))?.epsilon)
    };
    let total = total().map_err(|error| error.to_string())?;
    if total <= budget.epsilon {
        return Ok(());
    }
    Err(format!(
        "with what {} earlier jobs took, this job would bring the data set to ε = {total:.4} at δ = {}; its \
         budget is {}",
        others.len(),
        budget.delta,
        budget.epsilon
    ))
}

fn events(spends: &[Spend]) -> Result<Vec<Event>, PrivacyError> {
    let events: Result<Vec<Event>, _> = spends.iter().map(|s| Event::new(s.q, s.sigma, s.steps)).collect();
    Ok(lyceum_privacy::mechanism::merge(events?))
}

fn accountant(name: &str) -> Accountant {
    if name == "rdp" { Accountant::Rdp } else { Accountant::Pld }
}

/// What a version promises, what its training rows have lost in all, and what attacks found.
#[derive(Clone, Debug)]
pub struct ModelReport {
    /// `name@3`
    pub model: String,
    /// None: nothing is promised.
    pub guarantee: Option<PrivacyReport>,
    /// Of each data file that the version's job spent of: all jobs together, this one among them.
    pub composition: Vec<Account>,
    /// What `lyceum privacy audit` found of this version, the oldest first.
    pub attacks: Vec<Number>,
}

/// See [`ModelReport`].
pub async fn of_model(
    service: &Service,
    project: &Project,
    reference: &ModelRef,
) -> Result<ModelReport, ServiceError> {
    let version = service.resolve(project, reference).await?;
    if crate::cascades::is_cascade(&version) {
        return Err(crate::cascades::refused(&version));
    }
    let manifest = version.dir.join(MANIFEST);
    let (kept, weights) = (evidence::all(service.store(), &version).await?, version.sha256.clone());
    let read = move || {
        let kept = kept.into_iter().map(|kept| kept.evidence);
        let ours = kept.filter(|found| found.part == Part::Privacy && found.weights_sha256 == weights);
        let attacks: Vec<Number> = ours.flat_map(|found| found.section.numbers).collect();
        Ok::<_, ServiceError>((promised(&manifest)?, attacks))
    };
    let (guarantee, attacks) = tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| ServiceError::internal("read the manifest", e))??;
    let mut composition = Vec::new();
    if let Some(job) = &version.job {
        composition = accounts(service, project).await?;
        composition.retain(|account| account.is_of(job));
    }
    Ok(ModelReport { model: version.id(), guarantee, composition, attacks })
}

/// What training promises of the version with this manifest; None: nothing.
///
/// # Errors
/// The manifest cannot be read.
pub(crate) fn promised(manifest: &KeyedPath) -> Result<Option<PrivacyReport>, ServiceError> {
    let bytes = manifest.read().map_err(|e| ServiceError::internal("read the manifest", e))?;
    let promised = serde_json::from_slice::<Promised>(&bytes)
        .map_err(|e| ServiceError::internal("understand the manifest", e))?;
    Ok(promised.privacy)
}

/// The one field that is asked of a manifest, of a model that was trained here as of one that was imported.
#[derive(Deserialize)]
struct Promised {
    #[serde(default)]
    privacy: Option<PrivacyReport>,
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrivacyError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ServiceError::internal("accounting broke off", e))?.map_err(invalid)
}

/// A number that is out of range is the caller's.
fn invalid(error: PrivacyError) -> ServiceError {
    match error {
        PrivacyError::OutOfRange { what, range, value } => {
            ServiceError::invalid(what, "invalid_value", format!("must be {range}, is {value}"))
        }
        other => ServiceError::invalid("epsilon", "unreachable", other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_what_earlier_jobs_took() {
        let spend = |job: &str, steps| Spend {
            data_sha256: "d".into(),
            job: job.into(),
            q: 0.1,
            sigma: 2.0,
            steps,
            delta: 1e-5,
            created_at: Timestamp::from_millis(1),
        };
        let budget = Budget {
            data_sha256: "d".into(),
            epsilon: 4.0,
            delta: 1e-5,
            accountant: "pld".into(),
            created_at: Timestamp::from_millis(1),
        };
        assert!(judge(None, &[], &spend("a", 1_000_000)).is_ok());
        assert!(judge(Some(&budget), &[], &spend("a", 200)).is_ok());
        let refusal = judge(Some(&budget), &[spend("a", 200)], &spend("b", 200)).unwrap_err();
        assert!(refusal.contains("1 earlier job") && refusal.contains("budget is 4"), "{refusal}");
        let of = |plain: &[Unprotected]| {
            together(vec![budget.clone()], vec![spend("a", 200)], plain).unwrap().remove(0)
        };
        let account = of(&[]);
        assert!(account.spent.epsilon < 4.0 && account.spent.epsilon > 1.0);
        assert!(
            account.statement().starts_with("Of 1 job on this data file together"),
            "{}",
            account.statement()
        );
        let plain = |data: &str| Unprotected {
            data_sha256: data.into(),
            job: "c".into(),
            created_at: Timestamp::from_millis(1),
        };
        assert_eq!(of(&[plain("another")]).statement(), account.statement());
        let beside = of(&[plain("d")]);
        let said = beside.statement();
        assert!(
            said.starts_with("1 job read") && said.contains("no ε holds") && said.contains("other 1 job"),
            "{said}"
        );
        assert_eq!(beside.spent.epsilon, account.spent.epsilon, "the private jobs' own is still known");
    }
}

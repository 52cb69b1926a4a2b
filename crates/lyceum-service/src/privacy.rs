//! What training costs in privacy, what data sets may lose, and what a version promises.

use crate::{Service, ServiceError};
use lyceum_privacy::calibrate::Target;
use lyceum_privacy::{Accountant, Event, Guarantee, PrivacyError, epsilon, sigma};
use lyceum_store::evidence;
use lyceum_store::layout::MANIFEST;
pub use lyceum_store::privacy::Spend;
use lyceum_store::privacy::{self, Budget};
use lyceum_store::vault::KeyedPath;
use lyceum_types::card::{Number, Part};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{ModelRef, Project};
use lyceum_types::manifest::PrivacyReport;
use serde::Deserialize;

/// A data set's budget and what was taken of it.
#[derive(Clone, Debug)]
pub struct Account {
    pub data_sha256: String,
    pub budget: Option<Budget>,
    pub spends: Vec<Spend>,
    /// Of all spends together, at the budget's δ (else the smallest that a job promised).
    pub spent: Guarantee,
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
    target: Target,
    accountant: Accountant,
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
        created_at: Timestamp::now(),
    };
    privacy::set_budget(service.store(), project, &budget).await?;
    let all = accounts(service, project).await?;
    let found = all.into_iter().find(|account| account.data_sha256 == budget.data_sha256);
    found.ok_or_else(|| ServiceError::internal("the budget was written and is not there", "store"))
}

/// Every data set that has a budget or was spent of.
pub async fn accounts(service: &Service, project: &Project) -> Result<Vec<Account>, ServiceError> {
    let budgets = privacy::budgets(service.store(), project).await?;
    let spends = privacy::spends(service.store(), project).await?;
    blocking(move || together(budgets, spends)).await
}

/// Budgets and spends by data set, each with what the spends come to.
pub fn together(budgets: Vec<Budget>, spends: Vec<Spend>) -> Result<Vec<Account>, PrivacyError> {
    let mut hashes: Vec<String> = budgets.iter().map(|b| b.data_sha256.clone()).collect();
    hashes.extend(spends.iter().map(|s| s.data_sha256.clone()));
    hashes.sort();
    hashes.dedup();
    let account = |data_sha256: String| {
        let budget = budgets.iter().find(|b| b.data_sha256 == data_sha256).cloned();
        let spends: Vec<Spend> = spends.iter().filter(|s| s.data_sha256 == data_sha256).cloned().collect();
        let smallest = spends.iter().map(|s| s.delta).fold(1e-5, f64::min);
        let delta = budget.as_ref().map_or(smallest, |b| b.delta);
        let accountant = accountant(budget.as_ref().map_or("pld", |b| &b.accountant));
        let spent = epsilon(&events(&spends)?, delta, accountant)?;
        Ok(Account { data_sha256, budget, spends, spent })
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
        composition.retain(|account| account.spends.iter().any(|spend| spend.job == job.as_str()));
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
        let accounts = together(vec![budget], vec![spend("a", 200)]).unwrap();
        assert!(accounts[0].spent.epsilon < 4.0 && accounts[0].spent.epsilon > 1.0);
    }
}

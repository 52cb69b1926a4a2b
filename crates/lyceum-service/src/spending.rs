//! Prices and budgets, for those who set them over HTTP: a change counts for this process's next request.
//!
//! Prices are what an installation's operator asks of organisations, so only keys of the organisation that the
//! installation was made with ([`is_operator`]) set them, for whichever organisation. The same holds for what an
//! organisation as a whole may spend; within it, it sets budgets of its projects and keys itself.

use crate::{Service, ServiceError};
use lyceum_store::ledger::budgets::{self, Budget, Period, Place, Window};
use lyceum_store::ledger::prices::{self, Price, Rates};
use lyceum_store::tenancy::Act;
use lyceum_store::{StoreError, keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;

pub use lyceum_store::ledger::{UNIT, millionths};
pub use lyceum_store::ledger::{budgets as stored_budgets, prices as stored_prices};

/// Whether keys of this organisation speak for the installation: it is the one that the first start made.
pub fn is_operator(tenant: &str) -> bool {
    tenant == Project::default_project().tenant
}

fn require_operator(tenant: &str, what: &str) -> Result<(), ServiceError> {
    if is_operator(tenant) {
        return Ok(());
    }
    let operator = Project::default_project().tenant;
    let message =
        format!("{what}: only a key of the organisation {operator}, which runs the installation, may");
    Err(ServiceError::OperatorOnly { message })
}

/// The prices that an organisation may see ([`prices::seen_by`]); the operator's sees all.
pub async fn prices(service: &Service, by: &str) -> Result<Vec<Price>, ServiceError> {
    if is_operator(by) {
        return Ok(prices::list(&service.store).await?.all().to_vec());
    }
    Ok(prices::seen_by(&service.store, by).await?)
}

/// Adds a price; `place` is organisation, project and model.
///
/// # Errors
/// `by` does not run the installation; what the store refuses.
pub async fn set_price(
    service: &Service,
    by: &str,
    place: (&str, &str, &str),
    rates: Rates,
    act: &Act,
) -> Result<Price, ServiceError> {
    require_operator(by, "prices are set by who runs the installation")?;
    let price = prices::set(&service.store, place, rates, act).await?;
    service.ledger.refresh().await?;
    Ok(price)
}

/// The budgets of an organisation and where they stand; the operator's sees those of all.
pub async fn budgets(service: &Service, by: &str) -> Result<Vec<Window>, ServiceError> {
    let tenant = Some(by).filter(|by| !is_operator(by));
    Ok(budgets::windows_of(&service.store, tenant, Timestamp::now()).await?)
}

/// One of [`budgets`].
///
/// # Errors
/// There is none that `by` may see.
pub async fn budget(service: &Service, by: &str, id: &str) -> Result<Window, ServiceError> {
    let found = budgets(service, by).await?.into_iter().find(|window| window.budget.id == id);
    found.ok_or_else(|| ServiceError::NotFound { what: "budget", id: id.chars().take(64).collect() })
}

/// Sets a budget, or the limit of one that there is.
///
/// # Errors
/// It is for `by`'s operator to set; there is no such organisation, project or key; what the store refuses.
pub async fn set_budget(
    service: &Service,
    by: &str,
    (place, period): (&Place, Period),
    limit: i64,
    act: &Act,
) -> Result<Window, ServiceError> {
    may_change(by, place)?;
    if !place.api_key.is_empty() {
        let project = Project { tenant: place.tenant.clone(), id: place.project.clone() };
        let missing = || StoreError::NotFound { what: "key", id: place.api_key.chars().take(64).collect() };
        let key = place.api_key.parse().map_err(|_| missing())?;
        keys::find(&service.store, &project, &key).await?;
    }
    let set = budgets::set(&service.store, place, period, limit, act).await?;
    service.ledger.refresh().await?;
    budget(service, by, &set.id).await
}

/// Takes a budget away.
///
/// # Errors
/// There is none that `by` may see; it is for `by`'s operator to take away.
pub async fn remove_budget(service: &Service, by: &str, id: &str, act: &Act) -> Result<Budget, ServiceError> {
    let found = budget(service, by, id).await?.budget;
    may_change(by, &found.place)?;
    let removed = budgets::remove(&service.store, &found.place, found.period, act).await?;
    service.ledger.refresh().await?;
    Ok(removed)
}

fn may_change(by: &str, place: &Place) -> Result<(), ServiceError> {
    if place.tenant != by {
        require_operator(by, "the budget is another organisation's")?;
    }
    if place.project.is_empty() {
        require_operator(by, "what an organisation may spend is set by who runs the installation")?;
    }
    Ok(())
}

//! Models that projects may ask though another project has them, for those who share them over HTTP.
//!
//! A key shares within its own organisation. Giving a model to every organisation puts its name among everybody's models,
//! and naming another organisation's project says whether it is there: both are for who runs the installation.

use crate::spending::is_operator;
use crate::{Service, ServiceError};
use lyceum_store::models::shares;
use lyceum_store::tenancy::{Act, projects};
use lyceum_types::ids::Project;

pub use lyceum_store::models::shares::{Share, With};

/// What a project shares, in an order that stays.
pub async fn list(service: &Service, owner: &Project) -> Result<Vec<Share>, ServiceError> {
    let all = shares::list(&service.store, &owner.tenant).await?;
    Ok(all.into_iter().filter(|share| share.owner == *owner).collect())
}

/// Lets others ask a model. Told twice, it holds once.
///
/// # Errors
/// There is no such model or project; everybody is meant, and the key's organisation does not run the installation.
pub async fn create(service: &Service, share: Share, act: &Act) -> Result<Share, ServiceError> {
    if share.with == With::Everyone && !is_operator(&share.owner.tenant) {
        let message = "with everyone: only who runs the installation shares a model with every organisation";
        return Err(ServiceError::OperatorOnly { message: message.into() });
    }
    let share = Share { with: within(service, share.with).await?, ..share };
    shares::share(&service.store, &share, act).await?;
    Ok(share)
}

/// Takes a share back: the next request does not find the model.
///
/// # Errors
/// The model is not shared so.
pub async fn delete(service: &Service, share: Share, act: &Act) -> Result<(), ServiceError> {
    let share = Share { with: within(service, share.with).await?, ..share };
    Ok(shares::unshare(&service.store, &share, act).await?)
}

/// Who is meant: the operator names projects of whichever organisation.
async fn within(service: &Service, with: With) -> Result<With, ServiceError> {
    let With::Project(named) = with else { return Ok(with) };
    if is_operator(&named.tenant) && projects::find(&service.store, &named).await.is_err() {
        for organization in projects::organizations(&service.store).await? {
            let project = Project { tenant: organization.id, id: named.id.clone() };
            if named.id != Project::default_project().id
                && projects::find(&service.store, &project).await.is_ok()
            {
                return Ok(With::Project(project));
            }
        }
    }
    Ok(With::Project(named))
}

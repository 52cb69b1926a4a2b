//! Zero data retention: what would write content is refused by name, before anything is written.

use crate::{Service, ServiceError};
use lyceum_types::ids::Project;
use lyceum_types::tenancy::Retention;

/// Refuses what keeps content, in a project that keeps none. `param` is what asks for it, `what` is what it would
/// keep.
///
/// # Errors
/// The project (or its organisation) has zero data retention.
pub async fn require_kept(
    service: &Service,
    project: &Project,
    param: &'static str,
    what: &'static str,
) -> Result<(), ServiceError> {
    match service.retention(project).await? {
        Retention::Kept => Ok(()),
        Retention::Nothing => {
            let message =
                format!("the project has zero data retention, and this would keep {what}: nothing was kept");
            Err(ServiceError::invalid(param, "zero_data_retention", message))
        }
    }
}

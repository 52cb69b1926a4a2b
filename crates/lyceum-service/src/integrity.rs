//! Whether a version is still what was registered, for whoever looks after a data folder: no model stays in memory.

use crate::{ServiceError, language, resident};
use lyceum_store::models::Version;

/// Hashes every file of the version. A model that was trained here is loaded too and must answer its probes as it did
/// after training; one that was imported is not (it may be larger than the memory that is free).
///
/// # Errors
/// A file that is missing or damaged, by its path.
pub fn check(version: Version) -> Result<(), ServiceError> {
    if !language::is_imported(&version) {
        return resident::read(version).map(drop);
    }
    let manifest = language::read_manifest(&version)?;
    let damaged = |source| ServiceError::Damaged { id: version.id(), source };
    language::check_files(&version, &manifest).map_err(damaged)
}

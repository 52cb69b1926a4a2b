//! Runs without noise: which files they are about to read. Whether one of them may not be read so is known where budgets are.

use crate::error::TrainError;
use crate::observer::{Event, Observer};
use lyceum_types::manifest::DataFile;

/// Tells of every file that a run without noise reads.
///
/// # Errors
/// Whoever observes keeps the run from one of them.
pub(crate) fn tell_unprotected(files: &[DataFile], observer: &mut dyn Observer) -> Result<(), TrainError> {
    files.iter().try_for_each(|file| observer.event(&Event::Unprotected { file }))
}

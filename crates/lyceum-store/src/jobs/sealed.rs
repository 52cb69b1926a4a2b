//! What a job's row holds of its project's own words (what was asked, what it said, what it found), sealed where the project
//! is encrypted.

use crate::vault::{ProjectKey, open_text, seal_text};
use crate::{Store, StoreError};
use lyceum_types::ids::{JobId, Project};

/// A column that is sealed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    Spec,
    Request,
    Message,
    Outcome,
}

impl Column {
    fn place(self, id: &str) -> String {
        let name = match self {
            Column::Spec => "spec",
            Column::Request => "request",
            Column::Message => "message",
            Column::Outcome => "outcome",
        };
        format!("{name} of {id}")
    }
}

pub(super) fn seal(
    key: Option<&ProjectKey>,
    id: &JobId,
    column: Column,
    text: &str,
) -> Result<String, StoreError> {
    // Nothing is said as nothing.
    if text.is_empty() { Ok(String::new()) } else { seal_text(key, &column.place(id.as_str()), text) }
}

pub(super) fn open(
    key: Option<&ProjectKey>,
    id: &str,
    column: Column,
    text: String,
) -> Result<String, StoreError> {
    if text.is_empty() { Ok(text) } else { open_text(key, ("jobs", &column.place(id)), text) }
}

/// What a job says as its row may hold it: of a project that was erased, nothing.
pub(super) fn message(
    store: &Store,
    project: &Project,
    id: &JobId,
    text: &str,
) -> Result<String, StoreError> {
    match store.keyring().of(project) {
        Ok(key) => seal(key.as_ref(), id, Column::Message, text),
        Err(StoreError::Erased { .. }) => Ok(String::new()),
        Err(error) => Err(error),
    }
}

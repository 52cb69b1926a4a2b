//! What is counted of a language model's answers, so that it outlives the process: one JSON document a model of a
//! project, sealed where the project is, and a lock beside it: one process of a data folder keeps the counts of a model.

use crate::files::{WorkLock, create_private_dir};
use crate::vault::{read_document, write_document};
use crate::{Store, StoreError};
use lyceum_types::ids::Project;
use std::path::PathBuf;

/// Takes a model's counts (`name@3`); `Ok(None)` when another living process keeps them.
///
/// # Errors
/// The disk.
pub fn own(store: &Store, project: &Project, model: &str) -> Result<Option<WorkLock>, StoreError> {
    create_private_dir(&store.layout().drift(project))?;
    WorkLock::try_take(path(store, project, model, "lock"))
}

/// Writes the document, whole or not at all.
///
/// # Errors
/// The disk; a project whose key is not at hand.
pub fn save(store: &Store, project: &Project, model: &str, json: &[u8]) -> Result<(), StoreError> {
    write_document(store, project, &path(store, project, model, "json"), json)
}

/// `Ok(None)`: there is none.
///
/// # Errors
/// The disk; a document that cannot be opened.
pub fn read(store: &Store, project: &Project, model: &str) -> Result<Option<Vec<u8>>, StoreError> {
    read_document(store, project, &path(store, project, model, "json"))
}

/// Takes the document away; well where there is none.
///
/// # Errors
/// The disk.
pub fn remove(store: &Store, project: &Project, model: &str) -> Result<(), StoreError> {
    let path = path(store, project, model, "json");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::file("remove", &path, error))
        }
        _ => Ok(()),
    }
}

fn path(store: &Store, project: &Project, model: &str, extension: &str) -> PathBuf {
    let name = crate::layout::folder_name(model);
    store.layout().drift(project).join(format!("{name}.{extension}"))
}

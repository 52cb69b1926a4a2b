//! What choices among models found: one JSON document each, written once.

use crate::files::create_private_dir;
use crate::vault::{read_document, write_document};
use crate::{Store, StoreError};
use lyceum_types::ids::{Project, SelectionId};
use std::path::PathBuf;

/// Keeps a document and returns where it is.
pub fn save(store: &Store, project: &Project, id: &SelectionId, json: &[u8]) -> Result<PathBuf, StoreError> {
    let folder = store.layout().selections(project);
    create_private_dir(&folder)?;
    let path = folder.join(format!("{id}.json"));
    write_document(store, project, &path, json)?;
    Ok(path)
}

/// The document of a choice.
pub fn find(store: &Store, project: &Project, id: &SelectionId) -> Result<String, StoreError> {
    let path = store.layout().selections(project).join(format!("{id}.json"));
    let bytes = read_document(store, project, &path)?
        .ok_or_else(|| StoreError::NotFound { what: "model selection", id: id.to_string() })?;
    String::from_utf8(bytes).map_err(|error| StoreError::DamagedFile { path, why: error.to_string() })
}

/// Every choice of the project, oldest first.
pub fn list(store: &Store, project: &Project) -> Result<Vec<SelectionId>, StoreError> {
    let folder = store.layout().selections(project);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::file("list", &folder, error)),
    };
    // What has another name was not written here.
    let id = |name: String| name.strip_suffix(".json")?.parse::<SelectionId>().ok();
    let mut ids: Vec<SelectionId> =
        entries.flatten().filter_map(|entry| id(entry.file_name().to_string_lossy().into_owned())).collect();
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_document_is_found_by_its_own_project_only() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(crate::Layout::new(folder.path()), lyceum_types::clock::Timestamp::now())
            .await
            .unwrap();
        let (ours, theirs) =
            (Project::default_project(), Project { tenant: "other".into(), id: "default".into() });
        let (first, second) = (SelectionId::from_bits(1), SelectionId::from_bits(2));
        assert!(list(&store, &ours).unwrap().is_empty());
        save(&store, &ours, &second, b"{}").unwrap();
        let path = save(&store, &ours, &first, b"{\"a\":1}").unwrap();
        assert!(path.starts_with(folder.path()));
        assert_eq!(find(&store, &ours, &first).unwrap(), "{\"a\":1}");
        assert_eq!(list(&store, &ours).unwrap().len(), 2);
        assert!(matches!(find(&store, &theirs, &first), Err(StoreError::NotFound { .. })));
        assert!(list(&store, &theirs).unwrap().is_empty());
    }
}

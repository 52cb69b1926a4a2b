//! What can go wrong between here and a hub.

use lyceum_types::control::Stop;
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Caller: the text is no reference.
    #[error("{text:?} is no model of a hub: {why}")]
    Reference { text: String, why: &'static str },
    /// Caller: the hub knows no such model, or shows it to nobody without a token.
    #[error("{hub} has no model {id}")]
    NotFound { hub: String, id: String },
    /// Caller: a token is missing or not enough.
    #[error("{hub} does not give {id} to this caller (status {status})")]
    Denied { hub: String, id: String, status: u16 },
    /// Caller: the model has no files that are read here.
    #[error("{id}: {problem}")]
    Files { id: String, problem: String },
    /// The hub or the network.
    #[error("{url}: {problem}")]
    Network { url: String, problem: String },
    /// Operator: the file of trusted certificates.
    #[error("SSL_CERT_FILE {path}: {why}")]
    Certificates { path: PathBuf, why: String },
    /// The hub: other bytes came than it announced.
    #[error("{file}: its {kind} is {found}, the hub announced {expected}")]
    WrongHash { file: String, kind: &'static str, found: String, expected: String },
    /// The hub: the connection ended before the file did, again and again.
    #[error("{file}: {got} of {expected} bytes came")]
    Truncated { file: String, got: u64, expected: u64 },
    /// Operator: nothing may be fetched, and it is not here.
    #[error("{id} is not in {cache}, and HF_HUB_OFFLINE is set")]
    Offline { id: String, cache: PathBuf },
    /// Operator: the cache's disk.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("it was ended: {0}")]
    Stopped(#[from] Stop),
}

impl HubError {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| HubError::File { operation, path, source }
    }
}

//! Fetches models from a hub that speaks Hugging Face's protocol, into the cache that its own tools share.
//!
//! [`pull`]: a [`Reference`] is looked up ([`http`]), the files that a model needs are chosen from the hub's list
//! ([`choose`]), each is fetched, resumed where it broke off, and held to its hash ([`fetch`]), and stands in the cache
//! as blobs, snapshots and refs ([`cache`]). [`agent`] is the client under all of it. What cannot be verified is not kept, pickles are never fetched. This crate
//! knows no models' insides and no store.

#![forbid(unsafe_code)]

pub mod agent;
mod cache;
mod choose;
mod error;
mod fetch;
mod http;
mod reference;
mod settings;

pub use error::HubError;
pub use reference::Reference;
pub use settings::Settings;

use cache::Cache;
use choose::Chosen;
use http::Http;
use lyceum_types::control::Control;
use std::path::PathBuf;

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    pub file: &'a str,
    /// Bytes of all files so far, those that were there before included.
    pub done: u64,
    pub whole: u64,
}

/// A model's files on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The GGUF file, or the folder in Hugging Face's layout.
    pub path: PathBuf,
    /// The hub's revision.
    pub commit: String,
    /// The one weight file that was chosen of several.
    pub file: Option<String>,
    /// As the hub tags the model.
    pub licence: Option<String>,
    /// Bytes that came over the network.
    pub bytes_fetched: u64,
}

/// A file of a hub's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// With `/` between folders.
    pub name: String,
    pub bytes: Option<u64>,
    /// The sha256 of a large file.
    pub sha256: Option<String>,
    /// git's hash of a small one.
    pub blob: Option<String>,
}

/// Fetches what is not in the cache yet. Blocks.
///
/// # Errors
/// The hub does not have it, does not allow it, or gives other bytes than it announces.
pub fn pull(
    reference: &Reference,
    settings: &Settings,
    control: &Control,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Pulled, HubError> {
    let cache = Cache::new(&settings.cache, reference);
    if settings.offline {
        return offline(reference, &cache);
    }
    let http = Http::new(settings)?;
    let repository = fetch::repository(&http, reference)?;
    let chosen = choose::choose(reference, &repository.files)?;
    let files = chosen.files();
    let whole = files.iter().map(|file| file.bytes.unwrap_or(0)).sum();
    let (mut done, mut bytes_fetched) = (0, 0);
    for file in files {
        let mut report = |n: u64| progress(Progress { file: &file.name, done: done + n, whole });
        report(0);
        let got = fetch::file(&http, &cache, &repository, file, control, &mut report)?;
        done += got.bytes;
        bytes_fetched += got.bytes_fetched;
    }
    cache.remember("main", &repository.commit)?;
    Ok(pulled(chosen, &cache, repository.commit, repository.licence, bytes_fetched))
}

/// What an earlier pull left.
fn offline(reference: &Reference, cache: &Cache) -> Result<Pulled, HubError> {
    let (commit, files) = cache.snapshot("main")?;
    let chosen = choose::choose(reference, &files)?;
    Ok(pulled(chosen, cache, commit, None, 0))
}

fn pulled(
    chosen: Chosen<'_>,
    cache: &Cache,
    commit: String,
    licence: Option<String>,
    bytes_fetched: u64,
) -> Pulled {
    let (path, file) = match chosen {
        Chosen::Gguf(file) => (cache.pointer(&commit, &file.name), Some(file.name.clone())),
        Chosen::Folder(_) => (cache.folder(&commit), None),
    };
    Pulled { path, commit, file, licence, bytes_fetched }
}

//! Whether the object store still holds what the rows say it does.

use super::{Blobs, hex, rows};
use crate::backup::Content;
use crate::{Store, StoreError};
use futures_util::TryStreamExt;
use object_store::ObjectStoreExt;
use sha2::{Digest, Sha256};
use std::collections::HashMap;

const GONE: &str = "it is not there";

/// How closely objects are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// They are there, in their lengths.
    Lengths,
    /// Their bytes are read and hashed.
    Bytes,
}

/// An object that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// As the object store is called, with the object's name.
    pub object: String,
    /// One of those that it belongs to: a path below the data folder.
    pub path: String,
    pub why: String,
}

/// What was looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Objects that rows refer to; equal bytes are one.
    pub n_objects: u64,
    pub bytes: u64,
    /// In the order of their paths.
    pub damaged: Vec<Damaged>,
}

/// Looks at every object that a row holds; what is still on its way is not looked at.
///
/// # Errors
/// No object store; it fails.
pub async fn compare(store: &Store, depth: Depth) -> Result<Compared, StoreError> {
    let Some(blobs) = store.blobs() else { return Err(StoreError::NoObjects { path: "sha256".into() }) };
    let held = rows::held(store).await?;
    let mut compared = Compared { n_objects: held.len() as u64, ..Compared::default() };
    let lengths = blobs.lengths().await?;
    for (path, content) in held {
        compared.bytes += content.bytes;
        let key = blobs.key(&content.sha256);
        let why = match (lengths.get(&content.sha256), depth) {
            (None, _) => Some(GONE.to_owned()),
            (Some(length), _) if *length != content.bytes => {
                Some(format!("it has {length} bytes, {} were written", content.bytes))
            }
            (Some(_), Depth::Lengths) => None,
            (Some(_), Depth::Bytes) => match blobs.hash(&content).await? {
                None => Some(GONE.to_owned()),
                Some(found) => {
                    (found != content.sha256).then(|| format!("the sha256 of its bytes is {found}"))
                }
            },
        };
        // It may have been deleted, row and object, since the rows were read.
        if why.as_deref() == Some(GONE) && !rows::is_held(store, &content.sha256).await? {
            continue;
        }
        if let Some(why) = why {
            let object = blobs.named(&key).display().to_string();
            compared.damaged.push(Damaged { object, path, why });
        }
    }
    Ok(compared)
}

impl Blobs {
    /// The length of every object, by its hash.
    async fn lengths(&self) -> Result<HashMap<String, u64>, StoreError> {
        let below = self.prefix.clone().join("sha256");
        let listed = self.objects.list(Some(&below));
        let named =
            listed.map_ok(|object| (object.location.filename().unwrap_or("").to_owned(), object.size));
        named.try_collect().await.map_err(|e| self.failed("list", &below, e))
    }

    /// The hash of an object's bytes; None where there is no such object.
    async fn hash(&self, content: &Content) -> Result<Option<String>, StoreError> {
        let key = self.key(&content.sha256);
        let hashed = async {
            let mut parts = self.objects.get(&key).await?.into_stream();
            let mut hash = Sha256::new();
            while let Some(part) = parts.try_next().await? {
                hash.update(&part);
            }
            Ok(hex(&hash.finalize()))
        };
        match hashed.await {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            hashed => hashed.map(Some).map_err(|e| self.failed("read", &key, e)),
        }
    }
}

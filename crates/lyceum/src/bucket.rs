//! What a training does so that it outlives its machine: its checkpoints and log go to the object store as it works, and its
//! lease is renewed while it has nothing to report.
//!
//! Training waits for neither. The newest checkpoint is brought when the one before it is there, so a slow object store
//! is behind, never in the way; when training has ended, whatever is kept is brought before the job ends.

use crate::failure::Failure;
use crate::training::JobObserver;
use lyceum_store::jobs::{self, Claim, kept};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError, vault};
use lyceum_train::checkpoint;
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Brings what an observer tells of from now on, and all that is kept when it is closed.
pub fn bring(store: &Store, claim: &Arc<Claim>, observer: &mut JobObserver) -> JoinHandle<()> {
    let (sender, told) = watch::channel(None);
    observer.tell_kept(sender);
    tokio::spawn(work(store.clone(), claim.clone(), told))
}

/// Waits until all is there.
pub async fn brought(bringing: Option<JoinHandle<()>>) -> Result<(), Failure> {
    let Some(bringing) = bringing else { return Ok(()) };
    bringing.await.map_err(|error| Failure::internal("bringing checkpoints broke off", &error))
}

async fn work(store: Store, claim: Arc<Claim>, mut told: watch::Receiver<Option<KeyedPath>>) {
    if store.blobs().is_none() {
        return;
    }
    loop {
        let is_over = told.changed().await.is_err();
        told.borrow_and_update();
        let brought = bring_now(&store, &claim).await;
        match brought {
            Ok(()) | Err(StoreError::Fenced { .. }) => {}
            Err(error) => {
                tracing::warn!(%error, job = %claim.id(), "what a job keeps is on this machine alone")
            }
        }
        if is_over {
            return;
        }
    }
}

async fn bring_now(store: &Store, claim: &Claim) -> Result<(), StoreError> {
    let folder = vault::job_folder(store, &claim.project, claim.id())?.join("checkpoints");
    let list = || -> Vec<String> {
        // What cannot be listed is told by training, which lists it too.
        let found = checkpoint::list(&folder).unwrap_or_default();
        found.iter().filter_map(|path| Some(path.path().file_name()?.to_str()?.to_owned())).collect()
    };
    loop {
        let names = list();
        match kept::keep(store, claim, &names, Timestamp::now()).await {
            // Training removes old ones without asking.
            Err(StoreError::File { .. }) if list() != names => {}
            done => return done,
        }
    }
}

/// Renews a claim's lease until it is dropped.
pub struct Lease(JoinHandle<()>);

impl Lease {
    pub fn hold(store: &Store, claim: &Arc<Claim>) -> Self {
        let (store, claim) = (store.clone(), claim.clone());
        Lease(tokio::spawn(async move {
            loop {
                tokio::time::sleep(limits::JOB_LEASE / 3).await;
                match jobs::renew(&store, &claim, Timestamp::now()).await {
                    Ok(()) => {}
                    // Ended, or another's: the next report says so.
                    Err(StoreError::Fenced { .. }) => return,
                    Err(error) => tracing::warn!(%error, job = %claim.id(), "a lease was not renewed"),
                }
            }
        }))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! What a training does so that it outlives its machine: its checkpoints and log go to the object store as it works, and its
//! lease is renewed while it has nothing to report.
//!
//! Training waits for neither. The newest checkpoint is brought when the one before it is there, so a slow object store
//! is behind, never in the way. When training has come to its end, or pauses to go on elsewhere, whatever is kept is brought before
//! the job ends: for so long, and no longer than nobody interrupts it. Ctrl-C's training waits too, for less, and says so. What was
//! cancelled or failed waits for nothing.

use crate::training::{JobObserver, Wish, is_stop};
use lyceum_store::jobs::{self, Claim, kept};
use lyceum_store::vault::KeyedPath;
use lyceum_store::{Store, StoreError, vault};
use lyceum_train::{TrainError, checkpoint};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::limits;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a job that is done, or pauses, waits for the object store.
const BROUGHT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a training that Ctrl-C stopped does, whose next Ctrl-C ends it at once.
const INTERRUPTED_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at Ctrl-C.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks at whether the job is to be cancelled.
const ROW_LOOK: Duration = Duration::from_secs(1);

/// Brings what an observer tells of from now on, and all that is kept when it is closed.
pub fn bring(store: &Store, claim: &Arc<Claim>, observer: &mut JobObserver) -> JoinHandle<()> {
    let (sender, told) = watch::channel(None);
    observer.tell_kept(sender);
    tokio::spawn(work(store.clone(), claim.clone(), told))
}

/// How a training ended, as far as its checkpoints are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    /// It goes on later, perhaps on another machine.
    Paused,
    /// By Ctrl-C: somebody may resume it, perhaps without its folder.
    Interrupted,
    /// Cancelled or failed.
    Otherwise,
}

impl Ended {
    pub fn of<T>(result: &Result<T, TrainError>, wish: Wish) -> Self {
        result.as_ref().err().map_or(Ended::Done, |error| Ended::of_error(error, wish))
    }

    pub fn of_error(error: &TrainError, wish: Wish) -> Self {
        match wish {
            _ if !is_stop(error) => Ended::Otherwise,
            Wish::Pause => Ended::Paused,
            Wish::Interrupt => Ended::Interrupted,
            Wish::End => Ended::Otherwise,
        }
    }

    /// How long whatever is kept may take.
    fn timeout(self) -> Duration {
        match self {
            Ended::Done | Ended::Paused => BROUGHT_TIMEOUT,
            Ended::Interrupted => INTERRUPTED_TIMEOUT,
            Ended::Otherwise => Duration::ZERO,
        }
    }
}

/// Waits until all is there, where somebody will ask for it. What the object store does not take in time, and a fault of the
/// bringing itself, is told in the log and keeps no job from its end.
pub async fn brought(
    bringing: Option<JoinHandle<()>>,
    ended: Ended,
    (store, claim, control): (&Store, &Claim, &Control),
) {
    let cancelled = async {
        // What cannot be asked for now is asked for again.
        while !jobs::find(store, &claim.project, claim.id()).await.is_ok_and(|job| job.cancel_requested) {
            tokio::time::sleep(ROW_LOOK).await;
        }
    };
    let is_behind = bringing.as_ref().is_some_and(|bringing| !bringing.is_finished());
    if ended == Ended::Interrupted && is_behind && store.blobs().is_some() {
        let seconds = ended.timeout().as_secs();
        eprintln!(
            "bringing the newest checkpoint to the object store, for {seconds} s at most; Ctrl-C ends at once"
        );
    }
    brought_within(bringing, ended, (control, ended.timeout()), cancelled).await;
}

async fn brought_within(
    bringing: Option<JoinHandle<()>>,
    ended: Ended,
    (control, timeout): (&Control, Duration),
    cancelled: impl Future<Output = ()>,
) {
    let Some(mut bringing) = bringing else { return };
    let interrupted = async {
        // A pause is itself an interruption of the training, and the next Ctrl-C is the end of the process.
        while matches!(ended, Ended::Paused | Ended::Interrupted) || control.check().is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let (waits, for_how_long) = (ended != Ended::Otherwise, tokio::time::sleep(timeout));
    tokio::select! {
        biased;
        brought = &mut bringing, if waits => {
            if let Err(error) = brought {
                tracing::warn!(%error, "bringing checkpoints broke off");
            }
            return;
        }
        () = interrupted, if waits => tracing::warn!("interrupted: newest checkpoints are on this machine alone"),
        () = cancelled, if waits => tracing::warn!("cancelled: newest checkpoints are on this machine alone"),
        () = for_how_long, if waits => {
            tracing::warn!(?timeout, "the object store is too slow: newest checkpoints are on this machine alone");
        }
        else => {}
    }
    bringing.abort();
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

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_types::control::Stop;

    fn never() -> Option<JoinHandle<()>> {
        Some(tokio::spawn(std::future::pending()))
    }

    async fn within(bringing: Option<JoinHandle<()>>, ended: Ended, limits: (&Control, Duration)) {
        brought_within(bringing, ended, limits, std::future::pending()).await;
    }

    #[tokio::test]
    async fn a_job_waits_for_the_object_store_no_longer_than_it_must() {
        let (control, long) = (Control::new(), Duration::from_secs(3600));
        within(never(), Ended::Otherwise, (&control, long)).await;
        within(never(), Ended::Done, (&control, Duration::ZERO)).await;
        within(None, Ended::Done, (&control, long)).await;
        brought_within(never(), Ended::Done, (&control, long), std::future::ready(())).await;
        // A bringing that breaks is no reason to lose the job's end.
        let broken = tokio::spawn(async { panic!("of a test") });
        within(Some(broken), Ended::Done, (&control, long)).await;
        control.cancel();
        within(never(), Ended::Done, (&control, long)).await;
        // A pause cancels the training, as Ctrl-C does, and waits all the same.
        for ended in [Ended::Paused, Ended::Interrupted] {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let short = async move {
                tokio::time::sleep(LOOK * 2).await;
                sender.send(()).ok();
            };
            within(Some(tokio::spawn(short)), ended, (&control, long)).await;
            receiver.await.expect("it came to its end");
            within(never(), ended, (&control, Duration::ZERO)).await;
        }
    }

    #[test]
    fn a_stop_is_what_somebody_meant_by_it_and_a_failure_is_none() {
        let stopped = || Err::<(), _>(TrainError::Stopped { step: 1, stop: Stop::Cancelled });
        assert_eq!(Ended::of(&stopped(), Wish::Pause), Ended::Paused);
        assert_eq!(Ended::of(&stopped(), Wish::Interrupt), Ended::Interrupted);
        assert_eq!(Ended::of(&stopped(), Wish::End), Ended::Otherwise);
        let failed = Err::<(), _>(TrainError::Privacy("no".into()));
        assert_eq!(Ended::of(&failed, Wish::Pause), Ended::Otherwise);
        assert_eq!(Ended::of(&failed, Wish::Interrupt), Ended::Otherwise);
        assert_eq!(Ended::of(&Ok(()), Wish::Interrupt), Ended::Done);
    }
}

//! An import or a pull that goes on by itself and is watched by whoever asked: dropped, it ends, and nothing half-written
//! stays.

use super::Brought;
use crate::ServiceError;
use lyceum_types::control::Control;
use lyceum_types::limits;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What it does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Another import has its turn.
    Waiting,
    /// The hub is asked for a file.
    Fetching {
        file: String,
        /// Bytes of all files that are here, and that there are.
        completed: u64,
        total: u64,
    },
    /// The files are copied, hashed and opened.
    Importing,
}

/// What comes next of it.
pub enum Next {
    Stage(Stage),
    Ended(Box<Result<Brought, ServiceError>>),
}

/// Work that somebody waits for.
pub struct Underway {
    stages: watch::Receiver<Stage>,
    work: JoinHandle<Result<Brought, ServiceError>>,
    control: Control,
}

impl Underway {
    /// Begins `work`, which says its stages and ends where the control says so.
    pub(super) fn begin<W>(work: impl FnOnce(watch::Sender<Stage>, Control) -> W) -> Self
    where
        W: Future<Output = Result<Brought, ServiceError>> + Send + 'static,
    {
        let (say, stages) = watch::channel(Stage::Waiting);
        let control = Control::new();
        let work = tokio::spawn(work(say, control.clone()));
        Self { stages, work, control }
    }

    /// The next stage, at most one every [`limits::IMPORT_TOLD_EVERY`], or the end, behind which nothing comes.
    pub async fn next(&mut self) -> Next {
        let ended = |done: Result<_, tokio::task::JoinError>| {
            let done = done.map_err(|error| ServiceError::internal("an import broke off", error));
            Next::Ended(Box::new(done.and_then(|done| done)))
        };
        tokio::select! {
            biased;
            done = &mut self.work => ended(done),
            Ok(()) = self.stages.changed() => {
                tokio::select! {
                    done = &mut self.work => return ended(done),
                    () = tokio::time::sleep(limits::IMPORT_TOLD_EVERY) => {}
                }
                Next::Stage(self.stages.borrow_and_update().clone())
            }
        }
    }

    /// Its end alone.
    pub async fn end(mut self) -> Result<Brought, ServiceError> {
        loop {
            if let Next::Ended(done) = self.next().await {
                return *done;
            }
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.control.cancel();
    }
}

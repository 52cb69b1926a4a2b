//! Finished runs, remembered by the server that made them: bounded, in memory, gone with the process.

use super::{Gate, Run};
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// A finished run under its id.
#[derive(Clone, Debug)]
pub struct Stored {
    pub id: String,
    /// Seconds since 1970.
    pub created: i64,
    pub run: Arc<Run>,
    pub gate: Option<Gate>,
}

/// The newest runs of all projects; and the place for the one that may be under way.
pub struct Runs {
    finished: Mutex<VecDeque<(Project, Stored)>>,
    pub place: Semaphore,
}

impl Default for Runs {
    fn default() -> Self {
        Runs { finished: Mutex::default(), place: Semaphore::new(1) }
    }
}

impl Runs {
    pub fn keep(&self, project: &Project, stored: Stored) {
        let mut finished = self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        finished.push_front((project.clone(), stored));
        finished.truncate(limits::ROBUSTNESS_RUNS_KEPT);
    }

    /// The project's runs, the newest first.
    pub fn list(&self, project: &Project) -> Vec<Stored> {
        let finished = self.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        finished.iter().filter(|(own, _)| own == project).map(|(_, stored)| stored.clone()).collect()
    }

    pub fn find(&self, project: &Project, id: &str) -> Option<Stored> {
        self.list(project).into_iter().find(|stored| stored.id == id)
    }
}

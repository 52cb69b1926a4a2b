//! The newest explanations by id, in memory: they hold words of inputs, and nothing of a request is written to
//! disk unasked.

use super::Explained;
use lyceum_types::ids::Project;
use lyceum_types::limits;
use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

#[derive(Default)]
pub struct Kept {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: HashMap<String, (Project, Explained)>,
    order: VecDeque<String>,
}

impl Kept {
    pub(super) fn keep(&self, project: &Project, explained: Explained) {
        let mut inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if inner.order.len() >= limits::EXPLANATIONS_KEPT_MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.by_id.remove(&oldest);
        }
        inner.order.push_back(explained.id.clone());
        inner.by_id.insert(explained.id.clone(), (project.clone(), explained));
    }

    pub(super) fn find(&self, project: &Project, id: &str) -> Option<Explained> {
        let inner = self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (owner, explained) = inner.by_id.get(id)?;
        (owner == project).then(|| explained.clone())
    }
}

//! Places for sequences: a bounded number that wait or run. A place is taken before anything is done for a request
//! and comes back when its sequence ends, however it ends.
//!
//! Nobody shuts the others out at the door: work of the batch class has at most half of all places, and the last
//! eighth is for tenants that hold none yet.

use crate::EngineError;
use crate::generate::{Priority, Tenant};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

pub(crate) struct Door {
    n_max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    batch: usize,
    /// Of tenants that hold any.
    of: HashMap<Tenant, usize>,
}

impl Door {
    pub(crate) fn new(n_max: usize) -> Arc<Door> {
        Arc::new(Door { n_max, held: Mutex::default() })
    }

    /// Places that are held.
    pub(crate) fn n_held(&self) -> usize {
        self.held().all
    }

    /// Takes `n` places, or none.
    pub(crate) fn take(
        self: &Arc<Self>,
        tenant: Tenant,
        priority: Priority,
        n: usize,
    ) -> Result<Places, EngineError> {
        let mut held = self.held();
        let refused = |what, limit| Err(EngineError::Overloaded { what, limit });
        let kept = if held.of.contains_key(&tenant) { self.n_max / 8 } else { 0 };
        if held.all + n > self.n_max - kept {
            return refused("sequences", self.n_max - kept);
        }
        let batch_max = self.n_max.div_ceil(2);
        if priority == Priority::Batch && held.batch + n > batch_max {
            return refused("sequences of the batch class", batch_max);
        }
        held.add(tenant, priority, n);
        Ok(Places { door: self.clone(), tenant, priority, n })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Held {
    fn add(&mut self, tenant: Tenant, priority: Priority, n: usize) {
        self.all += n;
        if priority == Priority::Batch {
            self.batch += n;
        }
        if n > 0 {
            *self.of.entry(tenant).or_default() += n;
        }
    }

    fn remove(&mut self, tenant: Tenant, priority: Priority, n: usize) {
        self.all -= n;
        if priority == Priority::Batch {
            self.batch -= n;
        }
        if let Some(of_tenant) = self.of.get_mut(&tenant) {
            *of_tenant -= n;
            if *of_tenant == 0 {
                self.of.remove(&tenant);
            }
        }
    }
}

/// Places of one request; those that it still has when it is dropped come back.
pub struct Places {
    door: Arc<Door>,
    tenant: Tenant,
    priority: Priority,
    n: usize,
}

impl Places {
    pub fn tenant(&self) -> Tenant {
        self.tenant
    }

    pub fn priority(&self) -> Priority {
        self.priority
    }

    /// One of them, for a sequence.
    pub(crate) fn split(&mut self) -> Option<Places> {
        self.n = self.n.checked_sub(1)?;
        Some(Places { door: self.door.clone(), n: 1, ..*self })
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if self.n > 0 {
            self.door.held().remove(self.tenant, self.priority, self.n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERACTIVE: Priority = Priority::Interactive;

    #[test]
    fn places_come_back_when_the_last_that_holds_one_is_gone() {
        let door = Door::new(4);
        let mut places = door.take(Tenant(1), INTERACTIVE, 3).ok().unwrap();
        let (one, two) = (places.split().unwrap(), places.split().unwrap());
        assert_eq!(door.n_held(), 3);
        drop(places);
        assert_eq!(door.n_held(), 2);
        assert!(door.take(Tenant(1), INTERACTIVE, 3).is_err(), "all or none");
        drop((one, two));
        assert_eq!((door.n_held(), door.held().of.len()), (0, 0));
        let mut all = door.take(Tenant(1), INTERACTIVE, 1).ok().unwrap();
        let _one = all.split().unwrap();
        assert!(all.split().is_none());
    }

    #[test]
    fn a_tenant_that_takes_all_it_can_leaves_room_for_the_others() {
        let door = Door::new(16);
        let take = |tenant| door.take(Tenant(tenant), INTERACTIVE, 1);
        let first: Vec<Places> = (0..20).map_while(|_| take(1).ok()).collect();
        assert_eq!(first.len(), 14, "the last eighth is not for it");
        let second = (take(2).ok().unwrap(), take(3).ok().unwrap());
        let refused = take(4).err().unwrap();
        assert_eq!(refused, EngineError::Overloaded { what: "sequences", limit: 16 });
        drop(second.0);
        assert!(take(3).is_err() && take(2).is_ok(), "one that holds a place waits for one that holds none");
    }

    #[test]
    fn batch_work_leaves_half_of_the_places() {
        let door = Door::new(4);
        let batch: Vec<Places> =
            (0..4).map_while(|tenant| door.take(Tenant(tenant), Priority::Batch, 1).ok()).collect();
        assert_eq!(batch.len(), 2);
        assert!(door.take(Tenant(9), INTERACTIVE, 2).is_ok());
        drop(batch);
        assert!(door.take(Tenant(9), Priority::Batch, 2).is_ok());
    }
}

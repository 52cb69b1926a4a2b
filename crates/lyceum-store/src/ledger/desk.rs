//! What a process knows of its requests and its money: pure, so that it is simulated (no clock, no disk, no thread).
//!
//! A purse is what a budget's window granted this process. A request holds its worst cost in each purse that covers it
//! ([`Desk::open`]); settling shrinks the hold to the cost ([`Desk::settle`]); the commit of its entry takes the cost out
//! of the purse, as the same transaction takes it out of the reservation ([`Desk::committed`]). So
//! `held ≤ granted ≤ what the database reserved for this process`, always.

use super::budgets::WindowKey;
use super::{Counts, Entry, Outcome, Rates, Request};
use lyceum_types::clock::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// An amount that a request holds in a purse: its worst cost while it runs, its cost when it is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub window: WindowKey,
    pub amount: i64,
}

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub request: Request,
    /// Version of its price; 0: there was none.
    pub price: i64,
    pub rates: Rates,
    pub holds: Vec<Hold>,
    /// What was last noted of it in the spool.
    pub noted: Counts,
}

impl Open {
    /// Its row, had it ended like this.
    pub fn entry(&self, outcome: Outcome, counts: Counts, now: Timestamp) -> Entry {
        let cost = if outcome == Outcome::Failed { 0 } else { self.rates.cost(&counts) };
        Entry { request: self.request.clone(), outcome, counts, price: self.price, cost, settled_at: now }
    }
}

/// An entry that is to be written, and what its request still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub entry: Entry,
    pub holds: Vec<Hold>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    pub granted: i64,
    pub held: i64,
}

impl Purse {
    pub fn free(self) -> i64 {
        self.granted - self.held
    }
}

/// Why a request cannot begin yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// This purse has too little for it.
    Window(WindowKey),
    /// As many entries wait to be written as may.
    Backlog,
}

/// Sums since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub entries: u64,
    /// What the committed entries count.
    pub counts: Counts,
    pub cost: i64,
    /// Entries that cost more than their request held: faults of ours.
    pub n_over: u64,
}

#[derive(Debug, Default)]
pub struct Desk {
    purses: HashMap<WindowKey, Purse>,
    open: BTreeMap<String, Open>,
    pending: VecDeque<Settlement>,
    totals: Totals,
    pending_max: usize,
}

impl Desk {
    pub fn new(pending_max: usize) -> Self {
        Desk { pending_max, ..Desk::default() }
    }

    /// Begins a request that holds `worst` in each of these windows, or in none.
    ///
    /// # Errors
    /// The first purse that has too little; too many entries wait.
    pub fn open(
        &mut self,
        request: Request,
        (price, rates): (i64, Rates),
        windows: &[WindowKey],
        worst: i64,
    ) -> Result<&Open, Lacking> {
        if self.pending.len() >= self.pending_max {
            return Err(Lacking::Backlog);
        }
        let free = |key: &WindowKey| self.purses.get(key).map_or(0, |purse| purse.free());
        if let Some(lacking) = windows.iter().find(|&key| free(key) < worst) {
            return Err(Lacking::Window(lacking.clone()));
        }
        for key in windows {
            self.purses.entry(key.clone()).or_default().held += worst;
        }
        let holds = windows.iter().map(|window| Hold { window: window.clone(), amount: worst }).collect();
        let id = request.id.clone();
        let open = Open { request, price, rates, holds, noted: Counts::default() };
        assert!(!self.open.contains_key(&id), "request ids are unique: bug");
        Ok(self.open.entry(id).or_insert(open))
    }

    /// Lets an open request hold `worst` where it held less.
    ///
    /// # Errors
    /// The first purse that has too little for the rest.
    pub fn extend(&mut self, id: &str, worst: i64) -> Result<(), Lacking> {
        let Some(open) = self.open.get_mut(id) else { return Ok(()) };
        for hold in &open.holds {
            let free = self.purses.get(&hold.window).map_or(0, |purse| purse.free());
            if free < worst - hold.amount {
                return Err(Lacking::Window(hold.window.clone()));
            }
        }
        for hold in open.holds.iter_mut().filter(|hold| hold.amount < worst) {
            if let Some(purse) = self.purses.get_mut(&hold.window) {
                purse.held += worst - hold.amount;
            }
            hold.amount = worst;
        }
        Ok(())
    }

    /// A request that did nothing and is not told of: what it held is free again.
    pub fn forget(&mut self, id: &str) {
        let Some(open) = self.open.remove(id) else { return };
        open.holds.iter().for_each(|hold| self.unhold(hold));
    }

    /// Notes what was done so far.
    pub fn note(&mut self, id: &str, counts: Counts) {
        if let Some(open) = self.open.get_mut(id) {
            open.noted = counts;
        }
    }

    /// What a request will be in the ledger; it stays open until [`Desk::settle`].
    pub fn look(&self, id: &str) -> Option<&Open> {
        self.open.get(id)
    }

    /// Ends a request. None: it is not open, so it was settled before.
    pub fn settle(&mut self, id: &str, outcome: Outcome, counts: Counts, now: Timestamp) -> Option<&Entry> {
        let open = self.open.remove(id)?;
        let entry = open.entry(outcome, counts, now);
        let mut holds = open.holds;
        let mut is_over = false;
        for hold in &mut holds {
            is_over |= entry.cost > hold.amount;
            let cost = entry.cost.min(hold.amount);
            if let Some(purse) = self.purses.get_mut(&hold.window) {
                purse.held -= hold.amount - cost;
            }
            hold.amount = cost;
        }
        self.totals.n_over += u64::from(is_over);
        self.pending.push_back(Settlement { entry, holds });
        self.pending.back().map(|settlement| &settlement.entry)
    }

    /// The oldest entries that are not written, at most `max`.
    pub fn batch(&self, max: usize) -> Vec<Settlement> {
        self.pending.iter().take(max).cloned().collect()
    }

    /// The first `n` entries are in the ledger.
    pub fn committed(&mut self, n: usize) {
        for settlement in self.pending.drain(..n) {
            for hold in settlement.holds {
                if let Some(purse) = self.purses.get_mut(&hold.window) {
                    purse.held -= hold.amount;
                    purse.granted -= hold.amount;
                }
            }
            self.totals.entries += 1;
            self.totals.counts += settlement.entry.counts;
            self.totals.cost = self.totals.cost.saturating_add(settlement.entry.cost);
        }
    }

    /// The database has reserved so much more for this process.
    pub fn granted(&mut self, window: &WindowKey, amount: i64) {
        self.purses.entry(window.clone()).or_default().granted += amount;
    }

    /// Takes what nobody holds out of the purses that `which` names, to be given back.
    pub fn give_back(&mut self, which: impl Fn(&WindowKey) -> bool) -> Vec<(WindowKey, i64)> {
        let mut free = Vec::new();
        for (key, purse) in self.purses.iter_mut().filter(|(key, _)| which(key)) {
            if purse.free() > 0 {
                free.push((key.clone(), purse.free()));
                purse.granted = purse.held;
            }
        }
        self.purses.retain(|_, purse| *purse != Purse::default());
        free
    }

    /// Budgets that are gone leave no purse; what requests hold of them counts nowhere.
    pub fn keep_purses(&mut self, lives: impl Fn(&WindowKey) -> bool) {
        self.purses.retain(|key, _| lives(key));
        let holds = self.open.values_mut().map(|open| &mut open.holds);
        holds
            .chain(self.pending.iter_mut().map(|s| &mut s.holds))
            .for_each(|h| h.retain(|h| lives(&h.window)));
    }

    pub fn purses(&self) -> &HashMap<WindowKey, Purse> {
        &self.purses
    }

    pub fn open_requests(&self) -> impl Iterator<Item = &Open> {
        self.open.values()
    }

    pub fn n_open(&self) -> usize {
        self.open.len()
    }

    pub fn pending(&self) -> &VecDeque<Settlement> {
        &self.pending
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn unhold(&mut self, hold: &Hold) {
        if let Some(purse) = self.purses.get_mut(&hold.window) {
            purse.held -= hold.amount;
        }
    }
}

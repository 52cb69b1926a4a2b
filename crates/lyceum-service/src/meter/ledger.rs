//! One process's side of the ledger: what is at hand (prices, budgets, purses), what is under way, what waits to be
//! written. Everything here is quick; the database is only asked where a purse is empty.

use super::{Class, Guard, Outcome, Payer, Work, counts};
use crate::ServiceError;
use crate::rates::Owing;
use lyceum_engine::{Counted, Engine, Tally};
use lyceum_store::ledger::budgets::{self, Granted};
use lyceum_store::ledger::desk::{Lacking, Totals};
use lyceum_store::ledger::{
    Budget, Counts, Desk, Place, PriceList, Rates, Request, Spool, WindowKey, prices, recovery,
};
use lyceum_store::models::Version;
use lyceum_store::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::limits;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::{Notify, OnceCell};

/// The ledger of one process.
pub struct Ledger {
    pub(super) store: Store,
    engine: Engine,
    started: OnceCell<()>,
    pub(super) state: Mutex<State>,
    /// One asks the database for money at a time; the others find it in the purse.
    granting: tokio::sync::Mutex<()>,
    /// Held while a group is written: the end of a process and its writer never write the same one.
    pub(super) writing: tokio::sync::Mutex<()>,
    /// Something waits to be written.
    written_to: Arc<Notify>,
    n_forgotten: AtomicU64,
    pub(super) n_failed_commits: AtomicU64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

pub(super) struct State {
    pub desk: Desk,
    /// None before the start and after the end.
    pub spool: Option<Spool>,
    /// Work that somebody still holds.
    live: BTreeMap<String, Live>,
    /// Tokens that were made and not charged: behind a stop text, or of work that failed before its entry.
    discarded: u64,
    pub prices: Arc<PriceList>,
    pub budgets: HashMap<Place, Vec<Budget>>,
    pub last_opened: Instant,
    spool_failed: u64,
}

struct Live {
    tally: Arc<Tally>,
    /// Tokens of its entry, once it is settled.
    charged: Option<u64>,
    noted_at: Instant,
}

/// What `/metrics` tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub totals: Totals,
    pub n_open: usize,
    pub n_pending: usize,
    pub spool_bytes: u64,
    /// What the engine counted.
    pub counted: Counted,
    pub discarded_tokens: u64,
    /// Tokens that the engine counted and the ledger does not know of. Anything but 0 is a fault.
    pub delta_tokens: i64,
    /// Guards that were dropped without an end: faults.
    pub n_forgotten: u64,
    pub n_failed_commits: u64,
    pub n_failed_spool_lines: u64,
}

impl Ledger {
    pub(crate) fn new(store: Store, engine: Engine) -> Arc<Self> {
        let state = State {
            desk: Desk::new(limits::LEDGER_PENDING_MAX),
            spool: None,
            live: BTreeMap::new(),
            discarded: 0,
            prices: Arc::default(),
            budgets: HashMap::new(),
            last_opened: Instant::now(),
            spool_failed: 0,
        };
        Arc::new(Ledger {
            store,
            engine,
            started: OnceCell::new(),
            state: Mutex::new(state),
            granting: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            written_to: Arc::default(),
            n_forgotten: AtomicU64::new(0),
            n_failed_commits: AtomicU64::new(0),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Settles for processes that are gone, and begins to write. The first guard does it too; a second call does nothing.
    ///
    /// # Errors
    /// The disk or the database.
    pub async fn start(self: &Arc<Self>) -> Result<(), ServiceError> {
        let start = || async {
            let recovered = recovery::recover(&self.store, Timestamp::now()).await?;
            if recovered.processes > 0 {
                tracing::warn!(?recovered, "settled for processes that ended before their work did");
            }
            let layout = self.store.layout().clone();
            let spool = tokio::task::spawn_blocking(move || Spool::create(&layout)).await;
            let spool = spool.map_err(|error| ServiceError::internal("the spool broke off", error))??;
            self.state().spool = Some(spool);
            self.refresh().await?;
            tokio::spawn(super::writer::write(Arc::downgrade(self), self.written_to.clone()));
            Ok::<(), ServiceError>(())
        };
        self.started.get_or_try_init(start).await.map(|_| ())
    }

    /// Settles now for processes that are gone.
    ///
    /// # Errors
    /// The disk or the database.
    pub(crate) async fn settle_for_the_gone(self: &Arc<Self>) -> Result<(), ServiceError> {
        self.start().await?;
        recovery::recover(&self.store, Timestamp::now()).await?;
        Ok(())
    }

    /// Reads prices and budgets again; another process may have changed them.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let prices = Arc::new(prices::list(&self.store).await?);
        let mut all: HashMap<Place, Vec<Budget>> = HashMap::new();
        for budget in budgets::list(&self.store).await? {
            all.entry(budget.place.clone()).or_default().push(budget);
        }
        let lowered = {
            let mut state = self.state();
            let limit_of: HashMap<&str, i64> =
                all.values().flatten().map(|budget| (budget.id.as_str(), budget.limit)).collect();
            state.desk.keep_purses(|key| limit_of.contains_key(key.budget.as_str()));
            let was_lowered =
                |budget: &&Budget| limit_of.get(budget.id.as_str()).is_some_and(|&l| l < budget.limit);
            let lowered: Vec<String> =
                state.budgets.values().flatten().filter(was_lowered).map(|b| b.id.clone()).collect();
            let free = state.desk.give_back(|key| lowered.contains(&key.budget));
            state.prices = prices;
            state.budgets = all;
            free
        };
        self.give_back(lowered).await
    }

    /// Tells the database of money that no purse counts any more.
    pub(super) async fn give_back(&self, free: Vec<(WindowKey, i64)>) -> Result<(), StoreError> {
        let Some(owner) = self.state().spool.as_ref().map(|spool| spool.owner().to_owned()) else {
            return Ok(());
        };
        for (window, amount) in free {
            budgets::release(&self.store, &window, &owner, amount).await?;
        }
        Ok(())
    }

    /// Puts the worst cost of `most` aside and pins the price; the version's work begins.
    ///
    /// # Errors
    /// A budget that covers the payer has not so much left; nothing can be written down.
    pub async fn open(
        self: &Arc<Self>,
        payer: &Payer,
        version: &Version,
        most: Counts,
    ) -> Result<Guard, ServiceError> {
        let guard = self.open_unasked(payer, version, most).await?;
        crate::receipts::asked(version);
        Ok(guard)
    }

    async fn open_unasked(
        self: &Arc<Self>,
        payer: &Payer,
        version: &Version,
        most: Counts,
    ) -> Result<Guard, ServiceError> {
        let Some(bill) = &payer.bill else { return Ok(Guard::unbilled(payer)) };
        self.start().await?;
        // It was paid for before a process died that had its answer.
        let Some(id) = bill.next_id() else { return Ok(Guard::new(None)) };
        let request = Request {
            id,
            tenant: payer.project.tenant.clone(),
            project: payer.project.id.clone(),
            api_key: bill.key.as_str().to_owned(),
            model: version.name.to_string(),
            model_version: version.number,
            route: payer.route(bill),
            class: bill.class,
            started_at: Timestamp::now(),
        };
        if let Ok(work) = self.try_open(&request, &most)? {
            return Ok(opened(work));
        }
        let _turn = self.granting.lock().await;
        // Whoever had the turn before may have filled the purse: what it lacks is looked up anew, or the budget is asked for
        // more than is needed, and has nothing left where a purse has. Every budget that covers the payer may have to be
        // asked once; another request may have emptied a purse since.
        for _attempt in 0..=limits::LEDGER_GRANTS_MAX {
            match self.try_open(&request, &most)? {
                Ok(work) => return Ok(opened(work)),
                Err(lacking) => self.fill(lacking).await?,
            }
        }
        Err(ServiceError::Overloaded { retry_after: std::time::Duration::from_secs(1) })
    }

    /// A purse that has too little, and how much.
    fn try_open(
        self: &Arc<Self>,
        request: &Request,
        most: &Counts,
    ) -> Result<Result<Work, Wanting>, ServiceError> {
        let mut state = self.state();
        let State { desk, spool, live, prices, budgets, last_opened, .. } = &mut *state;
        let Some(spool) = spool else {
            return Err(ServiceError::NotReady { message: "the ledger is closed".into() });
        };
        let price = prices.find(&request.tenant, &request.project, &request.model);
        let price = price.map_or((0, Rates::default()), |price| (price.version, price.rates));
        let worst = price.1.worst(most);
        let covering: Vec<&Budget> = match worst {
            // What costs nothing needs no money.
            0 => Vec::new(),
            _ => covering(budgets, request).collect(),
        };
        let window = |budget: &&Budget| WindowKey {
            budget: budget.id.clone(),
            starts_at: budget.period.window(request.started_at).0,
        };
        let windows: Vec<WindowKey> = covering.iter().map(window).collect();
        let open = match desk.open(request.clone(), price, &windows, worst) {
            Ok(open) => open,
            Err(Lacking::Backlog) => {
                let message = "the ledger's entries cannot be written".into();
                return Err(ServiceError::NotReady { message });
            }
            Err(Lacking::Window(key)) => {
                let free = desk.purses().get(&key).map_or(0, |purse| purse.free());
                let budget = covering.into_iter().find(|budget| budget.id == key.budget);
                let budget = budget.expect("a covering budget lacks money: bug").clone();
                let started_at = request.started_at;
                return Ok(Err(Wanting { budget, key, needed: worst - free.max(0), started_at }));
            }
        };
        if let Err(error) = spool.begun(open) {
            desk.forget(&request.id);
            tracing::error!(%error, "the spool takes nothing");
            return Err(ServiceError::NotReady { message: "the ledger's spool cannot be written".into() });
        }
        *last_opened = Instant::now();
        let tally = self.engine.tally();
        live.insert(
            request.id.clone(),
            Live { tally: tally.clone(), charged: None, noted_at: Instant::now() },
        );
        let ends = Mutex::new(Some(Outcome::Cancelled));
        let (ledger, id) = (Some(self.clone()), request.id.clone());
        let (owing, a_pass_reads) = (Owing::of_request(), AtomicU64::new(1));
        Ok(Ok(Work { ledger, id, tally, owing, a_pass_reads, ends }))
    }

    /// Lets work that is open hold the worst cost of `most`.
    ///
    /// # Errors
    /// A budget that covers the payer has not so much left.
    pub(super) async fn extend(&self, id: &str, most: Counts) -> Result<(), ServiceError> {
        if self.try_extend(id, &most).is_none() {
            return Ok(());
        }
        let _turn = self.granting.lock().await;
        // As in `open`.
        for _attempt in 0..=limits::LEDGER_GRANTS_MAX {
            match self.try_extend(id, &most) {
                None => return Ok(()),
                Some(lacking) => self.fill(lacking).await?,
            }
        }
        Err(ServiceError::Overloaded { retry_after: std::time::Duration::from_secs(1) })
    }

    /// A purse that has too little for more work of an entry, and how much; None: it is held, or nothing holds it back.
    fn try_extend(&self, id: &str, most: &Counts) -> Option<Wanting> {
        let mut state = self.state();
        let State { desk, budgets, .. } = &mut *state;
        let open = desk.look(id)?;
        let (worst, started_at) = (open.rates.worst(most), open.request.started_at);
        let held = open.holds.first().map_or(0, |hold| hold.amount);
        let Err(Lacking::Window(key)) = desk.extend(id, worst) else { return None };
        let free = desk.purses().get(&key).map_or(0, |purse| purse.free());
        let needed = worst - held - free.max(0);
        // A budget that is gone holds nobody back.
        let budget = budgets.values().flatten().find(|budget| budget.id == key.budget)?.clone();
        Some(Wanting { budget, key, needed, started_at })
    }

    /// Asks the database for what a purse lacks.
    async fn fill(&self, wanting: Wanting) -> Result<(), ServiceError> {
        let Wanting { budget, key, needed, started_at } = wanting;
        let owner = self.state().spool.as_ref().map(|spool| spool.owner().to_owned()).unwrap_or_default();
        match budgets::grant(&self.store, &budget, &owner, needed, started_at).await? {
            Granted::Has(amount) => self.state().desk.granted(&key, amount),
            Granted::NoBudget => self.refresh().await?,
            Granted::Exhausted { .. } => {
                let message = exhausted(
                    &budget,
                    "this request",
                    "Ask for less (max_tokens; of an explanation max_passes)",
                );
                return Err(ServiceError::BudgetExhausted { message });
            }
        }
        Ok(())
    }

    /// Writes progress to the spool, at most every [`limits::LEDGER_NOTE_EVERY`].
    pub(super) fn note(&self, id: &str, counts: Counts) {
        let mut state = self.state();
        let State { desk, spool, live, .. } = &mut *state;
        let (Some(live), Some(spool)) = (live.get_mut(id), spool) else { return };
        if live.charged.is_some() || live.noted_at.elapsed() < limits::LEDGER_NOTE_EVERY {
            return;
        }
        live.noted_at = Instant::now();
        desk.note(id, counts);
        if let Err(error) = spool.counted(id, &counts) {
            state.spool_failed += 1;
            tracing::error!(%error, "progress was not written to the spool");
        }
    }

    /// Settles work: in the spool now, in the ledger soon.
    pub(super) fn settle(&self, id: &str, outcome: Outcome, counts: Counts) {
        let mut state = self.state();
        let State { desk, spool, live, spool_failed, .. } = &mut *state;
        // A line of a batch that breaks off is done again, or told that it was not: nobody pays for half of it.
        let is_undone = outcome == Outcome::Cancelled
            && desk.look(id).is_some_and(|open| open.request.class == Class::Batch);
        if is_undone || (outcome == Outcome::Failed && counts == Counts::default()) {
            // Nothing was done: it was refused, and is not told of.
            desk.forget(id);
            let written = spool.as_mut().map_or(Ok(()), |spool| spool.forgotten(id));
            *spool_failed += u64::from(written.is_err());
            return;
        }
        let Some(entry) = desk.settle(id, outcome, counts, Timestamp::now()) else { return };
        if let Some(live) = live.get_mut(id) {
            live.charged = Some(counts.served_tokens());
        }
        // It waits in memory too; only both failing together loses it.
        let written = spool.as_mut().map_or(Ok(()), |spool| spool.settled(entry));
        if let Err(error) = written {
            *spool_failed += 1;
            tracing::error!(%error, "a settlement was not written to the spool");
        }
        drop(state);
        self.written_to.notify_one();
    }

    /// Nobody works on it any more; `ends` says how it ended where it was not settled.
    pub(super) fn over(&self, id: &str, ends: Option<Outcome>, counted: &Counted) {
        if let Some(outcome) = ends {
            self.settle(id, outcome, counts(counted));
        }
        let mut state = self.state();
        let charged = state.live.remove(id).and_then(|live| live.charged).unwrap_or(0);
        state.discarded += counted.tokens().saturating_sub(charged);
    }

    pub(super) fn forgotten(&self, id: &str) {
        self.n_forgotten.fetch_add(1, Ordering::Relaxed);
        tracing::error!(id, "work was dropped without being settled: bug");
    }

    /// Entries that wait to be written.
    pub fn n_pending(&self) -> usize {
        self.state().desk.pending().len()
    }

    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        // The engine goes on counting while the sums are made: they are made again until it did not.
        for _ in 0..16 {
            let before = self.engine.counted();
            let known;
            {
                let state = self.state();
                let pending: u64 = state.desk.pending().iter().map(|s| s.entry.counts.served_tokens()).sum();
                let live: u64 = state
                    .live
                    .values()
                    .map(|live| live.tally.counted().tokens().saturating_sub(live.charged.unwrap_or(0)))
                    .sum();
                let totals = state.desk.totals();
                known = totals.counts.served_tokens() + pending + live + state.discarded;
                figures = Figures {
                    totals,
                    n_open: state.desk.n_open(),
                    n_pending: state.desk.pending().len(),
                    spool_bytes: state.spool.as_ref().map_or(0, Spool::bytes),
                    counted: self.engine.counted(),
                    discarded_tokens: state.discarded,
                    delta_tokens: 0,
                    n_forgotten: self.n_forgotten.load(Ordering::Relaxed),
                    n_failed_commits: self.n_failed_commits.load(Ordering::Relaxed),
                    n_failed_spool_lines: state.spool_failed,
                };
            }
            figures.delta_tokens = figures.counted.tokens() as i64 - known as i64;
            if before == figures.counted {
                break;
            }
        }
        figures
    }
}

/// OpenAI's words for a budget that does not cover what somebody asks.
pub(super) fn exhausted(budget: &Budget, what: &str, instead: &str) -> String {
    let whose = match (&budget.place.project, &budget.place.api_key) {
        (_, key) if !key.is_empty() => "this key",
        (project, _) if !project.is_empty() => "this project",
        _ => "this organization",
    };
    let period = match budget.period {
        budgets::Period::Month => "of this month",
        budgets::Period::Total => "in all",
    };
    format!(
        "You exceeded your current quota: what {whose} may spend {period} does not cover the most that {what} can cost. \
         {instead}, or have the budget raised."
    )
}

/// A purse that has too little for a request.
struct Wanting {
    budget: Budget,
    key: WindowKey,
    needed: i64,
    started_at: Timestamp,
}

/// Work with an entry of its own, which a receipt tells of.
fn opened(work: Work) -> Guard {
    crate::receipts::counted(&work.id);
    Guard::new(Some(work))
}

/// The budgets that a request counts in.
fn covering<'b>(
    budgets: &'b HashMap<Place, Vec<Budget>>,
    request: &Request,
) -> impl Iterator<Item = &'b Budget> {
    let (none, project, key) = (String::new(), &request.project, &request.api_key);
    let places = [(&none, &none), (project, &none), (project, key)].map(|(project, api_key)| Place {
        tenant: request.tenant.clone(),
        project: project.clone(),
        api_key: api_key.clone(),
    });
    places.into_iter().filter_map(|place| budgets.get(&place)).flatten()
}

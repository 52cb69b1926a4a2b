//! Who pays for what: one guard object around every piece of work that a request makes a model do.
//!
//! Before the work a [`Guard`] is opened with the most that it can be: a price is pinned, and its worst cost put aside
//! where a budget covers the payer. The engine counts what it does ([`Share`] goes wherever the work goes). The guard is
//! settled once: [`Guard::finish`] with what the answer tells, or as failed or left with what was counted when the engine
//! has let go. A client that leaves pays what was generated. A guard that is dropped without either is a bug; it is
//! settled all the same, and counted.
//!
//! [`ledger`] is the process's side of the ledger: prices and budgets at hand, the writer that gathers entries.

mod jobs;
mod ledger;
mod writer;

pub use ledger::{Figures, Ledger};
pub use lyceum_store::ledger::{Class, Counts, Outcome};

use crate::ServiceError;
use crate::rates::Owing;
use lyceum_engine::{CountPrompt, Counted, Metered, Priority, Tally};
use lyceum_store::models::Version;
use lyceum_store::tenancy::{Act, Actor};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyId, Project};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Who asks, and how the ledger calls what it asks for.
#[derive(Clone, Debug)]
pub struct Payer {
    pub project: Project,
    bill: Option<Arc<Bill>>,
    part: Part,
    /// Where what is done without a bill of its own is counted: a job pays for it.
    counted: Option<Arc<Tally>>,
    /// Beginnings that were kept are the project's own, of those that were asked for under the same number.
    apart: u64,
}

/// What of a request a piece of work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Answer,
    /// Why the answer is what it is: a row of its own among explanations.
    Explanation,
}

/// How the routes of rows end that explain another route's answer.
pub(crate) const EXPLAIN: &str = ":explain";

#[derive(Debug)]
struct Bill {
    key: KeyId,
    route: String,
    class: Class,
    request: String,
    /// Pieces of work so far: a request that is answered and explained has two.
    n: AtomicU32,
    /// Of a line of a batch.
    line: Attempt,
}

/// A line of a batch that is asked: how often before, and what of it is paid for.
#[derive(Clone, Debug, Default)]
pub struct Attempt {
    /// Each attempt has ids of its own: one that failed may have an entry, which costs nothing.
    pub number: u32,
    /// Ids of pieces of work that the ledger has settled.
    pub paid: BTreeSet<String>,
}

impl Payer {
    /// A request that came in by `route` with this key; `request` is its id, which no other has.
    pub fn of_request(project: Project, key: KeyId, route: &str, request: String) -> Self {
        let bill = Bill {
            key,
            route: route.to_owned(),
            class: Class::Interactive,
            request,
            n: AtomicU32::new(0),
            line: Attempt::default(),
        };
        Payer { project, bill: Some(Arc::new(bill)), part: Part::Answer, counted: None, apart: 0 }
    }

    /// A line of a batch; `request` is the same whenever the line is asked, in whichever process.
    pub fn of_line(project: Project, key: KeyId, route: &str, (request, line): (String, Attempt)) -> Self {
        let (route, n) = (route.to_owned(), AtomicU32::new(0));
        let bill = Bill { key, route, class: Class::Batch, request, n, line };
        Payer { project, bill: Some(Arc::new(bill)), part: Part::Answer, counted: None, apart: 0 }
    }

    /// How soon the work is wanted, where that is not for the request to say.
    pub fn priority(&self, asked: Priority) -> Priority {
        if self.is_batch() { Priority::Batch } else { asked }
    }

    /// For the part of the request that explains.
    pub(crate) fn explaining(&self) -> Self {
        Payer { part: Part::Explanation, ..self.clone() }
    }

    /// How the ledger calls the route of a piece of work.
    fn route(&self, bill: &Bill) -> String {
        match self.part {
            Part::Answer => bill.route.clone(),
            // Asked for by itself.
            Part::Explanation if bill.route == "/v1/explanations" || bill.route.ends_with(EXPLAIN) => {
                bill.route.clone()
            }
            Part::Explanation => format!("{}{EXPLAIN}", bill.route),
        }
    }

    /// For the audit log: the key that asks, or this machine's own user.
    pub(crate) fn act(&self, now: Timestamp) -> Act {
        match &self.bill {
            Some(bill) => Act { actor: Actor::ProjectKey(bill.key.clone()), now },
            None => Act::of_command_line(now),
        }
    }

    /// Whether a client asks, and not this machine's own user or a run.
    pub(crate) fn is_client(&self) -> bool {
        self.bill.is_some()
    }

    pub(crate) fn is_batch(&self) -> bool {
        self.bill.as_ref().is_some_and(|bill| bill.class == Class::Batch)
    }

    /// Work of this machine's own user, who has no key and no bill: the command line.
    pub fn local(project: &Project) -> Self {
        Payer { project: project.clone(), bill: None, part: Part::Answer, counted: None, apart: 0 }
    }

    /// Work of a job, whose bill is the job's: what is done is counted into `tally`.
    pub fn of_job(project: &Project, tally: Arc<Tally>) -> Self {
        Payer { counted: Some(tally), ..Self::local(project) }
    }

    /// The same, beginning with nothing that was kept of requests under another number: for times of answers, which are
    /// shorter where their beginning is known.
    pub fn apart(self, number: u64) -> Self {
        Payer { apart: number, ..self }
    }

    /// The key under which the engine knows whose decisions these are.
    pub(crate) fn tenant(&self) -> lyceum_engine::Tenant {
        let own = crate::generation::tenant(&self.project);
        lyceum_engine::Tenant(own.0 ^ (u128::from(self.apart) << 64))
    }
}

impl Bill {
    /// An id for the next piece of work; `None` where it is paid for.
    fn next_id(&self) -> Option<String> {
        let id = match self.n.fetch_add(1, Ordering::Relaxed) {
            0 => self.request.clone(),
            n => format!("{}.{n}", self.request),
        };
        if self.line.paid.contains(&id) {
            return None;
        }
        Some(match self.line.number {
            0 => id,
            number => format!("{id}~{number}"),
        })
    }
}

/// Work that is paid for. Exactly one of [`finish`](Self::finish), [`fail`](Self::fail) and [`leave`](Self::leave) ends
/// it.
#[must_use]
#[derive(Debug)]
pub struct Guard {
    share: Share,
    ended: bool,
}

/// Goes where the work goes: as long as one of them lives, the work is not over.
#[derive(Clone, Debug)]
pub struct Share(Option<Arc<Work>>);

#[derive(Debug)]
struct Work {
    /// None: it is counted, and whose it is pays for it elsewhere.
    ledger: Option<Arc<Ledger>>,
    id: String,
    tally: Arc<Tally>,
    /// The limits that its passes count for.
    owing: Option<Owing>,
    a_pass_reads: AtomicU64,
    /// How it ends when nobody works on it any more; None: it was settled.
    ends: Mutex<Option<Outcome>>,
}

impl Share {
    /// Nobody pays.
    pub fn none() -> Self {
        Share(None)
    }

    pub fn tally(&self) -> Option<Arc<Tally>> {
        self.0.as_ref().map(|work| work.tally.clone())
    }

    /// For a sequence; answers to one prompt read it once.
    pub(crate) fn metered(&self, prompt: CountPrompt) -> Option<Metered> {
        self.tally().map(|tally| Metered { tally, prompt })
    }

    /// Puts more aside for work whose end is not known: the worst cost of `most`.
    ///
    /// # Errors
    /// A budget that covers the payer has not so much left.
    pub(crate) async fn extend(&self, most: Counts) -> Result<(), ServiceError> {
        match self.0.as_ref().and_then(|work| Some((work.ledger.as_ref()?, &work.id))) {
            Some((ledger, id)) => ledger.extend(id, most).await,
            None => Ok(()),
        }
    }

    /// Whether anything was done so far.
    fn has_counted(&self) -> bool {
        self.0.as_ref().is_some_and(|work| counts(&work.tally.counted()) != Counts::default())
    }

    /// An input was read, outside sequences and predictions.
    pub(crate) fn add_read(&self, n: u64) {
        if let Some(work) = &self.0 {
            work.tally.add_prompt(n);
        }
    }

    /// Passes were made on the device. Each counts for the limits of tokens as what it reads, a row as one.
    pub(crate) fn add_passes(&self, n: u64) {
        if let Some(work) = &self.0 {
            work.tally.add_passes(n);
            if let Some(owing) = &work.owing {
                owing.take(n.saturating_mul(work.a_pass_reads.load(Ordering::Relaxed)));
            }
        }
    }

    /// How many tokens each further pass reads.
    pub(crate) fn each_pass_reads(&self, n_tokens: u64) {
        if let Some(work) = &self.0 {
            work.a_pass_reads.store(n_tokens.max(1), Ordering::Relaxed);
        }
    }
}

impl Drop for Work {
    /// The engine has let go: what was counted is all.
    fn drop(&mut self) {
        let ends = self.ends.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(ledger) = &self.ledger {
            ledger.over(&self.id, *ends, &self.tally.counted());
        }
    }
}

impl Guard {
    fn new(work: Option<Work>) -> Self {
        Guard { share: Share(work.map(Arc::new)), ended: false }
    }

    /// Of work that has no bill of its own.
    fn unbilled(payer: &Payer) -> Self {
        let work = payer.counted.clone().map(|tally| Work {
            ledger: None,
            id: String::new(),
            tally,
            owing: None,
            a_pass_reads: AtomicU64::new(1),
            ends: Mutex::new(None),
        });
        Guard::new(work)
    }

    pub fn share(&self) -> Share {
        self.share.clone()
    }

    /// Writes down what was done so far, in case the process ends; not oftener than is useful.
    pub fn note(&self) {
        if let Some(work) = &self.share.0
            && let Some(ledger) = &work.ledger
        {
            ledger.note(&work.id, counts(&work.tally.counted()));
        }
    }

    /// It is done, and this is what the answer says was done.
    pub fn finish(mut self, told: Counts) {
        self.ended = true;
        if let Some(work) = &self.share.0 {
            *work.ends.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = None;
            if let Some(ledger) = &work.ledger {
                ledger.settle(&work.id, Outcome::Completed, told);
            }
        }
    }

    /// It is done, and the engine's count is what the answer says.
    pub fn finish_as_counted(self) {
        let told = self.share.0.as_ref().map(|work| counts(&work.tally.counted()));
        self.finish(told.unwrap_or_default());
    }

    /// It ended through an error.
    pub fn fail(mut self, error: &ServiceError) {
        let outcome = match error {
            ServiceError::DeadlinePassed => Outcome::TimedOut,
            _ => Outcome::Failed,
        };
        self.end(outcome);
    }

    /// Whoever asked went away.
    pub fn leave(mut self) {
        self.end(Outcome::Cancelled);
    }

    fn end(&mut self, outcome: Outcome) {
        self.ended = true;
        if let Some(work) = &self.share.0 {
            *work.ends.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(outcome);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let (false, Some(work)) = (self.ended, &self.share.0)
            && let Some(ledger) = &work.ledger
        {
            ledger.forgotten(&work.id);
        }
    }
}

/// Does `work` under a guard: finished where it succeeds, failed where it does not, left where it is dropped.
pub(crate) async fn metered<T, W: Future<Output = Result<T, ServiceError>>>(
    ledger: &Arc<Ledger>,
    payer: &Payer,
    version: &Version,
    most: Counts,
    work: impl FnOnce(Share) -> W,
) -> Result<T, ServiceError> {
    let here = Here(Some(ledger.open(payer, version, most).await?));
    let done = work(here.share()).await;
    here.conclude(&done);
    done
}

/// As [`metered`], of a run that is paid for as it goes: where what was asked ends it, or a budget, what was done is
/// charged as of one that was cancelled. A fault of ours costs nothing.
pub(crate) async fn metered_as_it_goes<T, W: Future<Output = Result<T, ServiceError>>>(
    ledger: &Arc<Ledger>,
    payer: &Payer,
    version: &Version,
    most: Counts,
    work: impl FnOnce(Share) -> W,
) -> Result<T, ServiceError> {
    let here = Here(Some(ledger.open(payer, version, most).await?));
    let done = work(here.share()).await;
    let is_of_who_asks = matches!(
        &done,
        Err(ServiceError::Invalid { .. }
            | ServiceError::Unsupported { .. }
            | ServiceError::Uncomputable { .. }
            | ServiceError::BudgetExhausted { .. })
    );
    if is_of_who_asks && here.share().has_counted() {
        drop(here)
    } else {
        here.conclude(&done)
    }
    done
}

/// A guard in a future or a stream, which is dropped when its client leaves.
#[derive(Debug, Default)]
pub(crate) struct Here(pub(crate) Option<Guard>);

impl Here {
    /// Finished where the work succeeded, failed where it did not.
    fn conclude<T>(self, done: &Result<T, ServiceError>) {
        match done {
            Ok(_) => self.finish_as_counted(),
            Err(error) => self.fail(error),
        }
    }

    pub fn share(&self) -> Share {
        self.0.as_ref().map_or_else(Share::none, Guard::share)
    }

    pub fn note(&self) {
        if let Some(guard) = &self.0 {
            guard.note();
        }
    }

    pub fn finish(mut self, told: Counts) {
        if let Some(guard) = self.0.take() {
            guard.finish(told);
        }
    }

    pub fn finish_as_counted(mut self) {
        if let Some(guard) = self.0.take() {
            guard.finish_as_counted();
        }
    }

    pub fn fail(mut self, error: &ServiceError) {
        if let Some(guard) = self.0.take() {
            guard.fail(error);
        }
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            guard.leave();
        }
    }
}

fn counts(counted: &Counted) -> Counts {
    Counts {
        input_tokens: counted.prompt_tokens,
        cached_tokens: counted.cached_tokens,
        output_tokens: counted.generated_tokens,
        passes: counted.passes,
        ..Counts::default()
    }
}

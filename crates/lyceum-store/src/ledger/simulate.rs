//! The desk against a bank that fails anywhere and processes that die at any moment, from seeds.

use super::budgets::{Granted, WindowKey, take};
use super::desk::{Desk, Lacking, Open, Settlement};
use super::spool::{Line, begun, line, numbers, replay, settled};
use super::{Class, Counts, Entry, Outcome, Rates, Request};
use lyceum_types::clock::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// Sebastiano Vigna's splitmix64.
pub(super) struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What the database does, said plainly: the slow clear twin of the SQL.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bank {
    pub limits: BTreeMap<WindowKey, i64>,
    /// Spent and reserved.
    pub windows: BTreeMap<WindowKey, (i64, i64)>,
    pub reservations: BTreeMap<(WindowKey, String), i64>,
    pub entries: BTreeMap<String, Entry>,
    /// Of all entries.
    pub cost: i64,
    pub bills: BTreeMap<String, JobBill>,
}

/// A job that somebody pays for; it costs a millionth a token.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct JobBill {
    pub done: u64,
    pub is_settled: bool,
}

impl Bank {
    pub fn grant(&mut self, key: &WindowKey, owner: &str, needed: i64) -> Granted {
        let Some(limit) = self.limits.get(key) else { return Granted::NoBudget };
        let (spent, reserved) = self.windows.entry(key.clone()).or_insert((self.cost, 0));
        let left = limit - *spent - *reserved;
        let Some(amount) = take(left, needed) else { return Granted::Exhausted { left: left.max(0) } };
        *reserved += amount;
        *self.reservations.entry((key.clone(), owner.to_owned())).or_default() += amount;
        Granted::Has(amount)
    }

    pub fn commit(&mut self, owner: &str, group: &[Settlement]) {
        for Settlement { entry, holds } in group {
            if self.entries.contains_key(&entry.request.id) {
                continue;
            }
            self.entries.insert(entry.request.id.clone(), entry.clone());
            self.cost += entry.cost;
            self.windows.values_mut().for_each(|(spent, _)| *spent += entry.cost);
            holds.iter().for_each(|hold| self.release(&hold.window, owner, hold.amount));
        }
    }

    pub fn release(&mut self, key: &WindowKey, owner: &str, amount: i64) {
        let Some(has) = self.reservations.get_mut(&(key.clone(), owner.to_owned())) else { return };
        if *has >= amount {
            *has -= amount;
            self.windows.get_mut(key).unwrap().1 -= amount;
        }
    }

    /// Whether the job is made: every budget has what it can cost at most.
    pub fn make_job(&mut self, job: &str, worst: i64) -> bool {
        let before = self.clone();
        for key in self.limits.keys().cloned().collect::<Vec<_>>() {
            let (spent, reserved) = self.windows.entry(key.clone()).or_insert((self.cost, 0));
            if *spent + *reserved + worst > self.limits[&key] {
                // One transaction: nothing of it was.
                *self = before;
                return false;
            }
            *reserved += worst;
            self.reservations.insert((key, job.to_owned()), worst);
        }
        self.bills.insert(job.to_owned(), JobBill::default());
        true
    }

    pub fn note_job(&mut self, job: &str, done: u64) {
        if let Some(bill) = self.bills.get_mut(job).filter(|bill| !bill.is_settled) {
            bill.done = done;
        }
    }

    pub fn end_job(&mut self, job: &str, outcome: Outcome, done: Option<u64>, now: Timestamp) {
        if let Some(done) = done {
            self.note_job(job, done);
        }
        let Some(bill) = self.bills.get_mut(job).filter(|bill| !bill.is_settled) else { return };
        bill.is_settled = true;
        let done = bill.done;
        if done > 0 || outcome == Outcome::Completed {
            let counts = Counts { training_tokens: done, ..Counts::default() };
            let request =
                Request { id: job.to_owned(), model_version: 0, route: JOBS.into(), ..request(job) };
            let entry =
                Entry { request, outcome, counts, price: 1, cost: RATES.cost(&counts), settled_at: now };
            self.commit(job, &[Settlement { entry, holds: vec![] }]);
        }
        self.give_all_back(job);
    }

    fn give_all_back(&mut self, owner: &str) {
        let mine: Vec<(WindowKey, String)> =
            self.reservations.keys().filter(|(_, other)| other == owner).cloned().collect();
        for key in mine {
            let amount = self.reservations.remove(&key).unwrap();
            self.windows.get_mut(&key.0).unwrap().1 -= amount;
        }
    }

    pub fn recover(&mut self, owner: &str, spool: &[u8], now: Timestamp) {
        let found = replay(spool);
        let interrupted = found.open.iter().map(|open| open.entry(Outcome::Interrupted, open.noted, now));
        let all = found.settled.iter().cloned().chain(interrupted);
        let all: Vec<Settlement> = all.map(|entry| Settlement { entry, holds: vec![] }).collect();
        self.commit(owner, &all);
        self.give_all_back(owner);
    }

    fn check(&self) {
        for (key, (spent, reserved)) in &self.windows {
            assert!(spent + reserved <= self.limits[key], "the limit holds: {self:?}");
            let sum: i64 = self.reservations.iter().filter(|((k, _), _)| k == key).map(|(_, n)| n).sum();
            assert_eq!(*reserved, sum, "reserved is the sum of reservations");
            assert_eq!(*spent, self.cost, "spent is the sum of entries");
        }
    }
}

pub(super) fn request(id: &str) -> Request {
    Request {
        id: id.to_owned(),
        tenant: "default".into(),
        project: "default".into(),
        api_key: "key_1".into(),
        model: "m".into(),
        model_version: 1,
        route: "/v1/completions".into(),
        class: Class::Interactive,
        started_at: Timestamp::from_millis(5),
    }
}

pub(super) const JOBS: &str = "/v1/fine_tuning/jobs";

/// One millionth a token.
pub(super) const RATES: Rates = Rates {
    input: 1_000_000,
    cached_input: 0,
    output: 1_000_000,
    training: 1_000_000,
    training_row: 0,
    cpu_second: 0,
    pass: 0,
};

#[derive(PartialEq)]
enum Fault {
    None,
    /// Nothing was done.
    Before,
    /// It was done, and nobody was told.
    After,
}

/// One process of the simulation.
struct Process {
    owner: String,
    desk: Desk,
    spool: Vec<u8>,
}

struct World {
    rng: Rng,
    bank: Bank,
    windows: Vec<WindowKey>,
    processes: Vec<Process>,
    n_owners: u64,
    n_requests: u64,
    /// Worst cost of requests that were let in, and what was told of those that ended.
    let_in: BTreeMap<String, i64>,
    told: BTreeMap<String, Entry>,
    refused: BTreeSet<String>,
    /// What each job can cost at most, and how far it got.
    jobs: BTreeMap<String, (i64, u64)>,
    n_jobs: u64,
    faults: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let key = |budget: &str| WindowKey { budget: budget.into(), starts_at: 0 };
        let windows = vec![key("a"), key("b")];
        let mut bank = Bank::default();
        for window in &windows {
            bank.limits.insert(window.clone(), 200 + rng.below(2000) as i64);
        }
        let mut world = World {
            rng,
            bank,
            windows,
            processes: vec![],
            n_owners: 0,
            n_requests: 0,
            let_in: BTreeMap::new(),
            told: BTreeMap::new(),
            refused: BTreeSet::new(),
            jobs: BTreeMap::new(),
            n_jobs: 0,
            faults: 0,
        };
        world.start();
        world.start();
        world
    }

    fn start(&mut self) {
        self.n_owners += 1;
        let owner = format!("own_{}", self.n_owners);
        self.processes.push(Process { owner, desk: Desk::new(64), spool: Vec::new() });
    }

    fn fault(&mut self) -> Fault {
        let fault = match self.rng.below(10) {
            0 => Fault::Before,
            1 => Fault::After,
            _ => Fault::None,
        };
        self.faults += u64::from(fault != Fault::None);
        fault
    }

    fn step(&mut self) {
        let i = self.rng.below(self.processes.len() as u64) as usize;
        match self.rng.below(19) {
            16 => self.make_job(),
            17 => self.train(),
            18 => self.end_job(),
            0..=5 => self.open(i),
            6..=7 => self.note(i),
            8..=11 => self.settle(i),
            12..=13 => self.commit(i),
            14 => self.give_back(i),
            _ if self.rng.below(8) == 0 => self.crash(i),
            _ => {}
        }
        self.check();
    }

    fn open(&mut self, i: usize) {
        self.n_requests += 1;
        let id = format!("req_{:06}", self.n_requests);
        let worst = self.rng.below(60) as i64;
        for _attempt in 0..3 {
            let process = &mut self.processes[i];
            let asked = process.desk.open(request(&id), (1, RATES), &self.windows, worst);
            match asked {
                Ok(open) => {
                    process.spool.extend(line(&begun(open)));
                    self.let_in.insert(id, worst);
                    return;
                }
                Err(Lacking::Backlog) => break,
                Err(Lacking::Window(key)) => {
                    // What it lacks, and what it has of it already.
                    let free = process.desk.purses().get(&key).map_or(0, |purse| purse.free());
                    let owner = process.owner.clone();
                    match self.fault() {
                        Fault::Before => break,
                        Fault::After => {
                            self.bank.grant(&key, &owner, worst - free.max(0));
                            break;
                        }
                        Fault::None => match self.bank.grant(&key, &owner, worst - free.max(0)) {
                            Granted::Has(amount) => self.processes[i].desk.granted(&key, amount),
                            Granted::Exhausted { .. } | Granted::NoBudget => break,
                        },
                    }
                }
            }
        }
        self.refused.insert(id);
    }

    fn some_open(&mut self, i: usize) -> Option<Open> {
        let n = self.processes[i].desk.n_open() as u64;
        let at = (n > 0).then(|| self.rng.below(n) as usize)?;
        self.processes[i].desk.open_requests().nth(at).cloned()
    }

    fn note(&mut self, i: usize) {
        let Some(open) = self.some_open(i) else { return };
        let left = self.let_in[&open.request.id] as u64 - open.noted.output_tokens;
        let output_tokens = open.noted.output_tokens + self.rng.below(left + 1);
        let counts = Counts { output_tokens, ..Counts::default() };
        let event = Line::Counted { id: open.request.id.clone(), counts: numbers(&counts) };
        self.processes[i].spool.extend(line(&event));
        self.processes[i].desk.note(&open.request.id, counts);
    }

    fn settle(&mut self, i: usize) {
        let Some(open) = self.some_open(i) else { return };
        let id = open.request.id.clone();
        let left = self.let_in[&id] as u64 - open.noted.output_tokens;
        let output_tokens = open.noted.output_tokens + self.rng.below(left + 1);
        let outcome = Outcome::ALL[self.rng.below(4) as usize];
        let counts = Counts { output_tokens, ..Counts::default() };
        let process = &mut self.processes[i];
        let entry = process.desk.settle(&id, outcome, counts, Timestamp::from_millis(9)).unwrap().clone();
        process.spool.extend(line(&settled(&entry)));
        assert!(process.desk.settle(&id, outcome, counts, Timestamp::from_millis(9)).is_none());
        self.told.insert(id, entry);
    }

    fn commit(&mut self, i: usize) {
        let group = self.processes[i].desk.batch(16);
        let fault = self.fault();
        if fault != Fault::Before {
            let owner = self.processes[i].owner.clone();
            self.bank.commit(&owner, &group);
        }
        if fault == Fault::None {
            self.processes[i].desk.committed(group.len());
        }
    }

    fn give_back(&mut self, i: usize) {
        let owner = self.processes[i].owner.clone();
        for (key, amount) in self.processes[i].desk.give_back(|_| true) {
            if self.fault() != Fault::Before {
                self.bank.release(&key, &owner, amount);
            }
        }
    }

    fn make_job(&mut self) {
        let worst = self.rng.below(120) as i64;
        let fault = self.fault();
        if fault == Fault::Before {
            return;
        }
        self.n_jobs += 1;
        let id = format!("job_{:06}", self.n_jobs);
        // Whoever asked and was not told finds it in the list: it is a job like the others.
        if self.bank.make_job(&id, worst) {
            self.jobs.insert(id, (worst, 0));
        } else {
            assert!(!self.bank.bills.contains_key(&id));
        }
    }

    fn some_job(&mut self) -> Option<String> {
        let n = self.jobs.len() as u64;
        let at = (n > 0).then(|| self.rng.below(n) as usize)?;
        self.jobs.keys().nth(at).cloned()
    }

    /// Its process works and notes it, or dies: then the next one begins at an earlier checkpoint.
    fn train(&mut self) {
        let Some(id) = self.some_job() else { return };
        let (worst, at) = self.jobs[&id];
        let is_killed = self.rng.below(3) == 0;
        let done = match is_killed {
            true => self.rng.below(at + 1),
            false => at + self.rng.below(worst as u64 - at + 1),
        };
        if self.bank.bills[&id].is_settled {
            return;
        }
        if !is_killed && self.fault() != Fault::Before {
            self.bank.note_job(&id, done);
        }
        self.jobs.insert(id, (worst, done));
    }

    /// It ends, and who ended it may not be told: then it is ended again, also with another word.
    fn end_job(&mut self) {
        let Some(id) = self.some_job() else { return };
        let (_, done) = self.jobs[&id];
        let now = Timestamp::from_millis(9);
        for _attempt in 0..2 {
            let outcome =
                [Outcome::Completed, Outcome::Cancelled, Outcome::Failed][self.rng.below(3) as usize];
            // Where nobody lives who knows, what was noted is all.
            let known = (self.rng.below(2) == 0).then_some(done);
            if self.fault() != Fault::Before {
                self.bank.end_job(&id, outcome, known, now);
            }
        }
    }

    /// The process dies, in the middle of a line; another one finds its spool.
    fn crash(&mut self, i: usize) {
        let mut process = self.processes.swap_remove(i);
        let entry = Open {
            request: request("req_never"),
            price: 1,
            rates: RATES,
            holds: vec![],
            noted: Counts::default(),
        };
        let cut = line(&begun(&entry));
        let n = self.rng.below(cut.len() as u64 - 1) as usize;
        process.spool.extend(&cut[..n]);
        let now = Timestamp::from_millis(10);
        if self.fault() == Fault::After {
            // The finder dies too, after its commit: the next one finds the same spool.
            self.bank.recover(&process.owner, &process.spool, now);
        }
        self.bank.recover(&process.owner, &process.spool, now);
        self.start();
    }

    fn check(&self) {
        self.bank.check();
        for process in &self.processes {
            for (key, purse) in process.desk.purses() {
                let reserved = self.bank.reservations.get(&(key.clone(), process.owner.clone()));
                let reserved = reserved.copied().unwrap_or(0);
                // What is in doubt is out of the reservation before the desk knows.
                let in_doubt: i64 = process
                    .desk
                    .pending()
                    .iter()
                    .filter(|s| self.bank.entries.contains_key(&s.entry.request.id))
                    .flat_map(|s| s.holds.iter().filter(|hold| hold.window == *key))
                    .map(|hold| hold.amount)
                    .sum();
                assert!(purse.granted <= reserved + in_doubt, "{purse:?} of {reserved} and {in_doubt}");
            }
        }
    }

    /// Every request that was let in has one entry, and it says what was told.
    fn end(mut self) -> u64 {
        while let Some(process) = self.processes.pop() {
            self.bank.recover(&process.owner, &process.spool, Timestamp::from_millis(11));
        }
        for id in self.jobs.keys() {
            self.bank.end_job(id, Outcome::Cancelled, None, Timestamp::from_millis(12));
        }
        self.bank.check();
        for (id, bill) in &self.bank.bills {
            let entry = self.bank.entries.remove(id);
            let cost = entry.map_or(0, |entry| entry.cost);
            self.bank.cost -= cost;
            assert_eq!(cost, RATES.cost(&Counts { training_tokens: bill.done, ..Counts::default() }));
            assert!(bill.is_settled && cost <= self.jobs[id].0, "{id}: {bill:?}");
        }
        assert_eq!(self.bank.cost, self.bank.entries.values().map(|entry| entry.cost).sum::<i64>());
        let ids: BTreeSet<&String> = self.bank.entries.keys().collect();
        assert_eq!(ids, self.let_in.keys().collect(), "lost 0, invented 0");
        for (id, entry) in &self.bank.entries {
            assert!(entry.cost <= self.let_in[id]);
            assert!(!self.refused.contains(id));
            match self.told.get(id) {
                Some(told) => assert_eq!(entry, told),
                None => assert_eq!(entry.outcome, Outcome::Interrupted),
            }
        }
        assert!(self.bank.reservations.values().all(|&amount| amount == 0), "nothing stays put aside");
        self.faults
    }
}

#[test]
fn whatever_fails_every_request_is_settled_once_and_no_budget_is_overrun() {
    let mut faults = 0;
    for seed in 0..200 {
        let mut world = World::new(seed);
        (0..160).for_each(|_| world.step());
        faults += world.end();
    }
    assert!(faults > 1000, "{faults} faults are too few to show anything");
}

#[test]
fn a_line_that_was_cut_or_changed_is_left_out_and_the_others_are_read() {
    let open = |id: &str| Open {
        request: request(id),
        price: 1,
        rates: RATES,
        holds: vec![],
        noted: Counts::default(),
    };
    let mut text = [line(&begun(&open("a"))), line(&begun(&open("b")))].concat();
    let whole = replay(&text);
    assert_eq!((whole.open.len(), whole.n_damaged), (2, 0));
    let at = text.len() - 10;
    text[at] ^= 1;
    let found = replay(&text);
    assert_eq!((found.open.len(), found.n_damaged), (1, 1));
    let found = replay(&text[..20]);
    assert_eq!((found.open.len(), found.n_damaged), (0, 1));
}

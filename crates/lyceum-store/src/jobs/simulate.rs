//! The queue against its plain twin, from seeds: workers that die at any moment and come back as ghosts, people who
//! cancel, pause and resume at any moment, leases that end. Every answer is compared, and in the end every job has ended
//! and has its effects once.

use super::tests::publish;
use super::*;
use crate::Layout;
use crate::files::JobLock;
use std::collections::BTreeMap;

const SEEDS: u64 = 200;
const STEPS: usize = 30;

/// A job as it should be.
#[derive(Clone, Debug, PartialEq)]
struct Twin {
    state: State,
    attempt: u32,
    is_cancel_asked: bool,
    is_pause_asked: bool,
    lease: i64,
    versions: usize,
}

struct World {
    rng: u64,
    dir: std::path::PathBuf,
    store: Store,
    now: i64,
    ids: Vec<JobId>,
    twins: Vec<Twin>,
    /// Of living workers.
    claims: Vec<(usize, Claim)>,
    /// What dead workers would still write with.
    ghosts: Vec<(usize, Claim)>,
    n_fenced: usize,
}

impl World {
    fn below(&mut self, n: usize) -> usize {
        // Sebastiano Vigna's splitmix64.
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn lease(&self) -> i64 {
        self.now().plus(limits::JOB_LEASE).millis()
    }

    async fn step(&mut self) {
        self.now += 1;
        match self.below(18) {
            0..=2 => self.create().await,
            3..=5 => self.take_next().await,
            6 => self.take_by_name().await,
            7..=8 => self.report().await,
            9..=11 => self.end().await,
            12 => self.ask("cancel").await,
            13 => self.ask("pause").await,
            14 => self.ask("resume").await,
            15 => self.die(),
            16 => self.haunt().await,
            _ => self.now = self.lease(),
        }
    }

    async fn create(&mut self) {
        if self.ids.len() == 6 {
            return;
        }
        self.ids.push(super::tests::add_at(&self.store, self.now()).await);
        self.twins.push(Twin {
            state: State::Queued,
            attempt: 0,
            is_cancel_asked: false,
            is_pause_asked: false,
            lease: 0,
            versions: 0,
        });
    }

    fn is_owned(&self, job: usize) -> bool {
        self.claims.iter().any(|(owned, _)| *owned == job)
    }

    fn taken(&mut self, job: usize, claim: Claim) {
        let lease = self.lease();
        let twin = &mut self.twins[job];
        (twin.state, twin.attempt, twin.lease) = (State::Running, twin.attempt + 1, lease);
        assert_eq!((claim.id(), claim.attempt), (&self.ids[job], self.twins[job].attempt));
        self.claims.push((job, claim));
    }

    async fn take_next(&mut self) {
        let waits = |twin: &Twin| {
            twin.state == State::Queued || (twin.state == State::Running && twin.lease <= self.now)
        };
        let expected = (0..self.ids.len()).find(|&job| waits(&self.twins[job]) && !self.is_owned(job));
        let claim = claim_next(&self.store, "w", self.now()).await.unwrap();
        assert_eq!(claim.as_ref().map(Claim::id), expected.map(|job| &self.ids[job]));
        if let (Some(claim), Some(job)) = (claim, expected) {
            self.taken(job, claim);
        }
    }

    /// As `lyceum jobs resume` does, which wants it to run whatever was asked before.
    async fn take_by_name(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let job = self.below(self.ids.len());
        let got = claim(&self.store, &Project::default_project(), &self.ids[job], "w", self.now()).await;
        match (self.is_owned(job), self.twins[job].state) {
            (true, _) => assert!(matches!(got, Err(StoreError::JobOwned { .. }))),
            (false, State::Done) => assert!(matches!(got, Err(StoreError::JobState { .. }))),
            (false, _) => {
                (self.twins[job].is_cancel_asked, self.twins[job].is_pause_asked) = (false, false);
                self.taken(job, got.unwrap());
            }
        }
    }

    fn some_claim(&mut self) -> Option<usize> {
        (!self.claims.is_empty()).then(|| self.below(self.claims.len()))
    }

    async fn report(&mut self) {
        if let Some(i) = self.some_claim() {
            self.reported(i).await;
        }
    }

    async fn reported(&mut self, i: usize) -> Signal {
        let (job, claim) = &self.claims[i];
        let progress = Progress { step: 1, steps: 2, message: String::new() };
        let signal = report(&self.store, claim, &progress, self.now()).await.unwrap();
        let (job, lease) = (*job, self.lease());
        let twin = &mut self.twins[job];
        twin.lease = lease;
        let expected = match (twin.is_cancel_asked, twin.is_pause_asked) {
            (true, _) => Signal::Cancel,
            (false, true) => Signal::Pause,
            (false, false) => Signal::Continue,
        };
        assert_eq!(signal, expected);
        signal
    }

    /// A worker does what it was told, or ends well or badly; between what it was told and its end somebody may ask for
    /// something else.
    async fn end(&mut self) {
        let Some(i) = self.some_claim() else { return };
        let signal = self.reported(i).await;
        let job = self.claims[i].0;
        if signal == Signal::Pause && self.below(3) == 0 {
            let what = if self.below(2) == 0 { "cancel" } else { "resume" };
            self.ask_of(job, what).await;
        }
        let how = self.below(4);
        let (_, claim) = self.claims.swap_remove(i);
        let (store, now) = (&self.store, self.now());
        let twin = &mut self.twins[job];
        twin.state = match (signal, how) {
            (Signal::Cancel, _) => {
                finish_cancelled(store, &claim, "", now).await.unwrap();
                State::Cancelled
            }
            (Signal::Pause, _) => {
                finish_paused(store, &claim, "", now).await.unwrap();
                match (twin.is_cancel_asked, twin.is_pause_asked) {
                    (true, _) => State::Cancelled,
                    (false, true) => State::Paused,
                    (false, false) => State::Queued,
                }
            }
            (Signal::Continue, 0) => {
                finish_failed(store, &claim, "", now).await.unwrap();
                State::Failed
            }
            (Signal::Continue, 1) => {
                publish(store, &claim).await.unwrap();
                twin.versions += 1;
                State::Done
            }
            (Signal::Continue, _) => {
                finish_done_with(store, &claim, "", now).await.unwrap();
                State::Done
            }
        };
        // Whoever was paid for once cannot be ended again.
        self.ghosts.push((job, claim_of_the_dead(&self.dir, claim)));
    }

    async fn ask(&mut self, what: &str) {
        if !self.ids.is_empty() {
            let job = self.below(self.ids.len());
            self.ask_of(job, what).await;
        }
    }

    async fn ask_of(&mut self, job: usize, what: &str) {
        let (project, now) = (Project::default_project(), self.now());
        let (store, id) = (&self.store, &self.ids[job]);
        let was = self.twins[job].clone();
        let twin = &mut self.twins[job];
        let is_running = twin.state == State::Running;
        let (is_allowed, told) = match what {
            "cancel" => {
                let is_allowed = matches!(twin.state, State::Queued | State::Running | State::Paused);
                (twin.is_cancel_asked, twin.is_pause_asked) = (true, false);
                twin.state = if is_running { State::Running } else { State::Cancelled };
                (is_allowed, cancel(store, &project, id, now).await.map(drop))
            }
            "pause" => {
                let can = matches!(twin.state, State::Queued | State::Running | State::Paused);
                let is_allowed = can && !twin.is_cancel_asked;
                twin.is_pause_asked = true;
                twin.state = if is_running { State::Running } else { State::Paused };
                (is_allowed, pause(store, &project, id, now).await.map(drop))
            }
            _ => {
                let can = matches!(twin.state, State::Running | State::Paused);
                let is_allowed = can && twin.is_pause_asked && !twin.is_cancel_asked;
                twin.is_pause_asked = false;
                twin.state = if is_running { State::Running } else { State::Queued };
                (is_allowed, resume(store, &project, id, now).await.map(drop))
            }
        };
        match is_allowed {
            true => told.unwrap(),
            false => {
                assert!(matches!(told, Err(StoreError::JobState { .. })), "{what}: {was:?}");
                self.twins[job] = was;
            }
        }
    }

    fn die(&mut self) {
        if let Some(i) = self.some_claim() {
            let (job, claim) = self.claims.swap_remove(i);
            self.ghosts.push((job, claim_of_the_dead(&self.dir, claim)));
        }
    }

    /// What a worker writes that was taken for dead and only slept.
    async fn haunt(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let i = self.below(self.ghosts.len());
        let (job, ghost) = &self.ghosts[i];
        let twin = &self.twins[*job];
        if twin.state == State::Running && twin.attempt == ghost.attempt {
            return; // Nobody took it over yet.
        }
        let progress = Progress { step: 9, steps: 9, message: "ghost".into() };
        let (store, now) = (&self.store, self.now());
        let told = [
            report(store, ghost, &progress, now).await.map(drop),
            finish_failed(store, ghost, "ghost", now).await,
            publish(store, ghost).await.map(drop),
        ];
        assert!(told.iter().all(|told| matches!(told, Err(StoreError::Fenced { .. }))), "{told:?}");
        self.n_fenced += 1;
    }

    async fn check(&self) {
        for (id, twin) in self.ids.iter().zip(&self.twins) {
            let job = find(&self.store, &Project::default_project(), id).await.unwrap();
            assert_eq!((job.state, job.attempt), (twin.state, twin.attempt), "{id}");
            if job.state == State::Running {
                assert_eq!(job.lease_expires_at.map(|at| at.millis()), Some(twin.lease));
            }
        }
    }

    /// All workers die; whoever waits is paused no longer and comes to an end.
    async fn drain(&mut self) {
        while let Some((job, claim)) = self.claims.pop() {
            self.ghosts.push((job, claim_of_the_dead(&self.dir, claim)));
        }
        for job in 0..self.ids.len() {
            if self.twins[job].state == State::Paused {
                self.ask_of(job, "resume").await;
            }
        }
        let ended = |twin: &Twin| matches!(twin.state, State::Done | State::Failed | State::Cancelled);
        for _ in 0..8 * self.ids.len() {
            self.now = self.lease();
            self.take_next().await;
            self.end().await;
            for job in 0..self.ids.len() {
                if self.twins[job].state == State::Paused {
                    self.ask_of(job, "resume").await;
                }
            }
        }
        assert!(self.twins.iter().all(ended), "none is lost: {:?}", self.twins);
        self.check().await;
    }
}

/// A claim with its number and without its lock, which went with the process.
fn claim_of_the_dead(dir: &std::path::Path, claim: Claim) -> Claim {
    let (id, attempt, project) = (claim.id().clone(), claim.attempt, claim.project.clone());
    drop(claim);
    let place = Layout::new(dir.join(format!("ghost-{attempt}")));
    let lock = JobLock::try_acquire(&place, &id).unwrap().expect("one ghost an attempt");
    Claim { attempt, project, lock, counted: std::sync::Mutex::default() }
}

#[tokio::test]
async fn whatever_workers_and_people_do_every_job_ends_and_has_its_effects_once() {
    // Nothing here is about what a disk keeps: one in memory is quicker, where there is one.
    let memory = std::path::Path::new("/dev/shm");
    let dir = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).unwrap();
    let mut store = Some(Store::open(Layout::new(dir.path()), Timestamp::from_millis(1)).await.unwrap());
    let (mut now, mut fenced, mut versions) = (1_000_000, 0, BTreeMap::new());
    for seed in 0..SEEDS {
        let mut world = World {
            rng: seed,
            dir: dir.path().join(format!("dead-{seed}")),
            store: store.take().unwrap(),
            now,
            ids: vec![],
            twins: vec![],
            claims: vec![],
            ghosts: vec![],
            n_fenced: 0,
        };
        for _ in 0..STEPS {
            world.step().await;
        }
        world.check().await;
        world.drain().await;
        let published = world.ids.iter().cloned().zip(world.twins.iter().map(|twin| twin.versions));
        versions.extend(published);
        (now, fenced) = (world.now, fenced + world.n_fenced);
        store = Some(world.store);
    }
    let store = store.unwrap();
    for version in models::list(&store, &Project::default_project()).await.unwrap() {
        *versions.get_mut(&version.job.unwrap()).expect("a version of a job that is known") -= 1;
    }
    assert!(versions.values().all(|left| *left == 0), "one version of each job that published, and no other");
    assert!(versions.len() > 500 && fenced > 50, "{} jobs, {fenced} ghosts", versions.len());
}

//! 500 jobs, three workers, ten of which are killed with SIGKILL in the middle: none is lost, and each has its effects
//! once. It is alone in its binary: see `killed_owner.rs`.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

use lyceum_store::files::{Staging, write_durably};
use lyceum_store::jobs::{self, Job, Kind, NewJob, Progress, State};
use lyceum_store::layout::WEIGHTS;
use lyceum_store::models::{self, NewVersion};
use lyceum_store::{Layout, Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::Project;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const JOBS: usize = 500;
const KILLS: usize = 10;
const WORKERS: usize = 3;
const WORKER_OF: &str = "LYCEUM_TEST_WORKER_OF";
const NAME: &str = "five_hundred_jobs_outlive_ten_kills_and_have_their_effects_once";

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_jobs_outlive_ten_kills_and_have_their_effects_once() {
    if let Some(root) = std::env::var_os(WORKER_OF) {
        return work(Path::new(&root)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let project = Project::default_project();
    let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap();
    for i in 0..JOBS {
        let (spec, request) = ("{}".to_owned(), Some("{}".to_owned()));
        let new =
            NewJob { kind: Kind::Train, spec, request, model: format!("job-{i}"), steps: 1, bill: None };
        jobs::create(&store, &project, new, Timestamp::now()).await.unwrap();
    }

    let mut workers: Vec<Child> = (0..WORKERS).map(|_| start(dir.path())).collect();
    let (mut kills, began) = (0, Instant::now());
    loop {
        let all = jobs::list(&store, &project).await.unwrap();
        let done = all.iter().filter(|job| job.state == State::Done).count();
        if done == JOBS {
            break;
        }
        if kills < KILLS && done >= (kills + 1) * JOBS / (KILLS + 2) {
            let worker = &mut workers[kills % WORKERS];
            worker.kill().unwrap();
            worker.wait().unwrap();
            *worker = start(dir.path());
            kills += 1;
        }
        assert!(began.elapsed() < Duration::from_secs(240), "{done} of {JOBS} jobs are done");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }

    assert_eq!(kills, KILLS);
    let all = jobs::list(&store, &project).await.unwrap();
    let attempts: u32 = all.iter().map(|job| job.attempt).sum();
    let mut versions: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for version in models::list(&store, &project).await.unwrap() {
        let weights = version.dir.join(WEIGHTS).read().unwrap();
        assert_eq!(weights, version.name.as_str().as_bytes());
        assert_eq!(
            version.job.as_ref(),
            all.iter().find(|job| job.model == version.name.as_str()).map(|j| &j.id)
        );
        versions.entry(version.name.to_string()).or_default().push(version.number);
    }
    assert_eq!(all.len(), JOBS);
    for job in &all {
        assert_eq!((job.state, job.step), (State::Done, 1), "{}", job.model);
        let made = versions.remove(&job.model).unwrap_or_default();
        let wanted: &[u32] = if publishes(job) { &[1] } else { &[] };
        assert_eq!(made, wanted, "{} in {} attempts", job.model, job.attempt);
        // The outcome is that of the attempt that ended it, and of no other.
        assert_eq!(job.outcome.as_deref(), Some(format!("{{\"attempt\":{}}}", job.attempt).as_str()));
    }
    assert!(versions.is_empty(), "{versions:?}");
    println!("{JOBS} jobs, {kills} kills, {attempts} attempts, {:.1} s", began.elapsed().as_secs_f64());
    assert!(attempts as usize > JOBS, "kills that hit nobody at work prove nothing");
    // What the killed were writing went with the next start.
    store.close().await;
    let layout = Layout::new(dir.path());
    Store::open(layout.clone(), Timestamp::now()).await.unwrap().close().await;
    assert_eq!(std::fs::read_dir(layout.staging()).unwrap().count(), 0);
}

fn start(root: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(WORKER_OF, root)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Every fifth job makes a version, the others an answer.
fn publishes(job: &Job) -> bool {
    job.model.bytes().next_back().is_some_and(|digit| digit % 5 == 0)
}

async fn work(root: &Path) {
    let store = Store::open(Layout::new(root), Timestamp::now()).await.unwrap();
    let project = Project::default_project();
    let worker = format!("worker-{}", std::process::id());
    loop {
        let Some(job) = jobs::next_waiting(&store, Kind::Train, None, Timestamp::now()).await.unwrap() else {
            if jobs::count_unfinished(&store, &project, Kind::Train).await.unwrap() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let claim = match jobs::claim_waiting(&store, &project, &job.id, &worker, Timestamp::now()).await {
            Ok(claim) => claim,
            // Another worker was faster.
            Err(StoreError::JobOwned { .. } | StoreError::JobState { .. }) => continue,
            Err(error) => panic!("{error:?}"),
        };
        let now = Timestamp::now();
        let progress = Progress { step: 1, steps: 1, message: String::new() };
        jobs::report(&store, &claim, &progress, now).await.unwrap();
        let outcome = format!("{{\"attempt\":{}}}", claim.attempt);
        if !publishes(&job) {
            jobs::finish_done_with(&store, &claim, &outcome, now).await.unwrap();
            continue;
        }
        let staging = Staging::create(store.layout()).unwrap();
        write_durably(&staging.path().join(WEIGHTS), job.model.as_bytes()).unwrap();
        let new = NewVersion {
            name: job.model.parse().unwrap(),
            family: "mlp".into(),
            task: "classify".into(),
            n_params: 1,
            bytes: job.model.len() as u64,
            sha256: "ab".into(),
            job: Some(job.id.clone()),
            held: None,
        };
        let manifest = |number: u32| number.to_string().into_bytes();
        jobs::finish_done(&store, &claim, new, staging, manifest, |_| outcome, now).await.unwrap();
    }
}

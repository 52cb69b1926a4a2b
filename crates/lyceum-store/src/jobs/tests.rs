use super::*;
use crate::Layout;
use crate::files::JobLock;
use std::collections::BTreeSet;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    (dir, store)
}

fn project() -> Project {
    Project::default_project()
}

async fn add(store: &Store) -> JobId {
    add_at(store, NOW).await
}

pub(super) async fn add_at(store: &Store, now: Timestamp) -> JobId {
    let new = NewJob {
        kind: Kind::Train,
        spec: "{}".into(),
        request: None,
        model: "digits".into(),
        steps: 100,
        bill: None,
    };
    create(store, &project(), new, now).await.unwrap()
}

fn progress(step: u64) -> Progress {
    Progress { step, steps: 100, message: "training".into() }
}

pub(super) async fn publish(store: &Store, claim: &Claim) -> Result<Version, StoreError> {
    let staging = Staging::create(store.layout()).unwrap();
    std::fs::write(staging.path().join("model.safetensors"), b"abc").unwrap();
    let new = NewVersion {
        name: "digits".parse().unwrap(),
        family: "cnn".into(),
        task: "classify".into(),
        n_params: 1,
        bytes: 3,
        sha256: "ab".into(),
        job: Some(claim.id().clone()),
        held: None,
    };
    finish_done(store, claim, new, staging, |_| b"{}".to_vec(), |version| version.id(), NOW).await
}

#[tokio::test]
async fn a_job_walks_from_the_queue_to_its_version() {
    let (_dir, store) = store().await;
    let id = add(&store).await;
    assert_eq!(find(&store, &project(), &id).await.unwrap().state, State::Queued);
    let claim = claim(&store, &project(), &id, "here", NOW).await.unwrap();
    assert_eq!(report(&store, &claim, &progress(7), NOW).await.unwrap(), Signal::Continue);
    let job = find(&store, &project(), &id).await.unwrap();
    assert_eq!((job.state, job.attempt, job.step, job.steps), (State::Running, 1, 7, 100));
    assert_eq!(job.lease_expires_at, Some(NOW.plus(limits::JOB_LEASE)));

    let version = publish(&store, &claim).await.unwrap();
    let job = find(&store, &project(), &id).await.unwrap();
    assert_eq!((job.state, job.step, job.outcome.as_deref()), (State::Done, 100, Some("digits@1")));
    assert_eq!(version.job, Some(id.clone()));
    drop(claim);
    let again = super::claim(&store, &project(), &id, "here", NOW).await;
    assert!(matches!(again, Err(StoreError::JobState { .. })));
}

#[tokio::test]
async fn a_dead_owner_is_taken_over_at_once_and_cannot_write_any_more() {
    let (dir, first) = store().await;
    let second = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    let id = add(&first).await;
    let old = claim(&first, &project(), &id, "first", NOW).await.unwrap();
    let owned = claim(&second, &project(), &id, "second", NOW).await;
    assert!(matches!(owned, Err(StoreError::JobOwned { .. })), "the owner lives");

    // A process that dies loses its lock and keeps nothing but its number.
    let attempt = old.attempt;
    drop(old);
    let new = claim(&second, &project(), &id, "second", NOW).await.unwrap();
    assert_eq!((attempt, new.attempt), (1, 2));
    let ghost = Claim {
        attempt,
        project: project(),
        lock: JobLock::try_acquire(&Layout::new(dir.path().join("elsewhere")), &id).unwrap().unwrap(),
        counted: std::sync::Mutex::default(),
    };
    assert!(matches!(report(&first, &ghost, &progress(9), NOW).await, Err(StoreError::Fenced { .. })));
    assert!(matches!(publish(&first, &ghost).await, Err(StoreError::Fenced { .. })));
    assert!(models::list(&first, &project()).await.unwrap().is_empty(), "nothing was published");
    assert_eq!(publish(&second, &new).await.unwrap().number, 1);
}

#[tokio::test]
async fn a_worker_takes_queued_jobs_in_order_and_expired_ones_of_the_dead() {
    let (_dir, store) = store().await;
    let (a, b) = (add(&store).await, add(&store).await);
    let first = claim_next(&store, "w", NOW).await.unwrap().unwrap();
    let second = claim_next(&store, "w", NOW).await.unwrap().unwrap();
    assert_eq!((first.id(), second.id()), (&a, &b));
    assert!(claim_next(&store, "w", NOW).await.unwrap().is_none());
    let later = NOW.plus(limits::JOB_LEASE);
    assert!(claim_next(&store, "w", later).await.unwrap().is_none(), "both owners live");
    drop(second);
    assert!(claim_next(&store, "w", NOW).await.unwrap().is_none(), "the lease still runs");
    let taken = claim_next(&store, "w", later).await.unwrap().unwrap();
    assert_eq!((taken.id(), taken.attempt), (&b, 2));
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_in_several_processes_do_each_job_once() {
    let (dir, first) = store().await;
    for _ in 0..12 {
        add(&first).await;
    }
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut done = Vec::new();
            while let Some(claim) = claim_next(&store, "w", NOW).await.unwrap() {
                done.push(claim.id().clone());
                publish(&store, &claim).await.unwrap();
            }
            done
        }));
    }
    let mut done = Vec::new();
    for task in tasks {
        done.extend(task.await.unwrap());
    }
    assert_eq!(done.len(), 12);
    assert_eq!(done.iter().collect::<BTreeSet<_>>().len(), 12);
    let jobs = list(&first, &project()).await.unwrap();
    assert!(jobs.iter().all(|job| job.state == State::Done && job.attempt == 1));
    assert_eq!(models::list(&first, &project()).await.unwrap().len(), 12);
}

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once_and_a_running_one_hears_of_it() {
    let (_dir, store) = store().await;
    let (queued, running) = (add(&store).await, add(&store).await);
    assert_eq!(cancel(&store, &project(), &queued, NOW).await.unwrap(), State::Cancelled);
    assert!(matches!(cancel(&store, &project(), &queued, NOW).await, Err(StoreError::JobState { .. })));

    let claim = claim(&store, &project(), &running, "w", NOW).await.unwrap();
    assert_eq!(cancel(&store, &project(), &running, NOW).await.unwrap(), State::Running);
    assert_eq!(report(&store, &claim, &progress(1), NOW).await.unwrap(), Signal::Cancel);
    finish_cancelled(&store, &claim, "kept step 1", NOW).await.unwrap();
    let job = find(&store, &project(), &running).await.unwrap();
    assert_eq!((job.state, job.message.as_str()), (State::Cancelled, "kept step 1"));

    drop(claim);
    let resumed = super::claim(&store, &project(), &running, "w", NOW).await.unwrap();
    assert_eq!(report(&store, &resumed, &progress(2), NOW).await.unwrap(), Signal::Continue);
    finish_failed(&store, &resumed, "the disk is full", NOW).await.unwrap();
    assert_eq!(find(&store, &project(), &running).await.unwrap().state, State::Failed);
}

#[tokio::test]
async fn a_job_that_is_not_there_leaves_no_folder() {
    let (_dir, store) = store().await;
    let id = JobId::from_bits(5);
    assert!(matches!(claim(&store, &project(), &id, "w", NOW).await, Err(StoreError::NotFound { .. })));
    assert!(!store.layout().job_dir(&id).exists());
    let other = Project { tenant: "other".into(), id: "other".into() };
    let id = add(&store).await;
    assert!(matches!(find(&store, &other, &id).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(cancel(&store, &other, &id, NOW).await, Err(StoreError::NotFound { .. })));
    assert!(list(&store, &other).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_is_renewed_by_each_report() {
    let (_dir, store) = store().await;
    let id = add(&store).await;
    let claim = claim(&store, &project(), &id, "w", NOW).await.unwrap();
    let later = NOW.plus(Duration::from_secs(20));
    report(&store, &claim, &progress(1), later).await.unwrap();
    let job = find(&store, &project(), &id).await.unwrap();
    assert_eq!(job.lease_expires_at, Some(later.plus(limits::JOB_LEASE)));
}

#[tokio::test]
async fn a_choice_waits_for_a_worker_of_its_kind_until_it_ends_or_is_cancelled() {
    let (_dir, store) = store().await;
    let new = NewJob {
        kind: Kind::Choose,
        spec: "{}".into(),
        request: None,
        model: "digits".into(),
        steps: 0,
        bill: None,
    };
    let first = create(&store, &project(), new.clone(), NOW).await.unwrap();
    let second = create(&store, &project(), new, NOW).await.unwrap();
    assert!(claim_next(&store, "w", NOW).await.unwrap().is_none(), "that worker trains");
    let next = async || next_waiting(&store, Kind::Choose, None, NOW).await.unwrap().map(|job| job.id);
    assert_eq!(next().await.as_ref(), Some(&first));
    assert_eq!(next_waiting(&store, Kind::Train, None, NOW).await.unwrap(), None);
    let claimed = claim_waiting(&store, &project(), &first, "w", NOW).await.unwrap();
    assert_eq!(next().await.as_ref(), Some(&second), "the first has a living owner");
    assert_eq!(count_unfinished(&store, &project(), Kind::Choose).await.unwrap(), 2);
    finish_done_with(&store, &claimed, "{\"id\":1}", NOW).await.unwrap();
    let job = find(&store, &project(), &first).await.unwrap();
    assert_eq!(
        (job.state, job.kind, job.outcome.as_deref()),
        (State::Done, Kind::Choose, Some("{\"id\":1}"))
    );
    cancel(&store, &project(), &second, NOW).await.unwrap();
    assert_eq!(next().await, None);
    let again = claim_waiting(&store, &project(), &second, "w", NOW).await;
    assert!(matches!(again, Err(StoreError::JobState { .. })), "{again:?}");
    let _anew = claim(&store, &project(), &second, "w", NOW).await.expect("somebody may begin it anew");
    let new = NewJob {
        kind: Kind::Choose,
        spec: "{}".into(),
        request: None,
        model: "digits".into(),
        steps: 0,
        bill: None,
    };
    let own = create_claimed(&store, &project(), new, "w", NOW).await.unwrap();
    assert_eq!((own.attempt, next().await), (1, None));
    drop(own);
    assert!(next().await.is_some(), "its process died");
}

async fn ask(store: &Store, project: &Project) -> JobId {
    let request = Some("{}".to_owned());
    let new =
        NewJob { kind: Kind::Train, spec: "{}".into(), request, model: "bot".into(), steps: 0, bill: None };
    create(store, project, new, NOW).await.unwrap()
}

#[tokio::test]
async fn a_paused_job_waits_for_nobody_until_it_is_resumed() {
    let (_dir, store) = store().await;
    add(&store).await;
    let id = ask(&store, &project()).await;
    let next = async || next_waiting(&store, Kind::Train, None, NOW).await.unwrap().map(|job| job.id);
    assert_eq!(next().await.as_ref(), Some(&id), "what the command line began is not the worker's");
    let state = async || find(&store, &project(), &id).await.unwrap().state;
    // In the queue.
    assert_eq!(pause(&store, &project(), &id, NOW).await.unwrap().state, State::Paused);
    assert_eq!(pause(&store, &project(), &id, NOW).await.unwrap().state, State::Paused);
    assert_eq!(next().await, None);
    assert!(claim_waiting(&store, &project(), &id, "w", NOW).await.is_err());
    assert_eq!(resume(&store, &project(), &id, NOW).await.unwrap().state, State::Queued);
    assert!(resume(&store, &project(), &id, NOW).await.is_err(), "it is not paused");
    // Under way.
    let owner = claim_waiting(&store, &project(), &id, "w", NOW).await.unwrap();
    let asked = pause(&store, &project(), &id, NOW).await.unwrap();
    assert_eq!((asked.state, asked.pause_requested), (State::Running, true));
    assert_eq!(report(&store, &owner, &progress(3), NOW).await.unwrap(), Signal::Pause);
    finish_paused(&store, &owner, "paused", NOW).await.unwrap();
    drop(owner);
    assert_eq!((state().await, next().await), (State::Paused, None));
    // Its owner died before it saw the wish: the next one sees it.
    resume(&store, &project(), &id, NOW).await.unwrap();
    let owner = claim_waiting(&store, &project(), &id, "w", NOW).await.unwrap();
    pause(&store, &project(), &id, NOW).await.unwrap();
    drop(owner);
    let owner = claim_waiting(&store, &project(), &id, "w", NOW).await.unwrap();
    assert_eq!(report(&store, &owner, &progress(3), NOW).await.unwrap(), Signal::Pause);
    // Taken back while it stopped: it waits.
    assert_eq!(resume(&store, &project(), &id, NOW).await.unwrap().state, State::Running);
    finish_paused(&store, &owner, "paused", NOW).await.unwrap();
    drop(owner);
    assert_eq!((state().await, next().await.as_ref()), (State::Queued, Some(&id)));
    // Cancelled while it stopped.
    let owner = claim_waiting(&store, &project(), &id, "w", NOW).await.unwrap();
    pause(&store, &project(), &id, NOW).await.unwrap();
    cancel(&store, &project(), &id, NOW).await.unwrap();
    assert_eq!(report(&store, &owner, &progress(3), NOW).await.unwrap(), Signal::Cancel);
    finish_paused(&store, &owner, "paused", NOW).await.unwrap();
    drop(owner);
    assert_eq!(state().await, State::Cancelled);
    assert!(pause(&store, &project(), &id, NOW).await.is_err());
    // A paused one can be cancelled.
    let other = ask(&store, &project()).await;
    pause(&store, &project(), &other, NOW).await.unwrap();
    assert_eq!(cancel(&store, &project(), &other, NOW).await.unwrap(), State::Cancelled);
    assert!(resume(&store, &project(), &other, NOW).await.is_err());
}

#[tokio::test]
async fn no_project_waits_behind_all_jobs_of_another() {
    let (_dir, store) = store().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(ask(&store, &project()).await);
    }
    let next = async |after: Option<&Project>| next_waiting(&store, Kind::Train, after, NOW).await.unwrap();
    assert_eq!(next(Some(&project())).await.map(|job| job.id), Some(ids[0].clone()), "it is alone");
    let act = crate::tenancy::Act::of_command_line(NOW);
    let made = crate::tenancy::projects::create(&store, "default", "other", &act).await.unwrap();
    let other = Project { tenant: "default".into(), id: made.project.id };
    let late = ask(&store, &other).await;
    assert_eq!(next(None).await.map(|job| job.id), Some(ids[0].clone()));
    assert_eq!(next(Some(&project())).await.map(|job| job.id), Some(late));
    let (page, more) = list_requested(&store, &project(), &Page { after: None, limit: 2 }).await.unwrap();
    assert_eq!((page.iter().map(|job| &job.id).collect::<Vec<_>>(), more), (vec![&ids[2], &ids[1]], true));
    let after = Some(ids[1].clone());
    let (page, more) = list_requested(&store, &project(), &Page { after, limit: 2 }).await.unwrap();
    assert_eq!((page.len(), more), (1, false));
}

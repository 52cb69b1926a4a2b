//! What comes later than its version, and what jobs leave: a machine with an empty disk has it from the object store.

use super::*;
use crate::jobs::{self, Claim, Kind, NewJob, kept};
use crate::runs::{self, RunId};
use crate::{Store, evidence};
use lyceum_types::card::{Evidence, Part, Section};

fn evidence(created: u64) -> Evidence {
    Evidence {
        format_version: 1,
        weights_sha256: "w".into(),
        created,
        part: Part::Robustness,
        section: Section::default(),
    }
}

/// Another machine: the same database and objects, nothing on the disk.
fn another(house: &House) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = house.store.on_another_machine(Layout::new(dir.path().join("data")));
    (dir, store)
}

async fn version(store: &Store) -> Version {
    models::resolve(store, &Project::default_project(), &"digits".parse().unwrap()).await.unwrap()
}

fn n_objects(server: &Server) -> usize {
    server.state.lock().unwrap().objects.keys().filter(|key| key.contains("/sha256/")).count()
}

#[tokio::test]
async fn evidence_and_cards_are_everywhere_and_go_with_their_version() {
    let server = Server::start();
    let house = house(s3(&server.endpoint, "models")).await;
    let here = house.publish("digits").await.unwrap();
    let before = n_objects(&server);
    evidence::add(&house.store, &here, &evidence(1)).await.unwrap();
    evidence::write_card(&house.store, &here, b"first").await.unwrap();

    let (_dir, other) = another(&house);
    let there = version(&other).await;
    let created = async |store: &Store, version: &Version| -> Vec<u64> {
        let found = evidence::all(store, version).await.unwrap();
        found.into_iter().map(|kept| kept.evidence.created).collect()
    };
    assert_eq!(created(&other, &there).await, [1]);
    assert_eq!(evidence::card(&other, &there).await.unwrap().unwrap(), b"first");
    // What one machine measures and issues afterwards, the other reads.
    evidence::add(&other, &there, &evidence(2)).await.unwrap();
    evidence::write_card(&other, &there, b"other").await.unwrap();
    assert_eq!(created(&house.store, &here).await, [1, 2]);
    assert_eq!(evidence::card(&house.store, &here).await.unwrap().unwrap(), b"other");
    assert_eq!(n_objects(&server), before + 3, "the first card is gone");
    // A copy that was changed is fetched again; an object that was, is refused.
    fs::write(there.dir.join("card.json").path(), b"forge").unwrap();
    assert_eq!(evidence::card(&other, &there).await.unwrap().unwrap(), b"other");
    fs::write(there.dir.join("card.json").path(), b"forge").unwrap();
    let key = format!("models/a/b/sha256/{}", hex(&Sha256::digest(b"other")));
    server.state.lock().unwrap().objects.insert(key, b"forge".to_vec());
    let error = evidence::card(&other, &there).await.unwrap_err();
    assert!(matches!(error, StoreError::DamagedFile { .. }), "{error:?}");

    house.delete("digits@1").await;
    assert_eq!((stored(&house.store).await.unwrap(), n_objects(&server)), (Stored::default(), 0));
    let late = evidence::add(&other, &there, &evidence(3)).await;
    // Only this machine has a copy still; nothing comes back into the bucket.
    assert!(late.is_ok() && n_objects(&server) == 0, "{late:?}");
}

#[tokio::test]
async fn what_the_object_store_refuses_was_not_measured() {
    let server = Server::start();
    let house = house(s3(&server.endpoint, "models")).await;
    let version = house.publish("digits").await.unwrap();
    evidence::write_card(&house.store, &version, b"first").await.unwrap();
    for nth in 0.. {
        let at = server.state.lock().unwrap().n_requests + nth;
        server.state.lock().unwrap().faults.insert(at, Fault::Refused);
        let card = format!("card {nth}");
        let done = evidence::write_card(&house.store, &version, card.as_bytes()).await;
        let is_over = !server.state.lock().unwrap().faults.is_empty();
        server.state.lock().unwrap().faults.clear();
        let found = evidence::card(&house.store, &version).await.unwrap().unwrap();
        // What fails after the commit is only the removal of the old card's object.
        assert_eq!(found == card.as_bytes(), done.is_ok(), "{nth}: {done:?}");
        if is_over {
            break;
        }
        assert!(nth < 8);
    }
}

#[tokio::test]
async fn a_run_that_has_ended_is_everywhere_and_one_that_goes_on_is_not() {
    let house = house(Blobs::new(Arc::new(InMemory::new()), "", "memory")).await;
    let (project, kind) = (Project::default_project(), runs::Kind::Robustness);
    let (first, second) = (RunId::new(kind), RunId::new(kind));
    for id in [&first, &second] {
        drop(runs::own(&house.store, &project, id).unwrap());
        runs::save(&house.store, &project, id, id.as_str().as_bytes()).unwrap();
    }
    runs::save_lines(&house.store, &project, &first, b"{}\n").unwrap();
    runs::keep(&house.store, &project, &first).await.unwrap();
    let (_dir, other) = another(&house);
    assert_eq!(runs::list(&other, &project, kind).await.unwrap(), std::slice::from_ref(&first));
    for id in [&first, &second] {
        runs::have(&other, &project, id).await.unwrap();
    }
    assert_eq!(runs::read(&other, &project, &first).unwrap(), first.as_str().as_bytes());
    assert_eq!(runs::read_lines(&other, &project, &first).unwrap(), b"{}\n");
    assert!(runs::read(&other, &project, &second).is_err(), "nobody here could say whether it still goes on");
    let theirs = Project { tenant: "other".into(), id: "default".into() };
    runs::have(&other, &theirs, &first).await.unwrap();
    assert!(runs::read(&other, &theirs, &first).is_err());
    runs::trim(&other, &project, kind, 0).await.unwrap();
    assert_eq!(stored(&house.store).await.unwrap(), Stored::default());
}

async fn claimed(store: &Store, id: &lyceum_types::ids::JobId) -> Result<Claim, StoreError> {
    jobs::claim_waiting(store, &Project::default_project(), id, "w", NOW).await
}

/// Takes a step of a training: a checkpoint and a line that speaks of it.
fn step(store: &Store, claim: &Claim, step: u64) {
    let folder = store.layout().checkpoints_dir(claim.id()).join(format!("step-{step:09}"));
    fs::create_dir_all(&folder).unwrap();
    for name in ["model.safetensors", "state.json"] {
        fs::write(folder.join(name), format!("{name} {step}")).unwrap();
    }
    let log = store.layout().job_dir(claim.id()).join(kept::LOG);
    let mut text = fs::read_to_string(&log).unwrap_or_default();
    text += &format!("step {step}\n");
    fs::write(log, text).unwrap();
}

#[tokio::test]
async fn a_job_goes_on_elsewhere_from_its_newest_checkpoint_when_its_lease_is_over() {
    let house = house(Blobs::new(Arc::new(InMemory::new()), "", "memory")).await;
    let (store, project) = (&house.store, Project::default_project());
    let new = NewJob {
        kind: Kind::Train,
        spec: "{}".into(),
        request: Some("{}".into()),
        model: "m".into(),
        steps: 9,
        bill: None,
    };
    let id = jobs::create(store, &project, new, NOW).await.unwrap();
    let first = claimed(store, &id).await.unwrap();
    for at in [1, 2, 3] {
        step(store, &first, at);
    }
    let names = |steps: &[u64]| steps.iter().map(|at| format!("step-{at:09}")).collect::<Vec<_>>();
    kept::keep(store, &first, &names(&[1, 2]), NOW).await.unwrap();
    kept::keep(store, &first, &names(&[2, 3]), NOW).await.unwrap();
    assert_eq!(stored(store).await.unwrap().n_objects, 5, "two checkpoints and the log");

    let (_dir, other) = another(&house);
    // The lock of this job is free on the other machine, which says nothing: its owner lives here.
    assert!(matches!(claimed(&other, &id).await, Err(StoreError::JobOwned { .. })));
    let next =
        async |now| jobs::next_waiting(&other, Kind::Train, None, now).await.unwrap().map(|job| job.id);
    assert_eq!(next(NOW).await, None);
    let job = jobs::find(&other, &project, &id).await.unwrap();
    assert!(!jobs::is_broken_off(&other, &job, NOW).unwrap());
    let later = NOW.plus(lyceum_types::limits::JOB_LEASE + Duration::from_millis(1));
    jobs::renew(store, &first, later).await.unwrap();
    assert_eq!(next(later).await, None, "who has nothing to report renews it");
    let after = later.plus(lyceum_types::limits::JOB_LEASE);
    assert_eq!(next(after).await.as_ref(), Some(&id));
    let second = jobs::claim_waiting(&other, &project, &id, "w", after).await.unwrap();
    kept::bring_back(&other, &second).await.unwrap();
    let text =
        |store: &Store, path: &str| fs::read_to_string(store.layout().job_dir(&id).join(path)).unwrap();
    assert_eq!(text(&other, "checkpoints/step-000000003/state.json"), "state.json 3");
    assert_eq!(text(&other, kept::LOG), "step 1\nstep 2\nstep 3\n");

    // Who was overtaken brings nothing more, and has what the other made when it is the next one.
    step(store, &first, 4);
    let late = kept::keep(store, &first, &names(&[3, 4]), after).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "{late:?}");
    assert!(jobs::renew(store, &first, after).await.is_err());
    drop(first);
    step(&other, &second, 5);
    kept::keep(&other, &second, &names(&[3, 5]), after).await.unwrap();
    jobs::finish_failed(&other, &second, "", after).await.unwrap();
    let third = jobs::claim(store, &project, &id, "w", after).await.unwrap();
    kept::bring_back(store, &third).await.unwrap();
    assert_eq!(text(store, kept::LOG), "step 1\nstep 2\nstep 3\nstep 5\n");
    assert_eq!(text(store, "checkpoints/step-000000005/model.safetensors"), "model.safetensors 5");
    // Without the object store a machine says so, and does not begin anew.
    let (_dir, blind) = another(&house);
    let blind = Store::without_blobs(blind);
    assert!(matches!(kept::bring_back(&blind, &third).await, Err(StoreError::NoObjects { .. })));
    assert_eq!(sweep(store, GRACE, LATER).await.unwrap().n_removed, 3, "of the overtaken attempt");
}

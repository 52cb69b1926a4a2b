use super::*;
use crate::data_files::{self, Incoming, Kept, NewFile};
use crate::files::Staging;
use crate::layout::WEIGHTS;
use crate::{batches, evidence, idempotency, jobs, models, responses, runs, selections};
use lyceum_types::ids::{BatchId, SelectionId};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const CANARY: &str = "canary-5f1d";

#[test]
fn a_master_key_is_private_made_once_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    let made = MasterKey::create(&path).unwrap();
    assert_eq!(MasterKey::read(&path).unwrap().id(), made.id());
    assert!(MasterKey::create(&path).is_err(), "it is there");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!format!("{made:?}").contains(text.trim()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(MasterKey::read(&path).unwrap_err().to_string().contains("others can read it"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::write(&path, "abc").unwrap();
    assert!(MasterKey::read(&path).unwrap_err().to_string().contains("64 hexadecimal digits"));
}

fn project() -> Project {
    Project { tenant: "org".into(), id: "proj/1".into() }
}

/// A store with an encrypted project, its data folder, and the master key's file outside it.
async fn encrypted() -> (Store, tempfile::TempDir, tempfile::TempDir) {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = MasterKey::create(&outside.path().join("key")).unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap().unlocked(master);
    let project = project();
    let sql = "INSERT INTO projects (tenant, project, created_at) VALUES ($1, $2, 0)";
    let mut transaction = store.write().await.unwrap();
    sqlx::query("INSERT INTO organizations (tenant, name, retention, created_at, audit_seq, audit_hash) VALUES ('org', 'o', 'modified_abuse_monitoring', 0, 0, '')")
        .execute(&mut *transaction).await.unwrap();
    sqlx::query(sql).bind(&project.tenant).bind(&project.id).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    store.keyring().create(&project, NOW).unwrap();
    (store, dir, outside)
}

/// Every byte below a folder.
fn bytes_below(path: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        let path = entry.path();
        assert!(!path.to_string_lossy().contains(CANARY), "{path:?}");
        if path.is_dir() {
            bytes_below(&path, found);
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
}

async fn keep_everything(
    store: &Store,
) -> (data_files::DataFile, responses::ResponseId, runs::RunId, BatchId) {
    let project = project();
    let mut incoming = Incoming::begin(store, &project).unwrap();
    incoming.write(format!("{CANARY} row\n").repeat(9_000).as_bytes()).unwrap();
    let arrived = incoming.end().unwrap();
    let new = NewFile { name: format!("{CANARY}.csv"), purpose: "batch".into(), expires_at: None };
    let Kept::Kept(file) = data_files::keep(store, &project, new, arrived, NOW).await.unwrap() else {
        panic!("there is room")
    };
    let response = responses::ResponseId::new();
    responses::save(store, &project, &response, CANARY.as_bytes(), Timestamp::now()).unwrap();
    let run = runs::RunId::new(runs::Kind::Explanation);
    drop(runs::own(store, &project, &run).unwrap());
    runs::save(store, &project, &run, CANARY.as_bytes()).unwrap();
    runs::save_lines(store, &project, &run, CANARY.as_bytes()).unwrap();
    let batch = BatchId::from_bits(7);
    batches::keep_input(store, &project, &batch, &file.path).unwrap();
    let document = format!("{{\"metadata\":\"{CANARY}\"}}");
    let row =
        batches::Row { id: batch.clone(), project: project.clone(), status: "validating".into(), document };
    batches::insert(store, &row).await.unwrap();
    let mut progress = batches::Progress::open(store, &project, &batch, |_| panic!("nothing yet")).unwrap();
    let json = format!("{{\"a\":\"{CANARY}\"}}");
    progress.append(&[batches::Done { number: 1, to: batches::To::Output, json }]).unwrap();
    let idempotency::Begun::New(held) =
        idempotency::begin(store, &project, "k", "/v1/x", [1; 32], NOW).await.unwrap()
    else {
        panic!("the key is free")
    };
    let body = CANARY.as_bytes().to_vec();
    let answer = idempotency::Answer { status: 200, content_type: "application/json".into(), body };
    idempotency::complete(store, held, &answer, NOW).await.unwrap();
    (file, response, run, batch)
}

/// A job with its log, what it published, and a choice.
async fn work_and_publish(store: &Store) -> (JobId, models::Version, SelectionId) {
    let project = project();
    let new = jobs::NewJob {
        kind: jobs::Kind::Train,
        spec: format!("{{\"data\":\"{CANARY}\"}}"),
        request: Some(format!("{{\"about\":\"{CANARY}\"}}")),
        model: "m".into(),
        steps: 3,
        bill: None,
    };
    let claim = jobs::create_claimed(store, &project, new, "w", NOW).await.unwrap();
    let id = claim.id().clone();
    let far = jobs::Progress { step: 1, steps: 3, message: CANARY.into() };
    jobs::report(store, &claim, &far, NOW).await.unwrap();
    let folder = job_folder(store, &project, &id).unwrap();
    let mut log = lines::Lines::append(folder.join("log.jsonl")).unwrap();
    log.write(CANARY).unwrap();
    log.flush().unwrap();
    let staging = Staging::of(store, &project).unwrap();
    staging.place().join(WEIGHTS).write(CANARY.as_bytes()).unwrap();
    let new = models::NewVersion {
        name: "m".parse().unwrap(),
        family: "mlp".into(),
        task: "classification".into(),
        n_params: 1,
        bytes: 1,
        sha256: "0".into(),
        job: Some(id.clone()),
        held: None,
    };
    let manifest = |_| CANARY.as_bytes().to_vec();
    let version =
        jobs::finish_done(store, &claim, new, staging, manifest, |_| CANARY.into(), NOW).await.unwrap();
    evidence::write_card(store, &version, CANARY.as_bytes()).await.unwrap();
    let selection = SelectionId::from_bits(3);
    selections::save(store, &project, &selection, CANARY.as_bytes()).unwrap();
    (id, version, selection)
}

#[tokio::test]
async fn what_a_job_is_asked_says_and_makes_is_in_no_byte_and_a_handed_key_opens_it() {
    let (store, dir, _outside) = encrypted().await;
    let (project, key) = (project(), store.keyring().of(&project()).unwrap().unwrap());
    let (id, version, selection) = work_and_publish(&store).await;
    let mut files = Vec::new();
    bytes_below(dir.path(), &mut files);
    for (path, bytes) in &files {
        assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()), "{path:?}");
    }
    // A process that was handed the key of this project, and not the master key.
    let locked = Store::open(store.layout().clone(), NOW).await.unwrap();
    let handed = locked.clone().handed(project.clone(), key.clone());
    for store in [&store, &handed] {
        let job = jobs::find(store, &project, &id).await.unwrap();
        assert!(job.spec.contains(CANARY) && job.request.unwrap().contains(CANARY));
        assert_eq!(job.outcome.as_deref(), Some(CANARY));
        let log = job_folder(store, &project, &id).unwrap().join("log.jsonl");
        assert_eq!(lines::read(&log, 0, u64::MAX).unwrap(), [(0, CANARY.to_owned())]);
        let found = models::resolve(store, &project, &"m".parse().unwrap()).await.unwrap();
        assert_eq!(found, version);
        assert_eq!(found.dir.join(WEIGHTS).read().unwrap(), CANARY.as_bytes());
        models::check_manifest(&found.dir, CANARY.as_bytes()).unwrap();
        assert_eq!(evidence::card(store, &found).await.unwrap().unwrap(), CANARY.as_bytes());
        assert_eq!(selections::find(store, &project, &selection).unwrap(), CANARY);
    }
    let other = locked.clone().handed(Project::default_project(), key);
    for store in [&locked, &other] {
        assert!(matches!(jobs::find(store, &project, &id).await, Err(StoreError::Locked { .. })));
        let listed = models::list(store, &project).await.unwrap().remove(0);
        let why = listed.dir.join(WEIGHTS).read().unwrap_err();
        assert!(why.to_string().contains("give the master key"), "{why}");
        let found = models::resolve(store, &project, &"m".parse().unwrap()).await;
        assert!(matches!(found, Err(StoreError::Locked { .. })));
    }
}

#[tokio::test]
async fn an_erasure_stops_what_waits_and_what_an_owner_left_and_waits_for_who_works() {
    let (store, _dir, _outside) = encrypted().await;
    let project = project();
    let new = |model: &str| jobs::NewJob {
        kind: jobs::Kind::Train,
        spec: "{}".into(),
        request: Some("{}".into()),
        model: model.into(),
        steps: 0,
        bill: None,
    };
    jobs::create(&store, &project, new("waits"), NOW).await.unwrap();
    let works = jobs::create_claimed(&store, &project, new("works"), "w", NOW).await.unwrap();
    drop(jobs::create_claimed(&store, &project, new("left"), "w", NOW).await.unwrap());
    let act = crate::tenancy::Act::of_command_line(NOW);
    let erasing = tokio::spawn({
        let (store, project) = (store.clone(), project.clone());
        async move { erase::erase(&store, &project, &act).await }
    });
    let far = jobs::Progress { step: 1, steps: 3, message: CANARY.into() };
    loop {
        if jobs::report(&store, &works, &far, NOW).await.unwrap() == jobs::Signal::Cancel {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(!erasing.is_finished(), "its process has the key");
    jobs::finish_cancelled(&store, &works, CANARY, NOW).await.unwrap();
    drop(works);
    let (_, kept) = erasing.await.unwrap().unwrap();
    assert_eq!((kept.jobs, kept.jobs_stopped), (3, 3));
    let states: Vec<(String, String)> =
        sqlx::query_as("SELECT state, message FROM jobs").fetch_all(&store.reader).await.unwrap();
    assert!(states.iter().all(|(state, message)| state == "cancelled" && message.is_empty()), "{states:?}");
}

#[tokio::test]
async fn what_an_encrypted_project_keeps_is_in_no_byte_and_reads_as_it_was_until_its_key_is_destroyed() {
    let (store, dir, outside) = encrypted().await;
    let (project, now) = (project(), Timestamp::now());
    let (file, response, run, batch) = keep_everything(&store).await;

    let read = |contents: Contents| {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut contents.reader(), &mut text).unwrap();
        text
    };
    let found = data_files::find(&store, &project, &file.id, NOW).await.unwrap();
    assert_eq!((&*found.name, found.bytes), (&*format!("{CANARY}.csv"), 9_000 * 16));
    assert!(read(data_files::contents(&store, &project, &found).unwrap()).starts_with(CANARY));
    assert!(read(batches::input(&store, &project, &batch).unwrap()).starts_with(CANARY));
    assert_eq!(responses::read(&store, &project, &response, now).unwrap(), CANARY.as_bytes());
    assert_eq!(runs::read_lines(&store, &project, &run).unwrap(), CANARY.as_bytes());
    assert!(batches::find(&store, &project, &batch).await.unwrap().document.contains(CANARY));
    let mut answered = Vec::new();
    batches::read(&store, &project, &batch, |done| answered.push(done.json)).unwrap();
    assert_eq!(answered, [format!("{{\"a\":\"{CANARY}\"}}")]);
    let again = idempotency::begin(&store, &project, "k", "/v1/x", [1; 32], NOW).await.unwrap();
    assert!(matches!(again, idempotency::Begun::Answered(a) if a.body == CANARY.as_bytes()));

    let mut files = Vec::new();
    bytes_below(dir.path(), &mut files);
    let key_file = std::fs::read(store.layout().project_key(&project)).unwrap();
    let wrapped: Wrapped = serde_json::from_slice(&key_file).unwrap();
    assert!(files.len() >= 6, "{files:?}");
    for (path, bytes) in &files {
        assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()), "{path:?}");
    }
    // A process without the master key, and one with another.
    let locked = Store::open(store.layout().clone(), NOW).await.unwrap();
    let other = MasterKey::create(&outside.path().join("other")).unwrap();
    for store in [locked.clone(), locked.clone().unlocked(other)] {
        let refused = responses::read(&store, &project, &response, now).unwrap_err();
        assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
        assert!(matches!(Incoming::begin(&store, &project), Err(StoreError::Locked { .. })));
        assert!(batches::unfinished(&store).await.unwrap().is_empty(), "others' batches go on");
    }

    let destroyed = locked.keyring().destroy(&project, NOW).unwrap();
    assert_eq!(locked.keyring().destroy(&project, now).unwrap(), destroyed, "once");
    for error in [
        responses::read(&store, &project, &response, now).unwrap_err(),
        data_files::find(&store, &project, &file.id, NOW).await.unwrap_err(),
        Incoming::begin(&store, &project).unwrap_err(),
        store.keyring().create(&project, NOW).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Erased { at, .. } if at == NOW.seconds()), "{error}");
    }
    // The wrapped key is nowhere any more, so that the master key opens nothing of it either.
    let mut files = Vec::new();
    bytes_below(dir.path(), &mut files);
    let needle = &wrapped.wrapped.as_bytes()[..64];
    assert!(!files.iter().any(|(_, bytes)| bytes.windows(64).any(|w| w == needle)));
}

#[tokio::test]
async fn another_master_key_takes_over_and_the_old_one_opens_nothing() {
    let (store, _dir, outside) = encrypted().await;
    let (project, now, response) = (project(), Timestamp::now(), responses::ResponseId::new());
    responses::save(&store, &project, &response, b"kept", now).unwrap();
    let path = outside.path().join("next");
    let next = MasterKey::create(&path).unwrap();
    assert_eq!(store.keyring().rewrap(&next).unwrap(), 1);
    assert_eq!(store.keyring().rewrap(&next).unwrap(), 0, "it is done");
    assert!(matches!(responses::read(&store, &project, &response, now), Err(StoreError::Locked { .. })));
    let store = store.unlocked(MasterKey::read(&path).unwrap());
    assert_eq!(responses::read(&store, &project, &response, now).unwrap(), b"kept");
    assert_eq!(store.keyring().opened_by(&project).unwrap().as_deref(), store.keyring().master_id());
}

#[tokio::test]
async fn a_project_is_encrypted_from_its_first_byte_or_not_at_all() {
    let (store, _dir, _outside) = encrypted().await;
    let twice = store.keyring().create(&project(), NOW).unwrap_err();
    assert!(matches!(twice, StoreError::Refused { code: "already_encrypted", .. }));
    let plain = Project::default_project();
    assert!(!store.keyring().is_encrypted(&plain).unwrap());
    let never = store.keyring().destroy(&plain, NOW).unwrap_err();
    assert!(matches!(never, StoreError::Refused { code: "not_encrypted", .. }));
    // A document that somebody put there is not read as if it had been kept.
    let (id, now) = (responses::ResponseId::new(), Timestamp::now());
    responses::save(&store, &project(), &id, b"kept", now).unwrap();
    let path = store.layout().responses(&project()).join(format!("{}.json", id.as_str()));
    std::fs::write(&path, b"forged").unwrap();
    let refused = responses::read(&store, &project(), &id, now).unwrap_err();
    assert!(matches!(refused, StoreError::DamagedFile { .. }), "{refused}");
}

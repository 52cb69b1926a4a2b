use super::sealed::{SealError, SealedFile, SealedWriter, open, plain_bytes, seal};
use super::*;
use crate::data_files::{self, Incoming, Kept, NewFile};
use crate::{batches, idempotency, responses, runs};
use lyceum_types::ids::BatchId;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const CANARY: &str = "canary-5f1d";

fn key() -> ProjectKey {
    ProjectKey::draw().unwrap()
}

#[test]
fn every_length_opens_to_what_was_sealed_and_at_any_place() {
    let (key, dir) = (key(), tempfile::tempdir().unwrap());
    let chunk: usize = 64 << 10;
    for n in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3 * chunk + 77] {
        let plain: Vec<u8> = (0..n).map(|i| (i % 251) as u8).collect();
        let sealed = seal(&key, "a", &plain).unwrap();
        assert_eq!(plain_bytes(sealed.len() as u64), Some(n as u64));
        assert_eq!(open(&key, "a", &sealed).unwrap(), plain);
        // Written in pieces it has the same form.
        let mut writer = SealedWriter::new(Vec::new(), &key, "a").unwrap();
        plain.chunks(1013).for_each(|piece| writer.write_all(piece).unwrap());
        let path = dir.path().join("file");
        std::fs::write(&path, writer.finish().unwrap()).unwrap();
        let file = Contents::open(&path, Some(&key), "a").unwrap();
        let mut whole = Vec::new();
        std::io::Read::read_to_end(&mut file.reader(), &mut whole).unwrap();
        assert_eq!(whole, plain);
        for at in [0, n / 2, n.saturating_sub(1)] {
            let mut piece = vec![0; (n - at).min(chunk + 9)];
            file.read_exact_at(at as u64, &mut piece).unwrap();
            assert_eq!(piece, plain[at..at + piece.len()]);
        }
    }
}

#[test]
fn whatever_is_changed_cut_moved_or_of_another_key_does_not_open() {
    let (key, dir) = (key(), tempfile::tempdir().unwrap());
    let n = (64 << 10) + 500;
    let sealed = seal(&key, "a", &vec![7; n]).unwrap();
    let chunk = (64 << 10) + 16;
    let refused = |bytes: &[u8], why: SealError| {
        assert_eq!(open(&key, "a", bytes).unwrap_err(), why);
        let path = dir.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        let opened = std::fs::File::open(&path).and_then(|file| SealedFile::open(file, &key, "a"));
        let read = opened.and_then(|file| {
            let mut whole = vec![0; n + 64];
            let mut at = 0;
            while let m @ 1.. = file.read_at(at as u64, &mut whole[at..])? {
                at += m;
            }
            Ok(at)
        });
        assert!(read.is_err(), "read as a file it opens: {why:?}");
    };
    for at in [60, 56 + 100, sealed.len() - 1] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        refused(&changed, SealError::Changed);
    }
    let mut of_other = sealed.clone();
    of_other[10] ^= 1;
    refused(&of_other, SealError::OtherKey);
    refused(b"{\"plain\":1}", SealError::NotSealed);
    refused(&sealed[..30], SealError::NotSealed);
    // Cut behind a whole chunk, and within one; chunks in another order; the last one twice.
    refused(&sealed[..56 + chunk], SealError::Changed);
    refused(&sealed[..sealed.len() - 3], SealError::Changed);
    refused(&sealed[..56], SealError::Changed);
    let (head, first, last) = (&sealed[..56], &sealed[56..56 + chunk], &sealed[56 + chunk..]);
    refused(&[head, last, first].concat(), SealError::Changed);
    refused(&[head, first, last, last].concat(), SealError::Changed);
    assert_eq!(open(&key, "b", &sealed).unwrap_err(), SealError::Changed, "another place");
    assert_eq!(open(&self::key(), "a", &sealed).unwrap_err(), SealError::OtherKey);
}

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

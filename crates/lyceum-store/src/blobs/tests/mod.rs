//! Folders and buckets keep the same promises: objects in memory, a server of our own, and moto's where it is installed.

mod later;
mod moto;
mod server;

use super::s3::{Credentials, PlainHttp, S3};
use super::*;
use crate::data_files::{self, Incoming, Kept, NewFile};
use crate::layout::WEIGHTS;
use crate::models::{self, NewVersion, Version};
use crate::registry::{Act, Actor};
use crate::{Layout, backup};
use lyceum_types::ids::{FileId, ModelRef};
use object_store::memory::InMemory;
use server::{Fault, Server};
use std::fs;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
/// Long after everything was written, for either kind of object store.
const LATER: Timestamp = Timestamp::from_millis(4_000_000_000_000);
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// A data folder; where a request carries 100 bytes, its weights go in parts.
struct House {
    dir: tempfile::TempDir,
    store: Store,
}

async fn house(blobs: Blobs) -> House {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path().join("data")), NOW).await.unwrap();
    House { dir, store: store.with_blobs(blobs) }
}

fn s3(endpoint: &str, bucket: &str) -> Blobs {
    let s3 = S3 {
        place: format!("s3://{bucket}/a/b").parse().unwrap(),
        region: "us-east-1".into(),
        endpoint: Some(endpoint.into()),
        plain_http: PlainHttp::Loopback,
        credentials: Credentials {
            access_key_id: "key".into(),
            secret_access_key: "secret".into(),
            session_token: None,
        },
    };
    super::s3::open(&s3).unwrap().with_part_bytes(100)
}

impl House {
    async fn publish(&self, name: &str) -> Result<Version, StoreError> {
        let staging = Staging::create(self.store.layout()).unwrap();
        // Names with a dash have weights of their own.
        let own = name.split_once('-').map_or("", |_| name);
        let weights: Vec<u8> =
            (0..250u8).map(|i| i ^ own.as_bytes().get(usize::from(i)).copied().unwrap_or(7)).collect();
        fs::write(staging.path().join(WEIGHTS), &weights).unwrap();
        fs::write(staging.path().join("empty"), b"").unwrap();
        let new = NewVersion {
            name: name.parse().unwrap(),
            family: "mlp".into(),
            task: "classify".into(),
            n_params: 7,
            bytes: 250,
            sha256: hex(&Sha256::digest(&weights)),
            job: None,
            held: None,
        };
        let manifest = |number| format!("{{\"version\":{number}}}").into_bytes();
        models::publish(&self.store, &Project::default_project(), new, staging, manifest, NOW).await
    }

    async fn keep(&self, bytes: &[u8]) -> Result<FileId, StoreError> {
        let mut incoming = Incoming::begin(&self.store, &Project::default_project())?;
        incoming.write(bytes)?;
        let new = NewFile { name: "rows.csv".into(), purpose: "user_data".into(), expires_at: None };
        let project = Project::default_project();
        match data_files::keep(&self.store, &project, new, incoming.end()?, NOW).await? {
            Kept::Kept(file) => Ok(file.id),
            other => panic!("{other:?}"),
        }
    }

    async fn resolve(&self, name: &str) -> Result<Version, StoreError> {
        let reference: ModelRef = name.parse().unwrap();
        models::resolve(&self.store, &Project::default_project(), &reference).await
    }

    async fn have(&self, id: &FileId) -> Result<Vec<u8>, StoreError> {
        let file = data_files::have(&self.store, &Project::default_project(), id, NOW).await?;
        Ok(fs::read(file.path).unwrap())
    }

    async fn delete(&self, name: &str) {
        let act = Act { actor: Actor::User("test".into()), note: String::new(), now: NOW };
        models::delete(&self.store, &Project::default_project(), &name.parse().unwrap(), &act).await.unwrap();
    }

    /// As if the machine were another: the same rows, and no copies.
    fn forget_copies(&self) {
        for folder in [self.store.layout().models(), self.store.layout().data_files()] {
            let _ = fs::remove_dir_all(folder);
        }
    }

    fn n_copies(&self) -> usize {
        let layout = self.store.layout();
        let files = |dir: PathBuf| if dir.exists() { walk(&dir, &|_| true).unwrap().len() } else { 0 };
        files(layout.models()) + files(layout.data_files()) + files(layout.staging())
    }
}

/// What every object store must do.
async fn conforms(blobs: Blobs) {
    blobs.check().await.unwrap();
    let house = house(blobs).await;
    let version = house.publish("digits").await.unwrap();
    let file = house.keep(b"a,b\n1,2\n").await.unwrap();
    let empty = house.keep(b"").await.unwrap();
    let told = models::list(&house.store, &Project::default_project()).await.unwrap();
    let before = version.dir.join(WEIGHTS).read().unwrap();

    house.forget_copies();
    // Eight ask at once; each sees the whole folder.
    let asked = (0..8).map(|_| house.resolve("digits"));
    for found in futures_util::future::join_all(asked).await {
        let found = found.unwrap();
        assert_eq!(std::slice::from_ref(&found), &told[..]);
        assert_eq!(found.dir.join(WEIGHTS).read().unwrap(), before);
        assert_eq!(found.dir.join("empty").read().unwrap(), b"");
        let manifest = found.dir.join(crate::layout::MANIFEST).read().unwrap();
        assert_eq!(manifest, b"{\"version\":1}");
        assert!(found.dir.join(crate::layout::MANIFEST_SHA256).exists());
        models::check_manifest(&found.dir, &manifest).unwrap();
    }
    assert_eq!(house.have(&file).await.unwrap(), b"a,b\n1,2\n");
    assert_eq!(house.have(&empty).await.unwrap(), b"");

    // Held objects stay whatever their age; what is deleted goes at once, but not what another holds too.
    let twin = house.publish("figits").await.unwrap();
    assert_eq!(twin.sha256, version.sha256);
    assert_eq!(sweep(&house.store, GRACE, LATER).await.unwrap().n_removed, 0);
    house.delete("digits@1").await;
    house.forget_copies();
    assert_eq!(house.resolve("figits").await.unwrap().dir.join(WEIGHTS).read().unwrap(), before);
    house.delete("figits@1").await;
    data_files::delete(&house.store, &Project::default_project(), &file, NOW).await.unwrap();
    data_files::delete(&house.store, &Project::default_project(), &empty, NOW).await.unwrap();
    assert_eq!(stored(&house.store).await.unwrap(), Stored::default());
    assert_eq!(sweep(&house.store, Duration::ZERO, LATER).await.unwrap(), Swept::default());
}

#[tokio::test]
async fn memory_conforms() {
    conforms(Blobs::new(Arc::new(InMemory::new()), "a/b", "memory").with_part_bytes(100)).await;
}

#[tokio::test]
async fn a_server_of_s3_conforms() {
    conforms(s3(&Server::start().endpoint, "models")).await;
}

#[tokio::test]
async fn an_object_that_is_not_what_was_written_is_refused_by_name() {
    let server = Server::start();
    let house = house(s3(&server.endpoint, "models")).await;
    let version = house.publish("digits").await.unwrap();
    let key = format!("models/a/b/sha256/{}", version.sha256);
    let whole = server.state.lock().unwrap().objects[&key].clone();
    let mut other = whole.clone();
    other[100] ^= 1;
    for (spoilt, says) in
        [(Some(other), "sha256"), (Some(whole[..249].to_vec()), "ends before"), (None, "not there")]
    {
        house.forget_copies();
        match spoilt {
            Some(bytes) => server.state.lock().unwrap().objects.insert(key.clone(), bytes),
            None => server.state.lock().unwrap().objects.remove(&key),
        };
        let error = house.resolve("digits").await.unwrap_err();
        let StoreError::DamagedFile { path, why } = error else { panic!("{error:?}") };
        assert_eq!(path.to_str().unwrap(), format!("s3://models/a/b/sha256/{}", version.sha256));
        assert!(why.contains(says), "{why}");
        assert!(!version.dir.exists(), "nothing of it is seen");
    }
    server.state.lock().unwrap().objects.insert(key, whole);
    house.resolve("digits").await.unwrap();
}

#[tokio::test]
async fn what_was_changed_or_lost_in_the_bucket_is_found() {
    let server = Server::start();
    let house = house(s3(&server.endpoint, "models")).await;
    let version = house.publish("digits").await.unwrap();
    house.keep(b"a,b\n1,2\n").await.unwrap();
    let compared = compare(&house.store, Depth::Bytes).await.unwrap();
    let held = stored(&house.store).await.unwrap();
    assert_eq!((compared.n_objects, compared.bytes), (held.n_objects, held.bytes));
    assert_eq!(compared.damaged, []);

    let key = format!("models/a/b/sha256/{}", version.sha256);
    let whole = server.state.lock().unwrap().objects[&key].clone();
    let mut other = whole.clone();
    other[100] ^= 1;
    for (spoilt, says, is_seen_in_a_list) in [
        (Some(other), "the sha256 of its bytes is", false),
        (Some(whole[..249].to_vec()), "it has 249 bytes, 250 were written", true),
        (None, "it is not there", true),
    ] {
        match spoilt {
            Some(bytes) => server.state.lock().unwrap().objects.insert(key.clone(), bytes),
            None => server.state.lock().unwrap().objects.remove(&key),
        };
        let found = compare(&house.store, Depth::Bytes).await.unwrap().damaged;
        let [damaged] = &found[..] else { panic!("{found:?}") };
        assert_eq!(damaged.object, format!("s3://models/a/b/sha256/{}", version.sha256));
        assert!(damaged.path.ends_with(&format!("/digits/1/{WEIGHTS}")), "{damaged:?}");
        assert!(damaged.why.starts_with(says), "{damaged:?}");
        let listed = compare(&house.store, Depth::Lengths).await.unwrap().damaged;
        assert_eq!(listed, if is_seen_in_a_list { found } else { Vec::new() });
    }
    // What is deleted is not missed.
    house.delete("digits").await;
    assert_eq!(compare(&house.store, Depth::Bytes).await.unwrap().damaged, []);
}

/// Every request of a publication and of an upload fails once, in each of the three ways.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_and_what_was_refused_leaves_nothing() {
    let server = Server::start();
    let house = house(s3(&server.endpoint, "models")).await;
    house.publish("first").await.unwrap();
    let mut refused = 0;
    for fault in [Fault::Refused, Fault::Lost, Fault::Busy] {
        for nth in 0.. {
            let name = format!("{fault:?}-{nth}").to_lowercase();
            let before = house.n_copies();
            let at = server.state.lock().unwrap().n_requests + nth;
            server.state.lock().unwrap().faults.insert(at, fault);
            let (version, file) = (house.publish(&name).await, house.keep(name.as_bytes()).await);
            let is_over = !server.state.lock().unwrap().faults.is_empty();
            server.state.lock().unwrap().faults.clear();
            if fault == Fault::Refused && !is_over {
                refused += 1;
                assert!(version.is_err() || file.is_err(), "{name}");
            } else {
                assert!(version.is_ok() && file.is_ok(), "{name}: {version:?} {file:?}");
            }
            if version.is_err() {
                assert!(matches!(house.resolve(&name).await, Err(StoreError::NotFound { .. })), "{name}");
                assert_eq!(house.n_copies(), before + 1, "{name}: the file alone");
            }
            house.forget_copies();
            if let Ok(version) = &version {
                let found = house.resolve(&name).await.unwrap();
                let bytes = found.dir.join(WEIGHTS).read().unwrap();
                assert_eq!(hex(&Sha256::digest(bytes)), version.sha256, "{name}");
            }
            if let Ok(id) = &file {
                assert_eq!(house.have(id).await.unwrap(), name.as_bytes());
            }
            if is_over {
                break;
            }
        }
    }
    assert!(refused >= 8, "{refused}");
    // What the refused ones left is the sweep's, and nothing else is.
    let held = stored(&house.store).await.unwrap();
    let swept = sweep(&house.store, GRACE, LATER).await.unwrap();
    assert!(swept.n_removed > 0 && swept.n_kept < held.n_objects, "{swept:?} of {held:?}");
    assert_eq!(swept.n_kept, stored(&house.store).await.unwrap().n_objects);
    house.forget_copies();
    house.resolve("first").await.unwrap();
}

#[tokio::test]
async fn the_sweep_spares_what_is_young_and_what_is_on_its_way() {
    let server = Server::start();
    let house = house(s3(&server.endpoint, "models")).await;
    let folder = house.dir.path().join("coming");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("bytes"), b"on its way").unwrap();
    let announced = Timestamp::from_millis(server::WRITTEN_MS);
    let coming = bring(&house.store, &Project::default_project(), &folder, announced).await.unwrap().unwrap();
    let rubbish = format!("models/a/b/sha256/{}", hex(&[7; 32]));
    server.state.lock().unwrap().objects.insert(rubbish.clone(), b"x".to_vec());
    server.state.lock().unwrap().objects.insert("models/a/b/sha256/README".into(), b"not ours".to_vec());
    let n_there = || server.state.lock().unwrap().objects.len();
    let all = n_there();

    let after = |seconds: i64| Timestamp::from_millis(server::WRITTEN_MS + seconds * 1000);
    assert_eq!(sweep(&house.store, GRACE, after(3600)).await.unwrap().n_removed, 0);
    // No grace, and still what is announced stays.
    assert_eq!(sweep(&house.store, Duration::from_secs(1), after(1)).await.unwrap().n_removed, 0);
    let swept = sweep(&house.store, Duration::from_secs(1), after(2)).await.unwrap();
    assert_eq!((swept.n_removed, swept.bytes_removed, n_there()), (2, 11, all - 2));
    // Who comes so late is told, and holds nothing.
    let mut transaction = house.store.write().await.unwrap();
    let late = coming.hold(&mut transaction, "models/late/1").await;
    assert!(matches!(late, Err(StoreError::Objects { .. })), "{late:?}");
}

#[tokio::test]
async fn a_prefix_belongs_to_one_database() {
    let server = Server::start();
    let ours = house(s3(&server.endpoint, "models")).await;
    ours.publish("digits").await.unwrap();
    // Another process of the same database.
    let again = House {
        store: ours.store.clone().with_blobs(s3(&server.endpoint, "models")),
        dir: tempfile::tempdir().unwrap(),
    };
    again.publish("digits").await.unwrap();

    let theirs = house(s3(&server.endpoint, "models")).await;
    let foreign = |error: StoreError| matches!(error, StoreError::Refused { code: "foreign_bucket", .. });
    for _ in 0..2 {
        assert!(foreign(theirs.publish("x").await.unwrap_err()));
        assert!(foreign(theirs.keep(b"x").await.unwrap_err()));
        assert!(foreign(sweep(&theirs.store, GRACE, LATER).await.unwrap_err()));
    }
    assert_eq!(theirs.n_copies(), 0);
    take_over(&theirs.store).await.unwrap();
    theirs.publish("x").await.unwrap();
}

#[tokio::test]
async fn a_restored_database_reads_the_objects_and_writes_when_it_is_told_to() {
    if crate::conformance::on_postgres() {
        return; // a restore wants an empty database, which is SQLite's here
    }
    let server = Server::start();
    let ours = house(s3(&server.endpoint, "models")).await;
    ours.publish("digits").await.unwrap();
    ours.forget_copies();
    fs::create_dir(ours.store.layout().models()).unwrap();
    let folder = ours.dir.path().join("backup");
    let manifest = backup::create(&ours.store, &folder, NOW).await.unwrap();
    assert_eq!(manifest.files.len(), 0, "the bytes lie elsewhere, and the backup says so");
    let objects = manifest.objects.unwrap();
    assert_eq!((objects.place.as_str(), objects.n_objects), ("s3://models/a/b", 4));

    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("data"));
    backup::restore(&folder, layout.clone(), crate::Database::Sqlite, NOW).await.unwrap();
    let without = House { store: Store::open(layout, NOW).await.unwrap(), dir };
    assert!(matches!(without.resolve("digits").await, Err(StoreError::NoObjects { .. })));
    let House { store, dir } = without;
    let restored = House { store: store.with_blobs(s3(&server.endpoint, "models")), dir };
    let version = restored.resolve("digits").await.unwrap();
    assert_eq!(version.dir.join(WEIGHTS).read().unwrap().len(), 250);
    assert!(restored.publish("digits").await.is_err());
    take_over(&restored.store).await.unwrap();
    assert_eq!(restored.publish("digits").await.unwrap().number, 2);
}

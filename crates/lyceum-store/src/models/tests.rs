use super::*;
use crate::layout::WEIGHTS;
use crate::registry;
use std::collections::BTreeSet;
use std::fs;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

pub(super) async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    (dir, store)
}

fn new(name: &str) -> NewVersion {
    NewVersion {
        name: name.parse().unwrap(),
        family: "mlp".into(),
        task: "classify".into(),
        n_params: 7,
        bytes: 3,
        sha256: "ab".into(),
        job: None,
        held: None,
    }
}

fn staged(store: &Store) -> Staging {
    let staging = Staging::create(store.layout()).unwrap();
    fs::write(staging.path().join(WEIGHTS), b"abc").unwrap();
    staging
}

async fn add(store: &Store, name: &str) -> Result<Version, StoreError> {
    let manifest = |number| format!("{{\"version\":{number}}}").into_bytes();
    publish(store, &Project::default_project(), new(name), staged(store), manifest, NOW).await
}

pub(super) async fn publish_as(store: &Store, project: &Project, name: &str) -> Version {
    let manifest = |number| format!("{{\"version\":{number}}}").into_bytes();
    publish(store, project, new(name), staged(store), manifest, NOW).await.unwrap()
}

async fn set_alias(store: &Store, name: &ModelName, alias: &str, number: u32) -> Result<(), StoreError> {
    let alias = alias.parse().unwrap();
    let project = Project::default_project();
    registry::set_alias(store, &project, (name, &alias), (number, None), &act()).await.map(drop)
}

pub(super) fn act() -> Act {
    Act { actor: registry::Actor::User("test".into()), note: String::new(), now: NOW }
}

async fn find(store: &Store, reference: &str) -> Result<Version, StoreError> {
    resolve(store, &Project::default_project(), &reference.parse().unwrap()).await
}

#[tokio::test]
async fn a_published_version_is_found_by_name_number_and_alias() {
    let (dir, store) = store().await;
    let first = add(&store, "digits").await.unwrap();
    let second = add(&store, "digits").await.unwrap();
    assert_eq!((first.id().as_str(), second.id().as_str()), ("digits@1", "digits@2"));
    assert_eq!(second.dir.path(), dir.path().join("models/digits/2"));
    assert_eq!(second.dir.join(MANIFEST).read().unwrap(), b"{\"version\":2}");
    assert_eq!(second.dir.join(WEIGHTS).read().unwrap(), b"abc");

    set_alias(&store, &first.name, "stable", 2).await.unwrap();
    set_alias(&store, &first.name, "stable", 1).await.unwrap();
    assert_eq!(find(&store, "digits").await.unwrap(), second);
    assert_eq!(find(&store, "digits@latest").await.unwrap(), second);
    assert_eq!(find(&store, "digits@1").await.unwrap(), first);
    assert_eq!(find(&store, "digits@stable").await.unwrap(), first);
    for missing in ["digits@3", "digits@other", "digit"] {
        assert!(matches!(find(&store, missing).await, Err(StoreError::NotFound { .. })), "{missing}");
    }
    assert!(set_alias(&store, &first.name, "stable", 9).await.is_err());
    assert!(set_alias(&store, &first.name, "latest", 1).await.is_err());
}

#[tokio::test]
async fn a_held_version_is_passed_over_by_the_bare_name_until_it_is_promoted() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let held = |held: Option<&str>| NewVersion { held: held.map(str::to_owned), ..new("digits") };
    let publish = async |new: NewVersion| {
        let manifest = |_| b"{}".to_vec();
        super::publish(&store, &project, new, staged(&store), manifest, NOW).await.unwrap()
    };
    let lonely = publish(NewVersion { name: "lonely".parse().unwrap(), ..held(Some("why")) }).await;
    assert!(matches!(find(&store, "lonely").await, Err(StoreError::NotFound { .. })), "nothing is served");
    assert_eq!(find(&store, "lonely@1").await.unwrap(), lonely);

    let first = publish(held(None)).await;
    let second = publish(held(Some("0.2 lower under pgd"))).await;
    assert_eq!(find(&store, "digits").await.unwrap(), first);
    assert_eq!(find(&store, "digits@latest").await.unwrap(), first);
    assert_eq!(find(&store, "digits@2").await.unwrap(), second);
    assert_eq!(second.held.as_deref(), Some("0.2 lower under pgd"));
    let aliased = set_alias(&store, &first.name, "candidate", 2).await;
    assert!(matches!(aliased, Err(StoreError::Held { .. })), "an alias is no way around a gate");
    assert_eq!(list(&store, &project).await.unwrap()[1], second);

    assert!(promote(&store, &project, &first.name, 3, &act()).await.is_err());
    let other = Project { tenant: "other".into(), id: "other".into() };
    assert!(promote(&store, &other, &first.name, 2, &act()).await.is_err());
    assert_eq!(promote(&store, &project, &first.name, 2, &act()).await.unwrap(), second);
    let served = find(&store, "digits").await.unwrap();
    assert_eq!((served.number, served.held), (2, None));
    set_alias(&store, &first.name, "candidate", 2).await.unwrap();
    let history = crate::registry::history(&store, &project, &first.name).await.unwrap();
    let told: Vec<_> = history.iter().map(|e| (e.kind.as_str(), e.version, e.note.as_str())).collect();
    assert_eq!(told[0], ("promoted", 2, "it was held: 0.2 lower under pgd"), "{told:?}");
    assert_eq!(find(&store, "lonely@1").await.unwrap().held.as_deref(), Some("why"), "the others stay held");
}

#[tokio::test]
async fn what_a_job_takes_back_leaves_no_event_and_an_alias_keeps_it() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let (first, second) = (add(&store, "digits").await.unwrap(), add(&store, "digits").await.unwrap());
    set_alias(&store, &first.name, "mine", 1).await.unwrap();
    for version in [&first, &second] {
        withdraw(&store, &project, version).await.unwrap();
    }
    assert_eq!(list(&store, &project).await.unwrap(), std::slice::from_ref(&first));
    assert!(!second.dir.exists() && first.dir.exists());
    assert_eq!(crate::registry::history(&store, &project, &first.name).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_publish_at_once_get_each_its_own_number() {
    let (dir, first) = store().await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        tasks.push(tokio::spawn(async move {
            let mut numbers = Vec::new();
            for _ in 0..5 {
                numbers.push(add(&store, "digits").await.unwrap().number);
            }
            numbers
        }));
    }
    let mut numbers = BTreeSet::new();
    for task in tasks {
        numbers.extend(task.await.unwrap());
    }
    assert_eq!(numbers, (1..=15).collect());
    let listed = list(&first, &Project::default_project()).await.unwrap();
    assert_eq!(listed.len(), 15);
    assert!(listed.iter().all(|version| version.dir.join(MANIFEST).exists()));
    assert_eq!(fs::read_dir(first.layout().staging()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_deleted_version_leaves_no_row_no_alias_and_no_folder_and_its_number_is_not_given_again() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    add(&store, "digits").await.unwrap();
    let second = add(&store, "digits").await.unwrap();
    set_alias(&store, &second.name, "stable", 2).await.unwrap();

    let stable = "digits@stable".parse().unwrap();
    assert!(matches!(delete(&store, &project, &stable, &act()).await, Err(StoreError::Aliased { .. })));
    registry::remove_alias(&store, &project, &second.name, &"stable".parse().unwrap(), &act()).await.unwrap();
    let deleted = delete(&store, &project, &"digits@2".parse().unwrap(), &act()).await.unwrap();
    assert_eq!(deleted, second);
    assert!(!second.dir.exists());
    assert!(find(&store, "digits@stable").await.is_err());
    assert_eq!(find(&store, "digits").await.unwrap().number, 1);
    assert_eq!(add(&store, "digits").await.unwrap().number, 3);
    assert!(delete(&store, &project, &"digits@2".parse().unwrap(), &act()).await.is_err());
    assert_eq!(fs::read_dir(store.layout().staging()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_deletion_that_a_crash_cut_off_is_finished_at_the_next_start() {
    let (dir, store) = store().await;
    let version = add(&store, "digits").await.unwrap();
    let mut transaction = store.write().await.unwrap();
    sqlx::query("UPDATE model_versions SET state = 'deleting'").execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert!(find(&store, "digits").await.is_err(), "invisible from the first moment");
    store.close().await;

    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    assert!(!version.dir.exists());
    let (n,): (i64,) =
        sqlx::query_as("SELECT COUNT(*) FROM model_versions").fetch_one(&store.reader).await.unwrap();
    assert_eq!(n, 0);
}

#[tokio::test]
async fn a_folder_that_a_crash_left_without_a_row_does_not_stop_its_number() {
    let (_dir, store) = store().await;
    let name: ModelName = "digits".parse().unwrap();
    let orphan = store.layout().version_dir(&Project::default_project(), &name, 1);
    fs::create_dir_all(&orphan).unwrap();
    fs::write(orphan.join("stale"), b"").unwrap();
    let version = add(&store, "digits").await.unwrap();
    assert_eq!(version.number, 1);
    assert!(!version.dir.join("stale").exists());
}

#[tokio::test]
async fn a_publication_that_fails_leaves_nothing() {
    let (_dir, store) = store().await;
    // A file where the name's folder should be: the rename cannot happen.
    fs::write(store.layout().models().join("digits"), b"").unwrap();
    assert!(matches!(add(&store, "digits").await, Err(StoreError::File { .. })));
    assert!(list(&store, &Project::default_project()).await.unwrap().is_empty());
    assert_eq!(fs::read_dir(store.layout().staging()).unwrap().count(), 0);
    fs::remove_file(store.layout().models().join("digits")).unwrap();
    assert_eq!(add(&store, "digits").await.unwrap().number, 1, "the number was given back");
}

#[tokio::test]
async fn a_foreign_project_finds_nothing() {
    let (_dir, store) = store().await;
    add(&store, "digits").await.unwrap();
    let other = Project { tenant: "other".into(), id: "other".into() };
    assert!(list(&store, &other).await.unwrap().is_empty());
    let reference = "digits".parse().unwrap();
    assert!(matches!(resolve(&store, &other, &reference).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(delete(&store, &other, &reference, &act()).await, Err(StoreError::NotFound { .. })));
}

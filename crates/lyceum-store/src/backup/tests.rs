use super::*;
use crate::{idempotency, jobs, keys, privacy};
use lyceum_types::ids::{KeyScope, Project};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

/// A store with a row of every kind of value: text, numbers, doubles, bytes and nulls, and files.
async fn store(dir: &Path) -> Store {
    let store = Store::open(Layout::new(dir), NOW).await.unwrap();
    let project = Project::default_project();
    let grant =
        keys::KeyGrant { name: "ü \"quoted\"\n".into(), scopes: vec![KeyScope::Admin], expires_at: None };
    keys::create(&store, &project, grant, NOW).await.unwrap();
    let new = jobs::NewJob {
        kind: jobs::Kind::Train,
        request: None,
        spec: "{\"a\": 1}".into(),
        model: "m".into(),
        steps: u64::MAX,
        bill: None,
    };
    jobs::create(&store, &project, new, NOW).await.unwrap();
    idempotency::begin(&store, &project, "k", "/v1/x", [7; 32], NOW).await.unwrap();
    let budget = privacy::Budget {
        data_sha256: "d".into(),
        epsilon: 3.0,
        delta: 1e-5,
        accountant: "pld".into(),
        created_at: NOW,
    };
    privacy::set_budget(&store, &project, &budget, &crate::tenancy::audit::Act::of_command_line(NOW))
        .await
        .unwrap();
    let models = store.layout().models().join("a");
    fs::create_dir_all(&models).unwrap();
    fs::write(models.join("weights"), vec![5; 300_000]).unwrap();
    fs::write(models.join("job.lock"), b"").unwrap();
    fs::write(store.layout().staging().join("half"), b"written").unwrap();
    let brought = store.layout().root().join("files/brought");
    fs::create_dir_all(&brought).unwrap();
    for name in ["mine.lock", "lyceum.db.csv", "x.partial"] {
        fs::write(brought.join(name), name).unwrap();
    }
    store
}

/// Every row of every table, as a backup tells it.
async fn told(store: &Store) -> Vec<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("b");
    let manifest = create(store, &backup, NOW).await.unwrap();
    let text = |table: &Table| fs::read_to_string(backup.join(format!("rows/{}.jsonl", table.name))).unwrap();
    manifest.tables.iter().map(|table| (table.name.clone(), text(table))).collect()
}

#[tokio::test]
async fn what_was_backed_up_is_restored_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("data")).await;
    let backup = dir.path().join("backup");
    let manifest = create(&store, &backup, NOW).await.unwrap();
    assert_eq!(verify(&backup).await.unwrap(), manifest);
    let files: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
    let brought = ["files/brought/lyceum.db.csv", "files/brought/mine.lock", "files/brought/x.partial"];
    assert_eq!(files, [&brought[..], &["models/a/weights"]].concat());
    assert!(manifest.n_rows() >= 5, "{manifest:?}");

    let layout = Layout::new(dir.path().join("other"));
    let database = crate::conformance::database(&layout).await;
    restore(&backup, layout.clone(), database, NOW).await.unwrap();
    let restored = Store::open(layout.clone(), NOW).await.unwrap();
    assert_eq!(told(&restored).await, told(&store).await);
    assert_eq!(fs::read(layout.models().join("a/weights")).unwrap(), vec![5; 300_000]);
    assert!(!layout.staging().join("half").exists());
}

#[tokio::test]
async fn rows_written_afterwards_are_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("data")).await;
    let before = told(&store).await;
    idempotency::begin(&store, &Project::default_project(), "later", "/v1/x", [7; 32], NOW).await.unwrap();
    assert_ne!(told(&store).await, before);
}

#[tokio::test]
async fn every_kind_of_damage_is_named_and_nothing_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("data")).await;
    let whole = dir.path().join("backup");
    create(&store, &whole, NOW).await.unwrap();
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 6] = [
        ("weights", |b| fs::write(b.join("files/models/a/weights"), vec![6; 300_000]).unwrap()),
        ("weights", |b| fs::remove_file(b.join("files/models/a/weights")).unwrap()),
        ("jobs.jsonl", |b| fs::write(b.join("rows/jobs.jsonl"), b"").unwrap()),
        ("extra", |b| fs::write(b.join("files/extra"), b"x").unwrap()),
        ("backup.json", |b| fs::remove_file(b.join(MANIFEST)).unwrap()),
        ("backup.json", |b| {
            let text = fs::read_to_string(b.join(MANIFEST)).unwrap();
            fs::write(b.join(MANIFEST), text.replace("models/a", "../../x")).unwrap();
        }),
    ];
    for (i, (name, harm)) in harms.into_iter().enumerate() {
        let backup = dir.path().join(format!("harmed-{i}"));
        for path in walk(&whole, &|_| true).unwrap() {
            copy(&whole.join(&path), &backup.join(&path)).unwrap();
        }
        harm(&backup);
        let layout = Layout::new(dir.path().join("other"));
        let error = restore(&backup, layout.clone(), Database::Sqlite, NOW).await.unwrap_err();
        assert!(error.to_string().contains(name), "{i}: {error}");
        assert!(!layout.root().exists(), "{i}");
    }
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir.path().join("data")).await;
    let backup = dir.path().join("backup");
    create(&store, &backup, NOW).await.unwrap();
    let again = create(&store, &backup, NOW).await.unwrap_err();
    assert!(matches!(again, StoreError::NotEmpty { .. }), "{again}");
    let over = restore(&backup, store.layout().clone(), Database::Sqlite, NOW).await.unwrap_err();
    assert!(matches!(over, StoreError::NotEmpty { .. }), "{over}");
    let within = create(&store, &store.layout().root().join("backup"), NOW).await.unwrap_err();
    assert!(matches!(within, StoreError::Within { .. }), "{within}");
}

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000);

async fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    (dir, store)
}

async fn put(store: &Store, project: &Project, name: &str, expires_at: Option<Timestamp>) -> DataFile {
    let mut incoming = Incoming::begin(store, &Project::default_project()).unwrap();
    incoming.write(b"a,b\n").unwrap();
    assert_eq!(incoming.write(b"1,2\n").unwrap(), 8);
    let new = NewFile { name: name.into(), purpose: "user_data".into(), expires_at };
    match keep(store, project, new, incoming.end().unwrap(), NOW).await.unwrap() {
        Kept::Kept(file) => file,
        other => panic!("{other:?}"),
    }
}

fn query() -> Query {
    Query { purpose: None, after: None, limit: 10, order: Order::OldestFirst }
}

#[tokio::test]
async fn a_file_is_found_whole_by_its_own_project_only() {
    let (_dir, store) = open().await;
    let ours = Project::default_project();
    let theirs = Project { tenant: "other".into(), id: "default".into() };
    let file = put(&store, &ours, "rows.csv", None).await;
    assert_eq!(file.bytes, 8);
    // sha256sum of the eight bytes.
    assert_eq!(file.sha256, "492d5ea496056f1a6a6592241032fab764c321596317930b4fa0e1e8bc3b7470");
    assert_eq!(std::fs::read(&file.path).unwrap(), b"a,b\n1,2\n");
    assert_eq!(file.path.file_name().unwrap(), "rows.csv");
    assert_eq!(find(&store, &ours, &file.id, NOW).await.unwrap(), file);
    assert!(matches!(find(&store, &theirs, &file.id, NOW).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(delete(&store, &theirs, &file.id, NOW).await, Err(StoreError::NotFound { .. })));
    assert_eq!(list(&store, &theirs, &query(), NOW).await.unwrap(), (vec![], false));
    delete(&store, &ours, &file.id, NOW).await.unwrap();
    assert!(!file.path.exists());
    assert!(matches!(delete(&store, &ours, &file.id, NOW).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn pages_go_both_ways_and_a_cursor_may_be_gone() {
    let (_dir, store) = open().await;
    let project = Project::default_project();
    let mut files = Vec::new();
    for name in ["a.csv", "b.csv", "c.csv"] {
        files.push(put(&store, &project, name, None).await);
    }
    let names =
        |page: (Vec<DataFile>, bool)| (page.0.into_iter().map(|f| f.name).collect::<Vec<_>>(), page.1);
    let first = list(&store, &project, &Query { limit: 2, ..query() }, NOW).await.unwrap();
    assert_eq!(names(first), (vec!["a.csv".into(), "b.csv".into()], true));
    delete(&store, &project, &files[1].id, NOW).await.unwrap();
    let after = Query { after: Some(files[1].id.clone()), ..query() };
    assert_eq!(names(list(&store, &project, &after, NOW).await.unwrap()), (vec!["c.csv".into()], false));
    let newest = Query { order: Order::NewestFirst, after: Some(files[2].id.clone()), ..query() };
    assert_eq!(names(list(&store, &project, &newest, NOW).await.unwrap()), (vec!["a.csv".into()], false));
    let other = Query { purpose: Some("evals".into()), ..query() };
    assert_eq!(list(&store, &project, &other, NOW).await.unwrap().0, vec![]);
}

#[tokio::test]
async fn an_expired_file_is_gone_at_once_and_its_bytes_with_the_next_write() {
    let (_dir, store) = open().await;
    let project = Project::default_project();
    let later = NOW.plus(std::time::Duration::from_secs(3600));
    let file = put(&store, &project, "rows.csv", Some(later)).await;
    let before = Timestamp::from_millis(later.millis() - 1);
    assert!(find(&store, &project, &file.id, before).await.is_ok());
    assert!(matches!(find(&store, &project, &file.id, later).await, Err(StoreError::NotFound { .. })));
    assert_eq!(list(&store, &project, &query(), later).await.unwrap().0, vec![]);
    assert!(file.path.exists());
    assert!(delete(&store, &project, &file.id, later).await.is_err());
    assert!(!file.path.exists());
}

#[tokio::test]
async fn what_a_crash_left_is_removed_when_the_store_opens_and_nothing_else() {
    let (dir, store) = open().await;
    let file = put(&store, &Project::default_project(), "rows.csv", None).await;
    let orphan = store.layout().data_file_dir(&FileId::from_bits(7));
    std::fs::create_dir_all(&orphan).unwrap();
    std::fs::write(store.layout().data_files().join("note.txt"), "mine").unwrap();
    // An upload that broke off.
    drop(Incoming::begin(&store, &Project::default_project()).unwrap());
    store.close().await;
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    assert!(!orphan.exists());
    assert!(file.path.exists() && store.layout().data_files().join("note.txt").exists());
    assert_eq!(std::fs::read_dir(store.layout().staging()).unwrap().count(), 0);
}

#[test]
fn no_name_leads_out_of_the_folder_and_the_extension_stays() {
    for (name, expected) in [
        ("rows.csv", "rows.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\My Rows.tsv", "My_Rows.tsv"),
        ("..", "data"),
        ("", "data"),
        (".hidden.csv", "hidden.csv"),
        ("größe.jsonl", "gr__e.jsonl"),
    ] {
        assert_eq!(disk_name(name, false), expected, "{name:?}");
    }
    assert!(disk_name(&format!("{}.csv", "x".repeat(300)), false).ends_with("x.csv"));
}

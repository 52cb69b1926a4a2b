use super::*;
use crate::Layout;
use crate::tenancy::admin_keys::{self, bootstrap};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    (dir, store)
}

fn grant(scopes: &[KeyScope], expires_at: Option<Timestamp>) -> KeyGrant {
    KeyGrant { name: "test".into(), scopes: scopes.to_vec(), expires_at }
}

#[tokio::test]
async fn a_key_is_valid_until_it_expires_or_is_revoked() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let end = NOW.plus(Duration::from_secs(10));
    let (key, secret) =
        create(&store, &project, grant(&[KeyScope::Inference], Some(end)), NOW).await.unwrap();
    let verdict = verify(&store, secret.reveal(), NOW).await.unwrap();
    let Verdict::Valid(found) = verdict else { panic!("{verdict:?}") };
    assert_eq!(found, key);
    assert!(found.allows(KeyScope::Inference) && !found.allows(KeyScope::Admin));
    assert!(matches!(verify(&store, secret.reveal(), end).await.unwrap(), Verdict::Expired(_)));

    revoke(&store, &project, &key.id, NOW).await.unwrap();
    revoke(&store, &project, &key.id, end).await.unwrap();
    assert!(matches!(verify(&store, secret.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));
    assert_eq!(list(&store, &project).await.unwrap()[0].revoked_at, Some(NOW));
}

#[tokio::test]
async fn another_process_sees_a_revocation_at_once() {
    let (dir, server) = store().await;
    let command = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    let project = Project::default_project();
    let (key, secret) = create(&command, &project, grant(&[KeyScope::Admin], None), NOW).await.unwrap();
    assert!(matches!(verify(&server, secret.reveal(), NOW).await.unwrap(), Verdict::Valid(_)));
    revoke(&command, &project, &key.id, NOW).await.unwrap();
    assert!(matches!(verify(&server, secret.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));
}

#[tokio::test]
async fn secrets_that_were_never_given_are_unknown() {
    let (_dir, store) = store().await;
    let (_, secret) =
        create(&store, &Project::default_project(), grant(&[KeyScope::Admin], None), NOW).await.unwrap();
    let near = format!("{}0", &secret.reveal()[..secret.reveal().len() - 1]);
    let far = format!("sk-{}", "0".repeat(48));
    for text in ["", "sk-", far.as_str(), &secret.reveal()[3..], &format!("{}0", secret.reveal())] {
        assert_eq!(verify(&store, text, NOW).await.unwrap(), Verdict::Unknown, "{text:?}");
    }
    if near != secret.reveal() {
        assert_eq!(verify(&store, &near, NOW).await.unwrap(), Verdict::Unknown);
    }
}

#[tokio::test]
async fn the_secret_is_in_no_file_and_no_debug_text() {
    let (dir, store) = store().await;
    let (key, secret) =
        create(&store, &Project::default_project(), grant(&[KeyScope::Admin], None), NOW).await.unwrap();
    let text = secret.reveal().to_owned();
    assert!(!format!("{key:?} {secret:?}").contains(&text[3..]));
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(text.len() - 3).any(|w| w == &text.as_bytes()[3..]), "{path:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_many_first_starts_gets_the_first_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let layout = Layout::new(dir.path());
        tasks.push(tokio::spawn(async move {
            let store = Store::open(layout, NOW).await.unwrap();
            bootstrap(&store, &Project::default_project(), NOW).await.unwrap().is_some()
        }));
    }
    let mut n_created = 0;
    for task in tasks {
        n_created += u32::from(task.await.unwrap());
    }
    assert_eq!(n_created, 1);
}

#[tokio::test]
async fn the_last_use_is_noted_once_a_minute() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let (_, secret) = create(&store, &project, grant(&[KeyScope::Admin], None), NOW).await.unwrap();
    for (after_s, noted_s) in [(0, 0), (59, 0), (60, 60), (61, 60)] {
        let now = NOW.plus(Duration::from_secs(after_s));
        verify(&store, secret.reveal(), now).await.unwrap();
        let noted = list(&store, &project).await.unwrap()[0].last_used_at;
        assert_eq!(noted, Some(NOW.plus(Duration::from_secs(noted_s))));
    }
}

#[tokio::test]
async fn grants_without_sense_are_refused() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    for bad in [
        grant(&[], None),
        grant(&[KeyScope::Admin], Some(NOW)),
        KeyGrant { name: "x".repeat(129), scopes: vec![KeyScope::Admin], expires_at: None },
    ] {
        assert!(matches!(create(&store, &project, bad, NOW).await, Err(StoreError::BadId(_))));
    }
    assert!(list(&store, &project).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_foreign_project_sees_and_revokes_nothing() {
    let (_dir, store) = store().await;
    let (key, _) =
        create(&store, &Project::default_project(), grant(&[KeyScope::Admin], None), NOW).await.unwrap();
    let other = Project { tenant: "other".into(), id: "other".into() };
    assert!(list(&store, &other).await.unwrap().is_empty());
    assert!(matches!(revoke(&store, &other, &key.id, NOW).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_ends_while_its_rotation_waits_has_no_successor() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let first = bootstrap(&store, &project, NOW).await.unwrap().unwrap();
    let ((key, _), (admin, _)) = (first.key, first.admin_key);
    let mut writing = store.write().await.unwrap();
    for sql in ["UPDATE api_keys SET revoked_at = 1", "UPDATE admin_keys SET revoked_at = 1"] {
        sqlx::query(sql).execute(&mut *writing).await.unwrap();
    }
    let (act, none) = (Act::of_command_line(NOW), Duration::ZERO);
    let end = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        writing.commit().await.unwrap();
    };
    let (of_project, of_organization, ()) = tokio::join!(
        rotate(&store, &project, &key.id, none, &act),
        admin_keys::rotate(&store, &admin.tenant, &admin.id, none, &act),
        end,
    );
    assert!(matches!(of_project, Err(StoreError::NotFound { what: "key", .. })), "{of_project:?}");
    assert!(matches!(of_organization, Err(StoreError::NotFound { .. })), "{of_organization:?}");
    assert_eq!(list(&store, &project).await.unwrap().len(), 1);
}

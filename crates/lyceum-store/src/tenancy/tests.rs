use super::admin_keys::{self, Order, bootstrap};
use super::audit::{self, Broken, Filter};
use super::people::{self, NewUser};
use super::projects::{self, Which};
use super::service_accounts::{self, FirstKey};
use super::{Act, Page, guards, rates};
use crate::keys::{self, KeyGrant, KeyOwner, Verdict};
use crate::{Layout, Store, StoreError};
use lyceum_guard::{Action, Injections, Kind, Policy, Rule, Stop, Stops, Wanted};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::limits;
use lyceum_types::tenancy::{
    ListMode, ModelPermissions, OrganizationRetention, ProjectRetention, ProjectRole, RateLimit, RateSubject,
    Retention, Role,
};
use serde_json::json;
use std::time::Duration;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const DEFAULT: &str = "default";

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
    (dir, store)
}

fn act() -> Act {
    Act::of_command_line(NOW)
}

fn grant(scopes: &[KeyScope]) -> KeyGrant {
    KeyGrant { name: "test".into(), scopes: scopes.to_vec(), expires_at: None }
}

fn ada(role: Role) -> NewUser {
    NewUser { name: "Ada".into(), email: Some("ada@example.org".into()), role, is_default: false }
}

async fn kinds(store: &Store, tenant: &str) -> Vec<String> {
    let listed = audit::list(store, tenant, &Filter::default(), Page::WHOLE, None).await.unwrap();
    listed.data.into_iter().rev().map(|entry| entry.kind).collect()
}

fn is_missing<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::NotFound { .. })), "{result:?}");
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: &str) {
    match result {
        Err(StoreError::Refused { code, .. }) => assert_eq!(code, expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn projects_are_made_listed_renamed_and_archived() {
    let (_dir, store) = store().await;
    let mut made = Vec::new();
    for name in ["one", "two", "three"] {
        made.push(projects::create(&store, DEFAULT, name, &act()).await.unwrap().project);
    }
    projects::rename(&store, &made[0], "uno", &act()).await.unwrap();
    projects::archive(&store, &made[1], &act()).await.unwrap();
    projects::archive(&store, &made[1], &act()).await.unwrap();
    let names = async |which, after: Option<&str>, limit| {
        let page = Page { after, limit };
        let listed = projects::list(&store, DEFAULT, which, page).await.unwrap();
        (listed.data.into_iter().map(|found| found.name).collect::<Vec<_>>(), listed.has_more)
    };
    let texts = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(Which::Active, None, 9).await, (texts(&["default", "uno", "three"]), false));
    assert_eq!(names(Which::All, None, 3).await, (texts(&["default", "uno", "two"]), true));
    assert_eq!(names(Which::All, Some(&made[1].id), 3).await, (texts(&["three"]), false));
    is_refused(projects::rename(&store, &made[1], "x", &act()).await, "project_archived");
    is_refused(projects::archive(&store, &Project::default_project(), &act()).await, "default_project");
    for bad in ["", " ", "a\nb", &"x".repeat(257)] {
        let refused = projects::create(&store, DEFAULT, bad, &act()).await;
        assert!(matches!(refused, Err(StoreError::BadId(_))), "{bad:?}");
    }
    let expected =
        ["project.created", "project.created", "project.created", "project.updated", "project.archived"];
    assert_eq!(kinds(&store, DEFAULT).await, expected);
}

#[tokio::test]
async fn nothing_of_one_organisation_is_there_for_another() {
    let (_dir, store) = store().await;
    let (ours, first) = projects::create_organization(&store, "ours", &act()).await.unwrap();
    let (theirs, _) = projects::create_organization(&store, "theirs", &act()).await.unwrap();
    let user = people::add_user(&store, &ours.id, ada(Role::Owner), &act()).await.unwrap();
    // The same address may belong to both.
    people::add_user(&store, &theirs.id, ada(Role::Owner), &act()).await.unwrap();
    is_refused(people::add_user(&store, &ours.id, ada(Role::Reader), &act()).await, "user_exists");
    let scopes = grant(&[KeyScope::OrganizationWrite]);
    let (key, _) = admin_keys::create(&store, &ours.id, &user.id, scopes.clone(), &act()).await.unwrap();
    let (account, _) =
        service_accounts::create(&store, &first.project, "bot", FirstKey::Made, &act()).await.unwrap();
    let foreign = Project { tenant: theirs.id.clone(), id: first.project.id.clone() };

    is_missing(projects::find(&store, &foreign).await);
    is_missing(projects::rename(&store, &foreign, "x", &act()).await);
    is_missing(projects::archive(&store, &foreign, &act()).await);
    is_missing(projects::set_retention(&store, &foreign, ProjectRetention::None, &act()).await);
    is_missing(people::find_user(&store, &theirs.id, &user.id).await);
    is_missing(people::set_user_role(&store, &theirs.id, &user.id, Role::Reader, &act()).await);
    is_missing(people::delete_user(&store, &theirs.id, &user.id, &act()).await);
    is_missing(people::set_member(&store, &foreign, &user.id, ProjectRole::Owner, &act()).await);
    is_missing(service_accounts::find(&store, &foreign, &account.id).await);
    is_missing(service_accounts::delete(&store, &foreign, &account.id, &act()).await);
    is_missing(admin_keys::find(&store, &theirs.id, &key.id).await);
    is_missing(admin_keys::revoke(&store, &theirs.id, &key.id, &act()).await);
    is_missing(admin_keys::create(&store, &theirs.id, &user.id, scopes, &act()).await);
    assert_eq!(projects::list(&store, &theirs.id, Which::All, Page::WHOLE).await.unwrap().data.len(), 1);
    assert!(
        admin_keys::list(&store, &theirs.id, Order::OldestFirst, Page::WHOLE).await.unwrap().data.is_empty()
    );
    assert_eq!(kinds(&store, &theirs.id).await, ["organization.created", "project.created", "user.added"]);
    let mine = audit::list(&store, &ours.id, &Filter::default(), Page::WHOLE, None).await.unwrap();
    let page = Page { after: Some(&mine.data[0].id), limit: 9 };
    is_missing(audit::list(&store, &theirs.id, &Filter::default(), page, None).await);
}

#[tokio::test]
async fn whoever_leaves_takes_the_keys_along() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let owner = admin_keys::operator(&store, DEFAULT, &act()).await.unwrap();
    assert_eq!(admin_keys::operator(&store, DEFAULT, &act()).await.unwrap(), owner);
    is_refused(people::delete_user(&store, DEFAULT, &owner.id, &act()).await, "last_owner");
    is_refused(people::set_user_role(&store, DEFAULT, &owner.id, Role::Reader, &act()).await, "last_owner");
    let user = people::add_user(&store, DEFAULT, ada(Role::Owner), &act()).await.unwrap();
    let owned = KeyOwner::User(user.id.clone());
    let scopes = grant(&[KeyScope::Inference]);
    is_missing(keys::create_for(&store, &project, scopes.clone(), owned.clone(), &act()).await);
    people::set_member(&store, &project, &user.id, ProjectRole::Member, &act()).await.unwrap();
    people::set_member(&store, &project, &user.id, ProjectRole::Owner, &act()).await.unwrap();
    assert_eq!(people::find_member(&store, &project, &user.id).await.unwrap().role, ProjectRole::Owner);
    let (_, first) = keys::create_for(&store, &project, scopes.clone(), owned.clone(), &act()).await.unwrap();
    people::remove_member(&store, &project, &user.id, &act()).await.unwrap();
    assert!(matches!(keys::look(&store, first.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));

    people::set_member(&store, &project, &user.id, ProjectRole::Member, &act()).await.unwrap();
    let (_, second) = keys::create_for(&store, &project, scopes, owned, &act()).await.unwrap();
    let scopes = grant(&[KeyScope::OrganizationWrite]);
    let (_, admin) = admin_keys::create(&store, DEFAULT, &user.id, scopes, &act()).await.unwrap();
    // A key can do no more than its user.
    for (role, writes) in [(Role::Reader, false), (Role::Owner, true)] {
        people::set_user_role(&store, DEFAULT, &user.id, role, &act()).await.unwrap();
        let admin_keys::Verdict::Valid(key) = admin_keys::look(&store, admin.reveal(), NOW).await.unwrap()
        else {
            panic!("it is valid")
        };
        assert!(key.allows(KeyScope::OrganizationRead) && !key.allows(KeyScope::Inference));
        assert_eq!(key.allows(KeyScope::OrganizationWrite), writes, "{role}");
    }
    people::delete_user(&store, DEFAULT, &user.id, &act()).await.unwrap();
    assert!(matches!(keys::look(&store, second.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));
    let verdict = admin_keys::look(&store, admin.reveal(), NOW).await.unwrap();
    assert!(matches!(verdict, admin_keys::Verdict::Revoked(_)), "{verdict:?}");
    assert!(people::members(&store, &project, Page::WHOLE).await.unwrap().data.is_empty());
}

#[tokio::test]
async fn a_user_has_the_newest_use_among_their_keys() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let user = people::add_user(&store, DEFAULT, ada(Role::Owner), &act()).await.unwrap();
    people::set_member(&store, &project, &user.id, ProjectRole::Member, &act()).await.unwrap();
    let used = async || {
        let found = people::find_user(&store, DEFAULT, &user.id).await.unwrap().key_used_at;
        let listed = people::users(&store, DEFAULT, &["ada@example.org".into()], Page::WHOLE).await.unwrap();
        let member = people::find_member(&store, &project, &user.id).await.unwrap();
        let members = people::members(&store, &project, Page::WHOLE).await.unwrap();
        let all = [listed.data[0].key_used_at, member.user.key_used_at, members.data[0].user.key_used_at];
        assert_eq!(all, [found; 3], "wherever the user is told");
        found
    };
    let owner = KeyOwner::User(user.id.clone());
    let of_project = async || {
        let grant = grant(&[KeyScope::Inference]);
        keys::create_for(&store, &project, grant, owner.clone(), &act()).await.unwrap().0
    };
    let (first, second) = (of_project().await, of_project().await);
    assert_eq!(used().await, None, "no key was used");
    let at = |minutes: u64| NOW.plus(Duration::from_secs(60 * minutes));
    keys::note_use(&store, &second, at(3)).await.unwrap();
    keys::note_use(&store, &first, at(2)).await.unwrap();
    assert_eq!(used().await, Some(at(3)));
    let scopes = grant(&[KeyScope::OrganizationRead]);
    let (admin, _) = admin_keys::create(&store, DEFAULT, &user.id, scopes, &act()).await.unwrap();
    admin_keys::note_use(&store, &admin, at(5)).await.unwrap();
    assert_eq!(used().await, Some(at(5)));
    admin_keys::revoke(&store, DEFAULT, &admin.id, &act()).await.unwrap();
    assert_eq!(used().await, Some(at(5)), "what was done stays done");
    // Nobody's key, and a service account's, are no user's.
    let (nobodys, _) = keys::create(&store, &project, grant(&[KeyScope::Inference]), NOW).await.unwrap();
    keys::note_use(&store, &nobodys, at(9)).await.unwrap();
    assert_eq!(used().await, Some(at(5)));
}

#[tokio::test]
async fn a_service_account_has_keys_and_loses_them() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let (bare, none) =
        service_accounts::create(&store, &project, "bare", FirstKey::None, &act()).await.unwrap();
    assert!(none.is_none() && bare.role.is_none());
    let (bot, made) =
        service_accounts::create(&store, &project, "bot", FirstKey::Made, &act()).await.unwrap();
    let (key, secret) = made.unwrap();
    assert_eq!(key.owner, KeyOwner::ServiceAccount(bot.id.clone()));
    assert_eq!(key.hint, format!("sk-...{}", &secret.reveal()[secret.reveal().len() - 4..]));
    let changes = (Some("robot"), Some(ProjectRole::Owner));
    service_accounts::update(&store, &project, &bot.id, changes, &act()).await.unwrap();
    let found = service_accounts::find(&store, &project, &bot.id).await.unwrap();
    assert_eq!((found.name.as_str(), found.role), ("robot", Some(ProjectRole::Owner)));
    let listed = service_accounts::list(&store, &project, Page { after: None, limit: 1 }).await.unwrap();
    assert_eq!((listed.data[0].id.clone(), listed.has_more), (bare.id, true));
    service_accounts::delete(&store, &project, &bot.id, &act()).await.unwrap();
    assert!(matches!(keys::look(&store, secret.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));
    is_missing(keys::find(&store, &project, &key.id).await);
    assert!(keys::page(&store, &project, Page::WHOLE).await.unwrap().data.is_empty());
}

#[tokio::test]
async fn a_rotated_key_lives_on_for_its_overlap_and_its_limits_pass_on() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let (old, old_secret) = keys::create(&store, &project, grant(&[KeyScope::Inference]), NOW).await.unwrap();
    let limit = RateLimit { requests_per_minute: Some(3), ..RateLimit::default() };
    let subject = |id| RateSubject { key: Some(id), model: None };
    rates::set(&store, &project, &subject(old.id.clone()), limit, &act()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let (new, new_secret) = keys::rotate(&store, &project, &old.id, hour, &act()).await.unwrap();
    assert_eq!(new.grant, old.grant);
    let valid = async |secret: &keys::KeySecret, now| {
        matches!(keys::look(&store, secret.reveal(), now).await.unwrap(), Verdict::Valid(_))
    };
    let (before, after) = (NOW.plus(hour - Duration::from_millis(1)), NOW.plus(hour));
    assert!(valid(&old_secret, before).await && valid(&new_secret, before).await);
    assert!(!valid(&old_secret, after).await && valid(&new_secret, after).await);
    assert_eq!(rates::list(&store, &project).await.unwrap().get(&subject(new.id.clone())), Some(&limit));
    // Without an overlap the old one ends at once.
    let (last, _) = keys::rotate(&store, &project, &new.id, Duration::ZERO, &act()).await.unwrap();
    assert!(matches!(keys::look(&store, new_secret.reveal(), NOW).await.unwrap(), Verdict::Revoked(_)));
    let too_long = limits::KEY_OVERLAP_MAX + Duration::from_secs(1);
    assert!(matches!(
        keys::rotate(&store, &project, &last.id, too_long, &act()).await,
        Err(StoreError::BadId(_))
    ));
    is_missing(keys::rotate(&store, &project, &new.id, hour, &act()).await);

    let first = bootstrap_of_new(&store).await;
    let (_, secret) = admin_keys::rotate(&store, DEFAULT, &first.0.id, hour, &act()).await.unwrap();
    for (secret, now, valid) in [(&first.1, before, true), (&first.1, after, false), (&secret, after, true)] {
        let verdict = admin_keys::look(&store, secret.reveal(), now).await.unwrap();
        assert_eq!(matches!(verdict, admin_keys::Verdict::Valid(_)), valid, "{verdict:?}");
    }
}

async fn bootstrap_of_new(store: &Store) -> (admin_keys::AdminKey, keys::KeySecret) {
    assert!(bootstrap(store, &Project::default_project(), NOW).await.unwrap().is_none(), "there is a key");
    let owner = admin_keys::operator(store, DEFAULT, &act()).await.unwrap();
    let scopes = grant(&[KeyScope::OrganizationRead]);
    admin_keys::create(store, DEFAULT, &owner.id, scopes, &act()).await.unwrap()
}

#[tokio::test]
async fn the_kinds_of_keys_do_not_mix() {
    let (dir, store) = store().await;
    let project = Project::default_project();
    let first = bootstrap(&store, &project, NOW).await.unwrap().expect("it is the first start");
    let (admin, secret) = (first.admin_key.0, first.admin_key.1);
    assert!(secret.reveal().starts_with("sk-admin-") && admin.hint.starts_with("sk-admin-..."));
    assert_eq!(keys::look(&store, secret.reveal(), NOW).await.unwrap(), Verdict::Unknown);
    let verdict = admin_keys::look(&store, first.key.1.reveal(), NOW).await.unwrap();
    assert_eq!(verdict, admin_keys::Verdict::Unknown);
    let of_project = keys::create(&store, &project, grant(&[KeyScope::OrganizationRead]), NOW).await;
    assert!(matches!(of_project, Err(StoreError::BadId(_))));
    let of_organization =
        admin_keys::create(&store, DEFAULT, &admin.owner.id, grant(&[KeyScope::Inference]), &act()).await;
    assert!(matches!(of_organization, Err(StoreError::BadId(_))));
    admin_keys::note_use(&store, &admin, NOW).await.unwrap();
    assert_eq!(admin_keys::find(&store, DEFAULT, &admin.id).await.unwrap().last_used_at, Some(NOW));
    let text = secret.reveal()["sk-admin-".len()..secret.reveal().len() - 4].to_owned();
    store.close().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(text.len()).any(|w| w == text.as_bytes()), "{path:?}");
        }
    }
}

#[tokio::test]
async fn what_holds_for_a_project_is_what_was_said_last() {
    let (_dir, store) = store().await;
    let project = projects::create(&store, DEFAULT, "p", &act()).await.unwrap().project;
    let standing = async || projects::standing(&store, &project).await.unwrap();
    assert_eq!((standing().await.retention, standing().await.models), (Retention::Kept, None));
    let zero = OrganizationRetention::ZeroDataRetention;
    projects::set_organization_retention(&store, DEFAULT, zero, &act()).await.unwrap();
    assert_eq!(standing().await.retention, Retention::Nothing);
    projects::set_retention(&store, &project, ProjectRetention::None, &act()).await.unwrap();
    assert_eq!(standing().await.retention, Retention::Kept);
    let models = ModelPermissions::new(ListMode::DenyList, ["a".to_owned()]).unwrap();
    projects::set_models(&store, &project, Some(&models), &act()).await.unwrap();
    assert_eq!(standing().await.models, Some(models));
    projects::set_models(&store, &project, None, &act()).await.unwrap();
    assert_eq!(standing().await.models, None);
    projects::archive(&store, &project, &act()).await.unwrap();
    assert_eq!(standing().await.archived_at, Some(NOW));

    let limited = RateSubject { key: None, model: Some("org/m".parse().unwrap()) };
    let limit =
        RateLimit { tokens_per_minute: Some(5), concurrent_requests: Some(2), ..RateLimit::default() };
    let project = Project::default_project();
    rates::set(&store, &project, &limited, limit, &act()).await.unwrap();
    assert_eq!(
        rates::list(&store, &project).await.unwrap().into_iter().collect::<Vec<_>>(),
        [(limited.clone(), limit)]
    );
    assert_eq!(rates::id_of(&limited), "rl-org/m");
    for id in ["rl-org/m", "rl-*", "rl-*@key_00000000000000000000000000000abc"] {
        assert_eq!(rates::id_of(&rates::subject_of(id).unwrap()), id);
    }
    for id in ["", "m", "rl-", "rl-../x", "rl-*@nobody"] {
        assert_eq!(rates::subject_of(id), None, "{id:?}");
    }
    rates::set(&store, &project, &limited, RateLimit::default(), &act()).await.unwrap();
    assert!(rates::list(&store, &project).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_audit_log_is_listed_newest_first_and_by_what_is_asked() {
    let (_dir, store) = store().await;
    for name in ["one", "two", "three"] {
        projects::create(&store, DEFAULT, name, &act()).await.unwrap();
    }
    let later = Act::of_server(NOW.plus(Duration::from_secs(10)));
    let user = people::add_user(&store, DEFAULT, ada(Role::Owner), &later).await.unwrap();
    audit::note_login_failures(&store, DEFAULT, "invalid_api_key", 17, later.now).await.unwrap();
    let seqs = async |filter: &Filter, page: Page<'_>, before: Option<&str>| {
        let listed = audit::list(&store, DEFAULT, filter, page, before).await.unwrap();
        (listed.data.iter().map(|entry| entry.seq).collect::<Vec<_>>(), listed.has_more)
    };
    let any = Filter::default();
    assert_eq!(seqs(&any, Page::WHOLE, None).await, (vec![5, 4, 3, 2, 1], false));
    let all = audit::list(&store, DEFAULT, &any, Page::WHOLE, None).await.unwrap().data;
    let page = |after, limit| Page { after, limit };
    assert_eq!(seqs(&any, page(None, 2), None).await, (vec![5, 4], true));
    assert_eq!(seqs(&any, page(Some(&all[1].id), 2), None).await, (vec![3, 2], true));
    assert_eq!(seqs(&any, page(Some(&all[3].id), 2), None).await, (vec![1], false));
    assert_eq!(seqs(&any, page(None, 2), Some(&all[3].id)).await, (vec![4, 3], true));
    let texts = |text: &str| vec![text.to_owned()];
    for (filter, expected) in [
        (Filter { kinds: texts("login.failed"), ..Filter::default() }, vec![5]),
        (Filter { resources: texts(user.id.as_str()), ..Filter::default() }, vec![4]),
        (Filter { actors: texts("command_line"), ..Filter::default() }, vec![3, 2, 1]),
        (Filter { projects: vec![all[4].project.clone().unwrap()], ..Filter::default() }, vec![1]),
        (Filter { emails: texts("ada@example.org"), ..Filter::default() }, vec![]),
        (Filter { from: Some(1010), ..Filter::default() }, vec![5, 4]),
        (Filter { to: Some(1009), ..Filter::default() }, vec![3, 2, 1]),
    ] {
        assert_eq!(seqs(&filter, Page::WHOLE, None).await.0, expected, "{filter:?}");
    }
    assert_eq!(all[0].data["count"], json!(17));
}

/// What `change` breaks of a log of four entries, which is put back afterwards.
async fn broken_by(store: &Store, change: &'static str) -> Broken {
    sql(store, change).await;
    let verified = audit::verify(store, DEFAULT, None).await.unwrap();
    sql(
        store,
        "DELETE FROM audit_logs; INSERT INTO audit_logs SELECT * FROM copied; \
         UPDATE organizations SET audit_seq = (SELECT audit_seq FROM head), audit_hash = (SELECT audit_hash FROM head)",
    )
    .await;
    verified.map_or_else(|broken| broken, |verified| panic!("{change}: {verified:?}"))
}

async fn sql(store: &Store, text: &'static str) {
    let mut transaction = store.write().await.unwrap();
    sqlx::raw_sql(text).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_change_of_any_field_of_the_audit_log_is_named() {
    let (_dir, store) = store().await;
    let first = bootstrap(&store, &Project::default_project(), NOW).await.unwrap().unwrap();
    projects::create(&store, DEFAULT, "p", &first.admin_key.0.act(NOW)).await.unwrap();
    let whole = audit::verify(&store, DEFAULT, None).await.unwrap().unwrap();
    assert_eq!(whole.entries, 4);
    sql(
        &store,
        "CREATE TABLE copied AS SELECT * FROM audit_logs; \
         CREATE TABLE head AS SELECT audit_seq, audit_hash FROM organizations",
    )
    .await;
    for change in [
        "UPDATE audit_logs SET effective_at = effective_at + 1 WHERE seq = 2",
        "UPDATE audit_logs SET id = id || '0' WHERE seq = 2",
        "UPDATE audit_logs SET type = 'user.added' WHERE seq = 2",
        "UPDATE audit_logs SET project = '' WHERE seq = 2",
        "UPDATE audit_logs SET actor = 'command_line' WHERE seq = 2",
        "UPDATE audit_logs SET actor_user = 'user_x' WHERE seq = 2",
        "UPDATE audit_logs SET actor_email = 'eve@example.org' WHERE seq = 2",
        "UPDATE audit_logs SET resource = resource || '0' WHERE seq = 2",
        "UPDATE audit_logs SET data = '{}' WHERE seq = 2",
        "UPDATE audit_logs SET data = data || ' ' WHERE seq = 2",
        "UPDATE audit_logs SET data = 'no json' WHERE seq = 2",
        "UPDATE audit_logs SET previous = hash WHERE seq = 2",
        "UPDATE audit_logs SET hash = previous WHERE seq = 2",
        "DELETE FROM audit_logs WHERE seq = 2",
    ] {
        let broken = broken_by(&store, change).await;
        assert_eq!(broken.seq, 2, "{change}: {broken:?}");
        assert_eq!(broken.id.is_empty(), change.starts_with("DELETE"), "{change}: {broken:?}");
    }
    for (change, seq) in [
        ("DELETE FROM audit_logs WHERE seq = 4", 4),
        ("DELETE FROM audit_logs", 1),
        ("UPDATE audit_logs SET seq = 9 WHERE seq = 4", 4),
        ("UPDATE audit_logs SET tenant = 'x' WHERE seq = 1", 1),
        ("UPDATE organizations SET audit_hash = 'x'", 4),
        ("UPDATE organizations SET audit_seq = 3", 4),
        // The first two entries in another order.
        (
            "UPDATE audit_logs SET seq = -1 WHERE seq = 1; UPDATE audit_logs SET seq = 1 WHERE seq = 2; \
             UPDATE audit_logs SET seq = 2 WHERE seq = -1",
            1,
        ),
    ] {
        assert_eq!(broken_by(&store, change).await.seq, seq, "{change}");
    }
    // A head that was kept is in the chain for ever; in a chain that was written anew it is not.
    projects::create(&store, DEFAULT, "later", &act()).await.unwrap();
    let later = audit::verify(&store, DEFAULT, Some(&whole.head)).await.unwrap().unwrap();
    assert_eq!(later.entries, 5);
    let other = audit::verify(&store, DEFAULT, Some(&"0".repeat(64))).await.unwrap().unwrap_err();
    assert_eq!(other.seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_of_several_processes_make_one_chain() {
    let (dir, store) = store().await;
    let mut tasks = Vec::new();
    for i in 0..6 {
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        tasks.push(tokio::spawn(async move {
            for j in 0..5 {
                projects::create(&store, DEFAULT, &format!("{i} {j}"), &act()).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(audit::verify(&store, DEFAULT, None).await.unwrap().unwrap().entries, 30);
}

#[tokio::test]
async fn a_guard_policy_is_kept_for_its_project_alone_and_is_logged() {
    let (_dir, store) = store().await;
    let project = Project::default_project();
    let (_, other) = projects::create_organization(&store, "Other", &act()).await.unwrap();
    assert!(guards::policy(&store, &project).await.unwrap().is_off());
    let kinds_wanted = Some(vec![Kind::Email, Kind::Iban]);
    let policy = Policy {
        input: Rule { action: Action::Mask, wanted: Wanted { kinds: kinds_wanted, threshold: 0.7 } },
        output: Rule { action: Action::Block, wanted: Wanted::default() },
        ner_model: Some("names@prod".into()),
        prompt_injection: Injections { stops: Stops { user: Stop::Off, tool: Stop::Block }, threshold: 0.9 },
        hidden_unicode: Stops { user: Stop::Block, tool: Stop::Off },
        data_exfiltration: Action::Redact,
    };
    guards::set_policy(&store, &project, &policy, &act()).await.unwrap();
    assert_eq!(guards::policy(&store, &project).await.unwrap(), policy);
    assert!(guards::policy(&store, &other.project).await.unwrap().is_off());
    guards::set_policy(&store, &project, &Policy::default(), &act()).await.unwrap();
    assert!(guards::policy(&store, &project).await.unwrap().is_off());
    assert!(
        kinds(&store, &project.tenant).await.iter().filter(|kind| *kind == "project.updated").count() >= 2
    );
    let sql = "UPDATE guard_policies SET policy = '{\"input\":{}}'";
    let mut transaction = store.write().await.unwrap();
    sqlx::query(sql).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let error = guards::policy(&store, &project).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { table: "guard_policies", .. }), "{error}");
}

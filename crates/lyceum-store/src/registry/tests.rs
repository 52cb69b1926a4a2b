use super::*;
use crate::Layout;
use crate::files::Staging;
use crate::models::{self, NewVersion};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

struct House {
    _dir: tempfile::TempDir,
    store: Store,
    project: Project,
    name: ModelName,
    prod: Alias,
}

impl House {
    /// A name with so many versions, the last of which its gate holds back.
    async fn with(n_versions: u32) -> House {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        let (project, name): (Project, ModelName) = (Project::default_project(), "digits".parse().unwrap());
        for number in 1..=n_versions {
            let new = NewVersion {
                name: name.clone(),
                family: "mlp".into(),
                task: "classification".into(),
                n_params: 1,
                bytes: 1,
                sha256: "ab".into(),
                job: None,
                held: (number == n_versions).then(|| "worse under pgd".into()),
            };
            let staging = Staging::create(store.layout()).unwrap();
            models::publish(&store, &project, new, staging, |_| b"{}".to_vec(), NOW).await.unwrap();
        }
        House { _dir: dir, store, project, name, prod: "prod".parse().unwrap() }
    }

    async fn set(&self, number: u32, protect: Option<bool>) -> Result<Option<u32>, StoreError> {
        set_alias(&self.store, &self.project, (&self.name, &self.prod), (number, protect), &act()).await
    }

    async fn back(&self) -> Result<(u32, u32), StoreError> {
        roll_back(&self.store, &self.project, &self.name, &self.prod, &act()).await
    }

    async fn approve(&self, number: u32) {
        approve(&self.store, &self.project, &self.name, number, &act()).await.unwrap();
    }

    async fn delete(&self, number: u32) -> Result<models::Version, StoreError> {
        let reference = format!("{}@{number}", self.name).parse().unwrap();
        models::delete(&self.store, &self.project, &reference, &act()).await
    }

    async fn served(&self) -> u32 {
        let reference = format!("{}@prod", self.name).parse().unwrap();
        models::resolve(&self.store, &self.project, &reference).await.unwrap().number
    }
}

fn act() -> Act {
    Act { actor: Actor::User("ann".into()), note: "because".into(), now: NOW }
}

#[tokio::test]
async fn a_protected_alias_moves_to_approved_versions_only() {
    let house = House::with(4).await;
    assert!(matches!(house.set(1, Some(true)).await, Err(StoreError::NotApproved { .. })));
    house.approve(1).await;
    assert_eq!(house.set(1, Some(true)).await.unwrap(), None);
    assert!(matches!(house.set(2, None).await, Err(StoreError::NotApproved { .. })));
    // Lifting the protection is no way around it.
    assert!(matches!(house.set(2, Some(false)).await, Err(StoreError::NotApproved { .. })));
    assert_eq!(house.served().await, 1);
    house.approve(2).await;
    assert_eq!(house.set(2, None).await.unwrap(), Some(1));
    // An approval does not open a gate.
    house.approve(4).await;
    assert!(matches!(house.set(4, None).await, Err(StoreError::Held { .. })));
    assert!(matches!(house.delete(2).await, Err(StoreError::Aliased { .. })));
    assert_eq!(house.served().await, 2);
    assert_eq!(house.set(2, Some(false)).await.unwrap(), Some(2));
    assert!(matches!(house.delete(2).await, Err(StoreError::Aliased { .. })), "protected or not");
    remove_alias(&house.store, &house.project, &house.name, &house.prod, &act()).await.unwrap();
    house.delete(2).await.unwrap();
    assert_eq!(aliases(&house.store, &house.project, &house.name).await.unwrap(), Vec::new());
}

#[tokio::test]
async fn no_alias_points_at_what_a_gate_holds_until_somebody_promotes_it() {
    let house = House::with(2).await;
    house.set(1, None).await.unwrap();
    let refused = house.set(2, None).await;
    assert!(
        matches!(&refused, Err(StoreError::Held { id, why }) if id == "digits@2" && why == "worse under pgd")
    );
    assert_eq!(house.served().await, 1);
    models::promote(&house.store, &house.project, &house.name, 2, &act()).await.unwrap();
    assert_eq!(house.set(2, None).await.unwrap(), Some(1));
    assert_eq!(house.served().await, 2);
}

#[tokio::test]
async fn rolling_back_walks_the_moves_that_stand() {
    let house = House::with(6).await;
    for number in [1, 2, 3] {
        house.set(number, None).await.unwrap();
    }
    assert_eq!(house.back().await.unwrap(), (3, 2));
    assert_eq!(house.back().await.unwrap(), (2, 1));
    assert!(matches!(house.back().await, Err(StoreError::NotFound { .. })));
    assert_eq!(house.served().await, 1);
    house.set(4, None).await.unwrap();
    house.set(5, None).await.unwrap();
    house.delete(4).await.unwrap();
    assert_eq!(house.back().await.unwrap(), (5, 1), "4 is gone, 2 and 3 were undone");
}

#[tokio::test]
async fn history_says_who_did_what_and_outlives_the_version() {
    let house = House::with(3).await;
    house.approve(1).await;
    house.set(1, None).await.unwrap();
    house.set(2, None).await.unwrap();
    house.back().await.unwrap();
    remove_alias(&house.store, &house.project, &house.name, &house.prod, &act()).await.unwrap();
    house.delete(1).await.unwrap();
    let events = history(&house.store, &house.project, &house.name).await.unwrap();
    let told: Vec<(&str, u32, Option<u32>)> =
        events.iter().map(|event| (event.kind.as_str(), event.version, event.before)).collect();
    assert_eq!(
        told,
        [
            ("approved", 1, None),
            ("set", 1, None),
            ("set", 2, Some(1)),
            ("rolled_back", 1, Some(2)),
            ("removed", 1, Some(1)),
            ("deleted", 1, None),
        ]
    );
    assert!(events.iter().all(|event| event.actor == "ann" && event.note == "because" && event.at == NOW));
    let other = Project { tenant: "other".into(), id: "other".into() };
    assert!(history(&house.store, &other, &house.name).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there_and_what_has_no_sense_is_refused() {
    let house = House::with(2).await;
    assert!(matches!(house.set(9, None).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(house.back().await, Err(StoreError::NotFound { .. })));
    let latest: Alias = "latest".parse().unwrap();
    let set = set_alias(&house.store, &house.project, (&house.name, &latest), (1, None), &act()).await;
    assert!(matches!(set, Err(StoreError::BadId(_))));
    let long = Act { note: "x".repeat(limits::NOTE_CHARS_MAX + 1), ..act() };
    let approved = approve(&house.store, &house.project, &house.name, 1, &long).await;
    assert!(matches!(approved, Err(StoreError::BadId(_))));
    assert!(history(&house.store, &house.project, &house.name).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_goes_whole_or_not_at_all_and_the_audit_log_knows_the_key() {
    let house = House::with(3).await;
    house.set(2, None).await.unwrap();
    let key: KeyId =
        "key_0123456789abcdef0123456789abcdef".parse().unwrap_or_else(|_| panic!("an id of a key"));
    let by_key = Act { actor: Actor::Key(key.clone()), ..act() };
    let all = models::delete_all(&house.store, &house.project, &house.name, &by_key).await;
    assert!(matches!(all, Err(StoreError::Aliased { .. })));
    assert_eq!(models::list(&house.store, &house.project).await.unwrap().len(), 3);
    remove_alias(&house.store, &house.project, &house.name, &house.prod, &act()).await.unwrap();
    let gone = models::delete_all(&house.store, &house.project, &house.name, &by_key).await.unwrap();
    assert_eq!(gone.iter().map(|version| version.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(gone.iter().all(|version| !version.dir.exists()));
    let filter = audit::Filter { kinds: vec!["model.deleted".into()], ..Default::default() };
    let page = crate::tenancy::Page::WHOLE;
    let log = audit::list(&house.store, &house.project.tenant, &filter, page, None).await.unwrap().data;
    assert_eq!(log.len(), 3);
    assert!(log.iter().all(|entry| entry.actor == key.as_str() && entry.project.is_some()));
    let again = models::delete_all(&house.store, &house.project, &house.name, &by_key).await;
    assert!(matches!(again, Err(StoreError::NotFound { .. })));
}

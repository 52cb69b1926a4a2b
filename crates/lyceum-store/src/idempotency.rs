//! `Idempotency-Key`: the same request twice has one effect and one answer.

use crate::vault::sealed;
use crate::{Store, StoreError};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BadId, Project};
use lyceum_types::limits;

/// An answer as it went to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The right to answer for a key: complete it, or give it back with [`release`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    project: Project,
    key: String,
    token: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Nobody has asked this before: do the work.
    New(Held),
    /// It was answered: answer the same again.
    Answered(Answer),
    /// The first request with this key is still under way.
    UnderWay,
    /// The key was used with another route or another body.
    Conflict,
}

/// Looks a key up and takes it when it is free. `body_sha256` stands for the whole request body.
pub async fn begin(
    store: &Store,
    project: &Project,
    key: &str,
    route: &str,
    body_sha256: [u8; 32],
    now: Timestamp,
) -> Result<Begun, StoreError> {
    if key.is_empty() || key.chars().count() > limits::IDEMPOTENCY_KEY_CHARS_MAX {
        let text = key.chars().take(64).collect();
        return Err(BadId { what: "Idempotency-Key", text, why: "must have 1 to 255 characters" }.into());
    }
    let mut transaction = store.write().await?;
    sqlx::query("DELETE FROM idempotency_keys WHERE expires_at <= $1")
        .bind(now.millis())
        .execute(&mut *transaction)
        .await?;
    let row: Option<Row> = sqlx::query_as(
        "SELECT route, body_sha256, status, content_type, body FROM idempotency_keys \
         WHERE tenant = $1 AND project = $2 AND key = $3",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(key)
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(row) = row {
        transaction.commit().await?;
        return begun(store, project, row, (route, &body_sha256));
    }
    let token = uuid::Uuid::now_v7().simple().to_string();
    sqlx::query(
        "INSERT INTO idempotency_keys (tenant, project, key, route, body_sha256, token, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&project.tenant)
    .bind(&project.id)
    .bind(key)
    .bind(route)
    .bind(body_sha256.to_vec())
    .bind(&token)
    .bind(now.plus(limits::IDEMPOTENCY_HELD).millis())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Begun::New(Held { project: project.clone(), key: key.to_owned(), token }))
}

/// Where answers are kept, for what seals them.
const PLACE: &str = "idempotency_keys.body";

type Row = (String, Vec<u8>, Option<i64>, Option<String>, Option<Vec<u8>>);

fn begun(
    store: &Store,
    project: &Project,
    row: Row,
    (route, body_sha256): (&str, &[u8; 32]),
) -> Result<Begun, StoreError> {
    let (stored_route, stored_sha256, status, content_type, body) = row;
    if stored_route != route || stored_sha256 != body_sha256 {
        return Ok(Begun::Conflict);
    }
    let Some(status) = status else { return Ok(Begun::UnderWay) };
    let body = body.unwrap_or_default();
    let body = match store.keyring().of(project)? {
        None => body,
        Some(key) => sealed::open(&key, PLACE, &body).map_err(|error| StoreError::Damaged {
            table: "idempotency_keys",
            value: format!("a body: {error}"),
        })?,
    };
    let damaged = |_| StoreError::Damaged { table: "idempotency_keys", value: status.to_string() };
    Ok(Begun::Answered(Answer {
        status: u16::try_from(status).map_err(damaged)?,
        content_type: content_type.unwrap_or_default(),
        body,
    }))
}

/// Keeps the answer for the next request with the same key. An answer beyond the bound is not kept: its key
/// becomes free again.
pub async fn complete(store: &Store, held: Held, answer: &Answer, now: Timestamp) -> Result<(), StoreError> {
    if answer.body.len() > limits::IDEMPOTENCY_BODY_BYTES_MAX {
        return release(store, held).await;
    }
    let sealed = match store.keyring().of(&held.project)? {
        None => None,
        Some(key) => Some(sealed::seal(&key, PLACE, &answer.body).map_err(crate::vault::random)?),
    };
    let mut transaction = store.write().await?;
    sqlx::query(
        "UPDATE idempotency_keys SET status = $5, content_type = $6, body = $7, expires_at = $8 \
         WHERE tenant = $1 AND project = $2 AND key = $3 AND token = $4",
    )
    .bind(&held.project.tenant)
    .bind(&held.project.id)
    .bind(&held.key)
    .bind(&held.token)
    .bind(i64::from(answer.status))
    .bind(&answer.content_type)
    .bind(sealed.as_ref().unwrap_or(&answer.body))
    .bind(now.plus(limits::IDEMPOTENCY_KEPT).millis())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Frees the key: the work had no effect, so the client may try again.
pub async fn release(store: &Store, held: Held) -> Result<(), StoreError> {
    let mut transaction = store.write().await?;
    sqlx::query(
        "DELETE FROM idempotency_keys \
         WHERE tenant = $1 AND project = $2 AND key = $3 AND token = $4 AND status IS NULL",
    )
    .bind(&held.project.tenant)
    .bind(&held.project.id)
    .bind(&held.key)
    .bind(&held.token)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layout;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const ROUTE: &str = "/v1/completions";

    async fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
        (dir, store)
    }

    async fn ask(store: &Store, route: &str, body: u8, now: Timestamp) -> Begun {
        begin(store, &Project::default_project(), "k", route, [body; 32], now).await.unwrap()
    }

    fn answer() -> Answer {
        Answer { status: 200, content_type: "application/json".into(), body: b"{}".to_vec() }
    }

    #[tokio::test]
    async fn the_same_request_has_one_answer_and_another_one_conflicts() {
        let (_dir, store) = store().await;
        let Begun::New(held) = ask(&store, ROUTE, 1, NOW).await else { panic!("the key is free") };
        assert_eq!(ask(&store, ROUTE, 1, NOW).await, Begun::UnderWay);
        assert_eq!(ask(&store, ROUTE, 2, NOW).await, Begun::Conflict);
        complete(&store, held, &answer(), NOW).await.unwrap();
        assert_eq!(ask(&store, ROUTE, 1, NOW).await, Begun::Answered(answer()));
        assert_eq!(ask(&store, ROUTE, 2, NOW).await, Begun::Conflict);
        assert_eq!(ask(&store, "/v1/decisions", 1, NOW).await, Begun::Conflict);
        let end = NOW.plus(limits::IDEMPOTENCY_KEPT);
        assert!(matches!(ask(&store, ROUTE, 2, end).await, Begun::New(_)));
    }

    #[tokio::test]
    async fn a_released_key_is_free_and_a_dead_request_holds_it_for_a_while_only() {
        let (_dir, store) = store().await;
        let Begun::New(held) = ask(&store, ROUTE, 1, NOW).await else { panic!("the key is free") };
        release(&store, held).await.unwrap();
        let Begun::New(dead) = ask(&store, ROUTE, 2, NOW).await else { panic!("the key is free again") };
        let later = NOW.plus(limits::IDEMPOTENCY_HELD);
        let Begun::New(held) = ask(&store, ROUTE, 3, later).await else { panic!("the dead lost it") };
        // The first owner comes back late: it changes nothing.
        complete(&store, dead.clone(), &answer(), later).await.unwrap();
        release(&store, dead).await.unwrap();
        assert_eq!(ask(&store, ROUTE, 3, later).await, Begun::UnderWay);
        complete(&store, held, &answer(), later).await.unwrap();
        assert_eq!(ask(&store, ROUTE, 3, later).await, Begun::Answered(answer()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_of_many_equal_requests_does_the_work() {
        let (dir, _store) = store().await;
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let store = Store::open(Layout::new(dir.path()), NOW).await.unwrap();
            tasks
                .push(tokio::spawn(async move { matches!(ask(&store, ROUTE, 1, NOW).await, Begun::New(_)) }));
        }
        let mut n_new = 0;
        for task in tasks {
            n_new += u32::from(task.await.unwrap());
        }
        assert_eq!(n_new, 1);
    }

    #[tokio::test]
    async fn an_answer_beyond_the_bound_is_not_kept() {
        let (_dir, store) = store().await;
        let Begun::New(held) = ask(&store, ROUTE, 1, NOW).await else { panic!("the key is free") };
        let big = Answer { body: vec![0; limits::IDEMPOTENCY_BODY_BYTES_MAX + 1], ..answer() };
        complete(&store, held, &big, NOW).await.unwrap();
        assert!(matches!(ask(&store, ROUTE, 1, NOW).await, Begun::New(_)));
    }

    #[tokio::test]
    async fn keys_without_sense_are_refused() {
        let (_dir, store) = store().await;
        let project = Project::default_project();
        for key in [String::new(), "x".repeat(256)] {
            assert!(matches!(
                begin(&store, &project, &key, ROUTE, [0; 32], NOW).await,
                Err(StoreError::BadId(_))
            ));
        }
    }
}

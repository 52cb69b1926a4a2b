//! The work on a batch beside a database that somebody else holds.

use super::work::{Answered, Answers, Asking, run};
use super::{Batch, Endpoint, Status, of_row};
use crate::Service;
use futures_util::future::BoxFuture;
use lyceum_engine::{Engine, EngineLimits};
use lyceum_store::{Layout, Store, batches};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BatchId, Project};
use lyceum_types::limits;
use sqlx::{Connection, SqliteConnection};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Says when it is asked, waits until it may answer, and says when it has.
#[derive(Default)]
struct Held {
    asked: Notify,
    may_answer: Notify,
    answered: Notify,
}

impl Answers for Arc<Held> {
    fn answer(&self, _: Asking) -> BoxFuture<'static, Answered> {
        let held = self.clone();
        Box::pin(async move {
            held.asked.notify_one();
            held.may_answer.notified().await;
            held.answered.notify_one();
            Answered { status: 200, body: "{}".into(), retry_after: None }
        })
    }
}

/// One line, in progress.
async fn begun(store: &Store, project: &Project, key: &str) -> BatchId {
    let id = BatchId::from_bits(1);
    let body = r#"{"model": "m", "prompt": "a"}"#;
    let line =
        format!(r#"{{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {body}}}"#) + "\n";
    let file = store.layout().root().join("lines.jsonl");
    std::fs::write(&file, line).unwrap();
    batches::keep_input(store, project, &id, &file).unwrap();
    let now = Timestamp::now();
    let batch = serde_json::json!({
        "id": id.to_string(), "api_key": key, "endpoint": Endpoint::Completions, "input_file_id": "file-1",
        "status": Status::InProgress, "errors": [], "request_counts": {"total": 1, "completed": 0, "failed": 0},
        "usage": super::Usage::default(), "created_at": now.seconds(),
        "expires_at": now.plus(limits::BATCH_WINDOW).seconds(),
    });
    let batch: Batch = serde_json::from_value(batch).unwrap();
    batches::insert(store, &batch.row(project).unwrap()).await.unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_go_on_while_the_batch_waits_for_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    let database = layout.database();
    let store = Store::open(layout, Timestamp::now()).await.unwrap();
    let project = Project { tenant: "default".into(), id: "default".into() };
    let key = lyceum_types::ids::KeyId::from_bits(7);
    let id = begun(&store, &project, key.as_str()).await;
    let service = Arc::new(Service::new(store.clone(), Engine::start(EngineLimits::default()).unwrap()));
    let (held, (stop, stopping)) = (Arc::new(Held::default()), watch::channel(false));
    let working = tokio::spawn(run(service, Arc::new(held.clone()), stopping));
    held.asked.notified().await;

    let mut other = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    // Its counts are due meanwhile: the batch waits for its turn to write them.
    tokio::time::sleep(limits::BATCHES_LOOK_EVERY * 3 / 2).await;
    held.may_answer.notify_one();
    let answered = tokio::time::timeout(Duration::from_secs(5), held.answered.notified()).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert!(answered.is_ok(), "the line waited for the database, which may wait for the line");

    let ended = async {
        loop {
            let batch = of_row(&batches::find(&store, &project, &id).await.unwrap()).unwrap();
            if batch.status == Status::Completed {
                return batch;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let batch = tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the batch ends");
    assert_eq!((batch.request_counts.completed, batch.request_counts.failed), (1, 0));
    stop.send(true).unwrap();
    working.await.unwrap();
}

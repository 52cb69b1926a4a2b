//! Evaluations on files that were brought: the library's own numbers, a pass a row on the bill, and what is refused with its
//! reason.

use crate::client::{Client, ok};
use crate::files::bring;
use crate::house::{House, Kept, labels, table};
use crate::language::import_tiny;
use crate::ledger::{priced, rows};
use lyceum_service::evaluations::{self, Beside};
use lyceum_store::keys;
use lyceum_store::ledger::Outcome;
use lyceum_store::ledger::budgets::{self, Period, Place};
use lyceum_store::tenancy::{Act, projects};
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{KeyScope, ModelRef, Project};
use serde_json::json;

const EVALUATIONS: &str = "/v1/evaluations";

fn table_of(n: usize) -> String {
    let row = |i: usize| format!("{},{},{}\n", i as f64 / 8.0, 1.0 - i as f64 / 5.0, ["yes", "no"][i % 2]);
    format!("a,b,y\n{}", (0..n).map(row).collect::<String>())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_measured_as_the_library_does_and_each_row_is_a_pass() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    priced(&house).await;
    let text = table_of(100);
    let file = bring(&house.client, "rows.csv", text.as_bytes()).await;
    let answer = house.client.post(EVALUATIONS, &json!({"model": "flowers", "file": file})).await;
    let found = ok(&answer);
    assert_eq!(
        (&found["object"], &found["model"], &found["file"]),
        (&json!("evaluation"), &json!("flowers@1"), &json!(file))
    );
    // The library's numbers on the same rows, to the last bit.
    let reference: ModelRef = "flowers".parse().unwrap();
    let resident = house.service.resident(&Project::default_project(), &reference).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    std::fs::write(&path, text).unwrap();
    let here = evaluations::measure(&resident, None, path.as_path(), &Control::new()).unwrap();
    assert_eq!(found["metrics"], serde_json::to_value(&here.metrics).unwrap());
    assert_eq!(found["metrics"]["accuracy"]["n"], 100);
    let Beside::Missing(why) = here.beside else { panic!("a model with random weights has no baseline") };
    assert_eq!((&found["baseline"], &found["baseline_missing"]), (&json!(null), &json!(why)));

    assert_eq!(found["usage"], json!({"passes": 100}));
    let paid = rows(&house).await;
    let entry = &paid[answer.header("x-request-id").unwrap()];
    assert_eq!((entry.counts.passes, entry.outcome), (100, Outcome::Completed), "{entry:?}");
    assert_eq!(entry.request.route, EVALUATIONS);
    assert_eq!(entry.cost, 3 * 100, "three a pass");
    // A sequence model answers with tokens of its own, each a pass beside those that were measured.
    house.publish_poet("poet").await;
    let text = bring(&house.client, "text.txt", "abc def gh ".repeat(20).as_bytes()).await;
    let answer = house.client.post(EVALUATIONS, &json!({"model": "poet", "file": text})).await;
    let found = ok(&answer);
    assert!(found["metrics"]["perplexity"]["value"].as_f64().is_some_and(|x| x > 1.0), "{found}");
    let paid = rows(&house).await;
    let passes = paid[answer.header("x-request-id").unwrap()].counts.passes;
    assert!(passes > 0 && found["usage"]["passes"] == passes, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_generated_are_the_librarys_and_each_token_is_a_pass() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    priced(&house).await;
    let lines = [("ab", "cd"), ("abc", "de"), ("h", "abcd")]
        .map(|(prompt, completion)| json!({"prompt": prompt, "completion": completion}).to_string())
        .join("\n");
    let file = bring(&house.client, "lines.jsonl", lines.as_bytes()).await;
    let answer = house.client.post(EVALUATIONS, &json!({"model": "poet", "file": file})).await;
    let found = ok(&answer);
    let reference: ModelRef = "poet".parse().unwrap();
    let resident = house.service.resident(&Project::default_project(), &reference).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.jsonl");
    std::fs::write(&path, lines).unwrap();
    let here = evaluations::measure(&resident, None, path.as_path(), &Control::new()).unwrap();
    assert_eq!(found["metrics"], serde_json::to_value(&here.metrics).unwrap());
    assert_eq!(found["metrics"]["exact_match"]["n"], 3);
    // Three rows are measured; without a token that ends, each answer is as long as the longest and one more.
    assert_eq!(found["usage"]["passes"], 3 + 3 * 5, "{found}");
    let entry = &rows(&house).await[answer.header("x-request-id").unwrap()];
    assert_eq!((entry.counts.passes, entry.cost), (18, 3 * 18), "{entry:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_refused_and_costs_nothing() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    import_tiny(&house).await;
    priced(&house).await;
    let file = bring(&house.client, "rows.csv", table_of(20).as_bytes()).await;
    let ask = async |client: &Client, model: &str, file: &str| {
        client.post(EVALUATIONS, &json!({"model": model, "file": file})).await
    };
    let ours = &house.client;
    assert_eq!(ask(ours, "nobody", &file).await.refused(404).1, "model_not_found");
    assert_eq!(ask(ours, "flowers", "file_0").await.refused(404).1, "not_found");
    assert_eq!(ask(ours, "tiny", &file).await.refused(422).1, "unsupported_model");
    assert_eq!(ours.post(EVALUATIONS, &json!({"model": "flowers"})).await.status, 400);
    let more = json!({"model": "flowers", "file": file, "rows": 3});
    assert_eq!(ours.post(EVALUATIONS, &more).await.status, 400, "no field is ignored");
    let wrong = bring(ours, "wrong.csv", b"a,b,y\n1,x,no\n2,1,yes\n3,y,yes\n").await;
    let refused = ask(ours, "flowers", &wrong).await;
    assert_eq!(refused.refused(400), ("file".into(), "invalid_file".into()));
    let errors = refused.json()["error"]["problems"]["errors"].clone();
    assert_eq!(
        (&errors[0]["line"], &errors[1]["line"], &errors[0]["file"]),
        (&json!(2), &json!(4), &json!("wrong.csv"))
    );
    assert!(!refused.text().contains(&*house.dir.path().to_string_lossy()), "{}", refused.text());
    let bare = bring(ours, "bare.csv", b"a,b\n1,2\n2,1\n").await;
    assert_eq!(ask(ours, "flowers", &bare).await.refused(400).0, "file", "no answers");
    assert!(rows(&house).await.is_empty(), "nothing was done");

    // A stranger is told of both what is told of none.
    let (store, act) = (house.service.store(), Act::of_command_line(Timestamp::now()));
    let (_, first) = projects::create_organization(store, "theirs", &act).await.unwrap();
    let grant = keys::KeyGrant { name: "all".into(), scopes: vec![KeyScope::Inference], expires_at: None };
    let (_, secret) = keys::create(store, &first.project, grant, Timestamp::now()).await.unwrap();
    let them = Client { key: Some(secret.reveal().to_owned()), ..house.client.clone() };
    assert_eq!(ask(&them, "flowers", &file).await.refused(404).1, "model_not_found");
    // Also with a model of theirs of the same name: a file is nobody else's.
    let theirs = bring(&them, "rows.csv", table_of(4).as_bytes()).await;
    let (real, none) = (
        ask(ours, "flowers", &theirs).await,
        ask(ours, "flowers", &theirs.replace(&theirs[30..], "00000000000")).await,
    );
    assert_eq!((real.refused(404).1, none.refused(404).1), ("not_found".into(), "not_found".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_and_a_client_that_leaves_end_an_evaluation() {
    let house = House::new().await;
    let hidden = "family = \"mlp\"\nhidden = [512, 512, 512]";
    house
        .publish_with("slow", "classification", hidden, table(labels(&["no", "yes"])), Kept::default())
        .await;
    priced(&house).await;
    let file = bring(&house.client, "rows.csv", table_of(60_000).as_bytes()).await;
    let body = json!({"model": "slow", "file": file}).to_string();
    let headers = [("content-type", "application/json")];
    let stream = house.client.open("POST", EVALUATIONS, &headers, body.as_bytes()).await;
    let begun = std::time::Instant::now();
    while house.service.ledger().figures().n_open == 0 {
        assert!(begun.elapsed().as_secs() < 60, "it does not begin");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    drop(stream);
    let paid = rows(&house).await;
    let entry = paid.values().next().unwrap();
    assert_eq!((paid.len(), entry.outcome), (1, Outcome::Cancelled), "{paid:?}");
    assert!((1..60_000).contains(&entry.counts.passes), "{entry:?}");

    // What is left covers the beginning and not the rest.
    let spent = entry.cost;
    let place = Place { tenant: "default".into(), project: "default".into(), api_key: String::new() };
    let act = Act::of_command_line(Timestamp::now());
    let limit = spent + 3 * 20_000;
    budgets::set(house.service.store(), &place, Period::Month, limit, &act).await.unwrap();
    house.service.ledger().refresh().await.unwrap();
    let refused = house.client.post(EVALUATIONS, &json!({"model": "slow", "file": file})).await;
    assert_eq!(refused.refused(429).1, "insufficient_quota");
}

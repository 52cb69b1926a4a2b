//! Lines of every route that a batch takes, and two projects that ask at once: what is measured is who comes when, not how
//! long it takes.

use crate::batches::{begin, billed, ended, hold, ids, line, lines, poems, wait};
use crate::client::Client;
use crate::house::House;
use crate::language::import_tiny;
use lyceum_engine::EngineLimits;
use lyceum_store::ledger::Outcome;
use lyceum_store::models::shares::{Share, With, share};
use lyceum_store::tenancy::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// What two answers to one question have alike: everything but ids and times.
fn said(route: &str, body: &Value) -> Value {
    match route {
        "/v1/chat/completions" => body["choices"].clone(),
        "/v1/embeddings" => body["data"].clone(),
        _ => body["output"].as_array().unwrap().iter().map(|item| item["content"].clone()).collect(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chats_embeddings_and_responses_are_answered_as_their_routes_answer_them() {
    let house = House::new().await;
    import_tiny(&house).await;
    house.import_encoder("bert").await;
    let client = &house.client;
    let chat = |seed: u64| json!({"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 9, "seed": seed});
    let text = |input: &str| json!({"model": "bert", "input": input});
    let response =
        |input: &str| json!({"model": "tiny", "input": input, "max_output_tokens": 9, "temperature": 0});
    for (route, bodies, wrong, param) in [
        ("/v1/chat/completions", [chat(1), chat(2)], json!({"model": "tiny", "messages": []}), "messages"),
        ("/v1/embeddings", [text("one"), text("two words")], json!({"model": "bert"}), "input"),
        (
            "/v1/responses",
            [response("hello"), response("bye")],
            json!({"model": "tiny", "input": 7}),
            "input",
        ),
    ] {
        let before = billed(&house).await.len();
        let text = [line("a", route, &bodies[0]), line("wrong", route, &wrong), line("b", route, &bodies[1])]
            .join("\n");
        let batch = ended(client, &begin(client, &text, route).await).await;
        assert_eq!(batch["request_counts"], json!({"total": 3, "completed": 2, "failed": 1}), "{batch}");
        let output = lines(client, &batch["output_file_id"]).await;
        assert_eq!(ids(&output), ["a", "b"].map(str::to_owned).into());
        for line in &output {
            let asked = &bodies[usize::from(line["custom_id"] == "b")];
            let alone = client.post(route, asked).await;
            assert_eq!(alone.status, 200, "{}", alone.text());
            let body = &line["response"]["body"];
            assert_eq!(said(route, body), said(route, &alone.json()), "{route}");
            assert_eq!(body["usage"]["total_tokens"], alone.json()["usage"]["total_tokens"], "{route}");
        }
        let errors = lines(client, &batch["error_file_id"]).await;
        assert_eq!(errors[0]["response"]["status_code"], 400, "{errors:?}");
        assert_eq!(errors[0]["response"]["body"]["error"]["param"], param);
        let paid = billed(&house).await;
        assert_eq!(paid.len() - before, 2, "{route}: each line once, and what was refused is free");
        let of_route: Vec<_> = paid.iter().filter(|entry| entry.request.route == route).collect();
        let requests: BTreeSet<&str> =
            output.iter().map(|line| line["response"]["request_id"].as_str().unwrap()).collect();
        assert_eq!(of_route.iter().map(|entry| &*entry.request.id).collect::<BTreeSet<_>>(), requests);
        assert!(of_route.iter().all(|entry| entry.outcome == Outcome::Completed));
    }
}

/// A client of another project, which may ask this model too.
async fn neighbour(house: &House, model: &str) -> Client {
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let project = admin.post("/v1/organization/projects", &json!({"name": "other"})).await.json();
    let id = project["id"].as_str().unwrap();
    let path = format!("/v1/organization/projects/{id}/service_accounts");
    let account = admin.post(&path, &json!({"name": "bot"})).await.json();
    let with = With::Project(Project { tenant: "default".into(), id: id.into() });
    let shared = Share { owner: Project::default_project(), name: model.parse().unwrap(), with };
    share(house.service.store(), &shared, &Act::of_command_line(Timestamp::from_millis(0))).await.unwrap();
    Client { key: Some(account["api_key"]["value"].as_str().unwrap().to_owned()), ..house.client.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_batch_ends_while_the_large_one_of_another_project_goes_on() {
    let house = House::with(EngineLimits { sequences_running_max: 2, ..EngineLimits::default() }).await;
    house.publish_poet("poet").await;
    let other = neighbour(&house, "poet").await;
    house.client.post("/v1/completions", &json!({"model": "poet", "prompt": "a"})).await;
    let held = hold(&house);
    let large = begin(&house.client, &poems(600), "/v1/completions").await;
    wait(&house.client, &large, |batch| batch["status"] == "in_progress").await;
    let small = begin(&other, &poems(6), "/v1/completions").await;
    wait(&other, &small, |batch| batch["status"] == "in_progress").await;
    drop(held);
    let small = ended(&other, &small).await;
    assert_eq!(small["request_counts"], json!({"total": 6, "completed": 6, "failed": 0}));
    // When the last line of the small one was answered, most of the large one was not: they took turns.
    let large_then = ended(&house.client, &large).await;
    assert_eq!(large_then["request_counts"]["completed"], 600);
    let entries = billed(&house).await;
    let mine = |project: &str| {
        let mut at: Vec<i64> = entries
            .iter()
            .filter(|entry| (entry.request.project == "default") == (project == "default"))
            .map(|entry| entry.settled_at.millis())
            .collect();
        at.sort_unstable();
        at
    };
    let (many, few) = (mine("default"), mine("other"));
    let before = many.iter().filter(|at| *at <= few.last().unwrap()).count();
    assert!(before < 200, "{before} of 600 came before the last of six");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_does_not_wait_for_all_streams_of_another_project() {
    let house = House::with(EngineLimits { sequences_running_max: 2, ..EngineLimits::default() }).await;
    crate::load::publish_endless(&house).await;
    let other = neighbour(&house, "endless").await;
    for client in [&house.client, &other] {
        let body = json!({"model": "endless", "prompt": "a", "max_tokens": 1});
        assert_eq!(client.post("/v1/completions", &body).await.status, 200);
    }
    let held = hold(&house);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    let asked = (0..16).map(|_| ("many", house.client.clone())).chain((0..2).map(|_| ("few", other.clone())));
    for (i, (name, client)) in asked.enumerate() {
        let order = order.clone();
        tasks.push(tokio::spawn(async move {
            let body = json!({"model": "endless", "prompt": "abc", "max_tokens": 2000, "seed": i, "ignore_eos": true,
                "stream": true});
            let events = client.post("/v1/completions", &body).await.events();
            assert_eq!(events.last().unwrap(), "[DONE]");
            order.lock().unwrap().push(name);
        }));
        // One after the other, so that the others came first.
        while house.service.engine().load().sequences <= i {
            tokio::task::yield_now().await;
        }
    }
    drop(held);
    for task in tasks {
        task.await.unwrap();
    }
    // In turn they would be among the first four or so; behind all, the last two.
    let order = order.lock().unwrap().clone();
    let last = order.iter().rposition(|name| *name == "few").unwrap();
    assert!(last < 12, "they take turns: {order:?}");
}

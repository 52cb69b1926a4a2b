//! Explanations, certificates and robustness runs on the bill: an auditor who counts passes by what the client was told and
//! by what the engine did, budgets that cover them, limits that count them.

use crate::client::{Answer, Client, ok};
use crate::house::House;
use crate::language::import_tiny;
use crate::ledger::{RATES, bookkeeper, priced, rows};
use lyceum_store::ledger::budgets::{self, Period, Place};
use lyceum_store::ledger::{Counts, Outcome};
use lyceum_store::tenancy::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::KeyScope;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const RUNS: &str = "/v1/robustness/runs";

async fn house() -> House {
    let house = House::new().await;
    house.publish_table("flowers").await;
    house.publish_poet("poet").await;
    import_tiny(&house).await;
    priced(&house).await;
    house
}

fn id(answer: &Answer) -> String {
    answer.header("x-request-id").unwrap().to_owned()
}

/// What an explanation says that it took.
#[track_caller]
fn passes_of(explanation: &Value) -> u64 {
    let of = |way: &str| explanation["usage"][way].as_u64().unwrap_or_else(|| panic!("{explanation}"));
    of("forward_passes") + of("backward_passes")
}

async fn until_ended(client: &Client, run: &Value) -> Value {
    let path = format!("{RUNS}/{}", run["id"].as_str().unwrap_or_else(|| panic!("{run}")));
    for _ in 0..3000 {
        let run = client.get(&path).await.json();
        if !matches!(run["status"].as_str(), Some("queued" | "in_progress")) {
            return run;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the run does not end")
}

/// An explanation by itself.
fn alone() -> Value {
    json!({"model": "flowers", "features": {"a": 1, "b": 2}, "baseline": {"type": "zeros"}})
}

/// A decision that says why.
fn decision() -> Value {
    let features = json!([{"type": "input_json", "data": {"a": 1, "b": 2}}]);
    json!({"model": "flowers", "input": [{"role": "user", "content": features}],
        "questions": [{"type": "predicate", "instructions": "yes"}], "explain": {"baseline": {"type": "zeros"}}})
}

const WHY: [(&str, &str); 2] = [("granularity", "word"), ("method", "leave_one_out")];

/// A question that is answered and explained, at one of the doors of language models.
fn asked(door: &str, stream: bool) -> Value {
    let explain: Value = WHY
        .iter()
        .map(|(name, value)| ((*name).to_owned(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let mut body =
        json!({"model": "tiny", "temperature": 0, "seed": 1, "stream": stream, "explain": explain});
    match door {
        "/v1/chat/completions" => {
            body["messages"] = json!([{"role": "user", "content": "hello you there"}]);
            body["max_tokens"] = json!(4);
            body["ignore_eos"] = json!(true);
        }
        _ => {
            body["input"] = json!("hello you there");
            body["max_output_tokens"] = json!(4);
        }
    }
    body
}

/// The explanation in an answer, whole or streamed.
fn explanation_in(answer: &Answer) -> Value {
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        let whole = answer.json();
        return whole["explanation"].clone();
    }
    let data =
        answer.text().lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let events = data.map(|data| serde_json::from_str::<Value>(data).unwrap());
    let found = |event: Value| {
        let places = [&event["explanation"], &event["response"]["explanation"]];
        places.into_iter().find(|found| found.is_object()).cloned()
    };
    events.filter_map(found).next_back().unwrap_or_else(|| panic!("{}", answer.text()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_finds_every_pass_in_a_row_of_its_own_kind() {
    let house = house().await;
    let client = &house.client;
    // By row of the ledger: route and passes.
    let mut expected: BTreeMap<String, (String, u64)> = BTreeMap::new();

    let alone = client.post("/v1/explanations", &alone()).await;
    expected.insert(id(&alone), ("/v1/explanations".into(), passes_of(&ok(&alone))));

    let two = json!({"instances": [[1, 2], [0, 1]], "explain": {"baseline": {"type": "zeros"}}});
    let verb = client.post("/v1/models/flowers:explain", &two).await;
    let told: u64 = ok(&verb)["explanations"].as_array().unwrap().iter().map(passes_of).sum();
    expected.insert(id(&verb), ("/v1/models/{id}:explain".into(), told));

    let both = client.post("/v1/models/flowers:predict", &two).await;
    let told: u64 = ok(&both)["explanations"].as_array().unwrap().iter().map(passes_of).sum();
    expected.insert(id(&both), ("/v1/models/{id}:predict".into(), 2));
    expected.insert(format!("{}.1", id(&both)), ("/v1/models/{id}:predict:explain".into(), told));

    // Each of 2 rows: once for its answer, 100 guesses and 150 samples.
    let certify = json!({"instances": [[1, 2], [0, 1]], "certify": {"sigma": 0.25, "n": 150, "alpha": 0.05}});
    let certified = client.post("/v1/models/flowers:predict", &certify).await;
    ok(&certified);
    expected.insert(id(&certified), ("/v1/models/{id}:predict".into(), 2 + 2 * 250));
    // A client may encode the colon.
    let encoded = client.post("/v1/models/flowers%3Apredict", &json!({"instances": [[1, 2]]})).await;
    ok(&encoded);
    expected.insert(id(&encoded), ("/v1/models/{id}:predict".into(), 1));

    let decided = client.post("/v1/decisions", &decision()).await;
    expected.insert(id(&decided), ("/v1/decisions".into(), passes_of(&ok(&decided)["explanation"])));

    let poem = json!({"model": "poet", "prompt": "abc de", "max_tokens": 5, "temperature": 0, "explain": {}});
    let poem = client.post("/v1/completions", &poem).await;
    expected.insert(id(&poem), ("/v1/completions".into(), 0));
    let told = passes_of(&ok(&poem)["explanation"]);
    expected.insert(format!("{}.1", id(&poem)), ("/v1/completions:explain".into(), told));

    for door in ["/v1/chat/completions", "/v1/responses"] {
        for stream in [false, true] {
            let answer = client.post(door, &asked(door, stream)).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            let told = passes_of(&explanation_in(&answer));
            assert!(told > 0);
            expected.insert(id(&answer), (door.into(), 0));
            expected.insert(format!("{}.1", id(&answer)), (format!("{door}:explain"), told));
        }
    }

    let run = json!({"model": "flowers", "instances": [[0.1, 0.2], [1.0, 0.5]], "labels": ["no", "yes"],
        "suite": [{"type": "smoothing", "sigma": 0.25, "n": 200}, {"type": "fgsm", "norm": "linf", "eps": 0.1}]});
    let before = house.service.engine().counted().passes;
    let asked = client.post(RUNS, &run).await;
    assert_eq!(until_ended(client, &ok(&asked)).await["status"], "completed");
    let found = rows(&house).await;
    let of_run = &found[&id(&asked)];
    let counted = house.service.engine().counted().passes - before;
    assert!(of_run.counts.passes == counted && counted > 2 * 200, "{of_run:?} {counted}");
    expected.insert(id(&asked), (RUNS.into(), counted));

    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (id, (route, passes)) in &expected {
        let row = &found[id];
        assert_eq!(
            (&row.request.route, row.counts.passes, row.outcome),
            (route, *passes, Outcome::Completed),
            "{id}"
        );
        assert_eq!(row.cost, RATES.cost(&row.counts));
    }
    let sum: u64 = expected.values().map(|(_, passes)| passes).sum();
    assert_eq!(house.service.engine().counted().passes, sum, "the engine made no other pass");

    // The books have them among explanations, whichever door they came by.
    let explained = |route: &str| route.ends_with(":explain") || route == "/v1/explanations" || route == RUNS;
    let told: u64 = expected.values().filter(|(route, _)| explained(route)).map(|(_, passes)| passes).sum();
    let path = format!("/v1/organization/usage/explanations?start_time={}", Timestamp::now().seconds() - 600);
    let page = bookkeeper(&house).await.get(&path).await.json();
    let results =
        page["data"].as_array().unwrap().iter().flat_map(|bucket| bucket["results"].as_array().unwrap());
    assert_eq!(results.map(|result| result["num_passes"].as_u64().unwrap()).sum::<u64>(), told, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_pays_what_ran() {
    let house = house().await;
    let body = json!({"model": "flowers", "instances": [[0.1, 0.2]], "labels": ["no"],
        "suite": [{"type": "smoothing", "sigma": 0.25, "n": 100_000}, {"type": "smoothing", "sigma": 0.5, "n": 100_000}]});
    let run = house.client.post(RUNS, &body).await;
    let path = format!("{RUNS}/{}", ok(&run)["id"].as_str().unwrap());
    let before = house.service.engine().counted().passes;
    while house.service.engine().counted().passes < before + 2048 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    ok(&house.client.post(&format!("{path}/cancel"), &json!({})).await);
    let found = rows(&house).await;
    let row = &found[&id(&run)];
    assert_eq!(
        (row.outcome, row.counts.passes),
        (Outcome::Cancelled, house.service.engine().counted().passes)
    );
    assert!(row.counts.passes > 2000 && row.counts.passes < 200_000, "{row:?}");
    assert_eq!(row.cost, RATES.cost(&row.counts));
}

/// Each kind of work that makes passes beside an answer, and the door that does it.
fn works() -> [(&'static str, Value); 5] {
    let certify = json!({"sigma": 0.25, "n": 500, "alpha": 0.05});
    [
        ("/v1/explanations", alone()),
        (
            "/v1/models/flowers:explain",
            json!({"instances": [[1, 2]], "explain": {"baseline": {"type": "zeros"}}}),
        ),
        ("/v1/models/flowers:predict", json!({"instances": [[1, 2]], "certify": certify})),
        ("/v1/decisions", decision()),
        (
            RUNS,
            json!({"model": "flowers", "instances": [[0.1, 0.2]], "labels": ["no"],
            "suite": [{"type": "smoothing", "sigma": 0.25, "n": 500}]}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_budget_does_not_cover_is_not_begun() {
    let house = house().await;
    let place = Place { tenant: "default".into(), project: "default".into(), api_key: String::new() };
    let act = Act::of_command_line(Timestamp::now());
    // A prediction costs 3; the worst of an explanation or a certificate is far more.
    budgets::set(house.service.store(), &place, Period::Month, 9, &act).await.unwrap();
    house.service.ledger().refresh().await.unwrap();
    for (path, body) in works() {
        let answer = house.client.post(path, &body).await;
        if path == RUNS {
            let run = until_ended(&house.client, &ok(&answer)).await;
            assert_eq!(
                (&run["status"], &run["error"]["code"]),
                (&json!("failed"), &json!("insufficient_quota")),
                "{run}"
            );
        } else {
            assert_eq!(answer.refused(429).1, "insufficient_quota", "{path}");
        }
    }
    let found = rows(&house).await;
    assert_eq!(
        found.values().map(|row| row.counts).fold(Counts::default(), |mut sum, counts| {
            sum += counts;
            sum
        }),
        Counts::default()
    );
    let predict = json!({"instances": [[1, 2]]});
    assert_eq!(house.client.post("/v1/models/flowers:predict", &predict).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_aside_for_an_answers_explanation_is_what_its_method_takes() {
    let house = house().await;
    let place = Place { tenant: "default".into(), project: "default".into(), api_key: String::new() };
    let act = Act::of_command_line(Timestamp::now());
    for (method, n) in [
        ("leave_one_out", 3 + 2),
        ("relevance", 2),
        ("gradient_x_input", 2),
        ("direct_logit_attribution", 2),
        ("integrated_gradients", 3 + 8),
    ] {
        let mut body = json!({"model": "tiny", "prompt": "One is. Two is. Three is.", "completion": " Four",
            "method": method, "granularity": "sentence"});
        if method == "integrated_gradients" {
            body["n_steps"] = json!(4);
        }
        let spent: i64 = rows(&house).await.values().map(|row| row.cost).sum();
        for (missing, status) in [(1, 429), (0, 200)] {
            budgets::set(
                house.service.store(),
                &place,
                Period::Month,
                spent + RATES.pass * n / 1_000_000 - missing,
                &act,
            )
            .await
            .unwrap();
            house.service.ledger().refresh().await.unwrap();
            let answer = house.client.post("/v1/explanations", &body).await;
            assert_eq!(answer.status, status, "{method} {missing}: {}", answer.text());
            if status == 200 {
                let took = passes_of(&answer.json());
                assert!(took <= n as u64, "{method}: {took} of {n}");
            } else {
                assert!(answer.text().contains("max_passes"), "{}", answer.text());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_count_for_the_tokens_of_a_minute() {
    for (path, body) in works() {
        let house = house().await;
        let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
        let limit = json!({"max_tokens_per_1_minute": 20});
        let limits = "/v1/organization/projects/default/rate_limits/rl-*";
        assert_eq!(admin.post(limits, &limit).await.status, 200);
        let mut n_answered = 0;
        let refused = loop {
            let answer = house.client.post(path, &body).await;
            if answer.status != 200 || n_answered == 30 {
                break answer;
            }
            n_answered += 1;
            if path == RUNS {
                assert_eq!(until_ended(&house.client, &answer.json()).await["status"], "completed");
            }
        };
        assert_eq!(refused.refused(429).1, "rate_limit_exceeded", "{path} after {n_answered}");
        assert_eq!(refused.json()["error"]["type"], "tokens");
        let each: Vec<u64> = rows(&house).await.values().map(|row| row.counts.passes).collect();
        let all: u64 = each.iter().sum();
        // The bucket was emptied by what was made, and not before; a minute refills it, these were seconds.
        assert!(each.len() == n_answered && (20..).contains(&all), "{path}: {each:?}");
        assert!(all - each.last().unwrap() < 24, "{path}: {each:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stream_explains_at_its_end_counts_as_what_is_explained_at_once() {
    let mut left = Vec::new();
    for stream in [false, true] {
        let house = house().await;
        let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
        let limit = json!({"max_tokens_per_1_minute": 100_000});
        admin.post("/v1/organization/projects/default/rate_limits/rl-*", &limit).await;
        let door = "/v1/chat/completions";
        let answer = house.client.post(door, &asked(door, stream)).await;
        let passes = passes_of(&explanation_in(&answer));
        let seen = house.client.post("/v1/models/flowers:predict", &json!({"instances": [[1, 2]]})).await;
        let remaining: u64 = seen.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        assert!(remaining + 4 * passes < 100_000, "{remaining} are left after {passes} passes of a prompt");
        left.push(remaining);
    }
    // A second refills 1,667.
    assert!(left[0].abs_diff(left[1]) < 2_000, "{left:?}");
}

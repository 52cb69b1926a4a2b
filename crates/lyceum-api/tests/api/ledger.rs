//! The ledger from outside: an auditor who believes no counter compares what clients received with the rows, the engine
//! and the pages of usage.

use crate::client::{Answer, Client};
use crate::house::House;
use lyceum_engine::EngineLimits;
use lyceum_service::Payer;
use lyceum_store::keys::KeyGrant;
use lyceum_store::ledger::budgets::{self, Period, Place};
use lyceum_store::ledger::{Counts, Entry, Outcome, Rates, entries, prices};
use lyceum_store::tenancy::{Act, Actor, admin_keys};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyId, KeyScope, Project};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// One millionth a token read and two a token made, half of that for what was kept; three a pass; four a token that is
/// trained on, five a row, six a second.
pub const RATES: Rates = Rates {
    input: 1_000_000,
    cached_input: 500_000,
    output: 2_000_000,
    training: 4_000_000,
    training_row: 5_000_000,
    cpu_second: 6_000_000,
    pass: 3_000_000,
};

const ALL: (Timestamp, Timestamp) = (Timestamp::from_millis(0), Timestamp::from_millis(i64::MAX));

pub async fn priced(house: &House) {
    prices::set(house.service.store(), ("*", "*", "*"), RATES, &Act::of_command_line(Timestamp::now()))
        .await
        .unwrap();
    house.service.ledger().refresh().await.unwrap();
}

/// Rows by request, once nothing is under way.
pub async fn rows(house: &House) -> BTreeMap<String, Entry> {
    quiet(house).await;
    let all = entries::list(house.service.store(), "default", ALL, "", 100_000).await.unwrap();
    all.into_iter().map(|entry| (entry.request.id.clone(), entry)).collect()
}

async fn quiet(house: &House) {
    for _ in 0..1000 {
        let figures = house.service.ledger().figures();
        if figures.n_open == 0 && figures.n_pending == 0 {
            assert_eq!((figures.delta_tokens, figures.n_forgotten), (0, 0), "{figures:?}");
            assert_eq!((figures.totals.n_over, figures.n_failed_spool_lines), (0, 0), "{figures:?}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the ledger does not come to rest: {:?}", house.service.ledger().figures());
}

fn id(answer: &Answer) -> String {
    answer.header("x-request-id").unwrap().to_owned()
}

/// Who may read the organization's bill.
pub async fn bookkeeper(house: &House) -> Client {
    let store = house.service.store();
    let act = Act { actor: Actor::CommandLine, now: Timestamp::now() };
    let owner = admin_keys::operator(store, "default", &act).await.unwrap();
    let scopes = vec![KeyScope::OrganizationRead];
    let grant = KeyGrant { name: "books".into(), scopes, expires_at: None };
    let (_, secret) = admin_keys::create(store, "default", &owner.id, grant, &act).await.unwrap();
    Client { key: Some(secret.reveal().to_owned()), ..house.client.clone() }
}

/// What a completion of the poet must cost by its bytes: a character is a token.
fn by_its_bytes(prompt: &str, said: u64) -> Counts {
    Counts { input_tokens: prompt.chars().count() as u64, output_tokens: said, ..Counts::default() }
}

/// Holds what an answer says of itself to its bytes, whole or as parts of a stream: a letter is a token. Stop texts and
/// the end of a text are made and not shown.
fn audit(prompt: &str, choices: &[Value], usage: Counts) {
    let said: usize = choices.iter().map(|c| c["text"].as_str().unwrap().chars().count()).sum();
    let shown = by_its_bytes(prompt, said as u64);
    assert_eq!(usage.input_tokens, shown.input_tokens);
    let ended = choices.iter().filter(|c| c["finish_reason"] == "stop").count() as u64;
    assert!(usage.output_tokens >= shown.output_tokens, "{choices:?}");
    assert!(usage.output_tokens <= shown.output_tokens + ended, "{choices:?}");
}

fn usage_of(usage: &Value) -> Counts {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    Counts {
        input_tokens: number(&usage["prompt_tokens"]),
        cached_tokens: number(&usage["prompt_tokens_details"]["cached_tokens"]),
        output_tokens: number(&usage["completion_tokens"]),
        ..Counts::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_finds_in_every_row_what_the_client_received() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    house.publish_table("flowers").await;
    priced(&house).await;
    let mut expected: BTreeMap<String, Counts> = BTreeMap::new();
    for i in 0..24_usize {
        let prompt: String = "abcdefgh".chars().cycle().skip(i % 8).take(1 + i % 5).collect();
        let n = 1 + i % 3;
        let mut body = json!({"model": "poet", "prompt": prompt, "max_tokens": 4 + i % 7, "seed": i, "n": n});
        if i % 4 == 3 {
            body["stop"] = json!("a");
        }
        if i % 2 == 0 {
            let answer = house.client.post("/v1/completions", &body).await;
            let whole = answer.json();
            let usage = usage_of(&whole["usage"]);
            audit(&prompt, whole["choices"].as_array().unwrap(), usage);
            expected.insert(id(&answer), usage);
        } else {
            body["stream"] = json!(true);
            body["stream_options"] = json!({"include_usage": true});
            let answer = house.client.post("/v1/completions", &body).await;
            let events = answer.events();
            let events: Vec<Value> =
                events[..events.len() - 1].iter().map(|event| serde_json::from_str(event).unwrap()).collect();
            let usage = usage_of(&events[events.len() - 1]["usage"]);
            let parts: Vec<Value> =
                events.iter().flat_map(|event| event["choices"].as_array().unwrap().clone()).collect();
            audit(&prompt, &parts, usage);
            expected.insert(id(&answer), usage);
        }
    }
    for i in 0..4 {
        let instances: Vec<Value> = (0..=i).map(|k| json!([k, 1])).collect();
        let answer = house.client.post("/v1/models/flowers:predict", &json!({"instances": instances})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        expected.insert(id(&answer), Counts { passes: i + 1, ..Counts::default() });
    }
    let explained = house
        .client
        .post(
            "/v1/explanations",
            &json!({"model": "flowers", "features": {"a": 1, "b": 2}, "baseline": {"type": "zeros"}}),
        )
        .await;
    let usage = &explained.json()["usage"];
    let passes = usage["forward_passes"].as_u64().unwrap() + usage["backward_passes"].as_u64().unwrap();
    expected.insert(id(&explained), Counts { passes, ..Counts::default() });
    // What is refused is not told of.
    let refused = house.client.post("/v1/completions", &json!({"model": "poet", "prompt": 7})).await;
    assert_eq!(refused.status, 400);

    let rows = rows(&house).await;
    assert_eq!(rows.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let mut sum = Counts::default();
    let mut cost = 0;
    for (id, counts) in &expected {
        let row = &rows[id];
        assert_eq!((row.counts, row.outcome), (*counts, Outcome::Completed), "{row:?}");
        assert_eq!(row.cost, RATES.cost(counts));
        sum += *counts;
        cost += row.cost;
    }
    let counted = house.service.engine().counted();
    let discarded = house.service.ledger().figures().discarded_tokens;
    assert_eq!(counted.tokens(), sum.served_tokens() + discarded);
    assert_eq!(counted.passes, sum.passes);

    // OpenAI's pages say the same.
    let books = bookkeeper(&house).await;
    let page = books.get("/v1/organization/costs?start_time=1").await.json();
    assert_eq!(page["has_more"], true);
    let today = Timestamp::now().seconds() - 10;
    let page = |path: &str| format!("/v1/organization/{path}?start_time={today}");
    let costs = books.get(&page("costs")).await.json();
    let amounts = costs["data"].as_array().unwrap().iter().flat_map(|b| b["results"].as_array().unwrap());
    let amount: f64 = amounts.map(|r| r["amount"]["value"].as_f64().unwrap()).sum();
    assert!((amount * 1e6 - cost as f64).abs() < 1e-6, "{costs}");
    let usage = books.get(&(page("usage/completions") + "&group_by[]=model&bucket_width=1h")).await;
    let results: Vec<Value> = usage.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|bucket| bucket["results"].as_array().unwrap().clone())
        .collect();
    let total = |name: &str| results.iter().map(|r| r[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("input_tokens"), total("output_tokens")), (sum.input_tokens, sum.output_tokens));
    assert_eq!(total("num_model_requests"), 24);
    assert!(results.iter().all(|r| r["model"] == "poet" && r["api_key_id"].is_null()), "{results:?}");
    let metrics = house.client.get("/metrics").await;
    assert!(metrics.text().contains("\nlyceum_usage_delta_tokens 0\n"), "{}", metrics.text());
    let made =
        format!("\nvllm:generation_tokens_total {}\n", house.service.engine().counted().generated_tokens);
    assert!(metrics.text().contains(&made), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_and_what_waits_is_told_under_vllms_names() {
    let house = House::with(EngineLimits { sequences_running_max: 2, ..EngineLimits::default() }).await;
    crate::load::publish_endless(&house).await;
    let mut streams = Vec::new();
    for seed in 0..3 {
        let body =
            json!({"model": "endless", "prompt": "abc", "max_tokens": 60_000, "seed": seed, "stream": true})
                .to_string();
        let headers = [("content-type", "application/json")];
        streams.push(house.client.open("POST", "/v1/completions", &headers, body.as_bytes()).await);
    }
    let told = async |lines: &[&str]| {
        loop {
            let text = house.client.get("/metrics").await.text().to_owned();
            if lines.iter().all(|line| text.contains(&format!("\n{line}\n"))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    told(&["vllm:num_requests_running 2", "vllm:num_requests_waiting 1"]).await;
    drop(streams);
    told(&["vllm:num_requests_running 0", "vllm:num_requests_waiting 0", "vllm:kv_cache_usage_perc 0"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_pays_what_was_generated() {
    let house = House::with(EngineLimits { sequences_max: 2048, ..EngineLimits::default() }).await;
    crate::load::publish_endless(&house).await;
    priced(&house).await;
    let mut tasks = Vec::new();
    for i in 0..500 {
        let client = house.client.clone();
        tasks.push(tokio::spawn(async move {
            let body =
                json!({"model": "endless", "prompt": "abc", "max_tokens": 60_000, "seed": i, "stream": true});
            let headers = [("content-type", "application/json")];
            let mut stream =
                client.open("POST", "/v1/completions", &headers, body.to_string().as_bytes()).await;
            // Some leave before the first byte, most after a few.
            let mut bytes = [0; 256];
            for _ in 0..i % 4 {
                let _ = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut bytes)).await;
            }
            drop(stream);
        }));
        if i % 50 == 49 {
            for task in tasks.drain(..) {
                task.await.unwrap();
            }
        }
    }
    let rows = rows(&house).await;
    let counted = house.service.engine().counted();
    let made: u64 = rows.values().map(|row| row.counts.output_tokens).sum();
    let read: u64 = rows.values().map(|row| row.counts.input_tokens).sum();
    assert_eq!((read, made), (counted.prompt_tokens, counted.generated_tokens));
    assert_eq!(house.service.ledger().figures().discarded_tokens, 0);
    assert_eq!(house.service.engine().load().kv_pages_used, 0);
    let cancelled = rows.values().filter(|row| row.outcome == Outcome::Cancelled).count();
    assert!(cancelled == rows.len() && cancelled > 100 && made > 100, "{cancelled} of {}", rows.len());
}

/// Who waits for money looks into the purse first: the database, asked for more than is needed, would have nothing left
/// while the purse has.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_refused_only_what_a_budget_has_no_room_for() {
    const FITS: usize = 25;
    let house = House::new().await;
    house.publish_poet("poet").await;
    priced(&house).await;
    let body = |seed: usize| json!({"model": "poet", "prompt": "abc", "max_tokens": 5, "seed": seed});
    let first = house.client.post("/v1/completions", &body(0)).await.json();
    let input_tokens = first["usage"]["prompt_tokens"].as_u64().unwrap();
    let worst = RATES.worst(&Counts { input_tokens, output_tokens: 5, ..Counts::default() });
    rows(&house).await;
    let place = Place { tenant: "default".into(), project: "default".into(), api_key: String::new() };
    let act = Act::of_command_line(Timestamp::now());
    let limit = RATES.cost(&usage_of(&first["usage"])) + FITS as i64 * worst;
    budgets::set(house.service.store(), &place, Period::Total, limit, &act).await.unwrap();
    house.service.ledger().refresh().await.unwrap();
    let asked = (0..200).map(|i| {
        let (client, body) = (house.client.clone(), body(i));
        tokio::spawn(async move { client.post("/v1/completions", &body).await.status })
    });
    let asked: Vec<_> = asked.collect();
    let mut answered = 0;
    for task in asked {
        answered += usize::from(task.await.unwrap() == 200);
    }
    assert!(answered >= FITS, "{answered} were answered, and {FITS} fit");
    let spent = rows(&house).await.values().map(|row| row.cost).sum::<i64>();
    assert!(spent <= limit, "{spent} of {limit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_do_not_overrun_a_budget() {
    let house = House::new().await;
    house.publish_poet("poet").await;
    priced(&house).await;
    let place = Place { tenant: "default".into(), project: "default".into(), api_key: String::new() };
    let limit = 700;
    budgets::set(
        house.service.store(),
        &place,
        Period::Month,
        limit,
        &Act::of_command_line(Timestamp::now()),
    )
    .await
    .unwrap();
    house.service.ledger().refresh().await.unwrap();
    let mut tasks = Vec::new();
    for i in 0..200 {
        let client = house.client.clone();
        tasks.push(tokio::spawn(async move {
            let mut told = Vec::new();
            for k in 0..2 {
                let body = json!({"model": "poet", "prompt": "abc", "max_tokens": 5, "seed": i * 2 + k});
                told.push(client.post("/v1/completions", &body).await);
            }
            told
        }));
    }
    let (mut paid, mut refused) = (0, 0);
    for task in tasks {
        for answer in task.await.unwrap() {
            match answer.status {
                200 => paid += RATES.cost(&usage_of(&answer.json()["usage"])),
                _ => {
                    assert_eq!(answer.refused(429).1, "insufficient_quota");
                    assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
                    refused += 1;
                }
            }
        }
    }
    let rows = rows(&house).await;
    let window = &budgets::windows(house.service.store(), Timestamp::now()).await.unwrap()[0];
    assert_eq!(window.spent, rows.values().map(|row| row.cost).sum::<i64>());
    assert_eq!(window.spent, paid);
    assert!(window.spent <= limit && window.spent > limit - 60, "{window:?}");
    assert!(refused > 100, "{refused}");
    // What is free costs nothing, also when all is spent.
    prices::set(
        house.service.store(),
        ("*", "*", "poet"),
        Rates::default(),
        &Act::of_command_line(Timestamp::now()),
    )
    .await
    .unwrap();
    house.service.ledger().refresh().await.unwrap();
    let body = json!({"model": "poet", "prompt": "abc", "max_tokens": 5});
    assert_eq!(house.client.post("/v1/completions", &body).await.status, 200);
}

/// Lets the database take no entry, or take them again.
async fn stick(dir: &Path, on: bool) {
    use sqlx::{Connection, SqliteConnection};
    let url = format!("sqlite://{}", dir.join("lyceum.db").display());
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let statement = match on {
        true => {
            "CREATE TRIGGER stuck BEFORE INSERT ON ledger_entries BEGIN SELECT RAISE(ABORT, 'a fault'); END"
        }
        false => "DROP TRIGGER stuck",
    };
    sqlx::query(statement).execute(&mut database).await.unwrap();
    database.close().await.unwrap();
}

/// The faults: a database that takes nothing, clients that leave, work that panics, a server that dies.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_requests_and_forty_faults_lose_nothing_and_double_nothing() {
    const ROUNDS: usize = 40;
    let mut house = House::new().await;
    house.publish_poet("poet").await;
    priced(&house).await;
    let mut received: BTreeMap<String, Counts> = BTreeMap::new();
    let mut sent = 0;
    for round in 0..ROUNDS {
        let (sticks, dies) = (round % 4 == 1, round % 10 == 9);
        if sticks {
            stick(house.dir.path(), true).await;
        }
        let mut tasks = Vec::new();
        for i in 0..50 {
            let client = house.client.clone();
            sent += 1;
            tasks.push(tokio::spawn(async move {
                let body = json!({"model": "poet", "prompt": "abc", "max_tokens": 3 + i % 5, "seed": i});
                client.post("/v1/completions", &body).await
            }));
        }
        if round % 4 == 2 {
            leave(&house).await;
        }
        if round % 4 == 3 {
            panic_in_work(&house, round).await;
        }
        for task in tasks {
            let answer = task.await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            let before = received.insert(id(&answer), usage_of(&answer.json()["usage"]));
            assert_eq!(before, None);
        }
        if sticks {
            while house.service.ledger().figures().n_failed_commits == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        if dies {
            // Whatever was not written yet is in the spool of the dead.
            let dir = house.die().await;
            if sticks {
                stick(dir.path(), false).await;
            }
            house = House::over(dir, EngineLimits::default()).await;
        } else if sticks {
            stick(house.dir.path(), false).await;
        }
    }
    assert_eq!(sent, 2000);
    let mut found = rows(&house).await;
    let n_spooled = || std::fs::read_dir(house.dir.path().join("spool")).unwrap().count();
    for _ in 0..100 {
        // A dead server may have been found a little later.
        if received.keys().all(|id| found.contains_key(id)) && n_spooled() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = rows(&house).await;
    }
    let rows = found;
    for (id, counts) in &received {
        let row = rows.get(id).unwrap_or_else(|| panic!("{id} was lost"));
        assert_eq!((row.counts, row.outcome), (*counts, Outcome::Completed), "{id}");
    }
    let others: Vec<&Entry> = rows.values().filter(|row| !received.contains_key(&row.request.id)).collect();
    // Streams that were cut, and work that panicked.
    assert!(others.len() <= ROUNDS / 2 && others.iter().any(|row| row.outcome == Outcome::Cancelled));
    assert_eq!(n_spooled(), 2, "the dead are gone");
}

/// A stream that is cut.
async fn leave(house: &House) {
    let body = json!({"model": "poet", "prompt": "abc", "max_tokens": 20, "stream": true}).to_string();
    let headers = [("content-type", "application/json")];
    drop(house.client.open("POST", "/v1/completions", &headers, body.as_bytes()).await);
}

/// A task that panics while its guard is open.
async fn panic_in_work(house: &House, round: usize) {
    let project = Project::default_project();
    let request = format!("req_panic_{round}");
    let payer = Payer::of_request(project.clone(), KeyId::from_bits(1), "/v1/completions", request);
    let service = house.service.clone();
    let work = tokio::spawn(async move {
        let request = lyceum_service::completions::Request {
            model: "poet".parse().unwrap(),
            prompts: vec![lyceum_service::completions::Prompt::Text("abc".into())],
            n: 1,
            max_tokens: Some(8),
            sampling: lyceum_service::completions::Sampling::greedy(),
            stop: vec![],
            stop_ids: vec![],
            ignore_eos: false,
            logprobs: None,
            echo: false,
            prompt_logprobs: None,
            priority: lyceum_service::completions::Priority::Interactive,
        };
        let mut running = lyceum_service::completions::create(&service, &payer, request).await.unwrap();
        running.next().await.unwrap();
        panic!("a fault");
    });
    assert!(work.await.is_err());
}

//! Many clients at once: each gets what it would have got alone, those who leave free their work, and
//! whoever comes beyond the bound is told to come again.

use crate::house::House;
use lyceum_engine::EngineLimits;
use lyceum_models::prepare::text::{Specials, Tokenizer};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncReadExt;

fn request(i: usize) -> (&'static str, Value) {
    let prompt: String = "abcdefgh".chars().cycle().skip(i % 8).take(1 + i % 5).collect();
    match i % 4 {
        0 => (
            "/v1/completions",
            json!({"model": "poet", "prompt": prompt, "max_tokens": 5 + i % 9, "seed": i}),
        ),
        1 => (
            "/v1/completions",
            json!({"model": "poet", "prompt": prompt, "max_tokens": 6, "seed": i, "stream": true}),
        ),
        2 => ("/v1/models/flowers:predict", json!({"instances": [[i, 1], [0.5, i]]})),
        _ => {
            let input =
                json!([{"role": "user", "content": [{"type": "input_json", "data": {"a": i, "b": 2}}]}]);
            (
                "/v1/decisions",
                json!({"model": "flowers", "input": input, "questions": [{"type": "predicate", "instructions": "yes"}]}),
            )
        }
    }
}

/// An answer without what differs from run to run: the completion's id and time.
fn essence(body: &str) -> String {
    let line = |line: &str| {
        let (prefix, text) = line.strip_prefix("data: ").map_or(("", line), |text| ("data: ", text));
        let Ok(mut value) = serde_json::from_str::<Value>(text) else { return line.to_owned() };
        if let Some(object) = value.as_object_mut() {
            object.remove("id");
            object.remove("created");
        }
        format!("{prefix}{value}")
    };
    body.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_get_byte_for_byte_what_each_gets_alone() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    house.publish_poet("poet").await;
    let mut alone = Vec::new();
    for i in 0..200 {
        let (path, body) = request(i);
        let answer = house.client.post(path, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        alone.push(essence(answer.text()));
    }
    let mut tasks = Vec::new();
    for i in 0..200 {
        let client = house.client.clone();
        tasks.push(tokio::spawn(async move {
            let (path, body) = request(i);
            client.post(path, &body).await
        }));
    }
    for (i, task) in tasks.into_iter().enumerate() {
        let answer = task.await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(essence(answer.text()), alone[i], "request {i}");
    }
}

pub async fn publish_endless(house: &House) {
    let tokenizer = Tokenizer::chars(["abcdefgh "], Specials::default());
    let preparation = Preparation {
        input: InputPreparation::Text { tokenizer, max_tokens: 64 },
        output: OutputPreparation::Tokens,
    };
    let model = "family = \"lstm\"\nhidden_size = 8\nnum_layers = 1\nhead = \"next\"";
    house.publish("endless", "language_modeling", model, preparation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_free_their_work() {
    let house = House::new().await;
    publish_endless(&house).await;
    let body =
        json!({"model": "endless", "prompt": "a", "max_tokens": 65_536, "stream": true, "n": 2}).to_string();
    let headers = [("content-type", "application/json")];
    for _ in 0..10 {
        let mut stream = house.client.open("POST", "/v1/completions", &headers, &body).await;
        let mut some = [0; 512];
        let n = stream.read(&mut some).await.unwrap();
        assert!(some[..n].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&some[..n]));
    }
    // A whole answer that nobody waits for ends too.
    drop(house.client.open("POST", "/v1/completions", &headers, &body.replace("true", "false")).await);
    for _ in 0..100 {
        if house.service.engine().load().sequences == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?} still there after five seconds", house.service.engine().load());
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_more_than_fits_is_answered_or_told_to_come_again_and_nothing_is_left() {
    const PLACES: usize = 8;
    let limits = EngineLimits { sequences_max: PLACES, sequences_running_max: 4, ..EngineLimits::default() };
    let house = House::with(limits).await;
    house.publish_poet("poet").await;
    let body = |i: usize| json!({"model": "poet", "prompt": "ab", "max_tokens": 20, "seed": i % 3, "stream": i.is_multiple_of(2), "ignore_eos": true});
    let mut alone = Vec::new();
    for i in 0..6 {
        let answer = house.client.post("/v1/completions", &body(i)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        alone.push(essence(answer.text()));
    }
    // The device does nothing until all have asked, so it is known how many have to be refused.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (holds, held) = std::sync::mpsc::channel();
    let hold = move || {
        holds.send(()).unwrap();
        let _ = released.recv();
    };
    house.service.engine().with_device(hold).unwrap();
    held.recv().unwrap();
    let tasks: Vec<_> = (0..10 * PLACES)
        .map(|i| {
            let (client, body) = (house.client.clone(), body(i));
            tokio::spawn(async move { client.post("/v1/completions", &body).await })
        })
        .collect();
    // One project has all places but the last eighth.
    let n_in = PLACES - PLACES / 8;
    while tasks.iter().filter(|task| task.is_finished()).count() < tasks.len() - n_in {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(house.service.engine().load().sequences, n_in);
    release.send(()).unwrap();
    let mut n_answered = 0;
    for (i, task) in tasks.into_iter().enumerate() {
        let answer = task.await.unwrap();
        if answer.status == 200 {
            n_answered += 1;
            assert_eq!(essence(answer.text()), alone[i % 6], "request {i}");
            continue;
        }
        assert_eq!(answer.refused(429), (String::new(), "overloaded".to_owned()));
        assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(n_answered, n_in, "whoever is let in is answered");
    for _ in 0..200 {
        let load = house.service.engine().load();
        if load.sequences + load.kv_pages_used == 0 {
            assert_eq!(house.client.post("/v1/completions", &body(0)).await.status, 200);
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?} is left", house.service.engine().load());
}

#[tokio::test(flavor = "multi_thread")]
async fn work_beyond_the_bound_is_told_to_come_again_and_leaves_nothing_behind() {
    let house = House::with(EngineLimits { sequences_max: 3, ..EngineLimits::default() }).await;
    publish_endless(&house).await;
    let body = json!({"model": "endless", "prompt": "a", "max_tokens": 60_000, "n": 4});
    let answer = house.client.post("/v1/completions", &body).await;
    assert_eq!(answer.refused(429).1, "overloaded");
    assert_eq!(answer.header("retry-after"), Some("1"));
    for _ in 0..100 {
        if house.service.engine().load().sequences == 0 {
            let small = json!({"model": "endless", "prompt": "a", "max_tokens": 2, "n": 3});
            assert_eq!(house.client.post("/v1/completions", &small).await.status, 200);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the choices that had begun go on");
}

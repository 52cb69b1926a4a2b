//! What whoever watches a server sees: times and lengths of requests, a device that hangs, a page of routes.

use crate::client::Client;
use crate::house::House;
use lyceum_engine::EngineLimits;
use lyceum_models::prepare::text::{Specials, Tokenizer};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// The series of `/metrics`, by name and labels.
async fn series(client: &Client) -> BTreeMap<String, f64> {
    let answer = client.get("/metrics").await;
    assert_eq!(answer.status, 200);
    let lines = answer.text().lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// A language model whose context is three pages and which never ends by itself.
async fn publish_reader(house: &House) {
    let tokenizer = Tokenizer::chars(["abcdefgh "], Specials::default());
    let preparation = Preparation {
        input: InputPreparation::Text { tokenizer, max_tokens: 96 },
        output: OutputPreparation::Tokens,
    };
    let model = "family = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 2\n\
             dim_feedforward = 32\ncontext = 96\npositional = \"learned\"\nnorm_first = true";
    house.publish("reader", "language_modeling", model, preparation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn times_and_lengths_of_sequences_are_told_under_vllms_names() {
    let house = House::new().await;
    publish_reader(&house).await;
    let prompt = "abcdefgh".repeat(5);
    for _ in 0..2 {
        let body = json!({"model": "reader", "prompt": prompt, "max_tokens": 7, "n": 2});
        assert_eq!(house.client.post("/v1/completions", &body).await.status, 200);
    }
    let body = json!({"model": "reader", "prompt": "ab", "max_tokens": 5, "stream": true});
    assert_eq!(house.client.post("/v1/completions", &body).await.status, 200);
    let found = series(&house.client).await;
    let of = |name: &str| found.get(name).copied().unwrap_or_else(|| panic!("{name} is not told"));
    let n_tokens = of("vllm:generation_tokens_total");
    assert_eq!(n_tokens, 4.0 * 7.0 + 5.0);
    for name in ["time_to_first_token_seconds", "request_queue_time_seconds", "e2e_request_latency_seconds"] {
        assert_eq!(of(&format!("vllm:{name}_count")), 5.0, "{name}");
        assert_eq!(of(&format!("vllm:{name}_bucket{{le=\"+Inf\"}}")), 5.0, "{name}");
        assert!(of(&format!("vllm:{name}_sum")) >= 0.0);
    }
    assert_eq!(of("vllm:inter_token_latency_seconds_count"), n_tokens - 5.0);
    assert_eq!(of("vllm:request_generation_tokens_sum"), n_tokens);
    assert_eq!(of("vllm:request_generation_tokens_bucket{le=\"5.0\"}"), 1.0);
    assert_eq!(of("vllm:request_prompt_tokens_count"), 5.0);
    assert_eq!(of("vllm:request_success_total{finished_reason=\"length\"}"), 5.0);
    assert_eq!(of("vllm:request_success_total{finished_reason=\"error\"}"), 0.0);
    assert_eq!(of("vllm:num_preemptions_total"), 0.0);
    let (queries, hits) = (of("vllm:prefix_cache_queries_total"), of("vllm:prefix_cache_hits_total"));
    assert!(queries >= 4.0 * 40.0 && hits >= 32.0 && hits < queries, "{hits} of {queries}");
    // Nobody can read from it who asks for what, or which models there are.
    assert!(
        found
            .keys()
            .all(|name| !name.contains("reader") && !name.contains("abc") && !name.contains("default"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_does_not_come_back_from_a_step_is_not_alive() {
    let step_time_max = Duration::from_millis(200);
    let house = House::with(EngineLimits { step_time_max, ..EngineLimits::default() }).await;
    assert_eq!(house.client.get("/health").await.status, 200);
    let (go, gone) = std::sync::mpsc::channel::<()>();
    house
        .service
        .engine()
        .with_device(move || {
            let _ = gone.recv();
        })
        .unwrap();
    tokio::time::sleep(step_time_max * 3).await;
    for path in ["/health", "/health/live", "/v2/health/live"] {
        assert_eq!(house.client.get(path).await.refused(503).1, "not_ready", "{path}");
    }
    drop(go);
    tokio::time::sleep(step_time_max / 2).await;
    assert_eq!(house.client.get("/health").await.status, 200, "it goes on, and waits for work");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_routes_is_for_everybody_and_loads_nothing() {
    let house = House::new().await;
    let nobody = Client { key: None, ..house.client.clone() };
    let answer = nobody.get("/docs").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/html"));
    assert!(answer.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(answer.text().contains("/v1/chat/completions"));
}

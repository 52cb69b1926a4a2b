//! What HTTP, keys, text and events add to the engine's own time: the same greedy answer over a connection, and from the
//! engine called directly, in turn, in one process.

use super::http::Target;
use super::median;
use super::server::{House, MODEL};
use crate::failure::Failure;
use lyceum_engine::{Engine, EngineLimits, Event, Flow, GenerateRequest};
use lyceum_models::Model;
use lyceum_service::Service;
use lyceum_store::keys::{self, KeyGrant};
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

const PROMPT: usize = 16;
const TOKENS: usize = 64;

pub async fn measure(house: &House, name: &str, rounds: usize) -> Result<Value, Failure> {
    let store = Store::open(Layout::new(house.folder()), Timestamp::now()).await?;
    let project = Project::default_project();
    let grant = KeyGrant { name: "gateway".into(), scopes: vec![KeyScope::Inference], expires_at: None };
    let (_, secret) = keys::create(&store, &project, grant, Timestamp::now()).await?;
    // Beginnings are not kept, so that both sides read the whole prompt; nothing is guessed.
    let limits = EngineLimits { prefix_cache: false, draft_tokens_max: 0, ..EngineLimits::default() };
    let engine =
        Engine::start(limits).map_err(|error| Failure::internal("the device does not start", &error))?;
    let service = Arc::new(Service::new(store, engine));
    let language = service.language(&project, &MODEL.parse()?).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.map_err(|error| Failure::internal("no port is free", &error))?;
    let address = listener.local_addr().map_err(|error| Failure::internal("no port is free", &error))?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(lyceum_api::serve(listener, service.clone(), async {
        let _ = stopped.await;
    }));
    let target = Target { address: address.to_string(), key: Some(secret.reveal().to_owned()) };
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| 257 + i * 31 % 1000).collect();
    let body = json!({ "model": MODEL, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0.0, "ignore_eos": true,
        "stream": true, "stream_options": { "include_usage": true } });
    let (mut first, mut token) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    // The first round of each warms up.
    for round in 0..=rounds.max(20) {
        let [ours, theirs] =
            [over_http(&target, &body).await?, direct(&service, &language.model, &prompt).await?];
        if round > 0 {
            for (side, [ttft, tpot]) in [ours, theirs].into_iter().enumerate() {
                first[side].push(ttft);
                token[side].push(tpot);
            }
        }
    }
    let _ = stop.send(());
    let _ = server.await;
    let added = |[http, engine]: &mut [Vec<f64>; 2]| {
        let mut differences: Vec<f64> = http.iter().zip(engine.iter()).map(|(a, b)| a - b).collect();
        (median(http), median(engine), median(&mut differences))
    };
    let ((ttft, ttft_engine, ttft_added), (tpot, tpot_engine, tpot_added)) =
        (added(&mut first), added(&mut token));
    Ok(json!({ "work": name, "rounds": rounds.max(20),
        "ttft_ms": { "http": ttft * 1e3, "engine": ttft_engine * 1e3, "added": ttft_added * 1e3 },
        "token_us": { "http": tpot * 1e6, "engine": tpot_engine * 1e6, "added": tpot_added * 1e6 } }))
}

/// Seconds to the first token, and a token after it.
async fn over_http(target: &Target, body: &Value) -> Result<[f64; 2], Failure> {
    let told = target.stream(body, None).await?;
    let (first, last) = (told.ttft().unwrap_or(f64::NAN), told.tokens.last().copied().unwrap_or(f64::NAN));
    Ok([first, (last - first) / (TOKENS - 1) as f64])
}

async fn direct(service: &Service, model: &Arc<Model>, prompt: &[u32]) -> Result<[f64; 2], Failure> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(TOKENS + 2);
    let began = Instant::now();
    let sink = Box::new(move |event: Event| match sender.try_send((began.elapsed().as_secs_f64(), event)) {
        Ok(()) => Flow::Continue,
        Err(_) => Flow::Stop,
    });
    let request = GenerateRequest::new(model.clone(), prompt.to_vec(), TOKENS, sink);
    service.engine().generate(request).map_err(|error| Failure::internal("the engine failed", &error))?;
    let mut times = Vec::new();
    while let Some((at, event)) = receiver.recv().await {
        if matches!(event, Event::Token(_)) {
            times.push(at);
        }
    }
    let (first, last) = (times[0], times[times.len() - 1]);
    Ok([first, (last - first) / (TOKENS - 1) as f64])
}

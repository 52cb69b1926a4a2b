//! Projects that share a model and the device: nobody waits for all that another has asked for, and nobody is served
//! from what another has said.

use super::*;
use crate::resident::Resident;
use lyceum_engine::{Engine, EngineLimits};
use lyceum_models::Model;
use lyceum_models::prepare::text::{Specials, Tokenizer};
use lyceum_models::prepare::{InputPreparation, OutputPreparation, Preparation};
use lyceum_store::models::NewVersion;
use lyceum_store::{Layout, Store};
use lyceum_types::clock::Timestamp;
use lyceum_types::manifest::{FORMAT_VERSION, Manifest};
use lyceum_types::spec::Spec;
use std::sync::Mutex;

/// A decoder with random weights and a context of several pages.
fn speaker() -> Speaker {
    let tokenizer = Tokenizer::chars(["abcdefgh "], Specials::default());
    let preparation = Preparation {
        input: InputPreparation::Text { tokenizer, max_tokens: 256 },
        output: OutputPreparation::Tokens,
    };
    let spec = "name = \"poet\"\ntask = \"language_modeling\"\nseed = 1\n[data]\ntrain = \"x.txt\"\n[model]\n\
        family = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\nnum_layers = 1\ndim_feedforward = 32\n\
        context = 256\npositional = \"rope\"\nnorm_first = true\n[train]\nsteps = 1\nbatch_size = 1\n";
    let spec = Spec::from_toml(spec, "test.toml").unwrap_or_else(|errors| panic!("{errors}"));
    let shape = preparation.shape();
    let model = Model::new(&spec.model, &shape, 7).unwrap();
    let weights = lyceum_nn::weights::to_safetensors(&model.params).unwrap();
    let new = NewVersion {
        name: "poet".parse().unwrap(),
        family: spec.model.family().into(),
        task: "language_modeling".into(),
        n_params: 1,
        bytes: weights.len() as u64,
        sha256: String::new(),
        job: None,
        held: None,
    };
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        name: "poet".into(),
        version: 0,
        created: 1,
        job: None,
        spec,
        preparation: serde_json::to_value(&preparation).unwrap(),
        shape: serde_json::to_value(&shape).unwrap(),
        n_parameters: 1,
        weights_sha256: String::new(),
        data: vec![],
        metrics: Default::default(),
        baseline: None,
        strong_baseline: None,
        verdict: None,
        steps: 1,
        seconds: 1.0,
        split: Default::default(),
        features: vec![],
        probes: serde_json::Value::Null,
        privacy: None,
        calibration: None,
        files: Default::default(),
    };
    let resident = Resident::unpublished(&new, manifest, &weights, std::path::Path::new(".")).unwrap();
    Speaker::Trained(Arc::new(resident))
}

async fn service(limits: EngineLimits) -> (Service, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Layout::new(dir.path()), Timestamp::now()).await.unwrap();
    (Service::new(store, Engine::start(limits).unwrap()), dir)
}

fn project(tenant: &str, id: &str) -> Project {
    Project { tenant: tenant.into(), id: id.into() }
}

/// One answer of `n` tokens that is being made.
fn ask(service: &Service, whose: &Project, priority: Priority, prompt: Vec<u32>, n: usize) -> Running {
    let admitted = admit(service, whose, priority, 1).unwrap();
    let prompt = Encoded { source: None, n_tokens: prompt.len(), prompt, max_tokens: n };
    let options = Options { n: 1, sampling: Sampling::greedy(), ignore_eos: true, ..Options::default() };
    begin(admitted, speaker_of(service), (vec![prompt], &options), None, Share::none()).unwrap()
}

/// Everybody's speaker: one model for all projects.
fn speaker_of(_: &Service) -> Speaker {
    static SPEAKER: std::sync::OnceLock<Speaker> = std::sync::OnceLock::new();
    SPEAKER.get_or_init(speaker).clone()
}

async fn heard(mut running: Running) -> Usage {
    while running.next().await.unwrap().is_some() {}
    running.usage()
}

/// Keeps the device from all work until the sender sends, or is gone.
fn hold(service: &Service) -> std::sync::mpsc::Sender<()> {
    let (holds, held) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let hold = move || {
        holds.send(()).unwrap();
        let _ = released.recv();
    };
    service.engine().with_device(hold).unwrap();
    held.recv().unwrap();
    release
}

/// Who came to an end, in this order. All have asked before the first of them begins.
async fn ends(service: &Service, asked: &[(&'static str, Priority)]) -> Vec<&'static str> {
    let release = hold(service);
    let order = Arc::new(Mutex::new(Vec::new()));
    for (i, &(name, priority)) in asked.iter().enumerate() {
        let admitted = admit(service, &project("t", name), priority, 1).unwrap();
        let mut places = admitted.places;
        let (seen, mut n_left) = (order.clone(), 40);
        let sink: Sink = Box::new(move |event| {
            n_left -= usize::from(matches!(event, Event::Token(_)));
            if n_left == 0 && matches!(event, Event::Done(_)) {
                seen.lock().unwrap().push(name);
            }
            Flow::Continue
        });
        let prompt = vec![(i % 8) as u32; 3];
        let request = GenerateRequest::new(speaker_of(service).model().clone(), prompt, 40, sink);
        service.engine().generate_in(&mut places, request).unwrap();
    }
    release.send(()).unwrap();
    while service.engine().load().sequences > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let order = order.lock().unwrap().clone();
    assert_eq!(order.len(), asked.len());
    order
}

#[tokio::test]
async fn a_project_that_asks_for_much_does_not_make_another_wait_for_all_of_it() {
    let limits = EngineLimits { sequences_running_max: 2, ..EngineLimits::default() };
    let (service, _dir) = service(limits).await;
    let mut asked = vec![("many", Priority::Interactive); 12];
    asked.push(("few", Priority::Interactive));
    asked.push(("few", Priority::Interactive));
    let order = ends(&service, &asked).await;
    let last = order.iter().rposition(|&name| name == "few").unwrap();
    assert!(last < 5, "they take turns: {order:?}");
    let first = order.iter().position(|&name| name == "many").unwrap();
    assert!(first < 2, "nor does the other: {order:?}");
}

#[tokio::test]
async fn batch_work_ends_after_what_somebody_waits_for_even_where_it_came_first() {
    let limits = EngineLimits { sequences_running_max: 2, ..EngineLimits::default() };
    let (service, _dir) = service(limits).await;
    let mut asked = vec![("batch", Priority::Batch); 4];
    asked.extend([("user", Priority::Interactive); 4]);
    let order = ends(&service, &asked).await;
    assert_eq!(order, ["user", "user", "user", "user", "batch", "batch", "batch", "batch"]);
}

#[tokio::test]
async fn a_beginning_is_kept_for_its_own_project_alone() {
    let (service, _dir) = service(EngineLimits::default()).await;
    let prompt: Vec<u32> = (0..70).map(|i| i * i % 8).collect();
    let (a, b) = (project("t", "a"), project("t", "b"));
    let of = |whose| ask(&service, whose, Priority::Interactive, prompt.clone(), 2);
    let mut cached = Vec::new();
    for whose in [&a, &a, &b, &b, &a] {
        let usage = heard(of(whose)).await;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (70, 2));
        cached.push(usage.cached_tokens);
    }
    assert_eq!(cached, [0, 64, 0, 64, 64]);
}

#[tokio::test]
async fn what_cannot_be_let_in_is_told_so_before_anything_is_done_and_comes_in_later() {
    let (service, _dir) = service(EngineLimits { sequences_max: 2, ..EngineLimits::default() }).await;
    let (a, b) = (project("t", "a"), project("t", "b"));
    let release = hold(&service);
    let running = ask(&service, &a, Priority::Interactive, vec![1; 4], 4);
    assert!(matches!(admit(&service, &b, Priority::Interactive, 2), Err(ServiceError::Overloaded { .. })));
    let other = admit(&service, &b, Priority::Interactive, 1).unwrap();
    assert!(matches!(admit(&service, &a, Priority::Interactive, 1), Err(ServiceError::Overloaded { .. })));
    drop((other, release));
    heard(running).await;
    while service.engine().load().sequences > 0 {
        tokio::task::yield_now().await;
    }
    assert!(admit(&service, &b, Priority::Interactive, 2).is_ok());
}

#[test]
fn two_projects_never_have_one_key() {
    let all = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a", "b")];
    let keys: std::collections::BTreeSet<Tenant> = all.map(|(t, id)| tenant(&project(t, id))).into();
    assert_eq!(keys.len(), all.len());
    assert_eq!(tenant(&project("a", "b")), tenant(&project("a", "b")));
}

//! Adapters of an imported language model: chosen by name on every route that speaks, mixed in one batch, over one base
//! in memory.

use crate::house::{House, by_hand};
use crate::language::house;
use lyceum_kernels::stored::Stored;
use lyceum_nn::{ParamKind, Params, weights};
use lyceum_service::language::adapter::{ImportAdapter, import};
use lyceum_service::language::import::{ImportError, Imported};
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use serde_json::{Value, json};
use std::path::PathBuf;

/// A folder as PEFT saves it: random factors for the model `tiny`.
pub fn peft(house: &House, name: &str, seed: u64) -> PathBuf {
    peft_of(house, name, seed, [32, 16, 64])
}

/// For a model of two layers whose rows, values and inner rows are so wide.
pub fn peft_of(house: &House, name: &str, seed: u64, [hidden, values, inner]: [usize; 3]) -> PathBuf {
    let folder = house.dir.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let description = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj", "down_proj"], "base_model_name_or_path": "someone/tiny"});
    std::fs::write(folder.join("adapter_config.json"), description.to_string()).unwrap();
    let (mut params, mut state) = (Params::new(), seed);
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    for i in 0..2 {
        for (part, n, k) in [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.v_proj", values, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            for (factor, dims) in [("A", [2, k]), ("B", [n, 2])] {
                let name = format!("base_model.model.model.layers.{i}.{part}.lora_{factor}.weight");
                let numbers = (0..dims[0] * dims[1]).map(|_| random()).collect();
                params.add_value(&name, &dims, ParamKind::Weight, numbers);
            }
        }
    }
    std::fs::write(folder.join("adapter_model.safetensors"), weights::to_safetensors(&params).unwrap())
        .unwrap();
    folder
}

pub async fn bring(house: &House, name: &str, base: &str, path: PathBuf) -> Result<Imported, ImportError> {
    let request = ImportAdapter {
        path,
        name: name.parse().unwrap(),
        base: base.parse().unwrap(),
        source: "test".into(),
        licence: None,
    };
    import(house.service.store(), &Project::default_project(), request, &Control::new(), &by_hand()).await
}

/// The weights of `tiny` as another version.
async fn again(house: &House) {
    in_form(house, None).await;
}

async fn in_form(house: &House, quant: Option<Stored>) {
    let layout = lyceum_service::language::open::Layout { quant, context: Some(1024) };
    crate::language::import_tiny_as(house, layout).await;
}

/// A house with `tiny` and its adapters `one` and `two`.
async fn adapted() -> House {
    let house = house().await;
    for (name, seed) in [("one", 1), ("two", 2)] {
        let path = peft(&house, name, seed);
        bring(&house, name, "tiny", path).await.unwrap();
    }
    house
}

fn completion(model: &str, seed: u64) -> Value {
    json!({"model": model, "prompt": "the cat and", "max_tokens": 20, "seed": seed, "logprobs": 2})
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_are_asked_by_name_and_answer_together_as_alone() {
    let house = adapted().await;
    let models = ["tiny", "one", "two", "one@1"];
    let mut alone = Vec::new();
    for (i, model) in models.iter().enumerate() {
        let answer = house.client.post("/v1/completions", &completion(model, i as u64 / 3)).await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        alone.push(answer.json()["choices"][0].clone());
    }
    assert!(alone[0] != alone[1] && alone[1] != alone[2] && alone[0] != alone[2], "each says its own");
    let mut together = tokio::task::JoinSet::new();
    for round in 0..6 {
        for (i, model) in models.into_iter().enumerate() {
            let client = house.client.clone();
            together.spawn(async move {
                let answer = client.post("/v1/completions", &completion(model, i as u64 / 3)).await;
                (round, i, answer.json()["choices"][0].clone())
            });
        }
    }
    while let Some(answer) = together.join_next().await {
        let (round, i, choice) = answer.unwrap();
        assert_eq!(choice, alone[i], "{} in round {round}", models[i]);
    }
    let chat =
        json!({"model": "one", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "seed": 1});
    let answer = house.client.post("/v1/chat/completions", &chat).await;
    assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("one@1")), "{}", answer.text());
    let mut of_base = chat.clone();
    of_base["model"] = json!("tiny");
    let base = house.client.post("/v1/chat/completions", &of_base).await.json();
    assert!(base["choices"][0]["message"] != answer.json()["choices"][0]["message"]);
    let response = json!({"model": "two", "input": "hi", "max_output_tokens": 16});
    assert_eq!(house.client.post("/v1/responses", &response).await.status, 200);
    let tokens = json!({"model": "one", "prompt": "hello"});
    assert_eq!(house.client.post("/tokenize", &tokens).await.status, 200);
    let (_, code) =
        house.client.post("/v1/embeddings", &json!({"model": "one", "input": "x"})).await.refused(400);
    assert_eq!(code, "unsupported_model");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_decides_for_itself() {
    let house = adapted().await;
    let mut said = Vec::new();
    for model in ["tiny", "one", "two", "one"] {
        let body = json!({"model": model, "input": "the cat", "questions": [
            {"type": "choice", "instructions": "Which?", "choices": [{"value": "yes"}, {"value": "no"}]}]});
        let answer = house.client.post("/v1/decisions", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        said.push(answer.json()["answers"].clone());
    }
    assert!(said[0] != said[1] && said[1] != said[2] && said[0] != said[2], "each its own: {said:?}");
    assert_eq!(said[1], said[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_names_the_parent_and_memory_holds_the_base_once() {
    let house = adapted().await;
    let one = house.client.get("/v1/models/one").await.json();
    assert_eq!(
        (&one["parent"], &one["root"], &one["task"]),
        (&json!("tiny@1"), &json!("one@1"), &json!("adapter"))
    );
    let all = house.client.get("/v1/models").await.json();
    let tiny = all["data"].as_array().unwrap().iter().find(|model| model["id"] == "tiny").unwrap();
    assert!(tiny["parent"].is_null());
    let residents = async || house.client.get("/v1/residents").await.json()["data"].clone();
    for model in ["one", "two"] {
        house.client.post("/v1/completions", &completion(model, 1)).await;
    }
    let loaded = residents().await;
    let row = |i: usize| (loaded[i]["id"].as_str().unwrap(), loaded[i]["parent"].as_str());
    assert_eq!(
        [row(0), row(1), row(2)],
        [("one@1", Some("tiny@1")), ("tiny@1", None), ("two@1", Some("tiny@1"))]
    );
    assert!(loaded[0]["bytes"].as_u64().unwrap() < loaded[1]["bytes"].as_u64().unwrap());
    house.client.send("DELETE", "/v1/residents/one", &[], "").await;
    assert_eq!(residents().await.as_array().unwrap().len(), 2);
    house.client.send("DELETE", "/v1/residents/tiny", &[], "").await;
    assert_eq!(residents().await, json!([]), "who leans on a base goes with it");
    assert_eq!(house.client.post("/v1/completions", &completion("two", 1)).await.status, 200);
    assert_eq!(residents().await.as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_gone_or_none_is_refused_with_what_to_do() {
    let house = adapted().await;
    let path = peft(&house, "three", 3);
    let error =
        async |base: &str, path: PathBuf| bring(&house, "x", base, path).await.err().unwrap().to_string();
    assert!(error("one", path.clone()).await.contains("is itself an adapter"));
    assert!(error("nobody", path.clone()).await.contains("nobody"));
    let changed =
        std::fs::read_to_string(path.join("adapter_config.json")).unwrap().replace("\"r\":2", "\"r\":3");
    std::fs::write(path.join("adapter_config.json"), changed).unwrap();
    assert!(error("tiny", path.clone()).await.contains("has dimensions [2, 32], the model needs [3, 32]"));
    std::fs::remove_file(path.join("adapter_model.safetensors")).unwrap();
    assert!(error("tiny", path).await.contains("there is no adapter_model.safetensors"));
    // The same weights under another number are the same base; none are none.
    let store = house.service.store();
    let (project, reference) = (Project::default_project(), "tiny@1".parse().unwrap());
    again(&house).await;
    lyceum_store::models::delete(store, &project, &reference, &act()).await.unwrap();
    assert_eq!(house.client.post("/v1/completions", &completion("one", 1)).await.status, 200);
    lyceum_store::models::delete(store, &project, &"tiny@2".parse().unwrap(), &act()).await.unwrap();
    let answer = house.client.post("/v1/completions", &completion("one", 1)).await;
    assert!(answer.text().contains("the base tiny@1 of one@1 is not there any more"), "{}", answer.text());
    assert_eq!(answer.refused(400).1, "base_model_missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_stays_while_an_adapter_adds_to_it_and_what_is_deleted_leaves_memory() {
    let house = adapted().await;
    house.client.post("/v1/completions", &completion("one", 1)).await;
    let delete = async |id: &str| house.client.send("DELETE", &format!("/v1/models/{id}"), &[], "").await;
    for base in ["tiny", "tiny@1"] {
        let refused = delete(base).await;
        assert!(refused.text().contains("the adapter one@1 adds to tiny@1"), "{}", refused.text());
        assert_eq!(refused.refused(409).1, "model_in_use");
    }
    // The same weights in another form have other numbers: they are no base of it.
    in_form(&house, Some(Stored::Q8_0)).await;
    assert_eq!(delete("tiny@1").await.refused(409).1, "model_in_use");
    // Where its weights stay under another number, the base may go.
    let before = house.client.post("/v1/completions", &completion("one", 1)).await.json()["choices"].clone();
    again(&house).await;
    assert_eq!(delete("tiny@1").await.status, 200);
    assert_eq!(house.client.get("/v1/residents").await.json()["data"], json!([]), "with its adapter");
    let after = house.client.post("/v1/completions", &completion("one", 1)).await.json()["choices"].clone();
    assert_eq!(after, before, "a base of the same form stands in");
    for id in ["one", "two", "tiny"] {
        assert_eq!(delete(id).await.json(), json!({"id": id, "object": "model", "deleted": true}));
    }
    assert_eq!(house.client.get("/v1/models").await.json()["data"], json!([]));
}

pub(crate) fn act() -> lyceum_store::registry::Act {
    let now = lyceum_types::clock::Timestamp::now();
    lyceum_store::registry::Act {
        actor: lyceum_store::registry::Actor::User("test".into()),
        note: String::new(),
        now,
    }
}

//! `GET /v1/models/{id}/export`: the files of a version as an archive, for who manages the project's models.

use crate::adapters::{bring, peft};
use crate::client::{Answer, Client, ok};
use crate::house::{House, by_hand};
use crate::language;
use lyceum_kernels::stored::Stored;
use lyceum_service::export::{self, Format};
use lyceum_service::language::adapter::{ImportAdapter, import};
use lyceum_service::language::import::{Import, import as import_whole};
use lyceum_service::language::open::Layout;
use lyceum_store::keys::{self, KeyGrant};
use lyceum_store::models;
use lyceum_types::clock::Timestamp;
use lyceum_types::control::Control;
use lyceum_types::ids::{KeyScope, Project};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Read;

type Files = BTreeMap<String, Vec<u8>>;

fn unpacked(answer: &Answer) -> Files {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let n_bytes = answer.header("content-length").unwrap().parse::<usize>().unwrap();
    assert_eq!(answer.body.len(), n_bytes, "it is as long as it is said to be");
    let mut archive = tar::Archive::new(answer.body.as_slice());
    let entry = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (name, bytes)
    };
    archive.entries().unwrap().map(entry).collect()
}

/// As `lyceum export` writes them.
async fn written(house: &House, id: &str, format: Option<Format>) -> Files {
    let store = house.service.store();
    let version = models::resolve(store, &Project::default_project(), &id.parse().unwrap()).await.unwrap();
    let export = export::of(store, version, format).await.unwrap();
    let bytes = |file: &export::File| {
        let mut bytes = Vec::new();
        file.write(&mut bytes).unwrap();
        assert_eq!(file.n_bytes().unwrap(), bytes.len() as u64);
        bytes
    };
    export.files.iter().map(|file| (file.name.clone(), bytes(file))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_taken_away_as_it_lies_there_by_who_may() {
    let house = House::new().await;
    house.publish_table("flowers").await;
    let (_, secret) = house.key(&[KeyScope::Admin], None).await;
    let manager = Client { key: Some(secret), ..house.client.clone() };
    let (_, secret) = house.key(&[KeyScope::Inference], None).await;
    let reader = Client { key: Some(secret), ..house.client.clone() };
    let path = "/v1/models/flowers@1/export";
    assert_eq!(reader.get(path).await.refused(403).1, "insufficient_permissions");
    let answer = manager.get(path).await;
    let files = unpacked(&answer);
    assert_eq!(files, written(&house, "flowers@1", None).await);
    assert!(files.contains_key("manifest.json") && files.contains_key("model.safetensors"));
    let name = answer.header("content-disposition").unwrap();
    assert_eq!(name, "attachment; filename=\"flowers-1.safetensors.tar\"");
    assert_eq!(files, unpacked(&manager.get(&format!("{path}?format=safetensors")).await));
    for (query, code) in [
        ("format=peft", "unsupported_format"),
        ("format=onnx", "invalid_value"),
        ("colour=red", "unknown_parameter"),
    ] {
        assert_eq!(manager.get(&format!("{path}?{query}")).await.refused(400).1, code, "{query}");
    }
    assert_eq!(manager.get("/v1/models/nobody/export").await.refused(404).1, "model_not_found");
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationRead], None).await;
    let log = ok(&admin.get("/v1/organization/audit_logs?limit=100").await);
    let entries = log["data"].as_array().unwrap();
    let n = entries.iter().filter(|entry| entry["type"] == "model.exported").count();
    assert_eq!(n, 2, "each that was given, and no other: {log}");
    // A file that was changed is not handed on, and nobody is told where it lies.
    let store = house.service.store();
    let version =
        models::resolve(store, &Project::default_project(), &"flowers".parse().unwrap()).await.unwrap();
    std::fs::write(version.dir.join("model.safetensors").path(), b"other").unwrap();
    let refused = manager.get(path).await;
    assert!(refused.status >= 500, "{}", refused.text());
    assert!(!refused.text().contains(&store.layout().root().display().to_string()), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_taken_away_as_it_is_or_in_its_base() {
    let house = language::house().await;
    bring(&house, "one", "tiny", peft(&house, "one", 1)).await.unwrap();
    let (_, secret) = house.key(&[KeyScope::Admin], None).await;
    let manager = Client { key: Some(secret), ..house.client.clone() };
    let taken = async |query: &str| manager.get(&format!("/v1/models/one/export{query}")).await;
    let plain = unpacked(&taken("").await);
    assert_eq!(plain, unpacked(&taken("?format=peft").await));
    assert!(plain.contains_key("adapter_config.json"), "{:?}", plain.keys());
    let merged = taken("?format=gguf").await;
    let name = merged.header("content-disposition").unwrap();
    assert_eq!(name, "attachment; filename=\"one-1.gguf.tar\"");
    let merged = unpacked(&merged);
    assert_eq!(merged.keys().collect::<Vec<_>>(), ["model.gguf"]);
    assert_eq!(merged, written(&house, "one", Some(Format::Gguf)).await);
    // What is merely shared with a project is asked there, and stays: also where an adapter would be merged into it.
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let team = ok(&admin.post("/v1/organization/projects", &json!({"name": "team"})).await);
    let team = Project { tenant: "default".into(), id: team["id"].as_str().unwrap().to_owned() };
    let share = json!({"model": "tiny", "with": {"type": "organization"}});
    ok(&admin.post("/v1/organization/projects/default/model_shares", &share).await);
    let request = ImportAdapter {
        path: peft(&house, "theirs", 2),
        name: "theirs".parse().unwrap(),
        base: "tiny".parse().unwrap(),
        source: "test".into(),
        licence: None,
    };
    import(house.service.store(), &team, request, &Control::new(), &by_hand()).await.unwrap();
    let grant = KeyGrant { name: "theirs".into(), scopes: vec![KeyScope::Admin], expires_at: None };
    let (_, secret) = keys::create(house.service.store(), &team, grant, Timestamp::now()).await.unwrap();
    let them = Client { key: Some(secret.reveal().to_owned()), ..house.client.clone() };
    assert_eq!(them.get("/v1/models/tiny/export").await.refused(400).1, "shared_model");
    assert_eq!(them.get("/v1/models/theirs/export?format=gguf").await.refused(400).1, "shared_model");
    assert_eq!(them.get("/v1/models/theirs/export").await.status, 200, "its own files");
    assert_eq!(them.get("/v1/models/one/export").await.refused(404).1, "model_not_found");
    let body = json!({"model": "one", "prompt": "the cat", "max_tokens": 4});
    assert_eq!(house.client.post("/v1/completions", &body).await.status, 200, "it is served as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_of_a_gguf_base_becomes_a_model_in_hugging_faces_layout() {
    let house = language::house().await;
    bring(&house, "one", "tiny", peft(&house, "one", 1)).await.unwrap();
    let (_, secret) = house.key(&[KeyScope::Admin], None).await;
    let manager = Client { key: Some(secret), ..house.client.clone() };
    let files = unpacked(&manager.get("/v1/models/one/export?format=safetensors").await);
    assert_eq!(files, written(&house, "one", Some(Format::Safetensors)).await);
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let read: serde_json::Result<serde_json::Value> = serde_json::from_slice(&files[name]);
        assert!(read.is_ok(), "{name}");
    }
    let folder = house.dir.path().join("whole");
    std::fs::create_dir(&folder).unwrap();
    files.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    let request = Import {
        path: folder,
        name: "whole".parse().unwrap(),
        source: "test".into(),
        layout: Layout::default(),
        licence: None,
    };
    let project = Project::default_project();
    import_whole(house.service.store(), &project, request, &Control::new(), &by_hand()).await.unwrap();

    // The same weights to the last bit, of which the adapter's matrices are merged.
    let opened = async |name: &str| house.service.language(&project, &name.parse().unwrap()).await.unwrap();
    let (tuned, whole) = (opened("one").await, opened("whole").await);
    let adapter = &tuned.added.as_ref().unwrap().adapter;
    let merged = tuned.model.merged(adapter, Some(Stored::F32)).unwrap().language_safetensors().unwrap();
    assert!(whole.model.language_safetensors().unwrap() == merged);
    assert_ne!(merged, opened("tiny").await.model.language_safetensors().unwrap());
    assert_eq!(whole.words.tokenizer.ends(), tuned.words.tokenizer.ends());

    let tokens = async |model: &str, body: &serde_json::Value| {
        let mut body = body.clone();
        body["model"] = json!(model);
        house.client.post("/tokenize", &body).await.json()["tokens"].clone()
    };
    for body in [
        json!({"prompt": "the cat, thrice: süß 漢字 12345\n\n  and  more"}),
        json!({"prompt": "<|im_start|>user <tool_call>x</tool_call>"}),
        json!({"messages": [{"role": "user", "content": "the <|im_end|> of it"}]}),
    ] {
        let ours = tokens("one", &body).await;
        assert!(ours.as_array().unwrap().len() > 3, "{ours}");
        assert_eq!(ours, tokens("whole", &body).await, "{body}");
    }
    // Answers are those of the served one, but for the rounding of what it keeps in blocks.
    let likely = async |model: &str, prompt: &str| {
        let body =
            json!({"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 5});
        let answer = ok(&house.client.post("/v1/completions", &body).await);
        answer["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap().clone()
    };
    for prompt in ["the cat", "a", "hello there"] {
        let (ours, theirs) = (likely("one", prompt).await, likely("whole", prompt).await);
        let near = |(token, x): (&String, &serde_json::Value)| {
            let y = theirs.get(token)?.as_f64()?;
            ((x.as_f64()? - y).abs() < 0.05).then_some(())
        };
        let n_near = ours.iter().filter_map(near).count();
        assert!(n_near >= 4, "{ours:?} {theirs:?}");
        let base = likely("tiny", prompt).await;
        assert_ne!(base, ours);
    }
}

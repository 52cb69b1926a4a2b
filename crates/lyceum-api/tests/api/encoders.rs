//! Imported encoders over HTTP: embeddings, ranking, and the tokens of every kind of model; the tiny checkpoints of
//! `fixtures/encoder`, whose answers `transformers` gave.

use crate::house::{House, by_hand, labels, text};
use lyceum_service::language::import::{Import, import};
use lyceum_service::language::open::Layout;
use lyceum_types::control::Control;
use lyceum_types::ids::Project;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoder").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("texts.json")).unwrap()).unwrap()
}

/// A folder in Hugging Face's layout with the fixture's weights.
pub fn folder(to: &Path, name: &str) {
    let file = std::fs::read(fixture(&format!("{name}.safetensors"))).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&file).unwrap();
    let config = metadata.metadata().as_ref().unwrap()["config"].clone();
    std::fs::write(to.join("config.json"), config).unwrap();
    let all = SafeTensors::deserialize(&file).unwrap();
    let weights = all.iter().filter(|(name, _)| !name.starts_with("test."));
    let bytes = safetensors::serialize(weights, None).unwrap();
    std::fs::write(to.join("model.safetensors"), bytes).unwrap();
    std::fs::copy(fixture("tokenizer.json"), to.join("tokenizer.json")).unwrap();
}

impl House {
    pub async fn import_encoder(&self, name: &str) {
        let dir = tempfile::tempdir().unwrap();
        folder(dir.path(), name);
        let request = Import {
            path: dir.path().to_owned(),
            name: name.parse().unwrap(),
            source: "a test".into(),
            layout: Layout { quant: Some(lyceum_kernels::stored::Stored::F32), context: None },
            licence: None,
        };
        import(self.service.store(), &Project::default_project(), request, &Control::new(), &by_hand())
            .await
            .unwrap();
    }
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn base64_numbers(text: &str) -> Vec<f32> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_those_of_transformers_in_every_form_of_the_request() {
    let house = House::new().await;
    house.import_encoder("bert").await;
    let expected = expected();
    let rows = expected["texts"].as_array().unwrap();
    let texts: Vec<&Value> = rows.iter().map(|row| &row["text"]).collect();
    let ask = |body: Value| {
        let client = house.client.clone();
        async move { client.post("/v1/embeddings", &body).await }
    };
    let answer = ask(json!({"model": "bert", "input": texts, "user": "u"})).await.json();
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("bert@1")));
    let tokens: usize = rows.iter().map(|row| row["ids"].as_array().unwrap().len()).sum();
    assert_eq!(answer["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    for (i, row) in rows.iter().enumerate() {
        let data = &answer["data"][i];
        assert_eq!((&data["object"], &data["index"]), (&json!("embedding"), &json!(i)));
        let far = far(&numbers(&data["embedding"]), &numbers(&row["embedding"]));
        assert!(far < 1e-5, "{}: {far}", row["text"]);
        // Alone, as ids, in base64: the same bits.
        let whole = json!({"model": "bert", "input": row["text"], "encoding_format": "base64"});
        let ids = json!({"model": "bert", "input": row["ids"], "encoding_format": "base64"});
        for body in [whole, ids] {
            let alone = ask(body).await.json();
            let alone = base64_numbers(alone["data"][0]["embedding"].as_str().unwrap());
            assert_eq!(alone, numbers(&data["embedding"]), "{}", row["text"]);
        }
    }
    let lists: Vec<&Value> = rows.iter().map(|row| &row["ids"]).collect();
    assert_eq!(ask(json!({"model": "bert", "input": lists})).await.json()["data"], answer["data"]);
    // Shorter vectors are the first numbers, scaled to length 1 again.
    let short = ask(json!({"model": "bert", "input": texts[0], "dimensions": 5})).await.json();
    let (short, long) = (numbers(&short["data"][0]["embedding"]), numbers(&answer["data"][0]["embedding"]));
    let norm = long[..5].iter().map(|x| x * x).sum::<f32>().sqrt();
    let scaled: Vec<f32> = long[..5].iter().map(|x| x / norm).collect();
    assert!(far(&short, &scaled) < 1e-6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_has_the_same_bits_alone_among_others_and_beside_other_clients() {
    let house = House::new().await;
    house.import_encoder("bert").await;
    // Every length that the model reads, and many of each.
    let texts: Vec<String> = (0..300).map(|i| ["cat ", "fish "][i % 2].repeat(1 + i * 7 % 18)).collect();
    let ask = |input: Value| {
        let client = house.client.clone();
        async move {
            let body = json!({"model": "bert", "input": input, "encoding_format": "base64"});
            client.post("/v1/embeddings", &body).await.json()["data"].clone()
        }
    };
    let (together, again) = tokio::join!(ask(json!(texts)), ask(json!(texts[..100])));
    for (i, one) in again.as_array().unwrap().iter().enumerate() {
        assert_eq!(one["embedding"], together[i]["embedding"], "{i}");
    }
    for i in [0, 1, 7, 50, 123, 299] {
        assert_eq!(ask(json!(texts[i])).await[0]["embedding"], together[i]["embedding"], "{i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_embedded_is_refused_by_name() {
    let house = House::new().await;
    house.import_encoder("bert").await;
    house.import_encoder("bert_pair").await;
    house.publish_poet("poet").await;
    let refuse = |body: Value, status: u16, param: &'static str, code: &'static str| {
        let client = house.client.clone();
        async move {
            let answer = client.post("/v1/embeddings", &body).await;
            assert_eq!(answer.refused(status), (param.to_owned(), code.to_owned()), "{body}");
        }
    };
    let long = "cat ".repeat(19);
    refuse(json!({"model": "bert", "input": long}), 400, "input", "context_length_exceeded").await;
    refuse(json!({"model": "bert", "input": ["a", long]}), 400, "input[1]", "context_length_exceeded").await;
    refuse(json!({"model": "bert", "input": ["a", ""]}), 400, "input[1]", "invalid_value").await;
    refuse(json!({"model": "bert", "input": []}), 400, "input", "invalid_value").await;
    refuse(json!({"model": "bert", "input": [[2], [50]]}), 400, "input[1]", "invalid_value").await;
    refuse(json!({"model": "bert", "input": 7}), 400, "input", "invalid_type").await;
    refuse(json!({"model": "bert", "input": "a", "dimensions": 25}), 400, "dimensions", "invalid_value")
        .await;
    refuse(json!({"model": "bert", "input": "a", "dimensions": 0}), 400, "dimensions", "invalid_value").await;
    let format = json!({"model": "bert", "input": "a", "encoding_format": "int8"});
    refuse(format, 400, "encoding_format", "invalid_type").await;
    refuse(json!({"model": "bert_pair", "input": "a"}), 400, "model", "unsupported_model").await;
    refuse(json!({"model": "poet", "input": "a"}), 400, "model", "unsupported_model").await;
    refuse(json!({"model": "nobody", "input": "a"}), 404, "model", "model_not_found").await;
    refuse(json!({"model": "bert", "input": "a", "truncate": true}), 400, "truncate", "unknown_parameter")
        .await;
    let chat = json!({"model": "bert", "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(house.client.post("/v1/chat/completions", &chat).await.refused(400).1, "unsupported_model");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_ranked_by_the_scores_of_transformers() {
    let house = House::new().await;
    house.import_encoder("bert_pair").await;
    house.import_encoder("bert").await;
    let expected = expected();
    let pairs = expected["pairs"].as_array().unwrap();
    let documents: Vec<&Value> = pairs.iter().map(|pair| &pair["document"]).collect();
    let body = |extra: Value| {
        let mut body = json!({"model": "bert_pair", "query": expected["query"], "documents": documents});
        extra.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
        body
    };
    let ask = |body: Value| {
        let client = house.client.clone();
        async move { client.post("/v1/rerank", &body).await }
    };
    let answer = ask(body(json!({}))).await.json();
    let results = answer["results"].as_array().unwrap();
    assert_eq!((results.len(), &answer["model"]), (pairs.len(), &json!("bert_pair@1")));
    let mut before = f64::INFINITY;
    for result in results {
        let score = result["relevance_score"].as_f64().unwrap();
        let pair = &pairs[result["index"].as_u64().unwrap() as usize];
        assert!((score - pair["score"].as_f64().unwrap()).abs() < 1e-5, "{pair}: {score}");
        assert!(score <= before && result.get("document").is_none());
        before = score;
    }
    let tokens: usize = pairs.iter().map(|pair| pair["ids"].as_array().unwrap().len()).sum();
    assert_eq!(answer["usage"]["total_tokens"], tokens);
    // The best of them, as objects, with their texts: the same bits.
    let objects: Vec<Value> = documents.iter().map(|text| json!({"text": text})).collect();
    let best = ask(body(json!({"documents": objects, "top_n": 2, "return_documents": true}))).await.json();
    assert_eq!(best["results"].as_array().unwrap().len(), 2);
    for (found, first) in best["results"].as_array().unwrap().iter().zip(results) {
        assert_eq!(found["relevance_score"], first["relevance_score"]);
        assert_eq!(found["document"]["text"], *documents[found["index"].as_u64().unwrap() as usize]);
    }
    let refuse = |extra: Value, param: &'static str, code: &'static str| {
        let asked = ask(body(extra));
        async move { assert_eq!(asked.await.refused(400), (param.to_owned(), code.to_owned())) }
    };
    refuse(json!({"documents": []}), "documents", "invalid_value").await;
    refuse(json!({"documents": ["a", "cat ".repeat(20)]}), "documents[1]", "context_length_exceeded").await;
    refuse(json!({"documents": ["a", 3]}), "documents[1]", "invalid_type").await;
    refuse(json!({"query": ""}), "query", "invalid_value").await;
    refuse(json!({"top_n": 0}), "top_n", "invalid_value").await;
    refuse(json!({"model": "bert"}), "model", "unsupported_model").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_model_that_reads_texts_tells_its_tokens() {
    let house = House::new().await;
    house.import_encoder("bert").await;
    house.publish_poet("poet").await;
    house.publish("mood", "classification", MOOD, text(labels(&["bad", "good"]))).await;
    house.publish_table("flowers").await;
    let ask = |path: &'static str, body: Value| {
        let client = house.client.clone();
        async move { client.post(path, &body).await }
    };
    let expected = expected();
    for row in expected["texts"].as_array().unwrap() {
        let answer = ask("/tokenize", json!({"model": "bert", "prompt": row["text"]})).await.json();
        let count = row["ids"].as_array().unwrap().len();
        let whole = json!({"count": count, "max_model_len": 20, "tokens": row["ids"], "token_strs": null});
        assert_eq!(answer, whole);
    }
    let plain = json!({"model": "bert", "prompt": "fish [SEP]", "add_special_tokens": false, "return_token_strs": true});
    let plain = ask("/tokenize", plain).await.json();
    assert_ne!(plain["tokens"].as_array().unwrap().last(), Some(&json!(3)), "a text forges no special token");
    assert_eq!(plain["token_strs"][0], "fish");
    let answer = ask("/detokenize", json!({"model": "bert", "tokens": [2, 49, 3]})).await.json();
    assert_eq!(answer, json!({"prompt": "[CLS] fish [SEP]"}));

    let poem = ask("/tokenize", json!({"model": "poet", "prompt": "abc h"})).await.json();
    assert_eq!((&poem["count"], &poem["max_model_len"]), (&json!(5), &json!(24)));
    let back = ask("/detokenize", json!({"model": "poet", "tokens": poem["tokens"]})).await.json();
    assert_eq!(back, json!({"prompt": "abc h"}));
    let bytes = ask("/tokenize", json!({"model": "mood", "prompt": "hé"})).await.json();
    assert_eq!((&bytes["tokens"], &bytes["max_model_len"]), (&json!([104, 195, 169]), &json!(16)));

    let refuse = |path: &'static str, body: Value, param: &'static str| {
        let asked = ask(path, body);
        async move { assert_eq!(asked.await.refused(400).0, param) }
    };
    let messages = json!([{"role": "user", "content": "a"}]);
    refuse("/tokenize", json!({"model": "flowers", "prompt": "a"}), "model").await;
    refuse("/tokenize", json!({"model": "bert"}), "prompt").await;
    refuse("/tokenize", json!({"model": "bert", "messages": messages}), "messages").await;
    refuse("/tokenize", json!({"model": "poet", "messages": messages}), "messages").await;
    refuse("/tokenize", json!({"model": "bert", "prompt": "a", "messages": messages}), "messages").await;
    refuse("/tokenize", json!({"model": "bert", "prompt": "a", "tools": []}), "tools").await;
    refuse("/tokenize", json!({"model": "poet", "prompt": "xyz"}), "prompt").await;
    refuse("/detokenize", json!({"model": "bert", "tokens": [50]}), "tokens").await;
    refuse("/detokenize", json!({"model": "poet", "tokens": [5000]}), "tokens").await;
}

const MOOD: &str = "family = \"transformer\"\nvariant = \"encoder\"\nd_model = 16\nnhead = 2\nnum_layers = 1\n\
    dim_feedforward = 32\ncontext = 16\npositional = \"learned\"\nnorm_first = true";

/// Golden cosines of all-MiniLM-L6-v2; without the files the test says that it was skipped.
#[tokio::test(flavor = "multi_thread")]
async fn minilm_gives_its_golden_cosines_in_every_type() {
    use lyceum_kernels::stored::Stored;
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/assets");
    let path = PathBuf::from(std::env::var("LYCEUM_ASSETS").unwrap_or(default.into())).join("minilm");
    if !path.exists() {
        println!("skipped: asset minilm is not here; scripts/fetch-assets fetches it");
        return;
    }
    let house = House::new().await;
    let texts =
        ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply today."];
    for quant in [None, Some(Stored::F32), Some(Stored::Bf16), Some(Stored::Q8_0)] {
        let request = Import {
            path: path.clone(),
            name: "minilm".parse().unwrap(),
            source: "a test".into(),
            layout: Layout { quant, context: None },
            licence: None,
        };
        let (project, control) = (Project::default_project(), Control::new());
        let act = by_hand();
        let imported = import(house.service.store(), &project, request, &control, &act);
        assert_eq!(imported.await.unwrap().manifest.context, 256, "what sentence-transformers reads");
        let answer = house.client.post("/v1/embeddings", &json!({"model": "minilm", "input": texts})).await;
        let answer = answer.json();
        let rows: Vec<Vec<f32>> = (0..3).map(|i| numbers(&answer["data"][i]["embedding"])).collect();
        for (a, b, want) in [(0, 1, 0.6888), (0, 2, 0.0037), (1, 2, -0.0226)] {
            let got: f64 = rows[a].iter().zip(&rows[b]).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            println!("{quant:?}: {got:.4} (reference {want})");
            assert!((got - want).abs() < 0.002, "{quant:?}: {got}, not {want}");
        }
    }
}

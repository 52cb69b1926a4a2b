//! What training would read, shown before there is a job: judged as the job's creation judges it, and nothing is made.

use crate::client::ok;
use crate::files::bring;
use crate::house::House;
use crate::language::house;
use crate::ledger::{priced, rows};
use serde_json::{Value, json};

const PREVIEW: &str = "/v1/fine_tuning/jobs/preview";

fn chats(n: usize) -> Vec<u8> {
    let line = |i: usize| {
        json!({"messages": [{"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": "th"}]})
            .to_string()
    };
    (0..n).map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

async fn n_jobs(house: &House) -> usize {
    house.client.get("/v1/fine_tuning/jobs").await.json()["data"].as_array().unwrap().len()
}

fn text(tokens: &Value, learnt: bool) -> String {
    let of = tokens.as_array().unwrap().iter().filter(|token| token["loss"] == learnt);
    of.map(|token| token["text"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_shown_with_what_is_learnt_and_agree_with_the_job() {
    let house = house().await;
    priced(&house).await;
    let file = bring(&house.client, "chats.jsonl", &chats(20)).await;
    let body = json!({"model": "tiny", "training_file": file, "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 5}}}});
    let seen = ok(&house.client.post(&format!("{PREVIEW}?rows=3"), &body).await);
    assert_eq!((&seen["object"], seen["data"].as_array().unwrap().len()), (&json!("fine_tuning.preview"), 3));
    let tokens = &seen["data"][1]["tokens"];
    assert!(text(tokens, false).contains("say 1") && text(tokens, true).starts_with("th"), "{tokens}");
    let summary = &seen["summary"];
    assert_eq!(
        (&summary["reads"], &summary["shown"], &summary["part"]),
        (&json!("chats"), &json!(3), &json!("train"))
    );
    assert_eq!(summary["order"].as_array().unwrap().len(), 8, "two epochs of four steps");
    assert_eq!((n_jobs(&house).await, rows(&house).await.len()), (0, 0), "nothing is made, nothing is paid");
    // The job reads as many tokens as were told.
    let job = ok(&house.client.post("/v1/fine_tuning/jobs", &body).await);
    let read = summary["epoch"]["tokens"].as_u64().unwrap();
    assert_eq!(job["lyceum"]["estimated_tokens"], json!(2 * read), "{summary}");
    assert_eq!(job["lyceum"]["examples"], summary["epoch"]["examples"]);
    // Of a private training nobody is told which lines a step draws.
    let mut private = body.clone();
    private["privacy"] = json!({"type": "dp_sgd", "target_epsilon": 8, "target_delta": 1e-5, "max_grad_norm": 1.0,
        "public": ["rows"]});
    let seen = ok(&house.client.post(PREVIEW, &private).await);
    assert_eq!((&seen["summary"]["order"], &seen["summary"]["shown"]), (&json!([]), &json!(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_shown_as_they_are_prepared_and_what_is_wrong_is_told_by_its_line() {
    let house = house().await;
    let table: String = (0..20).map(|i| format!("{},{},{}\n", i, i % 7, ["yes", "no"][i % 2])).collect();
    let file = bring(&house.client, "rows.csv", format!("a,b,y\n{table}").as_bytes()).await;
    let spec = json!({"task": "classification", "data": {"target": "y", "valid_fraction": 0.25},
        "model": {"family": "mlp", "hidden": [4]}, "train": {"epochs": 1, "batch_size": 4}});
    let of = |file: &str| json!({"model": "mlp", "training_file": file, "method": {"type": "train", "train": {"spec": spec}}});
    let client = &house.client;
    let seen = ok(&client.post(&format!("{PREVIEW}?part=valid&rows=2"), &of(&file)).await);
    let first = &seen["data"][0];
    assert_eq!(
        (&first["part"], &first["names"], &first["shape"]),
        (&json!("valid"), &json!(["a", "b"]), &json!([2]))
    );
    assert!(first["label"] == "yes" || first["label"] == "no", "{first}");
    assert_eq!(
        (&seen["summary"]["epoch"]["examples"], &seen["summary"]["reads"]),
        (&json!(5), &json!("rows"))
    );

    for (query, param) in [("part=all", "part"), ("rows=0", "rows"), ("rows=1001", "rows"), ("row=1", "row")]
    {
        assert_eq!(client.post(&format!("{PREVIEW}?{query}"), &of(&file)).await.refused(400).0, param);
    }
    let none = client.post(&format!("{PREVIEW}?part=test"), &of(&file)).await;
    assert_eq!(none.refused(400), ("part".into(), "no_part".into()));
    let wrong = bring(client, "wrong.csv", b"a,b,y\n1,2,yes\n1,no\n2,1,yes\n").await;
    let refused = client.post(PREVIEW, &of(&wrong)).await;
    assert_eq!(refused.refused(400), ("training_file".into(), "invalid_file".into()));
    assert_eq!(refused.json()["error"]["problems"]["errors"][0]["line"], 3);
    assert_eq!(client.post(PREVIEW, &of("file_0")).await.refused(400).1, "file_not_found");
    assert_eq!(client.post(PREVIEW, &json!({"model": "nobody", "training_file": file})).await.status, 404);
    assert_eq!(n_jobs(&house).await, 0);
}

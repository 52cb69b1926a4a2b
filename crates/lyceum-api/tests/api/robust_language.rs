//! Runs over an imported language model: environments beside the one that serves, and what is refused with its reason.

use crate::files::bring;
use crate::house::House;
use crate::language::house;
use crate::robustness::finished;
use serde_json::{Value, json};

fn texts() -> Value {
    json!([
        "The river ran low that summer, and the ferry lay on the stones.",
        {"prompt": "The capital of France is", "answer": " Paris, of course."},
        {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the thin thread"}]},
        {"text": "thththth this that the other"}
    ])
}

pub async fn run(house: &House, body: &Value) -> Value {
    let queued = house.client.post("/v1/robustness/runs", body).await;
    assert_eq!(queued.status, 200, "{}", queued.text());
    let queued = queued.json();
    assert!(queued["status"] == "queued" && queued["results"].is_null(), "{queued}");
    let run = finished(house, &queued).await;
    assert_eq!(run["status"], "completed", "{run}");
    run
}

fn of<'r>(run: &'r Value, metric: &str, setting: &str) -> &'r Value {
    let found = run["results"].as_array().unwrap().iter();
    let mut found =
        found.filter(|r| r["metric"] == metric && r["setting"].as_str().unwrap().starts_with(setting));
    found.next().unwrap_or_else(|| panic!("{metric} {setting}: {run}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_of_a_language_model_are_compared_over_texts_and_answers() {
    let house = house().await;
    let run = run(&house, &json!({"model": "tiny", "instances": texts()})).await;
    assert_eq!((&run["model"], &run["n"], &run["compare_to"]), (&json!("tiny@1"), &json!(4), &Value::Null));
    // The file is Q8_0: wider types give its numbers, narrower ones others.
    for metric in ["kl_mean", "kl_max", "logprob_difference_max"] {
        assert_eq!(of(&run, metric, "served")["value"], 0.0, "{metric}");
        assert!(
            of(&run, metric, "f32")["value"].as_f64().unwrap() > 0.0,
            "activations are rounded: {metric}"
        );
        let (eight, four) = (of(&run, metric, "f32"), of(&run, metric, "q4_0"));
        assert!(four["value"].as_f64() > eight["value"].as_f64(), "{metric}: {eight} {four}");
    }
    for setting in ["served", "f32", "bf16", "q4_0"] {
        let [agreement, perplexity, ece] =
            ["agreement", "perplexity", "ece"].map(|m| of(&run, m, setting)["value"].as_f64().unwrap());
        assert!((0.0..=1.0).contains(&agreement) && perplexity > 1.0 && (0.0..=1.0).contains(&ece));
        let answers = of(&run, "answer_agreement", setting);
        assert!(answers["n"].as_u64().unwrap() > 0 && answers["ci95"].is_array(), "{answers}");
    }
    let flags = |setting: &str| of(&run, "agreement", setting)["flags"].to_string();
    assert!(flags("f32").contains("dequantised from q8_0") && flags("q4_0").contains("a second time"));
    assert!(!flags("served").contains("dequantised"));
    // Alone and streamed are the same bits, and the engine writes the same answers.
    let own = of(&run, "agreement", "served")["setting"].as_str().unwrap();
    let alone = own.replace("batch:8", "batch:1");
    let streamed = own.replace("batch:8", "streamed");
    for setting in [&alone, &streamed] {
        let agreement = of(&run, "agreement", setting);
        assert!(agreement["budget"].as_str().unwrap().contains("the same bits"), "{agreement}");
        assert_eq!(of(&run, "same_answers", setting)["value"], 1.0);
        assert_eq!(of(&run, "answer_agreement", setting)["value"], 1.0);
    }
    assert_eq!(of(&run, "agreement", "served portable")["value"], 1.0, "integers are exact");
    // 32 and 64 numbers a row are no blocks of 256.
    let left_out = run["not_evaluated"].to_string();
    assert!(left_out.contains("q4_k") && left_out.contains("blocks of 256"), "{left_out}");
    let all = run["results"].to_string() + &run["not_evaluated"].to_string();
    assert!(!all.contains("river") && !all.contains("Paris"), "numbers, and no text");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_is_chosen_texts_come_of_a_file_and_passes_are_paid_for() {
    let house = house().await;
    let lines = texts().as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let file = bring(&house.client, "texts.jsonl", lines.as_bytes()).await;
    let suite = json!([{"type": "environments", "reference": "f32", "matrix": ["served", "kv:int8"], "max_tokens": 0}]);
    let run = run(&house, &json!({"model": "tiny", "data": file, "rows": 3, "suite": suite})).await;
    assert_eq!((&run["n"], &run["data"]), (&json!(3), &json!(file)));
    assert_eq!(of(&run, "kl_mean", "f32")["value"], 0.0);
    assert!(of(&run, "kl_mean", "served")["value"].as_f64().unwrap() > 0.0);
    let kept = |run: &Value| run["results"].as_array().unwrap().iter().any(|r| r["metric"] == "same_answers");
    assert!(!kept(&run), "no answers were asked for");
    let (_, admin) = house.admin("default", &[lyceum_types::ids::KeyScope::OrganizationRead], None).await;
    let spent = admin.get("/v1/organization/usage/explanations?start_time=0&bucket_width=1d").await;
    assert_eq!(spent.status, 200, "{}", spent.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_or_its_files_do_not_allow_is_refused_before_the_run() {
    let house = house().await;
    let ask = async |extra: Value| {
        let mut body = json!({"model": "tiny", "instances": ["the thin thread"]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        house.client.post("/v1/robustness/runs", &body).await
    };
    let environments = |matrix: Value| json!({"suite": [{"type": "environments", "matrix": matrix}]});
    let refused = ask(environments(json!(["q4_k"]))).await;
    assert_eq!(refused.refused(422), ("suite[0].matrix".into(), "unsupported_method".into()));
    assert!(refused.text().contains("blocks of 256"), "{}", refused.text());
    assert_eq!(ask(environments(json!(["q5_k"]))).await.refused(400).1, "invalid_value");
    assert_eq!(ask(json!({"labels": ["a"]})).await.refused(400).0, "labels");
    assert_eq!(
        ask(json!({"compare_to": "tiny", "gate": {"max_drop": 0.1}})).await.refused(400).0,
        "compare_to"
    );
    assert_eq!(ask(json!({"instances": null})).await.refused(400).0, "instances");
    assert_eq!(ask(json!({"instances": ["x".repeat(5000)]})).await.refused(400).0, "instances[0]");
    assert_eq!(ask(json!({"instances": [{"txt": "a"}]})).await.refused(400).0, "instances[0]");
    assert_eq!(ask(json!({"suite": [{"type": "pgd", "eps": 0.1}]})).await.refused(400).0, "suite[0]");
    house.publish_table("flowers").await;
    let body = json!({"model": "flowers", "instances": [[1, 2]], "labels": ["no"],
        "suite": [{"type": "environments", "matrix": ["q8_0"]}]});
    assert_eq!(house.client.post("/v1/robustness/runs", &body).await.refused(501).0, "suite[0].matrix");
}

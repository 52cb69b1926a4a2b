//! Runs, certificates, prediction sets and drift; and what is refused, with the reason.

use crate::client::Client;
use crate::files::bring;
use crate::house::{House, Kept, labels, picture, table, text};
use lyceum_models::prepare::OutputPreparation;
use lyceum_service::robustness::calibrated;
use lyceum_service::tenancy::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{KeyScope, Project};
use lyceum_types::manifest::{FeatureSketch, SKETCH_QUANTILES};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

const MLP: &str = "family = \"mlp\"\nhidden = [8]";

/// Logits of 30 rows of two classes with the labels 0 and 1 in turn, the surer the later, every fifth of them wrong.
pub fn valid_logits() -> Vec<u8> {
    let logits: Vec<u8> = (0..30u32)
        .flat_map(
            |i| if (i % 2 == 0) != (i % 5 == 4) { [i as f32 / 10.0, 0.0] } else { [0.0, i as f32 / 10.0] },
        )
        .flat_map(f32::to_le_bytes)
        .collect();
    let labels: Vec<u8> = (0..30i64).flat_map(|i| (i % 2).to_le_bytes()).collect();
    let views = [
        ("logits", TensorView::new(Dtype::F32, vec![30, 2], &logits).unwrap()),
        ("labels", TensorView::new(Dtype::I64, vec![30], &labels).unwrap()),
    ];
    safetensors::serialize(views, None).unwrap()
}

fn sketch(name: &str) -> FeatureSketch {
    FeatureSketch {
        name: name.into(),
        n: 1000,
        n_missing: 0,
        mean: Some(0.5),
        std: Some(0.3),
        min: Some(0.0),
        max: Some(1.0),
        quantiles: SKETCH_QUANTILES.to_vec(),
        counts: Default::default(),
    }
}

pub async fn trained(house: &House, name: &str) {
    let kept = Kept { valid_logits: Some(valid_logits()), features: vec![sketch("a"), sketch("b")] };
    house.publish_with(name, "classification", MLP, table(labels(&["no", "yes"])), kept).await;
}

/// The model's own answers, as labels of the rows.
pub async fn answers(house: &House, model: &str, rows: &Value) -> Vec<String> {
    let answer = house.client.post(&format!("/v1/models/{model}:predict"), &json!({"instances": rows})).await;
    let predictions = answer.json()["predictions"].as_array().unwrap().clone();
    predictions.iter().map(|p| p["label"].as_str().unwrap().to_owned()).collect()
}

/// The run as it is once it has ended.
pub async fn finished(house: &House, run: &Value) -> Value {
    let path = format!("/v1/robustness/runs/{}", run["id"].as_str().unwrap_or_else(|| panic!("{run}")));
    for _ in 0..4000 {
        let run = house.client.get(&path).await.json();
        if !matches!(run["status"].as_str(), Some("queued" | "in_progress")) {
            return run;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("{path} does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_attacks_certifies_and_checks_and_is_found_again() {
    let house = House::new().await;
    trained(&house, "table").await;
    let rows = json!((0..8).map(|i| json!([i as f64 / 8.0, 1.0 - i as f64 / 5.0])).collect::<Vec<_>>());
    let labels = answers(&house, "table", &rows).await;
    let body = json!({
        "model": "table", "instances": rows, "labels": labels, "seed": 3,
        "suite": [
            {"type": "pgd", "norm": "linf", "eps": 5.0, "steps": 10, "restarts": 2},
            {"type": "square", "queries": 50},
            {"type": "certificate", "eps": 0.001},
            {"type": "smoothing", "sigma": 0.25, "n": 100, "alpha": 0.01},
            {"type": "tabular", "only": ["shift"], "severities": [5]},
            {"type": "environments"},
            {"type": "calibration"}
        ],
        "compare_to": "table@1", "gate": {"max_drop": 0.0}
    });
    let queued = house.client.post("/v1/robustness/runs", &body).await.json();
    assert!(queued["results"].is_null() && queued["status"] == "queued", "{queued}");
    let run = finished(&house, &queued).await;
    assert_eq!(
        (&run["object"], &run["model"], &run["n"]),
        (&json!("robustness.run"), &json!("table@1"), &json!(8))
    );
    let of = |metric: &str, method: &str| {
        let results = run["results"].as_array().unwrap();
        results.iter().find(|r| r["metric"] == metric && r["method"] == method).cloned()
    };
    assert_eq!(of("clean_accuracy", "none").unwrap()["value"], 1.0);
    let attacked = of("robust_accuracy", "pgd").unwrap();
    assert!(attacked["value"].as_f64().unwrap() < 1.0, "{attacked}");
    assert_eq!((&attacked["setting"], &attacked["n"]), (&json!("linf eps 5"), &json!(8)));
    assert!(attacked["ci95"].is_array() && attacked["budget"].as_str().unwrap().starts_with("10 steps"));
    for (metric, method) in [
        ("robust_accuracy", "square"),
        ("certified_accuracy", "interval bounds"),
        ("certified_accuracy", "smoothing"),
        ("damaged_accuracy", "shift"),
        ("agreement", "environment"),
        ("ece", "validation rows"),
    ] {
        assert!(of(metric, method).is_some(), "{metric} {method}");
    }
    let flags = run["flags"].as_array().unwrap();
    assert_eq!(flags.len(), 5);
    assert!(flags.iter().all(|flag| flag["state"] != "not_evaluated"), "{flags:?}");
    let lines =
        house.client.get(&format!("/v1/robustness/runs/{}/failures", run["id"].as_str().unwrap())).await;
    assert_eq!(lines.header("content-type"), Some("application/jsonl"));
    let rows: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!rows.is_empty() && rows.len() as u64 == run["n_failures"].as_u64().unwrap());
    for row in &rows {
        let at = row["row"].as_u64().unwrap() as usize;
        assert_eq!(row["label"], labels[at], "{row}");
        let fooled = answers(&house, "table", &json!([row["adversarial"]])).await;
        assert_eq!(row["answer"], fooled[0].as_str(), "the changed row is answered so: {row}");
    }
    assert_eq!(run["gate"]["passed"], true, "a model is as good as itself: {}", run["gate"]);
    let id = run["id"].as_str().unwrap();
    assert_eq!(house.client.get(&format!("/v1/robustness/runs/{id}")).await.json(), run);
    assert_eq!(house.client.get("/v1/robustness/runs").await.json()["data"][0]["id"], id);
    assert_eq!(house.client.get("/v1/robustness/runs/rob_0").await.refused(404).1, "not_found");
    let again = finished(&house, &house.client.post("/v1/robustness/runs", &body).await.json()).await;
    assert_eq!(again["results"], run["results"], "a seed repeats a run");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_with_certificates_and_prediction_sets() {
    let house = House::new().await;
    trained(&house, "table").await;
    let ask = async |extra: Value| {
        let mut body = json!({"instances": [[0.2, 0.9], [2.0, -3.0]]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        house.client.post("/v1/models/table:predict", &body).await
    };
    let plain = ask(json!({})).await.json();
    assert_eq!(plain.as_object().unwrap().len(), 1, "nothing that was not asked for");
    let certify = json!({"sigma": 0.1, "n": 200, "alpha": 0.01});
    let found = ask(json!({"certify": certify, "prediction_set": {"alpha": 0.1}})).await.json();
    assert_eq!(found["predictions"], plain["predictions"]);
    let certificates = found["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 2);
    for certificate in certificates {
        let radius = certificate["radius"].as_f64().unwrap();
        assert_eq!(certificate["abstained"].as_bool().unwrap(), certificate["class"].is_null());
        assert!(certificate["class"].is_null() == (radius == 0.0) && radius < 0.3, "{certificate}");
    }
    let set = &found["prediction_sets"][0];
    assert_eq!((&set["alpha"], &set["n_calibration"]), (&json!(0.1), &json!(30)));
    assert!(!set["labels"].as_array().unwrap().is_empty());
    assert!(set["guarantee"].as_str().unwrap().contains("exchangeable"));
    // With 30 rows nothing narrower than everything is promised at 1 %.
    let full = ask(json!({"prediction_set": {"alpha": 0.01}})).await.json();
    assert_eq!(full["prediction_sets"][0]["labels"].as_array().unwrap().len(), 2);
    let decision = json!({
        "model": "table", "input": [{"role": "user", "content": [{"type": "input_json", "data": {"a": 0.2, "b": 0.9}}]}],
        "questions": [{"type": "predicate", "instructions": "yes"}],
        "certify": certify, "prediction_set": {"alpha": 0.1, "score": "aps"}
    });
    let decided = house.client.post("/v1/decisions", &decision).await.json();
    assert_eq!(decided["certificate"], certificates[0]);
    assert_eq!(decided["prediction_set"]["score"], "aps");
    // The second row is far outside 0 to 1, where all training rows were.
    let ood = ask(json!({"ood": true})).await.json()["ood"].clone();
    let score = |i: usize| ood[i]["ood_score"].as_f64().unwrap();
    assert!(score(0) < 0.8 && score(1) > 0.99, "{ood}");
    assert!(ood[1]["energy_p_value"].is_number() && ood[1]["n_reference"] == 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calibrated_version_answers_with_the_temperature_and_the_old_one_as_before() {
    let house = House::new().await;
    trained(&house, "table").await;
    let rows = json!([[0.2, 0.9], [2.0, -3.0], [-1.0, 0.4]]);
    let ask = async |model: &str| {
        let answer =
            house.client.post(&format!("/v1/models/{model}:predict"), &json!({"instances": rows})).await;
        answer.json()
    };
    let before = ask("table").await;
    let (project, reference) = (Project::default_project(), "table".parse().unwrap());
    let act = Act::of_command_line(Timestamp::now());
    let (version, report) = calibrated::publish(&house.service, &project, &reference, &act).await.unwrap();
    assert_eq!((version.id().as_str(), report.parent.as_str(), report.n), ("table@2", "table@1", 30));
    let t = report.temperature;
    assert!((t - 1.0).abs() > 0.02 && report.ece_after < report.ece_before + 0.05, "{report:?}");
    assert_eq!(ask("table@1").await, before, "a version never changes how it answers");
    let after = ask("table").await;
    assert_eq!(after["calibration"]["temperature"], t);
    assert!(before.get("calibration").is_none());
    for (old, new) in
        before["predictions"].as_array().unwrap().iter().zip(after["predictions"].as_array().unwrap())
    {
        assert_eq!(old["label"], new["label"]);
        // Of two classes the odds are taken to the power of 1 / T.
        let odds = |p: &Value| {
            (p["probabilities"]["yes"].as_f64().unwrap() / p["probabilities"]["no"].as_f64().unwrap()).ln()
        };
        assert!((odds(new) - odds(old) / t).abs() < 1e-5, "{old} {new}");
    }
    let decision = json!({
        "model": "table", "input": [{"role": "user", "content": [{"type": "input_json", "data": {"a": 0.2, "b": 0.9}}]}],
        "questions": [{"type": "predicate", "instructions": "yes"}]
    });
    let decided = house.client.post("/v1/decisions", &decision).await.json();
    assert_eq!(decided["calibration"], after["calibration"]);
    assert_eq!(decided["answers"][0]["probability"], after["predictions"][0]["probabilities"]["yes"]);
    let sets = json!({"instances": rows, "prediction_set": {"alpha": 0.1}});
    let sets = house.client.post("/v1/models/table:predict", &sets).await.json();
    assert!(sets["prediction_sets"][0]["guarantee"].as_str().unwrap().contains("the temperature"), "{sets}");
    // On the rows that chose it, the temperature of the new version is 1.
    let body = json!({"model": "table", "instances": [[0.1, 0.2]], "labels": ["no"], "suite": [{"type": "calibration"}]});
    let run = finished(&house, &house.client.post("/v1/robustness/runs", &body).await.json()).await;
    let found = run["results"].as_array().unwrap().iter().find(|r| r["metric"] == "temperature").unwrap();
    assert!((found["value"].as_f64().unwrap() - 1.0).abs() < 1e-4, "{found}");
    let again = calibrated::publish(&house.service, &project, &reference, &act).await.unwrap_err();
    assert!(again.to_string().contains("calibrated already"), "{again}");
    house.publish("plain", "classification", MLP, table(labels(&["no", "yes"]))).await;
    let none =
        calibrated::publish(&house.service, &project, &"plain".parse().unwrap(), &act).await.unwrap_err();
    assert!(none.to_string().contains("without validation rows"), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calibrated_a_version_stands_in_the_audit_log() {
    let house = House::new().await;
    trained(&house, "table").await;
    let (key, secret) = house.key(&[KeyScope::Admin], None).await;
    let manager = Client { key: Some(secret), ..house.client.clone() };
    let calibrate = async |id: &str| manager.post(&format!("/v1/models/{id}/calibrate"), &json!({})).await;
    let made = calibrate("table").await;
    assert_eq!((made.status, &made.json()["id"]), (200, &json!("table@2")), "{}", made.text());
    calibrate("table@2").await.refused(422);
    let (_, reader) = house.admin("default", &[KeyScope::OrganizationRead], None).await;
    let log = reader.get("/v1/organization/audit_logs?event_types[]=model.calibrated").await.json();
    let entries = log["data"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "what was refused changed nothing: {log}");
    let told = &entries[0]["model.calibrated"];
    assert_eq!((&told["id"], &told["parent"]), (&json!("table@2"), &json!("table@1")), "{log}");
    assert_eq!(entries[0]["actor"]["api_key"]["id"], key.id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_come_with_intervals_of_the_finite_sample_rank() {
    let house = House::new().await;
    // Residuals of 0, 0.1, … 2.9 in prepared units, which are halves of the data's.
    let zeros = [0u8; 30 * 4];
    let targets: Vec<u8> = (0..30).flat_map(|i| (i as f32 / 10.0).to_le_bytes()).collect();
    let views = [
        ("logits", TensorView::new(Dtype::F32, vec![30, 1], &zeros).unwrap()),
        ("targets", TensorView::new(Dtype::F32, vec![30, 1], &targets).unwrap()),
    ];
    let kept = Kept { valid_logits: Some(safetensors::serialize(views, None).unwrap()), features: vec![] };
    let values = OutputPreparation::Values { names: vec!["y".into()], mean: vec![10.0], std: vec![2.0] };
    house.publish_with("number", "regression", MLP, table(values), kept).await;
    let ask = async |alpha: f64| {
        let body = json!({"instances": [[0.1, 0.2]], "prediction_set": {"alpha": alpha}});
        house.client.post("/v1/models/number:predict", &body).await
    };
    let answer = ask(0.1).await.json();
    let (y, interval) =
        (answer["predictions"][0].as_f64().unwrap(), &answer["prediction_sets"][0]["intervals"][0]);
    // The 28th of 30: ⌈31 · 0.9⌉.
    for (end, side) in [(0, -1.0), (1, 1.0)] {
        assert!((interval[end].as_f64().unwrap() - (y + side * 5.4)).abs() < 1e-5, "{answer}");
    }
    assert_eq!(ask(0.01).await.refused(422).0, "prediction_set", "an infinite interval is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_computed_is_refused_with_its_reason() {
    let house = House::new().await;
    trained(&house, "table").await;
    house.publish("picture", "classification", MLP, picture(labels(&["no", "yes"]))).await;
    let transformer = "family = \"transformer\"\nvariant = \"encoder\"\nd_model = 8\nnhead = 2\nnum_layers = 1\n\
                       dim_feedforward = 8\ncontext = 16";
    house.publish("text", "classification", transformer, text(labels(&["no", "yes"]))).await;
    let values = OutputPreparation::Values { names: vec!["y".into()], mean: vec![0.0], std: vec![1.0] };
    house.publish("number", "regression", MLP, table(values)).await;
    let row = json!([0.1, 0.2]);
    let run = async |model: &str, instance: &Value, item: Value| {
        let body = json!({"model": model, "instances": [instance], "labels": ["no"], "suite": [item]});
        house.client.post("/v1/robustness/runs", &body).await
    };
    let pgd = json!({"type": "pgd", "eps": 0.1});
    let words = json!("some words");
    for (model, instance, item, status, param, code) in [
        ("number", &row, pgd.clone(), 422, "model", "unsupported_model"),
        ("text", &words, pgd.clone(), 422, "suite[0].type", "unsupported_method"),
        ("text", &words, json!({"type": "corruptions"}), 422, "suite[0].type", "unsupported_method"),
        ("table", &row, json!({"type": "corruptions"}), 422, "suite[0].type", "unsupported_method"),
        ("table", &row, json!({"type": "text"}), 422, "suite[0].type", "unsupported_method"),
        ("table", &row, json!({"type": "apgd-t", "eps": 0.1}), 422, "suite[0].type", "unsupported_method"),
        (
            "table",
            &row,
            json!({"type": "square", "norm": "l2", "eps": 1.0}),
            422,
            "suite[0].type",
            "unsupported_method",
        ),
        (
            "table",
            &row,
            json!({"type": "certificate", "norm": "l2", "eps": 1.0}),
            422,
            "suite[0].norm",
            "unsupported_method",
        ),
        (
            "picture",
            &json!([0, 9, 9, 9]),
            json!({"type": "tabular"}),
            422,
            "suite[0].type",
            "unsupported_method",
        ),
        (
            "picture",
            &json!([0, 9, 9, 9]),
            json!({"type": "calibration"}),
            422,
            "suite[0].model",
            "no_calibration_rows",
        ),
        ("picture", &json!([0, 9, 9, 900]), pgd.clone(), 400, "rows", "invalid_value"),
        (
            "table",
            &row,
            json!({"type": "environments", "matrix": ["int8"]}),
            501,
            "suite[0].matrix",
            "not_implemented",
        ),
        ("table", &row, json!({"type": "pgd", "eps": 0}), 400, "suite[0]", "invalid_value"),
        ("nobody", &row, pgd.clone(), 404, "model", "model_not_found"),
    ] {
        let answer = run(model, instance, item.clone()).await;
        assert_eq!(answer.refused(status), (param.into(), code.into()), "{model} {item}");
    }
    let perturbed = run("text", &words, json!({"type": "text", "severities": [3]})).await.json();
    let perturbed = finished(&house, &perturbed).await;
    assert_eq!(perturbed["results"].as_array().unwrap().len(), 6, "{perturbed}");
    assert_eq!(perturbed["unit"], Value::Null);
    let answer = run("table", &row, pgd.clone()).await;
    assert_eq!(answer.json()["n"], 1);
    for (more, param) in [
        (json!({"data": "file-1"}), "data"),
        (json!({"data": "file-1", "labels": ["no"]}), "data"),
        (json!({"data": "file-1", "rows": 0}), "rows"),
        (json!({"rows": 3, "instances": [row], "labels": ["no"]}), "rows"),
        (json!({}), "instances"),
    ] {
        let mut body = json!({"model": "table"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(house.client.post("/v1/robustness/runs", &body).await.refused(400).0, param, "{more}");
    }
    let body = json!({"model": "table", "instances": [row], "labels": ["maybe"]});
    assert_eq!(house.client.post("/v1/robustness/runs", &body).await.refused(400).0, "labels[0]");
    let body = json!({"model": "table", "instances": [row], "labels": ["no"], "gate": {"max_drop": 0.1}});
    assert_eq!(house.client.post("/v1/robustness/runs", &body).await.refused(400).0, "compare_to");
    for (model, instance, extra, status, param) in [
        ("table", &row, json!({"certify": {"sigma": 0}}), 400, "certify.sigma"),
        ("table", &row, json!({"certify": {"sigma": 1, "n": 999_999}}), 400, "certify.n"),
        ("text", &words, json!({"certify": {"sigma": 1}}), 422, "certify"),
        ("number", &row, json!({"certify": {"sigma": 1}}), 422, "certify"),
        ("number", &row, json!({"prediction_set": {"alpha": 0.1}}), 422, "prediction_set"),
        ("number", &row, json!({"ood": true}), 422, "ood"),
        ("table", &row, json!({"prediction_set": {"alpha": 1.0}}), 400, "prediction_set.alpha"),
        ("table", &row, json!({"prediction_set": {"alpha": 0.1, "level": 2}}), 400, "prediction_set.level"),
    ] {
        let mut body = json!({"instances": [instance]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = house.client.post(&format!("/v1/models/{model}:predict"), &body).await;
        assert_eq!(answer.refused(status).0, param, "{model} {extra}");
    }
    for model in ["picture", "number"] {
        assert_eq!(house.client.get(&format!("/v1/models/{model}/drift")).await.refused(422).0, "model");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_found_in_what_was_asked_and_not_in_what_was_not() {
    let house = House::new().await;
    trained(&house, "table").await;
    let empty = house.client.get("/v1/models/table/drift").await.json();
    assert_eq!((&empty["n"], &empty["since"], &empty["features"]), (&json!(0), &Value::Null, &json!([])));
    // Readiness asks every loaded model too, and is no client.
    assert_eq!(house.client.get("/ready").await.status, 200);
    assert_eq!(house.client.get("/v1/models/table/drift").await.json()["n"], 0);
    // `a` as in training, uniform in 0 to 1; `b` far above it.
    let rows: Vec<Value> =
        (0..200).map(|i| json!([(i as f64 + 0.5) / 200.0, 0.8 + i as f64 / 400.0])).collect();
    house.client.post("/v1/models/table:predict", &json!({ "instances": rows })).await.json();
    let found = house.client.get("/v1/models/table/drift").await.json();
    assert_eq!((&found["n"], &found["drifted"]), (&json!(200), &json!(["b"])), "{found}");
    assert!(found["features"][0]["p_holm"].as_f64().unwrap() > 0.5);
    assert!(found["features"][1]["psi"].as_f64().unwrap() > 0.25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_its_rows_from_a_file_and_names_them_by_it() {
    let house = House::new().await;
    trained(&house, "table").await;
    let n = 30;
    let rows: Vec<[f64; 2]> = (0..n).map(|i| [f64::from(i) / 8.0, 1.0 - f64::from(i) / 5.0]).collect();
    let labels = answers(&house, "table", &json!(rows)).await;
    let mut text = "b,y,a\n".to_owned();
    for (row, label) in rows.iter().zip(&labels) {
        text += &format!("{},{label},{}\n", row[1], row[0]);
    }
    let file = bring(&house.client, "rows.csv", text.as_bytes()).await;
    let suite = json!([{"type": "pgd", "eps": 5.0, "steps": 10, "restarts": 1}]);
    let post = async |body: Value| house.client.post("/v1/robustness/runs", &body).await;
    let queued = post(json!({"model": "table", "data": file, "suite": suite})).await.json();
    assert_eq!((&queued["data"], &queued["n"]), (&json!(file), &json!(n)), "{queued}");
    let run = finished(&house, &queued).await;
    // The same rows sent along: the same numbers, and the same rows fail.
    let inline = json!({"model": "table", "instances": rows, "labels": labels, "suite": suite});
    let sent = finished(&house, &post(inline).await.json()).await;
    assert_eq!((&run["status"], &run["results"]), (&json!("completed"), &sent["results"]), "{run}");
    let failures = async |run: &Value| {
        let path = format!("/v1/robustness/runs/{}/failures", run["id"].as_str().unwrap());
        house.client.get(&path).await.text().to_owned()
    };
    assert!(run["n_failures"].as_u64().unwrap() > 0);
    assert_eq!(failures(&run).await, failures(&sent).await);
    let first = post(json!({"model": "table", "data": file, "rows": 7, "suite": suite})).await.json();
    assert_eq!(first["n"], 7);

    // What is wrong with a file is said with its line, and not where it lies.
    for (bytes, words) in
        [("a,b\n1,2\n", "no labels"), ("a,b,y\n1,2,maybe\n", "maybe"), ("a,b,y\n1,x,no\n", "rows.csv:2")]
    {
        let file = bring(&house.client, "rows.csv", bytes.as_bytes()).await;
        let answer = post(json!({"model": "table", "data": file})).await;
        assert_eq!(answer.refused(400), ("data".into(), "invalid_data".into()), "{bytes}");
        let text = answer.text();
        assert!(text.contains(words) && !text.contains("/tmp") && !text.contains("files/"), "{text}");
    }
    let long = "a,b,y\n".to_owned() + &"1,2,no\n".repeat(4097);
    let file = bring(&house.client, "rows.csv", long.as_bytes()).await;
    let answer = post(json!({"model": "table", "data": file, "suite": suite})).await;
    assert_eq!(answer.refused(400), ("data".into(), "too_many_rows".into()));
}

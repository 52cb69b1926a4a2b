//! Cascades over HTTP: made of a classifier of ours and a language model in either order, held to what the members say
//! one by one, and every way that they are refused.

use crate::files::bring;
use crate::house::{House, labels, table, text};
use crate::language::house as with_tiny;
use crate::ledger::{priced, rows};
use crate::receipts;
use lyceum_types::ids::KeyScope;
use serde_json::{Value, json};

const QUESTION: &str = "Is it about the sea?";

/// Texts with labels that no model knows.
fn file(n: usize, from: usize) -> Vec<(String, &'static str)> {
    let words = ["boat", "hill", "wave", "road", "gull", "barn", "reef"];
    (from..from + n)
        .map(|i| {
            let text = format!("{} {} {}", words[i % 7], words[(i / 7 + i) % 7], i % 13);
            (text, if (i * i + i / 3) % 5 < 2 { "yes" } else { "no" })
        })
        .collect()
}

fn jsonl(rows: &[(String, &str)]) -> Vec<u8> {
    let lines: Vec<String> =
        rows.iter().map(|(input, label)| json!({"input": input, "label": label}).to_string()).collect();
    lines.join("\n").into_bytes()
}

async fn house() -> House {
    let house = with_tiny().await;
    let lstm = "family = \"lstm\"\nhead = \"last\"\nhidden_size = 5\nembedding_dim = 3";
    house.publish("text", "classification", lstm, text(labels(&["no", "yes"]))).await;
    house
}

async fn made(house: &House, body: &Value) -> Value {
    let asked = house.client.post("/v1/cascades", body).await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let path = format!("/v1/cascades/{}", asked.json()["id"].as_str().unwrap());
    for _ in 0..4000 {
        let found = house.client.get(&path).await.json();
        if !matches!(found["status"].as_str(), Some("queued" | "in_progress")) {
            assert_eq!(found["status"], "completed", "{found}");
            return found;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{path} does not end");
}

fn asked(model: &str, input: &str) -> Value {
    json!({"model": model, "input": input, "questions": [{"type": "choice", "instructions": QUESTION,
        "choices": [{"value": "no"}, {"value": "yes"}]}]})
}

async fn decide(house: &House, model: &str, input: &str) -> Value {
    let answer = house.client.post("/v1/decisions", &asked(model, input)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The models that a decision's receipt names.
async fn named(house: &House, model: &str, input: &str) -> Vec<String> {
    let body = asked(model, input);
    let receipt = receipts::receipt(&receipts::asked(&house.client, "/v1/decisions", &body).await, &body);
    let models = receipt["models"].as_array().unwrap().iter();
    models.map(|model| model["model"].as_str().unwrap().to_owned()).collect()
}

/// Probabilities of `no` and `yes`.
async fn shares(house: &House, model: &str, input: &str) -> [f64; 2] {
    let answer = decide(house, model, input).await;
    [0, 1].map(|i| answer["answers"][0]["probabilities"][i]["probability"].as_f64().unwrap())
}

fn label(name: &str) -> usize {
    usize::from(name == "yes")
}

/// The threshold by hand: each calibration row's score, sorted, at the rank.
async fn threshold(house: &House, model: &str, rows: &[(String, &str)], alpha: f64) -> f64 {
    let mut scores = Vec::new();
    for (text, name) in rows {
        scores.push(1.0 - shares(house, model, text).await[label(name)]);
    }
    scores.sort_by(f64::total_cmp);
    let rank = ((rows.len() + 1) as f64 * (1.0 - alpha)).ceil() as usize;
    scores[rank - 1]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_is_its_members_and_a_threshold_by_hand_in_either_order() {
    let house = house().await;
    let (calibration, test) = (file(40, 0), file(30, 1000));
    let data = bring(&house.client, "rows.jsonl", &jsonl(&calibration)).await;
    let held = bring(&house.client, "held.jsonl", &jsonl(&test)).await;
    for (name, small, large, alpha) in [("router", "text", "tiny", 0.42), ("back", "tiny", "text", 0.45)] {
        let cascade = made(
            &house,
            &json!({"name": name, "small": small, "large": large, "data": data, "test": held,
            "alpha": alpha, "instructions": QUESTION}),
        )
        .await;
        assert_eq!((&cascade["model"], &cascade["n_calibration"]), (&json!(format!("{name}@1")), &json!(40)));
        let (_, reader) = house.admin("default", &[KeyScope::OrganizationRead], None).await;
        let log =
            reader.get("/v1/organization/audit_logs?event_types[]=cascade.created&limit=1").await.json();
        let told = &log["data"][0]["cascade.created"];
        assert_eq!((&told["id"], &told["small"]), (&cascade["model"], &json!(format!("{small}@1"))), "{log}");
        let t = cascade["definition"]["small_set"]["threshold"].as_f64().unwrap();
        let by_hand = threshold(&house, small, &calibration, alpha).await;
        assert!((t - by_hand).abs() < 1e-15, "{t} {by_hand}");
        let (mut answered, mut wrong) = (0u64, 0u64);
        for (text, truth) in &test {
            let found = decide(&house, name, text).await;
            let p = shares(&house, small, text).await;
            let set: Vec<usize> = [0, 1].into_iter().filter(|&i| 1.0 - p[i] <= t + 1e-12).collect();
            let routed = &found["cascade"];
            let who = if set.len() == 1 { small } else { large };
            assert_eq!(routed["answered_by"], format!("{who}@1"), "{text}: {routed}");
            let mut readers = vec![format!("{small}@1")];
            readers.extend((who != small).then(|| format!("{who}@1")));
            readers.sort();
            assert_eq!(named(&house, name, text).await, readers, "{text}: by its receipt");
            assert_eq!(routed["small"]["labels"].as_array().unwrap().len(), set.len());
            let own = decide(&house, who, text).await;
            assert_eq!(found["answers"], own["answers"], "what the member says, bit for bit");
            if let [single] = set[..] {
                answered += 1;
                wrong += u64::from(single != label(truth));
                assert_eq!((&routed["member"], &routed["large"]), (&json!("small"), &Value::Null));
            } else {
                assert_eq!(routed["member"], "large");
                let read = |of: &Value| of["usage"]["input_tokens"].as_u64().unwrap();
                assert_eq!(read(&found), read(&own) + read(&decide(&house, small, text).await));
            }
        }
        let share = |of: &str| cascade["report"]["shares"][of]["value"].as_f64().unwrap();
        assert!((1..30).contains(&answered), "{answered} of 30: both ways are walked");
        assert_eq!(share("answered_by_small"), answered as f64 / 30.0);
        assert_eq!(share("answered_by_small_and_wrong"), wrong as f64 / 30.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_billed_permitted_and_kept_as_long_as_they_are_asked() {
    let house = house().await;
    priced(&house).await;
    let data = bring(&house.client, "rows.jsonl", &jsonl(&file(40, 0))).await;
    let body = json!({"name": "router", "small": "text", "large": "tiny", "data": data, "alpha": 0.42,
        "instructions": QUESTION, "escalated": "abstain"});
    let cascade = made(&house, &body).await;
    assert_eq!((&cascade["n_calibration"], &cascade["n_held_out"]), (&json!(20), &json!(20)));
    assert!(cascade["report"]["cost"]["large"]["micro_usd"].as_f64().unwrap() > 0.0);
    assert!(cascade["report"]["statement"].as_str().unwrap().contains("0.84"), "{cascade}");
    assert!(
        cascade["definition"]["calibration"]["disjoint"].as_str().unwrap().contains("tiny@1"),
        "{cascade}"
    );
    let before = rows(&house).await.len();
    let mut seen = [false; 2];
    for (text, _) in file(30, 500) {
        let found = decide(&house, "router", &text).await;
        seen[usize::from(found["cascade"]["member"] == "large")] = true;
        let large = &found["cascade"]["large"];
        let n = large["labels"].as_array().map(Vec::len);
        assert_eq!(found["cascade"]["abstained"], json!(n.is_some_and(|n| n != 1)), "{found}");
    }
    assert_eq!(seen, [true; 2]);
    let all = rows(&house).await;
    assert!(
        all.len() > before + 30 && all.len() < before + 60,
        "one row a member that worked: {}",
        all.len() - before
    );
    assert!(all.values().all(|entry| ["text", "tiny"].contains(&entry.request.model.as_str())));
    // It is a model among the others.
    let listed = house.client.get("/v1/models/router").await.json();
    assert_eq!((&listed["family"], &listed["root"]), (&json!("cascade"), &json!("router@1")));
    let lineage = house.client.get("/v1/models/router@1/lineage").await.json();
    assert_eq!(lineage["parents"].as_array().unwrap().len(), 2, "{lineage}");
    // It needs its members.
    for member in ["text", "tiny"] {
        let refused = house.client.send("DELETE", &format!("/v1/models/{member}@1"), &[], "").await;
        assert_eq!(refused.refused(409).1, "model_in_use");
        assert!(refused.text().contains("router@1"), "{}", refused.text());
    }
    // Who may not ask a member may not ask the cascade, whichever would have answered.
    let (_, admin) = house.admin("default", &[KeyScope::OrganizationWrite], None).await;
    let permissions = "/v1/organization/projects/default/model_permissions";
    for member in ["text", "tiny"] {
        admin.post(permissions, &json!({"mode": "deny_list", "model_ids": [member]})).await;
        let refused = house.client.post("/v1/decisions", &asked("router", "boat")).await;
        assert_eq!(refused.status, 403, "{}", refused.text());
    }
    admin.post(permissions, &json!({"mode": "deny_list", "model_ids": []})).await;
    // The cascade first, then its members.
    for (path, status) in [("router@1", 200), ("text@1", 200)] {
        let gone = house.client.send("DELETE", &format!("/v1/models/{path}"), &[], "").await;
        assert_eq!(gone.status, status, "{}", gone.text());
    }
    house.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_changed_under_its_name_is_told() {
    let house = house().await;
    let data = bring(&house.client, "rows.jsonl", &jsonl(&file(40, 0))).await;
    let body = json!({"name": "router", "small": "text", "large": "tiny", "data": data, "alpha": 0.42, "instructions": QUESTION});
    made(&house, &body).await;
    // Another version under the bare name changes nothing.
    house
        .publish("text", "classification", "family = \"mlp\"\nhidden = [3]", table(labels(&["no", "yes"])))
        .await;
    decide(&house, "router", "boat").await;
    // Other bytes under the member's own number do.
    let path = house.dir.path().join("models/tiny/1/manifest.json");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push('\n');
    std::fs::write(&path, text).unwrap();
    let refused = house.client.post("/v1/decisions", &asked("router", "boat")).await;
    assert_eq!(refused.refused(409).1, "cascade_member_changed", "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_cascade_can_be_made_of_is_refused_by_its_place() {
    let house = house().await;
    house.publish_poet("poet").await;
    house.publish_table("table").await;
    let client = &house.client;
    let data = bring(client, "rows.jsonl", &jsonl(&file(40, 0))).await;
    let few = bring(client, "few.jsonl", &jsonl(&file(10, 0))).await;
    let odd = bring(client, "odd.jsonl", &jsonl(&[("a".into(), "maybe"), ("b".into(), "no")])).await;
    let broken = bring(client, "broken.jsonl", b"{\"input\": 1}\n").await;
    let whole = json!({"name": "router", "small": "text", "large": "tiny", "data": data, "alpha": 0.4, "instructions": QUESTION});
    made(&house, &whole).await;
    for (change, status, param, code) in [
        (json!({"alpha": 1.0}), 400, "alpha", "invalid_value"),
        (json!({"held_out": 0.0}), 400, "held_out", "invalid_value"),
        (json!({"held_out": 0.3, "test": data}), 400, "held_out", "invalid_value"),
        (json!({"large_alpha": 0.1}), 400, "large_alpha", "invalid_value"),
        (json!({"alpha": 0.01}), 400, "data", "too_few_rows"),
        (json!({"data": few, "alpha": 0.1}), 400, "data", "too_few_rows"),
        (json!({"data": odd}), 400, "data", "unknown_label"),
        (json!({"data": broken}), 400, "data", "invalid_file"),
        (json!({"data": "file-nothing"}), 400, "data", "file_not_found"),
        (json!({"test": data}), 400, "test", "rows_calibrate"),
        (json!({"instructions": " "}), 400, "instructions", "missing_value"),
        (json!({"choices": [{"value": "no"}, {"value": "maybe"}]}), 400, "choices", "labels_differ"),
        (json!({"name": "text"}), 400, "name", "name_taken"),
        (json!({"name": "a b"}), 400, "name", "invalid_value"),
        (json!({"large": "text"}), 400, "large", "invalid_value"),
        (json!({"large": "poet"}), 422, "large", "unsupported_model"),
        (json!({"small": "router"}), 422, "small", "unsupported_model"),
        (json!({"small": "nobody"}), 404, "model", "model_not_found"),
        (json!({"beta": 1}), 400, "beta", "unknown_field"),
    ] {
        let mut body = whole.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = client.post("/v1/cascades", &body).await;
        let found = answer.refused(status);
        assert!(
            found.0 == param && (found.1 == code || param == "beta" || code == "invalid_file"),
            "{change}: {found:?}"
        );
    }
    // Of a cascade itself.
    let with = |extra: Value| {
        let mut body = asked("router", "boat");
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let other = json!([{"type": "choice", "instructions": "Is it wet?", "choices": [{"value": "no"}, {"value": "yes"}]}]);
    for (extra, status, param) in [
        (json!({"explain": {}}), 422, "explain"),
        (json!({"prediction_set": {"alpha": 0.1}}), 422, "prediction_set"),
        (json!({"ood": true}), 422, "ood"),
        (json!({ "questions": other }), 400, "questions[0].instructions"),
    ] {
        assert_eq!(
            client.post("/v1/decisions", &with(extra.clone())).await.refused(status).0,
            param,
            "{extra}"
        );
    }
    // A row of a table is nothing that the small member reads.
    let row = json!([{"role": "user", "content": [{"type": "input_json", "data": {"a": 1}}]}]);
    assert_eq!(client.post("/v1/decisions", &with(json!({ "input": row }))).await.status, 400);
    let chat = json!({"model": "router", "messages": [{"role": "user", "content": "a"}]});
    assert_eq!(client.post("/v1/chat/completions", &chat).await.refused(422).1, "unsupported_model");
    let predict = client.post("/v1/models/router:predict", &json!({"instances": ["a"]})).await;
    assert_eq!(predict.refused(422).1, "unsupported_model");
    assert_eq!(client.get("/v1/models/router/card").await.refused(422).1, "unsupported_model");
    assert_eq!(client.get("/v1/models/router/privacy").await.refused(422).1, "unsupported_model");
}

/// Which models saw a row is told beside a cascade too: of its file, the rows that fitted its thresholds and those that were held out.
#[tokio::test(flavor = "multi_thread")]
async fn a_cascade_tells_which_rows_it_saw() {
    let house = house().await;
    let data = bring(&house.client, "rows.jsonl", &jsonl(&file(40, 0))).await;
    let body = json!({"name": "router", "small": "text", "large": "tiny", "data": data, "held_out": 0.25,
        "alpha": 0.42, "instructions": QUESTION});
    assert_eq!(made(&house, &body).await["n_calibration"], 30);
    let mut sights = Vec::new();
    for row in 0..40 {
        let saw = house.client.post("/v1/privacy/saw", &json!({"file": data, "row": row})).await;
        assert_eq!(saw.status, 200, "{}", saw.text());
        let seen = &saw.json()["rows"][0]["models"];
        assert_eq!((seen.as_array().unwrap().len(), &seen[0]["model"]), (1, &json!("router@1")), "{seen}");
        sights.push(seen[0]["sight"].as_str().unwrap().to_owned());
    }
    let of = |sight: &str| sights.iter().filter(|found| *found == sight).count();
    assert_eq!((of("validated"), of("tested")), (30, 10), "{sights:?}");
    let beyond = house.client.post("/v1/privacy/saw", &json!({"file": data, "row": 40})).await;
    assert_eq!(beyond.refused(400).0, "row");
    let other = bring(&house.client, "other.jsonl", &jsonl(&file(9, 500))).await;
    let saw = house.client.post("/v1/privacy/saw", &json!({"file": other, "row": 1})).await.json();
    assert_eq!(saw["rows"][0]["models"], json!([]));
}

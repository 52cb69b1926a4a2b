//! Gates of trainings over HTTP: what would keep one from comparing is told when the job is asked for, what it said stands
//! in the job, and what it holds is served by its number alone until somebody promotes it. That one is judged is the
//! binary's test, which has a worker.

use crate::client::Client;
use crate::files::bring;
use crate::house::House;
use crate::language::house as language_house;
use lyceum_store::files::Staging;
use lyceum_store::jobs;
use lyceum_store::models::NewVersion;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use serde_json::{Value, json};

const JOBS: &str = "/v1/fine_tuning/jobs";
const SPEC: &str = "method.train.spec";

fn rows(n: usize) -> String {
    let row = |i: usize| format!("{},{},{}\n", i % 7, i % 5, ["no", "yes"][i % 2]);
    format!("a,b,y\n{}", (0..n).map(row).collect::<String>())
}

/// A request for a classifier called `flowers`, with this gate.
fn of_rows(file: &str, gate: &Value) -> Value {
    let spec = json!({"name": "flowers", "task": "classification", "data": {"target": "y"},
        "model": {"hidden": [4]}, "train": {"epochs": 2}, "gate": gate});
    json!({"model": "mlp", "training_file": file, "seed": 3, "method": {"type": "train", "train": {"spec": spec}}})
}

async fn asked(client: &Client, body: &Value) -> Value {
    let answer = client.post(JOBS, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_of_rows_names_files_by_their_ids_and_is_judged_when_it_is_asked_for() {
    let house = House::new().await;
    let client = &house.client;
    let train = bring(client, "rows.csv", rows(40).as_bytes()).await;
    let test = bring(client, "test.csv", rows(20).as_bytes()).await;
    let unlabelled = bring(client, "unlabelled.csv", b"a,b\n1,2\n").await;
    let wrong = bring(client, "wrong.csv", b"a,b,y\n1,two,no\n").await;
    let many = bring(client, "many.csv", rows(5000).as_bytes()).await;
    let job = asked(client, &of_rows(&train, &json!({"max_drop": 0.1, "data": test, "rows": 10}))).await;
    assert_eq!(job["method"]["train"]["spec"]["gate"]["data"], json!(test));
    assert!(job["lyceum"]["gate"].is_null(), "nothing is judged yet: {job}");
    // Of both models ten rows: their answers, PGD of 40 steps and three starts, the signs of a masked gradient.
    let most = 2 * 10 * (1 + (1 + (1 + 3 * (2 * 40 + 1)) + 7) + 1);
    assert_eq!(
        (&job["lyceum"]["max_gate_passes"], &job["lyceum"]["gate_passes"]),
        (&json!(most), &Value::Null)
    );

    // A first version has nothing beside it; the second's suite is tried on the first.
    for is_served in [false, true] {
        if is_served {
            house.publish_table("flowers").await;
        }
        for (gate, status, param) in [
            (json!({"max_drop": 0.1, "data": "test.csv"}), 400, "gate.data"),
            (json!({"max_drop": 0.1, "data": "../lyceum.db"}), 400, "gate.data"),
            (json!({"max_drop": 0.1, "data": 3}), 400, "gate.data"),
            (json!({"max_drop": 0.1}), 400, "gate.data"),
            (json!({"data": test}), 400, "gate.max_drop"),
            (json!({"max_drop": 2, "data": test}), 400, "gate.max_drop"),
            (json!({"max_drop": 0.1, "data": test, "texts": test}), 400, "gate.texts"),
            (json!({"max_drop": 0.1, "data": unlabelled}), 400, "gate.data"),
            (json!({"max_drop": 0.1, "data": wrong}), 400, "gate.data"),
            (json!({"max_drop": 0.1, "data": many}), 400, "gate.rows"),
            (json!({"max_drop": 0.1, "data": test, "suite": []}), 400, "gate.suite"),
            (json!({"max_drop": 0.1, "data": test, "suite": [{"type": "x"}]}), 400, "gate.suite[0]"),
            (json!("gate.toml"), 400, "gate"),
        ] {
            let answer = client.post(JOBS, &of_rows(&train, &gate)).await;
            assert_eq!(answer.refused(status).0, format!("{SPEC}.{param}"), "{gate}: {}", answer.text());
        }
        let corruptions = json!({"max_drop": 0.1, "data": test, "suite": [{"type": "corruptions"}]});
        let answer = client.post(JOBS, &of_rows(&train, &corruptions)).await;
        match is_served {
            false => assert_eq!(answer.status, 200, "{}", answer.text()),
            true => assert_eq!(answer.refused(422).0, format!("{SPEC}.gate.suite[0].type")),
        }
    }
    let problems = client.post(JOBS, &of_rows(&train, &json!({"max_drop": 0.1, "data": wrong}))).await.json();
    assert_eq!(problems["error"]["problems"]["errors"][0]["line"], 2, "{problems}");
    let folder = house.dir.path().display().to_string();
    assert!(!problems.to_string().contains(&folder), "paths are the server's matter: {problems}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_of_a_fine_tuning_is_judged_for_its_base() {
    let house = language_house().await;
    let client = &house.client;
    let chats = |answer: &str| {
        let line = |i: usize| {
            json!({"messages": [{"role": "user", "content": format!("say {i}")},
                {"role": "assistant", "content": answer}]})
            .to_string()
        };
        (0..8).map(line).collect::<Vec<_>>().join("\n")
    };
    let train = bring(client, "chats.jsonl", chats("th").as_bytes()).await;
    let lines = bring(client, "gate.jsonl", chats("th th").as_bytes()).await;
    let wrong = bring(client, "wrong.jsonl", b"{\"messages\": 3}\n").await;
    let texts = bring(client, "texts.txt", b"the thin thread of this\nanother text\n").await;
    let environments = json!([{"type": "environments", "matrix": ["int4"], "max_tokens": 0}]);
    let red_team =
        json!([{"type": "red_team", "system": "You are the shy one.", "canary": false, "max_tokens": 8}]);
    let body = |gate: &Value| {
        let spec =
            json!({"name": "bot", "model": {"lora": {"rank": 2}}, "train": {"steps": 4}, "gate": gate});
        json!({"model": "tiny", "training_file": train, "method": {"type": "train", "train": {"spec": spec}}})
    };
    for (gate, most) in [
        // Eight lines through both models.
        (json!({"max_rise": 0.1, "data": lines}), 16),
        // A text in one piece and one in two: as served and beside itself, in int4 and as served beside it.
        (json!({"min_agreement": 0.5, "suite": environments, "texts": texts}), 3 * 4),
        (json!({"max_attack_success": 0.5, "suite": red_team}), 0),
    ] {
        let job = asked(client, &body(&gate)).await;
        assert_eq!(job["method"]["train"]["spec"]["gate"], gate);
        let quoted = job["lyceum"]["max_gate_passes"].as_u64().unwrap();
        assert!(if most > 0 { quoted == most } else { quoted > 100 }, "{quoted}: {gate}");
        // It is put aside with the rest: nothing of this costs anything yet.
        assert_eq!(job["lyceum"]["max_cost_usd"], 0.0, "{job}");
    }
    for (gate, param) in [
        (json!({"max_rise": 0.1}), "gate.data"),
        (json!({"max_rise": 0.1, "data": "../../lyceum.db"}), "gate.data"),
        (json!({"max_rise": 0.1, "data": wrong}), "gate.data"),
        (json!({"max_rise": 0.1, "data": train}), "gate.data"),
        (json!({"min_agreement": 0.5, "suite": environments, "texts": "/etc/hostname"}), "gate.texts"),
        (json!({"min_agreement": 0.5, "suite": environments}), "gate.texts"),
        (json!({"max_attack_success": 0.5, "suite": red_team, "texts": texts}), "gate.texts"),
        (json!({"min_agreement": 0.5, "suite": red_team}), "gate.min_agreement"),
        (json!({"max_drop": 0.5, "suite": [{"type": "pgd", "eps": 0.1}]}), "gate.suite[0]"),
        (json!({}), "gate.max_rise"),
    ] {
        let answer = client.post(JOBS, &body(&gate)).await;
        assert_eq!(answer.refused(400).0, format!("{SPEC}.{param}"), "{gate}: {}", answer.text());
    }
    // A classifier is nothing that a loss is compared with.
    house.publish_table("bot").await;
    let answer = client.post(JOBS, &body(&json!({"max_rise": 0.1, "data": lines}))).await;
    assert_eq!(answer.refused(422), (format!("{SPEC}.name"), "unsupported_gate".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_stands_beside_the_methods_that_have_no_spec() {
    let house = language_house().await;
    let client = &house.client;
    let user = |i: usize| json!({"role": "user", "content": format!("say {i}")});
    let says = |text: &str| json!({"role": "assistant", "content": text});
    let lines =
        |line: &dyn Fn(usize) -> Value| (0..8).map(|i| line(i).to_string() + "\n").collect::<String>();
    let chats = |answer: &str| lines(&|i| json!({"messages": [user(i), says(answer)]}));
    let pairs = |answer: &str| {
        let pair = |i| {
            json!({"input": {"messages": [user(i)]}, "preferred_output": [says(answer)],
                "non_preferred_output": [says("no")]})
        };
        lines(&pair)
    };
    let train = bring(client, "chats.jsonl", chats("th").as_bytes()).await;
    let judge = bring(client, "gate.jsonl", chats("th th").as_bytes()).await;
    let wrong = bring(client, "wrong.jsonl", b"{\"messages\": 3}\n").await;
    let body = |file: &str, method: &Value, gate: &Value| {
        let mut body = json!({"model": "tiny", "training_file": file, "gate": gate});
        if !method.is_null() {
            body["method"] = method.clone();
        }
        body
    };
    let (supervised, dpo) = (json!({"type": "supervised"}), json!({"type": "dpo"}));
    let spec = |spec: Value| json!({"type": "train", "train": {"spec": spec}});
    let gate = json!({"max_rise": 0.1, "data": judge});
    for method in
        [&Value::Null, &supervised, &spec(json!({"model": {"lora": {"rank": 2}}, "train": {"steps": 4}}))]
    {
        let job = asked(client, &body(&train, method, &gate)).await;
        assert_eq!(job["lyceum"]["max_gate_passes"], 16, "{job}");
    }
    let ungated = asked(client, &json!({"model": "tiny", "training_file": train})).await;
    assert!(ungated["lyceum"]["max_gate_passes"].is_null(), "{ungated}");
    let preferred = bring(client, "pairs.jsonl", pairs("th").as_bytes()).await;
    let judged = bring(client, "judged.jsonl", pairs("th th").as_bytes()).await;
    let job = asked(client, &body(&preferred, &dpo, &json!({"max_rise": 0.1, "data": judged}))).await;
    assert_eq!(
        job["lyceum"]["max_gate_passes"],
        2 * 2 * 8,
        "a pair through both, and the base beside: {job}"
    );

    for (method, gate, param) in [
        (&supervised, json!({"max_rise": 0.1}), "gate.data"),
        (&supervised, json!({"max_rise": 0.1, "data": "../../lyceum.db"}), "gate.data"),
        (&supervised, json!({"max_rise": 0.1, "data": wrong}), "gate.data"),
        (&dpo, json!({"max_rise": 0.1, "data": judge}), "training_file"),
        (&supervised, json!({"max_drop": 0.5, "suite": [{"type": "pgd", "eps": 0.1}]}), "gate.suite[0]"),
        (&supervised, json!({}), "gate.max_rise"),
        (&supervised, json!({"max_rise": 0.1, "data": judge, "rows": 3}), "gate.rows"),
        (&spec(json!({"gate": gate})), gate.clone(), "method.train.spec.gate"),
    ] {
        let answer = client.post(JOBS, &body(&train, method, &gate)).await;
        assert_eq!(answer.refused(400).0, param, "{gate}: {}", answer.text());
    }
    // What has no accuracy has no gate, wherever it stands.
    let table = bring(client, "rows.csv", rows(40).as_bytes()).await;
    let test = bring(client, "test.csv", rows(20).as_bytes()).await;
    let regression = spec(json!({"name": "numbers", "task": "regression", "data": {"target": "b"},
        "model": {"hidden": [4]}, "train": {"epochs": 2}}));
    let mut body = body(&table, &regression, &json!({"max_drop": 0.1, "data": test}));
    body["model"] = "mlp".into();
    assert_eq!(client.post(JOBS, &body).await.refused(400).0, "gate");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gate_holds_stands_in_its_job_and_has_no_alias_until_it_is_promoted() {
    let house = House::new().await;
    let client = &house.client;
    let train = bring(client, "rows.csv", rows(40).as_bytes()).await;
    let test = bring(client, "test.csv", rows(20).as_bytes()).await;
    house.publish_table("flowers").await;
    let job = asked(client, &of_rows(&train, &json!({"max_drop": 0.1, "data": test}))).await;
    let id: JobId = job["id"].as_str().unwrap().parse().unwrap();
    let why = "robust_accuracy pgd is 0.3000 below that of flowers@1, and 0.1 is allowed";
    end_held(&house, &id, why).await;

    let path = format!("{JOBS}/{id}");
    let job = client.get(&path).await.json();
    assert_eq!((&job["status"], &job["fine_tuned_model"]), (&json!("succeeded"), &json!("flowers@2")));
    let gate = &job["lyceum"]["gate"];
    assert_eq!(
        (&gate["held"], &gate["why"], &gate["compared_to"]),
        (&json!(true), &json!(why), &json!("flowers@1"))
    );
    let events = client.get(&format!("{path}/events")).await.json();
    let judged = &events["data"][1];
    assert_eq!((&judged["level"], &judged["data"]), (&json!("warn"), gate), "{events}");
    assert_eq!(
        judged["message"],
        json!(format!("Its gate holds flowers@2: {why}; flowers goes on serving flowers@1"))
    );
    let after = judged["id"].as_str().unwrap();
    let older = client.get(&format!("{path}/events?after={after}")).await.json();
    assert_eq!(older["data"].as_array().unwrap().len(), events["data"].as_array().unwrap().len() - 2);
    let rest = client.get(&format!("{path}/events?stream=true&after={after}")).await.events();
    assert!(rest.len() == 2 && rest[0].contains("successfully completed"), "{rest:?}");

    let root = async |name: &str| client.get(&format!("/v1/models/{name}")).await.json()["root"].clone();
    assert_eq!(root("flowers").await, "flowers@1");
    let lineage = client.get("/v1/models/flowers@2/lineage").await.json();
    assert_eq!((&lineage["held"], &lineage["job"]), (&json!(why), &json!(id.as_str())), "{lineage}");
    let set = async |body: Value| client.post("/v1/models/flowers@2/aliases", &body).await;
    for body in [json!({"alias": "prod"}), json!({"alias": "prod", "protected": true})] {
        let refused = set(body).await;
        assert!(refused.text().contains(why), "{}", refused.text());
        assert_eq!(refused.refused(409).1, "held");
    }
    let promoted = client.post("/v1/models/flowers@2/promote", &json!({"note": "taken"})).await.json();
    assert_eq!((&promoted["was_held"], &promoted["served"]), (&json!(why), &json!("flowers@2")));
    assert_eq!(set(json!({"alias": "prod"})).await.status, 200);
    assert_eq!((root("flowers").await, root("flowers@prod").await), (json!("flowers@2"), json!("flowers@2")));
    // What was said when it was trained stays said.
    assert_eq!(client.get(&path).await.json()["lyceum"]["gate"]["held"], true);
}

/// Ends a job as its process does: the version of `flowers@1` once more, held.
async fn end_held(house: &House, id: &JobId, why: &str) {
    let (store, project) = (house.service.store(), Project::default_project());
    let claim = jobs::claim_waiting(store, &project, id, "test", Timestamp::now()).await.unwrap();
    let first = house.dir.path().join("models/flowers/1");
    let staging = Staging::create(store.layout()).unwrap();
    std::fs::copy(first.join("model.safetensors"), staging.path().join("model.safetensors")).unwrap();
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(first.join("manifest.json")).unwrap()).unwrap();
    let new = NewVersion {
        name: "flowers".parse().unwrap(),
        family: "mlp".into(),
        task: "classification".into(),
        n_params: 1,
        bytes: 1,
        sha256: manifest["weights_sha256"].as_str().unwrap().to_owned(),
        job: Some(id.clone()),
        held: Some(why.to_owned()),
    };
    let write = |number: u32| {
        manifest["version"] = json!(number);
        serde_json::to_vec(&manifest).unwrap()
    };
    let gate = json!({"held": true, "why": why, "compared_to": "flowers@1", "max_drop": 0.1,
        "differences": [{"metric": "robust_accuracy pgd", "difference": -0.3}], "missing": []});
    let outcome = |version: &lyceum_store::models::Version| {
        json!({"event": "done", "model": version.id(), "gate": gate}).to_string()
    };
    jobs::finish_done(store, &claim, new, staging, write, outcome, Timestamp::now()).await.unwrap();
}

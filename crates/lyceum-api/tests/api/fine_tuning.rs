//! Trainings over HTTP: what is asked is judged whole and waits. That one is made, killed and goes on is the binary's
//! test, which has a worker.

use crate::client::{Answer, Client};
use crate::files::bring;
use crate::house::House;
use crate::language::house;
use crate::ledger::{RATES, bookkeeper, priced, rows};
use lyceum_store::jobs::{self, Progress};
use lyceum_store::ledger::budgets::{self, Period, Place};
use lyceum_store::ledger::{Counts, Outcome};
use lyceum_store::tenancy::Act;
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use serde_json::{Value, json};

const JOBS: &str = "/v1/fine_tuning/jobs";

/// Conversations of one question each.
fn chats(n: usize) -> Vec<u8> {
    let line = |i: usize| {
        json!({"messages": [{"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": "th"}]})
            .to_string()
    };
    (0..n).map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

async fn asked(client: &Client, body: &Value) -> Value {
    let answer = client.post(JOBS, body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

async fn with_file() -> (House, String) {
    let house = house().await;
    let file = bring(&house.client, "chats.jsonl", &chats(120)).await;
    (house, file)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_to_the_program_is_told_before_it_begins() {
    let (house, file) = with_file().await;
    let client = &house.client;
    let valid = bring(client, "valid.jsonl", &chats(3)).await;
    let job = asked(
        client,
        &json!({"model": "tiny", "training_file": file, "validation_file": valid, "seed": 7,
        "suffix": "bot", "metadata": {"team": "a"}}),
    )
    .await;
    assert_eq!(job["object"], "fine_tuning.job");
    assert_eq!((&job["status"], &job["seed"], &job["model"]), (&json!("queued"), &json!(7), &json!("tiny")));
    let usual = json!({"n_epochs": 3, "batch_size": 2, "learning_rate_multiplier": 1.0});
    assert_eq!(job["hyperparameters"], usual);
    assert_eq!(job["method"]["type"], "supervised");
    assert_eq!(job["method"]["supervised"]["hyperparameters"], usual);
    assert_eq!(job["method"]["supervised"]["lora"]["rank"], 8);
    assert_eq!((&job["training_file"], &job["validation_file"]), (&json!(file), &json!(valid)));
    for null in ["fine_tuned_model", "finished_at", "trained_tokens", "error", "estimated_finish"] {
        assert!(job[null].is_null(), "{null}");
    }
    assert_eq!((&job["lyceum"]["examples"], &job["lyceum"]["total_steps"]), (&json!(120), &json!(180)));
    // What a request would read of each, the answer's words, the token that ends a turn and the
    // template's line break behind it; three times.
    let count = async |body: Value| client.post("/tokenize", &body).await.json()["count"].as_u64().unwrap();
    let answer = count(json!({"model": "tiny", "prompt": "th", "add_special_tokens": false})).await;
    let mut all = 0;
    for i in 0..120 {
        let messages = json!([{"role": "user", "content": format!("say {i}")}]);
        all += 3 * (count(json!({"model": "tiny", "messages": messages})).await + answer + 2);
    }
    assert_eq!(job["lyceum"]["estimated_tokens"], json!(all));
    let row = jobs::find(house.service.store(), &Project::default_project(), &id_of(&job)).await.unwrap();
    let digits = &job["id"].as_str().unwrap()[24..];
    assert_eq!(row.model, format!("ft:tiny:default:bot:{digits}"));
    // The old place of hyperparameters, a multiplier, and preferences.
    let old = json!({"model": "tiny", "training_file": file,
        "hyperparameters": {"n_epochs": 1, "batch_size": "auto", "learning_rate_multiplier": 0.5}});
    let old = asked(client, &old).await;
    assert_eq!(
        old["hyperparameters"],
        json!({"n_epochs": 1, "batch_size": 2, "learning_rate_multiplier": 0.5})
    );
    let pair = json!({"input": {"messages": [{"role": "user", "content": "a"}]},
        "preferred_output": [{"role": "assistant", "content": "b"}],
        "non_preferred_output": [{"role": "assistant", "content": "c"}]});
    let pairs = bring(client, "pairs.jsonl", pair.to_string().as_bytes()).await;
    let dpo = json!({"model": "tiny", "training_file": pairs,
        "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}, "lora": {"rank": 2}}}});
    let dpo = asked(client, &dpo).await;
    assert_eq!(
        (&dpo["hyperparameters"]["beta"], &dpo["hyperparameters"]["n_epochs"]),
        (&json!(0.3), &json!(1))
    );
    assert_eq!(dpo["method"]["dpo"]["lora"]["alpha"], 4.0);
    assert!(dpo["seed"].is_u64(), "one is drawn");
}

fn id_of(job: &Value) -> JobId {
    job["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_spec_trains_any_family() {
    let house = House::new().await;
    let client = &house.client;
    let file = bring(client, "rows.csv", b"a,label\n1,x\n2,y\n3,x\n4,y\n").await;
    let spec = json!({"name": "side", "task": "classification", "data": {"target": "label"},
        "model": {"hidden": [4]}, "train": {"epochs": 2}});
    let body = |spec: &Value| {
        json!({"model": "mlp", "training_file": file, "seed": 3,
        "method": {"type": "train", "train": {"spec": spec}}})
    };
    let job = asked(client, &body(&spec)).await;
    assert_eq!((&job["method"]["type"], &job["lyceum"]["examples"]), (&json!("train"), &json!(4)));
    assert_eq!(job["hyperparameters"]["n_epochs"], 2);
    let own = &job["lyceum"];
    assert_eq!((&own["estimated_rows"], &own["total_steps"]), (&json!(8), &json!(8)));
    assert_eq!((&own["max_cost_usd"], &own["cost_usd"]), (&json!(0.0), &json!(null)), "there is no price");
    for (key, value, status, param) in [
        ("task", json!("sorting"), 400, "task"),
        ("data", json!({"target": "nothing"}), 400, ""),
        ("data", json!({"target": "label", "train": "../lyceum.db"}), 400, "data.train"),
        ("data", json!({"target": "label", "test": "/etc/passwd"}), 400, "data.test"),
        ("data", json!({"target": "label", "tokenizer": "x.json"}), 501, "data.tokenizer"),
        ("model", json!({"family": "cnn"}), 400, "model.family"),
    ] {
        let mut wrong = spec.clone();
        wrong[key] = value;
        let told = client.post(JOBS, &body(&wrong)).await.refused(status).0;
        let expected =
            if param.is_empty() { "training_file".into() } else { format!("method.train.spec.{param}") };
        assert_eq!(told, expected, "{wrong}");
    }
    let supervised = json!({"model": "mlp", "training_file": file});
    assert_eq!(client.post(JOBS, &supervised).await.refused(404).0, "model");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trained_is_refused_at_its_field() {
    let (house, file) = with_file().await;
    let client = &house.client;
    let with = |change: Value| {
        let mut body = json!({"model": "tiny", "training_file": file});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let supervised = |own: Value| json!({"method": {"type": "supervised", "supervised": own}});
    let hyper = |own: Value| supervised(json!({"hyperparameters": own}));
    let at = |key: &str| format!("method.supervised.{key}");
    for (change, status, param) in [
        (json!({"model": "nobody"}), 404, "model".to_owned()),
        (json!({"training_file": "file_00000000000000000000000000000000"}), 400, "training_file".into()),
        (json!({"validation_file": "x"}), 400, "validation_file".into()),
        (json!({"integrations": [{"type": "wandb"}]}), 400, "integrations".into()),
        (json!({"suffix": "a b"}), 400, "suffix".into()),
        (json!({"suffix": "s".repeat(65)}), 400, "suffix".into()),
        (json!({"metadata": {"k": "v".repeat(600)}}), 400, "metadata".into()),
        (json!({"seed": -1}), 400, "seed".into()),
        (json!({"epochs": 3}), 400, "epochs".into()),
        (json!({"method": {"type": "reinforcement"}}), 501, "method.type".into()),
        (json!({"method": {"type": "other"}}), 400, "method.type".into()),
        (json!({"method": {"type": "dpo", "supervised": {}}}), 400, "method.supervised".into()),
        (json!({"method": {"type": "dpo"}, "hyperparameters": {}}), 400, "hyperparameters".into()),
        (hyper(json!({"n_epochs": 0})), 400, at("hyperparameters.n_epochs")),
        (hyper(json!({"n_epochs": 1.5})), 400, at("hyperparameters.n_epochs")),
        (hyper(json!({"batch_size": "large"})), 400, at("hyperparameters.batch_size")),
        (hyper(json!({"beta": 0.1})), 400, at("hyperparameters.beta")),
        (supervised(json!({"lora": {"rank": 0}})), 400, at("lora.rank")),
        (supervised(json!({"lora": {"target": ["q"]}})), 400, at("lora.target")),
        (supervised(json!({"lora": false})), 400, at("lora")),
        (supervised(json!({"rank": 3})), 400, at("rank")),
    ] {
        let answer = client.post(JOBS, &with(change.clone())).await;
        assert_eq!(answer.refused(status).0, param, "{change}");
    }
    // Chats are no preferences.
    let answer = client.post(JOBS, &with(json!({"method": {"type": "dpo"}}))).await;
    assert_eq!(answer.refused(400), ("training_file".into(), "invalid_file".into()));
    assert_eq!(answer.json()["error"]["problems"]["counts"], json!({"wrong_format": 1}));
    assert_eq!(client.get(JOBS).await.json(), json!({"object": "list", "data": [], "has_more": false}));
}

/// An archive of one picture in each of two classes, and one that is cut short where `cut` says.
fn pictures(cut: Option<usize>) -> Vec<u8> {
    use base64::Engine as _;
    let png = base64::engine::general_purpose::STANDARD.decode(crate::contracts::PNG).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, n) in [("dark/a.png", None), ("light/b.png", cut)] {
        let bytes = &png[..n.unwrap_or(png.len())];
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_and_tables_are_judged_when_they_arrive_and_read_by_a_job() {
    let house = House::new().await;
    let client = &house.client;
    let brought =
        async |name: &str, bytes: &[u8]| crate::batches::bring(client, "fine-tune", name, bytes).await;
    let file = brought("pictures.tar", &pictures(None)).await;
    assert_eq!(file.status, 200, "{}", file.text());
    let spec = json!({"name": "side", "task": "classification", "model": {"conv": [{"channels": 4, "kernel": 1}]}, "train": {"epochs": 1},
        "data": {"input": {"type": "image", "shape": [1, 2, 2]}}});
    let body = json!({"model": "cnn", "training_file": file.json()["id"], "method": {"type": "train", "train": {"spec": spec}}});
    let job = asked(client, &body).await;
    assert_eq!(job["lyceum"]["examples"], 2);
    let refused = brought("pictures.tar", &pictures(Some(40))).await;
    assert_eq!(refused.refused(400), ("file".into(), "invalid_file".into()));
    let problem = &refused.json()["error"]["problems"]["errors"][0];
    assert_eq!(
        (&problem["file"], &problem["code"]),
        (&json!("pictures.tar/light/b.png"), &json!("broken_image"))
    );
    for (name, text, line, column, code) in [
        ("rows.csv", &b"a,label\n1,x\n2\n"[..], json!(3), json!(null), "ragged_row"),
        ("rows.csv", b"a,label\n\xE4,x\n", json!(2), json!("a"), "not_utf8"),
        ("rows.parquet", b"PAR1", json!(null), json!(null), "broken_parquet"),
        ("rows.bin", b"1", json!(null), json!(null), "unknown_format"),
    ] {
        let refused = brought(name, text).await;
        refused.refused(400);
        let problem = &refused.json()["error"]["problems"]["errors"][0];
        assert_eq!((&problem["line"], &problem["column"], &problem["code"]), (&line, &column, &json!(code)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_that_is_wrong_is_told_with_its_place() {
    let house = house().await;
    let client = &house.client;
    let ask = async |name: &str, text: &[u8]| -> Answer {
        let file = bring(client, name, text).await;
        client.post(JOBS, &json!({"model": "tiny", "training_file": file})).await
    };
    let mut text = b"\xEF\xBB\xBF{\"messages\": [{\"role\": \"robot\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n\n".to_vec();
    text.extend(b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n{\"messages\": [\n{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    let answer = ask("wrong.jsonl", &text).await;
    assert_eq!(answer.refused(400).1, "invalid_file");
    let details = answer.json()["error"]["problems"].clone();
    for code in [
        "byte_order_mark",
        "wrong_role",
        "blank_line",
        "no_assistant_message",
        "invalid_json",
        "mixed_formats",
    ] {
        assert_eq!(details["counts"][code], 1, "{code}: {details}");
    }
    let role =
        details["errors"].as_array().unwrap().iter().find(|error| error["code"] == "wrong_role").unwrap();
    assert_eq!((&role["line"], &role["pointer"]), (&json!(1), &json!("/messages/0/role")));
    assert!(role["hint"].as_str().is_some_and(|hint| !hint.is_empty()));
    let many = "{}\n".repeat(10_000);
    let answer = ask("many.jsonl", many.as_bytes()).await;
    let details = answer.json()["error"]["problems"].clone();
    assert_eq!(details["errors"].as_array().unwrap().len(), 100);
    assert_eq!(details["counts"], json!({"unknown_format": 10_000}));
    // The words of the model are known too.
    let long = format!("{{\"prompt\": \"{}\", \"completion\": \"b\"}}", "a".repeat(4000));
    assert_eq!(
        ask("long.jsonl", long.as_bytes()).await.json()["error"]["problems"]["counts"],
        json!({"too_long": 1})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_paused_resumed_cancelled_and_watched() {
    let (house, file) = with_file().await;
    let client = &house.client;
    let mut ids = Vec::new();
    for team in ["a", "b", "a"] {
        let body = json!({"model": "tiny", "training_file": file, "metadata": {"team": team}});
        ids.push(asked(client, &body).await["id"].as_str().unwrap().to_owned());
    }
    let listed = async |query: &str| {
        let list = client.get(&format!("{JOBS}{query}")).await.json();
        let ids: Vec<String> =
            list["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().into()).collect();
        (ids, list["has_more"].as_bool().unwrap())
    };
    assert_eq!(listed("?limit=2").await, (vec![ids[2].clone(), ids[1].clone()], true));
    assert_eq!(listed(&format!("?after={}", ids[1])).await, (vec![ids[0].clone()], false));
    assert_eq!(listed("?metadata[team]=a&limit=1").await, (vec![ids[2].clone()], true));
    assert_eq!(listed("?metadata%5Bteam%5D=c").await, (vec![], false));
    let plain = asked(client, &json!({"model": "tiny", "training_file": file})).await;
    let plain = plain["id"].as_str().unwrap().to_owned();
    assert_eq!(listed("?metadata=null").await, (vec![plain.clone()], false));
    client.post(&format!("{JOBS}/{plain}/cancel"), &json!({})).await;
    for (query, param) in [
        ("limit=0", "limit"),
        ("order=asc", "order"),
        ("after=x", "after"),
        ("metadata=x", "metadata"),
        ("metadata=null&metadata[team]=a", "metadata"),
    ] {
        assert_eq!(client.get(&format!("{JOBS}?{query}")).await.refused(400).0, param);
    }
    let post = async |id: &str, verb: &str| client.post(&format!("{JOBS}/{id}/{verb}"), &json!({})).await;
    let id = &ids[0];
    assert_eq!(post(id, "resume").await.refused(409).1, "wrong_state");
    assert_eq!(post(id, "pause").await.json()["status"], "paused");
    assert_eq!(post(id, "resume").await.json()["status"], "queued");
    // Somebody works on it.
    let (store, project) = (house.service.store(), Project::default_project());
    let job: JobId = id.parse().unwrap();
    let claim = jobs::claim_waiting(store, &project, &job, "test", Timestamp::now()).await.unwrap();
    let log = store.layout().job_dir(&job).join("log.jsonl");
    let lines = [
        json!({"event": "data", "train": 120, "valid": 0, "warnings": [], "time": 1000}),
        json!({"event": "progress", "step": 1, "epoch": 0, "loss": 2.5, "token_accuracy": 0.25, "lr": 1e-4,
            "eta_s": 100.0, "time": 2000}),
        json!({"event": "checkpoint", "step": 1, "path": "/secret/place", "time": 2001}),
    ];
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&log, format!("{text}{{\"event\": \"half")).unwrap();
    let progress = Progress { step: 1, steps: 180, message: String::new() };
    jobs::report(store, &claim, &progress, Timestamp::now()).await.unwrap();
    let running = client.get(&format!("{JOBS}/{id}")).await.json();
    assert_eq!((&running["status"], &running["estimated_finish"]), (&json!("running"), &json!(102)));
    let paused = post(id, "pause").await.json();
    assert_eq!((&paused["status"], &paused["lyceum"]["pause_requested"]), (&json!("running"), &json!(true)));
    let events = client.get(&format!("{JOBS}/{id}/events")).await;
    assert!(!events.text().contains("secret"), "paths are the server's matter");
    let events = events.json();
    let messages = |list: &Value| -> Vec<String> {
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["message"].as_str().unwrap().into())
            .collect()
    };
    let told = messages(&events);
    assert_eq!(told[..2], ["Checkpoint kept at step 1", "Step 1/180: training loss=2.5000"]);
    assert_eq!((told.len(), &told[4]), (5, &format!("Created fine-tuning job: {id}")));
    let metrics = &events["data"][1];
    assert_eq!((&metrics["type"], &metrics["data"]["train_loss"]), (&json!("metrics"), &json!(2.5)));
    assert_eq!(metrics["data"]["train_mean_token_accuracy"], 0.25, "OpenAI's name");
    assert_eq!((&metrics["created_at"], &metrics["object"]), (&json!(2), &json!("fine_tuning.job.event")));
    let page =
        client.get(&format!("{JOBS}/{id}/events?limit=2&after={}", metrics["id"].as_str().unwrap())).await;
    assert_eq!((messages(&page.json()), page.json()["has_more"].clone()), (told[2..4].to_vec(), json!(true)));
    jobs::finish_paused(store, &claim, "paused", Timestamp::now()).await.unwrap();
    drop(claim);
    assert_eq!(client.get(&format!("{JOBS}/{id}")).await.json()["status"], "paused");
    // As a stream: oldest first, to the end.
    let stream = client.get(&format!("{JOBS}/{id}/events?stream=true")).await.events();
    let stream: Vec<&str> = stream.iter().map(String::as_str).collect();
    assert_eq!((stream.len(), stream[6]), (7, "[DONE]"));
    assert!(stream[0].contains("Created") && stream[5].contains("paused"), "{stream:?}");
    assert_eq!(post(id, "cancel").await.json()["status"], "cancelled");
    assert_eq!(post(id, "cancel").await.refused(409).1, "wrong_state");
    let none = json!({"object": "list", "data": [], "first_id": null, "last_id": null, "has_more": false});
    assert_eq!(client.get(&format!("{JOBS}/{id}/checkpoints")).await.json(), none);
    // Other jobs are none of these.
    for other in ["job_00000000000000000000000000000000", "x"] {
        for path in ["", "/events", "/events?stream=true", "/checkpoints"] {
            assert_eq!(client.get(&format!("{JOBS}/{other}{path}")).await.refused(404).1, "not_found");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_stays_while_a_job_reads_it_and_a_job_that_failed_names_no_place() {
    let (house, file) = with_file().await;
    let client = &house.client;
    let id = asked(client, &json!({"model": "tiny", "training_file": file})).await["id"].clone();
    let id = id.as_str().unwrap();
    let remove = async || client.send("DELETE", &format!("/v1/files/{file}"), &[], "").await;
    let refused = remove().await;
    assert_eq!(refused.refused(409).1, "file_in_use");
    assert!(refused.text().contains(id), "{}", refused.text());
    let (store, project) = (house.service.store(), Project::default_project());
    let job: JobId = id.parse().unwrap();
    let claim = jobs::claim_waiting(store, &project, &job, "test", Timestamp::now()).await.unwrap();
    let place = store.layout().root().join("files").join(&file).join("chats.jsonl");
    let message = format!("{}: cannot be read", place.display());
    jobs::finish_failed(store, &claim, &message, Timestamp::now()).await.unwrap();
    drop(claim);
    let root = store.layout().root().display().to_string();
    for path in [format!("{JOBS}/{id}"), JOBS.to_owned(), format!("{JOBS}/{id}/events")] {
        let told = client.get(&path).await;
        assert!(told.text().contains("chats.jsonl: cannot be read"), "{}", told.text());
        assert!(!told.text().contains(&root), "{}", told.text());
    }
    assert_eq!(remove().await.status, 200, "nothing reads it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_keeps_nothing_trains_nothing() {
    let (house, file) = with_file().await;
    let (_, admin) = house.admin("default", &[lyceum_types::ids::KeyScope::OrganizationWrite], None).await;
    let zero = json!({"retention_type": "zero_data_retention"});
    let set = admin.post("/v1/organization/projects/default/data_retention", &zero).await;
    assert_eq!(set.status, 200, "{}", set.text());
    let answer = house.client.post(JOBS, &json!({"model": "tiny", "training_file": file})).await;
    assert_eq!(answer.refused(400), ("training_file".into(), "zero_data_retention".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_covers_a_job_or_refuses_it_and_the_books_show_what_was_trained() {
    let (house, file) = with_file().await;
    let (client, store) = (&house.client, house.service.store());
    priced(&house).await;
    let limit = async |limit: i64| {
        let place = Place { tenant: "default".into(), project: "default".into(), api_key: String::new() };
        budgets::set(store, &place, Period::Month, limit, &Act::of_command_line(Timestamp::now()))
            .await
            .unwrap();
        house.service.ledger().refresh().await.unwrap();
    };
    let stands = async || {
        let window = budgets::windows(store, Timestamp::now()).await.unwrap().remove(0);
        (window.spent, window.reserved)
    };
    let body = json!({"model": "tiny", "training_file": file, "seed": 1});
    limit(1).await;
    let refused = client.post(JOBS, &body).await;
    assert_eq!(refused.refused(429).1, "insufficient_quota");
    assert_eq!(client.get(JOBS).await.json()["data"], json!([]), "there is no job without its money");
    limit(100_000_000).await;
    let free = asked(client, &body).await;
    let most = free["lyceum"]["estimated_tokens"].as_u64().unwrap();
    let worst = RATES.cost(&Counts { training_tokens: most, ..Counts::default() });
    assert_eq!(free["lyceum"]["max_cost_usd"], json!(worst as f64 / 1e6));
    assert_eq!(stands().await, (0, worst));
    client.post(&format!("{JOBS}/{}/cancel", free["id"].as_str().unwrap()), &json!({})).await;
    assert_eq!(stands().await, (0, 0));

    // A server holds an eighth of what is left for requests; a job gets it all the same.
    limit(worst + 100).await;
    let chat = json!({"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1});
    assert_eq!(client.post("/v1/chat/completions", &chat).await.status, 200);
    let chatted: i64 = rows(&house).await.values().map(|row| row.cost).sum();
    assert!(chatted > 0 && chatted < 100 && stands().await.1 > 100);
    let job = asked(client, &body).await;
    assert_eq!(stands().await, (chatted, worst));
    assert_eq!(client.post(JOBS, &body).await.refused(429).1, "insufficient_quota");

    // Somebody works on it, and it is cancelled.
    let id = id_of(&job);
    let claim =
        jobs::claim_waiting(store, &Project::default_project(), &id, "test", Timestamp::now()).await.unwrap();
    claim.count(Counts { training_tokens: 777, ..Counts::default() });
    let running = client.get(&format!("{JOBS}/{id}")).await.json();
    assert!(running["trained_tokens"].is_null() && running["lyceum"]["cost_usd"].is_null(), "{running}");
    jobs::finish_cancelled(store, &claim, "cancelled", Timestamp::now()).await.unwrap();
    let ended = client.get(&format!("{JOBS}/{id}")).await.json();
    assert_eq!((&ended["trained_tokens"], &ended["lyceum"]["cost_usd"]), (&json!(777), &json!(0.003108)));
    let all = rows(&house).await;
    let row = &all[id.as_str()];
    assert_eq!((row.outcome, row.counts.training_tokens, row.cost), (Outcome::Cancelled, 777, 3108));
    assert_eq!((&*row.request.route, &*row.request.model, row.request.model_version), (JOBS, "tiny", 1));
    assert_eq!((all.len(), stands().await), (2, (chatted + 3108, 0)));

    let books = bookkeeper(&house).await;
    let results = async |path: &str| -> Vec<Value> {
        let start = Timestamp::now().seconds() - 60;
        let page = books.get(&format!("/v1/organization/{path}start_time={start}")).await.json();
        let buckets = page["data"].as_array().unwrap().iter();
        buckets.flat_map(|bucket| bucket["results"].as_array().unwrap().clone()).collect()
    };
    let trainings = results("usage/trainings?group_by=model&").await;
    assert_eq!(trainings.len(), 1, "{trainings:?}");
    assert_eq!((&trainings[0]["trained_tokens"], &trainings[0]["num_jobs"]), (&json!(777), &json!(1)));
    let costs = results("costs?group_by=line_item&").await;
    let item = costs.iter().find(|item| item["line_item"] == "tiny, training").unwrap();
    assert_eq!((&item["quantity"], &item["amount"]["value"]), (&json!(777), &json!(0.003108)));
    assert_eq!(item["quantity_unit"], "tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_job_is_quoted_before_it_begins_and_what_breaks_its_promise_is_refused_at_its_field() {
    let (house, file) = with_file().await;
    let client = &house.client;
    let privacy = json!({"type": "dp_sgd", "sigma": 1.0, "target_delta": 1e-3, "max_grad_norm": 1.0, "public": ["rows"]});
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = json!({"model": "tiny", "training_file": file, "privacy": privacy, "seed": 1,
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 6}}}});
        change(&mut body);
        body
    };
    let job = asked(client, &with(&|_| {})).await;
    let quote = &job["lyceum"]["privacy"];
    assert_eq!(
        (&quote["q"], &quote["sigma"], &quote["steps"]),
        (&json!(0.05), &json!(1.0), &json!(40)),
        "{job}"
    );
    let cost = json!({"q": 0.05, "sigma": 1.0, "steps": 40, "delta": 1e-3, "accountant": "pld"});
    assert_eq!(quote["epsilon"], client.post("/v1/privacy/epsilon", &cost).await.json()["epsilon"]);
    let told = client.get(&format!("{JOBS}/{}/privacy", job["id"].as_str().unwrap())).await.json();
    assert_eq!(
        (&told["quote"], &told["ledger"], &told["guarantee"]),
        (quote, &json!([]), &Value::Null),
        "{told}"
    );
    let plain = asked(client, &with(&|body| drop(body.as_object_mut().unwrap().remove("privacy")))).await;
    assert!(plain["lyceum"]["privacy"].is_null());
    let told = client.get(&format!("{JOBS}/{}/privacy", plain["id"].as_str().unwrap())).await.json();
    assert!(told["statement"].as_str().unwrap().contains("without differential privacy"), "{told}");
    assert_eq!(client.get(&format!("{JOBS}/job_nothing/privacy")).await.refused(404).1, "not_found");

    let refused = async |status: u16, change: &dyn Fn(&mut Value)| {
        client.post(JOBS, &with(change)).await.refused(status)
    };
    assert_eq!(
        refused(400, &|body| body["privacy"]["target_delta"] = json!(2)).await.0,
        "privacy.target_delta"
    );
    assert_eq!(refused(400, &|body| body["privacy"]["target_delta"] = json!(0.1)).await.0, "privacy");
    assert_eq!(refused(400, &|body| body["privacy"]["public"] = json!([])).await.0, "privacy.sampling_rate");
    assert_eq!(refused(501, &|body| body["privacy"]["budget"] = json!("bud_1")).await.0, "privacy.budget");
    assert_eq!(refused(400, &|body| body["privacy"]["surprise"] = json!(1)).await.0, "privacy.surprise");
    assert_eq!(refused(400, &|body| body["validation_file"] = json!(file)).await.0, "validation_file");
    let lora = refused(400, &|body| body["method"]["supervised"]["lora"] = json!({"dropout": 0.1})).await;
    assert_eq!(lora.0, "method.supervised.lora.dropout");
    let whole = refused(400, &|body| body["method"]["supervised"]["lora"] = json!(false)).await;
    assert_eq!(whole.0, "method.supervised.lora");

    // What waits to begin counts in a budget, and no longer when it is cancelled.
    let sha256 = quote["data_sha256"].as_str().unwrap();
    let of_one =
        json!({"data_sha256": sha256, "epsilon": quote["epsilon"].as_f64().unwrap() * 1.2, "delta": 1e-3});
    assert_eq!(client.post("/v1/privacy/budgets", &of_one).await.status, 200);
    assert_eq!(refused(409, &|_| {}).await.1, "privacy_budget_exceeded");
    let first = format!("{JOBS}/{}/cancel", job["id"].as_str().unwrap());
    assert_eq!(client.post(&first, &json!({})).await.status, 200);
    asked(client, &with(&|_| {})).await;

    // A budget that does not reach: no job.
    let budget = json!({"data_sha256": sha256, "epsilon": 0.1, "delta": 1e-3});
    assert_eq!(client.post("/v1/privacy/budgets", &budget).await.status, 200);
    assert_eq!(refused(409, &|_| {}).await.1, "privacy_budget_exceeded");
    let saw = client.post("/v1/privacy/saw", &json!({"file": file, "row": 3})).await.json();
    assert_eq!((&saw["object"], &saw["rows"][0]["models"]), (&json!("privacy.saw"), &json!([])), "{saw}");
    assert_eq!(client.post("/v1/privacy/saw", &json!({"file": file})).await.refused(400).0, "row");
    assert_eq!(
        client.post("/v1/privacy/saw", &json!({"file": "file_x", "row": 1})).await.refused(400).0,
        "file"
    );
}

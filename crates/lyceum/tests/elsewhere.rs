//! A machine with an empty disk, the same database and the same bucket: what was measured of models, runs that have ended and
//! cards are there, and a fine-tuning whose machine is gone goes on from its last checkpoint in the bucket, to the bytes of
//! one that never stopped.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

#[path = "../../lyceum-store/src/blobs/tests/server.rs"]
#[allow(dead_code, reason = "the store's own tests spoil its objects")]
mod bucket;
mod program;
#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

use lyceum_store::{Layout, Store, jobs};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{JobId, Project};
use lyceum_types::limits;
use program::server::{SERVE, Server, send};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const JOBS: &str = "/v1/fine_tuning/jobs";
const STEPS: usize = 1200;

/// A machine: a folder, and where the bucket is.
struct Machine {
    folder: tempfile::TempDir,
    endpoint: String,
}

impl Machine {
    fn new(endpoint: &str) -> Self {
        Machine { folder: tempfile::tempdir().unwrap(), endpoint: endpoint.to_owned() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program::command(self.folder.path(), arguments);
        command.env("LYCEUM_BLOBS", "s3://models/lyceum").env("AWS_ENDPOINT_URL_S3", &self.endpoint);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).arg("--json").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        said.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap_or(Value::Null))
    }

    fn serve(&self, key: Option<&str>) -> Server {
        Server::start(self.command(&SERVE), key.map(str::to_owned))
    }

    /// A training of `spec.toml` that has gone beyond a step, and its job.
    #[expect(clippy::zombie_processes, reason = "who gets it waits for it")]
    fn train_beyond(&self, model: &str, step: u64) -> (Child, String) {
        let mut command = self.command(&["train", "spec.toml", "--json"]);
        let training = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        loop {
            let jobs = self.run(&["jobs", "ls"]);
            let job = jobs["jobs"].as_array().unwrap().iter().find(|job| job["model"] == model).cloned();
            if let Some(job) = job.filter(|job| job["step"].as_u64() > Some(step)) {
                return (training, job["id"].as_str().unwrap().to_owned());
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{jobs}");
        }
    }

    /// The database of another machine, and nothing else of it.
    fn takes_database_of(&self, other: &Machine) {
        std::fs::create_dir_all(self.data()).unwrap();
        for name in ["lyceum.db", "lyceum.db-wal"] {
            if other.data().join(name).exists() {
                std::fs::copy(other.data().join(name), self.data().join(name)).unwrap();
            }
        }
    }
}

/// Ends a server with whatever it started, as when the machine loses its power.
fn cut_power(server: Server) {
    let children = server.children();
    server.end("-9");
    // One of them may have ended.
    children.into_iter().for_each(|child| {
        send("-9", child);
    });
}

fn chats() -> String {
    let line = |i: usize| {
        json!({"messages": [{"role": "user", "content": format!("say {i}")}, {"role": "assistant", "content": "th th"}]})
            .to_string()
    };
    (0..40).map(line).collect::<Vec<_>>().join("\n")
}

fn weights(machine: &Machine, model: &Value) -> Vec<u8> {
    let name = model.as_str().unwrap().replace(':', "%3A");
    std::fs::read(machine.data().join("models").join(name).join("1/adapter_model.safetensors")).unwrap()
}

/// Lets time go by until the lease of a job is over whose machine is gone.
fn let_the_lease_end(data: &Path, id: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Layout::new(data), Timestamp::now()).await.unwrap();
        let (id, project): (JobId, _) = (id.parse().unwrap(), Project::default_project());
        let early = jobs::claim_waiting(&store, &project, &id, "test", Timestamp::now()).await;
        assert!(early.is_err(), "its machine may live");
        let later = Timestamp::now().plus(limits::JOB_LEASE);
        let claim = jobs::claim_waiting(&store, &project, &id, "test", later).await.unwrap();
        // Nobody wishes it to pause: it waits again.
        jobs::finish_paused(&store, &claim, "", later).await.unwrap();
        store.close().await;
    });
}

/// What `doctor` finds: each check with whether it is well and its words.
fn doctor(command: &mut Command) -> Vec<(String, bool, String)> {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told: Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks = told["checks"].as_array().unwrap().iter();
    checks.map(|check| (text(check, "name"), check["ok"] == true, text(check, "found"))).collect()
}

#[test]
fn an_object_that_is_gone_and_a_bucket_that_is_not_named_are_told_of() {
    let bucket = bucket::Server::start();
    let machine = Machine::new(&bucket.endpoint);
    std::fs::write(machine.folder.path().join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    machine.run(&["import", "tiny.gguf", "--name", "tiny"]);
    std::fs::remove_dir_all(machine.data().join("models")).unwrap();
    let wrong = |checks: Vec<(String, bool, String)>| -> Vec<(String, String)> {
        let of = ["models", "files", "object store"];
        let all = checks.into_iter().filter(|(name, is_well, _)| !is_well && of.contains(&name.as_str()));
        all.map(|(name, _, found)| (name, found)).collect()
    };
    assert_eq!(wrong(doctor(&mut machine.command(&["doctor", "--json"]))), []);
    // Not named: nothing is damaged, and what is missing is the name.
    let mut unnamed = program::command(machine.folder.path(), &["doctor", "--json"]);
    let found = wrong(doctor(&mut unnamed));
    let [(name, why)] = &found[..] else { panic!("{found:?}") };
    assert!(
        name == "object store" && why.contains("lie in an object store, and `blobs` names none"),
        "{why}"
    );

    let lost = {
        let mut state = bucket.state.lock().unwrap();
        let largest = state.objects.iter().filter(|(key, _)| key.contains("/sha256/"));
        let largest = largest.max_by_key(|(_, bytes)| bytes.len()).unwrap().0.clone();
        state.objects.remove(&largest);
        largest
    };
    let found = wrong(doctor(&mut machine.command(&["doctor", "--json"])));
    let [(name, why)] = &found[..] else { panic!("{found:?}") };
    let hash = lost.rsplit('/').next().unwrap();
    assert!(name == "object store" && why.contains(hash) && why.contains("models/tiny/1"), "{why}");
    let output = machine.command(&["blobs", "check", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_machine_with_an_empty_disk_goes_on_with_what_the_bucket_and_the_database_have() {
    let bucket = bucket::Server::start();
    let (first, second) = (Machine::new(&bucket.endpoint), Machine::new(&bucket.endpoint));
    std::fs::write(first.folder.path().join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    first.run(&["import", "tiny.gguf", "--name", "tiny"]);
    let server = first.serve(None);
    let file = server.client.bring("fine-tune", "chats.jsonl", &chats());
    let body = json!({"model": "tiny", "training_file": file, "seed": 5, "method": {"type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": STEPS / 20, "batch_size": 2}}}});
    let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
    let place = |id: &str| format!("{JOBS}/{id}");
    let is_done = |job: &Value| job["status"] == "succeeded";
    let whole = server.wait(&place(&id(&server.client.post(JOBS, &body))), is_done);
    let model = whole["fine_tuned_model"].as_str().unwrap().to_owned();
    let asked = json!({"model": model, "messages": [{"role": "user", "content": "say 3"}], "completion": "th th",
        "method": "tracin"});
    let why = server.client.post("/v1/explanations", &asked);
    let mut behind = asked.clone();
    behind["background"] = json!(true);
    let run = id(&server.client.post("/v1/explanations", &behind));
    let told = server.wait(&format!("/v1/explanations/{run}"), |run| run["status"] == "completed");
    first.run(&["card", &model, "--measure", "--format", "json"]);
    let cost = |card: &Value| card["sections"]["cost"]["numbers"].clone();
    let card = server.client.get(&format!("/v1/models/{model}/card"));
    assert!(cost(&card).as_array().is_some_and(|numbers| !numbers.is_empty()), "{card}");

    // The machine goes in the middle of a job.
    let job = id(&server.client.post(JOBS, &body));
    server.wait(&place(&job), |job| job["lyceum"]["step"].as_u64() > Some(200));
    let key = server.client.key.clone();
    cut_power(server);
    second.takes_database_of(&first);
    let original = weights(&first, &json!(model));
    drop(first);
    let_the_lease_end(&second.data(), &job);
    let server = second.serve(Some(&key));
    let ended = server.wait(&place(&job), is_done);
    assert_eq!(ended["lyceum"]["attempt"], 3, "{ended}");
    assert!(weights(&second, &ended["fine_tuned_model"]) == original, "bit for bit");
    let (_, events) =
        server.client.send("GET", &format!("{}/events?stream=true", place(&job)), "application/json", b"");
    assert!(events.contains("Goes on after step") && events.contains("successfully completed"), "{events}");
    // The log came with its checkpoint: no step is missing.
    let results = ended["result_files"][0].as_str().unwrap();
    let table = server.client.send("GET", &format!("/v1/files/{results}/content"), "", b"").1;
    assert_eq!(table.lines().count(), STEPS + 1);

    // What the first machine measured, explained and said is read here.
    let again = server.client.get(&format!("/v1/models/{model}/card"));
    assert_eq!((cost(&again), &again["sections"]["identity"]), (cost(&card), &card["sections"]["identity"]));
    assert_eq!(server.client.get(&format!("/v1/explanations/{run}")), told);
    // From checkpoints of a job that ended there, and its file.
    let rows = server.client.post("/v1/explanations", &asked);
    assert_eq!((&rows["rows"], &rows["checkpoints"]), (&why["rows"], &why["checkpoints"]));
}

#[test]
fn a_run_that_was_interrupted_is_told_on_every_machine_when_its_own_is_back() {
    let bucket = bucket::Server::start();
    let (first, second) = (Machine::new(&bucket.endpoint), Machine::new(&bucket.endpoint));
    let spec = "name = \"points\"\ntask = \"classification\"\n[data]\ntrain = \"rows.csv\"\nvalid_fraction = 0.25\n\
        target = \"label\"\n[model]\nfamily = \"mlp\"\nhidden = [64, 64]\n[train]\nepochs = 1\nbatch_size = 8\n";
    std::fs::write(first.folder.path().join("spec.toml"), spec).unwrap();
    std::fs::write(first.folder.path().join("rows.csv"), program::points(80, ["x", "y"], program::side))
        .unwrap();
    first.run(&["train", "spec.toml"]);
    let server = first.serve(None);
    let suite = json!([{"type": "smoothing", "sigma": 0.25, "n": 1_000_000}, {"type": "smoothing", "sigma": 0.5, "n": 1_000_000}]);
    let body = json!({"model": "points", "instances": [[0.1, 0.2]], "labels": ["above"], "suite": suite});
    let path = format!(
        "/v1/robustness/runs/{}",
        server.client.post("/v1/robustness/runs", &body)["id"].as_str().unwrap()
    );
    server.wait(&path, |run| run["status"] == "in_progress");
    let key = server.client.key.clone();
    cut_power(server);
    // Nobody asks for it there.
    let server = first.serve(Some(&key));
    let begun = Instant::now();
    let runs = first.data().join("runs");
    let is_locked = || {
        std::fs::read_dir(&runs)
            .unwrap()
            .any(|entry| entry.unwrap().path().extension().is_some_and(|e| e == "lock"))
    };
    while is_locked() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not settled");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.end("-INT");
    second.takes_database_of(&first);
    let server = second.serve(Some(&key));
    let found = server.client.get(&path);
    assert_eq!(
        (&found["status"], &found["error"]["code"]),
        (&json!("failed"), &json!("interrupted")),
        "{found}"
    );
    assert_eq!(server.client.get("/v1/robustness/runs")["data"][0], found);
}

#[test]
fn an_interrupted_training_whose_folder_is_lost_goes_on_from_the_bucket() {
    let bucket = bucket::Server::start();
    let machine = Machine::new(&bucket.endpoint);
    let folder = machine.folder.path();
    std::fs::write(folder.join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    std::fs::write(folder.join("chats.jsonl"), chats()).unwrap();
    let spec = |name: &str| {
        let spec = format!(
            "name = \"{name}\"\nseed = 5\n[data]\ntrain = \"chats.jsonl\"\n[model]\nfamily = \"tiny\"\n\
             lora = {{ rank = 4 }}\n[train]\nsteps = {STEPS}\nbatch_size = 2\n"
        );
        std::fs::write(folder.join("spec.toml"), spec).unwrap();
    };
    machine.run(&["import", "tiny.gguf", "--name", "tiny"]);
    spec("whole");
    machine.run(&["train", "spec.toml"]);
    spec("cut");
    // The bucket answers nobody while it is held.
    let (mut training, job) = machine.train_beyond("cut", 200);
    let held = bucket.state.lock().unwrap();
    assert!(send("-INT", training.id()));
    std::thread::sleep(Duration::from_millis(1500));
    assert!(training.try_wait().unwrap().is_none(), "it waits for the bucket");
    drop(held);
    assert_eq!(training.wait().unwrap().code(), Some(130));
    let folder_of_job = machine.data().join("jobs").join(&job);
    let kept = std::fs::read_dir(folder_of_job.join("checkpoints")).unwrap();
    let kept =
        kept.filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_prefix("step-")?.parse().ok());
    let newest: u64 = kept.max().unwrap();
    std::fs::remove_dir_all(folder_of_job).unwrap();
    let output = machine.command(&["jobs", "resume", &job]).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let resumed = { events }.find(|event| event["event"] == "resumed").unwrap();
    assert!(200 < newest && newest < STEPS as u64, "{resumed}");
    assert_eq!(resumed["step"], newest, "the newest one came to the bucket");
    assert!(weights(&machine, &json!("cut")) == weights(&machine, &json!("whole")), "bit for bit");

    // Who does not want to wait for it says so once more.
    spec("short");
    let (mut training, _) = machine.train_beyond("short", 200);
    let held = bucket.state.lock().unwrap();
    assert!(send("-INT", training.id()));
    let mut said = BufReader::new(training.stderr.take().unwrap()).lines();
    let told = said.find(|line| line.as_ref().unwrap().starts_with("bringing the newest checkpoint"));
    assert!(told.unwrap().unwrap().contains("for 60 s at most; Ctrl-C ends at once"));
    let begun = Instant::now();
    assert!(send("-INT", training.id()));
    assert_eq!(training.wait().unwrap().code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(held);
}

//! Jobs inside of an encrypted project: they end in the bytes and answers of the same jobs in a clear project, also after a
//! kill; what they read, write and say is in no byte of the data folder, of temporary files and logs while they run and
//! afterwards; and when the project is erased they stop and nothing opens.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod program;
#[path = "program/sealed.rs"]
mod sealed;
#[path = "../../lyceum-api/tests/api/tiny.rs"]
mod tiny;

use lyceum_store::{StoreError, data_files, jobs, models, vault};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{FileId, JobId, ModelRef};
use program::server::Server;
use sealed::{CANARY, found, has, pieces, project, run, serve, text_of, with_store};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const JOBS: &str = "/v1/fine_tuning/jobs";
const ADAPTER: &str = "adapter_model.safetensors";

/// A folder with the model `tiny`, whom everyone may ask.
fn with_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tmp")).unwrap();
    std::fs::write(folder.path().join("tiny.gguf"), tiny::tiny_gguf()).unwrap();
    run(folder.path(), &["import", "tiny.gguf", "--name", "tiny"]);
    run(folder.path(), &["admin", "shares", "add", "tiny", "--everyone"]);
    folder
}

fn chats() -> String {
    let line = |i: usize| {
        json!({"messages": [{"role": "user", "content": format!("say {i} {CANARY}")},
            {"role": "assistant", "content": "th th"}]})
        .to_string()
    };
    (0..40).map(line).collect::<Vec<_>>().join("\n")
}

fn rows() -> String {
    let row = |i: usize| format!("{i},{}\n", if i < 30 { CANARY } else { "high" });
    (0..60).map(row).fold("a,label\n".to_owned(), |text, row| text + &row)
}

/// The fine-tuning, and a training from the start, of files of these ids.
fn asked(chats: &str, rows: &str, n_epochs: u64) -> [Value; 2] {
    let spec = json!({"name": "side", "task": "classification", "data": {"target": "label"}, "model": {"hidden": [4]},
        "train": {"epochs": 20, "batch_size": 4, "optimizer": {"name": "adam", "lr": 0.02}}});
    [
        json!({"model": "tiny", "training_file": chats, "seed": 5, "suffix": "bot", "metadata": {"about": CANARY},
            "method": {"type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": n_epochs, "batch_size": 2}}}}),
        json!({"model": "mlp", "training_file": rows, "seed": 5, "method": {"type": "train", "train": {"spec": spec}}}),
    ]
}

/// What the two models answer.
fn answers(server: &Server, model: &Value) -> [Value; 2] {
    let chat = json!({"model": model, "messages": [{"role": "user", "content": "say 3"}], "temperature": 0,
        "max_tokens": 4, "logprobs": true});
    let side = json!({"instances": [{"a": 3}, {"a": 50}]});
    [
        server.post("/v1/chat/completions", &chat)["choices"].clone(),
        server.post("/v1/models/side:predict", &side)["predictions"].clone(),
    ]
}

struct Clear {
    adapter: Vec<u8>,
    side: Vec<u8>,
    answers: [Value; 2],
    results: String,
    checkpoint: Vec<u8>,
}

fn is_done(job: &Value) -> bool {
    job["status"] == "succeeded"
}

/// The same jobs where nothing is sealed.
fn clear() -> Clear {
    let folder = with_model();
    let server = serve(folder.path(), None);
    let asked = asked(
        &server.bring("fine-tune", "chats.jsonl", &chats()),
        &server.bring("fine-tune", "rows.csv", &rows()),
        60,
    );
    let ids = asked.each_ref().map(|body| text_of(&server.post(JOBS, body), "id"));
    let tuned = server.wait(&format!("{JOBS}/{}", ids[0]), is_done);
    server.wait(&format!("{JOBS}/{}", ids[1]), is_done);
    let model = &tuned["fine_tuned_model"];
    let models = folder.path().join("data/models");
    let read = |name: &str, file: &str| {
        std::fs::read(models.join(name.replace(':', "%3A")).join("1").join(file)).unwrap()
    };
    let name = model.as_str().unwrap();
    let results = tuned["result_files"][0].as_str().unwrap();
    let needle = [CANARY.as_bytes().to_vec()];
    assert!(found(&folder.path().join("data"), &needle).len() >= 4, "the search finds what is kept");
    Clear {
        adapter: read(name, ADAPTER),
        side: read("side", "model.safetensors"),
        answers: answers(&server, model),
        results: server.send("GET", &format!("/v1/files/{results}/content"), "", b"").1,
        checkpoint: read(&format!("{name}:ckpt-step-1180"), ADAPTER),
    }
}

#[test]
fn a_job_in_an_encrypted_project_ends_as_in_a_clear_one_is_in_no_byte_and_stops_when_it_is_erased() {
    let clear = clear();
    let folder = with_model();
    let path = folder.path();
    run(path, &["admin", "master-key", "create", path.join("master.key").to_str().unwrap()]);
    let id = text_of(&run(path, &["admin", "projects", "create", "sealed", "--encrypted"]), "id");
    let key = text_of(&run(path, &["admin", "service-accounts", "create", &id, "bot"]), "key");
    let server = serve(path, Some(key));
    let asked_of = asked(
        &server.bring("fine-tune", "chats.jsonl", &chats()),
        &server.bring("fine-tune", "rows.csv", &rows()),
        60,
    );

    // While it runs, and after its process was killed.
    let tuned = text_of(&server.post(JOBS, &asked_of[0]), "id");
    let place = format!("{JOBS}/{tuned}");
    server.wait(&place, |job| job["lyceum"]["step"].as_u64() > Some(100));
    let worker = server.worker();
    // It stands still until it is killed, so that it does not end before.
    let signal =
        |name: &str| Command::new("kill").args([name, &worker.to_string()]).status().unwrap().success();
    assert!(signal("-STOP"));
    for file in ["environ", "cmdline"] {
        let said = std::fs::read(format!("/proc/{worker}/{file}")).unwrap();
        assert!(!String::from_utf8_lossy(&said).to_lowercase().contains("master"), "{file}");
    }
    let mut needles = vec![CANARY.as_bytes().to_vec(), b"base_model.model".to_vec(), b"th th".to_vec()];
    let nowhere = |needles: &[Vec<u8>], when: &str| {
        for place in ["data", "tmp", "said"] {
            let at = path.join(place);
            let found = match at.is_dir() {
                true => found(&at, needles),
                // A log may speak of an answer's tokens; never of what was sent.
                false => {
                    has(&std::fs::read(&at).unwrap(), &needles[..1]).then(|| at.clone()).into_iter().collect()
                }
            };
            assert_eq!(found, Vec::<PathBuf>::new(), "{when}");
        }
    };
    nowhere(&needles, "while it runs");
    assert!(signal("-KILL"));
    nowhere(&needles, "after a kill");
    let side = text_of(&server.post(JOBS, &asked_of[1]), "id");
    let done = server.wait(&place, is_done);
    assert!(done["lyceum"]["attempt"].as_u64() >= Some(2), "{done}");
    assert_eq!(done["metadata"]["about"], CANARY);
    assert_eq!(server.wait(&format!("{JOBS}/{side}"), is_done)["fine_tuned_model"], "side@1");

    // As the same jobs in a clear project.
    let model = done["fine_tuned_model"].clone();
    let name = model.as_str().unwrap().to_owned();
    assert_eq!(answers(&server, &model), clear.answers);
    let results = done["result_files"][0].as_str().unwrap();
    let table = server.send("GET", &format!("/v1/files/{results}/content"), "", b"").1;
    // The log has every step that a checkpoint has, and the others are taken again.
    assert_eq!(table, clear.results);
    let (_, told) = server.send("GET", &format!("{place}/events?stream=true"), "application/json", b"");
    assert!(told.contains("Goes on after step") && told.contains("successfully completed"), "{told}");
    let checkpoint = format!("{name}:ckpt-step-1180");
    with_store(path, async |store| {
        let read = async |name: &str, file: &str| {
            let found =
                models::resolve(&store, &project(&id), &name.parse::<ModelRef>().unwrap()).await.unwrap();
            assert!(found.dir.is_sealed());
            found.dir.join(file).read().unwrap()
        };
        assert!(read(&name, ADAPTER).await == clear.adapter, "bit for bit, after a kill");
        assert!(read(&checkpoint, ADAPTER).await == clear.checkpoint, "bit for bit");
        assert!(read("side", "model.safetensors").await == clear.side, "bit for bit");
        store.close().await;
    });
    for weights in [&clear.adapter, &clear.checkpoint, &clear.side] {
        needles.extend(pieces(weights));
    }
    // Who may manage its models takes the plain files away, and they lie nowhere else.
    let key = text_of(&run(path, &["keys", "create", "--project", &id, "--scope", "admin"]), "key");
    let url = format!("http://{}", server.address);
    for (model, file, weights) in
        [(&*name, ADAPTER, &clear.adapter), ("side", "model.safetensors", &clear.side)]
    {
        run(path, &["export", model, "--output", "taken", "--url", &url, "--key", &key]);
        assert!(&std::fs::read(path.join("taken").join(file)).unwrap() == weights, "{model}");
        std::fs::remove_dir_all(path.join("taken")).unwrap();
    }
    nowhere(&needles, "when it is done");

    // A choice among models, over the same rows.
    let choice = json!({"name": "chosen", "task": "classification", "seeds": 2, "concurrency": 2,
        "data": {"train": asked_of[1]["training_file"], "target": "label", "valid_fraction": 0.3},
        "candidates": [{"family": "mlp", "hidden": []}, {"family": "mlp", "hidden": [4]}],
        "train": {"epochs": 2, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.02}},
        "budget": {"minutes": 0.5}});
    let choice = text_of(&server.post("/v1/model_selections", &choice), "id");
    let chosen = server.wait(&format!("/v1/model_selections/{choice}"), |choice| {
        choice["status"] == "done" || choice["rows"].is_array()
    });
    assert_eq!(chosen["recommendation"]["model"], "chosen@1", "{chosen}");
    nowhere(&needles, "after a choice");

    // Erased while a job runs.
    let long = asked(asked_of[0]["training_file"].as_str().unwrap(), "", 100_000)[0].clone();
    let long = text_of(&server.post(JOBS, &long), "id");
    server.wait(&format!("{JOBS}/{long}"), |job| job["lyceum"]["step"].as_u64() > Some(50));
    let worker = server.worker();
    let receipt = run(path, &["admin", "projects", "erase", &id, "--confirm", &id]);
    assert_eq!(
        (&receipt["jobs_stopped"], &receipt["erased"]["choices"]),
        (&json!(1), &json!(1)),
        "{receipt}"
    );
    assert!(receipt["erased"]["jobs"].as_u64() >= Some(4), "{receipt}");
    assert!(receipt["erased"]["versions"].as_u64() >= Some(4), "{receipt}");
    assert!(!Path::new(&format!("/proc/{worker}/stat")).exists(), "its process has ended");
    let (status, _) = server.send("GET", &place, "application/json", b"");
    // The other process knew the key for up to a second more; then it reached for what was erased.
    assert!(matches!(status, 401 | 403 | 409), "{status}");
    drop(server);
    with_store(path, async |store| {
        let at = project(&id);
        let erased = |error: StoreError| assert!(matches!(error, StoreError::Erased { .. }), "{error}");
        let id: JobId = tuned.parse().unwrap();
        erased(jobs::find(&store, &at, &id).await.unwrap_err());
        erased(vault::job_folder(&store, &at, &id).unwrap_err());
        erased(models::resolve(&store, &at, &name.parse::<ModelRef>().unwrap()).await.unwrap_err());
        for version in models::list(&store, &at).await.unwrap() {
            let why = version.dir.join("manifest.json").read().unwrap_err();
            assert!(why.to_string().contains("was erased"), "{why}");
        }
        let file: FileId = asked_of[0]["training_file"].as_str().unwrap().parse().unwrap();
        erased(data_files::find(&store, &at, &file, Timestamp::now()).await.unwrap_err());
        store.close().await;
    });
    nowhere(&needles, "after it was erased");
}

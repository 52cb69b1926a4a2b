//! The commands against a server elsewhere: a real process with TLS, asked by the binary with a URL, a key and a private
//! certificate alone.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use program::server::Server;
use program::{command, points, side};
use serde_json::Value;
use std::process::Output;

/// A server with two models of points and one that writes, and a folder of a client that has nothing.
struct House {
    folder: tempfile::TempDir,
    client: tempfile::TempDir,
    server: Server,
}

const POINTS: &str = "name = \"points\"\ntask = \"classification\"\n[data]\ntrain = \"rows.csv\"\nvalid_fraction = 0.25\n\
    target = \"label\"\n[model]\nfamily = \"mlp\"\nhidden = [16]\n[train]\nepochs = 20\nbatch_size = 8\n\
    optimizer = { name = \"adam\", lr = 0.02 }\n";
const POET: &str = "name = \"poet\"\ntask = \"language_modeling\"\n[data]\ntrain = \"a.txt\"\nvalid_fraction = 0.2\n\
    tokenizer = \"char\"\n[model]\nfamily = \"transformer\"\nvariant = \"decoder\"\nd_model = 16\nnhead = 2\n\
    num_layers = 1\ndim_feedforward = 32\ncontext = 16\n[train]\nsteps = 4\nbatch_size = 4\n";

impl House {
    fn new() -> Self {
        let (folder, client) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(client.path().join("ca.pem"), made.cert.pem()).unwrap();
        for place in [folder.path(), client.path()] {
            std::fs::write(place.join("rows.csv"), points(80, ["x", "y"], side)).unwrap();
        }
        std::fs::write(folder.path().join("a.txt"), "the cat sat on the mat; ".repeat(30)).unwrap();
        for (name, spec) in [("points.toml", POINTS), ("points.toml", POINTS), ("poet.toml", POET)] {
            std::fs::write(folder.path().join(name), spec).unwrap();
            let trained = command(folder.path(), &["train", name, "--json"]).output().unwrap();
            assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
        }
        let serve =
            ["serve", "--listen", "127.0.0.1:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem", "--json"];
        let server = Server::start(command(folder.path(), &serve), None);
        assert!(server.url.starts_with("https://"), "{}", server.url);
        House { folder, client, server }
    }

    /// The binary in the client's folder.
    fn ask(&self, arguments: &[&str]) -> Output {
        let all = [arguments, &["--url", &self.server.url, "--ca", "ca.pem", "--json"]].concat();
        command(self.client.path(), &all).env("LYCEUM_API_KEY", &self.server.key).output().unwrap()
    }

    #[track_caller]
    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    fn line(&self, arguments: &[&str]) -> Value {
        self.lines(arguments).pop().expect("a line")
    }

    /// Exit code and stable code.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> (i32, String, Value) {
        told(&self.ask(arguments))
    }
}

#[track_caller]
fn told(output: &Output) -> (i32, String, Value) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap_or_default()).expect(&stderr);
    let code = error["error"]["code"].as_str().unwrap().to_owned();
    (output.status.code().unwrap(), code, error["error"].clone())
}

#[test]
fn the_verbs_ask_a_server_with_tls_and_leave_nothing_here() {
    let house = House::new();
    models_and_answers(&house);
    names_and_deletions(&house);
    files_privacy_and_attacks(&house);
    evaluations(&house);
    a_look_at_the_server(&house);
    previews(&house);
    a_training(&house);
    rows_and_texts_line_by_line(&house);
    files_that_are_there(&house);
    exports_batches_and_cascades(&house);
    personal_data(&house);
    refusals_keep_the_key_to_themselves(&house);
    assert!(!house.client.path().join("data").exists(), "a client has no data folder");
}

fn personal_data(house: &House) {
    let letter = house.client.path().join("letter.txt");
    std::fs::write(&letter, "Grüße an a@b.de und c@d.de, a@b.de\n").unwrap();
    let far = house.ask(&["pii", "analyze", "letter.txt", "--show"]);
    let near =
        command(house.client.path(), &["pii", "analyze", "letter.txt", "--show", "--json"]).output().unwrap();
    let found = |output: &Output| -> Vec<Value> {
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let lengths = (found(&far).len(), found(&near).len());
    assert_eq!(lengths, (3, 3), "{}", String::from_utf8_lossy(&far.stderr));
    for (far, near) in found(&far).iter().zip(found(&near)) {
        for field in ["entity_type", "start", "end", "why", "text"] {
            assert_eq!(far[field], near[field], "{far} {near}");
        }
    }
    // A variable alone sends no text away: nobody listens there, and nobody is asked.
    let mut unasked = command(house.client.path(), &["pii", "analyze", "letter.txt", "--show", "--json"]);
    let unasked =
        unasked.env("LYCEUM_URL", "http://127.0.0.1:9").env("LYCEUM_API_KEY", "sk-none").output().unwrap();
    assert_eq!(found(&unasked), found(&near), "{}", String::from_utf8_lossy(&unasked.stderr));
    let named = house.ask(&["pii", "anonymize", "letter.txt", "--operator", "placeholder"]);
    let expected = "Grüße an <EMAIL_ADDRESS_1> und <EMAIL_ADDRESS_2>, <EMAIL_ADDRESS_1>\n";
    assert_eq!(String::from_utf8(named.stdout).unwrap(), expected);
    let (exit, _, error) = house.refused(&["pii", "anonymize", "letter.txt", "--operator", "hash"]);
    assert!(exit == 2 && error.to_string().contains("its key would leave this machine"), "{error}");
    std::fs::remove_file(letter).unwrap();
}

fn models_and_answers(house: &House) {
    let models = house.line(&["ls"]);
    let here: Value = {
        let output = command(house.folder.path(), &["ls", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(models, here, "a server's list in the words of the data folder's");
    assert_eq!(house.line(&["show", "points"])["root"], "points@2");
    // The same rows have the same answers, there and here.
    let far = house.lines(&["predict", "points", "rows.csv", "--without", "label"]);
    let near = command(house.folder.path(), &["predict", "points", "rows.csv", "--json"]).output().unwrap();
    let near: Vec<Value> = String::from_utf8(near.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(far.len(), 80);
    for (far, near) in far.iter().zip(&near) {
        assert_eq!((&far["row"], &far["output"]), (&near["row"], &near["output"]));
        let p = |line: &Value| line["probabilities"]["above"].as_f64().unwrap();
        assert!((p(far) - p(near)).abs() < 1e-5, "{far} {near}");
    }
    let (exit, code, error) = house.refused(&["predict", "points", "rows.csv"]);
    assert_eq!((exit, code.as_str()), (1, "unknown_field"));
    assert!(error["fix"].as_str().unwrap().contains("--without"), "{error}");
    let answer = house.line(&["run", "points", "{\"x\": 0.9, \"y\": 0.9}"]);
    assert_eq!(answer["output"], "above");
    // A text comes token by token; the whole is what a run here writes.
    let far = house.line(&["run", "poet", "the cat", "--max-tokens", "8"]);
    let near = ["run", "poet", "the cat", "--max-tokens", "8", "--json"];
    let near = command(house.folder.path(), &near).output().unwrap();
    let near: Value = serde_json::from_slice(&near.stdout).unwrap();
    assert_eq!(far["text"], near["text"]);
    assert_eq!(far["usage"]["completion_tokens"], 8);
    let far = house.line(&["run", "poet", "the cat", "--max-tokens", "3", "--logprobs", "2"]);
    let tokens = far["logprobs"].as_array().unwrap();
    assert_eq!(tokens.len(), 3, "{far}");
    for token in tokens {
        assert!(token["token"].is_string() && token["logprob"].is_number(), "{far}");
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 2, "{far}");
    }
    let explained = house.line(&["explain", "points", "--input", "{\"x\": 0.9, \"y\": 0.9}"]);
    assert!(explained["attributions"].is_array(), "{explained}");
    let card = house.line(&["card", "points"]);
    std::fs::write(house.client.path().join("card.json"), card.to_string()).unwrap();
    assert_eq!(house.line(&["card", "points", "--verify", "card.json"])["verified"], true);
}

fn names_and_deletions(house: &House) {
    let moved = house.line(&["alias", "set", "points@1", "prod", "--note", "first"]);
    assert_eq!((&moved["alias"], &moved["version"]), (&"points@prod".into(), &1.into()));
    assert_eq!(house.line(&["alias", "set", "points@2", "prod"])["before"], 1);
    assert_eq!(house.line(&["alias", "rollback", "points@prod"])["version"], 1);
    let listed = house.line(&["alias", "ls", "points"]);
    assert_eq!(
        (&listed["aliases"][0]["version"], &listed["history"][0]["note"]),
        (&1.into(), &"first".into())
    );
    assert_eq!(house.line(&["approve", "points@2", "--note", "seen"])["approved"], "points@2");
    assert_eq!(house.line(&["promote", "points@2"])["served"], "points@2");
    let lineage = house.line(&["lineage", "points@prod"]);
    assert_eq!((&lineage["model"], &lineage["data"][0]["rows"]), (&"points@1".into(), &80.into()));
    assert_eq!(house.refused(&["rm", "points@1"]).1, "aliased");
    assert_eq!(house.refused(&["rm", "points", "--all"]).0, 5);
    assert_eq!(house.line(&["alias", "rm", "points@prod"])["alias"], "points@prod");
    assert_eq!(house.line(&["rm", "points"])["model"], "points@2", "the version that the name serves");
    assert_eq!(house.line(&["show", "points"])["root"], "points@1");
    assert_eq!(house.refused(&["show", "nobody"]).1, "model_not_found");
    assert_eq!(house.refused(&["stop", "points"]).0, 3, "trained models are not listed as residents");
    assert!(house.line(&["ps"])["data"].is_array());
}

fn files_privacy_and_attacks(house: &House) {
    let kept = house.line(&["files", "upload", "rows.csv"]);
    let id = kept["id"].as_str().unwrap();
    assert_eq!(house.line(&["files", "ls"])["files"][0]["id"], id);
    assert_eq!(house.line(&["files", "get", id, "--out", "again.csv"])["event"], "done");
    assert_eq!(
        std::fs::read_to_string(house.client.path().join("again.csv")).unwrap(),
        points(80, ["x", "y"], side)
    );
    assert_eq!(house.refused(&["files", "get", id, "--out", "again.csv"]).1, "file_exists");
    assert_eq!(house.line(&["files", "rm", id])["deleted"], true);

    let spent = ["privacy", "epsilon", "--q", "0.01", "--sigma", "1.1", "--steps", "100", "--delta", "1e-5"];
    let far = house.line(&spent)["epsilon"].as_f64().unwrap();
    let near = command(house.folder.path(), &[&spent[..], &["--json"]].concat()).output().unwrap();
    let near: Value = serde_json::from_slice(&near.stdout).unwrap();
    assert_eq!(far, near["epsilon"].as_f64().unwrap());

    receipts(house);
    let run = house.line(&["attack", "points", "rows.csv", "--rows", "10"]);
    assert_eq!((&run["status"], &run["n"]), (&"completed".into(), &10.into()));
    assert!(!run["results"].as_array().unwrap().is_empty());
    assert_eq!(
        house.line(&["files", "ls"])["files"].as_array().unwrap().len(),
        0,
        "its rows went with the run"
    );
}

/// What training would read there is what it would read here, judged before there is a job, line by line.
fn previews(house: &House) {
    let near = |arguments: &[&str]| {
        let output = command(house.folder.path(), arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    std::fs::write(house.client.path().join("look.toml"), POINTS).unwrap();
    std::fs::write(house.client.path().join("poet.toml"), POET).unwrap();
    std::fs::copy(house.folder.path().join("a.txt"), house.client.path().join("a.txt")).unwrap();
    for asked in [
        &["points.toml", "--rows", "3"][..],
        &["points.toml", "--part", "valid"],
        &["poet.toml", "--rows", "2"],
    ] {
        let here = [&["preview"], asked].concat();
        let there: Vec<&str> =
            here.iter().map(|word| if *word == "points.toml" { "look.toml" } else { word }).collect();
        let far = house.ask(&there);
        assert!(far.status.success(), "{}", String::from_utf8_lossy(&far.stderr));
        assert_eq!(String::from_utf8(far.stdout).unwrap(), near(&[&here[..], &["--json"]].concat()));
        let more = ["--url", &house.server.url, "--ca", "ca.pem", "--key", &house.server.key];
        let far = command(house.client.path(), &[&there[..], &more].concat()).output().unwrap();
        assert_eq!(String::from_utf8(far.stdout).unwrap(), near(&here), "for people too");
    }
    let kept = house.line(&["files", "upload", "rows.csv"]);
    let id = kept["id"].as_str().unwrap();
    std::fs::write(house.client.path().join("look.toml"), POINTS.replace("rows.csv", id)).unwrap();
    assert_eq!(house.line(&["preview", "look.toml"])["epoch"]["examples"], 60);
    assert_eq!(house.line(&["files", "rm", id])["deleted"], true, "what was there stays there");
    assert_eq!(house.refused(&["preview", "look.toml", "--part", "test"]).1, "file_not_found");
    std::fs::write(house.client.path().join("look.toml"), POINTS.replace("rows.csv", "wrong.csv")).unwrap();
    std::fs::write(house.client.path().join("wrong.csv"), "x,y,label\n1,2,yes\n1,no\n").unwrap();
    let (exit, code, error) = house.refused(&["preview", "look.toml"]);
    assert_eq!((exit, code.as_str()), (1, "invalid_file"));
    assert!(error.to_string().contains("line 3"), "{error}");
    assert_eq!(house.refused(&["preview", "poet.toml", "--part", "test"]).1, "no_part");
    assert!(house.line(&["files", "ls"])["files"].as_array().unwrap().is_empty(), "nothing stays there");
    assert!(house.line(&["jobs", "ls"])["data"].as_array().unwrap().is_empty(), "nor is there a job");
    for name in ["look.toml", "poet.toml", "a.txt", "wrong.csv"] {
        std::fs::remove_file(house.client.path().join(name)).unwrap();
    }
}

/// `doctor` knows a certificate that it trusts, and one that it does not.
fn a_look_at_the_server(house: &House) {
    let checks = house.line(&["doctor"])["checks"].clone();
    let found = |checks: &Value, name: &str| {
        checks.as_array().unwrap().iter().find(|check| check["name"] == name).unwrap().clone()
    };
    assert!(checks.as_array().unwrap().iter().all(|check| check["ok"] == true), "{checks}");
    let trusted = found(&checks, "certificate");
    assert!(trusted["found"].as_str().unwrap().starts_with("trusted, and holds "), "{trusted}");
    let unknown = ["doctor", "--json", "--url", &house.server.url, "--key", &house.server.key];
    let output = command(house.client.path(), &unknown).output().unwrap();
    assert_eq!((told(&output).0, told(&output).1.as_str()), (7, "invalid_tls"));
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found(&checks["checks"], "key")["ok"].is_null(), "it is told to nobody who is not trusted");
}

/// What is measured there is what is measured here, for rows that are brought and for those that are there.
fn evaluations(house: &House) {
    std::fs::write(house.client.path().join("a.txt"), "the cat sat on the mat; ".repeat(5)).unwrap();
    std::fs::copy(house.client.path().join("a.txt"), house.folder.path().join("b.txt")).unwrap();
    for (model, far, near) in [("points", "rows.csv", "rows.csv"), ("poet", "a.txt", "b.txt")] {
        let near = command(house.folder.path(), &["eval", model, near, "--json"]).output().unwrap();
        let near: Value = serde_json::from_slice(&near.stdout).unwrap();
        assert!(near["baseline"].is_object(), "{near}");
        assert_eq!(house.line(&["eval", model, far]), near);
    }
    assert!(house.line(&["files", "ls"])["files"].as_array().unwrap().is_empty(), "the rows went with it");
    let people = |folder: &std::path::Path, more: &[&str]| {
        let mut command = command(folder, &[&["eval", "points", "rows.csv"], more].concat());
        let output = command.env("LYCEUM_API_KEY", &house.server.key).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let far = people(house.client.path(), &["--url", &house.server.url, "--ca", "ca.pem"]);
    assert_eq!(far, people(house.folder.path(), &[]));
    let kept = house.line(&["files", "upload", "rows.csv"]);
    let id = kept["id"].as_str().unwrap();
    assert_eq!(house.line(&["eval", "points", id])["metrics"]["accuracy"]["n"], 80);
    assert_eq!(house.line(&["files", "rm", id])["deleted"], true, "what was there stays there");
    assert_eq!(house.refused(&["eval", "points", id]).0, 3);
    assert_eq!(house.refused(&["eval", "nobody", "rows.csv"]).1, "model_not_found");
    assert_eq!(house.refused(&["eval", "points", "a.txt"]).1, "invalid_file");
    assert!(house.line(&["files", "ls"])["files"].as_array().unwrap().is_empty(), "also where it is refused");
    std::fs::remove_file(house.client.path().join("a.txt")).unwrap();
}

/// Data is brought, a job made and followed, and its model answers there.
fn a_training(house: &House) {
    let spec = POINTS.replace("\"points\"", "\"brought\"");
    std::fs::write(house.client.path().join("brought.toml"), spec).unwrap();
    let job = house.line(&["train", "brought.toml", "--seed", "3"]);
    assert_eq!((&job["status"], &job["seed"]), (&"succeeded".into(), &3.into()), "{job}");
    // As a training here ends.
    assert_eq!((&job["event"], &job["model"]), (&"done".into(), &"brought@1".into()), "{job}");
    assert_eq!((&job["base"], &job["job"]), (&"mlp".into(), &job["id"]), "{job}");
    assert_eq!(house.line(&["show", "brought"])["root"], "brought@1");
    let jobs = house.line(&["jobs", "ls"]);
    let id = jobs["data"][0]["id"].as_str().unwrap();
    assert_eq!(id, job["id"]);
    let events = house.line(&["jobs", "logs", id]);
    assert!(events["data"].as_array().unwrap().len() > 2, "{events}");
    assert_ne!(house.refused(&["jobs", "cancel", id]).0, 0, "it has ended");
    // With a gate, whose rows are brought too; what cannot be read is refused here.
    let gated = house.line(&["train", "brought.toml", "--gate", "max_drop=1,data=rows.csv,rows=20"]);
    let gate = &gated["lyceum"]["gate"];
    assert_eq!((&gate["held"], &gate["compared_to"]), (&false.into(), &"brought@1".into()), "{gated}");
    let wrong = house.refused(&["train", "brought.toml", "--gate", "max_drop=2"]);
    assert_eq!((wrong.0, wrong.1.as_str()), (2, "usage"));
    let wrong = house.refused(&["train", "brought.toml", "--gate", "max_drop=0.1"]);
    assert!(wrong.2.to_string().contains("gate.data"), "{}", wrong.2);
}

/// Rows of a table and texts with labels go in `.jsonl` as they do here; chats are judged as such; what is refused leaves
/// nothing there.
fn rows_and_texts_line_by_line(house: &House) {
    let write = |name: &str, text: &str| std::fs::write(house.client.path().join(name), text).unwrap();
    let table = points(80, ["x", "y"], side);
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |i: usize| cells[i].parse::<f64>().unwrap();
        serde_json::json!({"x": number(0), "y": number(1), "label": cells[2]}).to_string()
    };
    let lines: Vec<String> = table.lines().skip(1).map(row).collect();
    write("lines.jsonl", &lines.join("\n"));
    let of_lines = POINTS.replace("rows.csv", "lines.jsonl").replace("\"points\"", "\"lines\"");
    write("lines.toml", &of_lines);
    let gate = ["--gate", "max_drop=1,data=lines.jsonl,rows=20"];
    let job = house.line(&[&["train", "lines.toml", "--seed", "3"][..], &gate].concat());
    assert_eq!((&job["status"], &job["fine_tuned_model"]), (&"succeeded".into(), &"lines@1".into()), "{job}");
    let here = |name: &str, arguments: &[&str]| {
        std::fs::copy(house.client.path().join(name), house.folder.path().join(name)).unwrap();
        let output = command(house.folder.path(), arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let measured = here("lines.jsonl", &["eval", "lines", "lines.jsonl", "--json"]);
    assert_eq!(house.line(&["eval", "lines", "lines.jsonl"]), measured);
    assert!(measured["metrics"]["accuracy"]["value"].as_f64().unwrap() > 0.8, "{measured}");

    let text = |i: usize| {
        let (text, label) = [("a fine day", "good"), ("a bad night", "poor")][i % 2];
        serde_json::json!({"text": format!("{text} {i}"), "label": label}).to_string()
    };
    write("texts.jsonl", &(0..24).map(text).collect::<Vec<_>>().join("\n"));
    write(
        "texts.toml",
        "name = \"moods\"\ntask = \"classification\"\n[data]\ntrain = \"texts.jsonl\"\nvalid_fraction = 0.25\n\
         tokenizer = \"char\"\n[model]\nfamily = \"transformer\"\nvariant = \"encoder\"\nd_model = 16\nnhead = 2\n\
         num_layers = 1\ndim_feedforward = 32\ncontext = 16\n[train]\nsteps = 4\nbatch_size = 4\n",
    );
    assert_eq!(house.line(&["train", "texts.toml"])["fine_tuned_model"], "moods@1");

    let files = || house.line(&["files", "ls"])["files"].as_array().unwrap().len();
    let before = files();
    // A line that is no row is refused by the job, at its line, and so is what the spec says wrong.
    write("lines.jsonl", &format!("{}\n{{\"x\": 1\n", lines.join("\n")));
    let (exit, code, error) = house.refused(&["train", "lines.toml"]);
    assert_eq!((exit, code.as_str()), (1, "invalid_file"), "{error}");
    assert!(error.to_string().contains("line 81"), "{error}");
    write("lines.toml", &of_lines.replace("\"label\"", "\"colour\""));
    write("lines.jsonl", &lines.join("\n"));
    assert!(house.refused(&["train", "lines.toml"]).2.to_string().contains("colour"));
    // Where chats are learnt, a line that is none is refused as it arrives.
    write(
        "chats.toml",
        "name = \"talk\"\n[data]\ntrain = \"lines.jsonl\"\n[model]\nfamily = \"no-such-model\"\n",
    );
    let (exit, code, error) = house.refused(&["train", "chats.toml"]);
    assert_eq!((exit, code.as_str()), (1, "invalid_file"), "{error}");
    assert!(error.to_string().contains("messages"), "{error}");
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    write("lines.jsonl", chat);
    assert_eq!(house.refused(&["train", "chats.toml"]).1, "model_not_found");
    assert_eq!(files(), before, "what no job took is taken away again");
    // A folder is no file.
    write("lines.toml", &of_lines.replace("lines.jsonl", "."));
    let (exit, code, error) = house.refused(&["train", "lines.toml"]);
    assert_eq!((exit, code.as_str()), (2, "usage"), "{error}");
    assert!(error.to_string().contains(".zip"), "{error}");
    assert_eq!(files(), before);
    for name in ["lines.jsonl", "texts.jsonl", "lines.toml", "texts.toml", "chats.toml"] {
        std::fs::remove_file(house.client.path().join(name)).unwrap();
    }
}

/// Where a command reads a file, the id of one that is there may stand, and what was there stays there.
fn files_that_are_there(house: &House) {
    let kept = house.line(&["files", "upload", "rows.csv"]);
    let id = kept["id"].as_str().unwrap();
    let run = house.line(&["attack", "points", id, "--rows", "10"]);
    assert_eq!((&run["status"], &run["n"]), (&"completed".into(), &10.into()));
    let spec = format!(
        "name = \"chosen\"\ntask = \"classification\"\nseeds = 1\ncandidates = [{{ family = \"mlp\", hidden = [] }}]\n[data]\n\
         train = \"{id}\"\nvalid_fraction = 0.4\ntest = \"rows.csv\"\ntarget = \"label\"\n[train]\nepochs = 10\nbatch_size = 8\n\
         optimizer = {{ name = \"adam\", lr = 0.02 }}\n[budget]\nminutes = 0.5\n"
    );
    let write = |text: &str| std::fs::write(house.client.path().join("choose.toml"), text).unwrap();
    write(&spec);
    let done = house.line(&["choose", "choose.toml"]);
    assert_eq!(done["recommendation"]["model"], "chosen@1", "{done}");
    let files = || house.line(&["files", "ls"])["files"].as_array().unwrap().len();
    let before = files();
    write(&spec.replace("seeds = 1", "seeds = 0"));
    assert!(house.refused(&["choose", "choose.toml"]).2.to_string().contains("seeds"));
    assert_eq!(files(), before, "what was brought for nothing is taken away again");
    assert_eq!(house.line(&["files", "rm", id])["deleted"], true, "what was there stays there");
    assert_eq!(house.refused(&["attack", "points", id, "--rows", "10"]).1, "file_not_found");
    write(&spec);
    assert_eq!(house.refused(&["choose", "choose.toml"]).1, "file_not_found");
    std::fs::remove_file(house.client.path().join("choose.toml")).unwrap();
}

/// An export is the same files as there; what jobs, batches and cascades do there is asked from here.
fn exports_batches_and_cascades(house: &House) {
    for model in ["points@1", "poet"] {
        let far = house.line(&["export", model, "--output", "far"]);
        let near =
            command(house.folder.path(), &["export", model, "--output", "near", "--json"]).output().unwrap();
        let near: Value = serde_json::from_slice(&near.stdout).unwrap();
        for field in ["event", "model", "format", "sha256"] {
            assert_eq!(far[field], near[field], "{far} {near}");
        }
        let (far, near) = (house.client.path().join("far"), house.folder.path().join("near"));
        assert_eq!(files_of(&far), files_of(&near), "{model}");
        assert!(files_of(&far).len() >= 3, "{model}");
        assert_eq!(house.refused(&["export", model, "--output", "far"]).0, 5, "it is there");
        std::fs::remove_dir_all(far).unwrap();
        std::fs::remove_dir_all(near).unwrap();
    }
    assert_eq!(house.refused(&["export", "nobody", "--output", "far"]).0, 3);
    assert_eq!(
        house.refused(&["export", "poet", "--format", "gguf", "--output", "far"]).1,
        "unsupported_format"
    );
    assert!(!house.client.path().join("far").exists(), "a folder appears whole or not at all");
    let jobs = house.line(&["jobs", "ls"]);
    let ended = jobs["data"][0]["id"].as_str().unwrap();
    assert_eq!(house.refused(&["jobs", "pause", ended]).0, 5, "it has ended");

    let line = |i: usize| {
        let body = serde_json::json!({"model": "poet", "prompt": "the", "max_tokens": 2, "seed": i});
        serde_json::json!({"custom_id": i.to_string(), "method": "POST", "url": "/v1/completions", "body": body})
            .to_string()
    };
    let lines: Vec<String> = (0..3).map(line).collect();
    std::fs::write(house.client.path().join("asks.jsonl"), lines.join("\n")).unwrap();
    let batch = house.line(&["batches", "create", "asks.jsonl", "--endpoint", "/v1/completions"]);
    let id = batch["id"].as_str().unwrap();
    for _ in 0..200 {
        if house.line(&["batches", "get", id])["status"] == "completed" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(house.line(&["batches", "ls"])["batches"][0]["status"], "completed");
    house.line(&["batches", "output", id, "--out", "answers.jsonl"]);
    let answers = std::fs::read_to_string(house.client.path().join("answers.jsonl")).unwrap();
    assert_eq!(answers.lines().count(), 3, "{answers}");
    assert_eq!(house.refused(&["batches", "output", id, "--errors"]).1, "no_output");
    assert_eq!(house.refused(&["batches", "cancel", id]).0, 5, "it has ended");

    let rows = points(120, ["x", "y"], side);
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let input = serde_json::json!({"x": cells[0].parse::<f64>().unwrap() + 0.001, "y": cells[1].parse::<f64>().unwrap()});
        serde_json::json!({"input": input, "label": cells[2]}).to_string()
    };
    let lines: Vec<String> = rows.lines().skip(1).map(row).collect();
    std::fs::write(house.client.path().join("rows.jsonl"), lines.join("\n")).unwrap();
    let files = house.line(&["files", "ls"])["files"].as_array().unwrap().len();
    let create = ["cascade", "create", "router", "--small", "points@1", "--large", "brought@1"];
    let made = house.line(&[&create[..], &["--data", "rows.jsonl", "--alpha", "0.2"]].concat());
    assert_eq!((&made["event"], &made["model"]), (&"done".into(), &"router@1".into()), "{made}");
    assert!(made["definition"].is_object() && made["report"]["statement"].is_string(), "{made}");
    assert_eq!(house.line(&["files", "ls"])["files"].as_array().unwrap().len(), files, "its rows went");
    assert_eq!(house.line(&["show", "router"])["sha256"], made["definition_sha256"]);

    let made = house.line(&["calibrate", "brought@1"]);
    assert_eq!(made["model"], "brought@3", "{made}");
    assert_eq!(made["calibration"]["parent"], "brought@1", "{made}");
    assert_eq!(house.line(&["show", "brought"])["root"], "brought@3");
    assert_eq!(house.refused(&["calibrate", "brought@3"]).1, "already_calibrated");
}

/// Every file below a folder, with its bytes.
fn files_of(folder: &std::path::Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            files
                .extend(files_of(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, std::fs::read(&path).unwrap());
        }
    }
    files
}

fn refusals_keep_the_key_to_themselves(house: &House) {
    for arguments in [
        &["admin", "organizations", "ls"][..],
        &["admin", "master-key", "show"],
        &["backup", "verify", "x"],
        &["serve"],
    ] {
        let (exit, code, error) = house.refused(arguments);
        assert_eq!((exit, code.as_str()), (2, "usage"), "{error}");
        assert!(error["message"].as_str().unwrap().contains("cannot ask a server"), "{error}");
    }
    assert_eq!(told(&command(house.client.path(), &["files", "ls", "--json"]).output().unwrap()).0, 2);
    let secret = "sk-000000000000000000000000000000000000000000000000";
    let wrong = |more: &[&str]| {
        let all = [&["ls", "--json", "--key", secret][..], more].concat();
        let output = command(house.client.path(), &all).env("LYCEUM_LOG", "trace").output().unwrap();
        let text = format!("{output:?}");
        assert!(!text.contains(secret), "{text}");
        told(&output)
    };
    let unknown = wrong(&["--url", &house.server.url, "--ca", "ca.pem"]);
    assert_eq!((unknown.0, unknown.1.as_str()), (4, "invalid_api_key"));
    // A certificate that nobody vouches for is not trusted.
    assert_eq!(wrong(&["--url", &house.server.url]).0, 7);
    assert_eq!(wrong(&["--url", "https://127.0.0.1:9"]).0, 7);
    assert_eq!(wrong(&["--url", "https://user:word@127.0.0.1"]).0, 2);
    let keyless = ["ls", "--json", "--url", &house.server.url];
    assert_eq!(told(&command(house.client.path(), &keyless).output().unwrap()).1, "missing_api_key");

    // The bill is the organisation's to read.
    let made = command(house.folder.path(), &["admin", "keys", "create", "--json"]).output().unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let admin = ["secret", "value", "key"].iter().find_map(|field| made[*field].as_str()).expect("a secret");
    let asked =
        ["usage", "--by", "model", "--json", "--url", &house.server.url, "--ca", "ca.pem", "--key", admin];
    let output = command(house.client.path(), &asked).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let usage: Value = serde_json::from_slice(&output.stdout).unwrap();
    let asked: Vec<&str> = asked.iter().map(|word| if *word == "model" { "request" } else { word }).collect();
    let far = command(house.client.path(), &asked).output().unwrap();
    let near = command(house.folder.path(), &["usage", "--by", "request", "--json"]).output().unwrap();
    assert!(far.status.success() && !far.stdout.is_empty(), "{}", String::from_utf8_lossy(&far.stderr));
    assert_eq!(String::from_utf8_lossy(&far.stdout), String::from_utf8_lossy(&near.stdout), "every entry");
    let poet = usage["usage"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["model"].as_str().is_some_and(|model| model.starts_with("poet")));
    assert_eq!(poet.unwrap()["output_tokens"], 8 + 3 + 3 * 2, "{usage}");
    administration(house, admin);
    sums_and_costs(house, admin);
}

/// What is summed up there has the columns and the costs of the data folder's.
fn sums_and_costs(house: &House, admin: &str) {
    house.line(&["run", "poet", "the cat", "--max-tokens", "5"]);
    let near = |by: &str| command(house.folder.path(), &["usage", "--by", by, "--json"]).output().unwrap();
    let cost = |output: &Output| {
        let usage: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = usage["usage"].as_array().unwrap().clone();
        rows.iter().map(|row| row["cost_usd"].as_f64().unwrap()).sum::<f64>()
    };
    for _ in 0..100 {
        if cost(&near("model")) > 0.0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(cost(&near("model")) > 0.0, "poet has a price by now");
    for by in ["model", "key", "project", "day"] {
        let asked =
            ["usage", "--by", by, "--json", "--url", &house.server.url, "--ca", "ca.pem", "--key", admin];
        let far = command(house.client.path(), &asked).output().unwrap();
        assert!(far.status.success(), "{}", String::from_utf8_lossy(&far.stderr));
        assert_eq!(String::from_utf8_lossy(&far.stdout), String::from_utf8_lossy(&near(by).stdout), "{by}");
    }
}

/// A key of the organisation does from here what the command line does there, and says the same.
fn administration(house: &House, admin: &str) {
    let ask_with = |key: &str, arguments: &[&str]| {
        let access = ["--json", "--url", &house.server.url, "--ca", "ca.pem", "--key", key];
        command(house.client.path(), &[arguments, &access].concat()).output().unwrap()
    };
    let parsed = |output: Output| -> Value {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let ask = |arguments: &[&str]| parsed(ask_with(admin, arguments));
    let there = |arguments: &[&str]| {
        parsed(command(house.folder.path(), &[arguments, &["--json"]].concat()).output().unwrap())
    };
    let made = ask(&["admin", "projects", "create", "second"]);
    let project = made["id"].as_str().unwrap();
    ask(&["admin", "projects", "rename", project, "other"]);
    ask(&["admin", "retention", "zero_data_retention", "--project", project]);
    ask(&["admin", "models", "deny", project, "poet"]);
    ask(&["admin", "limits", "set", project, "--requests-per-minute", "50", "--concurrent-requests", "3"]);
    let account = ask(&["admin", "service-accounts", "create", project, "reader"]);
    let (id, secret) = (account["id"].as_str().unwrap(), account["key"].as_str().unwrap());
    assert_eq!(parsed(ask_with(secret, &["ls"]))["models"], Value::Array(vec![]), "its key is the project's");
    let further = ask(&["keys", "create", "--project", project, "--owner", id, "--scope", "metrics"]);
    let rotated = ask(&["keys", "rotate", further["id"].as_str().unwrap(), "--project", project]);
    assert_eq!(rotated["scopes"], further["scopes"]);
    let user = ask(&["admin", "users", "ls"])["users"][0]["id"].as_str().unwrap().to_owned();
    ask(&["admin", "users", "role", &user, "member", "--project", project]);
    let second = ask(&[
        "admin",
        "keys",
        "create",
        "--name",
        "reads",
        "--scope",
        "organization.read",
        "--expires",
        "1h",
    ]);
    // What reads there reads the same here; when a key was last used is noted once a minute.
    let without_use = |mut all: Value| {
        for key in all["keys"].as_array_mut().into_iter().flatten() {
            key["last_used_at"] = Value::Null;
        }
        all
    };
    for arguments in [
        &["admin", "projects", "ls", "--archived"][..],
        &["admin", "models", "show", project],
        &["admin", "keys", "ls"],
        &["admin", "users", "ls"],
        &["admin", "users", "ls", "--project", project],
        &["admin", "service-accounts", "ls", project],
        &["admin", "limits", "ls", project],
        &["keys", "ls", "--project", project],
    ] {
        let (mut here, mut on_the_server) = (without_use(ask(arguments)), without_use(there(arguments)));
        if arguments[0] == "keys" {
            // A server tells of keys that may still be used.
            for all in [&mut here, &mut on_the_server] {
                all["keys"].as_array_mut().unwrap().retain(|key| key["status"] == "active");
            }
        }
        assert_eq!(here, on_the_server, "{arguments:?}");
    }
    assert_eq!(ask(&["admin", "retention", "--project", project])["retention_type"], "zero_data_retention");
    let logged = ask(&["audit", "ls", "--limit", "5"]);
    let local = there(&["audit", "ls", "--limit", "5"]);
    for (here, on_the_server) in
        logged["entries"].as_array().unwrap().iter().zip(local["entries"].as_array().unwrap())
    {
        for field in ["id", "type", "effective_at", "actor", "resource", "hash"] {
            assert_eq!(here[field], on_the_server[field], "{field} of {here}");
        }
    }
    assert_eq!(logged["entries"].as_array().unwrap().len(), 5);
    // A key that reads changes nothing, and ended keys end.
    let reads = second["key"].as_str().unwrap();
    assert_eq!(told(&ask_with(reads, &["admin", "projects", "create", "third"])).0, 4);
    assert_eq!(told(&ask_with(reads, &["prices", "set", "*", "--pass", "1"])).0, 4);
    money_people_and_shares(&ask, &there, project);
    ask(&["admin", "limits", "rm", project]);
    assert_eq!(ask(&["admin", "limits", "ls", project])["limits"], Value::Array(vec![]));
    // The server's own words: a service account's keys end with it.
    let revoked = ask_with(admin, &["keys", "revoke", rotated["id"].as_str().unwrap(), "--project", project]);
    assert_eq!(told(&revoked).1, "service_account_key");
    let made = parsed(command(house.folder.path(), &["keys", "create", "--json"]).output().unwrap());
    ask(&["keys", "revoke", made["id"].as_str().unwrap()]);
    assert_eq!(told(&ask_with(made["key"].as_str().unwrap(), &["ls"])).0, 4);
    ask(&["admin", "service-accounts", "rm", project, id]);
    assert_eq!(told(&ask_with(secret, &["ls"])).0, 4);
    ask(&["admin", "keys", "revoke", second["id"].as_str().unwrap()]);
    assert_eq!(told(&ask_with(reads, &["admin", "users", "ls"])).0, 4);
    ask(&["admin", "projects", "archive", project]);
    // A project's key administers nothing.
    assert_eq!(house.refused(&["admin", "projects", "ls"]).0, 4);
}

/// What is changed from here is read there, and the log that tells of it is recomputed here.
fn money_people_and_shares(ask: &dyn Fn(&[&str]) -> Value, there: &dyn Fn(&[&str]) -> Value, project: &str) {
    let price = ask(&["prices", "set", "poet", "--output", "0.5", "--input", "0.25"]);
    assert_eq!((&price["price"], &price["org"], &price["project"]), (&1.into(), &"*".into(), &"*".into()));
    assert_eq!(price["usd_per_million"]["cached_input"], 0.25);
    ask(&["prices", "set", "*", "--pass", "3", "--org", "default", "--project", project]);
    ask(&["budgets", "set", "2.5"]);
    ask(&["budgets", "set", "1", "--project", project, "--period", "total"]);
    ask(&["admin", "guard", project, "--input", "mask", "--types", "EMAIL_ADDRESS", "--threshold", "0.4"]);
    let ann = ask(&["admin", "users", "add", "Ann", "--email", "ann@example.com", "--role", "owner"]);
    assert_eq!((&ann["name"], &ann["role"]), (&"Ann".into(), &"owner".into()));
    let shared = ask(&["admin", "shares", "add", "points", "--with", project]);
    assert_eq!((&shared["model"], &shared["with"]), (&"points".into(), &project.into()));
    ask(&["admin", "shares", "add", "points", "--all-projects"]);
    for arguments in [
        &["prices", "list"][..],
        &["budgets", "list"],
        &["admin", "guard", project],
        &["admin", "users", "ls"],
        &["admin", "shares", "ls"],
        &["audit", "verify"],
    ] {
        assert_eq!(ask(arguments), there(arguments), "{arguments:?}");
    }
    assert_eq!(ask(&["budgets", "list"])["budgets"].as_array().unwrap().len(), 2);
    let head = ask(&["audit", "verify"])["head"].as_str().unwrap().to_owned();
    ask(&["admin", "shares", "remove", "points", "--all-projects"]);
    ask(&["budgets", "rm", "--project", project, "--period", "total"]);
    let passed = ask(&["audit", "verify", "--head", &head]);
    assert_ne!(passed["head"], head.as_str(), "two acts came behind it");
    assert_eq!(ask(&["admin", "shares", "ls"])["shares"].as_array().unwrap().len(), 1);
    assert_eq!(ask(&["budgets", "list"])["budgets"].as_array().unwrap().len(), 1);
    let log = ask(&["audit", "ls", "--limit", "200"]);
    let kinds: Vec<&str> =
        log["entries"].as_array().unwrap().iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    for kind in ["price.created", "budget.created", "budget.deleted", "user.added", "model.shared"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }
}

/// A receipt that the server's key signed is checked here, against the bytes of request and answer, and there.
fn receipts(house: &House) {
    use lyceum_service::card::seal::{Signer, sign};
    let signer = Signer::of(&lyceum_store::Layout::new(house.folder.path().join("data"))).unwrap();
    let sha256 = |text: &str| lyceum_train::checkpoint::digest(text.as_bytes());
    let document = |answer: &str| {
        let json = serde_json::json!({"object": "privacy_receipt", "request_sha256": sha256("{}"),
            "answer_sha256": sha256(answer)});
        sign(&signer, json)
    };
    let write = |name: &str, text: String| std::fs::write(house.client.path().join(name), text).unwrap();
    write("asked.json", "{}".into());
    write("answer.json", "yes".into());
    write("receipt.json", document("yes").to_string());
    let streamed = serde_json::json!({"choices": [], "privacy_receipt": document("data: a\n\n")});
    write("stream.txt", format!("data: a\n\nevent: privacy_receipt\ndata: {streamed}\n\ndata: [DONE]\n\n"));
    let check = ["privacy", "receipt", "receipt.json", "--request", "asked.json", "--answer", "answer.json"];
    let far = house.line(&check);
    assert_eq!(
        (&far["request"], &far["answer"], &far["signed_by_this_server"]),
        (&true.into(), &true.into(), &true.into())
    );
    let near = command(house.client.path(), &[&check[..], &["--json"]].concat()).output().unwrap();
    let near: Value = serde_json::from_slice(&near.stdout).unwrap();
    assert_eq!((&near["holds"], &near["public_key"]), (&true.into(), &far["public_key"]));
    assert_eq!(house.line(&["privacy", "receipt", "stream.txt", "--answer", "stream.txt"])["answer"], true);
    assert_eq!(
        house.refused(&["privacy", "receipt", "receipt.json", "--answer", "asked.json"]).1,
        "receipt_does_not_hold"
    );
    write("receipt.json", document("yes").to_string().replace("privacy_receipt", "privacy_receipts"));
    assert_eq!(house.refused(&["privacy", "receipt", "receipt.json"]).1, "receipt_does_not_hold");
    assert_eq!(house.refused(&["privacy", "receipt", "asked.json"]).0, 1);
    assert_eq!(house.refused(&["privacy", "receipt", "answer.json"]).0, 2, "it holds no receipt");
}

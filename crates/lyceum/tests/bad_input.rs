//! What people get wrong, at the program's own door: each mistake has an error that names the place and the
//! fix, the exit code of the documents, and leaves nothing half-written.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = program::command(folder, arguments);
    command.arg("--json");
    command
}

fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().unwrap()
}

#[track_caller]
fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(String::from_utf8_lossy(&output.stdout).lines().last().unwrap()).unwrap()
}

/// The exit code and the error, which is the last line of stderr with all its fields.
#[track_caller]
fn refused(output: &Output) -> (i32, Value) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().unwrap_or_default();
    let error: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("not JSON: {stderr}"));
    for field in ["code", "message", "why", "fix"] {
        assert!(error["error"][field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {error}");
    }
    (output.status.code().unwrap(), error["error"].clone())
}

/// No version, none half-written, and nothing in staging.
#[track_caller]
fn nothing_is_left(folder: &Path) {
    let models = done(&lyceum(folder, &["ls"]));
    assert_eq!(models["models"], Value::Array(vec![]));
    for name in ["models", "staging"] {
        let left: Vec<_> = std::fs::read_dir(folder.join("data").join(name)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
}

fn spec(train: &str, data: &str, model: &str, train_keys: &str) -> String {
    format!(
        "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"{train}\"\n{data}\n[model]\n{model}\n[train]\n\
         epochs = 2\nbatch_size = 8\n{train_keys}\n"
    )
}

const MLP: &str = "family = \"mlp\"\nhidden = [8]";
const CNN: &str = "family = \"cnn\"\nconv = [{ channels = 2, kernel = 2 }]";

/// The header and forty rows; line 17 is the sixteenth row.
fn lines() -> Vec<String> {
    let mut lines = vec!["x,y,label".to_owned()];
    lines.extend((0..40).map(|i| format!("{}.5,{},{}", i % 7, i % 5, if i % 3 == 0 { "no" } else { "yes" })));
    lines
}

fn csv(change: impl FnOnce(&mut Vec<String>)) -> Vec<u8> {
    let mut lines = lines();
    change(&mut lines);
    (lines.join("\n") + "\n").into_bytes()
}

#[test]
fn each_bad_table_is_refused_at_its_place() {
    let good = csv(|_| {});
    let column = |line: &String| line.rsplit_once(',').unwrap().0.to_owned();
    type Case = (&'static str, Vec<u8>, &'static str, Option<u64>, Option<&'static str>);
    let cases: [Case; 7] = [
        ("missing_column", csv(|l| *l = l.iter().map(column).collect()), "", None, Some("label")),
        ("missing_target", csv(|l| l[10] = "1,2,".into()), "", Some(11), Some("label")),
        ("not_a_number", csv(|l| l[16] = "1,two,yes".into()), "", Some(17), Some("y")),
        ("empty_file", vec![], "", None, None),
        ("no_rows", csv(|l| l.truncate(1)), "", None, None),
        ("ragged_row", csv(|l| l[20] = "1,2".into()), "", Some(21), None),
        ("unseen_label", good.clone(), "valid = \"valid.csv\"", Some(3), Some("label")),
    ];
    for (code, bytes, data, line, key) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("rows.csv"), bytes).unwrap();
        std::fs::write(folder.path().join("valid.csv"), "x,y,label\n1,2,yes\n1,2,maybe\n").unwrap();
        let data = format!("target = \"label\"\n{data}");
        std::fs::write(folder.path().join("spec.toml"), spec("rows.csv", &data, MLP, "")).unwrap();
        for asked in [&["train", "spec.toml"], &["preview", "spec.toml"]] {
            let (exit, error) = refused(&lyceum(folder.path(), asked));
            assert_eq!((exit, error["code"].as_str()), (1, Some(code)), "{error}");
            assert_eq!((error["line"].as_u64(), error["key"].as_str()), (line, key), "{error}");
            let file = if code == "unseen_label" { "valid.csv" } else { "rows.csv" };
            assert_eq!(error["file"], file, "{error}");
        }
        nothing_is_left(folder.path());
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plain = csv(|_| {});
    let windows =
        [b"\xef\xbb\xbf", &String::from_utf8(plain.clone()).unwrap().replace('\n', "\r\n").into_bytes()[..]];
    let mut weights = Vec::new();
    for bytes in [plain, windows.concat()] {
        std::fs::write(folder.path().join("rows.csv"), bytes).unwrap();
        std::fs::write(folder.path().join("spec.toml"), spec("rows.csv", "target = \"label\"", MLP, ""))
            .unwrap();
        let done = done(&lyceum(folder.path(), &["train", "spec.toml"]));
        weights.push(
            std::fs::read(Path::new(done["path"].as_str().unwrap()).join("model.safetensors")).unwrap(),
        );
    }
    assert_eq!(weights[0], weights[1]);
}

#[test]
fn a_slip_in_the_spec_is_a_usage_error_with_its_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.csv"), csv(|_| {})).unwrap();
    for (data, train, code, line, key) in [
        ("target = \"label\"\nvlaid_fraction = 0.1", "", "unknown_key", 6, "data.vlaid_fraction"),
        (
            "target = \"label\"",
            "optimizer = { name = \"sgd\", lr = -0.1 }",
            "out_of_range",
            12,
            "train.optimizer.lr",
        ),
    ] {
        std::fs::write(folder.path().join("spec.toml"), spec("rows.csv", data, MLP, train)).unwrap();
        let (exit, error) = refused(&lyceum(folder.path(), &["train", "spec.toml"]));
        assert_eq!((exit, error["code"].as_str()), (2, Some(code)), "{error}");
        assert_eq!((error["line"].as_u64(), error["key"].as_str()), (Some(line), Some(key)), "{error}");
        // The spec is read before the data folder is made.
        assert!(!folder.path().join("data").exists());
    }
}

#[test]
fn a_model_that_is_not_there_is_not_found_by_any_command() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.csv"), csv(|_| {})).unwrap();
    for arguments in [
        &["show", "nobody"][..],
        &["predict", "nobody", "rows.csv"],
        &["eval", "nobody", "rows.csv"],
        &["run", "nobody", "hello"],
        &["export", "nobody"],
        &["rm", "nobody@1"],
    ] {
        let (exit, error) = refused(&lyceum(folder.path(), arguments));
        assert_eq!((exit, error["code"].as_str()), (3, Some("model_not_found")), "{arguments:?}: {error}");
        assert!(error["fix"].as_str().unwrap().contains("lyceum ls"), "{error}");
    }
}

/// A grey picture of 2 by 2 pixels.
const PNG: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52, 0x00,
    0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x02, 0x08, 0x00, 0x00, 0x00, 0x00, 0x57, 0xdd, 0x52, 0xf8, 0x00,
    0x00, 0x00, 0x0e, 0x49, 0x44, 0x41, 0x54, 0x78, 0x9c, 0x63, 0x60, 0xf8, 0xcf, 0xd0, 0xe0, 0x00, 0x00,
    0x05, 0x42, 0x01, 0xc0, 0x70, 0x36, 0x36, 0xd6, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae,
    0x42, 0x60, 0x82,
];

/// A sound of 16-bit samples.
fn wav(rate: u32, samples: u32) -> Vec<u8> {
    let data: Vec<u8> = (0..samples).flat_map(|i| ((i * 37 % 2000) as i16).to_le_bytes()).collect();
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * 2).to_le_bytes());
    bytes.extend(b"\x02\0\x10\0data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn pictures_and_sounds_that_do_not_fit_are_named() {
    let image = "input = { type = \"image\", shape = [1, 2, 2] }";
    let wide = "input = { type = \"image\", shape = [1, 2, 3] }";
    let audio = "input = { type = \"audio\", sample_rate = 8000, seconds = 0.1, n_mels = 4 }";
    type Case<'a> = (&'a str, &'a str, &'a str, Vec<u8>, Vec<u8>, &'a str);
    let cases: [Case<'_>; 5] = [
        ("broken_image", "png", image, PNG.to_vec(), PNG[..PNG.len() / 2].to_vec(), "cut short"),
        ("wrong_image_size", "png", wide, PNG.to_vec(), PNG.to_vec(), "resize it to 3×2"),
        ("wrong_sample_rate", "wav", audio, wav(8000, 800), wav(16_000, 1600), "resample it to 8000 Hz"),
        ("too_long", "wav", audio, wav(8000, 800), wav(8000, 1600), "input.truncate"),
        ("broken_wav", "wav", audio, wav(8000, 800), wav(8000, 800)[..500].to_vec(), "cut short"),
    ];
    for (code, kind, input, good, bad, fix) in cases {
        let folder = tempfile::tempdir().unwrap();
        for (class, bytes) in [("a", &good), ("b", &good), ("b", &bad)] {
            let dir = folder.path().join("files").join(class);
            std::fs::create_dir_all(&dir).unwrap();
            let n = std::fs::read_dir(&dir).unwrap().count();
            std::fs::write(dir.join(format!("{n}.{kind}")), bytes).unwrap();
        }
        std::fs::write(folder.path().join("spec.toml"), spec("files", input, CNN, "")).unwrap();
        let (exit, error) = refused(&lyceum(folder.path(), &["train", "spec.toml"]));
        assert_eq!((exit, error["code"].as_str()), (1, Some(code)), "{error}");
        assert!(error["fix"].as_str().unwrap().contains(fix), "{error}");
        if code != "wrong_image_size" {
            assert_eq!(error["file"], format!("files/b/1.{kind}"), "{error}");
        }
        nothing_is_left(folder.path());
    }
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_in_a_model_is_found_by_all_who_read_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.csv"), csv(|_| {})).unwrap();
    std::fs::write(folder.path().join("spec.toml"), spec("rows.csv", "target = \"label\"", MLP, "")).unwrap();
    let done = done(&lyceum(folder.path(), &["train", "spec.toml"]));
    let version = PathBuf::from(done["path"].as_str().unwrap());
    let eval: &[&str] = &["eval", "m", "rows.csv"];
    let readers: [&[&str]; 3] = [&["predict", "m", "rows.csv"], eval, &["export", "m", "--output", "out"]];
    for (file, asked) in [
        ("model.safetensors", &readers[..]),
        ("manifest.json", &readers),
        // Only an evaluation and those who hand the model on read it.
        ("trivial_baseline.safetensors", &readers[1..]),
    ] {
        flip(&version.join(file));
        for arguments in asked {
            let (exit, error) = refused(&lyceum(folder.path(), arguments));
            assert_eq!(
                (exit, error["code"].as_str()),
                (1, Some("damaged_model")),
                "{file} {arguments:?}: {error}"
            );
            assert!(error["fix"].as_str().unwrap().contains("lyceum rm m@1"), "{error}");
        }
        assert!(!folder.path().join("out").exists());
        flip(&version.join(file));
    }
    assert!(lyceum(folder.path(), eval).status.success(), "whole again");
}

/// A run that was stopped after a checkpoint, and the folder of its last checkpoint.
fn stopped(folder: &Path) -> (String, PathBuf) {
    std::fs::write(folder.join("rows.csv"), csv(|_| {})).unwrap();
    let text = spec("rows.csv", "target = \"label\"", MLP, "checkpoint_every = 50");
    std::fs::write(folder.join("spec.toml"), text.replace("epochs = 2", "steps = 4000000")).unwrap();
    let mut child = command(folder, &["train", "spec.toml"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut lines = std::io::BufRead::lines(reader).map_while(Result::ok);
    assert!(lines.any(|line| line.contains("\"checkpoint\"")), "the run ended before its first checkpoint");
    child.kill().unwrap();
    child.wait().unwrap();
    let jobs = done(&lyceum(folder, &["jobs", "ls"]));
    let id = jobs["jobs"][0]["id"].as_str().unwrap().to_owned();
    let all = std::fs::read_dir(folder.join("data/jobs").join(&id).join("checkpoints")).unwrap();
    let mut all: Vec<PathBuf> = all
        .flatten()
        .map(|e| e.path())
        .filter(|p| !p.file_name().unwrap().to_string_lossy().starts_with('.'))
        .collect();
    all.sort();
    (id, all.pop().unwrap())
}

#[test]
fn a_flipped_byte_in_a_checkpoint_stops_the_resume_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let (id, checkpoint) = stopped(folder.path());
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        flip(&checkpoint.join(file));
        let (exit, error) = refused(&lyceum(folder.path(), &["jobs", "resume", &id]));
        assert_eq!((exit, error["code"].as_str()), (1, Some("damaged_checkpoint")), "{error}");
        assert!(error["file"].as_str().unwrap().ends_with(checkpoint.file_name().unwrap().to_str().unwrap()));
        assert!(
            error["why"].as_str().unwrap().contains(file)
                && error["fix"].as_str().unwrap().contains("remove")
        );
        flip(&checkpoint.join(file));
    }
    nothing_is_left(folder.path());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_says_so_and_the_job_goes_on_when_there_is_room() {
    // A file system with room for the database and no checkpoint needs a namespace of its own, which not every machine gives.
    let folder = tempfile::tempdir().unwrap();
    let probe = Command::new("unshare").args(["-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine lets no test mount a small file system (unshare -rm)");
        return;
    }
    std::fs::write(folder.path().join("rows.csv"), csv(|_| {})).unwrap();
    let text = spec(
        "rows.csv",
        "target = \"label\"",
        "family = \"mlp\"\nhidden = [512, 256]",
        "checkpoint_every = 5",
    );
    std::fs::write(folder.path().join("spec.toml"), text.replace("epochs = 2", "steps = 20")).unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    let script = "mount -t tmpfs -o size=1200k tmpfs data && \"$LYCEUM\" train spec.toml --json >out 2>err; \
        echo $? >code; \"$LYCEUM\" ls --json >ls; find data/models data/staging -type f >left; \
        find data/jobs -name '*.part' >>left; mount -o remount,size=50m data && \
        \"$LYCEUM\" jobs resume \"$(basename data/jobs/*)\" --json >resumed";
    let mut shell = Command::new("unshare");
    shell
        .args(["-rm", "sh", "-c", script])
        .current_dir(folder.path())
        .env("LYCEUM", env!("CARGO_BIN_EXE_lyceum"));
    shell.env("LYCEUM_DATA_DIR", "data").env("LYCEUM_THREADS", "2").env("LYCEUM_CONFIG", "none.toml");
    let ran = shell.output().unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(ran.status.success(), "{}{}", String::from_utf8_lossy(&ran.stderr), read("err"));
    let error: Value = serde_json::from_str(read("err").lines().last().unwrap()).unwrap();
    assert_eq!((read("code").trim(), error["error"]["code"].as_str()), ("1", Some("disk_full")), "{error}");
    assert!(error["error"]["fix"].as_str().unwrap().contains("lyceum jobs resume"), "{error}");
    assert_eq!((read("left").as_str(), read("ls").trim()), ("", "{\"models\":[]}"));
    let done: Value = serde_json::from_str(read("resumed").lines().last().unwrap()).unwrap();
    assert_eq!((&done["event"], &done["steps"]), (&Value::from("done"), &Value::from(20)));
}

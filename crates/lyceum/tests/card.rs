//! `lyceum card` as people and scripts use it: every section says what it knows or that it does not, and a flipped
//! byte in the card, the weights or the manifest is noticed.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use program::{points, side};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    program::command(folder, arguments).output().unwrap()
}

#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn trained(privacy: &str, extra: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = points(120, ["x", "noise"], |a, b| side(a, 0.2 * b));
    std::fs::write(folder.path().join("rows.csv"), text).unwrap();
    let spec = format!(
        "name = \"points\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"rows.csv\"\ntarget = \"label\"\n\
         {extra}\n[model]\nfamily = \"mlp\"\nhidden = [8]\n[train]\nsteps = 60\nbatch_size = 8\n\
         optimizer = {{ name = \"sgd\", lr = 0.5 }}\n{privacy}"
    );
    std::fs::write(folder.path().join("spec.toml"), spec).unwrap();
    json(&lyceum(folder.path(), &["train", "spec.toml", "--json"]));
    folder
}

const PARTS: [&str; 10] = [
    "identity",
    "data",
    "training",
    "quality",
    "calibration",
    "privacy",
    "explainability",
    "robustness",
    "environments",
    "cost",
];

#[track_caller]
fn is_whole(card: &Value) {
    let sections = card["sections"].as_object().unwrap();
    assert_eq!(sections.keys().collect::<Vec<_>>(), PARTS);
    for (name, section) in sections {
        let n = |field: &str| section[field].as_array().unwrap().len();
        assert!(n("facts") + n("numbers") + n("not_evaluated") > 0, "{name} is blank");
        for missing in section["not_evaluated"].as_array().unwrap() {
            assert!(
                ["what", "why", "how"].iter().all(|f| !missing[f].as_str().unwrap().is_empty()),
                "{missing}"
            );
        }
        for number in section["numbers"].as_array().unwrap() {
            assert!(number["value"].is_f64() || number["value"].is_u64(), "{number}");
            for field in ["method", "date", "recompute", "interval", "of"] {
                assert!(!number[field].as_str().unwrap().is_empty(), "{field} of {number}");
            }
            for field in ["ci95", "n", "seed"] {
                let stated = &number[field];
                let words = stated.as_str().unwrap_or("not_");
                assert!(!stated.is_null() && words.starts_with("not_"), "{field} of {number}");
            }
        }
    }
}

fn find<'a>(card: &'a Value, part: &str, name: &str) -> Option<&'a Value> {
    card["sections"][part]["numbers"].as_array().unwrap().iter().find(|n| n["name"] == name)
}

#[test]
fn a_card_is_whole_grows_with_what_is_measured_and_notices_every_change() {
    let folder = trained("", "valid_fraction = 0.25");
    let dir = folder.path();
    let card = json(&lyceum(dir, &["card", "points", "--json"]));
    is_whole(&card);
    assert_eq!(card["object"], "model_card");
    let accuracy = find(&card, "quality", "valid_accuracy").unwrap();
    assert!(accuracy["ci95"].is_array() && accuracy["n"] == 30, "{accuracy}");
    assert!(find(&card, "calibration", "ece").is_some());
    assert!(
        find(&card, "privacy", "epsilon").is_none() && find(&card, "robustness", "robust_accuracy").is_none()
    );
    assert!(card["signed_by"]["statement"].as_str().unwrap().contains("does not prove"));
    // Nothing new is known: the same card again, bit for bit.
    assert_eq!(json(&lyceum(dir, &["card", "points", "--json"])), card);
    let checks = json(&lyceum(dir, &["card", "points", "--verify", "--json"]));
    assert_eq!(checks["verified"], true, "{checks}");
    let state = |checks: &Value, name: &str| {
        let all = checks["checks"].as_array().unwrap();
        all.iter()
            .find(|check| check["name"] == name)
            .map(|check| check["state"].as_str().unwrap().to_owned())
    };
    for name in
        ["signature", "key", "files", "weights and probes", "contents", "calibration", "validation accuracy"]
    {
        assert_eq!(state(&checks, name).as_deref(), Some("passed"), "{name}: {checks}");
    }
    assert_eq!(state(&checks, "epsilon").as_deref(), Some("not_evaluated"));

    // An attack lands on the card, and the old card is seen to say less than is known.
    std::fs::write(dir.join("old.json"), card.to_string()).unwrap();
    json(&lyceum(dir, &["attack", "points", "rows.csv", "--rows", "40", "--json"]));
    let newer = json(&lyceum(dir, &["card", "points", "--json"]));
    is_whole(&newer);
    let robust = find(&newer, "robustness", "robust_accuracy").unwrap();
    assert_eq!((&robust["at"]["value"], &robust["n"]), (&0.1.into(), &40.into()), "{robust}");
    assert!(robust["recompute"].as_str().unwrap().starts_with("lyceum attack points@1 rows.csv --rows 40"));
    let output = lyceum(dir, &["card", "points", "--verify", "old.json", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("card_refused"));

    // What an answer costs is measured when somebody asks for it.
    let blank = newer["sections"]["cost"]["not_evaluated"].to_string();
    assert!(blank.contains("lyceum card points@1 --measure"), "{blank}");
    let measured = json(&lyceum(dir, &["card", "points", "--measure", "--json"]));
    is_whole(&measured);
    let median = find(&measured, "cost", "time of an answer, median").unwrap();
    let (low, high) = (median["ci95"][0].as_f64().unwrap(), median["ci95"][1].as_f64().unwrap());
    let value = median["value"].as_f64().unwrap();
    assert!(0.0 < low && low <= value && value <= high && median["n"].as_u64().unwrap() >= 30, "{median}");
    assert!(find(&measured, "cost", "memory of the weights as served").is_some());
    assert!(!measured["sections"]["cost"]["not_evaluated"].to_string().contains("--measure"));

    // People's forms say the same.
    let markdown = String::from_utf8(lyceum(dir, &["card", "points"]).stdout).unwrap();
    assert!(
        markdown.contains("# Model card: points@1") && markdown.contains("`not_evaluated`"),
        "{markdown}"
    );
    assert!(lyceum(dir, &["card", "points", "--out", "card.html"]).status.success());
    let html = std::fs::read_to_string(dir.join("card.html")).unwrap();
    assert!(html.contains("<svg role=\"img\"") && html.contains("prefers-color-scheme:dark"));
    assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("http://"));
    for title in ["Accuracy beside baselines", "Reliability", "Accuracy over linf eps"] {
        assert!(html.contains(title), "{title}");
    }

    // One changed number in the card; the signature says so.
    let text = newer.to_string();
    let forged = text.replacen("\"n\":30", "\"n\":31", 1);
    assert_ne!(forged, text);
    std::fs::write(dir.join("forged.json"), forged).unwrap();
    let output = lyceum(dir, &["card", "points", "--verify", "forged.json", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("signature: "));

    let version = dir.join("data/models/points/1");
    let evidence = std::fs::read_dir(&version).unwrap().map(|entry| entry.unwrap().file_name());
    let evidence: Vec<_> = evidence.filter(|name| name.to_string_lossy().starts_with("evidence-")).collect();
    assert_eq!(evidence.len(), 2, "an attack and a measurement of costs");
    for (file, at) in [("model.safetensors", -3), ("manifest.json", 60), (evidence[0].to_str().unwrap(), 200)]
    {
        let path = version.join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let at = if at < 0 { whole.len() - 3 } else { at as usize };
        flipped[at] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        let output = lyceum(dir, &["card", "points", "--verify", "--json"]);
        assert_eq!(output.status.code(), Some(1), "{file}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stderr).contains("files: "), "{file}");
        std::fs::write(&path, whole).unwrap();
    }
    let checks = json(&lyceum(dir, &["card", "points", "--verify", "--json"]));
    assert_eq!(checks["verified"], true, "all is as it was: {checks}");
    let key = std::fs::read(dir.join("data/card_signing.key")).unwrap();
    assert_eq!(key.len(), 32);
}

#[test]
fn a_private_versions_card_tells_epsilon_and_computes_it_again() {
    let privacy = "[privacy]\ntype = \"dp_sgd\"\nsigma = 2.0\ntarget_delta = 1e-4\nmax_grad_norm = 1.0\n\
         public = [\"rows\", \"labels\"]\ninsecure_seed = 5\n";
    let folder = trained(privacy, "standardize = false\ncolumns = { x = \"number\", noise = \"number\" }");
    let card = json(&lyceum(folder.path(), &["card", "points", "--json"]));
    is_whole(&card);
    let epsilon = find(&card, "privacy", "epsilon").unwrap();
    let command = epsilon["recompute"].as_str().unwrap();
    let mut arguments: Vec<&str> = command.split(' ').skip(1).collect();
    arguments.push("--json");
    let again = json(&lyceum(folder.path(), &arguments));
    let (said, again) = (epsilon["value"].as_f64().unwrap(), again["epsilon"].as_f64().unwrap());
    assert!((said - again).abs() < 1e-9, "the command on the card gives {again}, it says {said}");
    let checks = json(&lyceum(folder.path(), &["card", "points", "--verify", "--json"]));
    let of =
        |name: &str| checks["checks"].as_array().unwrap().iter().find(|c| c["name"] == name).unwrap().clone();
    assert_eq!(of("epsilon")["state"], "passed", "{checks}");
    assert_eq!(of("calibration")["state"], "not_evaluated");
}

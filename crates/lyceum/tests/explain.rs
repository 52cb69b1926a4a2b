//! `lyceum explain` as people and scripts use it: a table that a line parts, trained here.

#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

mod program;

use program::{points, side};
use serde_json::Value;
use std::path::Path;
use std::process::Output;
use std::sync::LazyLock;

static TRAINED: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let text = points(120, ["x", "noise"], |a, _| side(a, 0.0));
    std::fs::write(folder.path().join("rows.csv"), text).unwrap();
    let spec = "name = \"points\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"rows.csv\"\n\
        valid_fraction = 0.25\ntarget = \"label\"\n[model]\nfamily = \"mlp\"\nhidden = [8]\n[train]\nepochs = 20\n\
        batch_size = 8\noptimizer = { name = \"adam\", lr = 0.02 }\n";
    std::fs::write(folder.path().join("spec.toml"), spec).unwrap();
    let output = lyceum(folder.path(), &["train", "spec.toml", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
});

fn lyceum(folder: &Path, arguments: &[&str]) -> Output {
    program::command(folder, arguments).output().unwrap()
}

fn explain(arguments: &[&str]) -> Output {
    let mut all = vec!["explain", "points", "--input", "{\"x\": 0.9, \"noise\": -0.4}"];
    all.extend_from_slice(arguments);
    lyceum(TRAINED.path(), &all)
}

#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_column_that_matters_is_named_with_its_value_and_the_change_that_flips_it_is_true() {
    let e = json(&explain(&["--json", "--evaluate", "comprehensiveness,sufficiency", "--counterfactual"]));
    assert_eq!(
        (&e["object"], &e["method"], &e["exact"]),
        (&"explanation".into(), &"shapley".into(), &true.into())
    );
    assert_eq!(e["target"]["label"], "above");
    let of = |i: usize| e["attributions"][i]["value"].as_f64().unwrap();
    assert_eq!((&e["attributions"][0]["feature"], &e["attributions"][0]["x"]), (&"x".into(), &0.9.into()));
    assert!(of(0) > 5.0 * of(1).abs(), "x counts, noise does not: {}", e["attributions"]);
    assert_eq!(e["checks"]["complete"], true);
    let c = &e["counterfactual"];
    assert_eq!((&c["label"], &c["verified"]), (&"below".into(), &true.into()), "{c}");
    assert_eq!(c["changes"][0]["feature"], "x");
    assert!(c["changes"][0]["to"].as_f64().unwrap() < 0.2, "{c}");
}

#[test]
fn the_rows_behind_an_answer_are_named_by_file_and_row() {
    let e = json(&explain(&["--json", "--method", "tracin"]));
    assert_eq!((&e["object"], &e["method"]), (&"row_influence".into(), &"tracin".into()));
    assert_eq!(
        (&e["file"], &e["n_rows"], &e["target"]["label"]),
        (&"rows.csv".into(), &90.into(), &"above".into())
    );
    assert_eq!(e["checkpoints"].as_array().unwrap().len(), 2, "{e}");
    assert_eq!(e["usage"]["forward_passes"], 2 * 91);
    let rows = e["rows"]["lowered_loss"].as_array().unwrap();
    let influence = |row: &Value| row["influence"].as_f64().unwrap();
    assert!(!rows.is_empty() && rows.windows(2).all(|two| influence(&two[0]) >= influence(&two[1])), "{e}");
    // A row that says the same pulls towards it; and the file has what the answer says of its row.
    assert_eq!(rows[0]["label"], "above");
    let text = std::fs::read_to_string(TRAINED.path().join("rows.csv")).unwrap();
    for row in rows.iter().chain(e["rows"]["raised_loss"].as_array().unwrap()) {
        let line = text.lines().nth(1 + row["row"].as_u64().unwrap() as usize).unwrap();
        assert!(line.ends_with(row["label"].as_str().unwrap()), "{line} {row}");
    }
    // The other answer's loss is lowered by other rows.
    let other = json(&explain(&["--json", "--method", "tracin", "--target", "below"]));
    assert_eq!(other["rows"]["lowered_loss"][0]["label"], "below");
    let text = String::from_utf8(explain(&["--method", "tracin"]).stdout).unwrap();
    assert!(text.contains("rows.csv") && text.contains("influence"), "{text}");
    for (arguments, code) in [
        (vec!["--max-passes", "50"], "too_many_passes"),
        (vec!["--baseline", "zeros"], "unsupported_parameter"),
        (vec!["--granularity", "feature"], "unsupported_parameter"),
        (vec!["--target", "sideways"], "unsupported_target"),
    ] {
        let mut all = vec!["--json", "--method", "tracin"];
        all.extend(arguments);
        let output = explain(&all);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(code), "{output:?}");
    }
}

#[test]
fn people_get_bars_and_files_that_stand_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (svg, html) = (path("why.svg"), path("why.html"));
    let output = explain(&["--svg", &svg, "--html", &html, "--method", "integrated_gradients"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("why above") && text.contains("x = 0.9") && text.contains("adds up"), "{text}");
    assert!(!text.contains('\x1b'), "no colours where there is no terminal");
    let svg = std::fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("x = 0.9"));
    let html = std::fs::read_to_string(html).unwrap();
    assert!(html.contains("<svg") && html.contains("completeness_gap") && !html.contains("http://127"));
}

#[test]
fn what_cannot_be_explained_says_why() {
    for (arguments, code, word) in [
        (&["--method", "grad_cam"][..], 1, "convolutions"),
        (&["--method", "magic"], 2, "magic"),
        (&["--method", "saliency", "--n-steps", "5"], 2, "n_steps"),
        (&["--target", "sideways"], 1, "sideways"),
        (&["--png", "x.png"], 2, "--png"),
        (&["--completion", "more"], 2, "--completion"),
    ] {
        let mut all = vec!["--json"];
        all.extend_from_slice(arguments);
        let output = explain(&all);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(word), "{arguments:?}: {error}");
    }
}

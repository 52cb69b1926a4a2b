//! `[gate]` and `[privacy]`: what a version promises of itself.

use super::*;

#[test]
fn a_gate_is_read_and_needs_rows_of_its_own() {
    let with = |data: &str, rest: &str| PLAIN.replace("[model]", &format!("{data}\n[model]")) + rest;
    let gate = "[gate]\nmax_drop = 0.02\nrows = 100\nsuite = [{ type = \"pgd\", eps = 0.1, steps = 5 }]\n";
    let spec = parse(&with("test = \"test.csv\"", gate));
    let found = spec.gate.clone().unwrap();
    assert_eq!((found.max_drop, found.rows, found.file(&spec.data)), (0.02, Some(100), Some("test.csv")));
    assert_eq!(found.suite.unwrap(), [serde_json::json!({"type": "pgd", "eps": 0.1, "steps": 5})]);
    // What a resumed job reads.
    let again: Spec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(again, spec);
    assert_eq!(parse(&with("", "[gate]\nmax_drop = 0\ndata = \"own.csv\"\n")).gate.unwrap().suite, None);

    check(&with("valid_fraction = 0.2", "[gate]\nmax_drop = 0.1\n"), &["11:1 gate.data contradiction"]);
    check(&with("", "[gate]\ndata = \"t\"\n"), &["11:1 gate.max_drop missing_key"]);
    check(
        &with("", "[gate]\ndata = \"t\"\nmax_drop = 2\nsuite = [1, 2021-01-01]\nsuit = 1\n"),
        &[
            "13:12 gate.max_drop out_of_range",
            "14:10 gate.suite[0] wrong_type",
            "14:13 gate.suite[1] wrong_type",
            "15:1 gate.suit unknown_key",
        ],
    );
    check(&with("", "[gate]\ndata = \"t\"\nmax_drop = 0\nsuite = []\n"), &["14:9 gate.suite out_of_range"]);
    let other =
        with("", "[gate]\ndata = \"t\"\nmax_drop = 0\n").replace("\"classification\"", "\"regression\"");
    check(&other, &["11:1 gate contradiction"]);
    let private = "[gate]\ndata = \"t\"\nmax_drop = 0\n[privacy]\ntype = \"dp_sgd\"\nsigma = 1.0\n\
        target_delta = 1e-5\nmax_grad_norm = 1.0\n";
    check(&with("", private), &["11:1 gate contradiction"]);
    assert!(parse(&with("", &format!("{private}public = [\"evaluation\"]\n"))).gate.is_some());
}

#[test]
fn an_audit_by_canaries_is_read_and_a_named_budget_is_refused_by_name() {
    let private = "[privacy]\ntype = \"dp_sgd\"\nsigma = 1.0\ntarget_delta = 1e-5\nmax_grad_norm = 1.0\n";
    let with = |line: &str| format!("{PLAIN}{private}{line}\n");
    assert_eq!(parse(&with("audit = { canaries = 1000 }")).privacy.unwrap().audit.unwrap().canaries, 1000);
    assert_eq!(parse(&with("")).privacy.unwrap().audit, None);
    check(&with("audit = { canaries = 10 }"), &["15:22 privacy.audit.canaries out_of_range"]);
    check(&with("audit = {}"), &["15:9 privacy.audit.canaries missing_key"]);
    check(&with("budget = \"patients\""), &["15:1 privacy.budget not_yet"]);
    let other = with("audit = { canaries = 100 }").replace("\"classification\"", "\"regression\"");
    check(&other, &["15:9 privacy.audit contradiction"]);
}

const PRIVATE: &str = "type = \"dp_sgd\"\ntarget_epsilon = 3\ntarget_delta = 1e-5\nmax_grad_norm = 1.0\n";

fn private(data: &str, model: &str, train: &str, privacy: &str) -> String {
    format!(
        "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"x.csv\"\ntarget = \"y\"\n{data}\n\
         [model]\n{model}\n[train]\nepochs = 1\n{train}\n[privacy]\n{privacy}"
    )
}

#[test]
fn privacy_reads_with_its_defaults() {
    use crate::spec::privacy::{AccountantSpec, NoiseSpec, PublicStatistic};
    let mlp = "family = \"mlp\"\nhidden = [8]";
    let text = private("", mlp, "", &format!("{PRIVATE}public = [\"rows\", \"labels\"]"));
    let privacy = Spec::from_toml(&text, "s.toml").unwrap().privacy.unwrap();
    assert_eq!(privacy.noise, NoiseSpec::TargetEpsilon(3.0));
    assert_eq!((privacy.accountant, privacy.insecure_seed), (AccountantSpec::Pld, None));
    assert_eq!(privacy.public, [PublicStatistic::Rows, PublicStatistic::Labels]);
    let text = private("", mlp, "", "type = \"dp_sgd\"\nsigma = 1\ntarget_delta = 1e-5\nmax_grad_norm = 1");
    assert_eq!(Spec::from_toml(&text, "s.toml").unwrap().privacy.unwrap().noise, NoiseSpec::Sigma(1.0));
}

#[test]
fn what_breaks_privacy_is_refused_in_one_pass() {
    let text = private(
        "valid_fraction = 0.1\ntest = \"t.csv\"\nfolds = 3\nshuffle_labels = true",
        "family = \"cnn\"\nconv = [{ channels = 3, kernel = 3, norm = \"batch\" }]",
        "grad_clip = 1.0\nprecision = \"bf16\"\nearly_stopping = { patience = 3 }",
        &format!("{PRIVATE}sigma = 1.0\nbudget = \"bud_1\"\npublic = [\"everything\"]\nunit = \"person\""),
    );
    let errors = Spec::from_toml(&text, "s.toml").unwrap_err();
    let found: Vec<String> =
        errors.problems.iter().map(|p| format!("{} {}", p.key, p.code.as_str())).collect();
    for want in [
        "privacy.sigma contradiction",
        "privacy.budget not_yet",
        "privacy.public unknown_value",
        "privacy.unit unknown_value",
    ] {
        assert!(found.iter().any(|f| f == want), "{want} in {found:?}");
    }
    let text =
        text.replace("sigma = 1.0\nbudget = \"bud_1\"\npublic = [\"everything\"]\nunit = \"person\"", "");
    let errors = Spec::from_toml(&text, "s.toml").unwrap_err();
    let found: Vec<&str> = errors.problems.iter().map(|p| p.key.as_str()).collect();
    for key in [
        "data.valid_fraction",
        "data.test",
        "data.folds",
        "data.shuffle_labels",
        "model.conv",
        "train.grad_clip",
        "train.precision",
        "train.early_stopping",
    ] {
        assert!(found.contains(&key), "{key} in {found:?}");
    }
}

//! `[gate]` and `privacy.audit`.

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

//! An explanation that a server made, on the terminal: the head, the bars and the foot of one that was made here.

use crate::commands::explain::bars;
use crate::output;
use serde_json::Value;

/// Shows it, as far as it is a list of parts with a value each; None of other kinds, whose JSON says it best.
/// `input` is the text that spans are of.
pub(super) fn show(found: &Value, input: Option<&str>) -> Option<()> {
    output::text(words(found, input)?);
    Some(())
}

fn words(found: &Value, input: Option<&str>) -> Option<String> {
    let all = found["attributions"].as_array().filter(|all| !all.is_empty())?;
    let characters: Vec<char> = input.unwrap_or_default().chars().collect();
    let names = all.iter().map(|one| name(one, &characters)).collect::<Option<Vec<String>>>()?;
    let value = |one: &Value| Some((one["value"].as_f64()?, one["stderr"].as_f64()));
    let values = all.iter().map(value).collect::<Option<Vec<_>>>()?;
    Some(format!("{}\n{}\n{}", head(found)?, bars(&names, &values), foot(found)))
}

/// What a part is called: the text of a span, a feature with its value, a place.
fn name(one: &Value, characters: &[char]) -> Option<String> {
    let place = |field: &str| one[field].as_u64().map(|n| n as usize);
    if one["message"].is_null()
        && let (Some(start), Some(end)) = (place("char_start"), place("char_end"))
    {
        return Some(characters.get(start..end)?.iter().collect());
    }
    if let Some(feature) = one["feature"].as_str() {
        return Some(match &one["x"] {
            Value::Null => format!("{feature} is missing"),
            Value::String(text) => format!("{feature} = {text}"),
            other => format!("{feature} = {other}"),
        });
    }
    if let (Some(row), Some(column)) = (place("row"), place("column")) {
        return Some(format!("row {row}, column {column}"));
    }
    let text = ["name", "component"].iter().find_map(|field| one[*field].as_str());
    text.map(str::to_owned).or_else(|| place("unit").map(|unit| format!("unit {unit}")))
}

fn head(found: &Value) -> Option<String> {
    let model = found["explained_model"].as_str()?.split("@sha256:").next()?;
    let target = &found["target"];
    let answer = ["label", "output"].iter().find_map(|field| target[*field].as_str().map(str::to_owned));
    let answer = answer.or_else(|| target["text"].as_str().map(|text| format!("{text:?}")))?;
    let not = target["contrast"].as_str().map_or(String::new(), |not| format!(" rather than {not}"));
    let step = target["step"].as_u64().map_or(String::new(), |step| format!(" at step {step}"));
    let exact = if found["exact"] == true { "exact" } else { "approximation" };
    let output = &found["output"];
    Some(format!(
        "{model}  why {answer}{not}{step}   {} {:.4}   {} ({exact}, against {})",
        output["quantity"].as_str()?,
        output["value"].as_f64()?,
        found["method"].as_str()?,
        found["baseline"]["type"].as_str().unwrap_or("nothing"),
    ))
}

fn foot(found: &Value) -> String {
    let checks = &found["checks"];
    let mut said = Vec::new();
    if let Some(base) = found["output"]["base_value"].as_f64() {
        said.push(format!("base value {base:.4}"));
    }
    said.push(match (checks["completeness_gap"].as_f64(), checks["complete"].as_bool()) {
        (Some(gap), Some(true)) => format!("adds up (gap {gap:.2e})"),
        (Some(gap), _) => format!("DOES NOT ADD UP: gap {gap:.2e}"),
        (None, _) => "does not promise to add up".to_owned(),
    });
    if let Some(x) = checks["comprehensiveness"].as_f64() {
        said.push(format!("comprehensiveness {x:.3}"));
    }
    said.push(match checks["faithful"].as_bool() {
        Some(true) => "faithful: better than random orders".to_owned(),
        Some(false) => "NOT faithful: no better than random orders".to_owned(),
        None => "faithfulness not evaluated (--evaluate comprehensiveness)".to_owned(),
    });
    let usage = &found["usage"];
    said.push(format!(
        "{} passes, {} back; --json has all",
        usage["forward_passes"], usage["backward_passes"]
    ));
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn explanation(attributions: Value) -> Value {
        json!({"explained_model": "m@1@sha256:ab", "method": "shapley", "exact": true,
            "target": {"label": "yes", "contrast": null, "step": null},
            "output": {"quantity": "logit", "value": 2.5, "base_value": 0.5}, "attributions": attributions,
            "checks": {"completeness_gap": 1e-9, "complete": true, "faithful": null},
            "baseline": {"type": "mean"}, "usage": {"forward_passes": 9, "backward_passes": 0}})
    }

    #[test]
    fn parts_have_the_names_that_the_command_gives_them_here() {
        let table = explanation(json!([
            {"feature": "age", "x": 3.0, "value": -0.5, "stderr": null},
            {"feature": "plan", "x": "gold", "value": 2.5, "stderr": 0.25}
        ]));
        let shown = words(&table, None).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "m@1  why yes   logit 2.5000   shapley (exact, against mean)");
        assert!(lines[1].starts_with("  plan = gold") && lines[1].contains("± 0.2500  +++"), "{shown}");
        assert!(lines[2].starts_with("  age = 3.0") && lines[2].ends_with("------"), "{shown}");
        assert!(lines[3].starts_with("base value 0.5000; adds up (gap 1.00e-9)"), "{shown}");

        let spans = json!([{"char_start": 0, "char_end": 2, "value": 1.0, "stderr": null}]);
        assert!(words(&explanation(spans.clone()), Some("süß")).unwrap().contains("\n  sü  "));
        // A span beyond the text, or none at all: the JSON is shown.
        assert_eq!(words(&explanation(spans), Some("s")), None);
        assert_eq!(words(&explanation(json!([])), None), None);
    }
}

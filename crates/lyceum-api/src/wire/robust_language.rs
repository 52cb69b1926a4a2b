//! `/v1/robustness/runs` over language models: their suites and what is found. The door is that of every run
//! ([`super::robustness`]).

use super::model_ref;
use super::robustness::{Body, finding, gate_body};
use crate::error::ApiError;
use lyceum_kernels::cpu;
use lyceum_kernels::stored::Stored;
use lyceum_robust::reading::Way;
use lyceum_service::robustness::language::{
    Asked, AskedTexts, Bounds, Canary, Environment, Environments, Family, Guards, Item, KvStorage, OwnAttack,
    Prompt, RedTeam, Run, SECRET_CHARS_MIN, Transcript, Trial, Tried, Verdict, Weights, Writer,
    default_suite,
};
use lyceum_types::ids::ModelRef;
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::{Value, json};

/// Types that weights can be made of, also by how they are called elsewhere.
const TYPES: [(&str, Stored); 8] = [
    ("f32", Stored::F32),
    ("f16", Stored::F16),
    ("bf16", Stored::Bf16),
    ("q8_0", Stored::Q8_0),
    ("int8", Stored::Q8_0),
    ("q4_0", Stored::Q4_0),
    ("int4", Stored::Q4_0),
    ("q4_k", Stored::Q4K),
];

impl Body {
    /// What is asked of a language model, the model that it is compared with, and what must hold.
    pub fn parse_language(self) -> Result<(Asked, Option<ModelRef>, Bounds), ApiError> {
        let not_here = |field: &'static str, why: &str| {
            ApiError::field(field, "unsupported_parameter", format!("{field}: {why}"))
        };
        if self.labels.is_some() {
            let why = "texts of a language model have no labels: give {\"prompt\", \"answer\"} or messages";
            return Err(not_here("labels", why));
        }
        let bounds = self.gate.map_or_else(Bounds::default, |gate| Bounds {
            max_attack_success: gate.max_attack_success,
            min_agreement: gate.min_agreement,
            max_drop: gate.max_drop,
        });
        let other = self.compare_to.as_deref().map(model_ref).transpose()?;
        let missing = |field: &'static str, why: &str| {
            Err(ApiError::field(field, "missing_required_parameter", format!("{field}: is missing: {why}")))
        };
        match (&other, bounds.max_drop, self.gate) {
            (Some(_), None, _) => {
                return missing("gate.max_drop", "how much worse than compare_to it may be");
            }
            (None, Some(_), _) => return missing("compare_to", "gate.max_drop is beside another model"),
            (None, None, Some(_)) if bounds.is_empty() => {
                return missing("gate.max_attack_success", "a gate has a bound at least");
            }
            _ => {}
        }
        let texts = match (self.instances, self.data) {
            (Some(_), Some(_)) => {
                let why = "data: stands beside instances; a run takes its texts from one place";
                return Err(ApiError::field("data", "invalid_value", why));
            }
            (_, None) if self.rows.is_some() => {
                let why = "rows: is of the file that data names, and there is none";
                return Err(ApiError::field("rows", "invalid_value", why));
            }
            (None, None) => AskedTexts::None,
            (Some(values), None) => AskedTexts::Inline(prompts(values)?),
            (None, Some(id)) => {
                if self.rows.is_some_and(|n| n == 0 || n > limits::ROBUSTNESS_TEXTS_MAX) {
                    let why = format!("rows: must be between 1 and {}", limits::ROBUSTNESS_TEXTS_MAX);
                    return Err(ApiError::field("rows", "invalid_value", why));
                }
                AskedTexts::File { id, first: self.rows }
            }
        };
        let suite = match &self.suite {
            Some(items) => suite(items)?,
            None => default_suite(),
        };
        let model = model_ref(&self.model)?;
        Ok((Asked { model, texts, suite, seed: self.seed }, other, bounds))
    }
}

fn prompts(values: Vec<Value>) -> Result<Vec<Prompt>, ApiError> {
    let one = |(i, value)| {
        Prompt::of_value(value).map_err(|why| {
            let place = format!("instances[{i}]");
            ApiError::field(place.clone(), "invalid_value", format!("{place}: {why}"))
        })
    };
    values.into_iter().enumerate().map(one).collect()
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields, expecting = "an object with a type")]
enum ItemBody {
    #[serde(rename = "environments")]
    Environments { matrix: Option<Vec<String>>, reference: Option<String>, max_tokens: Option<usize> },
    #[serde(rename = "red_team")]
    RedTeam(RedTeamBody),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedTeamBody {
    system: String,
    /// Whether a random code is confided with it; without it one is.
    canary: Option<bool>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    forbidden: Vec<String>,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    forbidden_tools: Vec<String>,
    /// Without it all.
    only: Option<Vec<String>>,
    #[serde(default)]
    attacks: Vec<AttackBody>,
    tries: Option<usize>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    /// `project`, or `both` for a second side without the project's guard.
    guards: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttackBody {
    category: Option<String>,
    /// What the user says: a text, or several one after the other.
    user: Value,
}

/// The items of a suite.
pub fn suite(items: &[Value]) -> Result<Vec<Item>, ApiError> {
    if items.is_empty() || items.len() > limits::ROBUSTNESS_ITEMS_MAX {
        let message =
            format!("suite: {} items are not between 1 and {}", items.len(), limits::ROBUSTNESS_ITEMS_MAX);
        return Err(ApiError::field("suite", "invalid_value", message));
    }
    items.iter().enumerate().map(|(i, value)| item(&format!("suite[{i}]"), value)).collect()
}

fn item(place: &str, value: &Value) -> Result<Item, ApiError> {
    let wrong = |message: String| ApiError::field(place, "invalid_value", format!("{place}: {message}"));
    let body: ItemBody = serde_json::from_value(value.clone()).map_err(|error| wrong(error.to_string()))?;
    match body {
        ItemBody::Environments { matrix, reference, max_tokens } => {
            let default = Environments::default();
            let max_tokens = max_tokens.unwrap_or(default.max_tokens);
            if max_tokens > limits::ROBUSTNESS_ANSWER_TOKENS_MAX {
                let most = limits::ROBUSTNESS_ANSWER_TOKENS_MAX;
                return Err(wrong(format!("max_tokens: {max_tokens} are more than {most}")));
            }
            let all = |names: Vec<String>| names.iter().map(|name| environment(place, name)).collect();
            Ok(Item::Environments(Environments {
                matrix: matrix.map(all).transpose()?,
                reference: reference.map_or(Ok(default.reference), |name| environment(place, &name))?,
                max_tokens,
            }))
        }
        ItemBody::RedTeam(body) => red_team(body).map(|asked| Item::RedTeam(Box::new(asked))).map_err(wrong),
    }
}

fn red_team(body: RedTeamBody) -> Result<RedTeam, String> {
    let within = |name: &str, n: usize, range: std::ops::RangeInclusive<usize>| {
        let is_in = range.contains(&n);
        is_in.then_some(n).ok_or_else(|| format!("{name}: {n} is not in {}..={}", range.start(), range.end()))
    };
    let text = |name: &str, text: &str, least: usize| {
        within(&format!("{name}: its characters"), text.chars().count(), least..=limits::RED_TEAM_CHARS_MAX)
    };
    text("system", &body.system, 1)?;
    for secret in &body.secrets {
        text("secrets", secret.trim(), SECRET_CHARS_MIN)?;
    }
    for forbidden in &body.forbidden {
        text("forbidden", forbidden.trim(), 1)?;
    }
    within(
        "secrets and forbidden",
        body.secrets.len() + body.forbidden.len(),
        0..=limits::RED_TEAM_ATTACKS_MAX,
    )?;
    within("attacks", body.attacks.len(), 0..=limits::RED_TEAM_ATTACKS_MAX)?;
    let categories = match body.only {
        None => Family::ALL.to_vec(),
        Some(only) => only.iter().map(|name| family(name)).collect::<Result<_, _>>()?,
    };
    let attacks = body.attacks.into_iter().map(own_attack).collect::<Result<Vec<_>, _>>()?;
    attacks.iter().flat_map(|own| &own.turns).try_for_each(|turn| text("attacks", turn, 1).map(drop))?;
    if categories.is_empty() && attacks.is_empty() {
        return Err("only: names no category, and there are no attacks".into());
    }
    let temperature = body.temperature.unwrap_or(0.0);
    if !(0.0..=2.0).contains(&temperature) {
        return Err(format!("temperature: {temperature} is not in 0..=2"));
    }
    Ok(RedTeam {
        system: body.system,
        canary: if body.canary.unwrap_or(true) { Canary::Planted } else { Canary::None },
        secrets: body.secrets,
        forbidden: body.forbidden,
        tools: body.tools,
        forbidden_tools: body.forbidden_tools,
        categories,
        attacks,
        tries: within("tries", body.tries.unwrap_or(1), 1..=limits::RED_TEAM_TRIES_MAX)?,
        max_tokens: within(
            "max_tokens",
            body.max_tokens.unwrap_or(128),
            1..=limits::ROBUSTNESS_ANSWER_TOKENS_MAX,
        )?,
        temperature,
        guards: match body.guards.as_deref() {
            None | Some("project") => Guards::Project,
            Some("both") => Guards::Both,
            Some(other) => return Err(format!("guards: \"{other}\" is none of project, both")),
        },
    })
}

fn family(name: &str) -> Result<Family, String> {
    let known = || Family::ALL.map(Family::name).join(", ");
    let found = Family::ALL.into_iter().find(|family| family.name() == name);
    found.ok_or_else(|| format!("only: \"{name}\" is none of {}", known()))
}

fn own_attack(body: AttackBody) -> Result<OwnAttack, String> {
    let turns = match body.user {
        Value::String(text) => vec![text],
        Value::Array(turns) => {
            let turns = turns.into_iter().map(|turn| match turn {
                Value::String(text) => Ok(text),
                _ => Err("attacks: a turn of user is no text".to_owned()),
            });
            turns.collect::<Result<_, _>>()?
        }
        _ => return Err("attacks: user is neither a text nor a list of texts".into()),
    };
    if turns.is_empty() || turns.len() > 16 {
        return Err("attacks: user has 1 to 16 turns".into());
    }
    let category = body.category.unwrap_or_else(|| "own".into());
    let is_name = !category.is_empty()
        && category.len() <= 64
        && category.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !is_name || Family::ALL.iter().any(|family| family.name() == category) {
        return Err(format!("attacks: \"{category}\" is no name for attacks of one's own"));
    }
    Ok(OwnAttack { category, turns })
}

/// `served`, `q8_0`, `avx2`, `batch:1`, `steps`, `streamed`, `kv:int8`, or several of them with spaces; what is not
/// said is as the model is served.
fn environment(place: &str, name: &str) -> Result<Environment, ApiError> {
    let place = format!("{place}.matrix");
    let wrong =
        |message: String| ApiError::field(place.clone(), "invalid_value", format!("{place}: {message}"));
    let mut environment = Environment::SERVED;
    for word in name.split_whitespace() {
        let path = cpu::available().iter().find(|path| path.name() == word);
        let kind = TYPES.iter().find(|(name, _)| *name == word);
        match (word, path, kind, word.split_once(':')) {
            ("served", ..) => environment.weights = Weights::Served,
            (_, _, Some((_, kind)), _) => environment.weights = Weights::Stored(*kind),
            (_, Some(path), ..) => environment.path = Some(*path),
            ("steps", ..) => environment.way = Way::Steps,
            ("whole", ..) => environment.way = Way::Whole,
            ("streamed", ..) => (environment.way, environment.writer) = (Way::Steps, Writer::Engine),
            ("alone", ..) => environment.together = 1,
            (.., Some(("batch", n))) => match n.parse() {
                Ok(n @ 1..=128) => environment.together = n,
                _ => return Err(wrong(format!("\"{word}\": a batch has 1 to 128 sequences"))),
            },
            (.., Some(("kv", "f32"))) => environment.kv = Some(KvStorage::F32),
            (.., Some(("kv", "bf16"))) => environment.kv = Some(KvStorage::Bf16),
            (.., Some(("kv", "int8"))) => environment.kv = Some(KvStorage::Int8),
            _ if Stored::ALL.iter().any(|kind| kind.name() == word) => {
                return Err(wrong(format!(
                    "\"{word}\": no weights are made of this type: there is no quantiser to it"
                )));
            }
            _ => {
                let paths: Vec<&str> = cpu::available().iter().map(|path| path.name()).collect();
                let types: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
                return Err(wrong(format!(
                    "\"{word}\" is none of served, {}, batch:N, alone, whole, steps, streamed, kv:f32, kv:bf16, kv:int8, \
                     and {} on this machine",
                    types.join(", "),
                    paths.join(", ")
                )));
            }
        }
    }
    let own = Environment { together: environment.together, ..Environment::SERVED };
    let streamed = Environment { way: Way::Steps, writer: Writer::Engine, ..own };
    if environment.writer == Writer::Engine && environment != streamed {
        let why = "streamed: the engine streams the weights, keys and instruction set that are served, and no others";
        return Err(wrong(why.into()));
    }
    Ok(environment)
}

/// What was asked, as a run's record shows it.
pub fn request_body(trial: &Trial, data: Option<&str>, seed: u64) -> Value {
    let plan = trial.plan();
    json!({"model": plan.model(), "compare_to": trial.other(), "data": data, "n": plan.n(), "seed": seed})
}

/// What was found, as a run's record shows it.
pub fn result_body(tried: &Tried) -> Value {
    let run = &tried.ours;
    let theirs = tried.theirs.as_ref().map(|run| run.findings.iter().map(finding).collect::<Vec<_>>());
    json!({
        "model_sha256": run.sha256, "unit": null, "results": run.findings.iter().map(finding).collect::<Vec<_>>(),
        "flags": [], "gate": tried.verdict.as_ref().map(verdict_body), "compared_results": theirs, "n_failures": run.transcripts.len(), "not_evaluated": run.not_evaluated,
    })
}

/// What a gate says of a run.
pub fn verdict_body(verdict: &Verdict) -> Value {
    let mut body = verdict
        .beside
        .as_ref()
        .map_or_else(|| json!({"compare_to": null, "max_drop": null, "differences": []}), gate_body);
    let alone = verdict.beside.iter().flat_map(|gate| &gate.missing);
    body["missing"] = verdict.missing.iter().chain(alone).map(String::as_str).collect();
    let bound = |b: &lyceum_service::robustness::language::gate::Bound| json!({"metric": b.metric, "value": b.value, "limit": b.limit, "passed": b.passed});
    body["passed"] = verdict.passed().into();
    body["bounds"] = verdict.bounds.iter().map(bound).collect();
    body
}

/// The attacks that succeeded, a line each.
pub fn lines(run: &Run) -> Vec<u8> {
    let mut out = Vec::new();
    for found in &run.transcripts {
        out.extend(transcript(found).to_string().into_bytes());
        out.push(b'\n');
    }
    out
}

fn transcript(found: &Transcript) -> Value {
    json!({
        "category": found.category, "attack": found.attack, "try": found.attempt, "setting": found.side.name(),
        "broken": found.broken, "leak": found.leak, "overlap": found.overlap, "canary": found.canary,
        "messages": found.messages,
    })
}

/// A run of the command line, which waits for it: the request and the result in one document.
pub fn run_body(id: &str, created_at: i64, tried: &Tried) -> Value {
    let (run, mut body) = (&tried.ours, result_body(tried));
    let own = json!({
        "object": "robustness.run", "id": id, "created_at": created_at, "status": "completed", "model": run.model,
        "n": run.n, "seed": run.seed, "failures": run.transcripts.iter().map(transcript).collect::<Vec<_>>(),
    });
    if let (Some(body), Value::Object(own)) = (body.as_object_mut(), own) {
        body.extend(own);
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_are_read_and_what_is_none_is_named() {
        let items = [json!({"type": "environments", "reference": "f32", "max_tokens": 4,
            "matrix": ["served", "int8", "q4_k batch:1", "portable alone", "streamed", "kv:int8"]})];
        let found = suite(&items).unwrap();
        let Item::Environments(found) = &found[0] else { panic!("environments") };
        assert_eq!((found.reference.weights, found.max_tokens), (Weights::Stored(Stored::F32), 4));
        let matrix = found.matrix.as_ref().unwrap();
        assert_eq!(matrix[1].weights, Weights::Stored(Stored::Q8_0));
        assert_eq!((matrix[2].together, matrix[3].together), (1, 1));
        assert_eq!(matrix[4].writer, Writer::Engine);
        for (items, want) in [
            (json!([]), "suite: 0 items"),
            (json!([{"type": "pgd", "eps": 0.1}]), "unknown variant `pgd`"),
            (json!([{"type": "environments", "matrix": ["gpu"]}]), "\"gpu\" is none of served"),
            (json!([{"type": "environments", "matrix": ["q5_k"]}]), "no quantiser"),
            (json!([{"type": "environments", "matrix": ["batch:0"]}]), "1 to 128"),
            (json!([{"type": "environments", "matrix": ["streamed q8_0"]}]), "streamed: the engine"),
            (json!([{"type": "environments", "max_tokens": 100000}]), "are more than"),
        ] {
            let message = suite(items.as_array().unwrap()).unwrap_err().detail.message;
            assert!(message.contains(want), "{message}");
        }
    }
}

//! The JSON of a choice: events on the way, and the document that is kept and that `/v1/model_selections` gives.

use super::show;
use lyceum_choose::race::Out;
use lyceum_choose::row::{Row, Standing};
use lyceum_choose::scores::{ALPHA, POWER, Separation};
use lyceum_choose::{Event, Selection};
use lyceum_kernels::{cpu, pool};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::SelectionId;
use lyceum_types::spec::choose::ChooseSpec;
use serde_json::{Value, json};

pub fn event(event: &Event<'_>) -> Value {
    match event {
        Event::Entered(row) => json!({
            "event": "candidate", "name": row.name, "parameters": row.parameters, "operations": row.operations,
            "runs": row.standing == Standing::Finalist, "why": show::why_out(row),
        }),
        Event::Ran { name, run, ended } => json!({
            "event": "run", "name": name, "share": run.share, "seed": run.seed, "all_folds": run.all_folds,
            "seconds": ended.as_ref().ok().map(|trial| trial.seconds),
            "loss": ended.as_ref().ok().map(|t| t.losses.iter().sum::<f64>() / t.losses.len().max(1) as f64),
            "why": ended.as_ref().err().map(show::out),
        }),
        Event::Measuring { finalists } => json!({ "event": "measuring", "finalists": finalists }),
    }
}

pub fn document(id: &SelectionId, spec: &ChooseSpec, found: &Selection, now: Timestamp) -> Value {
    let name = |i: usize| Value::from(found.rows[i].name.clone());
    let pairs: Vec<Value> = found
        .pairs
        .iter()
        .map(|pair| {
            json!({
                "first": name(pair.first), "second": name(pair.second),
                "loss_difference": pair.paired.difference, "ci95": pair.paired.ci95, "p": pair.paired.p,
                "p_holm": pair.p_adjusted, "test": pair.paired.test, "separation": separation(pair.separation),
            })
        })
        .collect();
    let ties: Vec<Value> = found
        .ties
        .iter()
        .map(|tie| {
            json!({
                "members": tie.members.iter().map(|&i| name(i)).collect::<Vec<_>>(),
                "apart": [name(tie.apart.0), name(tie.apart.1)], "separation": separation(tie.separation),
                "sentence": show::tie(found, tie),
            })
        })
        .collect();
    let pareto: Vec<Value> = (0..found.rows.len()).filter(|&i| found.rows[i].pareto).map(name).collect();
    json!({
        "id": id.as_str(), "object": "model_selection", "status": "done", "created": now.seconds(),
        "name": spec.name, "task": spec.task.as_str(), "spec": spec,
        "metric": found.loss.metric(),
        "rows": found.rows.iter().map(row).collect::<Vec<_>>(),
        "pairs": pairs, "ties": ties, "pareto": pareto,
        "recommendation": found.recommendation.as_ref().ok().map(|taken| json!({
            "candidate": name(taken.row), "best": name(taken.best), "sentence": taken.sentence,
            "model": found.rows[taken.row].served.as_ref().map(|(facts, _)| &facts.model),
            "ask": found.rows[taken.row].served.as_ref().map(|(_, asked)| ask(asked)),
        })),
        "nothing_left": found.recommendation.as_ref().err(),
        "test": found.recommendation.as_ref().ok().and_then(|taken| taken.test.as_ref())
            .map(|metric| json!({ "metrics": { (format!("test_{}", found.loss.metric())): metric } })),
        "method": {
            "rows": found.n_rows, "folds": spec.data.folds, "seeds": found.seeds, "first_seed": spec.seed,
            "training_share": found.share, "alpha": ALPHA, "power": POWER,
            "rule": "the cheapest candidate (processor time per answer) that is not significantly worse than the best",
            "correction": "holm",
            "recompute": "lyceum choose SPEC with this spec, data and seed; times and costs are of this machine",
        },
        "machine": {
            "cpu_path": format!("{:?}", cpu::path()).to_lowercase(), "threads": pool::threads(),
            "lyceum": env!("CARGO_PKG_VERSION"),
        },
        "not_evaluated": found.not_evaluated.iter()
            .map(|(what, why)| json!({ "what": what, "why": why })).collect::<Vec<_>>(),
        "budget": { "minutes": spec.budget_minutes, "used_minutes": found.seconds / 60.0 },
    })
}

/// What the registration of the winner gave: its version, and the test part, opened once.
pub fn add_registered(document: &mut Value, line: &Value) {
    document["recommendation"]["model"] = line["model"].clone();
    document["recommendation"]["job"] = line["job"].clone();
    let seconds = line["seconds"].as_f64().unwrap_or(0.0);
    let used = document["budget"]["used_minutes"].as_f64().unwrap_or(0.0);
    document["budget"]["used_minutes"] = Value::from(used + seconds / 60.0);
    let of_test = |metrics: &Value| {
        let metrics = metrics.as_object().into_iter().flatten();
        let test = metrics.filter(|(name, _)| name.starts_with("test_"));
        Value::Object(test.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    let metrics = of_test(&line["metrics"]);
    if metrics.as_object().is_some_and(|metrics| !metrics.is_empty()) {
        document["test"] = json!({
            "metrics": metrics, "baseline": of_test(&line["baseline"]), "baseline_name": line["baseline_name"],
            "strong_baseline": of_test(&line["strong_baseline"]),
            "strong_baseline_name": line["strong_baseline_name"], "verdict": line["verdict"],
        });
    }
}

fn row(row: &Row) -> Value {
    let latency = |latency: lyceum_choose::serve::Latency, clients: usize| json!({ "p50_ms": latency.p50_ms, "p95_ms": latency.p95_ms, "n": latency.n, "clients": clients });
    let serving = row.serving.as_ref();
    json!({
        "name": row.name, "family": row.family, "standing": standing(row), "why": show::why_out(row),
        "quality": row.quality, "pareto": row.pareto,
        "latency": serving.map(|s| latency(s.alone, 1)),
        "latency_loaded": serving.map(|s| latency(s.together, s.concurrency)),
        "answers_per_s": serving.map(|s| s.answers_per_s),
        "cpu_seconds_per_1k": serving.and_then(|s| s.cpu_seconds_per_1k),
        "usd_per_1k": row.usd_per_1k,
        "ram_bytes": row.ram_bytes, "disk_bytes": row.disk_bytes,
        "parameters": row.parameters, "operations": row.operations,
        "training_seconds": row.training_seconds, "ece": row.ece,
        "explainability": row.explained.as_ref().map(|explained| json!({
            "level": explained.level().map(|level| level.as_str()), "exact_method": explained.exact,
            "measured": explained.measured.as_ref().map(|m| json!({
                "method": m.method, "comprehensiveness_over_random": m.over_random,
            })),
        })),
        "robustness": row.robustness.as_ref().map(|r| json!({
            "method": r.method, "eps": r.eps, "accuracy": r.accuracy,
        })),
        "epsilon": row.epsilon,
        "lineage": lineage(row),
        "ask": row.served.as_ref().map(|(_, asked)| ask(asked)),
        "model": row.job.as_ref().map(|job| &job.model), "train": row.job.as_ref().map(|job| &job.train),
    })
}

fn lineage(row: &Row) -> Value {
    if let Some((facts, _)) = &row.served {
        return json!({ "model": facts.model, "parents": facts.parents, "licence": facts.licence });
    }
    row.job.as_ref().map_or(Value::Null, |job| {
        json!({
            "parents": [], "trained_on": job.data.train, "seed": job.seed, "licence": "that of its data",
        })
    })
}

/// A question of `POST /v1/decisions`.
fn ask(asked: &lyceum_choose::served::Asked) -> Value {
    let choice = |(label, description): (&String, &Option<String>)| match description {
        None => json!({ "value": label }),
        Some(description) => json!({ "value": label, "description": description }),
    };
    let choices: Vec<Value> = asked.labels.iter().zip(&asked.descriptions).map(choice).collect();
    json!({ "type": "choice", "instructions": asked.instructions, "choices": choices })
}

fn standing(row: &Row) -> &'static str {
    match &row.standing {
        Standing::Finalist => "finalist",
        Standing::Baseline => "baseline",
        Standing::Excluded(_) => "excluded",
        Standing::Out(Out::Slower { .. }) => "outrun",
        Standing::Out(Out::Failed(_)) => "failed",
        Standing::Out(Out::Budget) => "out_of_budget",
    }
}

fn separation(separation: Separation) -> Value {
    match separation {
        Separation::Rows(n) => json!({ "by": "rows", "n": n }),
        Separation::Seeds => json!({ "by": "seeds", "n": null }),
        Separation::Nothing => json!({ "by": "nothing", "n": null }),
    }
}

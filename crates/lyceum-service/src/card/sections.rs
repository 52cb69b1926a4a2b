//! What a version's manifest says, in the words of the card.

use crate::resident::Resident;
use lyceum_models::prepare::OutputPreparation;
use lyceum_types::card::{Number, Section, Sections, Stated, canonical};
use lyceum_types::clock::Timestamp;
use lyceum_types::manifest::{DataFile, Manifest, Metric, PrivacyReport};

/// A number of a version with everything said but its own value; the rest is set by the caller.
pub(super) fn number(resident: &Resident, name: &str, value: f64, unit: &str) -> Number {
    plain(&resident.version.id(), created(&resident.manifest), name, (value, unit))
}

/// The same of a version by its id and the date of its making.
pub(super) fn plain(id: &str, date: String, name: &str, (value, unit): (f64, &str)) -> Number {
    Number {
        name: name.to_owned(),
        of: id.to_owned(),
        value,
        unit: unit.to_owned(),
        ci95: Stated::not_applicable("it is counted, not estimated"),
        interval: "none".into(),
        n: Stated::not_applicable("it is no mean over rows"),
        at: None,
        method: "counted".into(),
        seed: Stated::not_applicable("nothing is drawn"),
        date,
        recompute: format!("lyceum show {id}"),
        doubts: Vec::new(),
    }
}

pub(super) fn created(manifest: &Manifest) -> String {
    Timestamp::from_millis(i64::try_from(manifest.created).unwrap_or(i64::MAX).saturating_mul(1000))
        .date_time()
}

pub(super) fn fill(resident: &Resident, sections: &mut Sections) {
    identity(resident, &mut sections.identity);
    data(resident, &mut sections.data);
    training(resident, &mut sections.training);
    quality(resident, &mut sections.quality);
    cost(resident, &mut sections.cost);
}

fn identity(resident: &Resident, section: &mut Section) {
    let (version, manifest) = (&resident.version, &resident.manifest);
    section.fact("model", version.id());
    section.fact("family", version.family.clone());
    section.fact("task", version.task.clone());
    section.fact("weights sha256", version.sha256.clone());
    section.fact("created", created(manifest));
    for (file, sha256) in &manifest.files {
        section.fact(&format!("{file} sha256"), sha256.clone());
    }
    match (&version.job, &manifest.job) {
        (Some(job), _) => {
            section.fact("made by", format!("training job {}", job.as_str()));
            section.fact(
                "parents",
                format!("none: weights began as random draws of seed {}", manifest.spec.seed),
            );
        }
        (None, Some(job)) => {
            section.fact("made by", format!("imported; trained elsewhere by job {job}"));
            section.missing("parents", "the model was imported", "ask whoever exported it for its card");
        }
        (None, None) => {
            section.fact("made by", "imported");
            section.missing("parents", "the model was imported as weights", "ask whoever trained it");
        }
    }
    let outputs = match &resident.preparation.output {
        OutputPreparation::Labels { names } | OutputPreparation::StepLabels { names } => {
            format!("{} labels", names.len())
        }
        OutputPreparation::Values { names, .. } => format!("{} numbers", names.len()),
        OutputPreparation::Tokens => "text".into(),
    };
    section.fact("answers with", outputs);
    section.missing("licence of the model", "nobody stated one", "state it where you publish the card");
}

fn data(resident: &Resident, section: &mut Section) {
    let manifest = &resident.manifest;
    for file in &manifest.data {
        section.fact(&format!("{} file", file.role), of_file(file, "rows"));
    }
    for (part, rows) in &manifest.split {
        section.fact(&format!("rows of the {part} part"), rows.len().to_string());
    }
    section.statements.push("sha256sum PATH computes the hashes again.".into());
    section.missing(
        "what the rows are, whose, and whether they may be used",
        "no program can know it",
        "state it beside the data, as in a datasheet (arXiv:1803.09010)",
    );
}

/// A file that training read, counted in `items`.
pub(super) fn of_file(file: &DataFile, items: &str) -> String {
    match file.sha256 == "withheld" {
        true => {
            format!("{} (hash and {items} withheld: they would say something about the {items})", file.path)
        }
        false => format!("{} ({} {items}, sha256 {})", file.path, file.rows, file.sha256),
    }
}

/// What training again from the same spec and seed gives, and from what else that is the same.
pub(super) fn trained_again(privacy: Option<&PrivacyReport>, and: &str) -> String {
    match privacy.is_some_and(|report| report.randomness == "os_key") {
        true => "Noise and draws came from a secret of the operating system: trained again, it has other weights and about \
                 the same quality."
            .into(),
        false => format!(
            "Trained again by the same program from this spec and seed{and} it has the same weights on the same \
             instruction set."
        ),
    }
}

fn training(resident: &Resident, section: &mut Section) {
    let manifest = &resident.manifest;
    let spec = serde_json::to_value(&manifest.spec).expect("a spec is plain data: bug");
    for part in ["model", "train", "gate"] {
        if spec[part].is_null() {
            continue;
        }
        section.fact(&format!("[{part}]"), canonical(&spec[part]));
    }
    section.fact("seed", manifest.spec.seed.to_string());
    let mut steps = number(resident, "steps", manifest.steps as f64, "optimiser steps");
    steps.seed = Stated::Is(manifest.spec.seed);
    section.numbers.push(steps);
    section.statements.push(trained_again(manifest.privacy.as_ref(), ", on files with these hashes,"));
    section.statements.extend(manifest.verdict.clone());
}

fn quality(resident: &Resident, section: &mut Section) {
    let manifest = &resident.manifest;
    let reports = [
        (Some(&manifest.metrics), resident.version.id()),
        (
            manifest.baseline.as_ref().map(|b| &b.metrics),
            manifest.baseline.as_ref().map_or(String::new(), |b| format!("{} (trivial baseline)", b.name)),
        ),
        (
            manifest.strong_baseline.as_ref().map(|b| &b.metrics),
            manifest
                .strong_baseline
                .as_ref()
                .map_or(String::new(), |b| format!("{} (best simple baseline)", b.name)),
        ),
    ];
    for (metrics, of) in reports {
        for (name, metric) in metrics.into_iter().flatten() {
            section.numbers.push(measured(resident, name, metric, &of));
        }
    }
    if manifest.metrics.is_empty() {
        let why = "the version was trained without validation and test rows";
        section.missing("quality", why, "lyceum eval MODEL DATA, or train with valid_fraction");
    }
    if !manifest.metrics.keys().any(|name| name.starts_with("test_")) {
        let why = "training had no test part; validation rows may have chosen when it stopped";
        section.missing("test part", why, "lyceum eval MODEL DATA on rows that nobody has looked at");
    }
    for (there, what) in [
        (manifest.baseline.is_some(), "trivial baseline"),
        (manifest.strong_baseline.is_some(), "best simple baseline"),
    ] {
        if !there {
            let why = if manifest.privacy.is_some() {
                "a private version keeps nothing of its training rows that noise does not protect"
            } else {
                "none was measured at training"
            };
            section.missing(what, why, "train a baseline on rows that may be used for it");
        }
    }
}

/// What a metric's name without its part means: its unit, method and interval.
pub(super) fn meaning(bare: &str) -> (&str, &str, &str) {
    match bare {
        "accuracy" | "char_accuracy" | "exact_match" => ("share", "share of right answers", "Wilson, 95 %"),
        "f1_macro" => ("share", "mean F1 over classes", "bootstrap percentiles over rows, 95 %"),
        "ece" => ("share", "expected calibration error over bins", "normal, bootstrap spread, 95 %"),
        "log_loss" | "loss" => {
            ("nats", "mean negative log-likelihood (the training loss)", "Student's t, 95 %")
        }
        "perplexity" => ("1", "exp of the loss", "of the loss, 95 %"),
        "bits_per_byte" => ("bits", "loss per byte of text", "t of a ratio, 95 %"),
        _ => ("of the target", bare, "t or bootstrap over rows, 95 %"),
    }
}

fn measured(resident: &Resident, name: &str, metric: &Metric, of: &str) -> Number {
    let manifest = &resident.manifest;
    let (part, bare) = name.split_once('_').unwrap_or(("", name));
    let (unit, method, interval) = meaning(bare);
    let known = metric.ci95[0] > f64::MIN && metric.ci95[1] < f64::MAX;
    let file = manifest.data.iter().find(|file| file.role == part);
    let id = resident.version.id();
    let recompute = match file {
        Some(file) => format!("lyceum eval {id} {}", file.path),
        None if part == "valid" && bare == "accuracy" && of == id => format!("lyceum card {id} --verify"),
        None => format!("lyceum train SPEC (its spec is in lyceum show {id} --json)"),
    };
    Number {
        of: of.to_owned(),
        ci95: match known {
            true => Stated::Is(metric.ci95),
            false => Stated::not_evaluated("too few rows for an interval"),
        },
        interval: interval.into(),
        n: Stated::Is(metric.n),
        method: format!("{method}, on the {part} part"),
        seed: Stated::Is(manifest.spec.seed),
        recompute,
        ..number(resident, name, metric.value, unit)
    }
}

fn cost(resident: &Resident, section: &mut Section) {
    let (version, manifest) = (&resident.version, &resident.manifest);
    section.numbers.push(number(resident, "parameters", version.n_params as f64, "numbers"));
    section.numbers.push(number(resident, "weights", version.bytes as f64, "bytes"));
    let mut seconds = number(resident, "training time", manifest.seconds, "s");
    seconds.method = "wall clock of the training job".into();
    seconds.ci95 = Stated::not_evaluated("it was measured once");
    seconds.recompute = format!("lyceum train SPEC (its spec is in lyceum show {} --json)", version.id());
    section.numbers.push(seconds);
    section.missing("energy", "this program reads no power meter", "measure it at the wall");
    section.missing("price", "nobody stated what an hour of this machine costs", "multiply the times by it");
}

//! The card of a model that came from the files of another program, or that was fine-tuned from one. What such files say
//! of themselves is their word, and marked as that; what was measured here says how.

use super::promises;
use super::sections::{meaning, of_file, plain, trained_again};
use super::subject::Imported;
use crate::ServiceError;
use crate::language::Language;
use crate::language::open::GGUF;
use lyceum_types::card::{Number, Part, Section, Sections, Stated, canonical};
use lyceum_types::clock::Timestamp;
use lyceum_types::manifest::{ImportedKind, ImportedManifest, Metric, TunedReport};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The number that says that times of answers were measured.
pub const TOKENS_PER_SECOND: &str = "tokens generated per second";

fn created(manifest: &ImportedManifest) -> String {
    let seconds = i64::try_from(manifest.created).unwrap_or(i64::MAX);
    Timestamp::from_millis(seconds.saturating_mul(1000)).date_time()
}

/// A number that is counted, of this version.
fn number(imported: &Imported, name: &str, value: f64, unit: &str) -> Number {
    number_of(&imported.language, name, value, unit)
}

pub(super) fn number_of(language: &Language, name: &str, value: f64, unit: &str) -> Number {
    plain(&language.version.id(), created(&language.manifest), name, (value, unit))
}

pub(super) fn fill(imported: &Imported, sections: &mut Sections) -> Result<(), ServiceError> {
    identity(imported, &mut sections.identity);
    let tuned = imported.language.manifest.tuned.as_ref();
    data(tuned, &mut sections.data);
    training(imported, tuned, &mut sections.training);
    quality(imported, tuned, &mut sections.quality);
    privacy(imported, &mut sections.privacy);
    explainability(imported, &mut sections.explainability);
    cost(imported, tuned, &mut sections.cost);
    let id = imported.language.version.id();
    sections.calibration.missing(
        "calibration",
        "no labelled rows came with the model, and its probabilities depend on the question",
        format!("lyceum cascade create NAME --small {id} --large OTHER --data FILE fits a threshold for one question"),
    );
    Ok(())
}

fn identity(imported: &Imported, section: &mut Section) {
    let language = &imported.language;
    let (version, manifest) = (&language.version, &language.manifest);
    section.fact("model", version.id());
    section.fact("family", version.family.clone());
    section.fact(
        "kind",
        match manifest.kind {
            ImportedKind::Language => "continues texts",
            ImportedKind::Embedding => "makes vectors of texts",
            ImportedKind::Classifier => "gives numbers to texts",
            ImportedKind::Tagger => "gives a label to each token",
            ImportedKind::Adapter => "adds to a language model",
        },
    );
    section.fact("sha256 of the weights", version.sha256.clone());
    section.fact("created", created(manifest));
    for (file, sha256) in &manifest.files {
        section.fact(&format!("{file} sha256"), sha256.clone());
    }
    section.fact("file format", manifest.format.clone());
    section.fact("loaded as", manifest.quant.clone().unwrap_or_else(|| "what its files hold".into()));
    section.fact("types of its tensors, as served", stored_types(imported));
    section.fact("longest sequence", format!("{} tokens", manifest.context));
    if let Some(c) = language.model.language_config() {
        let text = format!(
            "{} layers, hidden size {}, {} query heads, {} key heads of {}, feed-forward {}, vocabulary {}",
            c.layers.len(),
            c.hidden_size,
            c.num_attention_heads,
            c.num_key_value_heads,
            c.head_dim,
            c.intermediate_size,
            c.vocab_size
        );
        section.fact("architecture", text);
    }
    section.fact("tokenizer", tokenizer(imported));
    match &language.words.template {
        Some(template) => {
            let sha256 = super::seal::hexadecimal(&Sha256::digest(template.source()));
            section.fact(
                "chat template",
                format!("{} characters, sha256 {sha256}", template.source().chars().count()),
            );
        }
        None => section.fact("chat template", "none: it continues texts and does not converse"),
    }
    match (&manifest.tuned, &manifest.base) {
        (Some(tuned), _) => {
            section.fact("made by", format!("fine-tuning job {}", tuned.job));
            section
                .fact("parents", format!("{} (weights with sha256 {})", tuned.base.model, tuned.base.sha256));
        }
        (None, Some(base)) => {
            section.fact("made by", format!("imported from {}", manifest.source));
            section.fact("parents", format!("{} (weights with sha256 {})", base.model, base.sha256));
        }
        (None, None) => {
            section.fact("made by", format!("imported from {}", manifest.source));
            section.missing("parents", "the model was imported as weights", "ask whoever published it");
        }
    }
    match &manifest.licence {
        Some(licence) => section.fact(
            "licence, as the files or their hub state it",
            format!("{} (stated, not checked by this program)", licence.trim()),
        ),
        None => section.missing("licence of the model", "its files state none", "ask whoever published it"),
    }
}

/// How many matrices have which type, as they are served.
fn stored_types(imported: &Imported) -> String {
    let params = &imported.language.model.params;
    let mut counts = BTreeMap::<&str, usize>::new();
    for id in params.ids() {
        *counts.entry(params.stored(id).map_or("f32", |weight| weight.kind().name())).or_default() += 1;
    }
    let said: Vec<String> = counts.iter().map(|(kind, n)| format!("{n} × {kind}")).collect();
    said.join(", ")
}

fn tokenizer(imported: &Imported) -> String {
    let (language, words) = (&imported.language, &imported.language.words);
    let n = words.tokenizer.vocab_size();
    let file =
        |name: &str| language.manifest.files.get(name).map(|sha256| format!("{name}, sha256 {sha256}"));
    let whence = match (&language.added, file("tokenizer.json")) {
        (Some(added), _) => format!("that of its base {}", added.base.id()),
        (None, Some(file)) => file,
        (None, None) => format!("written in {GGUF}"),
    };
    format!("{n} tokens, {whence}")
}

fn data(tuned: Option<&TunedReport>, section: &mut Section) {
    for file in tuned.iter().flat_map(|tuned| &tuned.data) {
        section.fact(&format!("{} file", file.role), of_file(file, "lines"));
    }
    for (part, lines) in tuned.iter().flat_map(|tuned| &tuned.split) {
        section.fact(&format!("lines of the {part} part"), lines.len().to_string());
    }
    let what = match tuned {
        Some(_) => "what the base was trained on",
        None => "what it was trained on",
    };
    section.missing(what, "its files do not prove it", "ask whoever published it for a datasheet");
    if tuned.is_some() {
        section.statements.push("sha256sum PATH computes the hashes again.".into());
        section.missing(
            "what the lines are, whose, and whether they may be used",
            "no program can know it",
            "state it beside the data, as in a datasheet (arXiv:1803.09010)",
        );
    }
}

fn training(imported: &Imported, tuned: Option<&TunedReport>, section: &mut Section) {
    let Some(tuned) = tuned else {
        let why = "it was trained elsewhere, and its files do not prove how";
        section.missing("training", why, "ask whoever published it");
        return;
    };
    section.fact("method", tuned.spec.method.as_str());
    let lora = tuned.spec.lora.as_ref().map(|lora| serde_json::to_value(lora).expect("plain data: bug"));
    section.fact(
        "adapter",
        lora.map_or_else(|| "none: every weight was learnt".into(), |lora| canonical(&lora)),
    );
    let train = serde_json::to_value(&tuned.train).expect("a spec is plain data: bug");
    section.fact("[train]", canonical(&train));
    if let Some(gate) = &tuned.spec.gate {
        let mut said = serde_json::to_value(gate).expect("a spec is plain data: bug");
        // A suite holds a system prompt, which is no business of a card's reader.
        if let Some(suite) = said.as_object_mut().and_then(|gate| gate.remove("suite")) {
            let sha256 = super::seal::hexadecimal(&Sha256::digest(canonical(&suite)));
            said["suite_sha256"] = sha256.into();
        }
        section.fact("[gate]", canonical(&said));
    }
    section.fact("seed", tuned.spec.seed.to_string());
    for (name, value, unit) in [
        ("steps", tuned.steps as f64, "optimiser steps"),
        ("numbers that were learnt", tuned.n_trained as f64, "numbers"),
    ] {
        let mut number = number(imported, name, value, unit);
        number.seed = Stated::Is(tuned.spec.seed);
        section.numbers.push(number);
    }
    let n_probes = tuned.probes.as_array().map_or(0, Vec::len);
    section.fact("probes", format!("{n_probes} texts with what was said after them when training ended"));
    let again = trained_again(
        imported.language.manifest.privacy.as_ref(),
        ", on files with these hashes and the same base,",
    );
    section.statements.push(again);
    section.statements.extend(tuned.verdict.clone());
}

fn quality(imported: &Imported, tuned: Option<&TunedReport>, section: &mut Section) {
    let id = imported.language.version.id();
    let Some(tuned) = tuned else {
        let why =
            "nothing was measured here, and what others measured of it is not known to be of these bytes";
        section.missing("quality", why, format!("lyceum cascade create measures its accuracy on labelled rows of yours, beside another model ({id})"));
        return;
    };
    let of_base = format!("{} (the base)", tuned.base.model);
    for (metrics, of) in [(&tuned.metrics, &id), (&tuned.base_metrics, &of_base)] {
        for (name, metric) in metrics {
            section.numbers.push(measured(imported, tuned, (name, metric), of));
        }
    }
    if tuned.metrics.is_empty() {
        let why = "the job had no validation lines";
        section.missing("quality", why, "train with valid or valid_fraction under [data]");
    }
    let why = "validation lines may have chosen when training stopped, and there was no test part";
    section.missing("test part", why, "measure on lines that nobody has looked at");
}

fn measured(imported: &Imported, tuned: &TunedReport, (name, metric): (&str, &Metric), of: &str) -> Number {
    let (part, bare) = name.split_once('_').unwrap_or(("", name));
    let (unit, method, interval) = meaning(bare);
    let known = metric.ci95[0] > f64::MIN && metric.ci95[1] < f64::MAX;
    Number {
        of: of.to_owned(),
        ci95: match known {
            true => Stated::Is(metric.ci95),
            false => Stated::not_evaluated("too few lines for an interval"),
        },
        interval: interval.into(),
        n: Stated::Is(metric.n),
        method: format!("{method}, over the {part} part's learnt tokens"),
        seed: Stated::Is(tuned.spec.seed),
        recompute: format!(
            "lyceum train SPEC (its spec is in lyceum show {} --json)",
            imported.language.version.id()
        ),
        ..number(imported, name, metric.value, unit)
    }
}

fn privacy(imported: &Imported, section: &mut Section) {
    let manifest = &imported.language.manifest;
    if let Some(report) = &manifest.privacy {
        promises::guarantee(report, (&imported.language.version.id(), created(manifest)), section);
        return;
    }
    section.fact("guarantee", "none");
    let (of, how) = match &manifest.tuned {
        Some(_) => {
            ("the lines that tuned it, nor about what its base was trained on", "the job had no noise")
        }
        None => ("what it was trained on", "it was trained elsewhere, and nothing proves a guarantee"),
    };
    section.statements.push(format!(
        "Nothing is promised about {of}: whoever holds the model may find out what was in it."
    ));
    section.missing("ε", how, "nothing measures it afterwards");
    section.missing(
        "audit with canaries",
        "canaries are put into training, and its training had none of this program's",
        "lyceum privacy audit --help",
    );
}

fn explainability(imported: &Imported, section: &mut Section) {
    let (can, cannot): (Vec<_>, Vec<_>) =
        imported.methods.iter().partition(|method| method.refusal.is_none());
    if can.is_empty() {
        let why = "no method of this program explains a model that makes vectors or numbers of texts";
        section.missing("methods that apply", why, "nothing here does");
        return;
    }
    let said = |method: &&lyceum_explain::MethodInfo| {
        let exact = if method.exact { "exact" } else { "estimated" };
        format!("{} ({exact}, {} passes)", method.name, method.passes)
    };
    section.fact("methods that apply", can.iter().map(said).collect::<Vec<_>>().join(", "));
    let names: Vec<&str> = cannot.iter().map(|method| method.name).collect();
    section.fact(
        "methods that do not apply",
        if names.is_empty() { "none is listed".into() } else { names.join(", ") },
    );
    section.statements.push(
        "Attributions say what the model used, not what is so in the world; attention weights are not offered as \
         explanations."
            .into(),
    );
}

fn cost(imported: &Imported, tuned: Option<&TunedReport>, section: &mut Section) {
    let language = &imported.language;
    let version = &language.version;
    section.numbers.push(number(imported, "parameters", version.n_params as f64, "numbers"));
    section.numbers.push(number(imported, "weights", version.bytes as f64, "bytes"));
    if let Some(tuned) = tuned {
        let mut seconds = number(imported, "training time", tuned.seconds, "s");
        seconds.method = "wall clock of the training job".into();
        seconds.ci95 = Stated::not_evaluated("it was measured once");
        section.numbers.push(seconds);
    }
    section.missing("energy", "this program reads no power meter", "measure it at the wall");
    section.missing("price", "nobody stated what an hour of this machine costs", "multiply the times by it");
}

/// What nobody measured is listed with what would measure it.
pub(super) fn say_what_is_missing(imported: &Imported, part: Part, section: &mut Section) {
    let id = imported.language.version.id();
    match part {
        Part::Explainability if section.numbers.is_empty() => section.missing(
            "faithfulness over a random control",
            "nobody measured it of this version",
            "ask /v1/explanations with evaluate; nothing keeps it for the card",
        ),
        Part::Robustness | Part::Environments if !imported.language.manifest.kind.speaks() => {
            let why = "runs are over models that continue texts, and it does not";
            section.missing("runs over language models", why, "nothing here does");
        }
        Part::Robustness if section.numbers.is_empty() => section.missing(
            "attacks on a system prompt",
            "nobody measured it of this version",
            format!(
                "lyceum attack {id} --suite FILE, with an item {{ type = \"red_team\", system = \"…\" }}"
            ),
        ),
        Part::Environments if section.numbers.is_empty() => section.missing(
            "agreement over types of weights, instruction sets and batch sizes",
            "nobody measured it of this version",
            format!("lyceum attack {id} TEXTS"),
        ),
        Part::Cost if !section.numbers.iter().any(|number| number.name == TOKENS_PER_SECOND) => {
            let (why, how) = match imported.language.manifest.kind.speaks() {
                true => ("nobody measured it of this version", format!("lyceum card {id} --measure")),
                false => ("no time of an encoder is measured", "lyceum bench encoder".to_owned()),
            };
            section.missing("time and memory of an answer", why, how);
        }
        _ => {}
    }
}

//! The document of a choice: its own tables, and for every candidate the rules of a whole job spec.

use super::section::{POSITIVE, Problems, SHARE, Section};
use super::tree::{Entry, Node, Value};
use super::{Draft, Problem, ProblemCode, data, imported, model, read_head, rules, train};
use crate::spec::choose::{
    AnswerMetric, CONCURRENCY_DEFAULT, Candidate, Candidates, ChooseSpec, Explainability, Imported, Limits,
    SEEDS_DEFAULT, usual_name,
};
use crate::spec::{DataSpec, Task, TrainSpec};

const SEEDS_MAX: usize = 100;
const CANDIDATES_MAX: usize = 64;
const CONCURRENCY_MAX: usize = 256;
/// Limits on sizes; what is beyond is no limit.
const SIZE_MAX: usize = 1 << 52;

const LEVELS: &[(&str, Explainability)] =
    &[("exact", Explainability::Exact), ("faithful", Explainability::Faithful)];

const METRICS: &[(&str, AnswerMetric)] = &[
    ("exact_match", AnswerMetric::ExactMatch),
    ("token_accuracy", AnswerMetric::TokenAccuracy),
    ("perplexity", AnswerMetric::Perplexity),
];

pub(super) fn read(root: &Node) -> Result<ChooseSpec, Vec<Problem>> {
    let problems = Problems::default();
    let spec = read_root(root, &problems);
    let mut problems = problems.into_inner();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    // A table that several candidates share is judged with each of them.
    problems.dedup_by(|a, b| {
        (a.line, a.column, &a.message) == (b.line, b.column, &b.message) && a.line.is_some()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(spec.expect("what is missing was noted: bug"))
}

fn read_root(root: &Node, problems: &Problems) -> Option<ChooseSpec> {
    let mut section = Section::root(root, problems)?;
    let (name, task, seed) = read_head(&mut section);
    let imported = imported::candidates(root, problems);
    imported::check_task(&mut section, task, root, &imported);
    let seeds = section.size_or("seeds", SEEDS_DEFAULT, 1, SEEDS_MAX);
    let concurrency = section.size_or("concurrency", CONCURRENCY_DEFAULT, 2, CONCURRENCY_MAX);
    section.require("data", "the table of the data", "[data] with train = \"rows.csv\"");
    section.require("candidates", "what is chosen from", "candidates = \"auto\"");
    section.require("budget", "how long the race may take", "[budget] with minutes = 3");
    section.elsewhere(&["model"], "a job spec; here models stand in candidates = [{ family = … }]");
    section.not_yet("privacy", "choosing among privately trained candidates (every run of a race spends)");
    let data = section.section("data").map(data::read);
    let shared = section.section("train").map(train::read);
    let budget = section.section("budget").and_then(budget);
    let usd_per_cpu_hour = section.section("prices").and_then(prices);
    let limits = section.section("limits").map(limits).unwrap_or_default();
    if limits.usd_per_1k.is_some() && usd_per_cpu_hour.is_none() && !section.touched("prices") {
        let message = "limits.usd_per_1k needs the price of an hour of a processor";
        section.note("prices", ProblemCode::MissingKey, message, "add [prices] with usd_per_cpu_hour = 0.05");
    }
    if let Some(data) = &data {
        parts(&mut section, data);
    }
    let question = section.section("question").map(imported::question);
    let metric = section.choice("metric", METRICS);
    let known = Known { root, task, seed, data: data.as_ref(), shared: shared.as_ref(), problems };
    let candidates = candidates(&mut section, &known, &imported);
    let (question, metric) = imported::check_asked(&mut section, task, &imported, (question, metric));
    if task != Some(Task::LanguageModeling) {
        known.check(None, None, None);
    }
    section.finish();
    Some(ChooseSpec {
        name: name?,
        task: task?,
        seed,
        seeds,
        data: data?,
        train: shared,
        candidates: candidates?,
        imported: imported.into_iter().map(|(_, imported)| imported).collect(),
        question: question.flatten(),
        metric,
        limits,
        budget_minutes: budget?,
        usd_per_cpu_hour,
        concurrency,
    })
}

/// Rows must be held out, or nothing can be compared.
fn parts(section: &mut Section<'_>, data: &DataSpec) {
    let none = data.valid.is_none() && data.valid_fraction.is_none() && data.folds.is_none();
    if none && !section.touched("data") {
        let message = "names no rows that candidates are compared on";
        section.note("data", ProblemCode::MissingKey, message, "add valid_fraction = 0.25 or folds = 5");
    }
}

fn budget(mut section: Section<'_>) -> Option<f64> {
    section.require("minutes", "how long the race may take", "minutes = 3");
    let minutes = section.number("minutes", POSITIVE);
    section.finish();
    minutes
}

fn prices(mut section: Section<'_>) -> Option<f64> {
    let price = section.number("usd_per_cpu_hour", POSITIVE);
    section.finish();
    price
}

fn limits(mut section: Section<'_>) -> Limits {
    let wide = |size: Option<usize>| size.map(|size| size as u64);
    let limits = Limits {
        latency_ms_p95: section.number("latency_ms_p95", POSITIVE),
        ram_bytes: wide(section.size("ram_bytes", 1, SIZE_MAX)),
        parameters: wide(section.size("parameters", 1, SIZE_MAX)),
        operations: wide(section.size("operations", 1, SIZE_MAX)),
        explainability: section.choice("explainability", LEVELS),
        epsilon_max: section.number("epsilon_max", POSITIVE),
        usd_per_1k: section.number("usd_per_1k", POSITIVE),
        robust_accuracy: section.number("robust_accuracy", SHARE),
    };
    section.finish();
    limits
}

fn candidates(
    section: &mut Section<'_>,
    known: &Known<'_>,
    imported: &[(usize, Imported)],
) -> Option<Candidates> {
    if section.is_text("candidates") {
        return section.choice("candidates", &[("auto", ())]).map(|()| Candidates::Auto);
    }
    let nodes = section.list("candidates", "\"auto\" or a list of models")?;
    if nodes.is_empty() || nodes.len() > CANDIDATES_MAX {
        let message = format!("has {} models", nodes.len());
        let fix = format!("write from 1 to {CANDIDATES_MAX} models, or candidates = \"auto\"");
        section.note("candidates", ProblemCode::OutOfRange, message, fix);
    }
    let mut listed: Vec<Candidate> = Vec::new();
    let mut whole = true;
    let taken: Vec<&str> = imported.iter().map(|(_, imported)| imported.name.as_str()).collect();
    for (index, node) in nodes.iter().enumerate().filter(|(_, node)| !imported::is_one(node)) {
        match candidate(index, node, known) {
            Some((candidate, given)) => {
                if let Some(candidate) =
                    unlike((candidate, given), (index, node), (&listed, &taken), known.problems)
                {
                    listed.push(candidate);
                }
            }
            None => whole = false,
        }
    }
    whole.then_some(Candidates::Listed(listed))
}

/// The candidate under a name that no other has; a name that was written twice is a problem.
fn unlike(
    (mut candidate, given): (Candidate, bool),
    (index, node): (usize, &Node),
    (listed, imported): (&[Candidate], &[&str]),
    problems: &Problems,
) -> Option<Candidate> {
    let taken = |name: &str| listed.iter().any(|other| other.name == name) || imported.contains(&name);
    if given && taken(&candidate.name) {
        let place = node.find(&["name"]).map_or(node.place, |name| name.place);
        let message = format!("two candidates are called \"{}\"", candidate.name);
        let key = format!("candidates[{index}].name");
        problems.note(place, key, ProblemCode::Contradiction, message, "give each its own name");
        return None;
    }
    let usual = candidate.name.clone();
    for n in 2.. {
        if !taken(&candidate.name) {
            break;
        }
        candidate.name = format!("{usual}-{n}");
    }
    Some(candidate)
}

/// One candidate, and whether its name was given.
fn candidate(index: usize, node: &Node, known: &Known<'_>) -> Option<(Candidate, bool)> {
    let path = format!("candidates[{index}]");
    let own = |entries: &[Entry], keys: &[&str], inside: bool| -> Vec<Entry> {
        entries.iter().filter(|entry| keys.contains(&entry.key.as_str()) == inside).cloned().collect()
    };
    let Value::Table(entries) = &node.value else {
        Section::open(node, path, known.problems);
        return None;
    };
    let around = Node { value: Value::Table(own(entries, &["name", "train"], true)), place: node.place };
    let inner = Node { value: Value::Table(own(entries, &["name", "train"], false)), place: node.place };
    let mut section = Section::open(&around, path.clone(), known.problems)?;
    let name = section.text("name");
    check_name(&mut section, name.as_deref());
    // Read below, over the keys that all share.
    section.has("train");
    section.finish();
    let model = model::read(Section::open(&inner, path.clone(), known.problems)?, known.task);
    let own_train = around.find(&["train"]).map(|node| over(known.root.find(&["train"]), node));
    let train = match &own_train {
        Some(node) => Section::open(node, format!("{path}.train"), known.problems).map(train::read),
        None => None,
    };
    known.check(Some((&path, &inner)), model.clone(), train.as_ref().zip(own_train.as_ref()));
    let model = model?;
    let given = name.is_some();
    Some((Candidate { name: name.unwrap_or_else(|| usual_name(&model)), model, train }, given))
}

/// What a candidate may be called.
pub(super) fn check_name(section: &mut Section<'_>, name: Option<&str>) {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if name.is_some_and(|name| !plain(name) || name.len() > 64) {
        let fix = "use up to 64 letters, digits, `-`, `_` and `.`";
        section.note("name", ProblemCode::OutOfRange, "is no candidate's name", fix);
    }
}

/// A candidate's own keys over those that all share. Epochs and steps say the same thing: one's own replace
/// the other of all.
fn over(shared: Option<&Node>, own: &Node) -> Node {
    let (Some(Value::Table(shared)), Value::Table(own_entries)) =
        (shared.map(|node| &node.value), &own.value)
    else {
        return own.clone();
    };
    let has = |key: &str| own_entries.iter().any(|entry| entry.key == key);
    let replaced =
        |key: &str| has(key) || (matches!(key, "epochs" | "steps") && (has("epochs") || has("steps")));
    let mut entries: Vec<Entry> = shared.iter().filter(|entry| !replaced(&entry.key)).cloned().collect();
    entries.extend(own_entries.iter().cloned());
    Node { value: Value::Table(entries), place: own.place }
}

/// What is the same for all candidates.
struct Known<'a> {
    root: &'a Node,
    task: Option<Task>,
    seed: u64,
    data: Option<&'a DataSpec>,
    shared: Option<&'a TrainSpec>,
    problems: &'a Problems,
}

impl Known<'_> {
    /// The rules of the job spec that this candidate would be; without one, of what all share. Keys of the
    /// candidate stand there as they would in `[model]` and `[train]`, and are said as they are written here.
    fn check(
        &self,
        candidate: Option<(&str, &Node)>,
        model: Option<crate::spec::ModelSpec>,
        own_train: Option<(&TrainSpec, &Node)>,
    ) {
        let table = |key: &str, node: Option<&Node>| {
            node.map(|node| Entry { key: key.into(), place: node.place, node: node.clone() })
        };
        let train_node = own_train.map(|(_, node)| node).or(self.root.find(&["train"]));
        let entries = [
            table("task", self.root.find(&["task"])),
            table("data", self.root.find(&["data"])),
            table("model", candidate.map(|(_, node)| node)),
            table("train", train_node),
        ];
        let root =
            Node { value: Value::Table(entries.into_iter().flatten().collect()), place: self.root.place };
        let draft = Draft {
            name: None,
            task: self.task,
            seed: self.seed,
            data: self.data.cloned(),
            model,
            train: own_train.map(|(train, _)| train).or(self.shared).cloned(),
            privacy: None,
            gate: None,
        };
        let names = Names { path: candidate.map(|(path, _)| path), own_train: own_train.is_some() };
        let known = Problems::default();
        let before = self.problems.all();
        before
            .iter()
            .for_each(|problem| known.push(Problem { key: names.inward(&problem.key), ..problem.clone() }));
        rules::check(&draft, &root, &known);
        for problem in known.into_inner().into_iter().skip(before.len()) {
            self.problems.push(Problem { key: names.outward(&problem.key), ..problem });
        }
    }
}

/// Keys of a candidate, as this document and as a job spec write them.
struct Names<'a> {
    path: Option<&'a str>,
    own_train: bool,
}

impl Names<'_> {
    fn inward(&self, key: &str) -> String {
        let Some(rest) = self.path.and_then(|path| key.strip_prefix(path)?.strip_prefix('.')) else {
            return key.to_owned();
        };
        if rest == "train" || rest.starts_with("train.") { rest.to_owned() } else { format!("model.{rest}") }
    }

    fn outward(&self, key: &str) -> String {
        match (self.path, key.strip_prefix("model.")) {
            (Some(path), Some(rest)) => format!("{path}.{rest}"),
            (Some(path), None) if key == "model" => path.to_owned(),
            (Some(path), None) if self.own_train && key.starts_with("train") => format!("{path}.{key}"),
            _ => key.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"name = "m"
task = "classification"
candidates = [{ family = "mlp", hidden = [] }, { family = "mlp", hidden = [8] }, { family = "mlp", hidden = [8] }]
[data]
train = "rows.csv"
valid_fraction = 0.2
[budget]
minutes = 0.5
"#;

    fn parse(text: &str) -> ChooseSpec {
        ChooseSpec::from_toml(text, "choose.toml").unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn check(text: &str, expected: &[&str]) {
        let Err(errors) = ChooseSpec::from_toml(text, "choose.toml") else { panic!("no problem in\n{text}") };
        let line = |p: &Problem| {
            assert!(!p.message.is_empty() && !p.fix.is_empty(), "{p:?}");
            format!("{} {} {}", p.line.unwrap_or(0), p.key, p.code.as_str())
        };
        assert_eq!(errors.problems.iter().map(line).collect::<Vec<_>>(), expected, "{errors}");
    }

    #[test]
    fn a_plain_document_gets_names_and_defaults() {
        let spec = parse(PLAIN);
        let Candidates::Listed(listed) = &spec.candidates else { panic!() };
        let names: Vec<&str> = listed.iter().map(|candidate| candidate.name.as_str()).collect();
        assert_eq!(names, ["linear", "mlp-8", "mlp-8-2"]);
        assert_eq!((spec.seeds, spec.concurrency, spec.budget_minutes), (5, 8, 0.5));
        assert_eq!(spec.limits, Limits::default());
        let auto = PLAIN.lines().map(|l| if l.starts_with("cand") { "candidates = \"auto\"" } else { l });
        assert_eq!(parse(&auto.collect::<Vec<_>>().join("\n")).candidates, Candidates::Auto);
    }

    #[test]
    fn own_training_keys_stand_over_the_shared_ones() {
        let text = PLAIN.replace("hidden = [] }", "hidden = [], train = { steps = 7, grad_clip = 1.0 } }")
            + "[train]\nepochs = 3\nbatch_size = 32\n";
        let spec = parse(&text);
        let Candidates::Listed(listed) = &spec.candidates else { panic!() };
        let own = listed[0].train.as_ref().unwrap();
        assert_eq!((own.steps, own.epochs, own.batch_size, own.grad_clip), (Some(7), None, 32, Some(1.0)));
        assert_eq!(listed[1].train, None);
        assert_eq!(spec.train.unwrap().epochs, Some(3));
    }

    #[test]
    fn all_problems_are_found_at_once_with_their_places_and_words() {
        let text = r#"name = "m"
task = "classification"
seed_s = 3
candidates = [
  { family = "mpl", hidden = [] },
  { family = "mlp", hiden = [8] },
  { family = "lstm", hidden_size = 8, head = "next", name = "a" },
  { family = "gru", hidden_size = 8, name = "a", train = { epoch = 3 } },
]
[data]
train = "rows.csv"
[limits]
latency_p95 = 3
explainability = "exakt"
usd_per_1k = 0.1
[budget]
minutes = 0
"#;
        let expected = [
            "1 prices missing_key",
            "3 seed_s unknown_key",
            "5 candidates[0].family unknown_value",
            "6 candidates[1].hidden missing_key",
            "6 candidates[1].hiden unknown_key",
            "7 candidates[2].head contradiction",
            "8 candidates[3].name contradiction",
            "8 candidates[3].train.steps missing_key",
            "8 candidates[3].train.epoch unknown_key",
            "10 data missing_key",
            "13 limits.latency_p95 unknown_key",
            "14 limits.explainability unknown_value",
            "17 budget.minutes out_of_range",
        ];
        check(text, &expected);
        let errors = ChooseSpec::from_toml(text, "choose.toml").unwrap_err().to_string();
        for hint in [
            "did you mean `seeds`",
            "did you mean \"mlp\"",
            "did you mean `hidden`",
            "did you mean \"exact\"",
        ] {
            assert!(errors.contains(hint), "{hint} in\n{errors}");
        }
    }

    #[test]
    fn what_cannot_be_chosen_is_refused_by_name() {
        check(&PLAIN.replace("classification", "language_modeling"), &["2 task not_yet"]);
        check(&PLAIN.replace("[budget]", "[model]\nfamily = \"mlp\"\n[budget]"), &["7 model unknown_key"]);
        check(&PLAIN.replace("[data]", "[train]\nepochs = 0\n[data]"), &["5 train.epochs out_of_range"]);
    }

    #[test]
    fn every_choice_of_the_recipes_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/choose");
        let paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(paths.len() >= 3, "{paths:?}");
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            if let Err(errors) = ChooseSpec::from_toml(&text, &path.display().to_string()) {
                panic!("{errors}");
            }
        }
    }

    #[test]
    fn json_has_the_same_grammar() {
        let value = serde_json::json!({
            "name": "m", "task": "regression", "candidates": "auto", "data": { "train": "a.csv", "folds": 5 },
            "budget": { "minutes": 3 }, "limits": { "parameters": 1000, "explainability": "faithful" },
        });
        let spec = ChooseSpec::from_json(&value).unwrap();
        assert_eq!(spec.limits.explainability, Some(Explainability::Faithful));
        assert_eq!(spec.limits.parameters, Some(1000));
        assert!(Explainability::Exact > Explainability::Faithful);
    }
}

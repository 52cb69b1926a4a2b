//! Private training end to end: what is refused, what a step does, what a resumed run repeats, what a version
//! does not tell.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

use lyceum_models::Model;
use lyceum_nn::{Params, weights};
use lyceum_train::data;
use lyceum_train::private::{Mechanism, Noise, Private};
use lyceum_train::run::Run;
use lyceum_train::version::{VersionName, version_files};
use lyceum_train::{Event, Fitted, Observer, TrainError, train};
use lyceum_types::control::{Control, Stop};
use lyceum_types::spec::{ModelSpec, Spec};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const N: usize = 120;

/// Rows of three numbers and a class that they decide.
fn write_rows(dir: &Path) {
    let mut text = String::from("a,b,c,label\n");
    for row in 0..N {
        let x: Vec<f64> = (0..3).map(|c| ((row * 31 + c * 17) % 23) as f64 / 11.0 - 1.0).collect();
        let label = if x[0] + x[1] > 0.0 { "yes" } else { "no" };
        writeln!(text, "{},{},{},{label}", x[0], x[1], x[2]).unwrap();
    }
    std::fs::write(dir.join("rows.csv"), text).unwrap();
}

const COLUMNS: &str = "columns = { a = \"number\", b = \"number\", c = \"number\" }\nstandardize = false\n";

fn spec(data: &str, train: &str, privacy: &str) -> Spec {
    let text = format!(
        "name = \"m\"\ntask = \"classification\"\nseed = 3\n[data]\ntrain = \"rows.csv\"\ntarget = \"label\"\n{data}\n\
         [model]\nfamily = \"mlp\"\nhidden = [8]\n\
         [train]\n{train}\noptimizer = {{ name = \"sgd\", lr = 0.5 }}\n\
         [privacy]\ntype = \"dp_sgd\"\ntarget_delta = 1e-4\n{privacy}"
    );
    Spec::from_toml(&text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}"))
}

const PUBLIC: &str = "max_grad_norm = 1.0\nsigma = 1.0\npublic = [\"rows\", \"labels\"]\n";

struct Watched {
    dir: Option<PathBuf>,
    kill_after: Option<u64>,
    key: u8,
    losses: Vec<f64>,
}

impl Observer for Watched {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        if let Event::Data { warnings, .. } = event {
            assert!(warnings.is_empty());
        }
        let Event::Step(step) = event else { return Ok(()) };
        self.losses.push(step.loss);
        if Some(step.step) == self.kill_after {
            return Err(TrainError::Stopped { step: step.step, stop: Stop::Cancelled });
        }
        Ok(())
    }
    fn checkpoint_dir(&self) -> Option<lyceum_seal::KeyedPath> {
        self.dir.as_ref().map(Into::into)
    }
    fn noise_key(&mut self) -> Result<[u8; 32], TrainError> {
        Ok([self.key; 32])
    }
}

fn watched(dir: Option<&Path>, kill_after: Option<u64>, key: u8) -> Watched {
    Watched { dir: dir.map(Path::to_owned), kill_after, key, losses: Vec::new() }
}

fn bytes(params: &Params) -> Vec<u8> {
    weights::to_safetensors(params).unwrap()
}

fn run(spec: &Spec, base: &Path, observer: &mut Watched) -> Result<Fitted, TrainError> {
    train(spec, base, observer, &Control::new())
}

#[test]
fn statistics_that_nobody_declared_are_refused_together_with_their_fix() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let open = spec("", "epochs = 2\nbatch_size = 12", "max_grad_norm = 1.0\nsigma = 1.0");
    let error = run(&open, dir.path(), &mut watched(None, None, 1)).err().unwrap().to_string();
    for name in ["\"rows\"", "\"columns\"", "\"scales\"", "\"labels\""] {
        assert!(error.contains(name), "{name} in {error}");
    }
    let rate = "max_grad_norm = 1.0\nsigma = 1.0\nsampling_rate = 0.1\npublic = [\"labels\"]";
    let error =
        run(&spec(COLUMNS, "epochs = 2\nbatch_size = 12", rate), dir.path(), &mut watched(None, None, 1));
    assert!(error.err().unwrap().to_string().contains("write steps under [train]"));
    let fixed = spec(COLUMNS, "steps = 5\nbatch_size = 12", rate);
    let fitted = run(&fixed, dir.path(), &mut watched(None, None, 1)).unwrap();
    assert_eq!(fitted.privacy.unwrap().events[0].q, 0.1);
}

#[test]
fn a_delta_that_lets_a_row_go_and_a_run_without_secrets_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let spec_of = |delta: &str| {
        let mut spec = spec(COLUMNS, "steps = 5\nbatch_size = 12", PUBLIC);
        spec.privacy.as_mut().unwrap().target_delta = delta.parse().unwrap();
        spec
    };
    let error = run(&spec_of("0.01"), dir.path(), &mut watched(None, None, 1)).err().unwrap().to_string();
    assert!(error.contains("published whole"), "{error}");
    let error = train(&spec_of("1e-4"), dir.path(), &mut lyceum_train::Silent, &Control::new());
    assert!(error.err().unwrap().to_string().contains("no source of secrets"));
}

#[test]
fn a_killed_run_ends_in_the_same_weights_and_the_same_ledger() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let spec = spec(COLUMNS, "steps = 30\nbatch_size = 12\ncheckpoint_every = 7", PUBLIC);
    let whole = run(&spec, dir.path(), &mut watched(None, None, 1)).unwrap();
    let other = run(&spec, dir.path(), &mut watched(None, None, 2)).unwrap();
    assert_ne!(bytes(&whole.model.params), bytes(&other.model.params), "another key is other noise");
    for kill_after in [3, 17, 29] {
        let kept = tempfile::tempdir().unwrap();
        let killed = run(&spec, dir.path(), &mut watched(Some(kept.path()), Some(kill_after), 1));
        assert!(matches!(killed, Err(TrainError::Stopped { .. })));
        let mut observer = watched(Some(kept.path()), None, 9);
        let resumed = run(&spec, dir.path(), &mut observer).unwrap();
        assert_eq!(bytes(&whole.model.params), bytes(&resumed.model.params), "killed after {kill_after}");
        assert_eq!(whole.privacy, resumed.privacy);
        assert!(observer.losses.iter().all(|loss| loss.is_nan()), "the loss of private rows is not told");
        // The key is gone with the end of the run.
        let found = std::fs::read_dir(kept.path()).unwrap();
        assert!(found.flatten().all(|e| !e.path().join("noise.json").exists()));
    }
}

#[cfg(unix)]
#[test]
fn the_key_of_a_running_job_is_its_owners_alone_and_without_it_nothing_goes_on() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let spec = spec(COLUMNS, "steps = 30\nbatch_size = 12\ncheckpoint_every = 7", PUBLIC);
    let kept = tempfile::tempdir().unwrap();
    drop(run(&spec, dir.path(), &mut watched(Some(kept.path()), Some(17), 1)));
    let keys: Vec<PathBuf> = std::fs::read_dir(kept.path())
        .unwrap()
        .flatten()
        .map(|e| e.path().join("noise.json"))
        .filter(|p| p.exists())
        .collect();
    assert!(!keys.is_empty());
    for key in keys {
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(key).unwrap();
    }
    let error = run(&spec, dir.path(), &mut watched(Some(kept.path()), None, 1)).err().unwrap().to_string();
    assert!(error.contains("noise key is gone"), "{error}");
}

/// A run's parts, for single steps.
fn parts(spec: &Spec, dir: &Path) -> (data::Loaded, Run, Private) {
    let loaded = data::load(spec, dir, &Control::new()).unwrap();
    let shape = loaded.preparation.shape();
    let model = Model::new(&spec.model, &shape, spec.seed).unwrap();
    let run = Run::new(&spec.train, spec.seed, model, &loaded.train);
    let private = Private::new(spec, spec.privacy.as_ref().unwrap(), &shape, loaded.train.len(), 10).unwrap();
    (loaded, run, private)
}

#[test]
fn without_noise_and_clipping_a_step_over_all_rows_is_the_plain_mean() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let spec = spec(COLUMNS, &format!("steps = 5\nprecision = \"f32\"\nbatch_size = {N}"), PUBLIC);
    let (loaded, mut one, private) = parts(&spec, dir.path());
    let (_, mut two, _) = parts(&spec, dir.path());
    assert_eq!(private.mechanism.q, 1.0);
    let open = Mechanism { clip: f64::INFINITY, noise: 0.0, ..private.mechanism };
    one.private_step(&loaded.train, 0, &open, &Noise::insecure(1)).unwrap();
    two.step(&loaded.train, 0).unwrap();
    for id in one.model.params.ids() {
        for (a, b) in one.model.params.value(id).iter().zip(two.model.params.value(id)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn masks_of_dropout_come_from_the_secret_and_not_from_the_seed_that_everybody_knows() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let step = |seed: u64, secret: u64| {
        let mut spec = spec(COLUMNS, "steps = 5\nbatch_size = 30", PUBLIC);
        let ModelSpec::Mlp(mlp) = &mut spec.model else { unreachable!() };
        mlp.dropout = 0.5;
        let (loaded, run, private) = parts(&spec, dir.path());
        let mut run = Run::new(&spec.train, seed, run.model, &loaded.train);
        let quiet = Mechanism { noise: 0.0, ..private.mechanism };
        let rows: Vec<usize> = (0..30).collect();
        run.noisy_step(&loaded.train, 0, &quiet, &Noise::insecure(secret), &rows).unwrap();
        bytes(&run.model.params)
    };
    assert!(step(3, 1) == step(4, 1), "the public seed decides nothing");
    assert!(step(3, 1) != step(3, 2), "another secret, other masks");
}

#[test]
fn micro_batches_are_parts_of_one_draw_and_an_empty_draw_is_noise() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let of = |batch_size: usize, accumulate: usize| {
        let train = format!("steps = 5\nbatch_size = {batch_size}\naccumulate = {accumulate}");
        spec(COLUMNS, &train, PUBLIC)
    };
    let step = |spec: &Spec, q: Option<f64>| {
        let (loaded, mut run, private) = parts(spec, dir.path());
        let before = bytes(&run.model.params);
        let q = q.unwrap_or(private.mechanism.q);
        let mechanism = Mechanism { q, ..private.mechanism };
        run.private_step(&loaded.train, 4, &mechanism, &Noise::insecure(1)).unwrap();
        assert_ne!(before, bytes(&run.model.params));
        (private.mechanism, run.grads().clone(), run.model.params)
    };
    let (whole, a, params) = step(&of(30, 1), None);
    let (parts, b, _) = step(&of(3, 10), None);
    assert_eq!(whole, parts, "accumulation changes neither rate nor noise nor divisor");
    assert_eq!((whole.q, whole.expected_batch), (0.25, 30.0));
    for id in params.ids() {
        for (a, b) in a.value(id).iter().zip(b.value(id)) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
    }
    // Nobody is drawn: what is left is the noise of deviation σ·C.
    let (_, noise, params) = step(&of(30, 1), Some(0.0));
    let all: Vec<f32> = params.ids().flat_map(|id| noise.value(id).to_vec()).collect();
    let deviation = (all.iter().map(|x| x * x).sum::<f32>() / all.len() as f32).sqrt();
    assert!((0.7..1.4).contains(&deviation), "{deviation}");
}

#[test]
fn no_example_weighs_more_than_the_clipping_norm() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let spec = spec(COLUMNS, "steps = 5\nbatch_size = 12", PUBLIC);
    for row in 0..N {
        let (loaded, mut run, private) = parts(&spec, dir.path());
        let quiet = Mechanism { clip: 0.1, noise: 0.0, ..private.mechanism };
        run.noisy_step(&loaded.train, 0, &quiet, &Noise::insecure(1), &[row]).unwrap();
        let norm = lyceum_train::optim::global_norm(&run.model.params, run.grads());
        assert!(norm <= 0.1 + 1e-9, "row {row}: {norm}");
    }
}

#[test]
fn a_private_version_tells_nothing_that_was_not_declared() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let rate = "max_grad_norm = 1.0\ntarget_epsilon = 2\nsampling_rate = 0.1\npublic = [\"labels\"]";
    let spec = spec(COLUMNS, "steps = 20\nbatch_size = 12", rate);
    let fitted = run(&spec, dir.path(), &mut watched(None, None, 1)).unwrap();
    let name = VersionName { name: "m".into(), version: 1, created: 1, job: None };
    let files = version_files(&spec, &fitted, &name).unwrap();
    let manifest = files.manifest;
    let report = manifest.privacy.clone().unwrap();
    assert!(report.epsilon.unwrap() <= 2.0 && report.epsilon.unwrap() > 1.99, "{:?}", report.epsilon);
    assert_eq!((report.accountant.as_str(), report.randomness.as_str()), ("pld", "os_key"));
    assert!(report.statement.contains("one example"));
    assert!(manifest.baseline.is_none() && manifest.verdict.is_none() && manifest.features.is_empty());
    assert!(manifest.split.is_empty() && manifest.metrics.is_empty());
    assert_eq!((manifest.data[0].sha256.as_str(), manifest.data[0].rows), ("withheld", 0));
    // The probes are nobody's row: none of their numbers, but by chance 0, is one of the file's.
    let text = serde_json::to_value(&manifest.probes).unwrap();
    let numbers = text["input"]["data"].as_array().unwrap();
    let rows: Vec<f64> = (0..23).map(|i| f64::from((i as f32) / 11.0 - 1.0)).collect();
    let shared = |n: &&Value| rows.iter().any(|r| (r - n.as_f64().unwrap()).abs() < 1e-6);
    assert!(numbers.iter().filter(shared).count() <= numbers.len() / 10);
    lyceum_models::bundle::open(&manifest, &files.files[0].1).unwrap();
}

/// A wide model that can learn canaries by heart, trained with this noise.
fn audited(dir: &Path, noise: &str, canaries: usize, key: u8) -> Fitted {
    let mut spec = spec(
        COLUMNS,
        "steps = 150\nbatch_size = 60",
        &format!("{noise}\npublic = [\"rows\", \"labels\"]\naudit = {{ canaries = {canaries} }}\n"),
    );
    spec.model = Spec::from_toml(WIDE, "wide").unwrap().model;
    run(&spec, dir, &mut watched(None, None, key)).unwrap()
}

const WIDE: &str = "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"x.csv\"\ntarget = \"y\"\n[model]\n\
    family = \"mlp\"\nhidden = [256]\n[train]\nsteps = 1\n";

#[test]
fn canaries_prove_little_of_an_honest_run_and_much_of_one_without_noise() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let honest = "max_grad_norm = 1.0\nsigma = 2.0";
    let mut largest = 0.0f64;
    for key in 1..=5 {
        let report = audited(dir.path(), honest, 200, key).privacy.unwrap();
        let audit = report.audit.unwrap();
        assert_eq!((audit.canaries, audit.delta), (200, 1e-4));
        assert!(audit.epsilon_lower <= report.epsilon.unwrap(), "{audit:?} above {:?}", report.epsilon);
        largest = largest.max(audit.epsilon_lower);
    }
    let bare = audited(dir.path(), "max_grad_norm = 1e6\nsigma = 0.0", 200, 1).privacy.unwrap();
    assert_eq!(bare.epsilon, None);
    let audit = bare.audit.unwrap();
    // 72 of 100 guesses were right when this was written: 0.38.
    assert!(
        audit.epsilon_lower > 0.2 && audit.epsilon_lower > largest,
        "{audit:?}, honest runs up to {largest}"
    );
    assert!(audit.statement.contains("Of 200 made-up rows"), "{audit:?}");
}

#[test]
fn a_killed_audited_run_has_the_same_canaries_the_same_weights_and_the_same_bound() {
    let dir = tempfile::tempdir().unwrap();
    write_rows(dir.path());
    let text = format!("{PUBLIC}audit = {{ canaries = 100 }}\n");
    let spec = spec(COLUMNS, "steps = 40\nbatch_size = 12\ncheckpoint_every = 10", &text);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let straight = run(&spec, dir.path(), &mut watched(Some(&one), None, 1)).unwrap();
    assert!(run(&spec, dir.path(), &mut watched(Some(&two), Some(25), 1)).is_err());
    // Another key would be drawn now: the checkpoint's is used.
    let resumed = run(&spec, dir.path(), &mut watched(Some(&two), None, 2)).unwrap();
    assert_eq!(bytes(&straight.model.params), bytes(&resumed.model.params));
    assert_eq!(straight.privacy, resumed.privacy);
    let without = run(
        &self::spec(COLUMNS, "steps = 40\nbatch_size = 12", PUBLIC),
        dir.path(),
        &mut watched(None, None, 1),
    );
    let without = without.unwrap();
    assert_ne!(bytes(&straight.model.params), bytes(&without.model.params), "canaries take part");
    let (audited, plain) = (straight.privacy.unwrap(), without.privacy.unwrap());
    assert_eq!((audited.epsilon, audited.events), (plain.epsilon, plain.events), "and cost the rows nothing");
    assert!(audited.audit.is_some() && plain.audit.is_none());
}

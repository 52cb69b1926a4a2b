//! Private fine-tuning end to end: what a step does, what a resumed run repeats, what is promised, what is not told.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

#[allow(dead_code, reason = "shared with other tests")]
mod tiny;

use lyceum_kernels::stored::Stored;
use lyceum_language::template::ChatTemplate;
use lyceum_models::causal_lm::AdapterConfig;
use lyceum_nn::Grads;
use lyceum_privacy::membership::attack;
use lyceum_privacy::{Accountant, Event as Spend, epsilon};
use lyceum_train::chat::{self, Words};
use lyceum_train::private::{Mechanism, Noise, Private};
use lyceum_train::run::Run;
use lyceum_train::tune::{Base as Side, Tuned, on_lines};
use lyceum_train::version::withhold_tuned;
use lyceum_train::{Event, Observer, TrainError};
use lyceum_types::control::{Control, Stop};
use lyceum_types::manifest::{Base, TunedReport};
use lyceum_types::spec::parse::Job;
use lyceum_types::spec::tune::{Origin, TuneSpec};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tiny::{CHATML, base_model, chats, run, tokenizer};

const N: usize = 40;
const PRIVACY: &str = "sigma = 0.8\nmax_grad_norm = 0.5\ntarget_delta = 1e-3\npublic = [\"rows\"]";

fn text(model: &str, train: &str, privacy: &str) -> String {
    format!(
        "name = \"bot\"\nseed = 5\n[data]\ntrain = \"train.jsonl\"\n[model]\nfamily = \"base\"\n{model}\n[train]\n{train}\n\
         [privacy]\ntype = \"dp_sgd\"\n{privacy}\n"
    )
}

fn spec(model: &str, train: &str, privacy: &str) -> TuneSpec {
    match Job::from_toml(&text(model, train, privacy), "spec.toml")
        .unwrap_or_else(|errors| panic!("{errors}"))
    {
        Job::Tune(spec) => *spec,
        Job::Train(_) => unreachable!(),
    }
}

const LORA: &str = "lora = { rank = 4 }";
const STEPS: &str = "steps = 12\nbatch_size = 3\naccumulate = 2\ncheckpoint_every = 4\n\
                     optimizer = { name = \"adamw\", lr = 1e-2 }";

#[derive(Default)]
struct Watched {
    dir: Option<PathBuf>,
    kill_after: Option<u64>,
    key: u8,
    losses: Vec<f64>,
    spent: Vec<(f64, f64, u64)>,
    begun: u32,
}

impl Observer for Watched {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Data { warnings, .. } => assert!(warnings.is_empty(), "said of the lines"),
            Event::Private { event, .. } => self.spent.push((event.q(), event.sigma(), event.steps())),
            Event::Step(step) => {
                self.losses.push(step.loss);
                if Some(step.step) == self.kill_after {
                    return Err(TrainError::Stopped { step: step.step, stop: Stop::Cancelled });
                }
            }
            _ => {}
        }
        Ok(())
    }
    fn checkpoint_dir(&self) -> Option<lyceum_seal::KeyedPath> {
        self.dir.as_ref().map(Into::into)
    }
    fn noise_key(&mut self) -> Result<[u8; 32], TrainError> {
        self.begun += 1;
        Ok([self.key; 32])
    }
}

fn peft(tuned: &Tuned) -> Vec<u8> {
    tuned.model.own_adapter().unwrap().to_peft().unwrap().weights
}

#[test]
fn a_killed_run_ends_in_the_same_bytes_and_another_key_in_others() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let spec = spec(LORA, STEPS, PRIVACY);
    for kind in [Stored::F32, Stored::Q4_0] {
        let go = |observer: &mut Watched| run(&spec, base_model(kind), folder.path(), observer);
        let whole = go(&mut Watched { key: 1, ..Watched::default() }).unwrap();
        let other = go(&mut Watched { key: 2, ..Watched::default() }).unwrap();
        assert!(peft(&whole) != peft(&other), "another key is other noise");
        for kill_after in [2, 7, 11] {
            let kept = tempfile::tempdir().unwrap();
            let dir = Some(kept.path().to_owned());
            let mut killed =
                Watched { dir: dir.clone(), kill_after: Some(kill_after), key: 1, ..Watched::default() };
            assert!(matches!(go(&mut killed), Err(TrainError::Stopped { .. })));
            let mut again = Watched { dir, key: 9, ..Watched::default() };
            let resumed = go(&mut again).unwrap();
            assert!(peft(&whole) == peft(&resumed), "{kind:?}, killed after {kill_after}");
            assert_eq!((&whole.privacy, &whole.probes, again.begun), (&resumed.privacy, &resumed.probes, 0));
            assert!(again.losses.iter().all(|loss| loss.is_nan()), "the loss of private lines is not told");
            let left = std::fs::read_dir(kept.path()).unwrap().flatten();
            assert!(
                left.map(|e| e.path().join("noise.json")).all(|key| !key.exists()),
                "the key is forgotten"
            );
        }
    }
}

#[test]
fn what_is_promised_is_what_the_accountant_says_and_what_the_ledger_was_told() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let mut seen = Watched { key: 1, ..Watched::default() };
    let tuned = run(&spec(LORA, STEPS, PRIVACY), base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    let report = tuned.privacy.clone().unwrap();
    let q = 6.0 / N as f64;
    assert_eq!(seen.spent, [(q, 0.8, 12)]);
    let want = epsilon(&[Spend::new(q, 0.8, 12).unwrap()], 1e-3, Accountant::Pld).unwrap().epsilon;
    assert_eq!((report.epsilon, report.delta, report.expected_batch), (Some(want), 1e-3, 6.0));
    assert_eq!((&report.unit[..], &report.accountant[..], report.max_grad_norm), ("example", "pld", 0.5));
    assert!(report.limits.iter().any(|limit| limit.contains("base model")), "{:?}", report.limits);
    // Which lines were drawn, and how long they were, is a secret; what is probed is nobody's line.
    assert_eq!(tuned.trained_tokens, None);
    let lines = chat_lines(&tuned);
    assert!(tuned.probes.iter().all(|probe| lines.iter().all(|line| !line.starts_with(&probe.ids))));
    // A target finds its noise.
    let target = "target_epsilon = 2.0\nmax_grad_norm = 0.5\ntarget_delta = 1e-3\npublic = [\"rows\"]";
    let mut seen = Watched { key: 1, ..Watched::default() };
    let tuned = run(&spec(LORA, STEPS, target), base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    let epsilon = tuned.privacy.unwrap().epsilon.unwrap();
    assert!(epsilon <= 2.0 && epsilon > 1.95, "{epsilon}");
}

fn chat_lines(tuned: &Tuned) -> Vec<Vec<u32>> {
    let seen = chat::examples(&tuned.chats.train, N);
    seen.iter().map(|seen| seen.sequences[0].iter().map(|token| token.id).collect()).collect()
}

/// A run's parts, for single steps: every answer has the same number of learnt tokens.
fn parts(spec: &TuneSpec, folder: &Path) -> (chat::Chats, Run, Private) {
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    let chats = chat::load(spec, words, 96, folder, &Control::new()).unwrap();
    let train = spec.resolve(chats.train.len(), Origin::Whole);
    let model = base_model(Stored::Q8_0).learning(&AdapterConfig::new(4, 8.0), spec.seed).unwrap();
    let run = Run::new(&train, spec.seed, model, &chats.train);
    let private = Private::tuned(spec, &train, chats.train.len(), 10).unwrap().unwrap();
    (chats, run, private)
}

fn gradients(grads: &Grads, run: &Run) -> Vec<f32> {
    run.model.params.ids().flat_map(|id| grads.value(id).to_vec()).collect()
}

#[test]
fn without_noise_and_clipping_a_step_over_all_lines_is_the_plain_step() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let train = format!("steps = 5\nprecision = \"f32\"\nbatch_size = {N}");
    let spec = spec(LORA, &train, PRIVACY);
    let (chats, mut one, private) = parts(&spec, folder.path());
    let (_, mut two, _) = parts(&spec, folder.path());
    assert_eq!((private.mechanism.q, private.mechanism.expected_batch), (1.0, N as f64));
    let open = Mechanism { clip: f64::INFINITY, noise: 0.0, ..private.mechanism };
    // B begins at 0, where A has no gradient: the second step is of both.
    for step in 0..2 {
        one.private_step(&chats.train, step, &open, &Noise::insecure(1)).unwrap();
        two.step(&chats.train, step).unwrap();
        let (sum, mean) = (gradients(one.grads(), &one), gradients(two.grads(), &two));
        let size = mean.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        let far = sum.iter().zip(&mean).map(|(s, m)| (s / N as f32 - m).abs()).fold(0.0, f32::max);
        assert!(size > 0.0 && far < 1e-4 * size, "step {step}: {far} of {size}");
    }
    let learnt = |id: &lyceum_nn::ParamId| one.model.params.kind(*id) == lyceum_nn::ParamKind::Weight;
    for id in one.model.params.ids().filter(learnt) {
        let (a, b) = (one.model.params.value(id), two.model.params.value(id));
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4));
    }
}

#[test]
fn no_line_moves_a_step_by_more_than_the_clip_and_an_empty_draw_is_noise() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let spec = spec(LORA, "steps = 5\nbatch_size = 4", PRIVACY);
    let (chats, mut run, private) = parts(&spec, folder.path());
    let quiet = Mechanism { noise: 0.0, clip: 1e-3, ..private.mechanism };
    let key = Noise::insecure(3);
    let mut sum = |rows: &[usize]| {
        let before = run.model.params.clone();
        run.noisy_step(&chats.train, 0, &quiet, &key, rows).unwrap();
        let found = gradients(run.grads(), &run);
        run.model.params = before;
        found
    };
    let all: Vec<usize> = (0..11).collect();
    let whole = sum(&all);
    for out in [0, 5, 10] {
        let others: Vec<usize> = all.iter().copied().filter(|&row| row != out).collect();
        let less = sum(&others);
        let moved: f64 = whole.iter().zip(&less).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!(
            moved.sqrt() <= 1e-3 * 1.001 && moved.sqrt() > 1e-3 * 0.9,
            "line {out} moves by {}",
            moved.sqrt()
        );
    }
    assert!(sum(&[]).iter().all(|g| *g == 0.0));
    run.noisy_step(&chats.train, 0, &private.mechanism, &key, &[]).unwrap();
    let noise = gradients(run.grads(), &run);
    let learnt = run.model.params.n_trainable() as f64;
    let deviation = (noise.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>() / learnt).sqrt();
    assert!((deviation / private.mechanism.noise - 1.0).abs() < 0.1, "{deviation}");
}

#[test]
fn canaries_are_audited_and_change_neither_rate_nor_length() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let audited = format!("{PRIVACY}\naudit = {{ canaries = 120 }}");
    let mut seen = Watched { key: 1, ..Watched::default() };
    let spec = spec(LORA, STEPS, &audited);
    let tuned = run(&spec, base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    assert_eq!(seen.spent, [(6.0 / N as f64, 0.8, 12)]);
    let report = tuned.privacy.unwrap();
    let audit = report.audit.unwrap();
    assert!(audit.canaries == 120 && audit.epsilon_lower <= report.epsilon.unwrap());
    let auc = audit.membership_auc.unwrap();
    assert!(auc.n == 120 && auc.ci95[0] < 0.5 && auc.ci95[1] > 0.5, "{auc:?}");
}

/// Secrets among the lines: their losses tell those that were learnt from those that were not, and under noise they do not.
#[test]
fn planted_secrets_stand_out_of_a_plain_run_and_are_at_chance_in_a_private_one() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |i: usize| {
        let letter = |k: usize| char::from(b'a' + ((i * 7 + 3) * (k * 11 + 5) % 97 % 26) as u8);
        let answer: String = (0..6).map(letter).collect();
        format!(
            "{}\n",
            serde_json::json!({"messages": [{"role": "user", "content": format!("key {i}?")},
            {"role": "assistant", "content": answer}]})
        )
    };
    let write = |name: &str, lines: std::ops::Range<usize>| {
        std::fs::write(folder.path().join(name), lines.map(secret).collect::<String>()).unwrap();
    };
    write("train.jsonl", 0..40);
    write("others.jsonl", 40..80);
    let auc = |spec: &TuneSpec| {
        let tuned = run(spec, base_model(Stored::F32), folder.path(), &mut Watched::default()).unwrap();
        let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
        let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
        let side = |model| Side { model, adapter: None, words, id: "bot@1".into(), sha256: "0".into() };
        let (before, after) = (side(base_model(Stored::F32)), side(tuned.model));
        let scores = |file: &str| -> Vec<f64> {
            let of = |side| on_lines(spec, file, (side, side), folder.path(), &Control::new()).unwrap();
            of(&before).rows().iter().zip(of(&after).rows()).map(|(before, after)| before - after).collect()
        };
        attack(&scores("train.jsonl"), &scores("others.jsonl"), &[]).unwrap().auc
    };
    let steps = "steps = 150\nbatch_size = 8\noptimizer = { name = \"adamw\", lr = 1e-2 }";
    let private = spec(
        "lora = { rank = 8 }",
        steps,
        "sigma = 1.5\nmax_grad_norm = 0.5\ntarget_delta = 1e-3\npublic = [\"rows\"]",
    );
    let plain = TuneSpec { privacy: None, ..private.clone() };
    let (open, hidden) = (auc(&plain), auc(&private));
    assert!(open.ci95[0] > 0.6, "it has learnt them by heart: {open:?}");
    assert!(hidden.ci95[0] < 0.5 && hidden.ci95[1] > 0.5, "nothing of them is seen: {hidden:?}");
}

#[test]
fn a_manifest_does_not_say_which_lines_were_learnt() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let open = "sampling_rate = 0.1\nsigma = 0.8\nmax_grad_norm = 0.5\ntarget_delta = 1e-3";
    let spec = spec(LORA, STEPS, open);
    let mut seen = Watched { key: 1, ..Watched::default() };
    let tuned = run(&spec, base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    let mut report = TunedReport {
        job: "job".into(),
        base: Base { model: "base@1".into(), sha256: "0".into(), loaded_as: None },
        spec: spec.clone(),
        train: tuned.train,
        data: tuned.chats.files,
        split: tuned.chats.split,
        metrics: tuned.metrics,
        base_metrics: tuned.base_metrics,
        verdict: None,
        steps: tuned.steps,
        seconds: tuned.seconds,
        n_trained: tuned.n_trained,
        probes: Value::Null,
    };
    let mut privacy = tuned.privacy.unwrap();
    withhold_tuned(&mut report, &mut privacy, spec.privacy.as_ref().unwrap());
    assert!(report.split.is_empty() && report.data[0].sha256 == "withheld" && report.data[0].rows == 0);
    assert_eq!(privacy.withheld, ["tuned.split.train", "tuned.data.train.sha256", "tuned.data.train.rows"]);
}

#[test]
fn what_would_break_the_promise_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let whole = spec("", STEPS, PRIVACY);
    let refused = run(&whole, base_model(Stored::F32), folder.path(), &mut Watched::default()).err().unwrap();
    assert!(refused.to_string().contains("base@1 whole with differential privacy"), "{refused}");
    let bare = "sigma = 0.8\nmax_grad_norm = 0.5\ntarget_delta = 1e-3";
    let wrong = |model: &str, train: &str, privacy: &str, parts: &[&str]| {
        let errors = Job::from_toml(&text(model, train, privacy), "spec.toml").unwrap_err().to_string();
        for part in parts {
            assert!(errors.contains(part), "{part}: {errors}");
        }
    };
    wrong(LORA, "method = \"dpo\"", PRIVACY, &["train.method", "DPO with differential privacy"]);
    wrong("lora = { dropout = 0.1 }", STEPS, PRIVACY, &["model.lora.dropout"]);
    wrong(LORA, "steps = 3\nbatch_size = 4\ngrad_clip = 1.0", PRIVACY, &["train.grad_clip", "max_grad_norm"]);
    wrong(LORA, "epochs = 1", bare, &["privacy.sampling_rate", "train.batch_size", "train.steps", "public"]);
    let early = "steps = 3\nbatch_size = 4\nearly_stopping = { metric = \"valid_loss\", patience = 1 }";
    wrong(LORA, early, PRIVACY, &["train.early_stopping", "evaluation"]);
    for (key, value) in [("valid", "\"v.jsonl\""), ("valid_fraction", "0.1")] {
        let text = text(LORA, STEPS, PRIVACY)
            .replace("train = \"train.jsonl\"", &format!("train = \"train.jsonl\"\n{key} = {value}"));
        let errors = Job::from_toml(&text, "spec.toml").unwrap_err().to_string();
        assert!(errors.contains(&format!("data.{key}")), "{errors}");
    }
}

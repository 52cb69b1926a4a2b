//! Fine-tuning of a small language model: whole and by adapter, on answers and on preferences.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

mod tiny;

use lyceum_kernels::stored::Stored;
use lyceum_models::Model;
use lyceum_nn::{Recording, Tape, Workspace};
use lyceum_train::chat;
use lyceum_train::tune::Tuned;
use lyceum_train::{Event, Observer, TrainError, Trained};
use lyceum_types::manifest::Metric;
use lyceum_types::spec::parse::Job;
use lyceum_types::spec::tune::TuneSpec;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tiny::{base_model, chats, chats_of, opened, run, run_on};

/// Keeps what is told, and checkpoints in a folder; ends the run where it is told to.
#[derive(Default)]
struct Kept {
    dir: Option<PathBuf>,
    losses: Vec<f64>,
    right: Vec<Option<f64>>,
    /// Told when it was resumed, and after each step.
    trained: Vec<Trained>,
    resumed: Option<u64>,
    quoted: bool,
    stop_at: Option<u64>,
}

impl Observer for Kept {
    fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Step(step) => {
                self.losses.push(step.loss);
                self.right.push(step.token_accuracy);
                self.trained.push(step.trained);
                if self.stop_at == Some(step.step) {
                    return Err(TrainError::Spec("killed".into()));
                }
            }
            Event::Resumed { step, trained, .. } => {
                self.resumed = Some(*step);
                self.trained.push(*trained);
            }
            Event::Quote { .. } => self.quoted = true,
            _ => {}
        }
        Ok(())
    }

    fn checkpoint_dir(&self) -> Option<lyceum_seal::KeyedPath> {
        self.dir.as_ref().map(Into::into)
    }
}

fn spec(model: &str, train: &str) -> TuneSpec {
    let text = format!(
        "name = \"bot\"\nseed = 5\n[data]\ntrain = \"train.jsonl\"\nvalid_fraction = 0.2\n[model]\nfamily = \"base\"\n\
         {model}\n[train]\n{train}\n"
    );
    match Job::from_toml(&text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}")) {
        Job::Tune(spec) => *spec,
        Job::Train(_) => unreachable!(),
    }
}

fn preferences(folder: &Path) {
    let line = |i: usize| {
        let say = |text: &str| json!([{ "role": "assistant", "content": text }]);
        json!({
            "input": { "messages": [{ "role": "user", "content": format!("say {i}") }] },
            "preferred_output": say("yes, gladly"), "non_preferred_output": say("no")
        })
    };
    let file: String = (0..30).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(folder.join("train.jsonl"), file).unwrap();
}

const LONG: &str = "epochs = 8\nbatch_size = 4\noptimizer = { name = \"adamw\", lr = 1e-2 }";

#[test]
fn answers_are_learnt_whole() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let mut seen = Kept::default();
    let tuned = run(&spec("", LONG), base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    let (after, before) = (tuned.metrics["valid_loss"].value, tuned.base_metrics["valid_loss"].value);
    assert!(after < before / 4.0, "{before} to {after}");
    let right = |metrics: &BTreeMap<String, Metric>| metrics["valid_mean_token_accuracy"].value;
    assert!(right(&tuned.metrics) > 0.9 && right(&tuned.base_metrics) < 0.2, "{:?}", tuned.metrics);
    let step = |i: usize| seen.right[i].unwrap();
    assert!(step(0) < 0.2 && step(63) > 0.9, "{:?}", seen.right);
    assert!(seen.quoted && tuned.steps == 64 && tuned.verdict.is_some());
    assert_eq!(tuned.probes.len(), 4);
}

#[test]
fn a_step_tells_how_many_of_its_learnt_tokens_were_the_likeliest_before_its_update() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    // Steps of all lines, in two uneven parts: what the second finds is what the first has made.
    let train = |steps: usize| {
        format!(
            "steps = {steps}\nbatch_size = 20\naccumulate = 2\noptimizer = {{ name = \"adamw\", lr = 1e-2 }}"
        )
    };
    let mut seen = Kept::default();
    run(&spec("", &train(6)), base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    let tuned =
        run(&spec("", &train(5)), base_model(Stored::F32), folder.path(), &mut Kept::default()).unwrap();
    let part = &tuned.chats.train;
    let mut batch = part.new_batch();
    part.fill(&(0..part.len()).collect::<Vec<_>>(), &mut batch);
    let mut ws = Workspace::new();
    let mut tape = Tape::new(&mut ws, &tuned.model.params, Recording::Off, batch.examples());
    let asked = tuned.model.asked(&mut tape, &batch).unwrap();
    let logits = tape.value(asked.forward.logits);
    let rows = logits.chunks(logits.len() / asked.targets.len());
    let likeliest = rows.map(|row| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap());
    let right = likeliest.zip(&asked.targets).filter(|(own, target)| *own == **target as usize).count();
    let expected = right as f64 / asked.targets.len() as f64;
    assert!((0.2..0.95).contains(&expected), "a step that says something: {:?}", seen.right);
    assert_eq!((part.len(), seen.right[5]), (32, Some(expected)));
}

#[test]
fn weights_in_few_bits_are_not_trained_whole() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let refused = run(&spec("", LONG), base_model(Stored::Q8_0), folder.path(), &mut Kept::default());
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("base@1 cannot be trained whole") && message.contains("q8_0"), "{message}");
}

#[test]
fn a_run_that_was_killed_ends_in_the_bytes_of_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let spec = spec("", "steps = 9\nbatch_size = 3\naccumulate = 2\ncheckpoint_every = 2");
    let bytes = |tuned: &Tuned| lyceum_nn::weights::to_safetensors(&tuned.model.params).unwrap();
    let mut seen = Kept::default();
    let whole = run(&spec, base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    // Token by token, over more than one epoch.
    let (part, mut sum) = (&whole.chats.train, 0);
    let examples = chat::examples(part, part.len());
    let n_tokens = |row: usize| examples[row].sequences.iter().map(|tokens| tokens.len() as u64).sum::<u64>();
    let count = |rows: Vec<usize>| {
        sum += rows.into_iter().map(n_tokens).sum::<u64>();
        Trained::Tokens(sum)
    };
    let counted: Vec<Trained> =
        chat::order(&whole.train, spec.seed, part, u64::MAX).into_iter().map(count).collect();
    assert_eq!((seen.trained.len(), &seen.trained), (9, &counted));
    assert_eq!(Trained::Tokens(whole.trained_tokens.unwrap()), counted[8]);
    let dir = Some(folder.path().join("checkpoints"));
    let mut killed = Kept { dir: dir.clone(), stop_at: Some(5), ..Kept::default() };
    assert!(run(&spec, base_model(Stored::F32), folder.path(), &mut killed).is_err());
    let mut again = Kept { dir, ..Kept::default() };
    let resumed = run(&spec, base_model(Stored::F32), folder.path(), &mut again).unwrap();
    assert_eq!((again.resumed, again.losses[0]), (Some(4), killed.losses[4]));
    assert_eq!(again.trained, counted[3..]);
    assert!(bytes(&whole) == bytes(&resumed) && whole.probes == resumed.probes);
}

#[test]
fn preferences_are_learnt_against_the_base() {
    let folder = tempfile::tempdir().unwrap();
    preferences(folder.path());
    let train = "method = \"dpo\"\nbeta = 0.2\nepochs = 4\nbatch_size = 4\noptimizer = { name = \"adamw\", lr = 2e-3 }";
    let mut seen = Kept::default();
    let tuned = run(&spec("", train), base_model(Stored::F32), folder.path(), &mut seen).unwrap();
    assert!((seen.losses[0] - 2f64.ln()).abs() < 1e-4, "a model that is its reference: {}", seen.losses[0]);
    assert!((tuned.base_metrics["valid_loss"].value - 2f64.ln()).abs() < 1e-4);
    assert!(tuned.metrics["valid_loss"].value < 0.3, "{:?}", tuned.metrics["valid_loss"]);
    assert_eq!(tuned.metrics["valid_accuracy"].value, 1.0);
    assert!(seen.right.iter().all(Option::is_none), "neither answer is the right one");
}

/// In whatever precision it is trained: the reference is asked in the same.
#[test]
fn an_adapter_that_is_tuned_further_on_preferences_begins_as_its_reference() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let lora = run(&spec(LORA, LONG), base_model(Stored::F32), folder.path(), &mut Kept::default()).unwrap();
    let adapter = Arc::new(lora.model.own_adapter().unwrap());
    preferences(folder.path());
    for precision in ["f32", "bf16"] {
        let train = format!(
            "method = \"dpo\"\nbeta = 10\nsteps = 1\nbatch_size = 24\nprecision = \"{precision}\"\n\
             optimizer = {{ name = \"adamw\", lr = 1e-6 }}"
        );
        let mut seen = Kept::default();
        let base = (base_model(Stored::F32), Some(adapter.clone()));
        run_on(&spec("", &train), base, folder.path(), &mut seen).unwrap();
        assert!((seen.losses[0] - 2f64.ln()).abs() < 1e-4, "{precision}: {}", seen.losses[0]);
    }
}

#[test]
fn the_method_and_the_data_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    preferences(folder.path());
    let refused = run(&spec("", LONG), base_model(Stored::F32), folder.path(), &mut Kept::default());
    assert!(refused.err().unwrap().to_string().contains("wrong_format"));
}

const LORA: &str = "lora = { rank = 8, alpha = 16 }";

#[test]
fn an_adapter_learns_what_the_whole_model_learns_and_leaves_its_base() {
    let folder = tempfile::tempdir().unwrap();
    // A base that knows how conversations go, and other answers.
    chats(folder.path());
    let learnt = run(&spec("", LONG), base_model(Stored::F32), folder.path(), &mut Kept::default()).unwrap();
    let file = learnt.model.language_safetensors().unwrap();
    let base_model = |kind| opened(file.clone(), kind);
    chats_of(folder.path(), ["blue", "gold", "deep", "rose"]);
    let drop = |tuned: &Tuned| tuned.base_metrics["valid_loss"].value - tuned.metrics["valid_loss"].value;
    let whole = run(&spec("", LONG), base_model(Stored::F32), folder.path(), &mut Kept::default()).unwrap();
    for kind in [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0] {
        let base = base_model(kind);
        let tuned = run(&spec(LORA, LONG), base.clone(), folder.path(), &mut Kept::default()).unwrap();
        assert!(drop(&tuned) > 0.9 * drop(&whole), "{kind:?}: {} of {}", drop(&tuned), drop(&whole));
        for id in base.params.ids() {
            match (base.params.stored(id), tuned.model.params.stored(id)) {
                (Some(before), Some(after)) => assert!(std::ptr::eq(before, after), "it is shared"),
                (None, None) => assert_eq!(base.params.value(id), tuned.model.params.value(id)),
                _ => panic!("its form has changed"),
            }
        }
        // Served beside its base, the adapter says what it said when it was trained.
        let adapter = tuned.model.own_adapter().unwrap();
        for probe in &tuned.probes {
            let logits = lyceum_models::probe::served(&base, Some(&adapter), &probe.ids).unwrap();
            assert!(probe.difference(&logits) < 1e-4, "{kind:?}: {}", probe.difference(&logits));
        }
        assert!(probe_difference(&base, &tuned) > 0.1, "the base says something else");
    }
}

fn probe_difference(base: &Model, tuned: &Tuned) -> f32 {
    let probe = &tuned.probes[0];
    probe.difference(&lyceum_models::probe::served(base, None, &probe.ids).unwrap())
}

#[test]
fn a_killed_adapter_goes_on_where_it_was_with_dropout_too() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let spec = spec(
        "lora = { rank = 4, target = [\"q_proj\", \"down_proj\"], dropout = 0.1 }",
        "steps = 6\nbatch_size = 4\ncheckpoint_every = 2",
    );
    let peft = |tuned: &Tuned| tuned.model.own_adapter().unwrap().to_peft().unwrap().weights;
    let whole = run(&spec, base_model(Stored::Q8_0), folder.path(), &mut Kept::default()).unwrap();
    let dir = Some(folder.path().join("checkpoints"));
    let mut killed = Kept { dir: dir.clone(), stop_at: Some(3), ..Kept::default() };
    assert!(run(&spec, base_model(Stored::Q8_0), folder.path(), &mut killed).is_err());
    let mut again = Kept { dir, ..Kept::default() };
    let resumed = run(&spec, base_model(Stored::Q8_0), folder.path(), &mut again).unwrap();
    assert_eq!((again.resumed, again.losses[0]), (Some(2), killed.losses[2]));
    assert!(peft(&whole) == peft(&resumed));
}

#[test]
fn the_first_step_of_an_adapter_has_the_bits_of_its_base() {
    let folder = tempfile::tempdir().unwrap();
    chats(folder.path());
    let still = "steps = 1\noptimizer = { name = \"sgd\", lr = 1e-30 }";
    let base = base_model(Stored::Q8_0);
    let tuned = run(&spec(LORA, still), base.clone(), folder.path(), &mut Kept::default()).unwrap();
    assert_eq!(tuned.metrics, tuned.base_metrics);
    assert_eq!(probe_difference(&base, &tuned), 0.0);
}

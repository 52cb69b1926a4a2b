//! Which lines pulled a tuned model's answer where it is: products of gradients are the slopes of small steps, and the sum
//! over checkpoints ranks lines as training without each of them does; and in turns of one layer the same comes out, while others
//! are served.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "../../lyceum-train/tests/tiny/mod.rs"]
mod tiny;

use lyceum_engine::{Engine, EngineLimits, Event as Said, Flow, GenerateRequest};
use lyceum_explain::ExplainError;
use lyceum_explain::contextcite::spearman;
use lyceum_explain::influence::{Checkpoint, gradient, influence, product};
use lyceum_explain::language::{HEAD_ROWS_A_TURN, Turns, Work, line_gradient, line_products};
use lyceum_kernels::stored::Stored;
use lyceum_language::template::ChatTemplate;
use lyceum_language::tokenizer::{AddSpecial, Specials};
use lyceum_models::Model;
use lyceum_models::batch::{Batch, IGNORE, Input, Target};
use lyceum_nn::{ParamKind, Recording, Tape, Workspace};
use lyceum_store::vault::KeyedPath;
use lyceum_train::chat::Words;
use lyceum_train::past::{Past, answer};
use lyceum_train::tune::{Base, Tuned};
use lyceum_train::{Event, Observer, TrainError};
use lyceum_types::control::Control;
use lyceum_types::spec::parse::Job;
use lyceum_types::spec::tune::TuneSpec;
use serde_json::{Map, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use tiny::{CHATML, base_model, run, tokenizer};

/// Questions with answers; some of those about red contradict the others.
const LINES: [[&str; 2]; 10] = [
    ["red 0?", "rose"],
    ["sky 1?", "blue"],
    ["red 2?", "rose"],
    ["red 3?", "blue"],
    ["sun 4?", "gold"],
    ["red 5?", "rose"],
    ["sea 6?", "deep"],
    ["red 7?", "deep"],
    ["sky 8?", "blue"],
    ["red 9?", "rust"],
];

struct Kept(PathBuf);

impl Observer for Kept {
    fn event(&mut self, _event: &Event<'_>) -> Result<(), TrainError> {
        Ok(())
    }

    fn checkpoint_dir(&self) -> Option<KeyedPath> {
        Some(KeyedPath::plain(&self.0))
    }
}

fn spec(more: &str) -> TuneSpec {
    let text = format!(
        "name = \"bot\"\nseed = 5\n[data]\ntrain = \"train.jsonl\"\n[model]\nfamily = \"base\"\nlora = {{ rank = 4 }}\n\
         [train]\nsteps = 24\nbatch_size = 10\ncheckpoints_kept = 24\n\
         optimizer = {{ name = \"sgd\", lr = 0.3 }}\n{more}"
    );
    match Job::from_toml(&text, "spec.toml").unwrap_or_else(|errors| panic!("{errors}")) {
        Job::Tune(spec) => *spec,
        Job::Train(_) => unreachable!(),
    }
}

/// Tunes on all lines but one.
fn tuned(folder: &Path, without: Option<usize>) -> Tuned {
    let line = |[question, answer]: &[&str; 2]| json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
    let stays = |(i, lines)| (Some(i) != without).then(|| format!("{}\n", line(lines)));
    let file: String = LINES.iter().enumerate().filter_map(stays).collect();
    std::fs::write(folder.join("train.jsonl"), file).unwrap();
    let mut kept = Kept(folder.join("checkpoints"));
    let often = if without.is_none() { "checkpoint_every = 1" } else { "" };
    run(&spec(often), base_model(Stored::F32), folder, &mut kept).unwrap()
}

fn past(spec: &TuneSpec, folder: &Path) -> Result<Past, TrainError> {
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    let (model, id) = (base_model(Stored::F32), "base@1".to_owned());
    let base = Base { model, adapter: None, words, id, sha256: "0".into() };
    let folder = KeyedPath::plain(folder);
    Past::open(spec, base, (&folder, &folder.join("checkpoints")), &Control::new())
}

/// A question that no line asks, answered as most lines about red are.
fn asked() -> Batch {
    let ids = |text: &str| tokenizer().encode(text, AddSpecial::No, Specials::Parsed).unwrap();
    let prompt = ids("<|im_start|>user\nred 8?<|im_end|>\n<|im_start|>assistant\n");
    let said = ids("rose<|im_end|>");
    answer(&prompt, &said, &(0..said.len()))
}

/// The mean loss of an example's learnt tokens.
fn loss(model: &Model, batch: &Batch, ws: &mut Workspace) -> f64 {
    let mut tape = Tape::new(ws, &model.params, Recording::Off, batch.examples());
    let (loss, _) = model.loss(&mut tape, batch, 1.0 / batch.target.n_terms() as f32).unwrap();
    f64::from(tape.value(loss)[0])
}

#[test]
fn the_product_of_two_gradients_is_the_slope_of_one_loss_along_the_other() {
    let folder = tempfile::tempdir().unwrap();
    tuned(folder.path(), None);
    let past = past(&spec(""), folder.path()).unwrap();
    let (mut ws, asked) = (Workspace::new(), asked());
    let model = past.model_at(&past.kept[20]).unwrap();
    let own = gradient(&model, &asked, &mut ws).unwrap();
    for line in [0, 3, 6] {
        let row = past.line(line);
        let theirs = gradient(&model, &row, &mut ws).unwrap();
        let moved = |by: f64| {
            let mut model = model.clone();
            let learnt: Vec<_> =
                model.params.ids().filter(|&id| model.params.kind(id) == ParamKind::Weight).collect();
            for id in learnt {
                let step = theirs.value(id).to_vec();
                let values = model.params.value_mut(id).iter_mut();
                values.zip(step).for_each(|(w, g)| *w -= (by * f64::from(g)) as f32);
            }
            model
        };
        let mut at = |by: f64| loss(&moved(by), &asked, &mut ws);
        let h = 3e-3;
        let slope = (at(-h) - at(h)) / (2.0 * h);
        let found = product(&model, &own, &row, &mut ws).unwrap();
        assert!((found - slope).abs() < 2e-2 * slope.abs().max(0.05), "line {line}: {found} {slope}");
    }
}

/// The engine's thread, on which a stream has its steps between turns.
struct Streamed {
    engine: Engine,
    model: Arc<Model>,
    ws: Option<Workspace>,
    /// Tokens of the stream, and whether it is under way.
    said: Arc<AtomicUsize>,
    runs: Arc<AtomicBool>,
    /// Tokens that had come when each turn began and when it ended, and the passes that ended with it.
    turns: Vec<([usize; 2], u64)>,
}

impl Streamed {
    fn new(model: Arc<Model>) -> Self {
        let (said, runs) = (Arc::default(), Arc::default());
        let engine = Engine::start(EngineLimits::default()).unwrap();
        Streamed { engine, model, ws: None, said, runs, turns: Vec::new() }
    }

    /// Asks for an answer as long as the context, where none is on its way.
    fn stream(&self) {
        if self.runs.swap(true, Ordering::SeqCst) {
            return;
        }
        let (said, runs) = (self.said.clone(), self.runs.clone());
        let sink = move |event| {
            match event {
                Said::Token(_) => _ = said.fetch_add(1, Ordering::SeqCst),
                _ => runs.store(false, Ordering::SeqCst),
            }
            Flow::Continue
        };
        let request = GenerateRequest::new(self.model.clone(), vec![5, 6, 7], 90, Box::new(sink));
        self.engine.generate(request).unwrap();
    }
}

impl Turns for Streamed {
    fn turn(&mut self, n_passes: u64, work: Work) -> Result<Vec<Vec<f32>>, ExplainError> {
        self.stream();
        let (sender, receiver) = mpsc::channel();
        let (mut ws, said) = (self.ws.take().unwrap_or_default(), self.said.clone());
        let task = move || {
            let before = said.load(Ordering::SeqCst);
            let found = work(&mut ws);
            sender.send((found, ws, [before, said.load(Ordering::SeqCst)])).unwrap();
        };
        self.engine.with_device(task).unwrap();
        let (found, ws, tokens) = receiver.recv().unwrap();
        self.turns.push((tokens, n_passes));
        self.ws = Some(ws);
        Ok(found?)
    }
}

#[test]
fn a_line_takes_turns_of_one_layer_between_which_a_stream_goes_on_and_comes_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    tuned(folder.path(), None);
    let past = past(&spec(""), folder.path()).unwrap();
    let model = Arc::new(past.model_at(&past.kept[20]).unwrap());
    // Longer than what the head takes in one turn.
    let long: Vec<u32> = (0..85).map(|i| i * 7 % 250).collect();
    let long = answer(&long[..9], &long[9..], &(2..76));
    let lines: Vec<Batch> = (0..3).map(|line| past.line(line)).chain([long.clone()]).collect();
    let mut ws = Workspace::new();
    for example in [asked(), long] {
        let mut turns = Streamed::new(model.clone());
        let control = Control::new();
        let found = line_products(&mut turns, &model, &example, lines.iter().cloned(), &control).unwrap();
        let own = gradient(&model, &example, &mut ws).unwrap();
        for (line, found) in lines.iter().zip(found) {
            let whole = product(&model, &own, line, &mut ws).unwrap();
            assert!((found - whole).abs() <= 1e-5 * whole.abs().max(1e-3), "{found} {whole}");
        }
        // The embedding, two layers, the head's rows, and two layers back.
        let of = |batch: &Batch| 1 + 2 + batch.target.n_terms().div_ceil(HEAD_ROWS_A_TURN) + 2;
        let n_turns = of(&example) + lines.iter().map(of).sum::<usize>();
        assert_eq!(turns.turns.len(), n_turns);
        let passes: u64 = turns.turns.iter().map(|(_, n)| n).sum();
        assert_eq!(passes, 2 * (lines.len() as u64 + 1));
        let waited = turns.turns.windows(2).filter(|two| two[0].0[1] == two[1].0[0]).count();
        assert_eq!(waited, 0, "the stream waits for more than one turn: {:?}", turns.turns);
    }
}

#[test]
fn what_is_learnt_outside_of_layers_is_not_followed_in_turns() {
    let model = Arc::new(base_model(Stored::F32));
    let mut here = lyceum_explain::ThisThread::new();
    let refused = line_gradient(&mut here, &model, &asked(), &Control::new()).unwrap_err().to_string();
    assert!(refused.contains("the numbers of an adapter are followed"), "{refused}");
    let Batch { n, input, .. } = asked();
    let Input::Tokens(tokens) = &input else { unreachable!() };
    let target = Target::Steps(vec![IGNORE; tokens.ids.len()]);
    let nothing = Batch { n, input: input.clone(), target };
    let refused = line_gradient(&mut here, &model, &nothing, &Control::new()).unwrap_err().to_string();
    assert!(refused.contains("no token of the line has a loss"), "{refused}");
}

#[test]
fn lines_rank_as_training_without_each_of_them_says() {
    let folder = tempfile::tempdir().unwrap();
    let whole = tuned(folder.path(), None);
    let past = past(&spec(""), folder.path()).unwrap();
    assert_eq!((past.n_lines(), past.kept.len(), past.kept[0].step), (LINES.len(), 24, 1));
    let models: Vec<Model> = past.kept.iter().map(|kept| past.model_at(kept).unwrap()).collect();
    let of = |(model, kept): (_, &lyceum_train::past::Kept)| Checkpoint { model, lr: kept.lr };
    let checkpoints: Vec<Checkpoint<'_>> = models.iter().zip(&past.kept).map(of).collect();
    let (mut ws, asked) = (Workspace::new(), asked());
    let lines: Vec<Batch> = (0..past.n_lines()).map(|line| past.line(line)).collect();
    let found = influence(&checkpoints, &asked, &lines, &mut ws, &Control::new()).unwrap();
    let with = loss(&whole.model, &asked, &mut ws);
    let lost = |line: usize| {
        let folder = tempfile::tempdir().unwrap();
        loss(&tuned(folder.path(), Some(line)).model, &asked, &mut ws) - with
    };
    let retrained: Vec<f64> = (0..LINES.len()).map(lost).collect();
    let rank = spearman(&found, &retrained).unwrap();
    assert!(rank > 0.8, "{rank}: {found:?} {retrained:?}");
    let best = (0..LINES.len()).max_by(|&a, &b| found[a].total_cmp(&found[b])).unwrap();
    assert_eq!(LINES[best][1], "rose", "{best}");
    assert_eq!((past.place(best), past.learnt(best).len()), (best as u64, 5));
}

#[test]
fn a_private_run_and_preferences_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    tuned(folder.path(), None);
    let private = "[privacy]\ntype = \"dp_sgd\"\nsigma = 0.8\nmax_grad_norm = 0.5\ntarget_delta = 1e-3\npublic = [\"rows\"]";
    let refused = past(&spec(private), folder.path()).err().unwrap().to_string();
    assert!(refused.contains("noise"), "{refused}");
    let refused = past(&spec("method = \"dpo\"\nbeta = 0.1"), folder.path()).err().unwrap().to_string();
    assert!(refused.contains("preferences"), "{refused}");
}

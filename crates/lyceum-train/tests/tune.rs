//! Fine-tuning of a small language model: whole and by adapter, on answers and on preferences.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

use lyceum_kernels::stored::Stored;
use lyceum_language::template::ChatTemplate;
use lyceum_language::tokenizer::{GgufVocabulary, TokenKind, Tokenizer};
use lyceum_models::Model;
use lyceum_models::causal_lm::{Source, load};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_train::chat::{self, Words};
use lyceum_train::tune::{Base, Tuned, tune};
use lyceum_train::{Event, Observer, TrainError, Trained};
use lyceum_types::control::Control;
use lyceum_types::spec::parse::Job;
use lyceum_types::spec::tune::TuneSpec;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, json};
use std::path::{Path, PathBuf};

const CHATML: &str = include_str!("../../../fixtures/language/templates/chatml.jinja");

fn tokenizer() -> Tokenizer {
    let byte = |byte: u32| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => char::from_u32(byte),
        0x00..=0x20 => char::from_u32(0x100 + byte),
        0x7F..=0xA0 => char::from_u32(0x121 + byte - 0x7F),
        _ => char::from_u32(0x143),
    };
    let mut tokens: Vec<String> = (0..256).map(|b| byte(b).unwrap().to_string()).collect();
    let mut kinds = vec![TokenKind::Normal; 256];
    for special in ["<|im_start|>", "<|im_end|>"] {
        tokens.push(special.into());
        kinds.push(TokenKind::Control);
    }
    let vocabulary = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        tokens,
        kinds,
        eos: Some(257),
        ..GgufVocabulary::default()
    };
    Tokenizer::from_gguf(&vocabulary).unwrap()
}

const SIZES: [usize; 3] = [32, 32, 260];

/// A model of these weights, stored as `quant`.
fn opened(file: Vec<u8>, quant: Stored) -> Model {
    let [c, f, v] = SIZES;
    let config = json!({
        "model_type": "llama", "vocab_size": v, "hidden_size": c, "intermediate_size": f,
        "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2,
        "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true
    });
    let checkpoint = Checkpoint::safetensors(vec![Box::new(file)]).unwrap();
    let source = Source::HuggingFace { config: &config };
    Model::language(load(checkpoint, source, Some(quant), None, &Control::new()).unwrap())
}

/// Two layers of 32 numbers, with weights from a formula.
fn base_model(quant: Stored) -> Model {
    let [c, f, v] = SIZES;
    let mut tensors: Vec<(String, Vec<usize>)> =
        vec![("model.embed_tokens.weight".into(), vec![v, c]), ("model.norm.weight".into(), vec![c])];
    for i in 0..2 {
        let mut add = |name: &str, dims: &[usize]| {
            tensors.push((format!("model.layers.{i}.{name}.weight"), dims.to_vec()));
        };
        add("input_layernorm", &[c]);
        add("post_attention_layernorm", &[c]);
        add("self_attn.q_proj", &[c, c]);
        add("self_attn.k_proj", &[c / 2, c]);
        add("self_attn.v_proj", &[c / 2, c]);
        add("self_attn.o_proj", &[c, c]);
        add("mlp.gate_proj", &[f, c]);
        add("mlp.up_proj", &[f, c]);
        add("mlp.down_proj", &[c, f]);
    }
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, dims)| {
            let n: usize = dims.iter().product();
            let value = |x: f32| if dims.len() == 1 { 1.0 } else { 0.3 * x };
            let bytes = (0..n).flat_map(|_| value(next()).to_le_bytes()).collect();
            (name, dims, bytes)
        })
        .collect();
    let views = data.iter().map(|(name, dims, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), bytes).unwrap())
    });
    opened(safetensors::serialize(views, None).unwrap(), quant)
}

/// Keeps what is told, and checkpoints in a folder; ends the run where it is told to.
#[derive(Default)]
struct Kept {
    dir: Option<PathBuf>,
    losses: Vec<f64>,
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

    fn checkpoint_dir(&self) -> Option<PathBuf> {
        self.dir.clone()
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

/// Questions whose answers follow a rule.
fn chats(folder: &Path) {
    chats_of(folder, ["rose", "blue", "gold", "deep"]);
}

fn chats_of(folder: &Path, answers: [&str; 4]) {
    let line = |i: usize| {
        let (word, answer) = (["red", "sky", "sun", "sea"][i % 4], answers[i % 4]);
        let question = format!("{word} {}?", i / 4);
        json!({ "messages": [{ "role": "user", "content": question }, { "role": "assistant", "content": answer }] })
    };
    let file: String = (0..40).map(|i| format!("{}\n", line(i))).collect();
    std::fs::write(folder.join("train.jsonl"), file).unwrap();
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

fn run(spec: &TuneSpec, model: Model, folder: &Path, observer: &mut Kept) -> Result<Tuned, TrainError> {
    let (tokenizer, template) = (tokenizer(), ChatTemplate::new(CHATML, Map::new()).unwrap());
    let words = Words { tokenizer: &tokenizer, template: Some(&template), now: 0 };
    let base = Base { model, adapter: None, words, id: "base@1".into(), sha256: "0".into() };
    tune(spec, base, folder, observer, &Control::new())
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
    assert!(seen.quoted && tuned.steps == 64 && tuned.verdict.is_some());
    assert_eq!(tuned.probes.len(), 4);
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
    assert_eq!(Trained::Tokens(whole.trained_tokens), counted[8]);
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

//! Imported language models, every family: the same weights, the same tokens, the same numbers as Captum, AttnLRP in PyTorch
//! and the residual stream of transformers (`fixtures/scripts/explain_language.py`); what adds up adds up; turns are counted.

use lyceum_explain::language::{
    Choice, LanguageMethod, LanguageQuestion, Turns, Work, attribute, attribute_choice,
};
use lyceum_explain::{ExplainError, Explanation, Of, Quantity, Steps, Target, Term, ThisThread};
use lyceum_kernels::stored::Stored;
use lyceum_models::Model;
use lyceum_models::causal_lm::{Adapter, AdapterConfig, Sections, Source, load};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_types::control::Control;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAMES: [&str; 7] = ["llama", "llama3", "mistral", "qwen2", "qwen3", "smollm3", "gemma3"];

const FORMS: [Stored; 4] = [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0];

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn cases() -> Value {
    let text = std::fs::read_to_string(fixtures().join("explain_language.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn model(name: &str, kind: Stored) -> Result<Model, lyceum_models::LoadError> {
    let file = std::fs::read(fixtures().join(format!("causal_lm/{name}.safetensors"))).unwrap();
    let n = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + n]).unwrap();
    let config: Value = serde_json::from_str(header["__metadata__"]["config"].as_str().unwrap()).unwrap();
    let mut checkpoint = Checkpoint::safetensors(vec![Box::new(file)]).unwrap();
    checkpoint.remove("test.logits");
    checkpoint.remove("test.ids");
    let source = Source::HuggingFace { config: &config };
    load(checkpoint, source, Some(kind), None, &Control::new()).map(Model::language)
}

fn question(
    model: Arc<Model>,
    adapter: Option<Arc<Adapter>>,
    case: &Value,
    (method, key): (LanguageMethod, &str),
) -> LanguageQuestion {
    let ids: Vec<u32> =
        case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let parts = case["parts"].as_array().unwrap();
    let of_token = parts.iter().map(|part| part.as_u64().map(|part| part as u32)).collect();
    let n_prompt = case["n_prompt"].as_u64().unwrap() as usize;
    let one = |t: usize| Term { row: t - 1, class: ids[t] as usize, not: None };
    let (terms, quantity) = match key {
        "contrast" => {
            let not = Some(case["other"].as_u64().unwrap() as usize);
            (vec![Term { not, ..one(ids.len() - 1) }], method.quantity())
        }
        key => {
            let quantity = if key == "logit" { Quantity::Logit } else { Quantity::LogProbability };
            ((n_prompt..ids.len()).map(one).collect(), quantity)
        }
    };
    let target = Target::new(terms, quantity, &model.shape.output).unwrap();
    LanguageQuestion {
        sections: Sections::new(model, adapter, [1, ids.len()]).unwrap(),
        ids,
        target,
        of_token,
        n_parts: 3,
        method,
        max_passes: 2048,
        seed: 0,
    }
}

fn explain(question: &LanguageQuestion) -> Explanation {
    attribute(question, &mut ThisThread::new(), &Control::new()).unwrap()
}

fn values(e: &Explanation) -> Vec<f64> {
    e.attributions.iter().map(|a| a.value).collect()
}

/// The explanation of `model`, and how far its numbers are from the reference's, relative to the largest of them.
fn compared(model: &Arc<Model>, case: &Value, method: LanguageMethod, key: &str) -> (Explanation, f64) {
    let found = explain(&question(model.clone(), None, case, (method, key)));
    let want = case[format!("{}.{key}", method.name())].as_array().unwrap();
    let mut want: Vec<f64> = want.iter().map(|x| x.as_f64().unwrap()).collect();
    if method == LanguageMethod::DirectLogit {
        // What the head rounds: nothing, in f32.
        want.push(0.0);
    }
    assert_eq!(found.attributions.len(), want.len());
    let scale = want.iter().fold(1.0f64, |m, w| m.max(w.abs()));
    let far = values(&found).iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale;
    let output = case["outputs"][key].as_f64().unwrap();
    assert!((found.output - output).abs() < 1e-3, "{key}: {} {output}", found.output);
    (found, far)
}

const IG: LanguageMethod = LanguageMethod::IntegratedGradients { n_steps: Steps::Fixed(50) };
const REFINED: LanguageMethod = LanguageMethod::IntegratedGradients { n_steps: Steps::Refined };
const LRP: LanguageMethod = LanguageMethod::Relevance { epsilon: 1e-9 };

#[test]
fn gradients_relevance_and_logits_are_those_of_the_references_for_every_family() {
    let cases = cases();
    for name in NAMES {
        let model = Arc::new(model(name, Stored::F32).unwrap());
        for (method, key) in [
            (LanguageMethod::GradientInput, "logprob"),
            (LanguageMethod::GradientInput, "contrast"),
            (IG, "logprob"),
            (IG, "contrast"),
            (LRP, "logit"),
            (LRP, "contrast"),
            (LanguageMethod::DirectLogit, "logit"),
            (LanguageMethod::DirectLogit, "contrast"),
        ] {
            let (found, far) = compared(&model, &cases[name], method, key);
            assert!(far < 1e-3, "{name} {} {key}: {far:.2e}", method.name());
            if method == IG {
                let base = cases[name][format!("base.{key}")].as_f64().unwrap();
                assert!((found.base_value.unwrap() - base).abs() < 1e-3);
                assert_eq!((found.usage.forward_passes, found.usage.backward_passes), (53, 50));
            }
        }
    }
}

#[test]
fn what_promises_to_add_up_does_in_every_stored_form() {
    let cases = cases();
    let mut n = 0;
    for name in NAMES {
        for kind in FORMS {
            // Rows of these tiny models are no whole number of blocks of some forms.
            let Ok(model) = model(name, kind) else { continue };
            let model = Arc::new(model);
            for key in ["logit", "contrast"] {
                let logits =
                    explain(&question(model.clone(), None, &cases[name], (LanguageMethod::DirectLogit, key)));
                let gap = logits.checks.completeness_gap.unwrap();
                assert!(gap < 1e-4, "{name} {kind:?} {key}: {gap:.2e}");
                assert!(logits.exact && logits.base_value == Some(0.0));
                let rounding = values(&logits).pop().unwrap().abs();
                let most = if kind == Stored::F32 { 1e-5 } else { 0.1 };
                assert!(rounding < most, "{name} {kind:?} {key}: {rounding:.2e}");
                let relevance = explain(&question(model.clone(), None, &cases[name], (LRP, key)));
                let gap = relevance.checks.completeness_gap.unwrap();
                assert!(gap < 1e-4, "{name} {kind:?} {key}: {gap:.2e}");
                assert!(values(&relevance).iter().any(|v| v.abs() > 1e-3));
                n += 1;
            }
        }
    }
    assert!(n >= 28, "{n} models and targets");
}

#[test]
fn a_path_that_is_not_followed_finely_enough_says_so_and_is_followed_more_finely() {
    let cases = cases();
    let model = Arc::new(model("llama", Stored::F32).unwrap());
    let [coarse, fine] = [Steps::Fixed(2), Steps::Refined].map(|n_steps| {
        let method = LanguageMethod::IntegratedGradients { n_steps };
        explain(&question(model.clone(), None, &cases["llama"], (method, "contrast")))
    });
    for (e, complete) in [(&coarse, false), (&fine, true)] {
        let explained = (e.output - e.base_value.unwrap()).abs().max(1.0);
        assert_eq!(e.checks.completeness_gap.unwrap() <= 1e-4 * explained, complete, "{:?}", e.checks);
        assert_eq!(e.checks.complete, Some(complete));
    }
    assert!(fine.usage.backward_passes >= 50);
}

/// To 1e-4 of whatever is explained, of weights in every form, Gemma 3's too; and what a part gets is what a path of so many
/// nodes says that it needs no cuts.
#[test]
fn every_path_adds_up_within_the_passes_that_are_there_unasked() {
    let cases = cases();
    let mut n = 0;
    for (name, kind) in NAMES.into_iter().flat_map(|name| FORMS.map(|kind| (name, kind))) {
        let Ok(model) = model(name, kind) else { continue };
        let model = Arc::new(model);
        for key in ["logprob", "contrast", "logit"] {
            let found = explain(&question(model.clone(), None, &cases[name], (REFINED, key)));
            let gap = found.checks.completeness_gap.unwrap();
            assert!(gap <= 1e-4, "{name} {kind:?} {key}: {gap:.2e}, {:?}", found.usage);
            assert_eq!(found.checks.complete, Some(true));
            assert!(found.usage.forward_passes <= 640, "{name} {kind:?} {key}: {:?}", found.usage);
            let served =
                explain(&question(model.clone(), None, &cases[name], (LanguageMethod::GradientInput, key)));
            assert_eq!(found.output, served.output, "{name} {kind:?} {key}: rounding is in the base");
            n += 1;
        }
    }
    assert!(n >= 42, "{n} paths");
    // Llama's one norm after another turn late enough for nodes in α, if there are enough of them.
    let model = Arc::new(model("llama", Stored::F32).unwrap());
    let many = LanguageMethod::IntegratedGradients { n_steps: Steps::Fixed(1500) };
    let [found, many] = [REFINED, many]
        .map(|method| values(&explain(&question(model.clone(), None, &cases["llama"], (method, "logprob")))));
    for (found, want) in found.iter().zip(&many) {
        assert!((found - want).abs() < 1e-3, "{found:?} {many:?}");
    }
}

/// A device that is slow once, behind so many passes.
struct Slow {
    device: ThisThread,
    passes: u64,
    behind: u64,
    how_long: Duration,
}

impl Turns for Slow {
    fn turn(&mut self, n_passes: u64, work: Work) -> Result<Vec<Vec<f32>>, ExplainError> {
        if self.passes <= self.behind && self.passes + n_passes > self.behind {
            std::thread::sleep(self.how_long);
        }
        self.passes += n_passes;
        self.device.turn(n_passes, work)
    }
}

/// What was found when time runs out is told, and that it does not add up yet.
#[test]
fn a_path_that_has_no_time_for_another_cut_tells_how_far_it_is() {
    let asked = question(
        Arc::new(model("llama", Stored::F32).unwrap()),
        None,
        &cases()["llama"],
        (REFINED, "logprob"),
    );
    // Values at ten places, then five pieces with six nodes, forward and back: the first cut is behind them.
    let how_long = Duration::from_millis(1500);
    let mut turns = Slow { device: ThisThread::default(), passes: 0, behind: 70, how_long };
    let control = Control::new().with_deadline(Instant::now() + how_long * 4);
    let found = attribute(&asked, &mut turns, &control).unwrap();
    assert_eq!((found.usage.forward_passes, found.checks.complete), (40 + 13, Some(false)));
    assert!(found.checks.completeness_gap.unwrap() > 1e-4, "{:?}", found.checks);
}

/// Where nothing stands before the parts the path begins at the vocabulary's mean: norms have something to read, and few nodes do.
#[test]
fn a_path_of_a_prompt_that_begins_with_a_part_adds_up_too() {
    let cases = cases();
    for name in NAMES {
        let model = Arc::new(model(name, Stored::F32).unwrap());
        let begins = |method| {
            let mut asked = question(model.clone(), None, &cases[name], (method, "logprob"));
            let n_prompt = cases[name]["n_prompt"].as_u64().unwrap() as usize;
            asked.of_token[..n_prompt]
                .iter_mut()
                .enumerate()
                .for_each(|(t, part)| *part = Some(t as u32 % 3));
            asked
        };
        let [found, many] = [REFINED, LanguageMethod::IntegratedGradients { n_steps: Steps::Fixed(200) }]
            .map(|method| explain(&begins(method)));
        assert_eq!((found.baseline, found.checks.complete), ("mean_embedding", Some(true)));
        assert!(found.checks.completeness_gap.unwrap() <= 1e-4, "{name}: {:?}", found.checks);
        assert!(found.usage.forward_passes <= 400, "{name}: {:?}", found.usage);
        for (found, want) in values(&found).iter().zip(values(&many)) {
            assert!((found - want).abs() < 1e-3, "{name}: {found:?} {want:?}");
        }
        let other = explain(&begins(LanguageMethod::GradientInput));
        assert_eq!((other.baseline, other.output), ("zeros", found.output));
    }
}

#[test]
fn an_adapter_beside_the_model_is_explained_as_one_within() {
    let cases = cases();
    let base = Arc::new(model("llama", Stored::F32).unwrap());
    let description = json!({"peft_type": "LORA", "r": 3, "lora_alpha": 6,
        "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]});
    let config = AdapterConfig::from_peft(&description).unwrap();
    let mut learning = base.learning(&config, 7).unwrap();
    // B begins at nothing: something is put there.
    let ids: Vec<_> = learning.params.ids().collect();
    for id in ids {
        if learning.params.name(id).contains("lora_B") {
            let n = learning.params.value(id).len();
            learning
                .params
                .value_mut(id)
                .copy_from_slice(&(0..n).map(|i| ((i * 37 % 19) as f32 - 9.0) / 40.0).collect::<Vec<_>>());
        }
    }
    let adapter = Arc::new(learning.own_adapter().unwrap());
    let within = Arc::new(base.with_adapter(&adapter).unwrap());
    for method in [LanguageMethod::GradientInput, IG, LRP, LanguageMethod::DirectLogit] {
        let key = if method.quantity() == Quantity::Logit { "logit" } else { "logprob" };
        let ask = |model: &Arc<Model>, adapter| {
            explain(&question(model.clone(), adapter, &cases["llama"], (method, key)))
        };
        let beside = ask(&base, Some(adapter.clone()));
        assert_eq!(beside, ask(&within, None), "{}", method.name());
        assert_ne!(beside.output, ask(&base, None).output);
    }
}

/// Counts turns, and stops before one.
struct Counting {
    inner: ThisThread,
    turns: usize,
    passes: u64,
    stop_at: Option<(usize, Control)>,
}

impl Turns for Counting {
    fn turn(&mut self, n_passes: u64, work: Work) -> Result<Vec<Vec<f32>>, ExplainError> {
        self.turns += 1;
        self.passes += n_passes;
        if let Some((at, control)) = &self.stop_at
            && self.turns == *at
        {
            control.cancel();
        }
        self.inner.turn(n_passes, work)
    }
}

#[test]
fn a_pass_takes_a_turn_a_layer_is_counted_once_bounded_and_stopped_between_layers() {
    let (cases, control) = (cases(), Control::new());
    let model = Arc::new(model("llama", Stored::F32).unwrap());
    let counting = |stop_at| Counting { inner: ThisThread::new(), turns: 0, passes: 0, stop_at };
    let mut turns = counting(None);
    let asked = question(model.clone(), None, &cases["llama"], (LanguageMethod::GradientInput, "logprob"));
    let found = attribute(&asked, &mut turns, &control).unwrap();
    // Four layers: embedding, forward and head, and as many back.
    assert_eq!((turns.turns, turns.passes), (1 + 4 + 1 + 1 + 4, 2));
    assert_eq!((found.usage.forward_passes, found.usage.backward_passes), (1, 1));
    let mut turns = counting(Some((5, control.clone())));
    let stopped = attribute(&asked, &mut turns, &control);
    assert!(matches!(stopped, Err(ExplainError::Stopped(_))) && turns.turns == 5, "{stopped:?}");
    let mut few = question(model, None, &cases["llama"], (IG, "logprob"));
    few.max_passes = 52;
    let mut turns = counting(None);
    let refused = attribute(&few, &mut turns, &Control::new());
    assert!(matches!(refused, Err(ExplainError::TooManyPasses { needed: 53, .. })), "{refused:?}");
    assert_eq!(turns.turns, 0, "nothing is spent on what cannot be finished");
}

#[test]
fn layers_are_named_in_their_order() {
    let cases = cases();
    let model = Arc::new(model("qwen2", Stored::F32).unwrap());
    let found = explain(&question(model, None, &cases["qwen2"], (LanguageMethod::DirectLogit, "logit")));
    let Of::Components(names) = found.of else { panic!("{:?}", found.of) };
    assert_eq!(names[..4], ["embedding", "layers.0.attention", "layers.0.mlp", "layers.1.attention"]);
    assert_eq!(names.len(), found.attributions.len());
}

/// A prompt with several labels behind it.
fn labels(model: &Arc<Model>, case: &Value, method: LanguageMethod) -> Vec<LanguageQuestion> {
    let whole = question(model.clone(), None, case, (method, "logprob"));
    let n_prompt = case["n_prompt"].as_u64().unwrap() as usize;
    let of = |label: &[u32]| {
        let ids = [&whole.ids[..n_prompt], &label[..label.len() - 1]].concat();
        let term = |(i, &id): (usize, &u32)| Term { row: n_prompt - 1 + i, class: id as usize, not: None };
        let terms = label.iter().enumerate().map(term).collect();
        let target = Target::new(terms, Quantity::LogProbability, &model.shape.output).unwrap();
        let mut of_token = whole.of_token[..n_prompt].to_vec();
        of_token.resize(ids.len(), None);
        let sections = Sections::new(model.clone(), None, [1, ids.len()]).unwrap();
        LanguageQuestion { sections, ids, target, of_token, max_passes: 1 << 16, ..whole.clone() }
    };
    [&[5u32][..], &[7, 9], &[11, 3, 2]].into_iter().map(of).collect()
}

/// What each label alone gives, put together by hand, is what the choice gives; on a path it adds up to the choice.
#[test]
fn a_choice_is_the_sum_of_its_labels_and_its_path_adds_up() {
    let cases = cases();
    for name in NAMES {
        let (model, case) = (Arc::new(model(name, Stored::F32).unwrap()), &cases[name]);
        let chosen = |labels, not, probability| {
            let choice = Choice { labels, chosen: 1, not, probability };
            attribute_choice(&choice, &mut ThisThread::new(), &Control::new()).unwrap()
        };
        let alone: Vec<Explanation> =
            labels(&model, case, LanguageMethod::GradientInput).iter().map(explain).collect();
        let weights: Vec<f64> = alone.iter().map(|e| e.output.exp()).collect();
        let total: f64 = weights.iter().sum();
        let by_hand = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
            let sum = |part: usize| (0..3).map(|k| of(k) * alone[k].attributions[part].value).sum();
            (0..3).map(sum).collect()
        };
        let share = |k: usize| f64::from(u8::from(k == 1)) - weights[k] / total;
        let over = |k: usize| [-1.0, 1.0, 0.0][k];
        let p = weights[1] / total;
        let scaled = |k: usize| p * share(k);
        for (not, probability, of) in
            [(None, false, &share as &dyn Fn(usize) -> f64), (Some(0), false, &over), (None, true, &scaled)]
        {
            let found = chosen(labels(&model, case, LanguageMethod::GradientInput), not, probability);
            for (found, want) in values(&found).iter().zip(by_hand(of)) {
                assert!((found - want).abs() < 1e-6, "{name} {not:?}: {found} {want}");
            }
            let found = chosen(labels(&model, case, REFINED), not, probability);
            let gap = found.checks.completeness_gap.unwrap();
            assert!(gap <= 1e-4, "{name} {not:?} {probability}: {gap:.2e}");
            assert_eq!(found.checks.complete, Some(true));
            // A choice of three asks each of them.
            assert!(found.usage.forward_passes <= 3 * 640, "{name}: {:?}", found.usage);
        }
        // On a path with the same nodes, one label over another is the difference of both.
        let paths: Vec<Explanation> = labels(&model, case, IG).iter().map(explain).collect();
        let found = chosen(labels(&model, case, IG), Some(0), false);
        for (part, found) in values(&found).into_iter().enumerate() {
            let want = paths[1].attributions[part].value - paths[0].attributions[part].value;
            assert!((found - want).abs() < 1e-6, "{name}: {found} {want}");
        }
        let refused = Choice {
            labels: labels(&model, case, LanguageMethod::DirectLogit),
            chosen: 1,
            not: None,
            probability: false,
        };
        assert!(attribute_choice(&refused, &mut ThisThread::new(), &Control::new()).is_err());
    }
}

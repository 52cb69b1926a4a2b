//! Real small models, one with adapters over weights in blocks: whatever else runs, a request has the bytes of its
//! answer and the bits of every log-probability that it has alone.

use super::*;
use crate::KvStorage;
use crate::places::Door;
use lyceum_kernels::pool::parallel_for;
use lyceum_kernels::stored::Stored;
use lyceum_models::causal_lm::{self, Source};
use lyceum_models::model::{InputShape, ModelShape, OutputShape};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::{Init, ParamKind, Params, weights};
use lyceum_types::control::Control;
use lyceum_types::spec::{
    ActivationSpec, ModelSpec, NormKind, Positional, TransformerSpec, TransformerVariant,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use std::sync::Mutex;

const VOCABULARY: usize = 23;
const CONTEXT: usize = 120;

fn model() -> Arc<Model> {
    let spec = ModelSpec::Transformer(TransformerSpec {
        variant: TransformerVariant::Decoder,
        d_model: 32,
        nhead: 4,
        num_encoder_layers: 0,
        num_decoder_layers: 2,
        dim_feedforward: 48,
        context: CONTEXT,
        positional: Positional::Rope,
        norm: NormKind::Rms,
        norm_first: true,
        activation: ActivationSpec::Gelu,
        bias: false,
        tie_embeddings: false,
        dropout: 0.0,
        layer_norm_eps: 1e-5,
    });
    let shape = ModelShape {
        input: InputShape::Tokens { vocabulary: VOCABULARY, time: CONTEXT },
        output: OutputShape::Tokens { vocabulary: VOCABULARY },
    };
    let mut model = Model::new(&spec, &shape, 5).unwrap();
    // Sharper than a fresh model, so that answers depend on what was read.
    for id in model.params.ids().collect::<Vec<_>>() {
        let dims = model.params.shape(id).dims().to_vec();
        if dims.len() == 2 {
            let larger = model.params.value(id).iter().map(|x| x * 8.0).collect();
            model.params.set(id, &dims, larger).unwrap();
        }
    }
    model.freeze();
    Arc::new(model)
}

/// A checkpoint of normal numbers under these names.
fn checkpoint(seed: u64, tensors: &[(String, Vec<usize>)]) -> Checkpoint {
    let (mut params, mut rng) = (Params::new(), ChaCha8Rng::seed_from_u64(seed));
    for (name, dims) in tensors {
        let init = if dims.len() == 1 { Init::Ones } else { Init::Normal(0.35) };
        params.add(name, dims, ParamKind::Weight, init, &mut rng);
    }
    Checkpoint::safetensors(vec![Box::new(weights::to_safetensors(&params).unwrap())]).unwrap()
}

/// A language model with grouped heads, its matrices in blocks of bytes, and three adapters of it.
fn adapted() -> (Arc<Model>, Vec<Arc<Adapter>>) {
    let config = json!({
        "model_type": "qwen3", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": CONTEXT, "tie_word_embeddings": false,
    });
    let linear = [
        ("self_attn.q_proj", 32, 32),
        ("self_attn.k_proj", 16, 32),
        ("self_attn.v_proj", 16, 32),
        ("self_attn.o_proj", 32, 32),
        ("mlp.gate_proj", 64, 32),
        ("mlp.up_proj", 64, 32),
        ("mlp.down_proj", 32, 64),
    ];
    let norms = [
        ("input_layernorm", 32),
        ("post_attention_layernorm", 32),
        ("self_attn.q_norm", 8),
        ("self_attn.k_norm", 8),
    ];
    let table = |name: &str| (name.to_owned(), vec![VOCABULARY, 32]);
    let mut tensors = vec![table("model.embed_tokens.weight"), table("lm_head.weight")];
    tensors.push(("model.norm.weight".into(), vec![32]));
    for i in 0..2 {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        tensors.extend(linear.map(|(part, n, k)| (name(part), vec![n, k])));
        tensors.extend(norms.map(|(part, n)| (name(part), vec![n])));
    }
    let source = Source::HuggingFace { config: &config };
    let control = Control::new();
    let loaded =
        causal_lm::load(checkpoint(5, &tensors), source, Some(Stored::Q8_0), None, &control).unwrap();
    assert!(loaded.notes.is_empty(), "every matrix is in blocks: {:?}", loaded.notes);
    let model = Model::language(loaded);
    let adapters = [(2, &linear[..]), (5, &linear[..1]), (3, &linear[2..6])].map(|(r, targets)| {
        let names: Vec<&str> = targets.iter().map(|(part, ..)| part.rsplit_once('.').unwrap().1).collect();
        let description = json!({"peft_type": "LORA", "r": r, "lora_alpha": 4 * r, "target_modules": names});
        let factors = (0..2).flat_map(|i| {
            targets.iter().flat_map(move |&(part, n, k)| {
                let name = |factor| format!("base_model.model.model.layers.{i}.{part}.lora_{factor}.weight");
                [(name("A"), vec![r, k]), (name("B"), vec![n, r])]
            })
        });
        let checkpoint = checkpoint(r as u64, &factors.collect::<Vec<_>>());
        Arc::new(
            Adapter::from_peft(checkpoint, &description, model.language_config().unwrap(), &control).unwrap(),
        )
    });
    (Arc::new(model), adapters.into())
}

/// One random request, made again for every run.
#[derive(Clone)]
struct Wish {
    prompt: Vec<u32>,
    n_max: usize,
    sampling: Sampling,
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    reported_from: usize,
    end: Option<u32>,
    tenant: u128,
    priority: Priority,
    adapter: Option<Arc<Adapter>>,
}

fn wishes(n: usize, adapters: &[Arc<Adapter>]) -> Vec<Wish> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let tokens = |rng: &mut ChaCha8Rng, n: usize| -> Vec<u32> {
        (0..n).map(|_| rng.random_range(0..VOCABULARY as u32)).collect()
    };
    let beginnings: Vec<Vec<u32>> = [40, 64, 70].map(|n| tokens(&mut rng, n)).into();
    let one = |rng: &mut ChaCha8Rng| {
        let mut prompt = match rng.random_range(0..4) {
            i @ 0..3 => beginnings[i].clone(),
            _ => Vec::new(),
        };
        let n = rng.random_range(1..30);
        prompt.extend(tokens(rng, n));
        let warm = rng.random_bool(0.6);
        let penalties = rng.random_bool(0.3);
        let sampling = Sampling {
            temperature: if warm { rng.random_range(0.3..1.5) } else { 0.0 },
            top_p: if rng.random_bool(0.5) { 0.9 } else { 1.0 },
            top_k: rng.random_range(0..8),
            min_p: if rng.random_bool(0.2) { 0.05 } else { 0.0 },
            repetition_penalty: if penalties { 1.2 } else { 1.0 },
            frequency_penalty: if penalties { 0.1 } else { 0.0 },
            presence_penalty: if penalties { 0.2 } else { 0.0 },
            logit_bias: if rng.random_bool(0.2) { vec![(3, 1.0)] } else { vec![] },
            seed: rng.random(),
        };
        let reports = rng.random_bool(0.25);
        Wish {
            reported_from: if reports && rng.random_bool(0.7) {
                rng.random_range(0..prompt.len())
            } else {
                0
            },
            prompt_logprobs: reports.then_some(1),
            prompt,
            n_max: rng.random_range(0..24),
            sampling,
            logprobs: rng.random_bool(0.6).then(|| rng.random_range(0..4)),
            end: rng.random_bool(0.5).then(|| rng.random_range(0..VOCABULARY as u32)),
            tenant: rng.random_range(0..3),
            priority: if rng.random_bool(0.3) { Priority::Batch } else { Priority::Interactive },
            adapter: adapters.get(rng.random_range(0..=adapters.len())).cloned(),
        }
    };
    (0..n).map(|_| one(&mut rng)).collect()
}

/// An event in bits.
type Told = (u8, u32, Vec<u32>);

fn told(event: Event) -> Told {
    let bits = |token: TokenEvent| {
        let all = token.logprobs.map(|l| {
            let top = l.top.iter().flat_map(|&(id, x)| [id, x.to_bits()]);
            [l.chosen.to_bits(), l.rank as u32].into_iter().chain(top).collect()
        });
        (token.id, all.unwrap_or_default())
    };
    match event {
        Event::Prompt(token) => (0, bits(token.clone()).0, bits(token).1),
        Event::Token(token) => (1, bits(token.clone()).0, bits(token).1),
        Event::Done(finish) => (2, finish as u32, vec![]),
        Event::Failed(error) => panic!("{error}"),
    }
}

type Answers = Arc<Mutex<Vec<Vec<Told>>>>;

fn request(model: &Arc<Model>, wish: &Wish, i: usize, answers: &Answers) -> GenerateRequest {
    let answers = answers.clone();
    let sink = Box::new(move |event| {
        answers.lock().unwrap()[i].push(told(event));
        Flow::Continue
    });
    GenerateRequest {
        sampling: wish.sampling.clone(),
        logprobs: wish.logprobs,
        prompt_logprobs: wish.prompt_logprobs,
        reported_from: wish.reported_from,
        end_tokens: wish.end.into_iter().collect(),
        tenant: Tenant(wish.tenant),
        priority: wish.priority,
        adapter: wish.adapter.clone(),
        ..GenerateRequest::new(model.clone(), wish.prompt.clone(), wish.n_max, sink)
    }
}

fn limits() -> EngineLimits {
    EngineLimits { prefix_cache: false, draft_tokens_max: 0, ..EngineLimits::default() }
}

type Spoil = Option<fn(&mut [f32], usize)>;

/// Answers to all, `together` at a time (they come two a step); how often somebody gave way, and how many
/// tokens were guessed rightly.
fn run(
    model: &Arc<Model>,
    wishes: &[Wish],
    together: usize,
    limits: EngineLimits,
    spoil: Spoil,
) -> (Vec<Vec<Told>>, [u64; 2]) {
    let answers: Answers = Arc::new(Mutex::new(vec![Vec::new(); wishes.len()]));
    let (mut generator, gauges, mut ws) = (Generator::new(limits), Gauges::default(), Workspace::new());
    let door = Door::new(2 * wishes.len());
    let mut next = 0;
    while next < wishes.len() || !generator.is_idle() {
        let open = door.n_held();
        for _ in 0..2.min(together - open.min(together)).min(wishes.len() - next) {
            let request = request(model, &wishes[next], next, &answers);
            request.check(&limits).unwrap();
            let place = door.take(Tenant(0), Priority::Interactive, 1).ok().unwrap();
            generator.push(request, place);
            next += 1;
        }
        if generator.lanes().is_empty() {
            generator.lanes().push(Lane::new(model, &limits));
            generator.lanes()[0].spoil = spoil;
        }
        generator.step(&mut ws, &gauges);
    }
    assert_eq!(door.n_held(), 0);
    assert_eq!(gauges.kv_pages_used.load(Ordering::Relaxed), 0, "all pages come back");
    let answers = answers.lock().unwrap().clone();
    for answer in &answers {
        let ends = answer.iter().filter(|told| told.0 == 2).count();
        assert!(ends == 1 && answer.last().unwrap().0 == 2, "one end, and it is the last event");
    }
    (answers, generator.lanes()[0].n_preempted_and_guessed())
}

#[test]
fn a_request_has_the_bits_that_it_has_alone() {
    let (model, adapters) = adapted();
    let wishes = wishes(500, &adapters);
    let (alone, _) = run(&model, &wishes, 1, limits(), None);
    let all = EngineLimits { prefix_cache: true, draft_tokens_max: 4, ..limits() };
    let page_bytes = model.kv_shape(0, KvStorage::F32).unwrap().page_bytes();
    let tiny = EngineLimits { kv_bytes_per_model_max: 7 * page_bytes, ..limits() };
    let ways = [
        ("together", 500, limits()),
        ("with kept beginnings", 500, EngineLimits { prefix_cache: true, ..limits() }),
        ("with guesses", 3, EngineLimits { draft_tokens_max: 4, ..limits() }),
        ("in pieces of one", 20, EngineLimits { prefill_tokens_max: 1, ..limits() }),
        ("in pieces of seven", 40, EngineLimits { prefill_tokens_max: 7, step_tokens_max: 29, ..all }),
        ("with little memory", 40, tiny),
        (
            "with little memory and all else",
            40,
            EngineLimits { prefix_cache: true, draft_tokens_max: 3, ..tiny },
        ),
    ];
    let (mut n_preempted, mut n_guessed) = (0, 0);
    for (name, together, limits) in ways {
        let (answers, [preempted, guessed]) = run(&model, &wishes, together, limits, None);
        (n_preempted, n_guessed) = (n_preempted + preempted, n_guessed + guessed);
        for (i, (got, want)) in answers.iter().zip(&alone).enumerate() {
            assert!(got == want, "{name}, request {i}: {got:?}, alone {want:?}");
        }
    }
    // What is not reported changes nothing of what is.
    let whole: Vec<Wish> = wishes.iter().map(|wish| Wish { reported_from: 0, ..wish.clone() }).collect();
    let (whole, _) = run(&model, &whole, 500, all, None);
    for ((wish, answer), whole) in wishes.iter().zip(&alone).zip(&whole) {
        assert_eq!(answer[..], whole[wish.reported_from..], "from {}", wish.reported_from);
    }
    // What an adapter says is its own: without it, nearly every answer is another.
    let plain: Vec<Wish> = wishes.iter().map(|wish| Wish { adapter: None, ..wish.clone() }).collect();
    let (base, _) = run(&model, &plain, 500, all, None);
    let adapted = |i: &usize| wishes[*i].adapter.is_some();
    let n_changed = (0..500).filter(adapted).filter(|&i| base[i] != alone[i]).count();
    let n_adapted = (0..500).filter(adapted).count();
    assert!(n_adapted > 300 && n_changed * 10 > n_adapted * 8, "{n_changed} of {n_adapted} answers differ");
    assert!((0..500).filter(|i| !adapted(i)).all(|i| base[i] == alone[i]), "the base's own answers");
    assert!(n_preempted > 50 && n_guessed > 50, "{n_preempted} gave way, {n_guessed} were guessed");
    // Inside a task of the pool, kernels run on one thread.
    let one_thread = Mutex::new(Vec::new());
    parallel_for(2, |task| {
        if task == 0 {
            *one_thread.lock().unwrap() = run(&model, &wishes, 500, all, None).0;
        }
    });
    assert!(one_thread.into_inner().unwrap() == alone, "on one thread");
}

#[test]
fn rounded_keys_and_values_are_as_indifferent_to_company() {
    let (model, wishes) = (model(), wishes(60, &[]));
    for kv_storage in [KvStorage::Bf16, KvStorage::Int8] {
        let (alone, _) = run(&model, &wishes, 1, EngineLimits { kv_storage, ..limits() }, None);
        let all = EngineLimits { kv_storage, prefix_cache: true, draft_tokens_max: 4, ..limits() };
        assert!(run(&model, &wishes, 60, all, None).0 == alone, "{kv_storage:?}");
        assert!(run(&model, &wishes, 1, limits(), None).0 != alone, "{kv_storage:?}: rounding is visible");
    }
}

/// Sums three numbers in an order that depends on how many rows the pass has.
fn order_dependent(logits: &mut [f32], n_rows: usize) {
    for x in logits {
        *x = if n_rows.is_multiple_of(2) { (*x + 0.1) - 0.3 } else { *x + (0.1 - 0.3) };
    }
}

#[test]
fn a_kernel_whose_order_depends_on_the_batch_is_found_out() {
    let (model, wishes) = (model(), wishes(40, &[]));
    let (alone, _) = run(&model, &wishes, 1, limits(), Some(order_dependent));
    let (together, _) = run(&model, &wishes, 40, limits(), Some(order_dependent));
    assert!(alone != together);
}

#[test]
fn requests_that_are_cancelled_leave_at_once_and_those_that_can_never_fit_do_not_enter() {
    let (model, gauges, mut ws) = (model(), Gauges::default(), Workspace::new());
    let mut generator = Generator::new(limits());
    let cancelled = Arc::new(AtomicBool::new(false));
    let door = Door::new(4);
    for _ in 0..2 {
        let sink = Box::new(|event| panic!("nobody listens: {event:?}"));
        let request = GenerateRequest::new(model.clone(), vec![1; 100], 5, sink);
        let small = EngineLimits { kv_bytes_per_model_max: 3 << 14, ..limits() };
        assert!(request.check(&small).unwrap_err().to_string().contains("can never fit"));
        let place = door.take(request.tenant, request.priority, 1).ok().unwrap();
        generator.push(GenerateRequest { cancelled: Some(cancelled.clone()), ..request }, place);
    }
    generator.lanes().push(Lane::new(&model, &EngineLimits { prefill_tokens_max: 8, ..limits() }));
    generator.step(&mut ws, &gauges);
    assert!(gauges.kv_pages_used.load(Ordering::Relaxed) == 8 && !generator.is_idle());
    assert!(
        gauges.kv_pages.load(Ordering::Relaxed) > 8 && gauges.sequences_running.load(Ordering::Relaxed) > 0
    );
    cancelled.store(true, Ordering::Relaxed);
    generator.step(&mut ws, &gauges);
    assert_eq!((door.n_held(), generator.is_idle()), (0, true));
    assert_eq!(gauges.kv_pages_used.load(Ordering::Relaxed), 0);
}

#[test]
fn models_beyond_the_bound_wait_for_their_turn() {
    let (models, wishes) = ([model(), model(), model()], wishes(6, &[]));
    let limits = EngineLimits { models_max: 1, ..limits() };
    let (alone, _) = run(&models[0], &wishes, 1, limits, None);
    let answers: Answers = Arc::new(Mutex::new(vec![Vec::new(); wishes.len()]));
    let (mut generator, gauges, mut ws) = (Generator::new(limits), Gauges::default(), Workspace::new());
    let door = Door::new(2 * wishes.len());
    for (i, wish) in wishes.iter().enumerate() {
        let place = door.take(Tenant(0), Priority::Interactive, 1).ok().unwrap();
        generator.push(request(&models[i % 3], wish, i, &answers), place);
    }
    while !generator.is_idle() {
        generator.step(&mut ws, &gauges);
        assert!(generator.lanes().len() <= 1);
    }
    assert!(*answers.lock().unwrap() == alone);
    drop(models);
    generator.step(&mut ws, &gauges);
    assert!(generator.lanes().is_empty(), "the memory of a model that nobody holds is given back");
}

/// Somebody who leaves, in the middle of a prompt or of an answer.
struct Leaver {
    cancelled: Arc<AtomicBool>,
    /// Before this step.
    at: usize,
    n_events: Arc<AtomicUsize>,
}

/// Half of them cancel, half are found out by their sink, which takes no event after the one that it refused.
fn leaver(model: &Arc<Model>, wish: &Wish, rng: &mut ChaCha8Rng) -> (Leaver, GenerateRequest) {
    let (at, n_max) = match rng.random_range(0..2) {
        0 => (rng.random_range(0..10), usize::MAX),
        _ => (usize::MAX, rng.random_range(1..6)),
    };
    let (cancelled, n_events) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let told = n_events.clone();
    let sink = Box::new(move |_| {
        let n = told.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(n <= n_max, "an event for nobody");
        if n == n_max { Flow::Stop } else { Flow::Continue }
    });
    let request = GenerateRequest {
        sampling: wish.sampling.clone(),
        cancelled: Some(cancelled.clone()),
        ..GenerateRequest::new(model.clone(), wish.prompt.clone(), wish.n_max, sink)
    };
    (Leaver { cancelled, at, n_events }, request)
}

#[test]
fn five_hundred_clients_that_leave_are_gone_within_a_step_and_give_back_every_page() {
    let (model, stayers) = (model(), wishes(20, &[]));
    let (alone, _) = run(&model, &stayers, 1, limits(), None);
    let mut n_in_the_middle = 0;
    for prefix_cache in [false, true] {
        let limits = EngineLimits { prefix_cache, prefill_tokens_max: 16, ..limits() };
        let answers: Answers = Arc::new(Mutex::new(vec![Vec::new(); stayers.len()]));
        let (mut generator, gauges, mut ws) = (Generator::new(limits), Gauges::default(), Workspace::new());
        let (door, mut rng) = (Door::new(64), ChaCha8Rng::seed_from_u64(3));
        let place = || door.take(Tenant(0), Priority::Interactive, 1).ok().unwrap();
        for wave in 0..10 {
            for i in [2 * wave, 2 * wave + 1] {
                generator.push(request(&model, &stayers[i], i, &answers), place());
            }
            let mut leavers = Vec::new();
            for i in 0..25 {
                let (leaver, request) = leaver(&model, &stayers[i % stayers.len()], &mut rng);
                generator.push(request, place());
                leavers.push(leaver);
            }
            let mut step = 0;
            while !generator.is_idle() {
                let leaving: Vec<&Leaver> = leavers.iter().filter(|leaver| leaver.at == step).collect();
                let counted = |leavers: &[&Leaver]| -> Vec<usize> {
                    leavers.iter().map(|leaver| leaver.n_events.load(Ordering::Relaxed)).collect()
                };
                leaving.iter().for_each(|leaver| leaver.cancelled.store(true, Ordering::Relaxed));
                let is_held = |leaver: &&&Leaver| Arc::strong_count(&leaver.cancelled) > 1;
                n_in_the_middle += leaving.iter().filter(is_held).count();
                let before = counted(&leaving);
                if generator.lanes().is_empty() {
                    generator.lanes().push(Lane::new(&model, &limits));
                }
                generator.step(&mut ws, &gauges);
                assert_eq!(counted(&leaving), before, "nothing is written for those who left");
                assert_eq!(leaving.iter().filter(is_held).count(), 0, "their work is dropped");
                step += 1;
            }
            assert_eq!((door.n_held(), gauges.kv_pages_used.load(Ordering::Relaxed)), (0, 0), "wave {wave}");
        }
        assert!(*answers.lock().unwrap() == alone, "those who stay are answered as if they were alone");
    }
    assert!(n_in_the_middle > 150, "{n_in_the_middle} were in the middle");
}

//! Files that are none: more than a thousand mutations of real ones, from a seed. Each is opened or refused with words
//! that say where, without a panic and within a bound of memory that its own size does not explain.
//!
//! Kinds: GGUF (bytes, header, vocabulary), safetensors in shards with their index and `config.json`,
//! `tokenizer.json`, chat templates, adapters in PEFT's layout; then the doors of the fuzz targets, from their seeds.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping, in its helpers too")]

mod change;
#[path = "../../../../fuzz/src/doors.rs"]
mod doors;
mod originals;

use change::Random;
use lyceum_language::template::{ChatTemplate, Conversation, End};
use lyceum_language::tokenizer::{AddSpecial, Specials, Tokenizer};
use lyceum_models::causal_lm::Adapter;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_service::language::open::{self, Layout};
use lyceum_types::control::Control;
use serde_json::{Map, Value, json};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// More than any of the originals takes; none of them has 200 kB.
const BYTES_MAX: u64 = 64 << 20;
/// A template works at most so much before its fuel ends: texts that double themselves come so far.
const TEMPLATE_BYTES_MAX: u64 = 256 << 20;
/// Words of an error, at most.
const MESSAGE_CHARS_MAX: usize = 4000;

/// How many inputs of a kind were refused, and how many opened.
#[derive(Debug)]
struct Tally {
    bytes_max: u64,
    n_refused: usize,
    n_opened: usize,
}

impl Tally {
    fn new(bytes_max: u64) -> Self {
        Tally { bytes_max, n_refused: 0, n_opened: 0 }
    }

    /// Tries one input; what it was is told where it misbehaves.
    fn check(&mut self, what: &dyn std::fmt::Debug, open: impl FnOnce() -> Result<(), String>) {
        let mut outcome = None;
        let used = allocation_counter::measure(|| {
            outcome = Some(catch_unwind(AssertUnwindSafe(open)));
        });
        let outcome = outcome.unwrap().unwrap_or_else(|_| panic!("it panicked: {what:?}"));
        assert!(used.bytes_max <= self.bytes_max, "{} bytes for {what:?}: {outcome:?}", used.bytes_max);
        match outcome {
            Ok(()) => self.n_opened += 1,
            Err(message) => {
                self.n_refused += 1;
                let n = message.chars().count();
                let shown: String = message.chars().take(300).collect();
                assert!((8..=MESSAGE_CHARS_MAX).contains(&n), "{n} letters: {shown:?} of {what:?}");
            }
        }
    }

    fn says(&self, n: usize, n_refused_min: usize) {
        assert_eq!(self.n_opened + self.n_refused, n);
        assert!(self.n_refused >= n_refused_min, "{self:?} of {n}");
    }
}

/// Opens a model as an import does, and says something with its words.
fn opens(dir: &Path) -> Result<(), String> {
    let chain = |error: &dyn std::error::Error| {
        let mut said = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            said += &format!(": {error}");
            source = error.source();
        }
        said
    };
    let opened = open::folder(dir, Layout::default(), &Control::new()).map_err(|error| chain(&error))?;
    speak(&opened.words.tokenizer)?;
    opened.words.template.as_ref().map_or(Ok(()), render)
}

fn speak(tokenizer: &Tokenizer) -> Result<(), String> {
    let text = "The cat <|im_end|> sat,\n  été 12 🦙";
    for specials in [Specials::AsText, Specials::Parsed, Specials::Protected] {
        let ids = tokenizer.encode(text, AddSpecial::Yes, specials).map_err(|error| error.to_string())?;
        tokenizer.decode(&ids).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn render(template: &ChatTemplate) -> Result<(), String> {
    let messages = [json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": "ho"})];
    let tools = [json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})];
    let conversation = Conversation {
        messages: &messages,
        tools: Some(&tools),
        end: End::GenerationPrompt,
        ..Default::default()
    };
    template.render(&conversation).map(drop).map_err(|error| error.to_string())
}

#[test]
fn gguf_files_with_changed_bytes() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), originals::gguf(|_| {}));
    let path = dir.path().join(open::GGUF);
    std::fs::write(&path, &whole).unwrap();
    opens(dir.path()).unwrap();
    let (mut random, mut tally) = (Random::new(1), Tally::new(BYTES_MAX));
    for i in 0..400 {
        let mut bytes = whole.clone();
        // Most of a file is weights; its head is where it can lie.
        let told = random.bytes(&mut bytes, if i % 4 == 0 { usize::MAX } else { originals::GGUF_HEAD });
        std::fs::write(&path, &bytes).unwrap();
        tally.check(&told, || opens(dir.path()));
    }
    tally.says(400, 200);
}

#[test]
fn gguf_files_whose_metadata_lie() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(open::GGUF);
    let (mut random, mut tally) = (Random::new(2), Tally::new(BYTES_MAX));
    for _ in 0..300 {
        let mut told = String::new();
        let bytes = originals::gguf(|metadata| told = random.metadata(metadata));
        std::fs::write(&path, bytes).unwrap();
        tally.check(&told, || opens(dir.path()));
    }
    tally.says(300, 120);
}

#[test]
fn a_scale_that_is_no_number_is_refused_by_its_tensor() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight", "output_norm.weight"] {
        std::fs::write(dir.path().join(open::GGUF), originals::gguf_with_nan(name)).unwrap();
        let error = opens(dir.path()).unwrap_err();
        assert!(error.contains(name) && error.contains("infinite"), "{error}");
    }
}

#[test]
fn folders_whose_shards_index_or_configuration_lie() {
    let dir = tempfile::tempdir().unwrap();
    let files = originals::folder();
    let write_all =
        || files.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
    write_all();
    opens(dir.path()).unwrap();
    let (mut random, mut tally) = (Random::new(3), Tally::new(BYTES_MAX));
    let mut n = 0;
    for (name, whole) in &files {
        let head = originals::header_len(whole);
        for i in 0..if name.ends_with(".json") { 120 } else { 100 } {
            let mut bytes = whole.clone();
            let told = match name.ends_with(".json") {
                true => random.json(&mut bytes),
                false => random.bytes(&mut bytes, if i % 4 == 0 { usize::MAX } else { head }),
            };
            std::fs::write(dir.path().join(name), &bytes).unwrap();
            tally.check(&(name, told), || opens(dir.path()));
            n += 1;
        }
        write_all();
    }
    tally.says(n, n / 3);
}

#[test]
fn headers_of_safetensors_that_claim_what_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let files = originals::folder();
    files.iter().for_each(|(name, bytes)| std::fs::write(dir.path().join(name), bytes).unwrap());
    let (name, whole) = files.iter().find(|(name, _)| name.ends_with(".safetensors")).unwrap();
    let head = originals::header_len(whole);
    let header: Value = serde_json::from_slice(&whole[8..head]).unwrap();
    let (mut random, mut tally) = (Random::new(4), Tally::new(BYTES_MAX));
    for _ in 0..150 {
        let mut text = header.to_string().into_bytes();
        let told = random.json(&mut text);
        let bytes = [&(text.len() as u64).to_le_bytes()[..], &text, &whole[head..]].concat();
        std::fs::write(dir.path().join(name), bytes).unwrap();
        tally.check(&told, || opens(dir.path()));
    }
    tally.says(150, 75);
}

#[test]
fn tokenizers_that_lie() {
    let (mut random, mut tally) = (Random::new(5), Tally::new(BYTES_MAX));
    for i in 0..400 {
        let mut bytes = originals::tokenizers()[i % 2].clone();
        let told = if i % 8 < 6 { random.json(&mut bytes) } else { random.bytes(&mut bytes, usize::MAX) };
        tally.check(&told, || {
            let tokenizer = Tokenizer::from_json(&bytes, None).map_err(|error| error.to_string())?;
            speak(&tokenizer)
        });
    }
    tally.says(400, 150);
}

#[test]
fn templates_that_lie() {
    let (mut random, mut tally) = (Random::new(6), Tally::new(TEMPLATE_BYTES_MAX));
    for i in 0..400 {
        let mut source = originals::TEMPLATES[i % originals::TEMPLATES.len()].to_owned();
        let told = random.template(&mut source);
        tally.check(&told, || {
            let template = ChatTemplate::new(&source, Map::new()).map_err(|error| error.to_string())?;
            render(&template)
        });
    }
    tally.says(400, 150);
}

#[test]
fn adapters_that_lie() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(open::GGUF), originals::gguf(|_| {})).unwrap();
    let model = open::folder(dir.path(), Layout::default(), &Control::new()).unwrap().model;
    let base = model.language_config().unwrap();
    let reads = |description: &[u8], weights: &[u8]| {
        let description: Value = serde_json::from_slice(description).map_err(|error| error.to_string())?;
        let checkpoint =
            Checkpoint::safetensors(vec![Box::new(weights.to_vec())]).map_err(|error| error.to_string())?;
        Adapter::from_peft(checkpoint, &description, base, &Control::new())
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let [(_, description), (_, weights)] = originals::adapter();
    reads(&description, &weights).unwrap();
    let head = originals::header_len(&weights);
    let header = weights[8..head].to_vec();
    let (mut random, mut tally) = (Random::new(7), Tally::new(BYTES_MAX));
    for i in 0..300 {
        let (mut description, mut weights) = (description.clone(), weights.clone());
        let told = match i % 3 {
            0 => random.json(&mut description),
            1 => random.bytes(&mut weights, if i % 4 == 0 { usize::MAX } else { head }),
            _ => {
                let mut text = header.clone();
                let told = random.json(&mut text);
                weights = [&(text.len() as u64).to_le_bytes()[..], &text, &weights[head..]].concat();
                told
            }
        };
        tally.check(&(["description", "bytes", "header"][i % 3], told), || reads(&description, &weights));
    }
    tally.says(300, 120);
}

/// The fuzz targets' doors take what `fuzz/run` gives them for longer: bytes changed at random.
#[test]
fn doors_of_the_fuzz_targets() {
    type Door = fn(&Path, &[u8]);
    let doors: [(&str, Door); 10] = [
        ("gguf", |_, bytes| doors::gguf(bytes)),
        ("safetensors", |_, bytes| doors::safetensors(bytes)),
        ("tokenizer", |_, bytes| doors::tokenizer(bytes)),
        ("template", |_, bytes| doors::template(bytes)),
        ("grammar", |_, bytes| doors::grammar(bytes)),
        ("schema", |_, bytes| doors::schema(bytes)),
        ("csv", doors::csv),
        ("npy", doors::npy),
        ("wav", |_, bytes| doors::wav(bytes)),
        ("image", |_, bytes| doors::image(bytes)),
    ];
    let (dir, mut random) = (tempfile::tempdir().unwrap(), Random::new(8));
    for (name, door) in doors {
        let seeds = originals::seeds(name);
        let mut tally = Tally::new(if name == "template" { TEMPLATE_BYTES_MAX } else { BYTES_MAX });
        // What a door makes once for all is not an input's.
        door(dir.path(), &seeds[0]);
        // Grammars are compiled within a bound of time that some come near.
        let n = if matches!(name, "grammar" | "schema") { 12 } else { 120 };
        for i in 0..n {
            let mut bytes = seeds[i % seeds.len()].clone();
            let told = random.bytes(&mut bytes, usize::MAX);
            tally.check(&(name, i % seeds.len(), told), || {
                door(dir.path(), &bytes);
                Ok(())
            });
        }
    }
}

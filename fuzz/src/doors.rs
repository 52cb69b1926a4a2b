//! What each target does with its bytes: the door that bytes of the outside come through, and the first use of what came
//! out. None may panic, and none may take memory that its bytes do not explain; what is wrong is an error.

use lyceum_language::grammar::{Constraint, GrammarCompiler};
use lyceum_language::template::{ChatTemplate, Conversation, End};
use lyceum_language::tokenizer::{AddSpecial, Specials, Tokenizer};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_types::control::Control;
use serde_json::{Map, json};
use std::path::Path;
use std::sync::OnceLock;

/// Tensors are read one by one, at most so many bytes in all.
const TENSOR_BYTES_MAX: usize = 1 << 20;

fn numbers(checkpoint: &Checkpoint) {
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    let mut left = TENSOR_BYTES_MAX;
    for name in names {
        let tensor = checkpoint.find(&name).expect("it was listed");
        let n: usize = tensor.dims.iter().product();
        if n <= left {
            left -= n;
            let _ = checkpoint.numbers(tensor);
        }
    }
}

pub fn gguf(bytes: &[u8]) {
    if let Ok((checkpoint, _)) = Checkpoint::gguf(Box::new(bytes.to_vec())) {
        numbers(&checkpoint);
    }
}

/// One file, or two with the byte 0xFF 0xFE between them.
pub fn safetensors(bytes: &[u8]) {
    let cut = bytes.windows(2).position(|pair| pair == [0xFF, 0xFE]);
    let files = match cut {
        Some(at) => vec![bytes[..at].to_vec(), bytes[at + 2..].to_vec()],
        None => vec![bytes.to_vec()],
    };
    let files = files.into_iter().map(|file| Box::new(file) as Box<dyn lyceum_nn::checkpoint::ReadAt>);
    if let Ok(checkpoint) = Checkpoint::safetensors(files.collect()) {
        numbers(&checkpoint);
    }
}

pub fn tokenizer(bytes: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_json(bytes, None) {
        for specials in [Specials::AsText, Specials::Parsed, Specials::Protected] {
            if let Ok(ids) = tokenizer.encode("The cat <|im_end|>\n été 12 🦙", AddSpecial::Yes, specials)
            {
                let _ = tokenizer.decode(&ids);
            }
        }
    }
}

pub fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let Ok(template) = ChatTemplate::new(source, Map::new()) else { return };
    let messages = [json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": "ho"})];
    let tools = [json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}})];
    let end = End::GenerationPrompt;
    let conversation = Conversation { messages: &messages, tools: Some(&tools), end, ..Default::default() };
    let _ = template.render(&conversation);
}

/// A tokenizer whose tokens are the 256 bytes, under GPT-2's names for them, and an end.
fn bytes_alone() -> Vec<u8> {
    let is_plain = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut n_others = 0;
    let mut vocab = Map::new();
    for byte in 0..256u32 {
        let name = if is_plain(byte) {
            byte
        } else {
            n_others += 1;
            255 + n_others
        };
        vocab.insert(char::from_u32(name).into_iter().collect(), json!(byte));
    }
    vocab.insert("<|end|>".into(), json!(256));
    let end = json!({"id": 256, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let all = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [end], "normalizer": null,
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}});
    all.to_string().into_bytes()
}

fn compiler() -> &'static GrammarCompiler {
    static COMPILER: OnceLock<GrammarCompiler> = OnceLock::new();
    COMPILER.get_or_init(|| {
        let end = json!({"eos_token": "<|end|>"});
        let tokenizer = Tokenizer::from_json(&bytes_alone(), Some(&end)).expect("it is whole");
        GrammarCompiler::new(&tokenizer, tokenizer.vocab_size()).expect("it has words")
    })
}

fn compile(constraint: Constraint) {
    if let Ok(grammar) = compiler().compile(&constraint, None) {
        let mut matcher = grammar.matcher();
        let mut words = [0; 64];
        let _ = matcher.allowed(&mut words[..2]);
    }
}

/// An expression where the first byte is even, else a grammar.
pub fn grammar(bytes: &[u8]) {
    let Some((&kind, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    compile(match kind % 2 {
        0 => Constraint::Regex(text.to_owned()),
        _ => Constraint::Grammar(text.to_owned()),
    });
}

pub fn schema(bytes: &[u8]) {
    if let Ok(schema) = serde_json::from_slice(bytes) {
        compile(Constraint::JsonSchema { schema, strict: false });
    }
}

/// Data of a job, as training reads them.
fn load(folder: &Path, name: &str, bytes: &[u8], data: &str) {
    std::fs::write(folder.join(name), bytes).expect("a file can be written");
    let text = format!(
        "name = \"a\"\ntask = \"classification\"\n[data]\n{data}\nvalid_fraction = 0.2\n[model]\nfamily = \"mlp\"\n\
         hidden = [4]\n[train]\nepochs = 1\n"
    );
    let spec = lyceum_types::spec::Spec::from_toml(&text, "spec.toml").expect("the spec is one");
    let _ = lyceum_train::data::load(&spec, folder, &Control::new());
}

pub fn csv(folder: &Path, bytes: &[u8]) {
    load(folder, "a.csv", bytes, "train = \"a.csv\"\ntarget = \"y\"");
}

pub fn npy(folder: &Path, bytes: &[u8]) {
    load(folder, "a.npz", bytes, "train = \"a.npz\"\ntarget = \"y\"");
    load(folder, "a.npy", bytes, "train = \"a.npy\"\ntarget = \"y\"");
}

pub fn wav(bytes: &[u8]) {
    let _ = lyceum_models::prepare::audio::read_wav(bytes);
}

pub fn image(bytes: &[u8]) {
    let _ = lyceum_models::prepare::vision::decode(bytes, 3, None);
}

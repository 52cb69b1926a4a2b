//! Files of another program as a model with its words: a GGUF file, or a folder in Hugging Face's layout.

use super::{Defaults, Words};
use lyceum_kernels::stored::Stored;
use lyceum_language::LanguageError;
use lyceum_language::template::ChatTemplate;
use lyceum_language::tokenizer::{GgufVocabulary, TokenKind, Tokenizer};
use lyceum_models::causal_lm::{self, Source};
use lyceum_models::encoder::{self, Description, Head};
use lyceum_models::{LoadError, Model};
use lyceum_nn::NnError;
use lyceum_nn::checkpoint::{Checkpoint, ReadAt};
use lyceum_nn::gguf::{GgufError, Header, Value as Meta};
use lyceum_store::vault::{Contents, KeyedPath};
use lyceum_types::control::Control;
use lyceum_types::manifest::ImportedKind;
use lyceum_types::short::short;
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The one weight file of a version that came as GGUF.
pub const GGUF: &str = "model.gguf";
/// A json file of a model's folder has at most this many bytes (tokenizers of 260,000 tokens take 35 MB).
const JSON_BYTES_MAX: u64 = 128 << 20;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder's fault.
    #[error("{path}: {}", short(problem))]
    File { path: PathBuf, problem: String },
    #[error("reading {path} failed")]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Language(#[from] LanguageError),
}

impl OpenError {
    /// The same of the files that were copied: what is wrong with a copy is wrong with what the caller named.
    pub(super) fn of_copy(self, copy: &Path, original: &Path) -> Self {
        let named = |path: PathBuf| match path.strip_prefix(copy) {
            Ok(file) if original.is_dir() && !file.as_os_str().is_empty() => original.join(file),
            Ok(_) => original.to_owned(),
            Err(_) => path,
        };
        match self {
            OpenError::File { path, problem } => OpenError::File { path: named(path), problem },
            OpenError::Read { path, source } => OpenError::Read { path: named(path), source },
            other => other,
        }
    }
}

impl From<GgufError> for OpenError {
    fn from(error: GgufError) -> Self {
        OpenError::Load(error.into())
    }
}

impl From<NnError> for OpenError {
    fn from(error: NnError) -> Self {
        OpenError::Load(error.into())
    }
}

/// How a model is to be laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// What matrices become; None: they stay what they are.
    pub quant: Option<Stored>,
    /// The longest sequence that will be asked for; None: what the model can.
    pub context: Option<usize>,
}

/// A model that was opened, and what its files say of it.
pub struct Opened {
    pub model: Model,
    pub words: Words,
    pub kind: ImportedKind,
    /// `gguf` or `safetensors`.
    pub format: &'static str,
    pub family: String,
    pub licence: Option<String>,
    /// What a user should be told of types that were converted.
    pub notes: Vec<String>,
}

/// Opens a version's folder: [`GGUF`], or `config.json` beside safetensors.
pub fn folder(dir: impl Into<KeyedPath>, layout: Layout, control: &Control) -> Result<Opened, OpenError> {
    let dir = dir.into();
    let file = dir.join(GGUF);
    if file.is_file() { gguf(&file, layout, control) } else { hugging_face(&dir, layout, control) }
}

/// Opens a GGUF file.
pub fn gguf(path: impl Into<KeyedPath>, layout: Layout, control: &Control) -> Result<Opened, OpenError> {
    let path = &path.into();
    let (checkpoint, header) = Checkpoint::gguf(weights(path)?)?;
    let source = Source::Gguf { header: &header };
    let loaded = causal_lm::load(checkpoint, source, layout.quant, layout.context, control)?;
    let notes = loaded.notes.clone();
    let family = loaded.model.config.model_type.clone();
    let words = gguf_words(&header, path)?;
    let model = Model::language(loaded);
    check_vocabulary(&model, &words, path)?;
    let licence = header.value("general.license").and_then(Meta::as_str).map(str::to_owned);
    Ok(Opened { model, words, kind: ImportedKind::Language, format: "gguf", family, licence, notes })
}

/// Opens a folder in Hugging Face's layout.
fn hugging_face(dir: &KeyedPath, layout: Layout, control: &Control) -> Result<Opened, OpenError> {
    let config = json(&dir.join("config.json"))?.ok_or_else(|| OpenError::File {
        path: dir.path().to_owned(),
        problem: "there is no config.json, so it is no model in Hugging Face's layout".into(),
    })?;
    let files = weight_files(dir)?;
    let readers = files.iter().map(|file| weights(file)).collect::<Result<_, _>>()?;
    let checkpoint = Checkpoint::safetensors(readers)?;
    let words = hugging_face_words(dir)?;
    let encodes = config["model_type"].as_str().is_some_and(|t| encoder::MODEL_TYPES.contains(&t));
    let licence = licence_of_readme(dir);
    let (model, kind, notes) = if encodes {
        let modules = json(&dir.join("modules.json"))?;
        let pooling = json(&dir.join("1_Pooling/config.json"))?;
        let description = Description { config: &config, modules: modules.as_ref().zip(pooling.as_ref()) };
        let loaded = encoder::load(checkpoint, &description, layout.quant, control)?;
        let kind = match loaded.model.config.head {
            Head::Embedding { .. } => ImportedKind::Embedding,
            Head::Classifier { .. } => ImportedKind::Classifier,
            Head::Tokens { .. } => ImportedKind::Tagger,
        };
        let notes = loaded.notes.clone();
        let model = within(Model::encoder(loaded), layout, dir)?;
        (model, kind, notes)
    } else {
        let source = Source::HuggingFace { config: &config };
        let loaded = causal_lm::load(checkpoint, source, layout.quant, layout.context, control)?;
        let notes = loaded.notes.clone();
        (Model::language(loaded), ImportedKind::Language, notes)
    };
    check_vocabulary(&model, &words, dir)?;
    let family = config["model_type"].as_str().unwrap_or_default().to_owned();
    Ok(Opened { model, words, kind, format: "safetensors", family, licence, notes })
}

/// The types that the matrices of a folder's files have.
pub(crate) fn kinds_of_matrices(dir: &KeyedPath) -> Result<Vec<Stored>, OpenError> {
    let file = dir.join(GGUF);
    let checkpoint = if file.is_file() {
        Checkpoint::gguf(weights(&file)?)?.0
    } else {
        let files = weight_files(dir)?;
        Checkpoint::safetensors(files.iter().map(|file| weights(file)).collect::<Result<_, _>>()?)?
    };
    let matrices = checkpoint.names().filter_map(|name| checkpoint.find(name)).filter(|t| t.dims.len() == 2);
    let mut kinds = Vec::new();
    for tensor in matrices {
        if !kinds.contains(&tensor.kind) {
            kinds.push(tensor.kind);
        }
    }
    Ok(kinds)
}

/// What the language model of a folder is; its weights are not read.
pub(super) fn description(dir: &KeyedPath) -> Result<causal_lm::Config, OpenError> {
    let file = dir.join(GGUF);
    if file.is_file() {
        let (checkpoint, header) = Checkpoint::gguf(weights(&file)?)?;
        return Ok(causal_lm::describe(&checkpoint, &Source::Gguf { header: &header })?);
    }
    let path = dir.join("config.json");
    let missing = path.path().to_owned();
    let config =
        json(&path)?.ok_or_else(|| OpenError::File { path: missing, problem: "it is not there".into() })?;
    let checkpoint = Checkpoint::safetensors(Vec::new())?;
    Ok(causal_lm::describe(&checkpoint, &Source::HuggingFace { config: &config })?)
}

/// The encoder with its texts bounded: to what is asked for, else to what sentence-transformers' settings say.
fn within(mut model: Model, layout: Layout, dir: &KeyedPath) -> Result<Model, OpenError> {
    let lyceum_models::InputShape::Tokens { time, .. } = &mut model.shape.input else { return Ok(model) };
    let most = *time;
    let is_readable = |n: usize| (1..=most).contains(&n);
    if let Some(asked) = layout.context {
        if !is_readable(asked) {
            return Err(LoadError::Context { asked, most }.into());
        }
        *time = asked;
        return Ok(model);
    }
    let path = dir.join("sentence_bert_config.json");
    let settings = json(&path)?.unwrap_or_default();
    if let Some(longest) = settings["max_seq_length"].as_u64().map(|n| n as usize) {
        if !is_readable(longest) {
            let problem = format!("max_seq_length {longest} is not between 1 and the model's {most}");
            return Err(OpenError::File { path: path.path().to_owned(), problem });
        }
        *time = longest;
    }
    Ok(model)
}

/// The weight files of a folder: the shards that the index names, or the one file.
pub fn weight_files(dir: &KeyedPath) -> Result<Vec<KeyedPath>, OpenError> {
    let index_path = dir.join("model.safetensors.index.json");
    let Some(index) = json(&index_path)? else {
        let one = dir.join("model.safetensors");
        if one.is_file() {
            return Ok(vec![one]);
        }
        let problem = match dir.join("pytorch_model.bin").exists() {
            true => {
                "its weights are a pickle, which can run code when it is read; convert them to safetensors"
            }
            false => "there is no model.safetensors",
        };
        return Err(OpenError::File { path: dir.path().to_owned(), problem: problem.into() });
    };
    let bad = |problem: String| OpenError::File { path: index_path.path().to_owned(), problem };
    let map = index["weight_map"].as_object().ok_or_else(|| bad("it has no weight_map".into()))?;
    let mut names: Vec<&str> = Vec::new();
    for name in map.values() {
        let name = name.as_str().filter(|n| !n.contains(['/', '\\']) && n.ends_with(".safetensors"));
        names.push(name.ok_or_else(|| bad("it names a shard that is no safetensors file".into()))?);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

pub(super) fn weights(path: &KeyedPath) -> Result<Box<dyn ReadAt>, OpenError> {
    let failed = |source| OpenError::Read { path: path.path().to_owned(), source };
    match path.open().map_err(failed)? {
        Contents::Plain(file) => Ok(Box::new(file)),
        // A chunk of it is plain at a time, in memory.
        sealed => Ok(Box::new(Sealed { n_bytes: path.n_bytes().map_err(failed)?, contents: sealed })),
    }
}

struct Sealed {
    n_bytes: u64,
    contents: Contents,
}

impl ReadAt for Sealed {
    fn n_bytes(&self) -> io::Result<u64> {
        Ok(self.n_bytes)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.contents.read_exact_at(offset, out)
    }
}

/// A json file; None where there is none.
pub(super) fn json(path: &KeyedPath) -> Result<Option<Value>, OpenError> {
    let Some(bytes) = bytes(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| OpenError::File { path: path.path().to_owned(), problem: error.to_string() })
}

fn bytes(path: &KeyedPath) -> Result<Option<Vec<u8>>, OpenError> {
    let read = |source| OpenError::Read { path: path.path().to_owned(), source };
    match path.n_bytes() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
        Ok(n) if n > JSON_BYTES_MAX => {
            let problem = format!("it has {n} bytes; at most {JSON_BYTES_MAX} are read");
            return Err(OpenError::File { path: path.path().to_owned(), problem });
        }
        Ok(_) => {}
    }
    path.read().map(Some).map_err(read)
}

/// Every id that the tokenizer gives has a row in the model's table.
fn check_vocabulary(model: &Model, words: &Words, path: &KeyedPath) -> Result<(), OpenError> {
    let lyceum_models::InputShape::Tokens { vocabulary, .. } = model.shape.input else { return Ok(()) };
    let tokens = words.tokenizer.vocab_size();
    if tokens <= vocabulary {
        return Ok(());
    }
    let problem = format!("its tokenizer has {tokens} tokens, its table of embeddings {vocabulary}");
    Err(OpenError::File { path: path.path().to_owned(), problem })
}

fn gguf_words(header: &Header, path: &KeyedPath) -> Result<Words, OpenError> {
    let of = |key: &str| header.value(&format!("tokenizer.ggml.{key}"));
    let bad = |key: &str, problem: &str| OpenError::File {
        path: path.path().to_owned(),
        problem: format!("tokenizer.ggml.{key} {problem}"),
    };
    let id = |key: &str| -> Result<Option<u32>, OpenError> {
        match of(key) {
            None => Ok(None),
            Some(value) => {
                let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                id.map(Some).ok_or_else(|| bad(key, "is no token id"))
            }
        }
    };
    let strings = |key: &str| match of(key) {
        None => Ok(Vec::new()),
        Some(Meta::Strings(all)) => Ok(all.clone()),
        Some(_) => Err(bad(key, "is no list of texts")),
    };
    let kinds = match of("token_type") {
        None => Vec::new(),
        Some(Meta::Integers(all)) => all
            .iter()
            .map(|&n| {
                TokenKind::of_number(n).ok_or_else(|| bad("token_type", "holds a number that is no type"))
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(bad("token_type", "is no list of numbers")),
    };
    let scores = match of("scores") {
        None => Vec::new(),
        Some(Meta::Floats(all)) => all.clone(),
        Some(_) => return Err(bad("scores", "is no list of numbers")),
    };
    let vocabulary = GgufVocabulary {
        model: of("model").and_then(Meta::as_str).ok_or_else(|| bad("model", "is missing"))?.to_owned(),
        pre: of("pre").and_then(Meta::as_str).map(str::to_owned),
        tokens: strings("tokens")?,
        scores,
        kinds,
        merges: strings("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        unk: id("unknown_token_id")?,
        cls: id("cls_token_id")?,
        sep: id("seperator_token_id")?,
        add_bos: of("add_bos_token").and_then(Meta::as_bool),
        add_eos: of("add_eos_token").and_then(Meta::as_bool),
        add_space_prefix: of("add_space_prefix").and_then(Meta::as_bool),
    };
    let tokenizer = Tokenizer::from_gguf(&vocabulary)?;
    let mut specials = Map::new();
    let named = [("bos_token", vocabulary.bos), ("eos_token", vocabulary.eos), ("unk_token", vocabulary.unk)];
    for (name, id) in named {
        if let Some(text) = id.and_then(|id| vocabulary.tokens.get(id as usize)) {
            specials.insert(name.into(), text.clone().into());
        }
    }
    let template = match header.value("tokenizer.chat_template").and_then(Meta::as_str) {
        Some(source) => Some(ChatTemplate::new(source, specials)?),
        None => None,
    };
    Ok(Words { tokenizer, template, defaults: Defaults::default(), grammars: OnceLock::new() })
}

fn hugging_face_words(dir: &KeyedPath) -> Result<Words, OpenError> {
    let path = dir.join("tokenizer.json");
    let file = bytes(&path)?.ok_or_else(|| OpenError::File {
        path: dir.path().to_owned(),
        problem: "there is no tokenizer.json".into(),
    })?;
    let config = json(&dir.join("tokenizer_config.json"))?;
    let mut tokenizer = Tokenizer::from_json(&file, config.as_ref())?;
    let generation = json(&dir.join("generation_config.json"))?.unwrap_or_default();
    let ends: Vec<u32> = match &generation["eos_token_id"] {
        Value::Array(all) => {
            all.iter().filter_map(Value::as_u64).filter_map(|id| id.try_into().ok()).collect()
        }
        one => one.as_u64().and_then(|id| id.try_into().ok()).into_iter().collect(),
    };
    if !ends.is_empty() {
        tokenizer = tokenizer.with_ends(&ends)?;
    }
    let number = |key: &str| generation[key].as_f64().map(|x| x as f32);
    let samples = generation["do_sample"].as_bool() == Some(true);
    let defaults = match samples {
        false => Defaults { repetition_penalty: number("repetition_penalty"), ..Defaults::default() },
        true => Defaults {
            temperature: number("temperature"),
            top_p: number("top_p"),
            top_k: generation["top_k"].as_u64().map(|k| k as usize),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
        },
    };
    let config = config.unwrap_or_default();
    let mut specials = Map::new();
    for (name, value) in config.as_object().into_iter().flatten() {
        let text = value.as_str().or_else(|| value["content"].as_str());
        if let (true, Some(text)) = (name.ends_with("_token"), text) {
            specials.insert(name.clone(), text.into());
        }
    }
    let beside = bytes(&dir.join("chat_template.jinja"))?.map(|b| String::from_utf8_lossy(&b).into_owned());
    let source = beside.or_else(|| template_of(&config["chat_template"]));
    let template = source.map(|source| ChatTemplate::new(&source, specials)).transpose()?;
    Ok(Words { tokenizer, template, defaults, grammars: OnceLock::new() })
}

/// `chat_template`: a text, or a list of named ones, of which `default` is taken.
fn template_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(all) => {
            let default = all.iter().find(|t| t["name"] == "default")?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// The `license:` line of a model card's front matter.
pub(super) fn licence_of_readme(dir: &KeyedPath) -> Option<String> {
    let text = dir.join("README.md").read_to_string().ok()?;
    let front = text.strip_prefix("---")?.split("\n---").next()?;
    let line = front.lines().find_map(|line| line.strip_prefix("license:"))?;
    Some(line.trim().trim_matches('"').to_owned()).filter(|l| !l.is_empty())
}

//! `lyceum bench encoder`: vectors of a batch of texts of one length, and those of ONNX Runtime and PyTorch on the same
//! weights and token ids, in turn.
//!
//! Before the speed, the same answer: each side's vectors beside ours in f32. int8 is `q8_0` here (a scale for 32
//! numbers of weights and of activations), dynamic quantisation there; its error is each side's own, so a peer's fastest way
//! is the fastest of those that keep the answer.

use super::peer::{ENCODER, Peer};
use super::random::fill;
use super::{machine, median};
use crate::failure::{Exit, Failure};
use crate::output;
use clap::Args;
use lyceum_kernels::stored::Stored;
use lyceum_models::Model;
use lyceum_models::batch::{Input, Tokens};
use lyceum_models::encoder::{Description, Head, Pooling, load};
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::weights::to_safetensors;
use lyceum_nn::{Examples, ParamKind, Params, Recording, Tape, Workspace};
use lyceum_types::control::Control;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub struct EncoderBench {
    /// What to compare with: onnxruntime=PATH, pytorch=PATH, a Python that has it; one or both
    #[arg(long = "peer", value_name = "NAME=PATH")]
    peers: Vec<String>,
    /// A folder with config.json and model.safetensors in Hugging Face's layout; without it random weights in the shape
    /// of all-MiniLM-L6-v2
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Only these precisions
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,int8")]
    only: Vec<String>,
    /// Texts of the batch, and tokens of each
    #[arg(long, default_value_t = 32)]
    texts: usize,
    #[arg(long, default_value_t = 128)]
    tokens: usize,
    /// Rounds, each one measurement of both sides
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Where the result is written as JSON too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How numbers are kept, who else has it, and how near to f32 a side's vectors must be.
struct Precision {
    name: &'static str,
    kind: Stored,
    peers: &'static [&'static str],
    cosine_min: f64,
}

const PRECISIONS: [Precision; 3] = [
    Precision { name: "f32", kind: Stored::F32, peers: &["onnxruntime", "pytorch"], cosine_min: 0.999 },
    Precision { name: "bf16", kind: Stored::Bf16, peers: &["pytorch"], cosine_min: 0.999 },
    Precision { name: "int8", kind: Stored::Q8_0, peers: &["onnxruntime"], cosine_min: 0.99 },
];
/// Passes of a measurement.
const STEPS: usize = 3;
/// For how long the threads of a side that has just worked may spin.
const SETTLE: Duration = Duration::from_millis(50);

impl EncoderBench {
    pub fn measure(&self, control: &Control, is_json: bool) -> Result<Value, Failure> {
        let known = PRECISIONS.map(|precision| precision.name);
        if let Some(name) = self.only.iter().find(|name| !known.contains(&name.as_str())) {
            let why = format!("there are {}", known.join(", "));
            return Err(Failure::usage(format!("no precision is called {name:?}"), why, "name one of them"));
        }
        if self.texts == 0 || self.tokens == 0 {
            let why = "a batch has at least one text of one token";
            return Err(Failure::usage("there is nothing to measure", why, "raise --texts and --tokens"));
        }
        let mut peers: Vec<(String, Peer)> =
            self.peers.iter().map(|named| start(named)).collect::<Result<_, _>>()?;
        let made;
        let folder = match &self.model {
            Some(folder) => folder,
            None => {
                made = RandomModel::write()?;
                &made.0
            }
        };
        let bench =
            Prepared { folder, ids: token_ids(folder, self.texts, self.tokens)?, rounds: self.rounds };
        let exact = Ours::load(&bench, Stored::F32)?.vectors()?;
        let mut rows = Vec::new();
        for precision in PRECISIONS.iter().filter(|p| self.only.iter().any(|name| name == p.name)) {
            control.check().map_err(|_| Failure::interrupted("nothing was written"))?;
            rows.extend(bench.rows(precision, &exact, &mut peers)?);
        }
        if !is_json {
            table(&rows);
        }
        self.report(&rows, &peers)
    }

    fn report(&self, rows: &[Value], peers: &[(String, Peer)]) -> Result<Value, Failure> {
        let mut machine = machine(None);
        machine["peers"] = peers.iter().map(|(_, peer)| peer.about.clone()).collect();
        let report = json!({
            "event": "done", "rows": rows, "machine": machine, "texts": self.texts, "tokens": self.tokens,
        });
        if let Some(path) = &self.out {
            let text = serde_json::to_string_pretty(&report).expect("a report is plain data: bug");
            std::fs::write(path, text + "\n").map_err(|error| Failure::file("write", path, &error))?;
        }
        Ok(report)
    }
}

/// `onnxruntime=PATH` or `pytorch=PATH`.
fn start(named: &str) -> Result<(String, Peer), Failure> {
    match named.split_once('=') {
        Some((name @ ("onnxruntime" | "pytorch"), python)) => {
            Ok((name.to_owned(), Peer::script(python, ENCODER, &["--peer", name])?))
        }
        _ => {
            let (why, fix) =
                ("there are onnxruntime and pytorch", "write --peer onnxruntime=PATH of a Python");
            Err(Failure::usage(format!("no peer is called {named:?}"), why, fix))
        }
    }
}

/// What both sides are given.
struct Prepared<'a> {
    folder: &'a Path,
    /// A list for each text, all of one length.
    ids: Vec<Vec<u32>>,
    rounds: usize,
}

impl Prepared<'_> {
    /// A row for each peer that has the precision; one without a peer where there is none.
    fn rows(
        &self,
        precision: &Precision,
        exact: &[Vec<f32>],
        peers: &mut [(String, Peer)],
    ) -> Result<Vec<Value>, Failure> {
        let mut ours = Ours::load(self, precision.kind)?;
        let cosine = least_cosine(&ours.vectors()?, exact);
        if cosine < precision.cosine_min {
            let why = format!("the least cosine to f32 is {cosine}, {} is wanted", precision.cosine_min);
            return Err(Failure::new(
                Exit::Failed,
                "wrong_answer",
                "our own vectors are wrong",
                why,
                "report it",
            ));
        }
        let (mut rows, mut alone) = (Vec::new(), true);
        for (name, peer) in peers.iter_mut().filter(|(name, _)| precision.peers.contains(&name.as_str())) {
            alone = false;
            let mut row = self.beside(precision, exact, &mut ours, peer)?;
            row["peer_name"] = Value::from(name.as_str());
            row["cosine"] = Value::from(cosine);
            rows.push(row);
        }
        if alone {
            let mut seconds: Vec<f64> =
                (0..self.rounds.max(1)).map(|_| ours.seconds()).collect::<Result<_, _>>()?;
            rows.push(json!({
                "work": "encoder", "precision": precision.name, "unit": "s", "cosine": cosine,
                "ours": median(&mut seconds),
            }));
        }
        Ok(rows)
    }

    /// Ours and one peer in turn.
    fn beside(
        &self,
        precision: &Precision,
        exact: &[Vec<f32>],
        ours: &mut Ours<'_>,
        peer: &mut Peer,
    ) -> Result<Value, Failure> {
        let folder = self.folder.canonicalize().map_err(|e| Failure::file("find", self.folder, &e))?;
        let asked =
            json!({ "model": folder.display().to_string(), "precision": precision.name, "ids": self.ids });
        let answer = peer.ask(&asked)?;
        let mut ways = ways(&answer, exact)?;
        // Those that keep the answer before those that do not, then the fastest.
        ways.sort_by(|a, b| {
            let keeps = |way: &Way| way.cosine >= precision.cosine_min;
            keeps(b).cmp(&keeps(a)).then(a.seconds.total_cmp(&b.seconds))
        });
        let best = &ways[0];
        ours.seconds()?;
        let (mut mine, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds.max(1) {
            std::thread::sleep(SETTLE);
            let own = ours.seconds()?;
            std::thread::sleep(SETTLE);
            let ran = peer.ask(&json!({ "run": precision.name, "mode": best.name, "steps": STEPS }))?;
            let other = ran["seconds"].as_f64().ok_or_else(|| unexpected(&ran))?;
            mine.push(own);
            theirs.push(other);
            ratios.push(other / own);
        }
        let spread = |x: &[f64]| json!([x.first(), x.last()]);
        let (own, other, ratio) = (median(&mut mine), median(&mut theirs), median(&mut ratios));
        Ok(json!({
            "work": "encoder", "precision": precision.name, "unit": "s", "rounds": ratios.len(),
            "ours": own, "ours_spread": spread(&mine),
            "peer": other, "peer_spread": spread(&theirs), "peer_mode": best.name, "peer_cosine": best.cosine,
            "ratio": ratio, "spread": spread(&ratios),
            "peer_modes": ways.iter().map(|way| json!({
                "mode": way.name, "seconds": way.seconds, "cosine": way.cosine,
            })).collect::<Vec<_>>(),
        }))
    }
}

/// One way that a peer has.
struct Way {
    name: String,
    seconds: f64,
    /// The least of its vectors' cosines to f32.
    cosine: f64,
}

fn ways(answer: &Value, exact: &[Vec<f32>]) -> Result<Vec<Way>, Failure> {
    let modes = answer["modes"].as_object().filter(|modes| !modes.is_empty());
    let read = |(name, way): (&String, &Value)| {
        let vectors: Option<Vec<Vec<f32>>> = serde_json::from_value(way["vectors"].clone()).ok();
        let vectors = vectors.filter(|v| v.len() == exact.len());
        Some(Way {
            name: name.clone(),
            seconds: way["seconds"].as_f64()?,
            cosine: least_cosine(&vectors?, exact),
        })
    };
    let ways: Option<Vec<Way>> = modes.and_then(|modes| modes.iter().map(read).collect());
    ways.ok_or_else(|| unexpected(answer))
}

fn unexpected(answer: &Value) -> Failure {
    let why = answer["error"].as_str().map_or_else(|| answer.to_string(), str::to_owned);
    Failure::new(Exit::Failed, "peer_failed", "the peer has no answer", why, "run its script by hand")
}

/// The least cosine between vectors at the same place.
fn least_cosine(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let inner =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let cosine = |(a, b): (&Vec<f32>, &Vec<f32>)| inner(a, b) / (inner(a, a) * inner(b, b)).sqrt();
    // A number that is none is no agreement.
    a.iter().zip(b).map(cosine).fold(1.0, |least, x| if x < least || x.is_nan() { x } else { least })
}

/// Our side.
struct Ours<'a> {
    model: Model,
    ws: Workspace,
    bench: &'a Prepared<'a>,
}

impl<'a> Ours<'a> {
    fn load(bench: &'a Prepared<'a>, kind: Stored) -> Result<Self, Failure> {
        let path = bench.folder.join("model.safetensors");
        let file = std::fs::File::open(&path).map_err(|error| Failure::file("read", &path, &error))?;
        let refuse = |why: String| {
            let fix = "give the folder of a BERT, MiniLM or RoBERTa in safetensors";
            Failure::usage(format!("{} is no encoder", bench.folder.display()), why, fix)
        };
        let config = config(bench.folder)?;
        let checkpoint = Checkpoint::safetensors(vec![Box::new(file)]).map_err(|e| refuse(e.to_string()))?;
        let description = Description { config: &config, modules: None };
        let loaded = load(checkpoint, &description, Some(kind), &Control::new());
        let model = Model::encoder(loaded.map_err(|error| refuse(error.to_string()))?);
        match model.encoder_config().map(|config| &config.head) {
            Some(Head::Embedding { pooling: Pooling::Mean, .. }) => {}
            _ => return Err(refuse("it gives no vectors".into())),
        }
        Ok(Ours { model, ws: Workspace::new(), bench })
    }

    fn input(&self) -> Input {
        let (n, time) = (self.bench.ids.len(), self.bench.ids[0].len());
        let ids = self.bench.ids.concat();
        Input::Tokens(Tokens { n, time, ids, lengths: vec![time as u32; n], second: Vec::new() })
    }

    fn vectors(&mut self) -> Result<Vec<Vec<f32>>, Failure> {
        let input = self.input();
        let n = self.bench.ids.len();
        let mut tape = Tape::new(&mut self.ws, &self.model.params, Recording::Off, Examples::Even(n));
        let forward = self.model.forward(&mut tape, &input);
        let forward = forward.map_err(|error| Failure::internal("the pass failed", &error))?;
        let numbers = tape.value(forward.logits);
        Ok(numbers.chunks_exact(numbers.len() / n).map(<[f32]>::to_vec).collect())
    }

    /// Median seconds of a pass.
    fn seconds(&mut self) -> Result<f64, Failure> {
        let one = |_| {
            let start = Instant::now();
            std::hint::black_box(self.vectors()?);
            Ok(start.elapsed().as_secs_f64())
        };
        let mut samples: Vec<f64> = (0..STEPS).map(one).collect::<Result<_, Failure>>()?;
        Ok(median(&mut samples))
    }
}

fn config(folder: &Path) -> Result<Value, Failure> {
    let path = folder.join("config.json");
    let text = std::fs::read(&path).map_err(|error| Failure::file("read", &path, &error))?;
    serde_json::from_slice(&text).map_err(|error| {
        let why = error.to_string();
        Failure::usage(format!("{} is not JSON", path.display()), why, "give a folder of a model")
    })
}

/// Ids of the whole vocabulary, the same in every run.
fn token_ids(folder: &Path, texts: usize, tokens: usize) -> Result<Vec<Vec<u32>>, Failure> {
    let vocabulary = config(folder)?["vocab_size"].as_u64().unwrap_or(0).max(1);
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocabulary) as u32
    };
    Ok((0..texts).map(|_| (0..tokens).map(|_| next()).collect()).collect())
}

/// A folder with random weights in the shape of all-MiniLM-L6-v2; it goes with this value.
struct RandomModel(PathBuf);

impl Drop for RandomModel {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl RandomModel {
    fn write() -> Result<Self, Failure> {
        let (vocabulary, positions, c, f, layers) = (30_522, 512, 384, 1536, 6);
        let config = json!({
            "model_type": "bert", "architectures": ["BertModel"], "hidden_act": "gelu", "vocab_size": vocabulary,
            "hidden_size": c, "intermediate_size": f, "num_hidden_layers": layers, "num_attention_heads": 12,
            "max_position_embeddings": positions, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        });
        let mut params = Params::new();
        let mut add = |name: String, dims: &[usize]| {
            let mut value = vec![0.0; dims.iter().product()];
            match dims {
                [_, _] => fill(name.bytes().fold(7, |h, b| h * 31 % 1_000_003 + u64::from(b)), &mut value),
                _ => value.fill(if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 }),
            }
            params.add_value(&name, dims, ParamKind::Weight, value);
        };
        let tables = [("word", vocabulary), ("position", positions), ("token_type", 2)];
        for (table, n) in tables {
            add(format!("embeddings.{table}_embeddings.weight"), &[n, c]);
        }
        let norm = |name: &str| [(format!("{name}.weight"), vec![c]), (format!("{name}.bias"), vec![c])];
        let linear =
            |name: String, i, o| [(format!("{name}.weight"), vec![o, i]), (format!("{name}.bias"), vec![o])];
        let mut all = vec![norm("embeddings.LayerNorm")];
        for layer in (0..layers).map(|i| format!("encoder.layer.{i}")) {
            all.extend(
                ["query", "key", "value"].map(|x| linear(format!("{layer}.attention.self.{x}"), c, c)),
            );
            all.push(linear(format!("{layer}.attention.output.dense"), c, c));
            all.push(norm(&format!("{layer}.attention.output.LayerNorm")));
            all.push(linear(format!("{layer}.intermediate.dense"), c, f));
            all.push(linear(format!("{layer}.output.dense"), f, c));
            all.push(norm(&format!("{layer}.output.LayerNorm")));
        }
        all.into_iter().flatten().for_each(|(name, dims)| add(name, &dims));
        let folder = Self(std::env::temp_dir().join(format!("lyceum-bench-encoder-{}", std::process::id())));
        let weights =
            to_safetensors(&params).map_err(|error| Failure::internal("weights of our own", &error))?;
        std::fs::create_dir_all(&folder.0).map_err(|error| Failure::file("make", &folder.0, &error))?;
        for (name, bytes) in
            [("config.json", config.to_string().into_bytes()), ("model.safetensors", weights)]
        {
            let path = folder.0.join(name);
            std::fs::write(&path, bytes).map_err(|error| Failure::file("write", &path, &error))?;
        }
        Ok(folder)
    }
}

fn table(rows: &[Value]) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cosine = |value: &Value| value.as_f64().map_or_else(String::new, |x| format!("{x:.5}"));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let bounds = match (row["spread"][0].as_f64(), row["spread"][1].as_f64()) {
                (Some(low), Some(high)) => format!("{low:.2}–{high:.2}"),
                _ => String::new(),
            };
            vec![
                text(&row["precision"]),
                super::milliseconds(&row["ours"]),
                text(&row["peer_name"]),
                text(&row["peer_mode"]),
                super::milliseconds(&row["peer"]),
                row["ratio"].as_f64().map_or_else(String::new, |r| format!("{r:.2}")),
                bounds,
                cosine(&row["cosine"]),
                cosine(&row["peer_cosine"]),
            ]
        })
        .collect();
    let header = [
        "precision",
        "ours",
        "peer",
        "its way",
        "its time",
        "ratio",
        "spread",
        "cosine to f32",
        "its cosine",
    ];
    output::table(&header, &cells);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_weights_are_an_encoder_and_a_wrong_number_is_no_agreement() {
        let made = RandomModel::write().unwrap();
        let ids = token_ids(&made.0, 2, 3).unwrap();
        let bench = Prepared { folder: &made.0, ids, rounds: 1 };
        let exact = Ours::load(&bench, Stored::F32).unwrap().vectors().unwrap();
        assert_eq!((exact.len(), exact[0].len()), (2, 384));
        let int8 = Ours::load(&bench, Stored::Q8_0).unwrap().vectors().unwrap();
        let cosine = least_cosine(&int8, &exact);
        assert!((0.99..1.0).contains(&cosine), "{cosine}");
        assert!(least_cosine(&[vec![f32::NAN, 1.0]], &[vec![1.0, 1.0]]).is_nan());
        let folder = made.0.clone();
        drop(made);
        assert!(!folder.exists());
    }
}

//! `lyceum bench llm`: prompts read and tokens made by a language model of real sizes, and by llama.cpp's
//! `llama-bench` on the same file, in turn.
//!
//! Weights are random in the shape of a real model, written as GGUF by this program: speed does not depend on
//! what they say, and both sides read the same bytes. Tokens a second beside the bytes of weights that each token
//! reads, so that the bandwidth of the machine is seen.

use super::median;
use super::random::{CONTEXT, SHAPES, Shape, write};
use super::serving;
use crate::failure::{Exit, Failure};
use crate::output;
use clap::Args;
use lyceum_kernels::stored::Stored;
use lyceum_models::Model;
use lyceum_models::causal_lm::{Source, load};
use lyceum_models::decode::{DecodeRow, PAGE, RowClass, Rows};
use lyceum_nn::Workspace;
use lyceum_nn::checkpoint::Checkpoint;
use lyceum_nn::ops::cached_attention::{KvPool, KvStorage};
use lyceum_types::control::Control;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

#[derive(Debug, Args)]
pub struct LlmBench {
    /// What to compare with: llama.cpp=PATH of its llama-bench; llama-server=PATH, end to end over HTTP
    #[arg(long, value_name = "NAME=PATH")]
    peer: Option<String>,
    /// Types of the weights
    #[arg(long, value_delimiter = ',', default_value = "q8_0,q4_0,q4_k,bf16")]
    only: Vec<String>,
    /// The shape: qwen3-0.6b or smollm2-135m
    #[arg(long, default_value = "qwen3-0.6b")]
    shape: String,
    /// Tokens of the prompt, and tokens that are made after it
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    #[arg(long, default_value_t = 32)]
    generate: usize,
    /// Sequences that generate at once, besides one
    #[arg(long, value_delimiter = ',', default_value = "8,32")]
    together: Vec<usize>,
    /// Rounds, each one measurement of both sides
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// llama-server: what is measured
    #[arg(long, value_delimiter = ',', default_value = "load,prefix,gateway,start")]
    parts: Vec<serving::Part>,
    /// llama-server: memory for our keys and values, in MiB
    #[arg(long, default_value_t = 1024)]
    kv_cache_mib: u64,
    /// Where the result is written as JSON too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl LlmBench {
    pub fn measure(&self, control: &Control, is_json: bool) -> Result<Value, Failure> {
        let shape = self.shape()?;
        if let Some(program) = self.peer.as_deref().and_then(|peer| peer.strip_prefix("llama-server=")) {
            return self.served(shape, Path::new(program), control, is_json);
        }
        let peer = self.peer.as_deref().map(LlamaBench::find).transpose()?;
        let folder = std::env::temp_dir().join(format!("lyceum-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
        let measured = self.types()?.into_iter().map(|kind| {
            control.check().map_err(|_| Failure::interrupted("nothing was written"))?;
            let path = folder.join(format!("{}-{}.gguf", shape.name, kind.name()));
            let rows = self.one(shape, kind, &path, peer.as_ref());
            let _ = std::fs::remove_file(&path);
            rows
        });
        let rows: Result<Vec<Vec<Value>>, Failure> = measured.collect();
        let _ = std::fs::remove_dir_all(&folder);
        let rows: Vec<Value> = rows?.into_iter().flatten().collect();
        if !is_json {
            table(&rows);
        }
        super::report(&rows, None, self.out.as_deref())
    }

    /// End to end: both sides serve the same files.
    fn served(
        &self,
        shape: &Shape,
        program: &Path,
        control: &Control,
        is_json: bool,
    ) -> Result<Value, Failure> {
        if !program.is_file() {
            let why = "it is the program that llama.cpp builds under this name";
            let fix = "write --peer llama-server=PATH/llama-server";
            return Err(Failure::usage(format!("{} is no file", program.display()), why, fix));
        }
        let mut rows = Vec::new();
        for kind in self.types()? {
            control.check().map_err(|_| Failure::interrupted("nothing was written"))?;
            let work = serving::Work {
                prompt: self.prompt,
                generate: self.generate,
                together: &self.together,
                rounds: self.rounds,
                parts: &self.parts,
                kv_cache_mib: self.kv_cache_mib,
            };
            let measured =
                tokio::runtime::Handle::current().block_on(serving::measure(shape, kind, program, &work))?;
            for row in measured {
                if !is_json {
                    output::text(row.to_string());
                }
                rows.push(row);
            }
        }
        super::report(&rows, None, self.out.as_deref())
    }

    fn shape(&self) -> Result<&'static Shape, Failure> {
        SHAPES.iter().find(|shape| shape.name == self.shape).ok_or_else(|| {
            let known = SHAPES.iter().map(|shape| shape.name).collect::<Vec<_>>().join(", ");
            let why = format!("there are {known}");
            Failure::usage(format!("no shape is called {:?}", self.shape), why, "name one")
        })
    }

    fn types(&self) -> Result<Vec<Stored>, Failure> {
        let kinds = [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0, Stored::Q4K];
        let find = |name: &String| {
            kinds.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let known = kinds.map(Stored::name).join(", ");
                Failure::usage(format!("no type {name:?}"), format!("there are {known}"), "name one of them")
            })
        };
        self.only.iter().map(find).collect()
    }

    /// The works of one type of weights.
    fn one(
        &self,
        shape: &Shape,
        kind: Stored,
        path: &Path,
        peer: Option<&LlamaBench>,
    ) -> Result<Vec<Value>, Failure> {
        write(shape, kind, path).map_err(|error| Failure::file("write", path, &error))?;
        let file = std::fs::File::open(path).map_err(|error| Failure::file("read", path, &error))?;
        let (checkpoint, header) = Checkpoint::gguf(Box::new(file))
            .map_err(|error| Failure::internal("a file of our own", &error))?;
        let loaded = load(checkpoint, Source::Gguf { header: &header }, None, Some(CONTEXT), &Control::new())
            .map_err(|error| Failure::internal("a file of our own", &error))?;
        let model = Model::language(loaded);
        let bytes = model.params.bytes() as f64;
        let mut works = vec![Run { prompt: self.prompt, sequences: 1, steps: 0 }];
        works.extend([1].iter().chain(&self.together).map(|&sequences| Run {
            prompt: 0,
            sequences,
            steps: self.generate,
        }));
        let mut rows = Vec::new();
        for run in works {
            let most = run.sequences * (run.prompt + run.steps + 1).div_ceil(PAGE);
            let kv = model.kv_shape(most, KvStorage::F32).expect("it generates: bug");
            let (mut pool, mut ws) = (KvPool::new(kv), Workspace::new());
            let mut speed = || run.tokens() as f64 / run.seconds(&model, &mut pool, &mut ws);
            speed();
            let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            // llama-bench makes one sequence at a time.
            let peer = peer.filter(|_| run.sequences == 1);
            for _ in 0..self.rounds.max(1) {
                let own = speed();
                ours.push(own);
                if let Some(peer) = peer {
                    let other = peer.speed(path, &run)?;
                    theirs.push(other);
                    ratios.push(own / other);
                }
            }
            let mut row = json!({
                "work": run.name(shape, kind), "unit": "tokens/s", "rounds": ours.len(), "ours": median(&mut ours),
                "weights_bytes": bytes,
            });
            if run.steps > 0 {
                let steps = row["ours"].as_f64().unwrap_or_default() / run.sequences as f64;
                row["weights_gb_per_s"] = json!(bytes * steps / 1e9);
            }
            if peer.is_some() {
                row["peer"] = json!(median(&mut theirs));
                let spread = ratios.iter().fold([f64::MAX, 0.0f64], |[a, b], &r| [a.min(r), b.max(r)]);
                row["spread"] = json!(spread);
                row["ratio"] = json!(median(&mut ratios));
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

fn table(rows: &[Value]) {
    let number =
        |value: &Value, digits: usize| value.as_f64().map_or_else(String::new, |x| format!("{x:.digits$}"));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let spread = match (row["spread"][0].as_f64(), row["spread"][1].as_f64()) {
                (Some(low), Some(high)) => format!("{low:.2}–{high:.2}"),
                _ => String::new(),
            };
            vec![
                row["work"].as_str().unwrap_or_default().to_owned(),
                number(&row["ours"], 1),
                number(&row["peer"], 1),
                number(&row["ratio"], 2),
                spread,
                number(&row["weights_gb_per_s"], 1),
            ]
        })
        .collect();
    output::table(&["work", "ours t/s", "peer t/s", "ratio", "spread", "weights GB/s"], &cells);
}

/// A prompt that is read, or tokens that several sequences make one after the other.
struct Run {
    prompt: usize,
    sequences: usize,
    steps: usize,
}

impl Run {
    fn name(&self, shape: &Shape, kind: Stored) -> String {
        let (shape, kind) = (shape.name, kind.name());
        match (self.prompt, self.sequences) {
            (0, 1) => format!("{shape} {kind} decode"),
            (0, n) => format!("{shape} {kind} decode × {n}"),
            (n, _) => format!("{shape} {kind} prefill {n}"),
        }
    }

    fn tokens(&self) -> usize {
        self.prompt + self.steps * self.sequences
    }

    fn seconds(&self, model: &Model, pool: &mut KvPool, ws: &mut Workspace) -> f64 {
        let vocabulary = model.shape.output.width() as u32;
        let pages_each = pool.shape().n_pages / self.sequences;
        let mut states: Vec<_> =
            (0..self.sequences).map(|_| model.start(ws, None).expect("it generates: bug")).collect();
        let pages: Vec<Vec<u32>> = (0..self.sequences)
            .map(|i| (i * pages_each..(i + 1) * pages_each).map(|p| p as u32).collect())
            .collect();
        let prompt: Vec<u32> = (0..self.prompt.max(1)).map(|i| (i as u32 * 7919 + 13) % vocabulary).collect();
        let mut pass = |tokens: &[u32], class| {
            let rows = Rows::Last;
            let mut all: Vec<DecodeRow<'_>> = states
                .iter_mut()
                .zip(&pages)
                .map(|(state, pages)| DecodeRow { state, tokens, rows, pages, adapter: None, class })
                .collect();
            let logits = model.decode(ws, Some(pool), &mut all).expect("the shapes are its own: bug");
            ws.recycle(logits);
        };
        let begin = Instant::now();
        if self.prompt > 0 {
            pass(&prompt, RowClass::Bulk);
        }
        for step in 0..self.steps {
            pass(&[(step as u32 * 31 + 7) % vocabulary], RowClass::Step);
        }
        begin.elapsed().as_secs_f64()
    }
}

/// llama.cpp's own benchmark.
struct LlamaBench {
    path: PathBuf,
}

impl LlamaBench {
    fn find(named: &str) -> Result<Self, Failure> {
        let path = named.strip_prefix("llama.cpp=").map(PathBuf::from);
        match path {
            Some(path) if path.is_file() => Ok(LlamaBench { path }),
            _ => {
                let why = "it is the program that llama.cpp builds under this name";
                Err(Failure::usage(
                    format!("--peer {named:?} names no llama-bench"),
                    why,
                    "write --peer llama.cpp=PATH/llama-bench",
                ))
            }
        }
    }

    /// Tokens a second of one run.
    fn speed(&self, model: &Path, run: &Run) -> Result<f64, Failure> {
        let threads = lyceum_kernels::pool::threads().to_string();
        let (prompt, steps) = (run.prompt.to_string(), run.steps.to_string());
        let done = Command::new(&self.path)
            .arg("-m")
            .arg(model)
            .args(["-p", &prompt, "-n", &steps, "-t", &threads, "-r", "1", "-fa", "1", "-o", "json"])
            .output()
            .map_err(|error| Failure::file("run", &self.path, &error))?;
        let read = || -> Option<f64> {
            let rows: Value = serde_json::from_slice(&done.stdout).ok()?;
            rows.get(0)?["avg_ts"].as_f64()
        };
        read().ok_or_else(|| {
            let why = String::from_utf8_lossy(&done.stderr).lines().last().unwrap_or_default().to_owned();
            let fix = "run it by hand with -m a GGUF file";
            Failure::new(Exit::Failed, "peer_failed", "llama-bench gave no number", why, fix)
        })
    }
}

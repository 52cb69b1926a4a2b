//! `lyceum bench llm --peer llama-server=PATH`: the same GGUF served by both sides over HTTP, with as many slots and
//! threads, greedy, answers of one length, in turn.

use super::gateway;
use super::http::{Target, Told, percentiles};
use super::random::{CONTEXT, Shape, write};
use super::server::{House, MODEL, Server};
use super::{median, peak_rss};
use crate::failure::{Exit, Failure};
use clap::ValueEnum;
use lyceum_kernels::stored::Stored;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::task::JoinSet;

/// Tokens of the prompt whose beginning is kept.
const PREFIX: usize = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Streams at once: tokens a second, TTFT, ITL; and the memory of both servers
    Load,
    /// A prompt of 2,000 tokens, new and known
    Prefix,
    /// What HTTP adds to the engine's own time
    Gateway,
    /// From the start of the process to the first token
    Start,
}

pub struct Work<'a> {
    pub prompt: usize,
    pub generate: usize,
    pub together: &'a [usize],
    pub rounds: usize,
    pub parts: &'a [Part],
    pub kv_cache_mib: u64,
}

/// A file that goes with this value.
struct Gguf(PathBuf);

impl Drop for Gguf {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Both sides with one model.
struct Pair<'a> {
    shape: &'a Shape,
    program: &'a Path,
    file: Gguf,
    house: House,
    work: &'a Work<'a>,
}

/// The rows of one type of weights.
pub async fn measure(
    shape: &Shape,
    kind: Stored,
    program: &Path,
    work: &Work<'_>,
) -> Result<Vec<Value>, Failure> {
    let name = format!("lyceum-bench-{}-{}-{}.gguf", std::process::id(), shape.name, kind.name());
    let file = Gguf(std::env::temp_dir().join(name));
    write(shape, kind, &file.0).map_err(|error| Failure::file("write", &file.0, &error))?;
    let house = House::with(&file.0)?;
    let pair = Pair { shape, program, file, house, work };
    let named = format!("{} {}", shape.name, kind.name());
    let mut rows = Vec::new();
    for part in work.parts {
        match part {
            Part::Load => {
                for &n in work.together {
                    rows.push(pair.load(&format!("{named} × {n}"), n).await?);
                }
            }
            Part::Prefix => rows.push(pair.prefix(&format!("{named} prefix {PREFIX}")).await?),
            Part::Gateway => {
                rows.push(gateway::measure(&pair.house, &format!("{named} gateway"), work.rounds).await?);
            }
            Part::Start => rows.push(pair.start(&format!("{named} start")).await?),
        }
    }
    Ok(rows)
}

impl Pair<'_> {
    fn ours(&self, slots: usize) -> Result<Server, Failure> {
        // No guesses: random weights repeat themselves, which real ones do not.
        let (rows, memory) = (slots.to_string(), self.work.kv_cache_mib.to_string());
        self.house.serve(&["--batch-rows", &rows, "--draft-tokens", "0", "--kv-cache-mib", &memory])
    }

    fn theirs(&self, slots: usize, context: usize) -> Result<Server, Failure> {
        Server::llama(self.program, &self.file.0, slots, context)
    }

    fn prompt(&self, n: usize, number: usize) -> Vec<u32> {
        let words = self.shape.vocabulary as u64 - 300;
        let token = |i: usize| 257 + (mix((number as u64) << 32 | i as u64) % words) as u32;
        (0..n).map(token).collect()
    }

    /// All of `n` at once; tokens a second, and what each was told.
    async fn round(&self, server: &Server, n: usize, number: usize) -> Result<(f64, Vec<Told>), Failure> {
        let prompts: Vec<Vec<u32>> =
            (0..n).map(|i| self.prompt(self.work.prompt, number * 1000 + i)).collect();
        let began = Instant::now();
        let mut clients = JoinSet::new();
        for prompt in prompts {
            let (target, n_tokens) = (server.target.clone(), self.work.generate);
            clients.spawn(async move { ask(&target, prompt, n_tokens).await });
        }
        let mut told = Vec::new();
        while let Some(client) = clients.join_next().await {
            told.push(client.map_err(|error| Failure::internal("a client broke off", &error))??);
        }
        Ok(((n * self.work.generate) as f64 / began.elapsed().as_secs_f64(), told))
    }

    async fn load(&self, name: &str, n: usize) -> Result<Value, Failure> {
        let context = (self.work.prompt + self.work.generate + 8).next_multiple_of(256);
        let (ours, theirs) = (self.ours(n)?, self.theirs(n, context)?);
        for (i, server) in [&ours, &theirs].into_iter().enumerate() {
            server.ready().await?;
            ask(&server.target, self.prompt(16, 7 + i), 4).await?;
        }
        let (mut speeds, mut told) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        let mut ratios = Vec::new();
        for round in 0..self.work.rounds.max(1) {
            for (side, server) in [&ours, &theirs].into_iter().enumerate() {
                let (speed, mut heard) = self.round(server, n, round * 2 + side).await?;
                speeds[side].push(speed);
                told[side].append(&mut heard);
            }
            ratios.push(speeds[0][round] / speeds[1][round]);
        }
        let times = |told: &[Told]| {
            json!({ "ttft_ms": percentiles(told.iter().filter_map(Told::ttft).collect()),
                "itl_ms": percentiles(told.iter().flat_map(Told::itl).collect()) })
        };
        let [mine, other] = &mut speeds;
        let mut row = json!({ "work": name, "unit": "tokens/s", "rounds": ratios.len(), "prompt": self.work.prompt,
            "generate": self.work.generate, "ours": median(mine), "peer": median(other), "ratio": median(&mut ratios),
            "spread": [ratios.first(), ratios.last()], "times": { "ours": times(&told[0]), "peer": times(&told[1]) } });
        let file = std::fs::metadata(&self.file.0).map_or(0, |file| file.len());
        row["memory"] = json!({ "file_bytes": file, "ours_peak_bytes": ours.peak_bytes(),
            "peer_peak_bytes": theirs.peak_bytes(), "kv_budget_bytes": self.work.kv_cache_mib << 20 });
        Ok(row)
    }

    /// The first token of a prompt that nobody sent before, and of the same again.
    async fn prefix(&self, name: &str) -> Result<Value, Failure> {
        let (ours, theirs) = (self.ours(1)?, self.theirs(1, CONTEXT)?);
        let mut seconds = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for server in [&ours, &theirs] {
            server.ready().await?;
            ask(&server.target, self.prompt(16, 7), 4).await?;
        }
        for round in 0..self.work.rounds.max(1) {
            for (side, server) in [&ours, &theirs].into_iter().enumerate() {
                let prompt = self.prompt(PREFIX, 100 + 2 * round + side);
                for known in &mut seconds[side] {
                    let told = ask(&server.target, prompt.clone(), 2).await?;
                    known.extend(told.ttft());
                }
            }
        }
        let [ours, peer] = seconds.map(|[mut new, mut known]| [median(&mut new), median(&mut known)]);
        let sides = |[new, known]: [f64; 2]| json!({ "miss_ms": new * 1e3, "hit_ms": known * 1e3, "ratio": new / known });
        Ok(json!({ "work": name, "ours": sides(ours), "peer": sides(peer), "hit_ratio": peer[1] / ours[1] }))
    }

    /// From the start of each process to its first token, the file in the system's cache for both.
    async fn start(&self, name: &str) -> Result<Value, Failure> {
        let (mut all, mut peaks) = ([Vec::new(), Vec::new()], [0, 0]);
        for round in 0..self.work.rounds.max(1) {
            for side in 0..2 {
                let began = Instant::now();
                let server = if side == 0 { self.ours(1)? } else { self.theirs(1, CONTEXT)? };
                server.ready().await?;
                let before = began.elapsed().as_secs_f64();
                let told = ask(&server.target, self.prompt(16, 9 + round), 2).await?;
                all[side].push(before + told.ttft().unwrap_or(f64::NAN));
                peaks[side] = server.peak_bytes().unwrap_or(0);
            }
        }
        let [mut ours, mut peer] = all;
        let (ours, peer) = (median(&mut ours), median(&mut peer));
        Ok(json!({ "work": name, "unit": "s", "ours": ours, "peer": peer, "ratio": peer / ours,
            "peak_bytes": { "ours": peaks[0], "peer": peaks[1], "this": peak_rss() } }))
    }
}

async fn ask(target: &Target, prompt: Vec<u32>, n: usize) -> Result<Told, Failure> {
    let body = json!({ "model": MODEL, "prompt": prompt, "max_tokens": n, "temperature": 0.0, "ignore_eos": true,
        "stream": true, "stream_options": { "include_usage": true } });
    let told = target.stream(&body, None).await?;
    if told.status != 200 || told.completion_tokens != n {
        let why = format!("status {}, {} tokens of {n}", told.status, told.completion_tokens);
        return Err(Failure::new(Exit::Failed, "peer_failed", "an answer is not whole", why, "ask by hand"));
    }
    Ok(told)
}

/// SplitMix64.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

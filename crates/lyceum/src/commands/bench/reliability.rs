//! `lyceum bench reliability`: what a server keeps under load, measured from outside. Counts are judged here and fail
//! the command; how long things took is printed.

use super::http::{Target, Told, metric, percentile, percentiles};
use super::server::{House, MODEL, Server};
use crate::failure::{Exit, Failure};
use crate::output;
use clap::{Args, ValueEnum};
use lyceum_types::control::Control;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Args)]
pub struct ReliabilityBench {
    #[arg(value_enum)]
    what: What,
    /// A running server; without it, one is started with --file
    #[arg(long, value_name = "URL", requires = "model")]
    url: Option<String>,
    /// The API key of that server
    #[arg(long, value_name = "SK", env = "LYCEUM_API_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The model that it is asked
    #[arg(long)]
    model: Option<String>,
    /// A GGUF file, or a folder in Hugging Face's layout, that is imported and served for the time of the run
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    file: Option<PathBuf>,
    /// Streams at once (overload: those that fit)
    #[arg(long, default_value_t = 64)]
    streams: usize,
    /// How long each part of the run takes
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The longest answer, in tokens
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// overload: how many times more is asked than fits
    #[arg(long, default_value_t = 10)]
    times: usize,
    /// overload: how often both parts are run, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Where the random choices begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Many times more requests than fit: refusals, and what is still answered
    Overload,
    /// Streams of which some clients leave: no hang, no leak, one end each
    Streams,
    /// Clients that all leave: how soon their work is gone
    Disconnects,
}

impl ReliabilityBench {
    pub async fn measure(self, control: &Control, is_json: bool) -> Result<Value, Failure> {
        let own = match (&self.url, &self.file) {
            (Some(_), _) => None,
            (None, Some(file)) => {
                let house = House::with(file)?;
                let queue = (self.streams * 8 / 7 + 1).to_string();
                let rows = self.streams.min(1024).to_string();
                let server = house.serve(&["--queue", &queue, "--batch-rows", &rows])?;
                server.ready().await?;
                Some((house, server))
            }
            (None, None) => {
                let why = "it measures a server with a model";
                return Err(Failure::usage("no server", why, "add --url, --key and --model, or --file PATH"));
            }
        };
        let target = match (&own, &self.url) {
            (Some((_, server)), _) => server.target.clone(),
            (None, url) => Target::of_url(url.as_deref().unwrap_or_default(), self.key.clone())?,
        };
        let model = self.model.clone().unwrap_or_else(|| MODEL.to_owned());
        let load = Load { target, model, tokens: self.tokens, control: control.clone() };
        // Whoever asks first waits until the model is loaded.
        let first = load.ask(0, None).await?;
        if first.status != 200 || first.completion_tokens != self.tokens {
            let why =
                format!("status {}, {} tokens of {}", first.status, first.completion_tokens, self.tokens);
            return Err(broken("the first request was not answered", &why));
        }
        let mut report = match self.what {
            What::Overload => self.overload(&load).await?,
            What::Streams => self.streams(&load).await?,
            What::Disconnects => self.disconnects(&load).await?,
        };
        report["peak_rss_bytes"] = json!(own.as_ref().and_then(|(_, server)| Server::peak_bytes(server)));
        if !is_json {
            output::text(serde_json::to_string_pretty(&report).unwrap_or_default());
        }
        Ok(json!({ "event": "done", "reliability": report }))
    }

    /// Clients that ask again and again, of whom a third leaves somewhere in the middle.
    async fn streams(&self, load: &Load) -> Result<Value, Failure> {
        let settled = load.settled().await?;
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let mut clients = Vec::new();
        for client in 0..self.streams as u64 {
            let (load, seed) = (load.clone(), self.seed);
            clients.push(tokio::spawn(async move {
                let mut told = Vec::new();
                for turn in 0.. {
                    if Instant::now() >= until || load.control.check().is_err() {
                        break;
                    }
                    let dice = mix(seed ^ (client << 32) ^ turn);
                    let leave = (dice.is_multiple_of(3)).then(|| 1 + (dice >> 8) as usize % load.tokens);
                    told.push(load.ask(dice, leave).await?);
                }
                Ok::<_, Failure>(told)
            }));
        }
        let mut memory = Vec::new();
        while Instant::now() < until && load.control.check().is_ok() {
            tokio::time::sleep(Duration::from_secs(5).min(Duration::from_secs(self.seconds))).await;
            memory.extend(load.metric("process_resident_memory_bytes").await?);
        }
        let all = joined(clients).await?;
        let left = load.settled().await?;
        let whole: Vec<&Told> = all.iter().filter(|told| !told.left).collect();
        let refused = all.iter().filter(|told| told.status == 429).count();
        let is_ended = |told: &&Told| told.status != 200 || (told.n_endings, told.n_done) == (1, 1);
        let wrong = whole.iter().filter(|told| !is_ended(told)).count();
        let short = whole.iter().filter(|t| t.status == 200 && t.completion_tokens != load.tokens).count();
        // The first half may still grow into what the load needs.
        let half = memory.split_off(memory.len() / 2);
        let most = |all: &[f64]| all.iter().copied().fold(f64::NAN, f64::max);
        let growth = most(&half) / most(&memory);
        let report = json!({
            "requests": all.len(), "left_in_the_middle": all.len() - whole.len(), "refused": refused,
            "without_one_end": wrong, "short": short,
            "tokens": all.iter().map(|told| told.completion_tokens.max(told.tokens.len())).sum::<usize>(),
            "tokens_per_s": all.iter().map(|told| told.tokens.len()).sum::<usize>() as f64 / self.seconds as f64,
            "ttft_ms": percentiles(all.iter().filter_map(Told::ttft).collect()),
            "itl_ms": percentiles(all.iter().flat_map(Told::itl).collect()),
            "seconds_to_zero": left, "seconds_to_zero_before": settled,
            "rss_bytes": { "first_half": most(&memory), "second_half": most(&half), "ratio": growth },
        });
        match wrong + short {
            0 => Ok(report),
            _ => Err(broken("streams ended wrongly", &report.to_string())),
        }
    }

    /// Clients of whom everyone leaves after its first token.
    async fn disconnects(&self, load: &Load) -> Result<Value, Failure> {
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let (mut seconds, mut n) = (Vec::new(), 0);
        while Instant::now() < until && load.control.check().is_ok() {
            let wave = (0..self.streams as u64).map(|client| {
                let load = load.clone();
                tokio::spawn(async move { load.ask(mix(client), Some(1)).await.map(|told| vec![told]) })
            });
            n += joined(wave.collect()).await?.iter().filter(|told| told.left).count();
            seconds.push(load.settled().await?);
        }
        let slowest = percentile(&mut seconds.clone(), 1.0);
        Ok(json!({ "left": n, "waves": seconds.len(), "to_zero_ms": percentiles(seconds),
            "slowest_to_zero_ms": slowest.map(|s| s * 1e3) }))
    }

    /// As many clients as fit, then many times more; each asks again at once when it was answered, and after a moment
    /// when it was refused.
    async fn overload(&self, load: &Load) -> Result<Value, Failure> {
        if self.seconds < 3 {
            let why = "the first second is that in which clients come";
            return Err(Failure::usage(
                "bench reliability overload: --seconds is below 3",
                why,
                "give 3 or more",
            ));
        }
        let crowd = self.streams * self.times;
        let (mut fit, mut over, mut rounds) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.rounds {
            // In turn, so that what else the machine does meets both.
            let before = self.crowd(load, self.streams, Duration::ZERO, round).await?;
            let after = self.crowd(load, crowd, COMING, round).await?;
            let (peak, goodput) = (self.goodput(load, &before), self.goodput(load, &after));
            rounds.push((goodput / peak, peak, goodput));
            fit.extend(before.into_iter().map(|(_, told)| told));
            over.extend(after.into_iter().map(|(_, told)| told));
        }
        let left = load.settled().await?;
        rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        let middle = rounds[rounds.len() / 2];
        let refused: Vec<&Told> = over.iter().filter(|told| told.status == 429).collect();
        let other = over.iter().filter(|told| !matches!(told.status, 200 | 429)).count();
        let silent = refused.iter().filter(|told| !told.retry_after).count();
        let report = json!({
            "clients": { "fit": self.streams, "overload": crowd },
            "answered": over.iter().filter(|told| told.status == 200).count(), "refused": refused.len(),
            "refused_without_retry_after": silent, "other_statuses": other,
            "refusal_ms": percentiles(refused.iter().map(|told| told.end).collect()),
            "peak_tokens_per_s": middle.1, "goodput_tokens_per_s": middle.2, "goodput": middle.0,
            "goodput_of_rounds": rounds.iter().map(|round| round.0).collect::<Vec<f64>>(),
            "ttft_ms": { "fit": percentiles(fit.iter().filter_map(Told::ttft).collect()),
                "overload": percentiles(over.iter().filter_map(Told::ttft).collect()) },
            "seconds_to_zero": left,
        });
        match silent + other {
            0 => Ok(report),
            _ => Err(broken("requests were neither answered nor refused", &report.to_string())),
        }
    }

    /// Tokens a second that came while all clients were there, of answers that came whole.
    fn goodput(&self, load: &Load, all: &[Asked]) -> f64 {
        let window = COMING.as_secs_f64()..self.seconds as f64;
        let whole =
            all.iter().filter(|(_, told)| told.status == 200 && told.completion_tokens == load.tokens);
        let in_time = whole.filter(|(_, told)| told.n_done == 1);
        let tokens = in_time.flat_map(|(at, told)| told.tokens.iter().map(move |token| at + token));
        tokens.filter(|at| window.contains(at)).count() as f64 / (window.end - window.start)
    }

    /// What `n` clients were told, who come within `pause` and ask again about as long after a refusal, until the seconds
    /// are over.
    async fn crowd(&self, load: &Load, n: usize, pause: Duration, round: u64) -> Result<Vec<Asked>, Failure> {
        let began = Instant::now();
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = (0..n as u64).map(|client| {
            let (load, is_over, seed) = (load.clone(), is_over.clone(), mix(self.seed ^ round));
            tokio::spawn(async move {
                let mut told = Vec::new();
                // Neither do they come all at the same moment.
                tokio::time::sleep(pause.mul_f64((mix(seed ^ client) % 1000) as f64 / 1000.0)).await;
                for turn in 0.. {
                    if is_over.load(Ordering::Relaxed) || load.control.check().is_err() {
                        break;
                    }
                    let dice = mix(seed ^ (client << 32) ^ turn);
                    let at = began.elapsed().as_secs_f64();
                    let answer = load.ask(dice, None).await?;
                    if answer.status == 429 {
                        // Not all at the same moment.
                        tokio::time::sleep(pause.mul_f64(0.5 + (dice % 1000) as f64 / 1000.0)).await;
                    }
                    told.push((at, answer));
                }
                Ok::<_, Failure>(told)
            })
        });
        let clients = clients.collect();
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        is_over.store(true, Ordering::Relaxed);
        joined(clients).await
    }
}

/// A request: seconds from the beginning to it, and what its client was told.
type Asked = (f64, Told);

/// While so many come that all cannot be answered.
const COMING: Duration = Duration::from_secs(1);

/// What is asked, and of whom.
#[derive(Clone)]
struct Load {
    target: Target,
    model: String,
    tokens: usize,
    control: Control,
}

impl Load {
    async fn ask(&self, dice: u64, leave: Option<usize>) -> Result<Told, Failure> {
        let prompt = format!("{} {} stories of number {}:", dice % 97, (dice >> 8) % 89, (dice >> 16) % 83);
        let body = json!({ "model": self.model, "prompt": prompt, "max_tokens": self.tokens, "ignore_eos": true,
            "seed": dice % 1000, "stream": true, "stream_options": { "include_usage": true } });
        self.target.stream(&body, leave).await
    }

    async fn metric(&self, name: &str) -> Result<Option<f64>, Failure> {
        let (status, text) = self.target.get("/metrics").await?;
        match status {
            200 => Ok(metric(&text, name)),
            _ => Err(broken("the server does not say its metrics", &format!("status {status}"))),
        }
    }

    /// Seconds until no sequence and no page of keys and values is held any more; an error where some stay.
    async fn settled(&self) -> Result<f64, Failure> {
        let began = Instant::now();
        let mut held = [None; 2];
        while began.elapsed() < Duration::from_secs(30) {
            held = [self.metric("lyceum_sequences").await?, self.metric("lyceum_kv_pages_used").await?];
            if held == [Some(0.0), Some(0.0)] {
                return Ok(began.elapsed().as_secs_f64());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(broken("work is left although nobody waits for it", &format!("sequences and pages: {held:?}")))
    }
}

async fn joined<T>(
    clients: Vec<tokio::task::JoinHandle<Result<Vec<T>, Failure>>>,
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    for client in clients {
        let told = client.await.map_err(|error| Failure::internal("a client broke off", &error))?;
        all.extend(told?);
    }
    Ok(all)
}

/// SplitMix64.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn broken(message: &str, why: &str) -> Failure {
    Failure::new(Exit::Failed, "unreliable", message, why, "its log says more")
}

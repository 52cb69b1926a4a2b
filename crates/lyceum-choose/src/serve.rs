//! What an answer costs on this machine: measured through the engine that serves, with one client and with many.
//!
//! Each client asks for one row and waits for its answer, as a request does behind the HTTP door (whose own cost is
//! the same for every model and not counted). Processor time is that of all threads of the process, from the
//! kernel's scheduler; where the system does not tell it, it is None.

use crate::error::ChooseError;
use lyceum_engine::{Engine, EngineError, EngineLimits, PredictRequest};
use lyceum_models::Model;
use lyceum_models::batch::Input;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

/// Answers before the clock runs.
const WARM_UP: usize = 5;
/// Answers of one client, however long they take; and the most that are kept.
const ANSWERS_MIN: usize = 30;
const ANSWERS_MAX: usize = 200_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub p50_ms: f64,
    pub p95_ms: f64,
    /// Answers behind them.
    pub n: usize,
}

/// A quantile of times with an interval that assumes no distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantile {
    pub ms: f64,
    pub ci95: [f64; 2],
    pub n: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Serving {
    /// One client.
    pub alone: Latency,
    /// `concurrency` clients at once.
    pub together: Latency,
    pub concurrency: usize,
    /// Of all clients.
    pub answers_per_s: f64,
    /// Of all threads, with all clients.
    pub cpu_seconds_per_1k: Option<f64>,
}

/// Asks one question by its number.
pub type AskOne<'a> = &'a (dyn Fn(usize) -> Result<(), ChooseError> + Sync);

/// Answers that were timed; rounds add up.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    alone_ms: Vec<f64>,
    together_ms: Vec<f64>,
    seconds: f64,
    cpu_seconds: Option<f64>,
}

/// An engine to measure on.
pub struct Bench {
    engine: Engine,
    concurrency: usize,
}

impl Bench {
    /// # Errors
    /// When the system gives no thread.
    pub fn start(concurrency: usize) -> Result<Self, ChooseError> {
        let engine = Engine::start(EngineLimits::default()).map_err(ChooseError::Start)?;
        Ok(Bench { engine, concurrency })
    }

    /// Times answers to `inputs` (one row each) for about `window` with one client, and as long with all.
    ///
    /// # Errors
    /// Inputs that the model does not take.
    pub fn measure(
        &self,
        model: &Arc<Model>,
        inputs: &[Input],
        window: Duration,
        samples: &mut Samples,
    ) -> Result<(), ChooseError> {
        let one = |i: usize| Ok(ask(&self.engine, model, &inputs[i % inputs.len()])?);
        self.measure_by(&one, window, samples)
    }

    /// As [`measure`](Self::measure), of answers to question `i` that whoever serves gives; no question has the number of
    /// another in one call.
    ///
    /// # Errors
    /// Those of the answers.
    pub fn measure_by(
        &self,
        ask: AskOne<'_>,
        window: Duration,
        samples: &mut Samples,
    ) -> Result<(), ChooseError> {
        for i in 0..WARM_UP {
            ask(i)?;
        }
        let (begun, mut n) = (Instant::now(), WARM_UP);
        while begun.elapsed() < window || samples.alone_ms.len() < ANSWERS_MIN {
            let asked = Instant::now();
            ask(n)?;
            n += 1;
            samples.alone_ms.push(asked.elapsed().as_secs_f64() * 1e3);
            if samples.alone_ms.len() >= ANSWERS_MAX {
                break;
            }
        }
        self.together(ask, n, window, samples)
    }

    fn together(
        &self,
        ask: AskOne<'_>,
        first: usize,
        window: Duration,
        samples: &mut Samples,
    ) -> Result<(), ChooseError> {
        let stop = AtomicBool::new(false);
        // Clients live until the processor time was read: a thread that has ended is no longer counted.
        let (ready, read) = (Barrier::new(self.concurrency + 1), Barrier::new(self.concurrency + 1));
        let client = |number: usize| {
            ready.wait();
            let mut times = Vec::new();
            let mut result = Ok(());
            while result.is_ok() && !stop.load(Ordering::Relaxed) && times.len() < ANSWERS_MAX {
                let asked = Instant::now();
                result = ask(first + number + times.len() * self.concurrency);
                times.push(asked.elapsed().as_secs_f64() * 1e3);
            }
            read.wait();
            result.map(|()| times)
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> =
                (0..self.concurrency).map(|number| scope.spawn(move || client(number))).collect();
            ready.wait();
            let (begun, cpu) = (Instant::now(), cpu_seconds());
            std::thread::sleep(window);
            stop.store(true, Ordering::Relaxed);
            let spent = cpu_seconds().zip(cpu).map(|(after, before)| after - before);
            samples.seconds += begun.elapsed().as_secs_f64();
            let first = samples.together_ms.is_empty();
            samples.cpu_seconds = match (spent, samples.cpu_seconds) {
                (Some(spent), Some(before)) => Some(spent + before),
                (Some(spent), None) if first => Some(spent),
                _ => None,
            };
            read.wait();
            for client in clients {
                let times: Vec<f64> = client.join().map_err(|_| EngineError::Stopped)??;
                samples.together_ms.extend(times);
            }
            Ok(())
        })
    }
}

/// One row, from the door of the engine and back.
fn ask(engine: &Engine, model: &Arc<Model>, input: &Input) -> Result<(), EngineError> {
    let (tell, told) = mpsc::sync_channel(1);
    let reply = Box::new(move |answer| {
        // A client that is gone needs no answer.
        let _ = tell.send(answer);
    });
    engine.predict(PredictRequest { model: model.clone(), input: input.clone(), tally: None, reply })?;
    told.recv().map_err(|_| EngineError::Stopped)??;
    Ok(())
}

impl Samples {
    /// A quantile of the answers to one client; None without any.
    pub fn alone(&self, share: f64) -> Option<Quantile> {
        quantile(&self.alone_ms, share)
    }

    /// A quantile of the answers to all clients at once.
    pub fn together(&self, share: f64) -> Option<Quantile> {
        quantile(&self.together_ms, share)
    }

    /// What the samples say; None without any.
    pub fn serving(&self, concurrency: usize) -> Option<Serving> {
        let (alone, together) = (latency(&self.alone_ms)?, latency(&self.together_ms)?);
        let n = self.together_ms.len() as f64;
        Some(Serving {
            alone,
            together,
            concurrency,
            answers_per_s: n / self.seconds.max(1e-9),
            cpu_seconds_per_1k: self.cpu_seconds.filter(|s| *s > 0.0).map(|seconds| seconds / n * 1000.0),
        })
    }
}

/// Median and 95th percentile: the smallest time that as many answers did not exceed.
fn latency(times_ms: &[f64]) -> Option<Latency> {
    let mut sorted = times_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get(((sorted.len() as f64 * share).ceil() as usize).max(1) - 1).copied();
    Some(Latency { p50_ms: at(0.5)?, p95_ms: at(0.95)?, n: sorted.len() })
}

/// The quantile and, as its interval, the order statistics at `n·q ± 1.96·√(n·q·(1 − q))` (the count below a quantile is
/// binomial). It takes answers as independent, which those of one clock in a row are not quite.
fn quantile(times_ms: &[f64], share: f64) -> Option<Quantile> {
    let mut sorted = times_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let at = |rank: f64| {
        sorted.get((rank.ceil().max(1.0) as usize - 1).min(sorted.len().saturating_sub(1))).copied()
    };
    let half = 1.959_964 * (n * share * (1.0 - share)).sqrt();
    let ci95 = [at((n * share - half).floor())?, at(n * share + half + 1.0)?];
    Some(Quantile { ms: at(n * share)?, ci95, n: sorted.len() })
}

/// Seconds on a processor of all living threads of this process (`/proc/self/task/*/schedstat`, nanoseconds).
fn cpu_seconds() -> Option<f64> {
    let mut nanoseconds = 0u64;
    for task in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        // A thread that ends in between is not read.
        let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(nanoseconds as f64 * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_models::{InputShape, ModelShape, OutputShape};

    #[test]
    fn percentiles_are_of_the_times_that_were_seen() {
        let times: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(latency(&times), Some(Latency { p50_ms: 50.0, p95_ms: 95.0, n: 100 }));
        let middle = quantile(&times, 0.5).unwrap();
        // Ranks 40 and 61 of 100: Binomial(100, 1/2) lies between them with 96 %.
        assert_eq!((middle.ms, middle.ci95, middle.n), (50.0, [40.0, 61.0], 100));
        assert_eq!(quantile(&times, 0.95).unwrap().ci95, [90.0, 100.0]);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(latency(&[3.0]), Some(Latency { p50_ms: 3.0, p95_ms: 3.0, n: 1 }));
        assert_eq!(latency(&[]), None);
    }

    #[test]
    fn a_larger_model_takes_more_of_the_processor() {
        let bench = Bench::start(4).unwrap();
        let measure = |hidden: &[usize]| {
            let spec = crate::candidates::auto(&InputShape::Features { n: 256 });
            let lyceum_types::spec::ModelSpec::Mlp(mut mlp) = spec[1].model.clone() else { panic!() };
            mlp.hidden = hidden.to_vec();
            let shape =
                ModelShape { input: InputShape::Features { n: 256 }, output: OutputShape::Classes { n: 2 } };
            let model = Model::new(&lyceum_types::spec::ModelSpec::Mlp(mlp), &shape, 1).unwrap();
            let inputs = [Input::Dense { shape: vec![256], data: vec![0.5; 256] }];
            let mut samples = Samples::default();
            bench.measure(&Arc::new(model), &inputs, Duration::from_millis(120), &mut samples).unwrap();
            samples.serving(4).unwrap()
        };
        let (small, large) = (measure(&[]), measure(&[1500, 1500]));
        assert!(small.alone.n >= ANSWERS_MIN && small.together.n > 0);
        assert!(small.alone.p50_ms <= small.alone.p95_ms);
        assert!(large.alone.p50_ms > small.alone.p50_ms, "{small:?} {large:?}");
        if let (Some(small), Some(large)) = (small.cpu_seconds_per_1k, large.cpu_seconds_per_1k) {
            assert!(large > small, "{small} {large}");
        }
    }
}

//! Whether the words of a language model depend on where and how it runs: types of its weights, instruction sets,
//! company in a pass, streamed or read whole.
//!
//! The first environment is what the others are compared with; where nothing is asked for that is how the model is
//! served. Two comparisons: over the places of the given texts (which token is likeliest, how far the distributions are
//! apart, how sure and how right), and over answers written by the likeliest token. Weights of another type are made of
//! the version's own files. A type that these cannot give is refused by its name; one that is wider than the files'
//! gives the files' numbers and says so: what was rounded away is in no file.

use super::super::{Finding, refused};
use super::texts::Read;
use crate::language::{check_files, open, read_manifest};
use crate::{Language, Service, ServiceError};
use lyceum_engine::{Engine, Event, Flow, GenerateRequest, Priority, Tenant};
use lyceum_kernels::cpu::{self, CpuPath};
use lyceum_kernels::stored::Stored;
use lyceum_models::Model;
use lyceum_nn::ops::cached_attention::KvStorage;
use lyceum_robust::precision::Divergence;
use lyceum_robust::reading::{self, Greedy, Reader, Scored, Setting, Way};
use lyceum_robust::share::share;
use lyceum_store::vault::KeyedPath;
use lyceum_types::control::Control;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Sequences that share a pass where nothing else is said.
const TOGETHER: usize = 8;
/// Answers that are streamed at once.
const STREAMS: usize = 8;
/// How a sentence begins that names an environment which was not run, though there is one.
pub(super) const LEFT_OUT: &str = "environments ";
/// How one begins of an environment that the model cannot have at all: nobody will serve it so.
const NONE_SUCH: &str = "no environment ";

/// Of which type the weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// As the version is served.
    Served,
    Stored(Stored),
}

/// Who writes the answers that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Passes of the run's own.
    Own,
    /// The running engine, beside everybody else's work: kept beginnings, guesses, pages.
    Engine,
}

/// Where and how a model runs; what is None is as it is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    pub weights: Weights,
    pub path: Option<CpuPath>,
    pub together: usize,
    pub way: Way,
    pub kv: Option<KvStorage>,
    pub writer: Writer,
}

impl Environment {
    pub const SERVED: Environment = Environment {
        weights: Weights::Served,
        path: None,
        together: TOGETHER,
        way: Way::Whole,
        kv: None,
        writer: Writer::Own,
    };

    /// `served avx512 batch:8`, `q8_0 avx512 batch:8`, `served avx512 streamed`.
    pub fn name(&self) -> String {
        let weights = match self.weights {
            Weights::Served => "served",
            Weights::Stored(kind) => kind.name(),
        };
        let mut name = format!("{weights} {}", self.path.unwrap_or_else(cpu::path).name());
        name += &match (self.writer, self.way) {
            (Writer::Engine, _) => " streamed".to_owned(),
            (Writer::Own, Way::Whole) => format!(" batch:{}", self.together),
            (Writer::Own, Way::Steps) => format!(" steps batch:{}", self.together),
        };
        match self.kv {
            None => name,
            Some(KvStorage::F32) => name + " kv:f32",
            Some(KvStorage::Bf16) => name + " kv:bf16",
            Some(KvStorage::Int8) => name + " kv:int8",
        }
    }

    fn setting(&self, engine: &Engine) -> Setting {
        let path = self.path.unwrap_or_else(cpu::path);
        let kv = self.kv.unwrap_or_else(|| engine.kv_storage());
        Setting { path, way: self.way, together: self.together, kv }
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Environments {
    /// Without it: as served, f32, bf16, q8_0, q4_0 and q4_k, alone, streamed, every instruction set; what the model does
    /// not allow is left out and named.
    pub matrix: Option<Vec<Environment>>,
    /// What the others are compared with.
    pub reference: Environment,
    /// Tokens of an answer; 0 compares no answers.
    pub max_tokens: usize,
}

impl Default for Environments {
    fn default() -> Self {
        Environments { matrix: None, reference: Environment::SERVED, max_tokens: 32 }
    }
}

impl Environments {
    /// The matrix, the reference first, and what was left out of the default one.
    fn resolve(&self, language: &Language, room: usize) -> (Vec<Environment>, Vec<String>) {
        let (mut matrix, mut left_out) = (vec![self.reference], Vec::new());
        let mut add = |environment: Environment| {
            if !matrix.contains(&environment) {
                matrix.push(environment);
            }
        };
        if let Some(asked) = &self.matrix {
            asked.iter().for_each(|&environment| add(environment));
            return (matrix, left_out);
        }
        let served = Environment::SERVED;
        add(served);
        for kind in [Stored::F32, Stored::Bf16, Stored::Q8_0, Stored::Q4_0, Stored::Q4K] {
            match impossible(language, kind, room) {
                None => add(Environment { weights: Weights::Stored(kind), ..served }),
                Some(Impossible::Ever(why)) => left_out.push(format!("{NONE_SUCH}{}: {why}", kind.name())),
                Some(Impossible::Now(why)) => left_out.push(format!("{LEFT_OUT}{}: {why}", kind.name())),
            }
        }
        add(Environment { together: 1, ..served });
        add(Environment { way: Way::Steps, writer: Writer::Engine, ..served });
        for &path in cpu::available().iter().filter(|&&path| path != cpu::path()) {
            add(Environment { path: Some(path), ..served });
        }
        (matrix, left_out)
    }
}

/// Why weights of a type cannot be made of a version's files.
enum Impossible {
    /// Of this model, on any machine.
    Ever(String),
    /// Here and now.
    Now(String),
}

impl Impossible {
    fn why(self) -> String {
        let (Impossible::Ever(why) | Impossible::Now(why)) = self;
        why
    }
}

/// Why weights of this type cannot be made of a version's files; None where they can.
fn impossible(language: &Language, kind: Stored, room: usize) -> Option<Impossible> {
    let (mut n_fit, mut n, mut bytes) = (0, 0, 0);
    for (rows, k) in matrices(&language.model) {
        n += 1;
        n_fit += usize::from(kind.row_bytes(k).is_some());
        bytes += rows * k.div_ceil(kind.block_len()) * kind.block_bytes();
    }
    if n_fit == 0 {
        let block = kind.block_len();
        let why = format!("none of its {n} matrices has rows of whole blocks of {block} numbers");
        return Some(Impossible::Ever(why));
    }
    (bytes > room).then(|| {
        Impossible::Now(format!(
            "its weights would take {bytes} bytes beside what is loaded, and {room} are left"
        ))
    })
}

/// Rows and their lengths of a model's matrices.
fn matrices(model: &Model) -> impl Iterator<Item = (usize, usize)> {
    model.params.ids().filter_map(|id| model.params.stored(id)).map(|weight| (weight.n(), weight.k()))
}

/// Refuses what the model or the texts do not allow.
///
/// # Errors
/// A type that the files cannot give, answers that have no room.
pub(super) fn judge(
    service: &Service,
    language: &Language,
    asked: &Environments,
    texts: &[Read],
) -> Result<(), ServiceError> {
    let context = service.engine().positions_max(&language.model).unwrap_or(usize::MAX);
    for (i, text) in texts.iter().enumerate() {
        if text.prompt.len() + asked.max_tokens > context {
            let message = format!(
                "text {i} has {} tokens, and {} more are more than the context of {context}: ask for fewer",
                text.prompt.len(),
                asked.max_tokens
            );
            return Err(ServiceError::invalid("max_tokens", "context_length_exceeded", message));
        }
    }
    let room = service.language_room();
    let (matrix, _) = asked.resolve(language, room);
    for environment in matrix {
        let why = match environment.weights {
            Weights::Served => None,
            Weights::Stored(kind) => impossible(language, kind, room).map(Impossible::why),
        };
        if let Some(why) = why {
            let message = format!("{}: {why}", environment.name());
            return Err(ServiceError::unsupported("matrix", "unsupported_method", message));
        }
    }
    Ok(())
}

/// The most passes of a run: each text read once an environment and once by the reference beside each type of weights,
/// and every answer to its last token. Weights for which there is no memory now may have it when the run begins.
pub(super) fn passes_most(
    (asked, language): (&Environments, &Language),
    engine: &Engine,
    texts: &[Read],
) -> u64 {
    let (matrix, _) = asked.resolve(language, usize::MAX);
    let standard = asked.reference.setting(engine);
    let mut weights: Vec<Weights> = Vec::new();
    let mut most = 0u64;
    for environment in &matrix {
        let own = environment.setting(engine);
        let is_new = !weights.contains(&environment.weights);
        weights.extend(is_new.then_some(environment.weights));
        for Read { prompt, scored } in texts {
            let read = own.passes_most(scored.ids.len())
                + if is_new { standard.passes_most(scored.ids.len()) } else { 0 };
            let answered = match (asked.max_tokens, environment.writer) {
                (0, _) => 0,
                (n, Writer::Own) => own.passes_most(prompt.len()) + n as u64,
                (n, Writer::Engine) => 1 + n as u64,
            };
            most = most.saturating_add(read + answered);
        }
    }
    most
}

/// What a run has at hand.
pub(super) struct Bench {
    pub language: Arc<Language>,
    pub texts: Arc<Vec<Read>>,
    pub engine: Engine,
    pub tenant: Tenant,
    /// Memory for weights of other types.
    pub room: usize,
}

pub(super) struct Found {
    pub findings: Vec<Finding>,
    pub left_out: Vec<String>,
}

/// Weights of one type, and what is to be said of them.
struct Made {
    model: Arc<Model>,
    doubts: Vec<String>,
}

/// Compares the environments. One further type of weights is in memory at a time, beside the reference's.
///
/// # Errors
/// The version's files, the end of the time.
pub(super) fn run(bench: &Bench, asked: &Environments, control: &Control) -> Result<Found, ServiceError> {
    let (matrix, left_out) = asked.resolve(&bench.language, bench.room);
    let reference = matrix[0];
    let scored: Vec<Scored> = bench.texts.iter().map(|text| text.scored.clone()).collect();
    let first = bench.make(reference.weights, control)?;
    let standard = (bench.reader(&first.model, control), reference.setting(&bench.engine));
    let standard_name = reference.name();
    let mut by_place: Vec<Vec<Finding>> = vec![Vec::new(); matrix.len()];
    let theirs = bench.answers(&first.model, reference, asked.max_tokens, control)?;
    let mut done: Vec<Weights> = Vec::new();
    for &Environment { weights, .. } in &matrix {
        if done.contains(&weights) {
            continue;
        }
        done.push(weights);
        let other = if weights == reference.weights { None } else { Some(bench.make(weights, control)?) };
        let made = other.as_ref().unwrap_or(&first);
        let own = bench.reader(&made.model, control);
        let places: Vec<usize> = (0..matrix.len()).filter(|&i| matrix[i].weights == weights).collect();
        let mut into: Vec<(Setting, Divergence)> =
            places.iter().map(|&i| (matrix[i].setting(&bench.engine), Divergence::default())).collect();
        reading::diverge(standard, own, &scored, &mut into).map_err(refused)?;
        for (&i, (_, divergence)) in places.iter().zip(&into) {
            let name = matrix[i].name();
            by_place[i] = distances((&name, &standard_name), divergence, &made.doubts)?;
            if asked.max_tokens > 0 {
                let ours = match matrix[i] == reference {
                    true => theirs.clone(),
                    false => bench.answers(&made.model, matrix[i], asked.max_tokens, control)?,
                };
                by_place[i].extend(answered((&name, &standard_name), asked.max_tokens, &theirs, &ours)?);
            }
        }
    }
    Ok(Found { findings: by_place.concat(), left_out })
}

impl Bench {
    fn reader<'m>(&'m self, model: &'m Model, control: &'m Control) -> Reader<'m> {
        let adapter = self.language.added.as_ref().map(|added| &*added.adapter);
        Reader { model, adapter, control }
    }

    fn make(&self, weights: Weights, control: &Control) -> Result<Made, ServiceError> {
        let language = &self.language;
        let Weights::Stored(kind) = weights else {
            return Ok(Made { model: language.model.clone(), doubts: Vec::new() });
        };
        let damaged = |source: Box<dyn std::error::Error + Send + Sync>| ServiceError::Damaged {
            id: language.version.id(),
            source,
        };
        let (dir, manifest): (KeyedPath, _) = match &language.added {
            None => (language.version.dir.clone(), language.manifest.clone()),
            Some(added) => (added.base.dir.clone(), read_manifest(&added.base)?),
        };
        let owner = language.added.as_ref().map_or(&language.version, |added| &added.base);
        check_files(owner, &manifest).map_err(damaged)?;
        let kinds = open::kinds_of_matrices(&dir).map_err(|error| damaged(error.into()))?;
        let layout = open::Layout { quant: Some(kind), context: Some(manifest.context as usize) };
        let opened = open::folder(&dir, layout, control).map_err(|error| damaged(error.into()))?;
        Ok(Made { doubts: doubts(kind, &kinds, &opened.model), model: Arc::new(opened.model) })
    }

    fn answers(
        &self,
        model: &Arc<Model>,
        environment: Environment,
        n_tokens_max: usize,
        control: &Control,
    ) -> Result<Vec<Vec<u32>>, ServiceError> {
        if n_tokens_max == 0 {
            return Ok(Vec::new());
        }
        let tokenizer = &self.language.words.tokenizer;
        let never: Vec<u32> = (tokenizer.vocab_size() as u32..model.shape.output.width() as u32).collect();
        let prompts: Vec<&[u32]> = self.texts.iter().map(|text| &text.prompt[..]).collect();
        let greedy = Greedy { n_tokens_max, ends: tokenizer.ends(), never: &never };
        match environment.writer {
            Writer::Own => self
                .reader(model, control)
                .answers(environment.setting(&self.engine), &prompts, greedy)
                .map_err(refused),
            Writer::Engine => self.streamed(&prompts, greedy, control),
        }
    }

    /// Answers as the engine streams them, a few at a time.
    fn streamed(
        &self,
        prompts: &[&[u32]],
        greedy: Greedy<'_>,
        control: &Control,
    ) -> Result<Vec<Vec<u32>>, ServiceError> {
        let mut answers = vec![Vec::new(); prompts.len()];
        let gone = Gone(Arc::default());
        for (first, group) in prompts.chunks(STREAMS).enumerate().map(|(i, group)| (i * STREAMS, group)) {
            let (sender, receiver) = mpsc::channel();
            for (i, prompt) in group.iter().enumerate() {
                let sender = sender.clone();
                let sink = Box::new(move |event| match sender.send((first + i, event)) {
                    Ok(()) => Flow::Continue,
                    Err(_) => Flow::Stop,
                });
                let request = GenerateRequest {
                    adapter: self.language.added.as_ref().map(|added| added.adapter.clone()),
                    end_tokens: greedy.ends.to_vec(),
                    never_tokens: greedy.never.to_vec(),
                    tenant: self.tenant,
                    priority: Priority::Batch,
                    cancelled: Some(gone.0.clone()),
                    ..GenerateRequest::new(
                        self.language.model.clone(),
                        prompt.to_vec(),
                        greedy.n_tokens_max,
                        sink,
                    )
                };
                self.engine.generate(request).map_err(crate::refused)?;
            }
            drop(sender);
            let mut n_open = group.len();
            while n_open > 0 {
                control.check().map_err(|_| ServiceError::DeadlinePassed)?;
                match receiver.recv_timeout(Duration::from_millis(200)) {
                    Ok((i, Event::Token(token))) => answers[i].push(token.id),
                    Ok((i, Event::Done(_))) => {
                        control.spend(1 + answers[i].len() as u64);
                        n_open -= 1;
                    }
                    Ok((_, Event::Failed(error))) => return Err(crate::refused(error)),
                    Ok((_, Event::Prompt(_))) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(crate::refused(lyceum_engine::EngineError::Stopped));
                    }
                }
            }
        }
        Ok(answers)
    }
}

/// Ends the sequences whose answers nobody waits for any more.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What is to be said of weights of a type that were made of a file's.
fn doubts(kind: Stored, of_file: &[Stored], made: &Model) -> Vec<String> {
    let rounded: Vec<&str> =
        of_file.iter().filter(|k| k.block_len() > 1 && **k != kind).map(|k| k.name()).collect();
    let mut doubts = Vec::new();
    if !rounded.is_empty() {
        let from = rounded.join(", ");
        doubts.push(match kind.block_len() {
            1 => format!("dequantised from {from}: what was rounded away before is in no file"),
            _ => format!("quantised a second time, from {from}"),
        });
    }
    let stored: Vec<_> = made.params.ids().filter_map(|id| made.params.stored(id)).collect();
    let others = stored.iter().filter(|weight| weight.kind() != kind);
    let n_others = others.clone().count();
    if let Some(other) = others.into_iter().next() {
        doubts.push(format!(
            "{n_others} of {} matrices have rows that are no whole blocks of {} and became {}",
            stored.len(),
            kind.block_len(),
            other.kind().name()
        ));
    }
    doubts
}

/// Of one environment, beside another that is named in what was done.
fn distances(
    (name, beside): (&str, &str),
    divergence: &Divergence,
    doubts: &[String],
) -> Result<Vec<Finding>, ServiceError> {
    let found = divergence.distance().map_err(refused)?;
    let number = |metric: &'static str, value: f64, budget: String| Finding {
        metric,
        method: "environment".into(),
        setting: name.to_owned(),
        value,
        ci95: None,
        n: found.agreement.n,
        budget,
        flags: doubts.to_vec(),
    };
    let bits = if found.identical { "the same bits" } else { "other bits" };
    let mut agreement = Finding::share("agreement", "environment", &found.agreement)
        .setting(name)
        .budget(format!("likeliest token at places of the texts, beside {beside}; {bits}"));
    agreement.flags = doubts.to_vec();
    agreement.flags.push("places of one text depend on each other: the interval is too narrow".into());
    let mut all = vec![
        agreement,
        number("kl_mean", found.kl_mean, format!("nats, from {beside}")),
        number("kl_max", found.kl_max, format!("nats, from {beside}")),
        number(
            "logprob_difference_max",
            found.logprob_max,
            format!("nats, over the whole vocabulary, from {beside}"),
        ),
    ];
    if let Some([own, theirs]) = found.perplexity {
        all.push(number("perplexity", own, format!("of the texts' own tokens; {beside} has {theirs:.4}")));
    }
    if let Some([own, theirs]) = found.ece {
        all.push(number("ece", own, format!("15 bins, of the likeliest token; {beside} has {theirs:.4}")));
    }
    Ok(all)
}

fn answered(
    (name, beside): (&str, &str),
    n_tokens_max: usize,
    theirs: &[Vec<u32>],
    ours: &[Vec<u32>],
) -> Result<Vec<Finding>, ServiceError> {
    let pairs = || theirs.iter().zip(ours);
    let n: usize = pairs().map(|(a, b)| a.len().max(b.len())).sum();
    let same: usize = pairs().map(|(a, b)| a.iter().zip(b).filter(|(a, b)| a == b).count()).sum();
    let whole = pairs().filter(|(a, b)| a == b).count();
    let budget = format!("likeliest tokens, {n_tokens_max} at most, beside {beside}");
    let mut all = Vec::new();
    // Answers that all end at once have no token.
    if n > 0 {
        let tokens = share(same as u64, n as u64).map_err(refused)?;
        let mut tokens =
            Finding::share("answer_agreement", "environment", &tokens).setting(name).budget(&*budget);
        tokens.flags.push("tokens behind a difference follow from it: the interval is too narrow".into());
        all.push(tokens);
    }
    let answers = share(whole as u64, theirs.len() as u64).map_err(refused)?;
    all.push(Finding::share("same_answers", "environment", &answers).setting(name).budget(budget));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_parts_is_counted_by_its_tokens_and_as_a_whole() {
        let theirs = [vec![1, 2, 3], vec![4, 5], vec![]];
        let ours = [vec![1, 2, 3], vec![4, 6, 7], vec![]];
        let found = answered(("e", "r"), 3, &theirs, &ours).unwrap();
        assert_eq!((found[0].value, found[0].n), (4.0 / 6.0, 6));
        assert_eq!((found[1].value, found[1].n), (2.0 / 3.0, 3));
        assert!(answered(("e", "r"), 3, &[], &[]).is_err());
        let silent = answered(("e", "r"), 3, &[vec![]], &[vec![]]).unwrap();
        assert_eq!((silent.len(), silent[0].metric), (1, "same_answers"));
    }

    #[test]
    fn environments_are_called_by_what_differs() {
        let served = Environment::SERVED;
        let own = cpu::path().name();
        assert_eq!(served.name(), format!("served {own} batch:8"));
        let weights = Weights::Stored(Stored::Q8_0);
        let kv = Some(KvStorage::Int8);
        let other = Environment { weights, kv, together: 1, path: Some(CpuPath::Portable), ..served };
        assert_eq!(other.name(), "q8_0 portable batch:1 kv:int8");
        assert_eq!(Environment { writer: Writer::Engine, ..served }.name(), format!("served {own} streamed"));
    }
}

//! One line of a batch: it waits for its places, is asked as its route would be, and becomes a line of a file.

use super::lines::{Asked, Line};
use super::{Endpoint, RequestCounts, Usage};
use crate::meter::Attempt;
use crate::receipts::{self, Ended, Hash, Origin, Witness};
use crate::{Payer, Service, ServiceError};
use futures_util::future::BoxFuture;
use lyceum_store::batches::{Done, To};
use lyceum_store::ledger::Outcome;
use lyceum_store::vault::Contents;
use lyceum_types::ids::{BatchId, KeyId, Project};
use lyceum_types::limits;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// What the door is given to ask.
#[derive(Clone, Debug)]
pub struct Asking {
    pub project: Project,
    pub key: KeyId,
    pub payer: Payer,
    pub endpoint: Endpoint,
    /// JSON, as the route takes it.
    pub body: Vec<u8>,
}

/// What its route answered.
#[derive(Clone, Debug)]
pub struct Answered {
    pub status: u16,
    /// JSON on one line.
    pub body: String,
    /// It may pass after this time.
    pub retry_after: Option<Duration>,
}

/// The door's side: asks what a route would be asked. Panics become answers.
pub trait Answers: Send + Sync + 'static {
    fn answer(&self, asking: Asking) -> BoxFuture<'static, Answered>;
}

/// Places of lines that are under way.
#[derive(Default)]
pub(super) struct Places {
    projects: Mutex<HashMap<Project, Arc<Semaphore>>>,
    all: Mutex<Option<Arc<Semaphore>>>,
}

impl Places {
    /// No project holds more of all places than its own; whoever waits for one gets it in turn.
    fn of(&self, project: &Project) -> (Arc<Semaphore>, Arc<Semaphore>) {
        let mut projects = self.projects.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let own = || Arc::new(Semaphore::new(limits::BATCH_LINES_OF_PROJECT_AT_ONCE));
        let own = projects.entry(project.clone()).or_insert_with(own).clone();
        let mut all = self.all.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let all = all.get_or_insert_with(|| Arc::new(Semaphore::new(limits::BATCH_LINES_OF_ALL_AT_ONCE)));
        (own, all.clone())
    }
}

/// What the lines of one batch share.
pub(super) struct Asker {
    pub answers: Arc<dyn Answers>,
    pub places: Arc<Places>,
    pub project: Project,
    pub key: KeyId,
    pub id: BatchId,
    pub endpoint: Endpoint,
    pub input: Arc<Contents>,
    /// Who makes receipts; None: none is wanted.
    pub receipts: Option<Arc<Service>>,
    pub phase: watch::Receiver<Phase>,
    /// How long a file of the batch is kept.
    pub file_kept: Duration,
}

/// What becomes of the lines of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// They are begun.
    Open,
    /// None is begun any more; those under way may end.
    Ending,
    /// What is not answered is dropped; what is answered is written.
    Over,
}

impl Phase {
    pub(super) fn of(is_ending: bool, is_over: bool) -> Phase {
        match (is_ending, is_over) {
            (_, true) => Phase::Over,
            (true, false) => Phase::Ending,
            (false, false) => Phase::Open,
        }
    }
}

/// The requests of a batch begin so in the ledger; no other's do.
pub(super) fn request_prefix(id: &BatchId) -> String {
    format!("req_{}-", digits(id))
}

fn digits(id: &BatchId) -> &str {
    id.as_str().trim_start_matches("batch_")
}

/// What the ledger knows of the lines of a batch.
pub(super) fn attempts(prefix: &str, entries: &[(String, Outcome)]) -> HashMap<u64, Attempt> {
    let mut attempts: HashMap<u64, Attempt> = HashMap::new();
    for (id, outcome) in entries {
        let Some(rest) = id.strip_prefix(prefix) else { continue };
        let (base, number) = rest.split_once('~').unwrap_or((rest, "0"));
        let line = base.split('.').next().unwrap_or_default();
        let (Ok(line), Ok(number)) = (line.parse(), number.parse::<u32>()) else { continue };
        let attempt = attempts.entry(line).or_default();
        match outcome {
            // It has an entry that costs nothing: the next attempt has another.
            Outcome::Failed => attempt.number = attempt.number.max(number + 1),
            _ => drop(attempt.paid.insert(format!("{prefix}{base}"))),
        }
    }
    attempts
}

impl Asker {
    /// Asks a line until it is answered; `None` where the batch ended before it was.
    pub async fn ask(&self, line: Line, mut attempt: Attempt) -> Option<Result<Done, ServiceError>> {
        let (own, all) = self.places.of(&self.project);
        let _own = self.unless_ending(own.acquire_owned()).await?;
        let (body, asked) = match read(self.input.clone(), &line).await {
            Ok(read) => read,
            Err(error) => return Some(Err(error)),
        };
        let request = format!("{}{}", request_prefix(&self.id), line.number);
        let mut n_not_ready = 0;
        loop {
            let origin = Origin {
                request: attempt_id(&request, &attempt),
                route: self.endpoint.as_str().to_owned(),
                asked: asked.clone(),
            };
            let witness = self.receipts.as_ref().map(|_| Witness::new(self.project.clone(), origin));
            let answered = {
                let _place = self.unless_ending(all.clone().acquire_owned()).await?;
                let (project, key) = (self.project.clone(), self.key.clone());
                let billed = (request.clone(), attempt.clone());
                let payer = Payer::of_line(project.clone(), key.clone(), self.endpoint.as_str(), billed);
                let endpoint = self.endpoint;
                let asking =
                    self.answers.answer(Asking { project, key, payer, endpoint, body: body.clone() });
                match &witness {
                    Some(witness) => {
                        self.before(Phase::Over, receipts::scope(witness.clone(), asking)).await?
                    }
                    None => self.before(Phase::Over, asking).await?,
                }
            };
            n_not_ready += u32::from(answered.status == 503);
            match answered.retry_after {
                Some(after) if n_not_ready < limits::BATCH_NOT_READY_ATTEMPTS_MAX => {
                    attempt.number += 1;
                    let after = after.clamp(Duration::from_millis(20), Duration::from_secs(60));
                    self.unless_ending(tokio::time::sleep(after)).await?;
                }
                _ => {
                    // It is paid for: no phase ends it from here on.
                    let receipt = self.receipt(&line, witness.as_deref(), &answered).await;
                    let request = attempt_id(&request, &attempt);
                    return Some(Ok(done(&self.id, &line, &request, (&answered, receipt.as_ref()))));
                }
            }
        }
    }

    /// The receipt of what a line was answered; its answer lies in the batch's files. None where none is wanted, and
    /// where it cannot be made: the answer is there all the same.
    async fn receipt(&self, line: &Line, witness: Option<&Witness>, answered: &Answered) -> Option<Value> {
        let (service, witness) = (self.receipts.as_ref()?, witness?);
        let id = line_id(&self.id, line);
        witness.kept_in_file("batch_line", &id, (service, self.file_kept));
        let (status, answered) = (answered.status, Hash::of(answered.body.as_bytes()));
        match receipts::issue(service, witness, Ended { status, answered, replayed: false }).await {
            Ok(receipt) => Some(receipt),
            Err(error) => {
                tracing::error!(%error, id, "a line of a batch has no receipt");
                None
            }
        }
    }

    async fn unless_ending<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        self.before(Phase::Ending, wait).await
    }

    /// What `wait` gives, unless the batch is in `phase` before.
    async fn before<T>(&self, phase: Phase, wait: impl Future<Output = T>) -> Option<T> {
        let mut now = self.phase.clone();
        tokio::select! {
            biased;
            _ = now.wait_for(|now| *now >= phase) => None,
            waited = wait => Some(waited),
        }
    }
}

/// The id of an attempt as the ledger has it.
fn attempt_id(request: &str, attempt: &Attempt) -> String {
    match attempt.number {
        0 => request.to_owned(),
        number => format!("{request}~{number}"),
    }
}

/// The body of a line, and the hash of the line as it stands in its file.
async fn read(input: Arc<Contents>, line: &Line) -> Result<(Vec<u8>, Hash), ServiceError> {
    let (at, n) = (line.at, line.bytes as usize);
    let read = tokio::task::spawn_blocking(move || {
        let mut text = vec![0; n];
        input.read_exact_at(at, &mut text).map(|()| text)
    });
    let text = read.await.map_err(|error| ServiceError::internal("reading a line broke off", error))?;
    let text = text.map_err(|error| ServiceError::internal("reading a line of a batch", error))?;
    let hash = Hash::of(&text);
    let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&text);
    let asked: Asked = serde_json::from_slice(text)
        .map_err(|error| ServiceError::internal("a line was judged and cannot be read", error))?;
    Ok((serde_json::to_vec(&asked.body).expect("a body is plain data: bug"), hash))
}

/// The id of a line among all lines of all batches.
fn line_id(id: &BatchId, line: &Line) -> String {
    format!("batch_req_{}{:08x}", digits(id), line.number)
}

fn done(id: &BatchId, line: &Line, request: &str, (answered, receipt): (&Answered, Option<&Value>)) -> Done {
    if answered.status == 504 {
        return undone(id, line, "request_timeout", "The request took longer than it may.");
    }
    let (id, custom_id) = (Value::from(line_id(id, line)), Value::from(line.custom_id.as_str()));
    let Answered { status, body, .. } = answered;
    // Behind what clients of batches know.
    let receipt = receipt.map_or_else(String::new, |receipt| format!(",\"privacy_receipt\":{receipt}"));
    // The body is what the route answered, byte for byte.
    let json = format!(
        "{{\"id\":{id},\"custom_id\":{custom_id},\"response\":{{\"status_code\":{status},\"request_id\":\"{request}\",\
         \"body\":{body}}},\"error\":null{receipt}}}"
    );
    let to = if (200..300).contains(status) { To::Output } else { To::Errors };
    Done { number: line.number, to, json }
}

/// A line that has no answer, and why.
pub(super) fn undone(id: &BatchId, line: &Line, code: &str, message: &str) -> Done {
    let error = json!({ "code": code, "message": message });
    let json = json!({
        "id": line_id(id, line), "custom_id": line.custom_id, "response": null, "error": error,
    });
    Done { number: line.number, to: To::Errors, json: json.to_string() }
}

/// Counts a line that is done.
pub(super) fn count(done: &Done, counts: &mut RequestCounts, usage: &mut Usage) {
    #[derive(Deserialize)]
    struct Told {
        response: Option<Response>,
        error: Option<BTreeMap<String, String>>,
    }
    #[derive(Deserialize)]
    struct Response {
        body: Body,
    }
    #[derive(Deserialize)]
    struct Body {
        usage: Option<Value>,
    }
    let Ok(told) = serde_json::from_str::<Told>(&done.json) else { return };
    if told.error.is_some_and(|error| error.get("code").is_some_and(|code| code.starts_with("batch_"))) {
        // It was never asked.
        return;
    }
    match done.to {
        To::Output => counts.completed += 1,
        To::Errors => counts.failed += 1,
    }
    let Some(told) = told.response.and_then(|response| response.body.usage) else { return };
    // Chats and completions call them so, responses otherwise.
    let number = |paths: [&str; 2]| {
        paths.into_iter().find_map(|path| told.pointer(path).and_then(Value::as_u64)).unwrap_or(0)
    };
    usage.input_tokens += number(["/prompt_tokens", "/input_tokens"]);
    usage.output_tokens += number(["/completion_tokens", "/output_tokens"]);
    usage.cached_tokens +=
        number(["/prompt_tokens_details/cached_tokens", "/input_tokens_details/cached_tokens"]);
    usage.reasoning_tokens +=
        number(["/completion_tokens_details/reasoning_tokens", "/output_tokens_details/reasoning_tokens"]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_paid_for_is_known_and_what_failed_is_asked_under_another_id() {
        let prefix = "req_ab-";
        let entry = |id: &str, outcome| (format!("{prefix}{id}"), outcome);
        let entries = [
            entry("1", Outcome::Completed),
            entry("2", Outcome::Failed),
            entry("2~1", Outcome::Failed),
            entry("3", Outcome::Failed),
            entry("3~1", Outcome::Completed),
            entry("3.1~1", Outcome::TimedOut),
        ];
        let found = attempts(prefix, &entries);
        let paid = |line: u64| found[&line].paid.iter().map(String::as_str).collect::<Vec<_>>();
        assert_eq!((found[&1].number, paid(1)), (0, vec!["req_ab-1"]));
        assert_eq!((found[&2].number, paid(2)), (2, vec![]));
        assert_eq!((found[&3].number, paid(3)), (1, vec!["req_ab-3", "req_ab-3.1"]));
    }

    #[test]
    fn answers_of_every_route_are_counted_and_lines_that_were_not_asked_are_not() {
        let line = Line { number: 1, at: 0, bytes: 0, custom_id: "a\"b".into(), model: "m".into() };
        let id = BatchId::from_bits(1);
        let (mut counts, mut usage) = (RequestCounts::default(), Usage::default());
        let answer = |status, body: Value| Answered { status, body: body.to_string(), retry_after: None };
        let chat = json!({"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}});
        let response = json!({"usage": {"input_tokens": 7, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}}});
        for answered in [
            answer(200, chat),
            answer(200, response),
            answer(400, json!({"error": {}})),
            answer(504, json!({})),
        ] {
            let done = done(&id, &line, "req_x-1", (&answered, None));
            let told: Value = serde_json::from_str(&done.json).unwrap();
            assert_eq!(told["custom_id"], "a\"b");
            assert_eq!(told["response"].is_null(), answered.status == 504);
            count(&done, &mut counts, &mut usage);
        }
        count(&undone(&id, &line, "batch_expired", "late"), &mut counts, &mut usage);
        assert_eq!(counts, RequestCounts { total: 0, completed: 2, failed: 2 });
        let expected = Usage { input_tokens: 12, cached_tokens: 1, output_tokens: 5, reasoning_tokens: 2 };
        assert_eq!(usage, expected);
    }
}

//! Answers batches: takes up those that nobody works on, and brings each to its end.
//!
//! A batch is worked on by the process that holds its lock; what a process leaves is taken up by the next one. Of one
//! project a few batches are worked on at once, the others wait as `validating`.

pub use super::ask::{Answered, Answers, Asking};

use super::ask::{Asker, Phase, Places, attempts, count, request_prefix, undone};
use super::lines::{Line, judge};
use super::{Batch, Problem, Status, of_row};
use crate::{Service, ServiceError};
use lyceum_store::batches::{self, Done, Progress, Row, To};
use lyceum_store::data_files::{self, Incoming, NewFile, Room};
use lyceum_store::ledger::entries;
use lyceum_store::{StoreError, WorkLock};
use lyceum_train::data::report::{Issue, Place, Report};
use lyceum_types::clock::Timestamp;
use lyceum_types::ids::{BatchId, FileId, ModelRef, Project};
use lyceum_types::limits;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

/// Works until `stopping`; lines under way then have a moment to end. Dropped, it leaves everything as it is.
pub async fn run(service: Arc<Service>, answers: Arc<dyn Answers>, stopping: watch::Receiver<bool>) {
    let places = Arc::new(Places::default());
    let mut working = JoinSet::new();
    let mut live: HashMap<Id, (Project, BatchId)> = HashMap::new();
    let mut stopped = stopping.clone();
    loop {
        while let Some(joined) = working.try_join_next_with_id() {
            live.remove(&joined.map_or_else(|error| error.id(), |(id, ())| id));
        }
        match free(&service, &live).await {
            Ok(free) => {
                for (row, lock) in free {
                    let (project, id) = (row.project.clone(), row.id.clone());
                    let desk = Desk {
                        service: service.clone(),
                        answers: answers.clone(),
                        places: places.clone(),
                        stopping: stopping.clone(),
                    };
                    let task = working.spawn(async move { desk.work(row, lock).await });
                    live.insert(task.id(), (project, id));
                }
            }
            Err(error) => tracing::warn!(%error, "batches could not be looked for"),
        }
        let wanted = tokio::time::timeout(limits::BATCHES_LOOK_EVERY, service.batches_wanted.notified());
        tokio::select! {
            _ = wanted => {}
            _ = stopped.wait_for(|stopping| *stopping) => break,
        }
    }
    while working.join_next().await.is_some() {}
}

/// Batches that nobody works on and that may be worked on now.
async fn free(
    service: &Service,
    live: &HashMap<Id, (Project, BatchId)>,
) -> Result<Vec<(Row, WorkLock)>, ServiceError> {
    let mut of_project: HashMap<Project, usize> = HashMap::new();
    live.values().for_each(|(project, _)| *of_project.entry(project.clone()).or_default() += 1);
    let known: HashSet<&BatchId> = live.values().map(|(_, id)| id).collect();
    let mut free = Vec::new();
    for row in batches::unfinished(service.store()).await? {
        let n = of_project.entry(row.project.clone()).or_default();
        // One that is to end needs no place.
        let is_ending = row.status == Status::Cancelling.as_str();
        if known.contains(&row.id) || (*n >= limits::BATCHES_OF_PROJECT_AT_ONCE && !is_ending) {
            continue;
        }
        if let Some(lock) = batches::own(service.store(), &row.project, &row.id)? {
            *n += 1;
            free.push((row, lock));
        }
    }
    Ok(free)
}

struct Desk {
    service: Arc<Service>,
    answers: Arc<dyn Answers>,
    places: Arc<Places>,
    stopping: watch::Receiver<bool>,
}

/// Why no further line of a batch is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Cancelled,
    Expired,
    /// The process ends; the batch goes on in the next one.
    Stopped,
}

impl Desk {
    async fn work(&self, row: Row, _lock: WorkLock) {
        let (project, id) = (row.project, row.id);
        if let Err(error) = self.bring_to_an_end(&project, &id).await {
            let mut cause: &dyn std::error::Error = &error;
            let mut text = error.to_string();
            while let Some(next) = cause.source() {
                text = format!("{text}: {next}");
                cause = next;
            }
            tracing::error!(error = text, id = id.as_str(), "a batch waits: it is tried again");
            let mut stopping = self.stopping.clone();
            let _ = tokio::time::timeout(limits::BATCH_PAUSE, stopping.wait_for(|stopping| *stopping)).await;
        }
    }

    async fn bring_to_an_end(&self, project: &Project, id: &BatchId) -> Result<(), ServiceError> {
        let store = self.service.store();
        // As it is now that nobody else works on it.
        let mut batch = of_row(&batches::find(store, project, id).await?)?;
        let lines = match batch.status {
            Status::Validating | Status::InProgress | Status::Cancelling => {
                let Some(lines) = self.lines(project, id, &mut batch).await? else { return Ok(()) };
                lines
            }
            _ => Vec::new(),
        };
        if matches!(batch.status, Status::InProgress | Status::Cancelling) {
            let ending = self.answer(project, id, (&mut batch, &lines)).await?;
            if ending == Some(Ending::Stopped) {
                return Ok(());
            }
            self.choose_end(project, &mut batch, ending).await?;
        }
        if matches!(batch.status, Status::Finalizing | Status::Cancelling) {
            self.make_files(project, id, &mut batch).await?;
        }
        let (store, project, id) = (store.clone(), project.clone(), id.clone());
        blocking(move || Ok(batches::remove(&store, &project, &id)?)).await
    }

    /// The lines; a batch that was being validated is in progress then, or cancelling. `None`: its file is wrong.
    async fn lines(
        &self,
        project: &Project,
        id: &BatchId,
        batch: &mut Batch,
    ) -> Result<Option<Vec<Line>>, ServiceError> {
        let contents = batches::input(self.service.store(), project, id)?;
        let (shown, endpoint) = (batch.input_file_id.clone(), batch.endpoint);
        let (lines, mut report) = blocking(move || judge(&contents, &shown, Some(endpoint))).await?;
        if batch.status != Status::Validating {
            return Ok(Some(lines));
        }
        self.judge_models(project, &lines, &mut report).await?;
        let now = Some(Timestamp::now().seconds());
        if report.is_empty() {
            batch.request_counts.total = lines.len() as u64;
            let first = lines.first().map(|line| line.model.clone());
            batch.model = first.filter(|first| lines.iter().all(|line| line.model == *first));
            (batch.status, batch.in_progress_at) = (Status::InProgress, now);
        } else {
            batch.errors = problems(&report);
            (batch.status, batch.failed_at) = (Status::Failed, now);
        }
        if !self.replace(project, batch, Status::Validating).await? {
            // Cancelled meanwhile.
            self.read_again(project, id, batch).await?;
            batch.request_counts.total = if report.is_empty() { lines.len() as u64 } else { 0 };
            return Ok(Some(lines));
        }
        if batch.status == Status::Failed {
            let (store, project, id) = (self.service.store().clone(), project.clone(), id.clone());
            blocking(move || Ok(batches::remove(&store, &project, &id)?)).await?;
            return Ok(None);
        }
        Ok(Some(lines))
    }

    async fn judge_models(
        &self,
        project: &Project,
        lines: &[Line],
        report: &mut Report,
    ) -> Result<(), ServiceError> {
        let mut wrong: HashMap<&str, Option<(&str, String)>> = HashMap::new();
        for line in lines {
            if !wrong.contains_key(line.model.as_str()) {
                let found = match line.model.parse::<ModelRef>() {
                    Err(error) => Some(("invalid_model", error.to_string())),
                    Ok(reference) => match self.service.resolve(project, &reference).await {
                        Ok(_) => None,
                        Err(
                            error
                            @ (ServiceError::ModelNotFound { .. } | ServiceError::ModelForbidden { .. }),
                        ) => Some(("model_not_found", error.to_string())),
                        Err(error) => return Err(error),
                    },
                };
                wrong.insert(&line.model, found);
            }
            if let Some((code, message)) = &wrong[line.model.as_str()] {
                let issue = Issue::new("", code, message.clone(), "name a model of GET /v1/models");
                report.push(issue.at(Place::Line(line.number)).pointer("/body/model"));
            }
        }
        Ok(())
    }

    /// Asks every line that has no answer yet, until all have one or the batch is to end.
    async fn answer(
        &self,
        project: &Project,
        id: &BatchId,
        (batch, lines): (&mut Batch, &[Line]),
    ) -> Result<Option<Ending>, ServiceError> {
        let (mut progress, mut answered) = self.replay(project, id, batch).await?;
        // What dead processes settled is in the ledger before it is asked what is paid for.
        self.service.ledger().settle_for_the_gone().await?;
        let prefix = request_prefix(id);
        let mut known = attempts(&prefix, &entries::of_requests(self.service.store(), &prefix).await?);
        let (phase, phases) = watch::channel(Phase::Open);
        let asker = Arc::new(self.asker(project, id, (batch, phases)).await?);
        let mut waiting =
            lines.iter().rev().filter(|line| !answered.contains(&line.number)).collect::<Vec<_>>();
        // Each line goes on by itself while this one writes: it may hold the connection that the writing waits for.
        let mut under_way = JoinSet::new();
        let mut ends: Option<(Ending, Instant)> = self.ending(project, id, batch).await?;
        let mut looks = tokio::time::interval(limits::BATCHES_LOOK_EVERY);
        let mut stopping = self.stopping.clone();
        let mut is_over = false;
        loop {
            phase.send_replace(Phase::of(ends.is_some(), is_over));
            while ends.is_none() && under_way.len() < limits::BATCH_LINES_AT_ONCE {
                let Some(line) = waiting.pop() else { break };
                let attempt = known.remove(&line.number).unwrap_or_default();
                let (asker, line) = (asker.clone(), line.clone());
                under_way.spawn(async move { asker.ask(line, attempt).await });
            }
            if under_way.is_empty() {
                break;
            }
            let deadline = ends.map_or_else(|| Instant::now() + limits::BATCH_WINDOW, |(_, at)| at);
            tokio::select! {
                Some(first) = under_way.join_next() => {
                    let mut fresh: Vec<Done> = line_of(first)?.into_iter().collect();
                    // What came in the meantime is flushed with it.
                    while let Some(next) = under_way.try_join_next() {
                        fresh.extend(line_of(next)?);
                    }
                    for done in &fresh {
                        answered.insert(done.number);
                        count(done, &mut batch.request_counts, &mut batch.usage);
                    }
                    progress = append(progress, fresh).await?;
                }
                _ = looks.tick() => {
                    if ends.is_none() {
                        ends = self.ending(project, id, batch).await?;
                    }
                }
                () = stopped(&mut stopping), if ends.is_none_or(|(ending, _)| ending != Ending::Stopped) => {
                    ends = Some((Ending::Stopped, Instant::now() + limits::BATCH_STOP_GRACE));
                }
                // Those not answered yet are dropped, and not charged; what is answered is paid for, and written.
                () = tokio::time::sleep_until(deadline), if !is_over => is_over = true,
            }
        }
        let ending = ends.map(|(ending, _)| ending);
        let (code, message) = match ending {
            Some(Ending::Expired) => {
                ("batch_expired", "This request could not be executed before the completion window expired.")
            }
            Some(Ending::Cancelled) => {
                ("batch_cancelled", "This request was not executed because the batch was cancelled.")
            }
            None | Some(Ending::Stopped) => return Ok(ending),
        };
        let left = lines.iter().filter(|line| !answered.contains(&line.number));
        append(progress, left.map(|line| undone(id, line, code, message)).collect()).await?;
        Ok(ending)
    }

    /// What was answered before, counted.
    async fn replay(
        &self,
        project: &Project,
        id: &BatchId,
        batch: &mut Batch,
    ) -> Result<(Progress, HashSet<u64>), ServiceError> {
        let (store, project, id) = (self.service.store().clone(), project.clone(), id.clone());
        let (mut counts, mut usage) = (batch.request_counts, super::Usage::default());
        (counts.completed, counts.failed) = (0, 0);
        let (progress, answered, counts, usage) = blocking(move || {
            let mut answered = HashSet::new();
            let progress = Progress::open(&store, &project, &id, |done| {
                answered.insert(done.number);
                count(&done, &mut counts, &mut usage);
            })?;
            Ok((progress, answered, counts, usage))
        })
        .await?;
        (batch.request_counts, batch.usage) = (counts, usage);
        Ok((progress, answered))
    }

    async fn asker(
        &self,
        project: &Project,
        id: &BatchId,
        (batch, phase): (&Batch, watch::Receiver<Phase>),
    ) -> Result<Asker, ServiceError> {
        let input = batches::input(self.service.store(), project, id)?;
        Ok(Asker {
            answers: self.answers.clone(),
            places: self.places.clone(),
            project: project.clone(),
            key: batch.api_key.parse().map_err(StoreError::from)?,
            id: id.clone(),
            endpoint: batch.endpoint,
            input: Arc::new(input),
            receipts: batch.receipts.then(|| self.service.clone()),
            phase,
            file_kept: file_kept(batch),
        })
    }

    /// Looks whether the batch is to end; writes its counts where it goes on.
    async fn ending(
        &self,
        project: &Project,
        id: &BatchId,
        batch: &mut Batch,
    ) -> Result<Option<(Ending, Instant)>, ServiceError> {
        let until = Instant::now() + limits::BATCH_GRACE;
        if batch.status == Status::Cancelling || !self.replace(project, batch, Status::InProgress).await? {
            self.read_again(project, id, batch).await?;
            return Ok(Some((Ending::Cancelled, until)));
        }
        let is_late = Timestamp::now().seconds() >= batch.expires_at;
        Ok(is_late.then_some((Ending::Expired, until)))
    }

    /// What another wrote over `batch`, with the counts that are known here.
    async fn read_again(
        &self,
        project: &Project,
        id: &BatchId,
        batch: &mut Batch,
    ) -> Result<(), ServiceError> {
        let found = of_row(&batches::find(self.service.store(), project, id).await?)?;
        let (request_counts, usage, model) = (batch.request_counts, batch.usage, batch.model.take());
        *batch = Batch { request_counts, usage, model, ..found };
        Ok(())
    }

    async fn replace(&self, project: &Project, batch: &Batch, from: Status) -> Result<bool, ServiceError> {
        Ok(batches::replace(self.service.store(), &batch.row(project)?, from.as_str()).await?)
    }

    /// Writes down how the batch ends and what its files will be called.
    async fn choose_end(
        &self,
        project: &Project,
        batch: &mut Batch,
        ending: Option<Ending>,
    ) -> Result<(), ServiceError> {
        let id: BatchId = batch.id.parse().map_err(StoreError::from)?;
        let (store, whose, which) = (self.service.store().clone(), project.clone(), id.clone());
        let (has_output, has_errors) = blocking(move || {
            let mut has = (false, false);
            batches::read(&store, &whose, &which, |done| match done.to {
                To::Output => has.0 = true,
                To::Errors => has.1 = true,
            })?;
            Ok(has)
        })
        .await?;
        let draw = || FileId::from_bits(uuid::Uuid::now_v7().as_u128()).to_string();
        // Those that were drawn before a process died are drawn still.
        let name = |known: Option<String>, has: bool| has.then(|| known.unwrap_or_else(draw));
        loop {
            let from = batch.status;
            batch.output_file_id = name(batch.output_file_id.take(), has_output);
            batch.error_file_id = name(batch.error_file_id.take(), has_errors);
            if from == Status::Cancelling {
                batch.ends_as = Some(Status::Cancelled);
            } else {
                let is_late = ending == Some(Ending::Expired);
                batch.ends_as = Some(if is_late { Status::Expired } else { Status::Completed });
                batch.status = Status::Finalizing;
                batch.finalizing_at = Some(Timestamp::now().seconds());
            }
            if self.replace(project, batch, from).await? {
                return Ok(());
            }
            self.read_again(project, &id, batch).await?;
        }
    }

    /// Makes the files of a batch and writes its end.
    async fn make_files(
        &self,
        project: &Project,
        id: &BatchId,
        batch: &mut Batch,
    ) -> Result<(), ServiceError> {
        for (to, file, what) in
            [(To::Output, &batch.output_file_id, "output"), (To::Errors, &batch.error_file_id, "error")]
        {
            let Some(file) = file else { continue };
            let file: FileId = file.parse().map_err(StoreError::from)?;
            let name = format!("{id}_{what}.jsonl");
            self.make_file(project, id, (to, file, name), file_kept(batch)).await?;
        }
        let (from, now) = (batch.status, Some(Timestamp::now().seconds()));
        batch.status = batch.ends_as.unwrap_or(Status::Completed);
        match batch.status {
            Status::Cancelled => batch.cancelled_at = now,
            Status::Expired => batch.expired_at = now,
            _ => batch.completed_at = now,
        }
        self.replace(project, batch, from).await?;
        Ok(())
    }

    async fn make_file(
        &self,
        project: &Project,
        id: &BatchId,
        (to, file, name): (To, FileId, String),
        kept: Duration,
    ) -> Result<(), ServiceError> {
        let now = Timestamp::now();
        let store = self.service.store();
        match data_files::find(store, project, &file, now).await {
            // A process made it and died before it could say so.
            Ok(_) => return Ok(()),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let (from, whose, which) = (store.clone(), project.clone(), id.clone());
        let arrived = blocking(move || {
            let mut incoming = Incoming::begin(&from, &whose)?;
            let mut written = Ok(0);
            batches::read(&from, &whose, &which, |done| {
                if done.to == to && written.is_ok() {
                    written = incoming.write(format!("{}\n", done.json).as_bytes());
                }
            })?;
            written?;
            Ok(incoming.end()?)
        })
        .await?;
        let new = NewFile { name, purpose: "batch_output".into(), expires_at: Some(now.plus(kept)) };
        data_files::keep_as(store, project, (file, Room::Owed), new, (arrived, now)).await?;
        Ok(())
    }
}

/// What became of a line that was under way; None where the batch ended before it was answered.
fn line_of(
    joined: Result<Option<Result<Done, ServiceError>>, JoinError>,
) -> Result<Option<Done>, ServiceError> {
    joined.map_err(|error| ServiceError::internal("a line of a batch broke off", error))?.transpose()
}

/// How long a file of a batch is kept, from when it is made.
fn file_kept(batch: &Batch) -> Duration {
    batch.output_expires_after.map_or(limits::BATCH_FILES_KEPT, Duration::from_secs)
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn append(mut progress: Progress, lines: Vec<Done>) -> Result<Progress, ServiceError> {
    if lines.is_empty() {
        return Ok(progress);
    }
    blocking(move || {
        progress.append(&lines)?;
        Ok(progress)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::internal("the disk work of a batch broke off", error))?
}

/// The report as OpenAI lists errors; what is not shown is counted in a last one.
fn problems(report: &Report) -> Vec<Problem> {
    let mut problems: Vec<Problem> = report
        .errors
        .iter()
        .map(|issue| Problem {
            code: issue.code.clone(),
            message: format!("{}; {}", issue.message, issue.hint),
            param: issue.pointer.clone(),
            line: issue.line,
        })
        .collect();
    if report.n_errors() > problems.len() as u64 {
        let counts: Vec<String> = report.counts.iter().map(|(code, n)| format!("{n} {code}")).collect();
        let message = format!("{} errors in all: {}", report.n_errors(), counts.join(", "));
        problems.push(Problem { code: "too_many_errors".into(), message, param: None, line: None });
    }
    problems
}

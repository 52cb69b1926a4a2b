//! What a command says when it does not succeed: what, why, and what to do; for people on lines, for programs
//! as the last line of stderr. The one place of the binary that turns errors into exit codes.

use lyceum_choose::ChooseError;
use lyceum_service::ServiceError;
use lyceum_service::language::import::ImportError;
use lyceum_service::language::open::OpenError;
use lyceum_store::StoreError;
use lyceum_train::TrainError;
use lyceum_train::data::{DataError, Report};
use lyceum_types::ids::BadId;
use lyceum_types::spec::parse::SpecErrors;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::error::Error;
use std::ops::{Deref, DerefMut};
use std::path::Path;

/// Exit codes, also for scripts (`lyceum --help` lists them).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Failed,
    Usage,
    NotFound,
    Auth,
    Conflict,
    Quota,
    Unreachable,
    Interrupted,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Auth => 4,
            Exit::Conflict => 5,
            Exit::Quota => 6,
            Exit::Unreachable => 7,
            Exit::Interrupted => 130,
        }
    }
}

/// What went wrong; boxed, because results carry it through every call.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure(Box<Details>);

/// The four fields that every error has, and its place where it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    pub exit: Exit,
    /// Stable, for programs.
    pub code: Cow<'static, str>,
    pub message: String,
    pub why: String,
    pub fix: String,
    pub place: Place,
    /// What else is wrong, where one pass found several things.
    pub others: Vec<Failure>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    pub file: Option<String>,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub key: Option<String>,
}

impl Deref for Failure {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Details {
        &mut self.0
    }
}

impl Failure {
    pub fn new(
        exit: Exit,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Failure(Box::new(Details {
            exit,
            code: code.into(),
            message: message.into(),
            why: why.into(),
            fix: fix.into(),
            place: Place::default(),
            others: Vec::new(),
        }))
    }

    /// Several things that one pass found, the first in front.
    ///
    /// # Panics
    /// When there is none: a report without errors is no error.
    pub fn several(failures: impl Iterator<Item = Failure>) -> Self {
        let mut failures = failures;
        let mut first = failures.next().expect("an error has a problem: bug");
        first.others = failures.collect();
        first
    }

    /// A command line that cannot be understood.
    pub fn usage(message: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Failure::new(Exit::Usage, "usage", message, why, fix)
    }

    /// A model that is not there; `near` is a name that may have been meant.
    pub fn no_model(id: &str, near: Option<&str>) -> Self {
        let fix = match near {
            Some(near) => format!("lyceum ls shows what is there; did you mean {near:?}?"),
            None => "lyceum ls shows what is there".to_owned(),
        };
        let why = "this data folder has no such model";
        Failure::new(Exit::NotFound, "model_not_found", format!("model {id:?} not found"), why, fix)
    }

    /// A file that cannot be read or written.
    pub fn file(operation: &str, path: &Path, error: &std::io::Error) -> Self {
        let message = format!("cannot {operation} {}", path.display());
        let (exit, code, fix) = match error.kind() {
            std::io::ErrorKind::NotFound => (Exit::NotFound, "file_not_found", "check the path"),
            std::io::ErrorKind::PermissionDenied => {
                (Exit::Failed, "permission_denied", "check the permissions")
            }
            std::io::ErrorKind::StorageFull => {
                (Exit::Failed, "disk_full", "free some space and run it again")
            }
            std::io::ErrorKind::AlreadyExists => (Exit::Conflict, "file_exists", "choose another path"),
            _ => (Exit::Failed, "io", "check the path and the disk"),
        };
        let mut failure = Failure::new(exit, code, message, error.to_string(), fix);
        failure.place.file = Some(path.display().to_string());
        failure
    }

    pub fn interrupted(kept: impl Into<String>) -> Self {
        Failure::new(Exit::Interrupted, "interrupted", "interrupted", "it was asked to end", kept)
    }

    /// A bug of ours or something the system refuses, with its causes.
    pub fn internal(message: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        let fix = "run lyceum doctor; if it finds nothing, this is a fault of lyceum";
        Failure::new(Exit::Failed, "internal", message, causes(error), fix)
    }

    /// To stderr: lines for people, and with `--json` one line for programs, the last.
    pub fn print(&self, as_json: bool) {
        if as_json {
            eprintln!("{}", self.to_json());
            return;
        }
        self.print_lines();
        self.others.iter().for_each(Failure::print_lines);
    }

    fn print_lines(&self) {
        let (red, plain) =
            if crate::output::stderr_has_color() { ("\u{1b}[31m", "\u{1b}[0m") } else { ("", "") };
        let place = match (&self.place.file, self.place.line, self.place.column) {
            (Some(file), Some(line), Some(column)) => format!("{file}:{line}:{column}: "),
            (Some(file), Some(line), None) => format!("{file}:{line}: "),
            // Where the message names the file already, once is enough.
            (Some(file), None, _) if !self.message.contains(file.as_str()) => format!("{file}: "),
            _ => String::new(),
        };
        let key = self.place.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default();
        eprintln!("{red}error:{plain} {place}{key}{}", self.message);
        for (name, text) in [("why", &self.why), ("fix", &self.fix)] {
            if !text.is_empty() {
                eprintln!("  {name}: {text}");
            }
        }
    }

    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        for (name, text) in
            [("code", self.code.as_ref()), ("message", &self.message), ("why", &self.why), ("fix", &self.fix)]
        {
            fields.insert(name.into(), Value::from(text));
        }
        let place = &self.place;
        for (name, value) in [
            ("file", place.file.clone().map(Value::from)),
            ("line", place.line.map(Value::from)),
            ("column", place.column.map(Value::from)),
            ("key", place.key.clone().map(Value::from)),
        ] {
            if let Some(value) = value {
                fields.insert(name.into(), value);
            }
        }
        fields
    }

    fn to_json(&self) -> Value {
        let mut fields = self.fields();
        if !self.others.is_empty() {
            let others: Vec<Value> = self.others.iter().map(|other| Value::from(other.fields())).collect();
            fields.insert("others".into(), Value::from(others));
        }
        json!({ "error": fields })
    }
}

/// An error and its causes on one line.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

impl From<SpecErrors> for Failure {
    fn from(errors: SpecErrors) -> Self {
        let file = errors.file;
        let why = "the job spec cannot be run as it stands";
        Failure::several(errors.problems.into_iter().map(|problem| {
            let mut failure =
                Failure::new(Exit::Usage, problem.code.as_str(), problem.message, why, problem.fix);
            failure.place = Place {
                file: file.clone(),
                line: problem.line,
                column: problem.column,
                key: (!problem.key.is_empty()).then_some(problem.key),
            };
            failure
        }))
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        let n_errors = report.n_errors();
        let shown = report.errors.len();
        let why = match n_errors as usize {
            n if n > shown => format!("the data has {n} errors; the first {shown} are shown"),
            1 => "the data cannot be used as it stands".to_owned(),
            n => format!("the data has {n} errors"),
        };
        Failure::several(report.errors.into_iter().map(|issue| {
            let exit = if issue.code == "file_not_found" { Exit::NotFound } else { Exit::Failed };
            let mut failure = Failure::new(exit, issue.code, issue.message, why.clone(), issue.hint);
            failure.place = Place {
                file: Some(issue.file),
                line: issue.line.map(|line| line as usize),
                column: None,
                key: issue.column.or(issue.pointer),
            };
            failure
        }))
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Report(report) => report.into(),
            DataError::Io { path, source } => Failure::file("read", &path, &source),
            DataError::Stopped(_) => Failure::interrupted("nothing was changed"),
        }
    }
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        let (text, fix) = (error.to_string(), error.fix());
        match error {
            TrainError::Data(data) => data.into(),
            TrainError::Spec(message) => Failure::new(
                Exit::Usage,
                "spec",
                message,
                "the job spec and the data do not fit together",
                fix,
            ),
            TrainError::Model(model) => {
                let why = "the model cannot be built on this data";
                Failure::new(Exit::Usage, "model", causes(&model), why, fix)
            }
            TrainError::BudgetExceeded(message) => {
                let why = "what was learnt from a data set cannot be taken back";
                Failure::new(Exit::Quota, "privacy_budget_exceeded", message, why, fix)
            }
            TrainError::Privacy(message) => Failure::new(
                Exit::Usage,
                "privacy",
                message,
                "the promise of [privacy] could not be kept",
                fix,
            ),
            TrainError::Stopped { .. } => {
                Failure::new(Exit::Interrupted, "interrupted", text, "it was asked to end", fix)
            }
            TrainError::Diverged { .. } => {
                let why = "the weights left the range of numbers; the last checkpoint was kept";
                Failure::new(Exit::Failed, "diverged", text, why, fix)
            }
            TrainError::Checkpoint { path, problem } => {
                let message = format!("checkpoint {path} cannot be used");
                let mut failure = Failure::new(Exit::Failed, "damaged_checkpoint", message, problem, fix);
                failure.place.file = Some(path);
                failure
            }
            TrainError::Io { action, path, source } => Failure::file(action, Path::new(&path), &source),
            other => Failure::new(Exit::Failed, "training", text, causes(&other), fix),
        }
    }
}

impl From<ChooseError> for Failure {
    fn from(error: ChooseError) -> Self {
        let (text, why) = (error.to_string(), causes(&error));
        match error {
            ChooseError::Train(error) => error.into(),
            ChooseError::Eval(error) => TrainError::from(error).into(),
            ChooseError::Budget { .. } => {
                let why = "training in full takes longer than that";
                let fix = "write more minutes, fewer or smaller candidates, or fewer epochs under [train]";
                Failure::new(Exit::Failed, "budget", text, why, fix)
            }
            ChooseError::NoneTrains { .. } => {
                let fix = "say what a row is with data.input, or write candidates = \"auto\"";
                Failure::new(Exit::Usage, "no_candidate", text, "families and data do not fit together", fix)
            }
            ChooseError::Ask { .. } => {
                let why = "a model that exists could not be asked what the others are measured on";
                let fix = "lyceum show MODEL says what it is; or leave the candidate out";
                Failure::new(Exit::Failed, "unanswered", text, why, fix)
            }
            ChooseError::Engine(_) | ChooseError::Start(_) => {
                let fix = "run lyceum doctor; if it finds nothing, this is a fault of lyceum";
                Failure::new(Exit::Failed, "internal", text, why, fix)
            }
        }
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let text = error.to_string();
        match error {
            ServiceError::ModelNotFound { id } => Failure::no_model(&id, None),
            ServiceError::Invalid { param, code, message } => {
                let (why, fix) = match is_of_a_model(&param) {
                    true => ("the model cannot take this", "lyceum show MODEL says what it reads"),
                    false => ("it cannot be taken as it stands", "the command's --help says what it takes"),
                };
                let mut failure = Failure::new(Exit::Failed, code, message, why, fix);
                failure.place.key = Some(param);
                failure
            }
            ServiceError::Unsupported { param, code, message } => {
                let why = "this does not exist for this model or input";
                let mut failure =
                    Failure::new(Exit::Failed, code, message, why, "lyceum show MODEL says what it is");
                failure.place.key = Some(param);
                failure
            }
            ServiceError::NotImplemented { param, message } => {
                let mut failure = Failure::new(
                    Exit::Failed,
                    "not_implemented",
                    message,
                    "this version cannot do it",
                    "leave it out",
                );
                failure.place.key = Some(param);
                failure
            }
            ServiceError::NotFound { .. } => {
                Failure::new(Exit::NotFound, "not_found", text, "nothing has this id", "check the id")
            }
            ServiceError::Guarded { param, code, message } => {
                let fix = "lyceum admin guard PROJECT shows and sets what is looked for";
                let mut failure = Failure::new(Exit::Failed, code, message, "the project's guard", fix);
                failure.place.key = param;
                failure
            }
            ServiceError::GuardFailed => {
                let why = "nothing passes that was not looked through; the log has the cause";
                Failure::new(Exit::Failed, "guard_failed", text, why, "run lyceum doctor")
            }
            ServiceError::BudgetExhausted { .. } => {
                let fix = "lyceum budgets list shows where each budget stands";
                Failure::new(Exit::Quota, "insufficient_quota", text, "a budget does not cover it", fix)
            }
            ServiceError::TooLarge { .. } | ServiceError::QuotaReached { .. } => Failure::new(
                Exit::Quota,
                "quota_reached",
                text,
                "a bound of this server",
                "delete or part files",
            ),
            ServiceError::WrongFile { .. } => {
                let fix = "mend the lines that are named";
                Failure::new(Exit::Usage, "invalid_file", text, "the file is not what its purpose wants", fix)
            }
            ServiceError::Conflict { code, .. } => {
                Failure::new(Exit::Conflict, code, text, "its state does not allow it", "look at its state")
            }
            ServiceError::Uncomputable { .. } => {
                let fix = "another input or another method may have a value";
                Failure::new(Exit::Failed, "not_computable", text, "there is no such number", fix)
            }
            ServiceError::Damaged { id, source } => {
                let fix = format!("lyceum rm {id}, then train or import it again");
                Failure::new(Exit::Failed, "damaged_model", text, causes(source.as_ref()), fix)
            }
            ServiceError::Internal { operation, source } => {
                let fix =
                    "lyceum doctor checks this machine; a damaged model must be trained or imported again";
                Failure::new(Exit::Failed, "internal", operation, causes(source.as_ref()), fix)
            }
            ServiceError::ModelForbidden { .. } => {
                let fix = "lyceum admin models shows and changes which models a project may ask";
                Failure::new(Exit::Auth, "model_forbidden", text, "the project's list says so", fix)
            }
            ServiceError::ProjectArchived { .. } => {
                let fix = "make another project with lyceum admin projects create";
                Failure::new(Exit::Conflict, "project_archived", text, "it has ended for good", fix)
            }
            ServiceError::Refused { code, .. } => {
                let fix = "lyceum admin --help shows what there is to do";
                Failure::new(Exit::Conflict, code, text, "what is there does not allow it", fix)
            }
            ServiceError::RateLimited(_) => {
                let fix = "lyceum admin limits shows and changes what may be asked";
                Failure::new(Exit::Quota, "rate_limit_exceeded", text, "a limit is reached", fix)
            }
            ServiceError::KeyMissing
            | ServiceError::KeyRefused { .. }
            | ServiceError::OperatorOnly { .. }
            | ServiceError::ScopeMissing { .. } => {
                let fix = "lyceum keys create makes a key that may";
                Failure::new(Exit::Auth, "key", text, "the key does not allow it", fix)
            }
            ServiceError::IdempotencyConflict | ServiceError::IdempotencyUnderWay => Failure::new(
                Exit::Conflict,
                "idempotency",
                text,
                "the key was used before",
                "use another key",
            ),
            ServiceError::Overloaded { .. } => {
                Failure::new(Exit::Quota, "overloaded", text, "all places are taken", "try again soon")
            }
            ServiceError::NotReady { .. } | ServiceError::DeadlinePassed => {
                let fix = "lyceum doctor checks this machine";
                Failure::new(Exit::Unreachable, "unreachable", text, "the engine does not answer", fix)
            }
        }
    }
}

impl From<BadId> for Failure {
    fn from(bad: BadId) -> Self {
        Failure::usage(
            format!("{:?} is no {}", bad.text, bad.what),
            bad.why,
            "write it as `name`, `name@VERSION` or as lyceum prints it",
        )
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        let why = causes(&error);
        match error {
            ImportError::Store(error) => error.into(),
            ImportError::Stopped(stop) => Failure::new(
                Exit::Interrupted,
                "interrupted",
                stop.to_string(),
                "it was asked to end",
                "run it again; nothing half-written was kept",
            ),
            ImportError::Copy { path, source } => Failure::file("copy", &path, &source),
            ImportError::Open(error) => {
                let text = "the model cannot be opened";
                let fix = "check that the files are whole and of a family that lyceum import --help names";
                let mut failure = Failure::new(Exit::Failed, "not_a_model", text, why, fix);
                if let OpenError::File { path, .. } | OpenError::Read { path, .. } = &error {
                    failure.place.file = Some(path.display().to_string());
                }
                failure
            }
            ImportError::Base { id, problem } => {
                let text = format!("{id} is no base for an adapter");
                let fix = "name an imported language model with --base";
                Failure::new(Exit::Failed, "not_a_base", text, format!("it {problem}"), fix)
            }
            ImportError::Broken(error) => Failure::internal("the import broke off", &error),
        }
    }
}

/// Whether a field is what a model reads, or the model itself.
fn is_of_a_model(param: &str) -> bool {
    let fields = ["model", "instances", "input", "prompt", "messages", "features", "text", "image"];
    let name = param.split(['.', '[']).next().unwrap_or(param);
    fields.contains(&name)
}

/// The command that lists what there is of a kind.
fn listing(what: &str) -> &str {
    match what {
        "alias" => "alias ls MODEL",
        "organization" => "admin organizations ls",
        "project" => "admin projects ls",
        "user" => "admin users ls",
        "service account" => "admin service-accounts ls PROJECT",
        "admin key" => "admin keys ls",
        "share" => "admin shares ls",
        "audit log entry" => "audit ls",
        "key" => "keys ls",
        "budget" => "budgets list",
        "file" => "files ls",
        "card" | "loaded model" => "ls",
        _ => "jobs ls",
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::NotFound { what: "model", id } => Failure::no_model(&id, None),
            StoreError::NotFound { what, .. } => {
                let fix = format!("lyceum {} shows what is there", listing(what));
                Failure::new(Exit::NotFound, "not_found", text, "this data folder has none of this name", fix)
            }
            StoreError::BadId(bad) => bad.into(),
            StoreError::TooMuch { .. } => {
                let why = "an answer has a bound";
                Failure::usage(error.to_string(), why, "ask for a shorter time, as in --since 1d")
            }
            StoreError::Refused { code, message } => {
                let fix = "lyceum admin --help shows what there is to do";
                Failure::new(Exit::Conflict, code, message, "what is there does not allow it", fix)
            }
            StoreError::JobState { .. } => {
                let fix = "lyceum jobs ls shows the state of each job";
                Failure::new(Exit::Conflict, "job_state", text, "its state does not allow it", fix)
            }
            StoreError::JobOwned { .. } => {
                let fix = "wait for it, or lyceum jobs cancel it first";
                Failure::new(Exit::Conflict, "job_owned", text, "two processes cannot train one job", fix)
            }
            StoreError::Held { .. } => {
                let fix = "lyceum promote NAME@N, if you take that; or point the alias at another version";
                Failure::new(Exit::Conflict, "held", text, "its gate found it worse than what is served", fix)
            }
            StoreError::NotApproved { .. } => {
                let fix = "lyceum approve NAME@N --note \"what it rests on\"";
                Failure::new(Exit::Conflict, "not_approved", text, "the alias is protected", fix)
            }
            StoreError::Aliased { .. } => {
                let fix = "point the alias at another version first: lyceum alias set NAME@N ALIAS";
                Failure::new(Exit::Conflict, "aliased", text, "who asks for the alias would get nothing", fix)
            }
            StoreError::Fenced { .. } => {
                let fix = "lyceum jobs ls shows who has it now";
                Failure::new(Exit::Conflict, "job_overtaken", text, "another process took the job over", fix)
            }
            StoreError::DiskFull { .. } => {
                let fix = "free some space and run it again; nothing half-written was kept";
                Failure::new(Exit::Failed, "disk_full", text, "no space is left", fix)
            }
            StoreError::DamagedFile { path, why } => {
                let fix = "train or import the model again";
                let mut failure = Failure::new(
                    Exit::Failed,
                    "damaged_model",
                    format!("{} is damaged", path.display()),
                    why,
                    fix,
                );
                failure.place.file = Some(path.display().to_string());
                failure
            }
            StoreError::Objects { operation, path, source } => {
                let message = format!("{operation} {}: the object store does not do it", path.display());
                let fix = "lyceum config show --origin names the place; lyceum blobs check asks it";
                Failure::new(Exit::Failed, "object_store", message, crate::failure::causes(&*source), fix)
            }
            StoreError::NoObjects { .. } => {
                let why = "it was written where `blobs` named a bucket, and here it does not";
                Failure::new(Exit::Failed, "object_store", text, why, "set blobs = \"s3://BUCKET/PREFIX\"")
            }
            StoreError::Locked { .. } => {
                let fix = "set master_key_file (LYCEUM_MASTER_KEY_FILE) to the file with the key";
                Failure::new(Exit::Auth, "locked", text, "its key cannot be opened", fix)
            }
            StoreError::Erased { .. } => {
                Failure::new(Exit::Conflict, "erased", text, "nothing brings it back", "use another project")
            }
            StoreError::File { operation, path, source } => Failure::file(operation, &path, &source),
            StoreError::NewerSchema { .. } => {
                let fix = "use a newer lyceum, or another --data-dir";
                Failure::new(
                    Exit::Conflict,
                    "newer_schema",
                    text,
                    "an old program must not write new data",
                    fix,
                )
            }
            other => Failure::internal("the data folder's database failed", &other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_four_fields_and_the_place() {
        let toml = "name = \"m\"\ntask = \"classification\"\n[data]\ntrain = \"x\"\n[model]\nfamily = \"mlp\"\n\
                    hidden = [1]\n[train]\nepochs = 0\nepoch = 1\n";
        let errors = lyceum_types::spec::Spec::from_toml(toml, "spec.toml").unwrap_err();
        let failure = Failure::from(errors);
        assert_eq!(failure.exit.code(), 2);
        assert_eq!(
            failure.to_json().to_string(),
            "{\"error\":{\"code\":\"out_of_range\",\"message\":\"must be at least 1, is 0\",\
             \"why\":\"the job spec cannot be run as it stands\",\"fix\":\"write 1 or more\",\
             \"file\":\"spec.toml\",\"line\":9,\"column\":10,\"key\":\"train.epochs\",\
             \"others\":[{\"code\":\"unknown_key\",\"message\":\"unknown key\",\
             \"why\":\"the job spec cannot be run as it stands\",\"fix\":\"did you mean `epochs`?\",\
             \"file\":\"spec.toml\",\"line\":10,\"column\":1,\"key\":\"train.epoch\"}]}}"
        );
    }

    #[test]
    fn each_store_error_has_its_exit_code() {
        let code = |error: StoreError| Failure::from(error).exit.code();
        assert_eq!(code(StoreError::NotFound { what: "model", id: "m".into() }), 3);
        assert_eq!(code(StoreError::NotFound { what: "job", id: "m".into() }), 3);
        // What a fix names is a command that there is.
        for what in [
            "alias",
            "organization",
            "project",
            "user",
            "service account",
            "admin key",
            "share",
            "key",
            "budget",
            "file",
            "audit log entry",
            "job",
            "card",
        ] {
            let fix = Failure::from(StoreError::NotFound { what, id: "x".into() }).fix.clone();
            let words = fix
                .strip_suffix(" shows what is there")
                .unwrap()
                .replace("MODEL", "m")
                .replace("PROJECT", "p");
            let words: Vec<std::ffi::OsString> = words.split(' ').map(Into::into).collect();
            assert!(crate::cli::parse(&words).is_ok(), "{fix}");
        }
        let name = ServiceError::invalid("name", "invalid_value", "is too long");
        assert!(!Failure::from(name).why.contains("model"));
        let row = ServiceError::invalid("instances[0].age", "missing_value", "is missing");
        assert!(Failure::from(row).why.contains("model"));
        assert_eq!(code(StoreError::JobOwned { id: "j".into() }), 5);
        assert_eq!(code(StoreError::DiskFull { operation: "write", path: "p".into() }), 1);
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(Failure::file("read", Path::new("x"), &missing).exit, Exit::NotFound);
    }
}

//! Everything a use case can answer instead of its result, and whose fault it is.

use lyceum_models::prepare::PrepareError;
use lyceum_store::StoreError;
use lyceum_train::data::report::Report;
use lyceum_types::ids::KeyScope;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Caller: this field of the request.
    #[error("{param}: {message}")]
    Invalid { param: String, code: &'static str, message: String },
    /// Caller: this field asks for something that does not exist for this model or input.
    #[error("{param}: {message}")]
    Unsupported { param: String, code: &'static str, message: String },
    /// Caller: this field asks for something that this version cannot do.
    #[error("{param}: {message}")]
    NotImplemented { param: String, message: String },
    /// Caller: no such object in its project.
    #[error("the {what} `{id}` does not exist or you do not have access to it")]
    NotFound { what: &'static str, id: String },
    /// Caller: no such model in its project.
    #[error("the model `{id}` does not exist or you do not have access to it")]
    ModelNotFound { id: String },
    /// Caller: its project may not ask this model.
    #[error("Project `{project}` does not have access to model `{id}`")]
    ModelForbidden { project: String, id: String },
    /// Caller: its project has ended.
    #[error("the project {id} is archived: its keys open nothing any more")]
    ProjectArchived { id: String },
    /// Caller: the state of what it asks for does not allow it.
    #[error("{message}")]
    Refused { code: &'static str, message: String },
    /// Caller: it asks more than it may in this time.
    #[error("{}", _0.message)]
    RateLimited(Box<crate::rates::Reached>),
    /// Caller: its project's guard lets this text not pass, or cannot change it; names what was found, never what it says.
    #[error("{message}")]
    Guarded { param: Option<String>, code: &'static str, message: String },
    /// Operator or bug: the guard could not look through a text, so nothing of it passed.
    #[error("the project's guard could not look through a text, so nothing of it passed")]
    GuardFailed,
    /// Caller: the request is understood, and what it asks for has no value here.
    #[error("{message}")]
    Uncomputable { message: String },
    /// Caller: no key in the request.
    #[error("no API key was given: send the header Authorization: Bearer sk-…")]
    KeyMissing,
    /// Caller: a key that is unknown, expired or revoked.
    #[error("the API key is not valid ({code})")]
    KeyRefused { code: &'static str },
    /// Caller: a key that may not do this.
    #[error("the API key does not have the scope {needed}")]
    ScopeMissing { needed: KeyScope },
    /// Caller: a key of an organisation that does not run the installation.
    #[error("{message}")]
    OperatorOnly { message: String },
    /// Caller: the key belongs to another request.
    #[error("the Idempotency-Key was used with another request")]
    IdempotencyConflict,
    /// Nobody: the first request is not answered yet.
    #[error("a request with this Idempotency-Key is still under way")]
    IdempotencyUnderWay,
    /// Nobody: all places are taken.
    #[error("the server has as much work as it can hold: try again soon")]
    Overloaded { retry_after: Duration },
    /// Caller: what it brings is larger than it may be.
    #[error("the file is larger than {bytes_max} bytes")]
    TooLarge { bytes_max: u64 },
    /// Caller: the file that it brings is not what its purpose wants; all that is wrong with it.
    #[error("{}", in_short(report))]
    WrongFile { param: &'static str, report: Box<Report> },
    /// Caller: the object's state does not allow it.
    #[error("{message}")]
    Conflict { code: &'static str, message: String },
    /// Tenant: it has as much as it may.
    #[error("{message}")]
    QuotaReached { message: String },
    /// Tenant: what it may spend does not cover the request.
    #[error("{message}")]
    BudgetExhausted { message: String },
    /// Operator: the engine does not answer, or a model cannot.
    #[error("not ready: {message}")]
    NotReady { message: String },
    /// Nobody: it took longer than a request may.
    #[error("the request took longer than it may")]
    DeadlinePassed,
    /// Operator: a model's files are not what was written; the client reads nothing of it.
    #[error("the files of {id} are damaged")]
    Damaged { id: String, source: Box<dyn std::error::Error + Send + Sync> },
    /// Operator or bug: the client reads nothing of it.
    #[error("{operation}")]
    Internal { operation: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

/// How many errors a file has, and the first of them.
fn in_short(report: &Report) -> String {
    let n = report.n_errors();
    let errors = if n == 1 { "error" } else { "errors" };
    let Some(first) = report.errors.first() else { return "the file is wrong".into() };
    let line = first.line.map_or_else(String::new, |line| format!("line {line}: "));
    format!("the file has {n} {errors}; the first: {line}{} [{}]; {}", first.message, first.code, first.hint)
}

impl ServiceError {
    pub fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        let (param, message) = (param.into(), message.into());
        // The field is said once, by `Display`.
        let message = match message.strip_prefix(&param).and_then(|rest| rest.strip_prefix(": ")) {
            Some(rest) => rest.to_owned(),
            None => message,
        };
        Self::Invalid { param, code, message }
    }

    pub fn unsupported(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::Unsupported { param: param.into(), code, message: message.into() }
    }

    pub fn not_implemented(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::NotImplemented { param: param.into(), message: message.into() }
    }

    pub fn internal(
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal { operation, source: source.into() }
    }

    /// What a preparation refuses, at the place `path` of the request.
    pub(crate) fn prepare(path: &str, error: PrepareError) -> Self {
        // `instances[3]` and the column `age` are `instances[3].age`; parts of an input have no own place.
        let told = format!("{}; {}", error.message, error.fix);
        let (param, message) = match error.code {
            "unknown_field" | "missing_value" | "not_a_number" | "not_finite" | "unseen_category"
            | "not_a_scalar" => (format!("{path}.{}", error.field), told),
            _ if matches!(error.field.as_str(), "input" | "text") => (path.to_owned(), told),
            _ => (path.to_owned(), format!("{}: {told}", error.field)),
        };
        Self::Invalid { param, code: error.code, message }
    }
}

/// An error with its causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { what: "model", id } => Self::ModelNotFound { id },
            StoreError::NotFound { what, id } => Self::NotFound { what, id },
            StoreError::TooMuch { .. } => Self::invalid("limit", "too_much", error.to_string()),
            StoreError::Refused { code, message } => Self::Refused { code, message },
            StoreError::BudgetExhausted(_) => Self::BudgetExhausted { message: error.to_string() },
            StoreError::Held { .. } => Self::Conflict { code: "held", message: error.to_string() },
            StoreError::NotApproved { .. } => {
                Self::Conflict { code: "not_approved", message: error.to_string() }
            }
            StoreError::Aliased { .. } => Self::Conflict { code: "aliased", message: error.to_string() },
            StoreError::Objects { .. } | StoreError::NoObjects { .. } => {
                // The client reads neither bucket nor path.
                tracing::error!(error = %chain(&error), "an object store is needed and does not answer");
                Self::NotReady { message: "the place where files lie does not answer".into() }
            }
            StoreError::NoDatabase(_) => {
                tracing::error!(error = %chain(&error), "the database is needed and does not answer");
                Self::NotReady { message: "the database does not answer".into() }
            }
            StoreError::Erased { .. } => {
                Self::Conflict { code: "project_erased", message: error.to_string() }
            }
            StoreError::Locked { .. } => {
                let message = "the project is encrypted, and this server was not given its master key";
                Self::NotReady { message: message.into() }
            }
            StoreError::BadId(bad) => Self::invalid(bad.what, "invalid_value", bad.why),
            other => Self::internal("the store failed", other),
        }
    }
}

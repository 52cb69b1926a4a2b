//! What the service and the data folder refuse, as failures.

use super::{Exit, Failure, causes};
use lyceum_service::ServiceError;
use lyceum_store::StoreError;
use lyceum_types::ids::BadId;

impl From<BadId> for Failure {
    fn from(bad: BadId) -> Self {
        Failure::usage(
            format!("{:?} is no {}", bad.text, bad.what),
            bad.why,
            "write it as `name`, `name@VERSION` or as lyceum prints it",
        )
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
                Failure::new(Exit::Failed, code, message, why, fix).at_key(param)
            }
            ServiceError::Unsupported { param, code, message } => {
                let why = "this does not exist for this model or input";
                Failure::new(Exit::Failed, code, message, why, "lyceum show MODEL says what it is")
                    .at_key(param)
            }
            ServiceError::NotImplemented { param, message } => Failure::new(
                Exit::Failed,
                "not_implemented",
                message,
                "this version cannot do it",
                "leave it out",
            )
            .at_key(param),
            ServiceError::NotFound { .. } => {
                Failure::new(Exit::NotFound, "not_found", text, "nothing has this id", "check the id")
            }
            ServiceError::Guarded { param, code, message } => {
                let fix = "lyceum admin guard PROJECT shows and sets what is looked for";
                let failure = Failure::new(Exit::Failed, code, message, "the project's guard", fix);
                match param {
                    Some(param) => failure.at_key(param),
                    None => failure,
                }
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
                let why = match what {
                    "project" => "a project is meant by its id, and none of the organisation has this one",
                    _ => "this data folder has none of this name",
                };
                Failure::new(Exit::NotFound, "not_found", text, why, fix)
            }
            StoreError::BadId(bad) => bad.into(),
            StoreError::BudgetExhausted(_) => {
                let fix = "lyceum budgets list shows where each budget stands";
                Failure::new(Exit::Quota, "insufficient_quota", text, "a budget does not cover it", fix)
            }
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
                Failure::new(
                    Exit::Failed,
                    "damaged_model",
                    format!("{} is damaged", path.display()),
                    why,
                    fix,
                )
                .in_file(path.display().to_string())
            }
            StoreError::Objects { operation, path, source } => {
                let message = format!("{operation} {}: the object store does not do it", path.display());
                let fix = "lyceum config show --origin names the place; lyceum blobs check asks it";
                Failure::new(Exit::Failed, "object_store", message, causes(&*source), fix)
            }
            StoreError::NoDatabase(source) => {
                let fix =
                    "lyceum config show --origin names it: start it, or wait for it, and run this again";
                Failure::new(Exit::Failed, "no_database", text, causes(&source), fix)
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
    use lyceum_store::ledger::budgets::{Budget, Period, Place};

    #[test]
    fn a_spent_budget_is_a_quota_whoever_says_so() {
        let spent = || {
            let place = Place { tenant: "default".into(), project: "default".into(), api_key: String::new() };
            let budget = Budget { id: "budget_1".into(), place, period: Period::Month, limit: 5 };
            StoreError::BudgetExhausted(Box::new(budget))
        };
        for failure in [Failure::from(spent()), Failure::from(ServiceError::from(spent()))] {
            assert_eq!((failure.exit, &*failure.code), (Exit::Quota, "insufficient_quota"));
            assert!(failure.message.contains("budget_1"), "{}", failure.message);
        }
    }
}

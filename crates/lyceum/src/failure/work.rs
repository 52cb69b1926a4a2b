//! What training, choosing and importing refuse, as failures.

use super::{Exit, Failure, Place, causes};
use lyceum_choose::ChooseError;
use lyceum_models::LoadError;
use lyceum_service::imports::BringError;
use lyceum_service::language::import::ImportError;
use lyceum_service::language::open::OpenError;
use lyceum_train::TrainError;
use lyceum_train::data::{DataError, Report};
use lyceum_types::spec::parse::SpecErrors;
use std::path::Path;

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
            TrainError::Unprotected(message) => {
                let why = "a job without noise keeps no ε, whatever its budget";
                Failure::new(Exit::Usage, "privacy_required", message, why, fix)
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
                Failure::new(Exit::Failed, "damaged_checkpoint", message, problem, fix).in_file(path)
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
            ImportError::Open(OpenError::Load(LoadError::Context { asked, most })) => {
                let text = format!("--context {asked} is not what the model can read");
                let why = format!("its files say that it reads between 1 and {most} tokens");
                Failure::usage(text, why, format!("write --context {most} or less, or leave it out"))
            }
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

impl From<BringError> for Failure {
    fn from(error: BringError) -> Self {
        let said = error.to_string();
        match error {
            BringError::Import(error) => error.into(),
            BringError::Store(error) => error.into(),
            BringError::Name(error) => error.into(),
            BringError::NotAModel { path, message, why, fix } => {
                Failure::new(Exit::Failed, "not_a_model", message, why, fix)
                    .in_file(path.display().to_string())
            }
            BringError::LayoutOfAdapter => Failure::usage(
                "--quant and --context do not go with an adapter",
                "an adapter is added to its base as that is laid out",
                "leave them out",
            ),
            BringError::LayoutOfTrained { path } => Failure::usage(
                format!("--quant and --context do not go with {}", path.display()),
                "they say how a GGUF file or a model of Hugging Face's layout is laid out",
                "leave them out",
            ),
            BringError::BaseOfNone { path } => Failure::usage(
                format!("--base does not go with {}", path.display()),
                "it says what an adapter adds to, and this is none: no adapter_config.json, no GGUF adapter",
                "leave it out",
            ),
            BringError::BaseUnknown { said: None, .. } => Failure::new(
                Exit::NotFound,
                "base_model_missing",
                said,
                "its description does not say",
                "say which imported model: --base NAME",
            ),
            BringError::BaseUnknown { said: Some(base), .. } => Failure::new(
                Exit::NotFound,
                "base_model_missing",
                said,
                format!("its description says it adds to {base}, which was not pulled here"),
                format!("lyceum pull {base} first, or say which imported model it is: --base NAME"),
            ),
            BringError::BaseGone { base } => Failure::new(
                Exit::NotFound,
                "model_not_found",
                said,
                "an adapter adds to a model that is here",
                format!("import or pull {base} first; lyceum ls shows what is there"),
            ),
            BringError::ExportedBaseGone { sha256, .. } => Failure::new(
                Exit::NotFound,
                "base_model_missing",
                said,
                format!("no model here has weights with sha256 {sha256}"),
                "import the base first, or say another with --base NAME",
            ),
            BringError::Read { path, source } => Failure::file("read", &path, &source),
            BringError::Write { path, source } => Failure::file("write", &path, &source),
        }
    }
}

//! What a command says when it does not succeed: what, why, and what to do; for people on lines, for programs
//! as the last line of stderr. The one place of the binary that turns errors into exit codes: here their form, in
//! `work` and `world` an arm for each error of the crates below.

mod work;
mod world;

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
        Failure::new(exit, code, message, error.to_string(), fix).in_file(path.display().to_string())
    }

    /// The same, about a key of a document or a field of a request.
    fn at_key(mut self, key: String) -> Self {
        self.place.key = Some(key);
        self
    }

    /// The same, about a file.
    fn in_file(mut self, path: String) -> Self {
        self.place.file = Some(path);
        self
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

#[cfg(test)]
mod tests {
    use super::*;
    use lyceum_store::StoreError;

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
        assert_eq!(code(StoreError::JobOwned { id: "j".into() }), 5);
        assert_eq!(code(StoreError::DiskFull { operation: "write", path: "p".into() }), 1);
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(Failure::file("read", Path::new("x"), &missing).exit, Exit::NotFound);
    }
}

//! Configuration in layers: flag > `LYCEUM_*` > `./lyceum.toml` > the user's file > default. Every value
//! remembers where it came from, and a key that nobody knows is an error where it stands.

use crate::cli::Global;
use crate::failure::{Exit, Failure, Place};
use crate::guarding::{self, Guarding};
use crate::objects::{self, Objects};
use crate::serving::{self, Serving};
use lyceum_api::cors::Origins;
use lyceum_store::Database;
use lyceum_types::suggest::did_you_mean;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Where a value came from, the strongest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    Environment(String),
    /// With the line.
    File(PathBuf, usize),
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Environment(name) => f.write_str(name),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

/// All that can be configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub data_dir: Setting<PathBuf>,
    /// Where the rows are: in the data folder, or on a PostgreSQL server.
    pub database: Setting<Database>,
    /// 0: all cores.
    pub threads: Setting<usize>,
    pub host: Setting<String>,
    pub port: Setting<u16>,
    /// A certificate with its chain, and its key, as PEM files; both or neither.
    pub tls_cert: Setting<Option<PathBuf>>,
    pub tls_key: Setting<Option<PathBuf>>,
    /// Pages of which origins may ask from a browser.
    pub cors_origins: Setting<Origins>,
    /// The key that opens what encrypted projects keep.
    pub master_key_file: Setting<Option<PathBuf>>,
    /// What is logged, as `RUST_LOG` says it.
    pub log: Setting<String>,
    pub log_format: Setting<LogFormat>,
    /// Where the bytes of models and files lie.
    pub objects: Objects,
    /// How much the engine takes in, and how long models stay.
    pub serving: Serving,
    /// Guards that hold for everybody.
    pub guarding: Guarding,
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        })
    }
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is neither text nor json")),
        }
    }
}

const OWN_KEYS: [&str; 11] = [
    "data_dir",
    "database",
    "threads",
    "host",
    "port",
    "tls_cert",
    "tls_key",
    "cors_origins",
    "master_key_file",
    "log",
    "log_format",
];
/// The path of the processor.
pub const CPU_VARIABLE: &str = "LYCEUM_CPU";
/// Where the user's file is.
pub const CONFIG_VARIABLE: &str = "LYCEUM_CONFIG";
/// Variables with our prefix that are no configuration: the processor path (read by the kernels), the
/// user's file itself, and how a running server is asked.
const OTHER_VARIABLES: [&str; 5] = [
    CPU_VARIABLE,
    CONFIG_VARIABLE,
    crate::remote::KEY_VARIABLE,
    crate::remote::URL_VARIABLE,
    crate::remote::CA_VARIABLE,
];
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What the layers are read from; tests give their own.
pub struct Sources {
    pub variables: Vec<(OsString, OsString)>,
    pub local_file: PathBuf,
    pub user_file: Option<PathBuf>,
    pub default_data_dir: PathBuf,
}

impl Sources {
    pub fn of_process() -> Self {
        let variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let of =
            |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| PathBuf::from(value));
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        let home = of("HOME").or_else(|| of("USERPROFILE"));
        let under_home = |part: &str| home.as_ref().map(|home| home.join(part));
        let data = of("XDG_DATA_HOME").and_then(absolute).or_else(|| under_home(".local/share"));
        let config = of("XDG_CONFIG_HOME").and_then(absolute).or_else(|| under_home(".config"));
        Sources {
            local_file: PathBuf::from("lyceum.toml"),
            user_file: of(CONFIG_VARIABLE).or_else(|| config.map(|dir| dir.join("lyceum/config.toml"))),
            default_data_dir: data.map_or_else(|| PathBuf::from(".lyceum"), |dir| dir.join("lyceum")),
            variables,
        }
    }
}

impl Config {
    /// # Errors
    /// Every unknown key and wrong value of the layers, not only the first.
    pub fn load(flags: &Global, sources: &Sources) -> Result<Self, Failure> {
        let mut config = Config {
            data_dir: default(sources.default_data_dir.clone()),
            database: default(Database::Sqlite),
            threads: default(0),
            host: default("127.0.0.1".into()),
            port: default(8317),
            tls_cert: default(None),
            tls_key: default(None),
            cors_origins: default(Origins::None),
            master_key_file: default(None),
            log: default("warn".into()),
            log_format: default(LogFormat::Text),
            objects: Objects::of_variables(&sources.variables),
            serving: Serving::default(),
            guarding: Guarding::default(),
        };
        let mut failures = Vec::new();
        // From the weakest layer to the strongest, each over the one before.
        if let Some(path) = &sources.user_file {
            config.take_file(path, &mut failures);
        }
        config.take_file(&sources.local_file, &mut failures);
        config.take_variables(&sources.variables, &mut failures);
        if let Some(data_dir) = &flags.data_dir {
            config.data_dir = Setting { value: data_dir.clone(), origin: Origin::Flag("--data-dir") };
        }
        if let Some(threads) = flags.threads {
            if threads == 0 {
                failures.push(bad("--threads", "must be 1 or more", Place::default()));
            }
            config.threads = Setting { value: threads, origin: Origin::Flag("--threads") };
        }
        // Who asks a server elsewhere opens no bucket of this machine.
        let asks_a_server = flags.url.is_some()
            || sources
                .variables
                .iter()
                .any(|(key, url)| key == crate::remote::URL_VARIABLE && !url.is_empty());
        if let (Err(message), false) = (config.objects.s3(), asks_a_server) {
            failures.push(bad("blobs", message, Place::default()));
        }
        if failures.is_empty() { Ok(config) } else { Err(Failure::several(failures.into_iter())) }
    }

    /// Each key with its value as text and its origin.
    pub fn rows(&self) -> Vec<(&'static str, String, &Origin)> {
        let mut rows = vec![
            ("data_dir", self.data_dir.value.display().to_string(), &self.data_dir.origin),
            ("database", self.database.value.to_string(), &self.database.origin),
            ("threads", self.threads.value.to_string(), &self.threads.origin),
            ("host", self.host.value.clone(), &self.host.origin),
            ("port", self.port.value.to_string(), &self.port.origin),
            ("tls_cert", shown(&self.tls_cert.value), &self.tls_cert.origin),
            ("tls_key", shown(&self.tls_key.value), &self.tls_key.origin),
            ("cors_origins", self.cors_origins.value.to_string(), &self.cors_origins.origin),
            ("master_key_file", shown(&self.master_key_file.value), &self.master_key_file.origin),
            ("log", self.log.value.clone(), &self.log.origin),
            ("log_format", self.log_format.value.to_string(), &self.log_format.origin),
        ];
        rows.extend(self.objects.rows());
        rows.extend(self.serving.rows());
        rows.extend(self.guarding.rows());
        rows
    }

    fn take_file(&mut self, path: &Path, failures: &mut Vec<Failure>) {
        let text = match crate::files::read_text(path, CONFIG_BYTES_MAX) {
            Ok(text) => text,
            Err(failure) if failure.exit == Exit::NotFound => return,
            Err(failure) => return failures.push(failure),
        };
        let at = |offset: usize| {
            let before = &text.as_bytes()[..offset.min(text.len())];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
            (line, column)
        };
        let place = |offset: usize, key: Option<&str>| {
            let (line, column) = at(offset);
            let file = Some(path.display().to_string());
            Place { file, line: Some(line), column: Some(column), key: key.map(str::to_owned) }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in &errors {
            let place = place(error.span().map_or(0, |span| span.start), None);
            failures.push(bad_at(
                "syntax",
                error.message().to_owned(),
                "correct the TOML at this place",
                place,
            ));
        }
        if !errors.is_empty() {
            return;
        }
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            if !is_key(name) {
                let place = place(key.span().start, Some(name));
                failures.push(unknown(name, place));
                continue;
            }
            let origin = Origin::File(path.to_owned(), at(key.span().start).0);
            let written = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Boolean(value) if name == "allow_pull" => value.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
                other => {
                    let place = place(value.span().start, Some(name));
                    let message = format!("must be a string or a whole number, is a {}", other_kind(other));
                    failures.push(bad_at("wrong_type", message, "write a value of the key's kind", place));
                    continue;
                }
            };
            // A path in a file is relative to the file's folder.
            let written = match (name, path.parent()) {
                ("data_dir" | "tls_cert" | "tls_key" | "master_key_file", Some(folder)) => {
                    folder.join(&written).display().to_string()
                }
                _ => written,
            };
            if let Err(message) = self.set(name, &written, origin) {
                failures.push(bad(name, message, place(value.span().start, Some(name))));
            }
        }
    }

    fn take_variables(&mut self, variables: &[(OsString, OsString)], failures: &mut Vec<Failure>) {
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with("LYCEUM_")) else { continue };
            if OTHER_VARIABLES.contains(&name) {
                continue;
            }
            let key = name["LYCEUM_".len()..].to_lowercase();
            if !is_key(&key) {
                let place = Place { key: Some(name.to_owned()), ..Place::default() };
                failures.push(unknown(&key, place));
                continue;
            }
            let place = Place { key: Some(name.to_owned()), ..Place::default() };
            match value.to_str() {
                None => failures.push(bad(name, "is not Unicode", place)),
                Some(value) => {
                    if let Err(message) = self.set(&key, value, Origin::Environment(name.to_owned())) {
                        failures.push(bad(name, message, place));
                    }
                }
            }
        }
    }

    fn set(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), String> {
        if text.trim().is_empty() {
            return Err("must not be empty".into());
        }
        match key {
            "data_dir" => self.data_dir = Setting { value: PathBuf::from(text), origin },
            "database" => self.database = Setting { value: text.parse()?, origin },
            "host" => self.host = Setting { value: text.to_owned(), origin },
            "tls_cert" => self.tls_cert = Setting { value: Some(PathBuf::from(text)), origin },
            "tls_key" => self.tls_key = Setting { value: Some(PathBuf::from(text)), origin },
            "master_key_file" => self.master_key_file = Setting { value: Some(PathBuf::from(text)), origin },
            "cors_origins" => self.cors_origins = Setting { value: text.parse()?, origin },
            "log" => self.log = Setting { value: text.to_owned(), origin },
            "log_format" => self.log_format = Setting { value: text.parse()?, origin },
            "threads" => {
                let value = text.parse().map_err(|_| format!("{text:?} is no number of threads"))?;
                self.threads = Setting { value, origin };
            }
            "port" => {
                let value = text.parse().map_err(|_| format!("{text:?} is no port (0 to 65535)"))?;
                self.port = Setting { value, origin };
            }
            key if guarding::KEYS.contains(&key) => self.guarding.set(key, text, origin)?,
            _ if objects::KEYS.contains(&key) => self.objects.set(key, text, origin)?,
            _ => self.serving.set(key, text, origin)?,
        }
        Ok(())
    }
}

fn shown(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string())
}

fn is_key(name: &str) -> bool {
    keys().any(|key| key == name)
}

fn keys() -> impl Iterator<Item = &'static str> {
    OWN_KEYS.into_iter().chain(objects::KEYS).chain(serving::KEYS).chain(guarding::KEYS)
}

pub fn default<T>(value: T) -> Setting<T> {
    Setting { value, origin: Origin::Default }
}

fn other_kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Table(_) => "table",
        DeValue::Array(_) => "list",
        DeValue::Boolean(_) => "boolean",
        DeValue::Datetime(_) => "date",
        _ => "number of another kind",
    }
}

fn bad(key: &str, message: impl Into<String>, place: Place) -> Failure {
    bad_at(
        "invalid_config",
        format!("{key}: {}", message.into()),
        "correct it; lyceum config show --origin",
        place,
    )
}

fn bad_at(code: &'static str, message: impl Into<String>, fix: &str, place: Place) -> Failure {
    let why = "the configuration cannot be used as it stands";
    let mut failure = Failure::new(Exit::Usage, code, message, why, fix);
    failure.place = place;
    failure
}

fn unknown(key: &str, place: Place) -> Failure {
    let fix = match did_you_mean(key, keys()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("remove it; known are {}", keys().collect::<Vec<_>>().join(", ")),
    };
    bad_at("unknown_key", "unknown configuration key", &fix, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(folder: &Path, local: &str, user: &str, variables: &[(&str, &str)]) -> Sources {
        std::fs::write(folder.join("lyceum.toml"), local).unwrap();
        std::fs::write(folder.join("user.toml"), user).unwrap();
        Sources {
            variables: variables.iter().map(|(key, value)| (key.into(), value.into())).collect(),
            local_file: folder.join("lyceum.toml"),
            user_file: Some(folder.join("user.toml")),
            default_data_dir: "fallback".into(),
        }
    }

    #[test]
    fn each_layer_is_over_the_one_below_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let local = "threads = 3\ndata_dir = \"here\"\nhost = \"::1\"\nqueue = 99\n";
        let user = "# mine\nport = 9000\nthreads = 2\ndata_dir = \"/there\"\n";
        let variables =
            [("LYCEUM_DATA_DIR", "/env"), ("LYCEUM_CPU", "avx2"), ("LYCEUM_KEEP_ALIVE", "1h"), ("PATH", "x")];
        let sources = sources(folder.path(), local, user, &variables);
        let flags = Global { threads: Some(4), ..Global::default() };
        let config = Config::load(&flags, &sources).unwrap();
        assert_eq!(config.threads, Setting { value: 4, origin: Origin::Flag("--threads") });
        assert_eq!(config.data_dir.origin, Origin::Environment("LYCEUM_DATA_DIR".into()));
        assert_eq!(config.host.origin, Origin::File(folder.path().join("lyceum.toml"), 3));
        assert_eq!(
            config.port,
            Setting { value: 9000, origin: Origin::File(folder.path().join("user.toml"), 2) }
        );
        assert_eq!(config.log.origin, Origin::Default);
        assert_eq!(config.serving.queue.value, 99);
        assert_eq!(config.serving.queue.origin, Origin::File(folder.path().join("lyceum.toml"), 4));
        assert_eq!(config.serving.keep_alive.origin, Origin::Environment("LYCEUM_KEEP_ALIVE".into()));
        let config = Config::load(&Global::default(), &Sources { variables: Vec::new(), ..sources }).unwrap();
        assert_eq!(config.data_dir.value, folder.path().join("here"));
        assert_eq!(config.threads.value, 3);
    }

    #[test]
    fn who_asks_a_server_elsewhere_needs_no_keys_of_the_bucket() {
        let folder = tempfile::tempdir().unwrap();
        let sources =
            |variables: &[(&str, &str)]| sources(folder.path(), "blobs = \"s3://models\"", "", variables);
        let failure = Config::load(&Global::default(), &sources(&[])).unwrap_err();
        assert!(failure.message.contains("AWS_ACCESS_KEY_ID"), "{}", failure.message);
        let elsewhere = Global { url: Some("https://lyceum.example".into()), ..Global::default() };
        Config::load(&elsewhere, &sources(&[])).unwrap();
        Config::load(&Global::default(), &sources(&[("LYCEUM_URL", "https://lyceum.example")])).unwrap();
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_all_reported_where_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let local = "thraeds = 2\nport = 70000\nhost = 3.5\nbatch_rows = 0\n";
        let variables = [("LYCEUM_THREADS", "many"), ("LYCEUM_HOTS", "x")];
        let sources = sources(folder.path(), local, "", &variables);
        let failure = Config::load(&Global { threads: Some(0), ..Global::default() }, &sources).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        let mut all = failure.others.clone();
        all.push(failure);
        let mut places: Vec<_> = all
            .iter()
            .map(|f| (f.place.line, f.place.key.as_deref().unwrap_or("-"), f.code.as_ref()))
            .collect();
        places.sort_unstable();
        assert_eq!(
            places,
            [
                (None, "-", "invalid_config"),
                (None, "LYCEUM_HOTS", "unknown_key"),
                (None, "LYCEUM_THREADS", "invalid_config"),
                (Some(1), "thraeds", "unknown_key"),
                (Some(2), "port", "invalid_config"),
                (Some(3), "host", "wrong_type"),
                (Some(4), "batch_rows", "invalid_config"),
            ]
        );
        assert!(all.iter().any(|f| f.fix == "did you mean `threads`?"));
    }
}

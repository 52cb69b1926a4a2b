//! Asking a running server, on this machine or another: one small client over HTTP and TLS, and the one place that knows
//! which server is meant and with which key.
//!
//! A key stands in the `Authorization` header alone: in no URL, log, error or `Debug`. Redirects are not followed, so it
//! reaches nobody else.

use crate::cli::Global;
use crate::context::Context;
use crate::failure::{Exit, Failure, Place};
use crate::{files, output};
use lyceum_types::control::Control;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

/// The variables that say what no flag says.
pub const KEY_VARIABLE: &str = "LYCEUM_API_KEY";
pub const URL_VARIABLE: &str = "LYCEUM_URL";
pub const CA_VARIABLE: &str = "LYCEUM_CA";

/// How long a server may think.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// How long an answer may take that is only looked at, and how large it may be.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
const LOOKED_BYTES_MAX: u64 = 16 << 20;
/// One event of a stream.
const EVENT_BYTES_MAX: u64 = 16 << 20;
/// Events that were read and not looked at yet.
const EVENTS_WAITING_MAX: usize = 64;
/// How often a command looks whether it was ended.
const LOOK: Duration = Duration::from_millis(50);
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;
/// Of a server's words in an error.
const WORDS_CHARS_MAX: usize = 4096;

/// What flags and variables say of a server.
#[derive(Clone, Default)]
pub struct Access {
    url: Option<String>,
    /// The URL was typed with this command, and no variable gave it.
    url_is_typed: bool,
    key: Option<String>,
    ca: Option<PathBuf>,
}

impl Access {
    pub fn of(flags: &Global) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Access {
            url: flags.url.clone().or_else(|| variable(URL_VARIABLE)),
            url_is_typed: flags.url.is_some(),
            key: flags.key.clone().or_else(|| variable(KEY_VARIABLE)),
            ca: flags.ca.clone().or_else(|| variable(CA_VARIABLE).map(PathBuf::from)),
        }
    }

    /// The client of the server that was named; None: the data folder is meant.
    pub fn client(&self) -> Result<Option<Client>, Failure> {
        self.url.as_deref().map(|url| self.client_at(url)).transpose()
    }

    /// The client of the server that `--url` names; None: a variable names one, or nothing does.
    pub fn client_typed(&self) -> Result<Option<Client>, Failure> {
        if self.url_is_typed { self.client() } else { Ok(None) }
    }

    /// The client of the server that was named, to look at it: also without a key, and then why there is none.
    pub fn to_look_at(&self) -> Result<Option<(Client, Option<Failure>)>, Failure> {
        let Some(url) = &self.url else { return Ok(None) };
        let (key, why) = match self.key() {
            Ok(key) => (key, None),
            Err(failure) => ("", Some(failure)),
        };
        Ok(Some((Client::new(url, key, self.ca.as_deref())?, why)))
    }

    fn client_at(&self, url: &str) -> Result<Client, Failure> {
        Client::new(url, self.key()?, self.ca.as_deref())
    }

    fn key(&self) -> Result<&str, Failure> {
        let key = self.key.as_deref().map(str::trim).unwrap_or_default();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
            let fix = format!("set {KEY_VARIABLE}, or add --key sk-…; lyceum keys create makes one");
            let why = "a server answers keys only";
            return Err(Failure::new(Exit::Auth, "missing_api_key", "no API key", why, fix));
        }
        Ok(key)
    }
}

/// Which server `ps` and `stop` mean where no URL says it: the one of this machine's configuration.
#[derive(Debug, clap::Args)]
pub struct Server {
    /// The server's address
    #[arg(long, conflicts_with = "url")]
    host: Option<String>,
    /// The server's port
    #[arg(long, conflicts_with = "url")]
    port: Option<u16>,
}

impl Server {
    pub fn client(&self, context: &Context) -> Result<Client, Failure> {
        let is_named = self.host.is_some() || self.port.is_some();
        if !is_named && let Some(client) = context.access.client()? {
            return Ok(client);
        }
        let host = self.host.as_ref().unwrap_or(&context.config.host.value);
        let port = self.port.unwrap_or(context.config.port.value);
        let host =
            if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.clone() };
        let has_tls = self.host.is_none() && context.config.tls_cert.value.is_some();
        let scheme = if has_tls { "https" } else { "http" };
        context.access.client_at(&format!("{scheme}://{host}:{port}"))
    }
}

/// A part of a path: a model's name may have a slash.
pub fn path_of(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' | b':' => {
                path.push(char::from(byte));
            }
            _ => path += &format!("%{byte:02X}"),
        }
    }
    path
}

/// What a server sends as a file.
pub struct Archive {
    /// As the server calls it.
    pub name: String,
    pub n_bytes: Option<u64>,
    pub body: ureq::BodyReader<'static>,
}

/// As whom a server is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// It is told no key.
    Nobody,
    Key,
}

/// An answer as it came, whatever its status.
pub struct Looked {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Looked {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What the server says, as a failure of the command.
    pub fn refusal(&self) -> Failure {
        refusal(self.status, &self.json())
    }
}

/// A server, and the key that it is asked with.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    /// Without a slash at its end.
    url: String,
    key: String,
}

impl Client {
    /// # Errors
    /// A URL that is none, certificates that cannot be read.
    fn new(url: &str, key: &str, ca: Option<&Path>) -> Result<Self, Failure> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let rest = rest.filter(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']));
        let Some(rest) = rest else {
            let why = "it is http:// or https://, a host and a port, and the key stands elsewhere";
            return Err(Failure::usage(
                "the URL of the server is none",
                why,
                "write --url https://HOST:8317",
            ));
        };
        if url.starts_with("http://") && !is_loopback(rest) {
            output::note("the key goes over the network unencrypted: https:// would hide it");
        }
        let pem = ca.map(|path| files::read_bytes(path, CERTIFICATES_BYTES_MAX)).transpose()?;
        let agent = lyceum_hub::agent::agent(pem.as_deref(), READ_TIMEOUT).map_err(|why| {
            let message = format!("{} gives no certificates", ca.unwrap_or(Path::new("")).display());
            Failure::usage(
                message,
                why,
                "give a PEM file of the authority that signed the server's certificate",
            )
        })?;
        Ok(Client { agent, url: url.trim_end_matches('/').to_owned(), key: key.to_owned() })
    }

    /// Without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether its key is one of an organisation, which administers and asks no model.
    pub fn administers(&self) -> bool {
        self.key.starts_with("sk-admin-")
    }

    /// What is answered at a path, whatever it is.
    ///
    /// # Errors
    /// Why nothing is.
    pub fn look(&self, path: &str, whom: Whom) -> Result<Looked, String> {
        let mut request = ureq::http::Request::builder().uri(format!("{}{path}", self.url));
        if whom == Whom::Key {
            request = request.header("authorization", format!("Bearer {}", self.key));
        }
        let request = request.body(()).map_err(|error| error.to_string())?;
        let request = self.agent.configure_request(request).timeout_global(Some(LOOK_TIMEOUT)).build();
        let begun = std::time::Instant::now();
        let answer = self.agent.run(request).map_err(|error| error.to_string())?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.into_body().into_with_config().limit(LOOKED_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| error.to_string())?;
        Ok(Looked { status, headers, body, took: begun.elapsed() })
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(self.ask("GET", path, None, "application/json")?)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(self.ask("POST", path, Some(body), "application/json")?)
    }

    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.json(self.ask("DELETE", path, None, "application/json")?)
    }

    /// A document in the form that is wanted.
    pub fn text(&self, path: &str, media_type: &str) -> Result<String, Failure> {
        let bytes = self.whole(self.checked(self.ask("GET", path, None, media_type)?)?)?;
        String::from_utf8(bytes).map_err(|error| self.unreachable(error.to_string()))
    }

    /// An archive that is made while it comes.
    pub fn archive(&self, path: &str) -> Result<Archive, Failure> {
        let answer = self.checked(self.ask("GET", path, None, "*/*")?)?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let name = header("content-disposition").and_then(|text| text.split('"').nth(1));
        let name = name.unwrap_or_default().to_owned();
        let n_bytes = header("content-length").and_then(|text| text.parse().ok());
        Ok(Archive { name, n_bytes, body: answer.into_body().into_reader() })
    }

    /// Bytes as they come.
    pub fn download(&self, path: &str, to: &mut dyn Write) -> Result<u64, Failure> {
        let answer = self.checked(self.ask("GET", path, None, "*/*")?)?;
        let mut reader = answer.into_body().into_reader();
        std::io::copy(&mut reader, to).map_err(|error| self.unreachable(error.to_string()))
    }

    /// The events of a stream, until it ends or `each` says that nobody listens any more.
    pub fn events(
        &self,
        path: &str,
        body: &Value,
        mut each: impl FnMut(&Value) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let answer = self.checked(self.ask("POST", path, Some(body), "text/event-stream")?)?;
        let mut reader = BufReader::new(answer.into_body().into_reader());
        let mut line = String::new();
        loop {
            line.clear();
            let read = (&mut reader).take(EVENT_BYTES_MAX).read_line(&mut line);
            if read.map_err(|error| self.unreachable(error.to_string()))? == 0 {
                return Err(self.unreachable("the stream broke off before its end".into()));
            }
            let Some(data) = line.strip_prefix("data:") else { continue };
            if data.trim() == "[DONE]" {
                return Ok(());
            }
            let event: Value = serde_json::from_str(data)
                .map_err(|error| self.unreachable(format!("an event is no JSON: {error}")))?;
            if event.get("error").is_some_and(|error| !error.is_null()) {
                return Err(refusal(status_of(&event["error"]), &event));
            }
            each(&event)?;
        }
    }

    /// As [`events`](Self::events), of work that is silent for long: who ends the command does not wait for the next event,
    /// and the server sees the connection go.
    pub fn events_while(
        &self,
        path: &str,
        body: &Value,
        control: &Control,
        mut each: impl FnMut(&Value),
    ) -> Result<(), Failure> {
        let (say, hear) = mpsc::sync_channel(EVENTS_WAITING_MAX);
        let (client, path, body) = (self.clone(), path.to_owned(), body.clone());
        std::thread::spawn(move || {
            let left = || Failure::interrupted("nobody listens");
            let told = |event: &Value| say.send(Ok(event.clone())).map_err(|_| left());
            if let Err(failure) = client.events(&path, &body, told) {
                // Nobody listens where it was ended.
                let _ = say.send(Err(failure));
            }
        });
        loop {
            if control.check().is_err() {
                return Err(Failure::interrupted("the server ends it and keeps nothing half-written"));
            }
            match hear.recv_timeout(LOOK) {
                Ok(Ok(event)) => each(&event),
                Ok(Err(failure)) => return Err(failure),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Brings a file to the server, in pieces: its description there.
    pub fn upload(&self, path: &Path, purpose: &str) -> Result<Value, Failure> {
        let file = std::fs::File::open(path).map_err(|error| Failure::file("read", path, &error))?;
        if path.is_dir() {
            let why = "a server is brought files, one at a time";
            let fix = "bring it as one file: .zip, .tar or .tar.gz";
            return Err(Failure::usage(format!("{} is a folder", path.display()), why, fix));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
        if name.contains(['"', '\\', '\r', '\n']) {
            let message = format!("{name:?} cannot be the name of a file there");
            return Err(Failure::usage(message, "a form puts it between quotes", "rename it"));
        }
        let fields = [("purpose", purpose)];
        self.form("/v1/files", &fields, ("file", name), file)
    }

    /// Brings a part of an upload: what is read until its end.
    pub fn part(&self, upload: &str, bytes: impl Read) -> Result<Value, Failure> {
        self.form(&format!("/v1/uploads/{}/parts", path_of(upload)), &[], ("data", "part"), bytes)
    }

    /// A form with fields and one file, whose bytes go as they are read.
    fn form(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        (field, name): (&str, &str),
        bytes: impl Read,
    ) -> Result<Value, Failure> {
        let mut random = [0; 16];
        getrandom::fill(&mut random)
            .map_err(|error| Failure::internal("there are no random numbers", &error))?;
        let boundary: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut head = String::new();
        for (name, value) in fields {
            head += &format!(
                "--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
            );
        }
        head += &format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"{field}\"; filename=\"{name}\"\r\n\
             content-type: application/octet-stream\r\n\r\n"
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let mut form = head.as_bytes().chain(bytes).chain(tail.as_bytes());
        let answer = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.key))
            .header("content-type", format!("multipart/form-data; boundary={boundary}"))
            .send(SendBody::from_reader(&mut form));
        self.json(answer.map_err(|error| self.unreachable(error.to_string()))?)
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        accept: &str,
    ) -> Result<Response<Body>, Failure> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.key))
            .header("accept", accept);
        let bad = |error: ureq::http::Error| {
            Failure::usage("the server cannot be asked for this", error.to_string(), "check --url and --key")
        };
        let answer = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json");
                self.agent.run(request.body(body.to_string()).map_err(bad)?)
            }
            None => self.agent.run(request.body(()).map_err(bad)?),
        };
        answer.map_err(|error| self.unreachable(error.to_string()))
    }

    fn json(&self, answer: Response<Body>) -> Result<Value, Failure> {
        let bytes = self.whole(self.checked(answer)?)?;
        serde_json::from_slice(&bytes)
            .map_err(|_| self.unreachable("what answers there speaks another protocol".into()))
    }

    /// An answer that is no refusal.
    fn checked(&self, answer: Response<Body>) -> Result<Response<Body>, Failure> {
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let bytes = self.whole(answer)?;
        match serde_json::from_slice(&bytes) {
            Ok(body) => Err(refusal(status, &body)),
            Err(_) => Err(self.unreachable(format!("what answers there is no Lyceum: status {status}"))),
        }
    }

    fn whole(&self, answer: Response<Body>) -> Result<Vec<u8>, Failure> {
        let body = answer.into_body().into_with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        body.map_err(|error| self.unreachable(error.to_string()))
    }

    fn unreachable(&self, why: String) -> Failure {
        let fix =
            "start it with lyceum serve, say where it is with --url, and for a private certificate --ca FILE";
        let message = format!("no server answers at {}", self.url);
        Failure::new(Exit::Unreachable, "unreachable", message, why, fix)
    }
}

fn is_loopback(rest: &str) -> bool {
    let authority = rest.split('/').next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The status that an error of a stream would have had as an answer.
fn status_of(error: &Value) -> u16 {
    match (error["type"].as_str(), error["code"].as_str()) {
        (_, Some("not_found" | "model_not_found")) => 404,
        (Some("permission_error"), _) => 403,
        (Some("invalid_request_error"), _) => 400,
        _ => 500,
    }
}

/// What the server says, as a failure of the command.
fn refusal(status: u16, body: &Value) -> Failure {
    let error = &body["error"];
    let exit = match status {
        401 | 403 => Exit::Auth,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        429 => Exit::Quota,
        _ => Exit::Failed,
    };
    let text = |field: &str, default: &str| {
        let text = error[field].as_str().unwrap_or(default);
        text.chars().take(WORDS_CHARS_MAX).collect::<String>()
    };
    let fix = match exit {
        Exit::NotFound => "lyceum ls with the same --url shows what there is",
        Exit::Auth => "give a key that may do this; lyceum keys on the server's machine shows them",
        Exit::Quota => "try again later, or ask for a higher limit",
        Exit::Conflict => "look at its state first",
        _ if status < 500 => "correct the request; the command's --help says what it takes",
        _ => "the server's log says more",
    };
    let why = format!("the server answered with status {status}");
    let key = error["param"].as_str().map(str::to_owned);
    // The place is shown before the words, which begin with it too.
    let message = text("message", "the server refused");
    let message = match key.as_ref().and_then(|key| message.strip_prefix(key)?.strip_prefix(": ")) {
        Some(rest) => rest.to_owned(),
        None => message,
    };
    let mut failure = Failure::new(exit, text("code", "refused"), message, why, fix);
    failure.place.key = key;
    failure.others = problems(error, exit);
    failure
}

/// What is wrong with a file, each at its place as a command says it where the file is.
fn problems(error: &Value, exit: Exit) -> Vec<Failure> {
    let listed = error["problems"]["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let counts = error["problems"]["counts"].as_object();
    let n_errors: u64 = counts.into_iter().flat_map(|counts| counts.values()).filter_map(Value::as_u64).sum();
    let why = match n_errors as usize {
        n if n > listed.len() => format!("the data has {n} errors; the first {} are shown", listed.len()),
        1 => "the data cannot be used as it stands".to_owned(),
        n => format!("the data has {n} errors"),
    };
    let failure = |problem: &Value| {
        let text = |field: &str| {
            let text = problem[field].as_str()?;
            Some(text.chars().take(WORDS_CHARS_MAX).collect::<String>())
        };
        let words = |field: &str| text(field).unwrap_or_default();
        let mut failure = Failure::new(exit, words("code"), words("message"), why.clone(), words("hint"));
        failure.place = Place {
            file: text("file"),
            line: problem["line"].as_u64().map(|line| line as usize),
            column: None,
            key: text("column").or_else(|| text("pointer")),
        };
        failure
    };
    listed.iter().map(failure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_keeps_the_servers_words_and_has_its_own_exit() {
        let body = json!({"error": {"message": "gone", "code": "not_found", "param": "model"}});
        let failure = refusal(404, &body);
        assert_eq!(
            (failure.exit, failure.message.as_str(), failure.code.as_ref(), failure.place.key.as_deref()),
            (Exit::NotFound, "gone", "not_found", Some("model"))
        );
        let body = json!({"error": {"message": "n: 0 is too few", "code": "invalid_value", "param": "n"}});
        assert_eq!(refusal(400, &body).message, "0 is too few");
    }

    #[test]
    fn a_file_that_is_refused_is_told_line_by_line() {
        let problem = |line: u64, code: &str| {
            json!({"file": "a.jsonl", "line": line, "column": null,
            "pointer": "/messages/0/role", "code": code, "message": "unknown role", "hint": "write user"})
        };
        let body = json!({"error": {"message": "file: the file has 3 errors", "code": "invalid_file", "param": "file",
            "problems": {"errors": [problem(2, "unknown_role"), problem(7, "blank_line")],
                "counts": {"unknown_role": 2, "blank_line": 1}}}});
        let failure = refusal(400, &body);
        assert_eq!((failure.code.as_ref(), failure.others.len()), ("invalid_file", 2));
        let first = &failure.others[0];
        assert_eq!((first.code.as_ref(), first.fix.as_str()), ("unknown_role", "write user"));
        assert_eq!((first.place.line, first.place.key.as_deref()), (Some(2), Some("/messages/0/role")));
        assert!(first.why.contains("3 errors; the first 2"), "{}", first.why);
        assert_eq!(failure.others[1].place.line, Some(7));
    }

    #[test]
    fn names_become_paths_and_urls_are_judged() {
        assert_eq!(path_of("org/tiny@2"), "org%2Ftiny@2");
        assert_eq!(path_of("a?b c"), "a%3Fb%20c");
        for (rest, is) in
            [("localhost:1", true), ("127.0.0.1/x", true), ("[::1]:8", true), ("10.0.0.1:80", false)]
        {
            assert_eq!(is_loopback(rest), is, "{rest}");
        }
        for url in ["ftp://a", "https://", "https://u:p@a", "a:1"] {
            assert!(Client::new(url, "sk-secret", None).is_err(), "{url}");
        }
    }

    #[test]
    fn an_address_where_nobody_listens_is_told_without_the_key() {
        let client = Client::new("http://127.0.0.1:9", "sk-secret", None).unwrap();
        let failure = client.get("/v1/models").unwrap_err();
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(!format!("{failure:?}").contains("sk-secret"), "{failure:?}");
    }
}

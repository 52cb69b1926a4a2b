//! A small server of S3's protocol on loopback, with a memory that tests may look into and spoil. It holds what is
//! brought to the sums that the client sends, and does what it was told to do wrong.

use base64::Engine;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Every object was written then, for who asks.
pub const WRITTEN_MS: i64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z
const WRITTEN: &str = "2026-01-01T00:00:00.000Z";
const WRITTEN_HTTP: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// How a request goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused, for good.
    Refused,
    /// Done, and the answer is lost with the connection.
    Lost,
    /// Not done: try again.
    Busy,
}

#[derive(Default)]
pub struct State {
    /// By bucket and key.
    pub objects: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    n_uploads: u64,
    pub n_requests: u64,
    /// What happens to the request of this number.
    pub faults: BTreeMap<u64, Fault>,
}

pub struct Server {
    pub endpoint: String,
    pub state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || {
                    let _ = serve(stream, &state); // a client that leaves
                });
            }
        });
        Self { endpoint, state }
    }
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    fn xml(body: String) -> Self {
        Self { body: body.into_bytes(), ..Self::of(200) }
    }

    fn error(status: u16, code: &str) -> Self {
        Self { status, ..Self::xml(format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>")) }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = read(&mut reader)? {
        let (answer, fault) = {
            let mut state = state.lock().unwrap();
            let fault = {
                let n = state.n_requests;
                state.faults.remove(&n)
            };
            state.n_requests += 1;
            let answer = match fault {
                Some(Fault::Refused) => Answer::error(403, "AccessDenied"),
                Some(Fault::Busy) => Answer::error(503, "SlowDown"),
                Some(Fault::Lost) | None => state.answer(&request),
            };
            (answer, fault)
        };
        if fault == Some(Fault::Lost) {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} X\r\n", answer.status);
        let told = answer.headers.iter().any(|(name, _)| *name == "Content-Length");
        if !told {
            let _ = write!(head, "Content-Length: {}\r\n", answer.body.len());
        }
        for (name, value) in &answer.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            stream.write_all(&answer.body)?;
        }
    }
    Ok(())
}

fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.replace("%2F", "/"))
    };
    let query = query.split('&').filter(|part| !part.is_empty()).map(pair).collect();
    let (method, path) = (method.to_owned(), path.trim_start_matches('/').to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, query, headers, body }))
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let signed =
            request.headers.get("authorization").is_some_and(|text| text.starts_with("AWS4-HMAC-SHA256"));
        if !signed {
            return Answer::error(403, "AccessDenied");
        }
        let digest = Sha256::digest(&request.body);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let sums = [
            ("x-amz-content-sha256", hex.clone()),
            ("x-amz-checksum-sha256", base64::engine::general_purpose::STANDARD.encode(digest)),
        ];
        for (name, sum) in sums {
            let sent = request.headers.get(name);
            if sent.is_some_and(|sent| *sent != sum && sent != "UNSIGNED-PAYLOAD") {
                return Answer::error(400, "BadDigest");
            }
        }
        let etag = format!("\"{}\"", &hex[..32]);
        let part = request.query.get("partNumber").and_then(|text| text.parse().ok());
        match (request.method.as_str(), request.query.get("uploadId"), part) {
            ("PUT", Some(id), Some(part)) => {
                let Some(parts) = self.uploads.get_mut(id) else { return Answer::error(404, "NoSuchUpload") };
                parts.insert(part, request.body.clone());
                Answer { headers: vec![("ETag", etag)], ..Answer::of(200) }
            }
            ("POST", Some(id), _) => {
                // Asked again after a lost answer, it is done already.
                if let Some(parts) = self.uploads.remove(id) {
                    self.objects.insert(request.path.clone(), parts.into_values().flatten().collect());
                }
                Answer::xml(format!(
                    "<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
                ))
            }
            ("DELETE", Some(id), _) => {
                self.uploads.remove(id);
                Answer::of(204)
            }
            ("POST", None, _) => {
                self.n_uploads += 1;
                let id = self.n_uploads.to_string();
                self.uploads.insert(id.clone(), BTreeMap::new());
                Answer::xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("PUT", ..) => {
                let is_there = self.objects.contains_key(&request.path);
                if is_there && request.headers.get("if-none-match").is_some_and(|text| text == "*") {
                    return Answer::error(412, "PreconditionFailed");
                }
                self.objects.insert(request.path.clone(), request.body.clone());
                Answer { headers: vec![("ETag", etag)], ..Answer::of(200) }
            }
            ("DELETE", ..) => {
                self.objects.remove(&request.path);
                Answer::of(204)
            }
            ("GET", ..) if request.query.contains_key("list-type") => self.list(request),
            ("GET" | "HEAD", ..) => self.object(request),
            _ => Answer::error(405, "MethodNotAllowed"),
        }
    }

    fn object(&self, request: &Request) -> Answer {
        let Some(bytes) = self.objects.get(&request.path) else { return Answer::error(404, "NoSuchKey") };
        let mut headers = vec![("ETag", "\"e\"".to_owned()), ("Last-Modified", WRITTEN_HTTP.to_owned())];
        let range = request.headers.get("range").and_then(|text| {
            let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
            Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
        });
        let Some((first, last)) = range else {
            headers.push(("Content-Length", bytes.len().to_string()));
            return Answer { headers, body: bytes.clone(), ..Answer::of(200) };
        };
        if first >= bytes.len() {
            return Answer::error(416, "InvalidRange");
        }
        let last = last.min(bytes.len() - 1);
        headers.push(("Content-Range", format!("bytes {first}-{last}/{}", bytes.len())));
        Answer { headers, body: bytes[first..=last].to_vec(), ..Answer::of(206) }
    }

    fn list(&self, request: &Request) -> Answer {
        let bucket = request.path.trim_end_matches('/');
        let prefix = request.query.get("prefix").map_or("", String::as_str);
        let mut xml = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (path, bytes) in &self.objects {
            let Some(key) = path.strip_prefix(bucket).and_then(|path| path.strip_prefix('/')) else {
                continue;
            };
            if key.starts_with(prefix) {
                let _ = write!(
                    xml,
                    "<Contents><Key>{key}</Key><LastModified>{WRITTEN}</LastModified><ETag>e</ETag>\
                     <Size>{}</Size></Contents>",
                    bytes.len()
                );
            }
        }
        Answer::xml(xml + "</ListBucketResult>")
    }
}

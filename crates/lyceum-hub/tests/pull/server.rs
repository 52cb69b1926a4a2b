//! A hub on this machine: HTTP/1.1 over a socket, files with ranges and hashes, and every way to misbehave.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the hub behaves.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Files of `org/tiny`, and whether each is a large one (with a sha256, behind a redirect).
    pub files: BTreeMap<String, (Vec<u8>, bool)>,
    /// What a caller must show.
    pub token: Option<String>,
    /// Bytes after which a large file's connection is cut, the first time that it is asked for.
    pub cut: Option<usize>,
    /// Cut every time.
    pub cut_always: bool,
    /// Ranges are not understood.
    pub no_ranges: bool,
    /// Large files have another first byte than their hash says.
    pub lies: bool,
    /// The list is refused as busy, this many times.
    pub busy: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// The hub, and the place where its large files lie: another origin.
pub struct Server {
    pub url: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    pub manners: Arc<Mutex<Manners>>,
}

impl Server {
    pub fn start(manners: Manners) -> Self {
        let (hub, store) = (listener(), listener());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (hub_url, store_url) = (url(&hub), url(&store));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let manners = Arc::new(Mutex::new(manners));
        for listener in [hub, store] {
            let (asked, manners, store_url) = (asked.clone(), manners.clone(), store_url.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (asked, manners, store_url) = (asked.clone(), manners.clone(), store_url.clone());
                    std::thread::spawn(move || answer(stream, &asked, &manners, &store_url));
                }
            });
        }
        Server { url: hub_url, asked, manners }
    }

    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn answer(mut stream: TcpStream, asked: &Mutex<Vec<Asked>>, manners: &Mutex<Manners>, store: &str) {
    let Some(request) = read(&stream) else { return };
    asked.lock().unwrap().push(request.clone());
    let mut manners = manners.lock().unwrap();
    let path = request.path.split('?').next().unwrap().to_owned();
    let is_hub = !path.starts_with("/store/");
    if is_hub && manners.token.is_some() && manners.token != request.token {
        return say(&mut stream, "401 Unauthorized", &[], b"{}", &request);
    }
    if path == "/api/models/org/tiny/revision/main" {
        if manners.busy > 0 {
            manners.busy -= 1;
            return say(&mut stream, "503 Service Unavailable", &[], b"", &request);
        }
        let body = list(&manners.files);
        return say(&mut stream, "200 OK", &[], body.as_bytes(), &request);
    }
    if path == "/api/models/org/private/revision/main" {
        return say(&mut stream, "403 Forbidden", &[], b"{}", &request);
    }
    let prefix = format!("/org/tiny/resolve/{COMMIT}/");
    let name = path.strip_prefix(&prefix).or(path.strip_prefix("/store/")).unwrap_or("").to_owned();
    let Some((content, is_large)) = manners.files.get(&name).cloned() else {
        return say(&mut stream, "404 Not Found", &[], b"{}", &request);
    };
    let hash = if is_large { sha256(&content) } else { git(&content) };
    if is_hub && is_large {
        let (size, location) = (content.len().to_string(), format!("{store}/store/{name}?signature=secret"));
        let headers = [
            ("location", location.as_str()),
            ("x-linked-etag", &format!("\"{hash}\"")),
            ("x-linked-size", &size),
            ("x-repo-commit", COMMIT),
        ];
        return say(&mut stream, "302 Found", &headers, b"", &request);
    }
    serve(&mut stream, &mut manners, &request, content, &hash);
}

/// A file's bytes, from where they are asked for.
fn serve(stream: &mut TcpStream, manners: &mut Manners, request: &Asked, mut content: Vec<u8>, hash: &str) {
    let is_large = request.path.starts_with("/store/");
    if manners.lies && is_large {
        content[0] ^= 1;
    }
    let whole = content.len();
    let from = request.range.as_ref().filter(|_| !manners.no_ranges);
    let from: Option<usize> =
        from.map(|r| r.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let (status, start) = match from {
        Some(from) if from >= whole => return say(stream, "416 Range Not Satisfiable", &[], b"", request),
        Some(from) => ("206 Partial Content", from),
        None => ("200 OK", 0),
    };
    let range = format!("bytes {start}-{}/{whole}", whole - 1);
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\netag: \"{hash}\"\r\n");
    if from.is_some() {
        head += &format!("content-range: {range}\r\n");
    }
    head += &format!("content-length: {}\r\n\r\n", whole - start);
    let cut = manners.cut.filter(|_| is_large);
    if !manners.cut_always && cut.is_some() {
        manners.cut = None;
    }
    let end = cut.map_or(whole, |n| (start + n).min(whole));
    let _ = stream.write_all(head.as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(&content[start..end]);
    }
}

fn say(stream: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8], request: &Asked) {
    let mut head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let _ = stream.write_all(format!("{head}\r\n").as_bytes());
    if request.method != "HEAD" {
        let _ = stream.write_all(body);
    }
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    let mut asked = Asked { method: words.next()?, path: words.next()?, range: None, token: None };
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "range" => asked.range = Some(value.trim().to_owned()),
            "authorization" => asked.token = value.trim().strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Some(asked)
}

fn list(files: &BTreeMap<String, (Vec<u8>, bool)>) -> String {
    let one = |(name, (content, is_large)): (&String, &(Vec<u8>, bool))| {
        let (size, blob) = (content.len(), git(content));
        let lfs = match is_large {
            true => format!(",\"lfs\":{{\"sha256\":\"{}\",\"size\":{size}}}", sha256(content)),
            false => String::new(),
        };
        format!("{{\"rfilename\":\"{name}\",\"size\":{size},\"blobId\":\"{blob}\"{lfs}}}")
    };
    let all: Vec<String> = files.iter().map(one).collect();
    let evil = "{\"rfilename\":\"../../evil.json\",\"size\":1}";
    format!(
        "{{\"sha\":\"{COMMIT}\",\"tags\":[\"license:apache-2.0\"],\"siblings\":[{evil},{}]}}",
        all.join(",")
    )
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn git(content: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", content.len()));
    hash.update(content);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

//! A client of completions as benchmarks need it: one connection a request, moments of every event, and no more work
//! a token than a search for a few bytes, since it shares the machine with what it measures.
//!
//! TTFT is the time from the request to its first token, ITL that between two tokens, as vLLM defines them.

use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(900);

/// Where a server listens, and its key where it wants one.
#[derive(Clone, Debug)]
pub struct Target {
    /// `127.0.0.1:8317`
    pub address: String,
    pub key: Option<String>,
}

/// What one request was told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub status: u16,
    pub retry_after: bool,
    /// Seconds from the request to the head of the answer, to each token, and to the end.
    pub head: f64,
    pub tokens: Vec<f64>,
    pub end: f64,
    /// As the answer counts them.
    pub completion_tokens: usize,
    pub cached_tokens: usize,
    /// Events that end a stream: a reason to finish or an error, and `[DONE]`.
    pub n_endings: usize,
    pub n_done: usize,
    /// The client left before the end.
    pub left: bool,
}

impl Told {
    pub fn ttft(&self) -> Option<f64> {
        self.tokens.first().copied()
    }

    pub fn itl(&self) -> impl Iterator<Item = f64> {
        self.tokens.windows(2).map(|pair| pair[1] - pair[0])
    }
}

impl Target {
    /// `http://HOST:PORT`
    pub fn of_url(url: &str, key: Option<String>) -> Result<Self, Failure> {
        let rest = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match rest.filter(|rest| rest.contains(':') && !rest.contains('/')) {
            Some(address) => Ok(Target { address: address.to_owned(), key }),
            None => {
                let why = "a server is named by its address";
                Err(Failure::usage(format!("{url:?} is no address"), why, "write --url http://HOST:PORT"))
            }
        }
    }

    /// The body of a short answer, and its status.
    pub async fn get(&self, path: &str) -> Result<(u16, String), Failure> {
        let exchange = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            stream.write_all(self.head("GET", path, None).as_bytes()).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
        };
        let text = within(exchange).await.map_err(|why| self.unreachable(&why))?;
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Ok((status(head.as_bytes()).unwrap_or(0), body.to_owned()))
    }

    /// Asks for a stream of completions and hears it to its end, or leaves after `leave` tokens.
    pub async fn stream(&self, body: &Value, leave: Option<usize>) -> Result<Told, Failure> {
        within(self.hear(&body.to_string(), leave)).await.map_err(|why| self.unreachable(&why))
    }

    async fn hear(&self, body: &str, leave: Option<usize>) -> std::io::Result<Told> {
        let began = Instant::now();
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let request = self.head("POST", "/v1/completions", Some(body.len())) + body;
        stream.write_all(request.as_bytes()).await?;
        let mut told = Told::default();
        let (mut bytes, mut part) = (Vec::new(), vec![0; 16 << 10]);
        loop {
            let n = stream.read(&mut part).await?;
            let now = began.elapsed().as_secs_f64();
            told.end = now;
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&part[..n]);
            if told.status == 0 {
                let Some(end) = find(&bytes, b"\r\n\r\n") else { continue };
                told.status = status(&bytes[..end]).unwrap_or(0);
                told.retry_after = find(&bytes[..end].to_ascii_lowercase(), b"\r\nretry-after:").is_some();
                told.head = now;
                bytes.drain(..end + 4);
            }
            while let Some(end) = find(&bytes, b"\n\n") {
                told.take(&bytes[..end], now);
                bytes.drain(..end + 2);
            }
            if leave.is_some_and(|n| told.tokens.len() >= n) {
                told.left = true;
                break;
            }
        }
        Ok(told)
    }

    fn head(&self, method: &str, path: &str, length: Option<usize>) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        if let Some(key) = &self.key {
            head += &format!("authorization: Bearer {key}\r\n");
        }
        if let Some(length) = length {
            head += &format!("content-type: application/json\r\ncontent-length: {length}\r\n");
        }
        head + "\r\n"
    }

    fn unreachable(&self, why: &str) -> Failure {
        let fix = "see that it runs and that the key is right";
        let message = format!("the server at {} does not answer", self.address);
        Failure::new(Exit::Unreachable, "unreachable", message, why, fix)
    }
}

impl Told {
    /// Takes one event in; the frames of the transfer around it do not matter.
    fn take(&mut self, event: &[u8], now: f64) {
        let Some(at) = find(event, b"data: ") else { return };
        let data = &event[at + 6..];
        if data.starts_with(b"[DONE]") {
            self.n_done += 1;
            return;
        }
        let has = |word: &[u8]| find(data, word).is_some();
        let ends = has(b"\"finish_reason\":\"") || has(b"{\"error\":{");
        self.n_endings += usize::from(ends);
        if has(b"\"text\":\"") && !has(b"\"text\":\"\"") {
            self.tokens.push(now);
        }
        let usage = || serde_json::from_slice::<Value>(data).ok().map(|event| event["usage"].clone());
        if has(b"\"completion_tokens\":")
            && let Some(usage) = usage()
        {
            let count = |value: &Value| value.as_u64().unwrap_or(0) as usize;
            self.completion_tokens = count(&usage["completion_tokens"]);
            self.cached_tokens = count(&usage["prompt_tokens_details"]["cached_tokens"]);
        }
    }
}

/// A connection that is kept from one request to the next.
pub struct Connection {
    stream: TcpStream,
    target: Target,
    bytes: Vec<u8>,
}

impl Connection {
    pub async fn to(target: &Target) -> Result<Self, Failure> {
        let stream = within(TcpStream::connect(&target.address)).await;
        let stream = stream.map_err(|why| target.unreachable(&why))?;
        let _ = stream.set_nodelay(true);
        Ok(Connection { stream, target: target.clone(), bytes: Vec::new() })
    }

    /// Asks `/v1/completions` and reads the whole answer; its status.
    pub async fn ask(&mut self, body: &str) -> Result<u16, Failure> {
        let head = self.target.head("POST", "/v1/completions", Some(body.len()));
        let request = head.replace("connection: close\r\n", "") + body;
        let Self { stream, bytes, .. } = self;
        let exchange = async {
            stream.write_all(request.as_bytes()).await?;
            bytes.clear();
            loop {
                if let Some((status, length)) = whole(bytes)
                    && bytes.len() >= length
                {
                    return Ok(status);
                }
                if stream.read_buf(bytes).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
        };
        let told = within(exchange).await;
        told.map_err(|why| self.target.unreachable(&why))
    }
}

/// Status of an answer, and the bytes of all of it, as its head says; none while the head is not whole.
fn whole(bytes: &[u8]) -> Option<(u16, usize)> {
    let end = find(bytes, b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    Some((status(&bytes[..end])?, end + 4 + length))
}

async fn within<T>(exchange: impl Future<Output = std::io::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing came within {} s", TIMEOUT.as_secs())),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).position(|window| window == word)
}

/// A value of the family `name` in Prometheus' text, without labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The smallest sample that so many of all do not exceed (nearest rank).
pub fn percentile(samples: &mut [f64], share: f64) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let rank = (share * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied()
}

/// `{"p50": …, "p90": …, "p99": …}` in milliseconds.
pub fn percentiles(mut seconds: Vec<f64>) -> Value {
    let mut at = |share| percentile(&mut seconds, share).map(|s| s * 1e3);
    serde_json::json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_for_what_they_say() {
        let mut told = Told::default();
        for (i, event) in [
            "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}],\"usage\":null}",
            "9f\r\ndata: {\"choices\":[{\"text\":\"b\",\"finish_reason\":null}]}",
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}",
            ": keep-alive",
            "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":32}}}",
            "data: [DONE]",
        ]
        .iter()
        .enumerate()
        {
            told.take(event.as_bytes(), i as f64);
        }
        assert_eq!((told.tokens.clone(), told.ttft()), (vec![0.0, 1.0], Some(0.0)));
        assert_eq!((told.n_endings, told.n_done), (1, 1));
        assert_eq!((told.completion_tokens, told.cached_tokens), (2, 32));
        told.take(b"data: {\"error\":{\"message\":\"x\"}}", 7.0);
        assert_eq!(told.n_endings, 2);
    }

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(whole(answer), Some((200, answer.len())));
        assert_eq!(whole(&answer[..30]), None);
    }

    #[test]
    fn percentiles_are_samples_and_metrics_are_found_by_their_whole_name() {
        let mut samples: Vec<f64> = (1..=100).map(f64::from).rev().collect();
        assert_eq!([0.5, 0.9, 0.99].map(|p| percentile(&mut samples, p)), [50.0, 90.0, 99.0].map(Some));
        assert_eq!(percentile(&mut [], 0.5), None);
        assert_eq!(metric("# HELP a b\na_total 2\na 3\n", "a"), Some(3.0));
        assert!(Target::of_url("https://x", None).is_err() && Target::of_url("http://a:1/", None).is_ok());
    }
}

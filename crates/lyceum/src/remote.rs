//! Asking a running server: one small request over plain HTTP/1.1 to the address that `serve` listens on.

use crate::context::Context;
use crate::failure::{Exit, Failure};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The variable that has the key where no flag does.
pub const KEY_VARIABLE: &str = "LYCEUM_API_KEY";
/// How long an answer may take, and how large it may be.
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, clap::Args)]
pub struct Server {
    /// The server's address
    #[arg(long)]
    host: Option<String>,
    /// The server's port
    #[arg(long)]
    port: Option<u16>,
    /// The API key; default: the variable LYCEUM_API_KEY
    #[arg(long, value_name = "SK")]
    key: Option<String>,
}

impl Server {
    /// The body of the server's answer.
    ///
    /// # Errors
    /// It cannot be reached, or it refuses: what it says.
    pub async fn ask(&self, context: &Context, method: &str, path: &str) -> Result<Value, Failure> {
        let host = self.host.as_ref().unwrap_or(&context.config.host.value);
        let port = self.port.unwrap_or(context.config.port.value);
        let key = self.key.clone().or_else(|| std::env::var(KEY_VARIABLE).ok()).unwrap_or_default();
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_graphic()) {
            let fix = format!("add --key sk-…, or set {KEY_VARIABLE}; lyceum keys create makes one");
            return Err(Failure::new(
                Exit::Auth,
                "missing_api_key",
                "no API key",
                "a server answers keys only",
                fix,
            ));
        }
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
        );
        let exchange = async {
            let mut stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.write_all(head.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let unreachable = |why: String| {
            let fix = "start it with lyceum serve, or say where it is with --host and --port";
            Failure::new(
                Exit::Unreachable,
                "unreachable",
                format!("no server answers at {host}:{port}"),
                why,
                fix,
            )
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Err(_) => Err(unreachable(format!("nothing came within {} s", TIMEOUT.as_secs()))),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Ok(Ok(answer)) => match parse(&answer) {
                Some((status, body)) => read(status, body),
                None => Err(unreachable("what answers there speaks another protocol".into())),
            },
        }
    }
}

/// The status and the JSON of an answer whose body is as long as its head says.
fn parse(answer: &[u8]) -> Option<(u16, Value)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, serde_json::from_slice(&answer[end + 4..]).ok()?))
}

fn read(status: u16, body: Value) -> Result<Value, Failure> {
    if status < 400 {
        return Ok(body);
    }
    let exit = match status {
        401 | 403 => Exit::Auth,
        404 => Exit::NotFound,
        429 => Exit::Quota,
        _ => Exit::Failed,
    };
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or("the server refused").to_owned();
    let code = error["code"].as_str().unwrap_or("refused").to_owned();
    let why = format!("the server answered with status {status}");
    let fix = match exit {
        Exit::NotFound => "lyceum ps shows what is loaded, lyceum ls what there is",
        Exit::Auth => "give a key with the scope inference; lyceum keys shows them",
        _ => "its log says more",
    };
    Err(Failure::new(exit, code, message, why, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_servers_words_and_has_its_own_exit() {
        let answer = b"HTTP/1.1 404 Not Found\r\na: b\r\n\r\n{\"error\":{\"message\":\"gone\",\"code\":\"not_found\"}}";
        let (status, body) = parse(answer).unwrap();
        let failure = read(status, body).unwrap_err();
        assert_eq!(
            (failure.exit, failure.message.as_str(), failure.code.as_ref()),
            (Exit::NotFound, "gone", "not_found")
        );
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\nwords").is_none());
    }
}

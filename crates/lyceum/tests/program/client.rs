//! A client of a server that a test started: one connection a request.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

const BOUNDARY: &str = "5b1c7d90a2";

pub struct Client {
    pub address: String,
    pub key: String,
}

impl Client {
    /// A request that is sent, and whose answer is not read. `more` are further lines of its head.
    pub fn open(&self, method: &str, path: &str, more: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             {more}content-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    /// The status and the body.
    pub fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        answer_of(self.open(method, path, &format!("content-type: {kind}\r\n"), body))
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.send("POST", path, "application/json", body.to_string().as_bytes());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.send("GET", path, "application/json", b"").1).unwrap()
    }

    /// Brings a file for a purpose; its id.
    #[track_caller]
    pub fn bring(&self, purpose: &str, name: &str, text: &str) -> String {
        let body = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n--{BOUNDARY}\r\n\
             content-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{text}\r\n--{BOUNDARY}--\r\n"
        );
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let (status, answer) = self.send("POST", "/v1/files", &kind, body.as_bytes());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned()
    }
}

/// The status and the body of an answer.
pub fn answer_of(mut stream: TcpStream) -> (u16, String) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

/// The processes that a process started.
#[cfg(target_os = "linux")]
pub fn children_of(process: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        after.split_whitespace().nth(1) == Some(&process.to_string())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

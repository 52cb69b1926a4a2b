//! HTTP, one request at a time: redirects are followed here, so that the token is shown to the hub itself alone and no
//! redirect leads from https to http.

use crate::agent::agent;
use crate::{HubError, Settings};
use std::path::PathBuf;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

/// How long a hub may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS_MAX: usize = 10;
/// The largest list of a repository's files.
const LIST_BYTES_MAX: u64 = 32 << 20;

pub(crate) struct Http {
    agent: Agent,
    pub endpoint: String,
    token: Option<String>,
}

/// An answer, and the headers of every answer on the way, the first in front.
pub(crate) struct Reply {
    pub response: Response<Body>,
    pub way: Vec<HeaderMap>,
}

impl Reply {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The first answer's word counts: a hub describes the file, its store only the bytes.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.way.iter().find_map(|headers| headers.get(name)).and_then(|value| value.to_str().ok())
    }

    /// Of the last answer.
    pub fn last_header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }
}

/// Which redirects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    All,
    /// Those within the hub: what leads to another host is the answer.
    Relative,
}

impl Http {
    /// # Errors
    /// The file of certificates has none, or cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, HubError> {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(HubError::file("read the certificates of SSL_CERT_FILE,", path))
        };
        let pem = settings.roots.as_ref().map(read).transpose()?;
        let agent = agent(pem.as_deref(), READ_TIMEOUT).map_err(|why| HubError::Certificates {
            path: settings.roots.clone().unwrap_or_default(),
            why,
        })?;
        let (endpoint, token) = (settings.endpoint.clone(), settings.token.clone());
        Ok(Http { agent, endpoint, token })
    }

    pub fn head(&self, url: &str) -> Result<Reply, HubError> {
        self.ask(url, Follow::Relative, |url, token| {
            let mut request = self.agent.head(url).header("accept-encoding", "identity");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            request.call()
        })
    }

    /// From this byte on.
    pub fn get(&self, url: &str, from: u64) -> Result<Reply, HubError> {
        self.ask(url, Follow::All, |url, token| {
            let mut request = self.agent.get(url).header("accept-encoding", "identity");
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            request.call()
        })
    }

    /// A JSON document.
    pub fn json(&self, reply: Reply, url: &str) -> Result<serde_json::Value, HubError> {
        let body = reply.response.into_body().into_with_config().limit(LIST_BYTES_MAX).read_to_vec();
        let body = body.map_err(|error| network(url, error))?;
        serde_json::from_slice(&body).map_err(|error| network(url, format!("its answer is no JSON: {error}")))
    }

    fn ask(
        &self,
        url: &str,
        follow: Follow,
        call: impl Fn(&str, Option<&str>) -> Result<Response<Body>, ureq::Error>,
    ) -> Result<Reply, HubError> {
        let (mut url, mut way) = (url.to_owned(), Vec::new());
        for _ in 0..=REDIRECTS_MAX {
            let is_hub = origin(&url) == origin(&self.endpoint);
            let token = self.token.as_deref().filter(|_| is_hub);
            let response = call(&url, token).map_err(|error| network(&url, error))?;
            way.push(response.headers().clone());
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let Some(location) = location.filter(|_| response.status().is_redirection()) else {
                return Ok(Reply { response, way });
            };
            let next = absolute(&url, location);
            if follow == Follow::Relative && origin(&next) != origin(&url) {
                return Ok(Reply { response, way });
            }
            if url.starts_with("https://") && !next.starts_with("https://") {
                return Err(network(&url, "it redirects to a place without https"));
            }
            url = next;
        }
        Err(network(&url, format!("it redirects more than {REDIRECTS_MAX} times")))
    }
}

pub(crate) fn network(url: &str, problem: impl std::fmt::Display) -> HubError {
    // What follows a question mark may be a signature.
    let url = url.split('?').next().unwrap_or(url).to_owned();
    HubError::Network { url, problem: problem.to_string() }
}

/// `https://host:port`
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    &url[..end]
}

fn absolute(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{}://{rest}", base.split("://").next().unwrap_or("https"));
    }
    if location.starts_with('/') {
        return format!("{}{location}", origin(base));
    }
    let path = base.split(['?', '#']).next().unwrap_or(base);
    let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
    format!("{folder}/{location}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        assert_eq!(origin("https://a:1/b?c"), "https://a:1");
        assert_eq!(origin("https://a?c"), "https://a");
        assert_ne!(origin("https://hub.example"), origin("https://hub.example.evil/x"));
        for (location, expected) in [
            ("/x?y", "https://a/x?y"),
            ("z", "https://a/b/z"),
            ("//c/d", "https://c/d"),
            ("http://e/f", "http://e/f"),
        ] {
            assert_eq!(absolute("https://a/b/c?d=/e", location), expected);
        }
    }
}

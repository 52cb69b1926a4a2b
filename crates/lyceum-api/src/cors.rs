//! Pages of other origins in a browser: whose scripts may ask this server and read what it answers
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>). Nobody's, unless the operator names them. Cookies are never
//! meant: a key stands in a header that the page itself writes.

use axum::http::HeaderValue;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, Any, CorsLayer};

/// How long a browser may remember what it was told.
const REMEMBERED: Duration = Duration::from_secs(600);
const ORIGINS_MAX: usize = 64;

/// The origins that are let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    #[default]
    None,
    Any,
    These(Vec<HeaderValue>),
}

impl Origins {
    /// The layer that answers preflights and marks answers; None where no origin is let in.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        let origins = match self {
            Origins::None => return None,
            Origins::Any => AllowOrigin::any(),
            Origins::These(origins) => AllowOrigin::list(origins.iter().cloned()),
        };
        let layer = CorsLayer::new()
            .allow_origin(origins)
            // "*" would leave out Authorization.
            .allow_headers(AllowHeaders::mirror_request())
            .allow_methods(AllowMethods::mirror_request())
            .expose_headers(Any)
            .max_age(REMEMBERED);
        Some(layer)
    }
}

/// `none`, `*`, or origins with commas between them.
impl FromStr for Origins {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "none" => return Ok(Origins::None),
            "*" => return Ok(Origins::Any),
            _ => {}
        }
        let origins = text.split(',').map(|part| origin(part.trim())).collect::<Result<Vec<_>, _>>()?;
        if origins.len() > ORIGINS_MAX {
            return Err(format!("{} origins are more than {ORIGINS_MAX}", origins.len()));
        }
        Ok(Origins::These(origins))
    }
}

/// As browsers write one: scheme, host and port, in small letters, without anything behind.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_origin = rest.is_some_and(|rest| {
        !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_graphic() && !b"/?#@*".contains(&b) && !b.is_ascii_uppercase())
    });
    let shape =
        "an origin is as https://app.example or http://localhost:3000, without a path, or * alone for all";
    if !is_origin {
        return Err(format!("{text:?} is no origin: {shape}"));
    }
    let rest = rest.unwrap_or_default();
    // The colons of an address of version 6 stand in brackets.
    let after_host = rest.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match rest[after_host..].split_once(':') {
        Some((name, port)) => (&rest[..after_host + name.len()], Some(port)),
        None => (rest, None),
    };
    if host.is_empty() || host == "[]" {
        return Err(format!("{text:?} is no origin: it has no host; {shape}"));
    }
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        let Some(number) = port.parse::<u16>().ok().filter(|_| digits) else {
            return Err(format!("{text:?} is no origin: {port:?} is no port; {shape}"));
        };
        let usual = if text.starts_with("https://") { 443 } else { 80 };
        if number == usual {
            let without = text.strip_suffix(port).and_then(|text| text.strip_suffix(':')).unwrap_or(text);
            return Err(format!(
                "{text:?} is never sent: browsers leave the port {usual} out; write {without}"
            ));
        }
    }
    HeaderValue::from_str(text).map_err(|_| format!("{text:?} is no origin: {shape}"))
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origins::None => f.write_str("none"),
            Origins::Any => f.write_str("*"),
            Origins::These(origins) => {
                let texts: Vec<&str> = origins.iter().filter_map(|origin| origin.to_str().ok()).collect();
                f.write_str(&texts.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_as_browsers_write_them() {
        assert_eq!("none".parse(), Ok(Origins::None));
        assert_eq!(" * ".parse(), Ok(Origins::Any));
        let two: Origins = "https://app.example, http://localhost:3000".parse().unwrap();
        assert_eq!(two.to_string(), "https://app.example, http://localhost:3000");
        for right in ["https://a:80", "http://a:443", "http://[::1]:3000", "http://[::1]"] {
            assert_eq!(right.parse::<Origins>().map(|origins| origins.to_string()), Ok(right.to_owned()));
        }
        let usual = "https://app.example:443".parse::<Origins>().unwrap_err();
        assert!(usual.ends_with("write https://app.example"), "{usual}");
        for wrong in [
            "",
            "app.example",
            "https://",
            "https://a/",
            "https://a/b",
            "https://*.a",
            "HTTPS://a",
            "https://A",
            "https://a,",
            "ftp://a",
            "https://:8443",
            "https://[]:8443",
            "https://a:",
            "https://a:port",
            "https://a:+1",
            "https://a:0",
            "https://a:080",
            "https://a:65536",
            "https://a:1:2",
            "https://a:443",
            "http://a:80",
            "http://[::1]:80",
        ] {
            assert!(wrong.parse::<Origins>().is_err(), "{wrong}");
        }
    }
}

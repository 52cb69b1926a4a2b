//! How a bucket is reached: `s3://BUCKET/PREFIX`, a region or an endpoint, and keys.

use super::Blobs;
use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::{BackoffConfig, RetryConfig};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A bucket and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub bucket: String,
    /// Empty: the bucket is Lyceum's alone.
    pub prefix: String,
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("s3://").ok_or("write `disk` or s3://BUCKET/PREFIX")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(plain) {
            return Err(format!("{bucket:?} is no name of a bucket (3 to 63 of a-z 0-9 - .)"));
        }
        let prefix = prefix.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
        let is_path = prefix.chars().all(plain) && prefix.split('/').all(is_part);
        if !prefix.is_empty() && !is_path {
            return Err(format!("{prefix:?} is no prefix (parts of a-z A-Z 0-9 - _ . between single /)"));
        }
        Ok(Self { bucket: bucket.into(), prefix: prefix.into() })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "s3://{}{slash}{}", self.bucket, self.prefix)
    }
}

/// Who asks. Neither shown nor logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
    /// Of keys that were lent for a time.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// All that is needed to reach a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    pub place: Place,
    pub region: String,
    /// Another server than Amazon's, as `https://HOST:PORT`; the bucket then stands in the path.
    pub endpoint: Option<String>,
    /// Whether an endpoint on another machine may be asked without TLS.
    pub plain_http: PlainHttp,
    pub credentials: Credentials,
}

/// Where `http://` is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainHttp {
    /// What never leaves the machine needs no TLS.
    Loopback,
    Anywhere,
}

/// Opens the bucket; asks it nothing yet.
///
/// # Errors
/// What of the configuration cannot be used.
pub fn open(s3: &S3) -> Result<Blobs, String> {
    // reqwest takes the process's provider; this is the one that everything else here has.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let is_plain = match &s3.endpoint {
        None => false,
        Some(endpoint) => is_plain(endpoint, s3.plain_http)?,
    };
    let options = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout(Duration::from_secs(120))
        .with_allow_http(is_plain);
    let (init_backoff, max_backoff) = (Duration::from_millis(50), Duration::from_secs(5));
    let backoff = BackoffConfig { init_backoff, max_backoff, base: 3.0 };
    let retry = RetryConfig { backoff, max_retries: 4, retry_timeout: Duration::from_secs(60) };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&s3.place.bucket)
        .with_region(&s3.region)
        .with_access_key_id(&s3.credentials.access_key_id)
        .with_secret_access_key(&s3.credentials.secret_access_key)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // The server refuses bytes that changed on their way.
        .with_checksum_algorithm(Checksum::SHA256)
        // Not every server of the protocol removes many in one request.
        .with_disable_bulk_delete(true)
        .with_client_options(options)
        .with_retry(retry);
    if let Some(token) = &s3.credentials.session_token {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/')).with_allow_http(is_plain);
    }
    let objects = builder.build().map_err(|error| error.to_string())?;
    Ok(Blobs::new(Arc::new(objects), &s3.place.prefix, &s3.place.to_string()))
}

/// Whether the endpoint is asked without TLS.
fn is_plain(endpoint: &str, plain_http: PlainHttp) -> Result<bool, String> {
    if endpoint.starts_with("https://") {
        return Ok(false);
    }
    let Some(rest) = endpoint.strip_prefix("http://") else {
        return Err(format!("{endpoint:?} is no endpoint: write https://HOST:PORT"));
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if is_loopback || plain_http == PlainHttp::Anywhere {
        return Ok(true);
    }
    Err(format!(
        "{endpoint} is on another machine and has no TLS: write https://, or allow it with s3_http = \"anywhere\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_buckets_and_plain_prefixes() {
        let place = |text: &str| text.parse::<Place>();
        assert_eq!(place("s3://models").unwrap().to_string(), "s3://models");
        assert_eq!(place("s3://models/a/b/").unwrap().to_string(), "s3://models/a/b");
        for wrong in ["models", "s3://M", "s3://models//a", "s3://models/../a", "s3://models/a?b", "s3://ab"]
        {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn plain_http_stays_on_the_machine_unless_it_is_allowed() {
        for here in ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:9000"] {
            assert_eq!(is_plain(here, PlainHttp::Loopback), Ok(true), "{here}");
        }
        assert_eq!(is_plain("https://s3.example", PlainHttp::Loopback), Ok(false));
        for away in ["http://10.0.0.1:9000", "http://127.0.0.1.example", "http://user@127.0.0.1:1", "ftp://x"]
        {
            assert!(is_plain(away, PlainHttp::Loopback).is_err(), "{away}");
        }
        assert_eq!(is_plain("http://10.0.0.1:9000", PlainHttp::Anywhere), Ok(true));
    }

    #[test]
    fn keys_are_not_shown() {
        let credentials = Credentials {
            access_key_id: "AKIACANARY".into(),
            secret_access_key: "canary".into(),
            session_token: None,
        };
        assert!(!format!("{credentials:?}").to_lowercase().contains("canary"));
    }
}

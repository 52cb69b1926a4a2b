//! The configuration of where the bytes of models and files lie: in the data folder, or in a bucket of S3 or of a server
//! that speaks its protocol. Keys of AWS's own variables hold where Lyceum's configuration names none.

use crate::config::{Origin, Setting, default};
use lyceum_store::blobs::s3::{Credentials, Place, PlainHttp, S3};
use std::ffi::OsString;

pub const KEYS: [&str; 6] =
    ["blobs", "s3_endpoint", "s3_region", "s3_http", "s3_access_key_id", "s3_secret_access_key"];
/// Where AWS's own programs find the region, the stronger last.
const REGIONS: [&str; 2] = ["AWS_DEFAULT_REGION", "AWS_REGION"];
/// What an endpoint without regions takes.
const REGION: &str = "us-east-1";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objects {
    /// None: the data folder.
    pub blobs: Setting<Option<Place>>,
    /// None: Amazon's.
    pub s3_endpoint: Setting<Option<String>>,
    pub s3_region: Setting<String>,
    pub s3_http: Setting<PlainHttp>,
    pub s3_access_key_id: Setting<Option<String>>,
    pub s3_secret_access_key: Setting<Option<Secret>>,
    /// Of keys that were lent for a time; belongs to the keys of the variables.
    session_token: Option<Secret>,
}

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Objects {
    /// What AWS's variables say, and defaults.
    pub fn of_variables(variables: &[(OsString, OsString)]) -> Self {
        let find = |name: &str| {
            let found = variables.iter().find(|(key, value)| key == name && !value.is_empty())?;
            let value = found.1.to_str()?.to_owned();
            Some(Setting { value, origin: Origin::Environment(name.to_owned()) })
        };
        let optional = |name: &str| match find(name) {
            Some(Setting { value, origin }) => Setting { value: Some(value), origin },
            None => default(None),
        };
        let Setting { value, origin } = optional("AWS_SECRET_ACCESS_KEY");
        Self {
            blobs: default(None),
            s3_endpoint: optional("AWS_ENDPOINT_URL_S3"),
            s3_region: REGIONS.iter().rev().find_map(|name| find(name)).unwrap_or(default(REGION.into())),
            s3_http: default(PlainHttp::Loopback),
            s3_access_key_id: optional("AWS_ACCESS_KEY_ID"),
            s3_secret_access_key: Setting { value: value.map(Secret), origin },
            session_token: find("AWS_SESSION_TOKEN").map(|found| Secret(found.value)),
        }
    }

    /// Sets one of [`KEYS`] from its text.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn set(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), String> {
        match key {
            "blobs" => {
                let value = if text == "disk" { None } else { Some(text.parse()?) };
                self.blobs = Setting { value, origin };
            }
            "s3_endpoint" => self.s3_endpoint = Setting { value: Some(text.to_owned()), origin },
            "s3_region" => self.s3_region = Setting { value: text.to_owned(), origin },
            "s3_http" => {
                let value = match text {
                    "loopback" => PlainHttp::Loopback,
                    "anywhere" => PlainHttp::Anywhere,
                    _ => return Err(format!("{text:?} is neither loopback nor anywhere")),
                };
                self.s3_http = Setting { value, origin };
            }
            "s3_access_key_id" => {
                self.s3_access_key_id = Setting { value: Some(text.to_owned()), origin };
                self.session_token = None;
            }
            "s3_secret_access_key" => {
                self.s3_secret_access_key = Setting { value: Some(Secret(text.to_owned())), origin };
                self.session_token = None;
            }
            _ => unreachable!("only known keys are set: bug"),
        }
        Ok(())
    }

    /// Each key with its value as text and its origin; of a secret only whether there is one.
    pub fn rows(&self) -> [(&'static str, String, &Origin); KEYS.len()] {
        let shown = |text: Option<&str>| text.unwrap_or("-").to_owned();
        let place = self.blobs.value.as_ref().map_or_else(|| "disk".to_owned(), Place::to_string);
        let http = match self.s3_http.value {
            PlainHttp::Loopback => "loopback",
            PlainHttp::Anywhere => "anywhere",
        };
        let secret = self.s3_secret_access_key.value.as_ref().map(|_| "(set)");
        [
            ("blobs", place, &self.blobs.origin),
            ("s3_endpoint", shown(self.s3_endpoint.value.as_deref()), &self.s3_endpoint.origin),
            ("s3_region", self.s3_region.value.clone(), &self.s3_region.origin),
            ("s3_http", http.to_owned(), &self.s3_http.origin),
            (
                "s3_access_key_id",
                shown(self.s3_access_key_id.value.as_deref()),
                &self.s3_access_key_id.origin,
            ),
            ("s3_secret_access_key", shown(secret), &self.s3_secret_access_key.origin),
        ]
    }

    /// The bucket, where one is named.
    ///
    /// # Errors
    /// What is missing to reach it.
    pub fn s3(&self) -> Result<Option<S3>, String> {
        let Some(place) = &self.blobs.value else { return Ok(None) };
        let (Some(id), Some(secret)) = (&self.s3_access_key_id.value, &self.s3_secret_access_key.value)
        else {
            return Err(format!(
                "{place} needs keys: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3_access_key_id and s3_secret_access_key"
            ));
        };
        Ok(Some(S3 {
            place: place.clone(),
            region: self.s3_region.value.clone(),
            endpoint: self.s3_endpoint.value.clone(),
            plain_http: self.s3_http.value,
            credentials: Credentials {
                access_key_id: id.clone(),
                secret_access_key: secret.0.clone(),
                session_token: self.session_token.as_ref().map(|token| token.0.clone()),
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Objects {
        let owned: Vec<_> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Objects::of_variables(&owned)
    }

    #[test]
    fn the_keys_of_aws_hold_until_lyceums_own_are_said() {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "canary"),
            ("AWS_SESSION_TOKEN", "t"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_DEFAULT_REGION", "us-west-2"),
        ];
        let mut objects = of(&variables);
        assert_eq!(objects.s3(), Ok(None), "no bucket is named");
        objects.set("blobs", "s3://models/x", Origin::Default).unwrap();
        let s3 = objects.s3().unwrap().unwrap();
        assert_eq!(
            (s3.region.as_str(), s3.credentials.session_token.as_deref()),
            ("eu-central-1", Some("t"))
        );
        assert_eq!(objects.s3_region.origin, Origin::Environment("AWS_REGION".into()));
        assert!(!format!("{objects:?}{:?}", objects.rows()).contains("canary"));
        objects.set("s3_access_key_id", "b", Origin::Default).unwrap();
        let s3 = objects.s3().unwrap().unwrap();
        assert_eq!((s3.credentials.access_key_id.as_str(), s3.credentials.session_token), ("b", None));
    }

    #[test]
    fn a_bucket_without_keys_is_refused() {
        let mut objects = of(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "")]);
        objects.set("blobs", "s3://models", Origin::Default).unwrap();
        assert!(objects.s3().unwrap_err().contains("AWS_SECRET_ACCESS_KEY"));
        assert!(objects.set("blobs", "gs://models", Origin::Default).is_err());
        assert!(objects.set("s3_http", "yes", Origin::Default).is_err());
        objects.set("blobs", "disk", Origin::Default).unwrap();
        assert_eq!(objects.s3(), Ok(None));
    }
}

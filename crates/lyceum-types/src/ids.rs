//! Names and ids that cannot be wrong once they are built: every one is parsed at the edge, and none can
//! be a path part that leads elsewhere.

use crate::limits;
use std::fmt;
use std::str::FromStr;

/// Why a text is not the name or id it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?}: {why}")]
pub struct BadId {
    pub what: &'static str,
    pub text: String,
    pub why: &'static str,
}

fn bad(what: &'static str, text: &str, why: &'static str) -> BadId {
    BadId { what, text: text.chars().take(limits::MODEL_NAME_CHARS_MAX).collect(), why }
}

/// The owner of a row: a tenant and one of its projects. Every store call takes one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Project {
    pub tenant: String,
    pub id: String,
}

impl Project {
    /// The one project of an installation that has not been divided.
    pub fn default_project() -> Self {
        Self { tenant: "default".into(), id: "default".into() }
    }
}

/// A model's name: `digits` or `org/digits`; letters, digits, `.`, `_` and `-`, each part beginning with a
/// letter or digit. A model that was tuned over HTTP is `ft:BASE:PROJECT:SUFFIX:ID`, where BASE is such a name and SUFFIX
/// may be empty; one of its checkpoints has one part more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(String);

impl ModelName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let what = "model name";
        if text.is_empty() || text.len() > limits::MODEL_NAME_CHARS_MAX {
            return Err(bad(what, text, "must have 1 to 128 characters"));
        }
        if let Some(rest) = text.strip_prefix("ft:") {
            return tuned_name(text, rest);
        }
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 2 {
            return Err(bad(what, text, "may have one '/' only, between organisation and name"));
        }
        for part in parts {
            if !part.starts_with(|c: char| c.is_ascii_alphanumeric()) {
                return Err(bad(what, text, "each part must begin with a letter or digit"));
            }
            if !part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
                return Err(bad(what, text, "only letters, digits, '.', '_' and '-' are allowed"));
            }
        }
        Ok(Self(text.to_owned()))
    }
}

/// `BASE:PROJECT:SUFFIX:ID`, and of a checkpoint `:ckpt-step-9`.
fn tuned_name(text: &str, rest: &str) -> Result<ModelName, BadId> {
    let parts: Vec<&str> = rest.split(':').collect();
    let ([base, project, suffix, id] | [base, project, suffix, id, _]) = parts[..] else {
        return Err(bad("model name", text, "a tuned model is ft:BASE:PROJECT:SUFFIX:ID"));
    };
    let is_plain = |part: &str| !part.contains('/') && part.parse::<ModelName>().is_ok();
    let fits = base.parse::<ModelName>().is_ok()
        && (suffix.is_empty() || is_plain(suffix))
        && [project, id].into_iter().chain(parts.get(4).copied()).all(is_plain);
    match fits {
        true => Ok(ModelName(text.to_owned())),
        false => Err(bad("model name", text, "its parts may have letters, digits, '.', '_' and '-'")),
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that points at one version of a model, such as `latest` or `stable`. Never a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Alias(String);

impl Alias {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let what = "alias";
        if text.is_empty() || text.len() > 64 {
            return Err(bad(what, text, "must have 1 to 64 characters"));
        }
        if !text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(bad(what, text, "must begin with a letter (a number is a version)"));
        }
        if !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
            return Err(bad(what, text, "only letters, digits, '.', '_' and '-' are allowed"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which version a reference means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VersionRef {
    /// `name` and `name@latest`: the newest version.
    Latest,
    /// `name@3`
    Number(u32),
    /// `name@stable`
    Alias(Alias),
}

/// How people and requests name a model: `name`, `name@3` or `name@alias`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelRef {
    pub name: ModelName,
    pub version: VersionRef,
}

impl FromStr for ModelRef {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let Some((name, version)) = text.split_once('@') else {
            return Ok(Self { name: text.parse()?, version: VersionRef::Latest });
        };
        let name = name.parse()?;
        let version = if version == "latest" {
            VersionRef::Latest
        } else if version.starts_with(|c: char| c.is_ascii_digit()) {
            match version.parse::<u32>() {
                Ok(number) if number > 0 && !version.starts_with('0') => VersionRef::Number(number),
                _ => return Err(bad("model version", text, "must be a whole number from 1")),
            }
        } else {
            VersionRef::Alias(version.parse()?)
        };
        Ok(Self { name, version })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            VersionRef::Latest => write!(f, "{}", self.name),
            VersionRef::Number(number) => write!(f, "{}@{number}", self.name),
            VersionRef::Alias(alias) => write!(f, "{}@{alias}", self.name),
        }
    }
}

/// `job_` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

/// `sel_` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectionId(String);

/// `file_` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(String);

/// `batch_` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(String);

/// `upload_` and 32 hexadecimal digits: a file that comes in parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(String);

/// `part_` and 32 hexadecimal digits: a part of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartId(String);

/// `key_` and 32 hexadecimal digits: the public id of an API key, never its secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(String);

/// `admin_key_` and 32 hexadecimal digits: the public id of an organisation's key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdminKeyId(String);

/// `user_` and 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// `svc_acct_` and 32 hexadecimal digits: a program that has keys of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAccountId(String);

macro_rules! prefixed_id {
    ($name:ident, $prefix:literal, $what:literal) => {
        impl $name {
            /// The id of `bits`; the caller draws them (a UUID, so that ids sort by creation).
            pub fn from_bits(bits: u128) -> Self {
                Self(format!(concat!($prefix, "{:032x}"), bits))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let digits = text.strip_prefix($prefix).unwrap_or("");
                let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
                if digits.len() != 32 || !digits.chars().all(is_hex) {
                    return Err(bad($what, text, concat!("must be ", $prefix, " and 32 hexadecimal digits")));
                }
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
prefixed_id!(JobId, "job_", "job id");
prefixed_id!(SelectionId, "sel_", "model selection id");
prefixed_id!(FileId, "file_", "file id");
prefixed_id!(BatchId, "batch_", "batch id");
prefixed_id!(UploadId, "upload_", "upload id");
prefixed_id!(PartId, "part_", "part id");
prefixed_id!(KeyId, "key_", "key id");
prefixed_id!(AdminKeyId, "admin_key_", "admin key id");
prefixed_id!(UserId, "user_", "user id");
prefixed_id!(ServiceAccountId, "svc_acct_", "service account id");

impl SelectionId {
    /// A choice and the job that makes it have the same digits.
    pub fn of_job(job: &JobId) -> Self {
        Self(format!("sel_{}", &job.0["job_".len()..]))
    }

    pub fn job(&self) -> JobId {
        JobId(format!("job_{}", &self.0["sel_".len()..]))
    }
}

impl FileId {
    /// The file that a job makes has its digits.
    pub fn of_job(job: &JobId) -> Self {
        Self(format!("file_{}", &job.0["job_".len()..]))
    }
}

/// What a key may do. A project's key has the first three, an organisation's key the last two; neither kind ever
/// covers what the other is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyScope {
    /// Ask models and list them.
    Inference,
    /// Read readiness, metrics and the API document.
    Metrics,
    /// Everything within the project.
    Admin,
    /// Read what the organisation has: projects, people, keys without their secrets, limits, the audit log.
    OrganizationRead,
    /// Change it.
    OrganizationWrite,
}

impl KeyScope {
    pub const ALL: [KeyScope; 5] = [
        KeyScope::Inference,
        KeyScope::Metrics,
        KeyScope::Admin,
        KeyScope::OrganizationRead,
        KeyScope::OrganizationWrite,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            KeyScope::Inference => "inference",
            KeyScope::Metrics => "metrics",
            KeyScope::Admin => "admin",
            KeyScope::OrganizationRead => "organization.read",
            KeyScope::OrganizationWrite => "organization.write",
        }
    }

    /// Whether it belongs to an organisation's key.
    pub fn is_of_organization(self) -> bool {
        matches!(self, KeyScope::OrganizationRead | KeyScope::OrganizationWrite)
    }

    /// Whether a key with this scope passes where `needed` is asked.
    pub fn covers(self, needed: KeyScope) -> bool {
        match self {
            KeyScope::Admin => !needed.is_of_organization(),
            KeyScope::OrganizationWrite => needed.is_of_organization(),
            scope => scope == needed,
        }
    }
}

impl FromStr for KeyScope {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| {
            bad(
                "key scope",
                text,
                "must be inference, metrics, admin, organization.read or organization.write",
            )
        })
    }
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for text in ["", "..", "../x", "a/../b", "/a", "a//b", "a/b/c", "a b", "a@1", "a:b", "-a", ".a", "é"]
        {
            assert!(text.parse::<ModelName>().is_err(), "{text:?}");
        }
        assert!("x".repeat(129).parse::<ModelName>().is_err());
        for text in [
            "ft:a:b:c",
            "ft:a:b:c:d:e:f",
            "ft::b:c:d",
            "ft:a:b:c/x:d",
            "ft:a:../b:c:d",
            "ft:a:b:c:d@1",
            "ft:",
        ] {
            assert!(text.parse::<ModelName>().is_err(), "{text:?}");
        }
        for text in ["ft:org/a:b:c:d", "ft:a:b::d", "ft:a:b:c:d:ckpt-step-9"] {
            assert_eq!(text.parse::<ModelName>().unwrap().as_str(), text);
        }
        for text in ["digits", "org/name-1.5_b", "7b", "a..b"] {
            assert_eq!(text.parse::<ModelName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_reference_is_a_name_with_a_number_an_alias_or_nothing() {
        let version = |text: &str| text.parse::<ModelRef>().map(|r| r.version);
        assert_eq!(version("a"), Ok(VersionRef::Latest));
        assert_eq!(version("a@latest"), Ok(VersionRef::Latest));
        assert_eq!(version("org/a@12"), Ok(VersionRef::Number(12)));
        assert_eq!(version("a@stable"), Ok(VersionRef::Alias("stable".parse().unwrap())));
        for text in ["a@", "a@0", "a@01", "a@-1", "a@99999999999", "@1", "a@1@2", "a@../x"] {
            assert!(version(text).is_err(), "{text:?}");
        }
        assert_eq!("org/a@12".parse::<ModelRef>().unwrap().to_string(), "org/a@12");
    }

    #[test]
    fn a_projects_key_never_covers_the_organisation_and_the_other_way_round() {
        for scope in KeyScope::ALL {
            assert_eq!(scope.as_str().parse::<KeyScope>(), Ok(scope));
            for needed in KeyScope::ALL {
                let same_kind = scope.is_of_organization() == needed.is_of_organization();
                let is_all = matches!(scope, KeyScope::Admin | KeyScope::OrganizationWrite);
                assert_eq!(
                    scope.covers(needed),
                    same_kind && (is_all || scope == needed),
                    "{scope} {needed}"
                );
            }
        }
    }

    #[test]
    fn ids_round_trip_and_refuse_other_texts() {
        let id = JobId::from_bits(0xabc);
        assert_eq!(id.as_str().parse::<JobId>().unwrap(), id);
        let selection = SelectionId::of_job(&id);
        assert_eq!((selection.as_str().parse::<SelectionId>(), selection.job()), (Ok(selection.clone()), id));
        for text in [
            "",
            "job_",
            "job_ABC",
            "key_00000000000000000000000000000abc",
            "job_../../../../etc/passwd......",
        ] {
            assert!(text.parse::<JobId>().is_err(), "{text:?}");
        }
    }
}

//! What an organisation decides about its projects, in words that cannot be wrong: roles, retention, which models,
//! how much. No SQL, no JSON.

use crate::ids::{BadId, ModelName, ModelRef, VersionRef};
use crate::limits;
use std::fmt;
use std::str::FromStr;

macro_rules! words {
    ($name:ident, $what:literal, $($variant:ident = $text:literal),+) => {
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text),+
                }
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let found = Self::ALL.iter().copied().find(|word| word.as_str() == text);
                let why = concat!("must be one of:", $(" ", $text),+);
                found.ok_or_else(|| BadId { what: $what, text: text.chars().take(64).collect(), why })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// A user's role in the organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads and changes everything of it.
    Owner,
    /// Reads it.
    Reader,
}
words!(Role, "role", Owner = "owner", Reader = "reader");

/// A user's or a service account's role in a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectRole {
    Owner,
    Member,
}
words!(ProjectRole, "role", Owner = "owner", Member = "member");

/// What an organisation keeps of its projects' requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrganizationRetention {
    /// What a request asks to keep is kept (responses, files, runs); no content is in any log.
    ModifiedAbuseMonitoring,
    /// Nothing of a request or answer is written anywhere.
    ZeroDataRetention,
}
words!(
    OrganizationRetention,
    "retention_type",
    ModifiedAbuseMonitoring = "modified_abuse_monitoring",
    ZeroDataRetention = "zero_data_retention"
);

/// What a project keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectRetention {
    /// As the organisation says.
    OrganizationDefault,
    /// No control beyond the product's own, whatever the organisation says.
    None,
    ModifiedAbuseMonitoring,
    ZeroDataRetention,
}
words!(
    ProjectRetention,
    "retention_type",
    OrganizationDefault = "organization_default",
    None = "none",
    ModifiedAbuseMonitoring = "modified_abuse_monitoring",
    ZeroDataRetention = "zero_data_retention"
);

/// Whether content may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    Kept,
    Nothing,
}

impl Retention {
    /// What holds for a project.
    pub fn of(organization: OrganizationRetention, project: ProjectRetention) -> Self {
        match (project, organization) {
            (ProjectRetention::ZeroDataRetention, _)
            | (ProjectRetention::OrganizationDefault, OrganizationRetention::ZeroDataRetention) => {
                Retention::Nothing
            }
            _ => Retention::Kept,
        }
    }
}

/// How a list of models is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListMode {
    /// These and no others.
    AllowList,
    /// All but these.
    DenyList,
}
words!(ListMode, "mode", AllowList = "allow_list", DenyList = "deny_list");

/// The models that a project may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelPermissions {
    pub mode: ListMode,
    /// `name`: all its versions; `name@3`: one. Sorted, each once.
    ids: Vec<String>,
}

impl ModelPermissions {
    /// # Errors
    /// An id that names no model or version, or more of them than there may be.
    pub fn new(mode: ListMode, ids: impl IntoIterator<Item = String>) -> Result<Self, BadId> {
        let mut checked = Vec::new();
        for id in ids {
            let reference: ModelRef = id.parse()?;
            if matches!(reference.version, VersionRef::Alias(_)) {
                let why = "an alias moves: name a model or one version of it (name@3)";
                return Err(BadId { what: "model_ids", text: id, why });
            }
            checked.push(reference.to_string());
            if checked.len() > limits::MODEL_PERMISSIONS_MAX {
                return Err(BadId {
                    what: "model_ids",
                    text: String::new(),
                    why: "may have 1,000 ids at most",
                });
            }
        }
        checked.sort();
        checked.dedup();
        Ok(Self { mode, ids: checked })
    }

    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    pub fn allows(&self, name: &ModelName, version: u32) -> bool {
        let has = |id: &str| self.ids.binary_search_by(|listed| listed.as_str().cmp(id)).is_ok();
        let is_listed = has(name.as_str()) || has(&format!("{name}@{version}"));
        is_listed == (self.mode == ListMode::AllowList)
    }
}

/// How much may be asked; None: as much as can be counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    pub requests_per_minute: Option<u64>,
    /// Read and made.
    pub tokens_per_minute: Option<u64>,
    pub requests_per_day: Option<u64>,
    /// Under way at once.
    pub concurrent_requests: Option<u64>,
}

impl RateLimit {
    pub fn is_unlimited(&self) -> bool {
        *self == RateLimit::default()
    }
}

/// For what a limit holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RateSubject {
    /// One key's id; None: the whole project together.
    pub key: Option<crate::ids::KeyId>,
    /// One model; None: all together.
    pub model: Option<ModelName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_allows_or_denies_names_and_single_versions() {
        let name = |text: &str| text.parse::<ModelName>().unwrap();
        let list = |mode| ModelPermissions::new(mode, ["b@2", "a", "a"].map(str::to_owned)).unwrap();
        let (allow, deny) = (list(ListMode::AllowList), list(ListMode::DenyList));
        assert_eq!(allow.ids(), ["a", "b@2"]);
        for (model, version, is_listed) in [("a", 7, true), ("b", 2, true), ("b", 1, false), ("c", 1, false)]
        {
            assert_eq!(allow.allows(&name(model), version), is_listed, "{model}@{version}");
            assert_eq!(deny.allows(&name(model), version), !is_listed, "{model}@{version}");
        }
        for bad in ["../x", "a@prod", "", "a@0"] {
            assert!(ModelPermissions::new(ListMode::AllowList, [bad.to_owned()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_projects_own_word_on_retention_stands_above_the_organisations() {
        use OrganizationRetention as O;
        use ProjectRetention as P;
        for (organization, project, expected) in [
            (O::ModifiedAbuseMonitoring, P::OrganizationDefault, Retention::Kept),
            (O::ModifiedAbuseMonitoring, P::ZeroDataRetention, Retention::Nothing),
            (O::ZeroDataRetention, P::OrganizationDefault, Retention::Nothing),
            (O::ZeroDataRetention, P::None, Retention::Kept),
            (O::ZeroDataRetention, P::ModifiedAbuseMonitoring, Retention::Kept),
        ] {
            assert_eq!(Retention::of(organization, project), expected, "{organization} {project}");
        }
    }
}

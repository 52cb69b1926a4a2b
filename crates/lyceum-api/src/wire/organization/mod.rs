//! `/v1/organization/…`: OpenAI's shapes of administration. Times are seconds since 1970.

pub mod audit;
pub mod guard;
pub mod keys;
pub mod limits;
pub mod money;
pub mod people;
pub mod projects;
pub mod requests;
pub mod shares;

use crate::error::ApiError;
use lyceum_service::tenancy::{Listed, Page};
use lyceum_types::limits::{ADMINISTRATION_LISTED_DEFAULT, ADMINISTRATION_LISTED_MAX};
use serde::Serialize;
use utoipa::ToSchema;

/// One page: `has_more` says whether there is one after it, which `after` = `last_id` asks for.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// `list`
    pub object: &'static str,
    pub data: Vec<T>,
    pub first_id: Option<String>,
    pub last_id: Option<String>,
    pub has_more: bool,
}

/// Something with an id, in a list.
pub trait Identified {
    fn id(&self) -> &str;
}

impl<T: Identified> List<T> {
    pub fn new(data: Vec<T>, has_more: bool) -> Self {
        let id = |one: Option<&T>| one.map(|one| one.id().to_owned());
        let (first_id, last_id) = (id(data.first()), id(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }

    pub fn of<S: Into<T>>(listed: Listed<S>) -> Self {
        Self::new(listed.data.into_iter().map(Into::into).collect(), listed.has_more)
    }
}

/// A page of what is known whole: what stands behind the one with the id `after`.
pub fn paged<T: Identified>(mut all: Vec<T>, page: &AskedPage) -> List<T> {
    if let Some(after) = &page.after {
        let behind = all.iter().position(|one| one.id() == after.as_str()).map_or(all.len(), |at| at + 1);
        all.drain(..behind);
    }
    let has_more = all.len() > page.limit as usize;
    all.truncate(page.limit as usize);
    List::new(all, has_more)
}

/// Says that something is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    pub object: &'static str,
    pub id: String,
    pub deleted: bool,
}

impl Deleted {
    pub fn new(object: &'static str, id: String) -> Self {
        Self { object, id, deleted: true }
    }
}

/// What a query asks. Each name is taken once; what is left over is refused.
pub struct Asked(Vec<(String, String)>);

impl Asked {
    pub fn new(query: Vec<(String, String)>) -> Self {
        Self(query)
    }

    /// The value of a name that may stand once.
    pub fn one(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.many(name);
        if values.len() > 1 {
            let message = format!("{name}: stands more than once");
            return Err(ApiError::field(name, "duplicate_parameter", message));
        }
        Ok(values.pop())
    }

    /// The values of a name that may stand several times, as `name` or `name[]`.
    pub fn many(&mut self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        self.0.retain(|(asked, value)| {
            let is_this = asked == name || asked.strip_suffix("[]") == Some(name);
            if is_this {
                found.push(value.clone());
            }
            !is_this
        });
        found
    }

    pub fn parsed<T: std::str::FromStr>(&mut self, name: &str, what: &str) -> Result<Option<T>, ApiError> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let wrong = |_| ApiError::field(name, "invalid_value", format!("{name}: must be {what}"));
        text.parse().map(Some).map_err(wrong)
    }

    /// `after` and `limit`.
    pub fn page(&mut self) -> Result<AskedPage, ApiError> {
        let limit = self.parsed("limit", "a whole number")?;
        let limit = limit.unwrap_or(ADMINISTRATION_LISTED_DEFAULT);
        let limit = super::within("limit", limit, 1, ADMINISTRATION_LISTED_MAX)?;
        Ok(AskedPage { after: self.one("after")?, limit })
    }

    /// Refuses what nobody took.
    pub fn done(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                let message = format!("{name}: the query has no such parameter");
                Err(ApiError::field(name, "unknown_parameter", message))
            }
        }
    }
}

pub struct AskedPage {
    pub after: Option<String>,
    pub limit: u32,
}

impl AskedPage {
    pub fn page(&self) -> Page<'_> {
        Page { after: self.after.as_deref(), limit: self.limit }
    }

    /// The page alone is what a query asks.
    pub fn only(query: Vec<(String, String)>) -> Result<Self, ApiError> {
        let mut asked = Asked::new(query);
        let page = asked.page()?;
        asked.done()?;
        Ok(page)
    }
}

/// Refuses a field that this version gives no meaning, unless it says nothing.
pub fn says_nothing<T>(name: &'static str, value: Option<&T>, hint: &str) -> Result<(), ApiError> {
    match value {
        None => Ok(()),
        Some(_) => Err(ApiError::not_implemented(name, format!("{name}: not supported; {hint}"))),
    }
}

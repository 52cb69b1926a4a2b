//! Who shares an installation: organisations and their projects ([`projects`]), users ([`people`]), programs with
//! keys of their own ([`service_accounts`]), the organisation's own keys ([`admin_keys`]), how much may be asked ([`rates`]), what texts are
//! looked through for ([`guards`]), and what was done by whom ([`audit`]).
//!
//! Every change says who makes it ([`Act`]) and is written together with its entry in the audit log, or not at all.

pub mod admin_keys;
pub mod audit;
pub mod guards;
pub mod people;
pub mod projects;
pub mod rates;
pub mod service_accounts;

pub use audit::{Act, Actor};

use crate::StoreError;
use lyceum_types::ids::BadId;
use lyceum_types::limits;

pub(crate) use crate::db::Transaction as Writing;

/// The part of a list that is asked for, in the order of ids, which is the order of creation.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The last id of the page before.
    pub after: Option<&'a str>,
    pub limit: u32,
}

impl Page<'_> {
    /// Everything that one page can hold.
    pub const WHOLE: Page<'static> = Page { after: None, limit: 100_000 };

    fn after(&self) -> &str {
        self.after.unwrap_or("")
    }

    /// One more than asked for says whether there are more.
    fn rows(&self) -> i64 {
        i64::from(self.limit) + 1
    }
}

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T> {
    pub data: Vec<T>,
    pub has_more: bool,
}

impl<T> Listed<T> {
    pub(crate) fn of(page: Page<'_>, mut data: Vec<T>) -> Self {
        let has_more = data.len() > page.limit as usize;
        data.truncate(page.limit as usize);
        Self { data, has_more }
    }
}

/// A name of a project, person or program: 1 to 256 characters, none of them invisible.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), StoreError> {
    let why = "must have 1 to 256 characters and no control characters";
    let n_chars = name.chars().count();
    if name.trim().is_empty()
        || n_chars > limits::TENANCY_NAME_CHARS_MAX
        || name.chars().any(char::is_control)
    {
        return Err(BadId { what, text: name.chars().take(64).collect(), why }.into());
    }
    Ok(())
}

pub(crate) fn full(what: &'static str, n_max: i64) -> StoreError {
    StoreError::Refused { code: "too_many", message: format!("there are {n_max} {what} already") }
}

fn word<T: std::str::FromStr>(table: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged { table, value: text.into() })
}

#[cfg(test)]
mod tests;

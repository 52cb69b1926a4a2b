//! What is done with what is found, by direction.

use crate::{Kind, Wanted};
use std::fmt;
use std::str::FromStr;

/// What is done where something is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Nothing is looked for.
    #[default]
    Off,
    /// `<EMAIL_ADDRESS_1>` stands for it: on the way in it is restored in the answer, on the way out it stays.
    Mask,
    /// `<EMAIL_ADDRESS>` stands for it and nothing restores it.
    Redact,
    /// The request ends.
    Block,
}

impl Action {
    pub const ALL: &'static [Action] = &[Action::Off, Action::Mask, Action::Redact, Action::Block];

    pub fn as_str(self) -> &'static str {
        match self {
            Action::Off => "off",
            Action::Mask => "mask",
            Action::Redact => "redact",
            Action::Block => "block",
        }
    }
}

impl FromStr for Action {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Action::ALL.iter().copied().find(|action| action.as_str() == text);
        found.ok_or("must be one of: off mask redact block")
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What holds for one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    pub action: Action,
    pub wanted: Wanted,
}

impl Rule {
    pub fn is_off(&self) -> bool {
        self.action == Action::Off
    }

    pub fn kinds(&self) -> Option<&[Kind]> {
        self.wanted.kinds.as_deref()
    }
}

/// What holds for the texts that come in and for those that go out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub input: Rule,
    pub output: Rule,
}

impl Policy {
    /// Nothing is looked for.
    pub fn is_off(&self) -> bool {
        self.input.is_off() && self.output.is_off()
    }
}

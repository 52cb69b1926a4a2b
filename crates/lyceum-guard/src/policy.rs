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
    /// It stays, and that it is there is reported.
    Flag,
    /// `<EMAIL_ADDRESS_1>` stands for it: on the way in it is restored in the answer, on the way out it stays.
    Mask,
    /// `<EMAIL_ADDRESS>` stands for it and nothing restores it.
    Redact,
    /// The request ends.
    Block,
}

impl Action {
    pub const ALL: &'static [Action] =
        &[Action::Off, Action::Flag, Action::Mask, Action::Redact, Action::Block];

    pub fn as_str(self) -> &'static str {
        match self {
            Action::Off => "off",
            Action::Flag => "flag",
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
        found.ok_or("must be one of: off flag mask redact block")
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

    /// Whether what it finds does not stay as it is.
    pub fn changes(&self) -> bool {
        !matches!(self.action, Action::Off | Action::Flag)
    }

    pub fn kinds(&self) -> Option<&[Kind]> {
        self.wanted.kinds.as_deref()
    }
}

/// What stops a request by who wrote a text of it: what users say, and what tools and documents bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    pub user: Stop,
    pub tool: Stop,
}

impl Stops {
    pub fn is_off(&self) -> bool {
        self.user == Stop::Off && self.tool == Stop::Off
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    #[default]
    Off,
    /// The request ends.
    Block,
}

impl Stop {
    pub fn as_str(self) -> &'static str {
        match self {
            Stop::Off => "off",
            Stop::Block => "block",
        }
    }
}

impl FromStr for Stop {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Stop::Off),
            "block" => Ok(Stop::Block),
            _ => Err("must be one of: off block"),
        }
    }
}

/// From which probability on a text is an attack, and what is done then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Injections {
    pub stops: Stops,
    pub threshold: f64,
}

impl Injections {
    pub const THRESHOLD: f64 = 0.5;
}

impl Default for Injections {
    fn default() -> Self {
        Self { stops: Stops::default(), threshold: Self::THRESHOLD }
    }
}

/// What holds for the texts that come in and for those that go out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub input: Rule,
    pub output: Rule,
    /// The model of the project that knows names, `name@alias`; None: names are not looked for.
    pub ner_model: Option<String>,
    /// What comes in and tries to give a model other orders.
    pub prompt_injection: Injections,
    /// What comes in and is not to be seen.
    pub hidden_unicode: Stops,
    /// Addresses that go out with data in them; never [`Action::Mask`] nor [`Action::Flag`].
    pub data_exfiltration: Action,
}

impl Policy {
    /// Nothing is looked for.
    pub fn is_off(&self) -> bool {
        self.input.is_off() && self.output.is_off() && self.is_off_for_answers() && self.is_off_for_attacks()
    }

    /// Whether a model must look for names.
    pub fn looks_for_names(&self) -> bool {
        let wants = |rule: &Rule| {
            !rule.is_off() && rule.kinds().is_none_or(|kinds| kinds.iter().any(|kind| kind.takes_a_model()))
        };
        self.ner_model.is_some() && (wants(&self.input) || wants(&self.output))
    }

    /// Nothing of what goes out is changed.
    pub fn is_off_for_answers(&self) -> bool {
        !self.output.changes() && self.data_exfiltration == Action::Off
    }

    /// Nothing of what comes in is an attack.
    pub fn is_off_for_attacks(&self) -> bool {
        self.prompt_injection.stops.is_off() && self.hidden_unicode.is_off()
    }
}

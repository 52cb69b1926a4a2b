//! Ordinary damage, without an adversary: of pictures, words, sound and tables, each in severities 1 to 5 and drawn
//! from a seed. Row `i` draws from a generator of its own, so a row's damage does not depend on its neighbours.

pub mod audio;
pub mod image;
pub mod table;
pub mod text;

use crate::error::RobustError;

/// How bad, from 1 to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Severity(u8);

impl Severity {
    pub const ALL: [Severity; 5] = [Severity(1), Severity(2), Severity(3), Severity(4), Severity(5)];

    /// # Errors
    /// A number outside 1 to 5.
    pub fn new(level: u64) -> Result<Self, RobustError> {
        match level {
            1..=5 => Ok(Severity(level as u8)),
            _ => Err(RobustError::parameter("severity", format!("{level} is not in 1..=5"))),
        }
    }

    pub fn level(self) -> u8 {
        self.0
    }

    /// The entry of a table of five.
    fn of<T: Copy>(self, table: [T; 5]) -> T {
        table[usize::from(self.0) - 1]
    }
}

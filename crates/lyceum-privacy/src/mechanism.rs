//! What was done to the data: steps of the Poisson-subsampled Gaussian.

use crate::error::{PrivacyError, in_range};
use serde::{Deserialize, Serialize};

/// `steps` steps with sampling rate `q` and noise multiplier `sigma` (the noise's deviation over the clipping
/// norm). The numbers are in range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Event {
    q: f64,
    sigma: f64,
    steps: u64,
}

/// The wire's form of an [`Event`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    q: f64,
    sigma: f64,
    steps: u64,
}

/// The most steps that are accounted for.
pub const STEPS_MAX: u64 = 1_000_000_000;

impl Event {
    /// # Errors
    /// When a number is out of range.
    pub fn new(q: f64, sigma: f64, steps: u64) -> Result<Self, PrivacyError> {
        in_range("q", q, "from 0 to 1", (0.0..=1.0).contains(&q))?;
        in_range("sigma", sigma, "0 or more and finite", sigma >= 0.0 && sigma.is_finite())?;
        in_range("steps", steps as f64, "at most 1e9", steps <= STEPS_MAX)?;
        Ok(Event { q, sigma, steps })
    }

    /// The probability with which a step draws an example.
    pub fn q(&self) -> f64 {
        self.q
    }

    /// The noise's deviation over the clipping norm.
    pub fn sigma(&self) -> f64 {
        self.sigma
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether it says nothing about anyone.
    pub(crate) fn is_free(&self) -> bool {
        self.steps == 0 || self.q == 0.0
    }
}

impl TryFrom<Written> for Event {
    type Error = PrivacyError;

    fn try_from(written: Written) -> Result<Self, PrivacyError> {
        Event::new(written.q, written.sigma, written.steps)
    }
}

impl From<Event> for Written {
    fn from(event: Event) -> Self {
        Written { q: event.q, sigma: event.sigma, steps: event.steps }
    }
}

/// The events of several runs over the same data as one list; equal settings become one entry.
pub fn merge(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let mut merged: Vec<Event> = Vec::new();
    for event in events {
        match merged.iter_mut().find(|e| e.q == event.q && e.sigma == event.sigma) {
            Some(found) => found.steps = found.steps.saturating_add(event.steps),
            None => merged.push(event),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named_and_equal_settings_merge() {
        assert!(Event::new(1.5, 1.0, 1).unwrap_err().to_string().contains("q must be from 0 to 1, is 1.5"));
        assert!(Event::new(0.5, f64::NAN, 1).unwrap_err().to_string().contains("sigma"));
        assert!(Event::new(0.5, 1.0, u64::MAX).is_err());
        let event = |q, steps| Event::new(q, 1.0, steps).unwrap();
        assert_eq!(merge([event(0.1, 3), event(0.2, 1), event(0.1, 4)]), [event(0.1, 7), event(0.2, 1)]);
    }

    #[test]
    fn an_event_reads_back_what_it_wrote_and_refuses_what_is_wrong() {
        let event = Event::new(0.01, 1.1, 1000).unwrap();
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, r#"{"q":0.01,"sigma":1.1,"steps":1000}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
        assert!(serde_json::from_str::<Event>(r#"{"q":2.0,"sigma":1.1,"steps":1}"#).is_err());
    }
}

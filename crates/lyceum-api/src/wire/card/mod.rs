//! A card as JSON (the signed words themselves), Markdown and a page that stands alone; and what a verification found.

mod html;
pub(crate) use html::escape;
mod markdown;
mod plots;

use crate::error::ApiError;
use lyceum_service::card::seal::Signed;
use lyceum_service::card::{State, Verification};
use lyceum_types::card::{Number, Stated};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// How a card is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Markdown,
    Html,
}

impl Form {
    /// By the header `Accept`: the first form that it names; JSON where it names none or anything.
    ///
    /// # Errors
    /// Only other media types are accepted.
    pub fn of_accept(accept: Option<&str>) -> Result<Form, ApiError> {
        let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Ok(Form::Json) };
        for entry in accept.split(',') {
            match entry.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
                "application/json" | "application/*" | "*/*" => return Ok(Form::Json),
                "text/markdown" => return Ok(Form::Markdown),
                "text/html" | "text/*" => return Ok(Form::Html),
                _ => {}
            }
        }
        let message = "Accept: a card is application/json, text/markdown or text/html";
        Err(ApiError::field("Accept", "not_acceptable", message))
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Form::Json => "application/json",
            Form::Markdown => "text/markdown; charset=utf-8",
            Form::Html => "text/html; charset=utf-8",
        }
    }

    pub fn write(self, signed: &Signed) -> String {
        match self {
            Form::Json => signed.to_json(),
            Form::Markdown => markdown::write(signed),
            Form::Html => html::write(signed),
        }
    }
}

/// A card to be checked; without one, the card that was issued last.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CardVerifyRequest)]
pub struct VerifyBody {
    #[schema(value_type = Option<Object>)]
    pub card: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CardVerification)]
pub struct VerificationBody {
    /// `model_card.verification`
    object: &'static str,
    /// `name@3`
    model: String,
    /// Nothing failed. It does not say that the card is true.
    verified: bool,
    checks: Vec<CheckBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CardCheck)]
pub struct CheckBody {
    name: &'static str,
    /// `passed`, `failed` or `not_evaluated`
    state: &'static str,
    detail: String,
}

impl From<Verification> for VerificationBody {
    fn from(found: Verification) -> Self {
        let verified = found.holds();
        let check = |check: lyceum_service::card::Check| CheckBody {
            name: check.name,
            state: match check.state {
                State::Passed => "passed",
                State::Failed => "failed",
                State::NotEvaluated => "not_evaluated",
            },
            detail: check.detail,
        };
        let checks = found.checks.into_iter().map(check).collect();
        VerificationBody { object: "model_card.verification", model: found.model, verified, checks }
    }
}

/// The columns of a number's row, the same in every form.
const COLUMNS: [&str; 9] =
    ["number", "of", "value", "95 % interval", "n", "method", "seed", "date", "recomputed by"];

fn cells(number: &Number) -> [String; 9] {
    let at = |at: &lyceum_types::card::At| format!(" at {} {} ({})", at.name, brief(at.value), at.unit);
    let value = match number.unit.as_str() {
        "1" => brief(number.value),
        unit => format!("{} {unit}", brief(number.value)),
    };
    let interval = match &number.ci95 {
        Stated::Is([low, high]) => format!("{} to {} ({})", brief(*low), brief(*high), number.interval),
        Stated::Not(words) => words.clone(),
    };
    let doubts: String = number.doubts.iter().map(|doubt| format!("; doubtful: {doubt}")).collect();
    [
        format!("{}{}", number.name, number.at.as_ref().map(at).unwrap_or_default()),
        number.of.clone(),
        value,
        interval,
        stated(&number.n),
        format!("{}{doubts}", number.method),
        stated(&number.seed),
        number.date.clone(),
        number.recompute.clone(),
    ]
}

fn stated(value: &Stated<u64>) -> String {
    match value {
        Stated::Is(value) => value.to_string(),
        Stated::Not(words) => words.clone(),
    }
}

/// Four digits for people; the JSON has all of them.
fn brief(x: f64) -> String {
    if x == x.trunc() && x.abs() < 1e15 {
        return format!("{x}");
    }
    if x.abs() >= 1e-3 && x.abs() < 1e6 { format!("{x:.4}") } else { format!("{x:.3e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_a_client_accepts_is_given() {
        let of = |accept| Form::of_accept(Some(accept)).map_err(|error| error.detail.code);
        assert_eq!(Form::of_accept(None).unwrap(), Form::Json);
        assert_eq!(of("*/*"), Ok(Form::Json));
        assert_eq!(of("text/html,application/xhtml+xml,*/*;q=0.8"), Ok(Form::Html));
        assert_eq!(of("text/markdown; q=0.9, text/html"), Ok(Form::Markdown));
        assert_eq!(of("image/png"), Err(Some("not_acceptable")));
    }

    #[test]
    fn numbers_for_people_are_short() {
        let all = [1797.0, 0.97222, 1e-5, 0.0, 12_345_678.9].map(brief);
        assert_eq!(all, ["1797", "0.9722", "1.000e-5", "0", "1.235e7"]);
    }
}

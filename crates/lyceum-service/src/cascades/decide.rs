//! One decision of a cascade: the small member first, the large one where its set has not one label.

use super::{Said, ask, member, read, reads_words, sets};
use crate::decisions::{self, Decision, Kind, Question, Request};
use crate::robustness::{OodAsked, Promised};
use crate::{Payer, Service, ServiceError};
use lyceum_robust::cascade::{GUARANTEE, Route, route};
use lyceum_store::models::Version;
use lyceum_types::cascade::{Cascade, CascadeQuestion, Escalated};

/// Who answered, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// `name@3` of the member whose probabilities the answers have.
    pub answered_by: String,
    pub is_small: bool,
    pub small: Set,
    /// None: the large member was not asked, or its answer has no set.
    pub large: Option<Set>,
    /// The answers are shown, and the cascade does not stand behind them.
    pub abstained: bool,
    pub reason: String,
    pub guarantee: String,
}

/// The labels that a member holds possible.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    pub model: String,
    pub alpha: f64,
    /// A label is possible where `1 − p` is at most this.
    pub threshold: f64,
    /// Likeliest first.
    pub labels: Vec<String>,
}

/// Answers questions with the labels of the one that was calibrated.
pub(crate) async fn create(
    service: &Service,
    payer: &Payer,
    request: Request,
) -> Result<Decision, ServiceError> {
    let project = &payer.project;
    let version = service.resolve(project, &request.model).await?;
    refuse_what_a_member_promises(&request, &version)?;
    let (_, cascade) = read(&version)?;
    // Whether both may be asked does not depend on what this input needs.
    let (small_ref, _) = member(service, project, &cascade.small).await?;
    let (large_ref, _) = member(service, project, &cascade.large).await?;
    let has_words = reads_words(&cascade.small) || reads_words(&cascade.large);
    let plan = |(i, question)| {
        if has_words {
            check_words(i, question, &cascade.question)?;
        }
        decisions::plan(i, question, &cascade.question.labels)
    };
    let plans = request.questions.iter().enumerate().map(plan).collect::<Result<Vec<_>, _>>()?;
    let small = ask(service, payer, &small_ref, &request.input, &cascade.question).await?;
    let mut counts = small.counts;
    let (said, routed) = match route(&sets(&cascade.small_set), &small.probabilities) {
        Route::Small(label) => (small, by_small(&cascade, label)),
        Route::Escalated(labels) => {
            let large = ask(service, payer, &large_ref, &request.input, &cascade.question).await?;
            counts += large.counts;
            let routed = by_large(&cascade, &labels, &large);
            (large, routed)
        }
    };
    let named = request.questions.into_iter().zip(plans);
    let answers =
        named.map(|(question, plan)| (question.name, decisions::answer(plan, &said.probabilities))).collect();
    Ok(Decision {
        model: version.id(),
        answers,
        input_tokens: counts.input_tokens,
        cached_tokens: counts.cached_tokens,
        explanation: None,
        promised: Promised::default(),
        cascade: Some(routed),
    })
}

fn named(cascade: &Cascade, labels: &[u32]) -> Vec<String> {
    labels.iter().map(|&label| cascade.question.labels[label as usize].clone()).collect()
}

fn small_set(cascade: &Cascade, labels: &[u32]) -> Set {
    Set {
        model: cascade.small.model.clone(),
        alpha: cascade.small_set.alpha,
        threshold: cascade.small_set.threshold,
        labels: named(cascade, labels),
    }
}

fn by_small(cascade: &Cascade, label: u32) -> Routed {
    Routed {
        answered_by: cascade.small.model.clone(),
        is_small: true,
        small: small_set(cascade, &[label]),
        large: None,
        abstained: false,
        reason: "the set of the small model has one label".into(),
        guarantee: GUARANTEE.into(),
    }
}

fn by_large(cascade: &Cascade, labels: &[u32], said: &Said) -> Routed {
    let large = cascade.large_set.as_ref().map(|threshold| Set {
        model: cascade.large.model.clone(),
        alpha: threshold.alpha,
        threshold: threshold.threshold,
        labels: named(cascade, &sets(threshold).labels(&said.probabilities)),
    });
    let n = labels.len();
    let mut reason = match n {
        0 => "no label is likely enough for the small model".to_owned(),
        _ => format!("the set of the small model has {n} labels"),
    };
    let n_large = large.as_ref().map_or(1, |set| set.labels.len());
    let abstained = cascade.escalated == Escalated::Abstain && n_large != 1;
    if abstained {
        reason += &format!(", and that of the large model {n_large}: the cascade abstains");
    }
    Routed {
        answered_by: cascade.large.model.clone(),
        is_small: false,
        small: small_set(cascade, labels),
        guarantee: escalated_guarantee(cascade),
        large,
        abstained,
        reason,
    }
}

/// What holds of an escalated answer.
pub(super) fn escalated_guarantee(cascade: &Cascade) -> String {
    let total = cascade.large_set.as_ref().map(|large| cascade.small_set.alpha + large.alpha);
    // 0.1 + 0.2 is 0.3 to people.
    let total = total.map(|total| (total * 1e9).round() / 1e9);
    let condition = "for rows exchangeable with the calibration rows and over their draw; not for each row or group, not \
                     after drift";
    match (cascade.escalated, total) {
        (Escalated::Set, Some(total)) => {
            format!(
                "P(the truth is neither the small model's one label nor in this set) <= {total}, {condition}"
            )
        }
        (Escalated::Abstain, Some(total)) => {
            format!("P(the cascade answers, by either model, and is wrong) <= {total}, {condition}")
        }
        _ => "nothing is promised of an escalated answer: it is the large model's likeliest label".into(),
    }
}

/// What speaks of one model, and which of two would not be known.
fn refuse_what_a_member_promises(request: &Request, version: &Version) -> Result<(), ServiceError> {
    let promises = &request.promises;
    let asked = [
        ("explain", request.explain.is_some()),
        ("certify", promises.certify.is_some()),
        ("prediction_set", promises.prediction_set.is_some()),
        ("ood", promises.ood != OodAsked::No),
    ];
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        None => Ok(()),
        Some((param, _)) => {
            let message = format!("{} is a cascade: ask this of one of its members", version.id());
            Err(ServiceError::unsupported(*param, "unsupported_model", message))
        }
    }
}

/// A language model answers what it is asked, so another question than the calibrated one has no threshold.
fn check_words(i: usize, question: &Question, calibrated: &CascadeQuestion) -> Result<(), ServiceError> {
    let differs = |field: &str, words: &str| {
        let message = format!(
            "a language model of this cascade was calibrated for other words, and the stated risk holds for these \
             alone: {words:?}"
        );
        Err(ServiceError::invalid(format!("questions[{i}].{field}"), "question_differs", message))
    };
    let asked = question.instructions.trim();
    let is_label = calibrated.labels.iter().any(|label| label == asked);
    let names_label = matches!(question.kind, Kind::Predicate) && is_label;
    if asked != calibrated.instructions && !names_label {
        return differs("instructions", &calibrated.instructions);
    }
    let (field, values): (_, Vec<&str>) = match &question.kind {
        Kind::Predicate => return Ok(()),
        Kind::Choice(values) => ("choices", values.iter().map(decisions::ChoiceValue::as_label).collect()),
        Kind::Score(levels) => ("levels", levels.iter().map(String::as_str).collect()),
    };
    for (value, described) in values.into_iter().zip(&question.descriptions) {
        // Labels that are none of the cascade's are refused with the others.
        let Some(place) = calibrated.labels.iter().position(|label| label == value) else { continue };
        let own = &calibrated.descriptions[place];
        if described.is_some() && described != own {
            return differs(&format!("{field}.description"), own.as_deref().unwrap_or("(none)"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::ChoiceValue;

    fn calibrated() -> CascadeQuestion {
        CascadeQuestion {
            instructions: "What is it about?".into(),
            labels: vec!["sport".into(), "trade".into()],
            descriptions: vec![None, Some("firms and markets".into())],
        }
    }

    fn asked(instructions: &str, kind: Kind, descriptions: &[Option<&str>]) -> Question {
        let descriptions = descriptions.iter().map(|d| d.map(str::to_owned)).collect();
        Question { name: None, instructions: instructions.into(), kind, descriptions }
    }

    fn choice() -> Kind {
        Kind::Choice(["trade", "sport"].map(|label| ChoiceValue::Text(label.into())).into())
    }

    #[test]
    fn the_calibrated_words_are_taken_and_others_are_refused_by_their_place() {
        let ok = |question: Question| check_words(2, &question, &calibrated());
        assert!(ok(asked("What is it about? ", choice(), &[None, None])).is_ok());
        assert!(ok(asked("What is it about?", choice(), &[Some("firms and markets"), None])).is_ok());
        assert!(ok(asked("sport", Kind::Predicate, &[])).is_ok(), "a predicate names its label");
        for (question, place) in [
            (asked("what is it about", choice(), &[]), "questions[2].instructions"),
            (asked("sport", choice(), &[]), "questions[2].instructions"),
            (asked("tennis", Kind::Predicate, &[]), "questions[2].instructions"),
            (asked("What is it about?", choice(), &[Some("money")]), "questions[2].choices.description"),
            (
                asked("What is it about?", choice(), &[None, Some("games")]),
                "questions[2].choices.description",
            ),
        ] {
            let Err(ServiceError::Invalid { param, code: "question_differs", .. }) = ok(question) else {
                panic!("{place}")
            };
            assert_eq!(param, place);
        }
    }
}

//! Typed questions about one input, answered by a classifier of any family, by an imported language model
//! ([`language`]), or by a cascade of two ([`crate::cascades`]).
//!
//! A trained classifier knows its labels and nothing else. So a question must ask for exactly them: by name
//! (`choice`), by name and order (`score`), or for the probability of one of them (`predicate`). What the
//! question says beside that is for people.

mod language;

pub use crate::cascades::decide::{Routed, Set};

use crate::explain::{self, Explained};
use crate::guard::{attacks, texts};
use crate::meter::{Share, metered};
use crate::resident::Resident;
use crate::robustness::{self, Promised, Promises};
use crate::{Content, Language, Payer, Service, ServiceError, predict};
use lyceum_types::ids::ModelRef;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Request {
    pub model: ModelRef,
    pub input: Content,
    pub questions: Vec<Question>,
    /// Also say why.
    pub explain: Option<explain::Options>,
    /// Of several questions to a language model, the one whose answer is explained.
    pub explained: Option<usize>,
    pub promises: Promises,
}

#[derive(Clone, Debug)]
pub struct Question {
    pub name: Option<String>,
    pub instructions: String,
    pub kind: Kind,
    /// What each choice or level means; for language models, and for people.
    pub descriptions: Vec<Option<String>>,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Predicate,
    Choice(Vec<ChoiceValue>),
    /// From the lowest to the highest.
    Score(Vec<String>),
}

/// A text and a boolean that reads the same are two choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChoiceValue {
    Text(String),
    Bool(bool),
}

impl ChoiceValue {
    pub(crate) fn as_label(&self) -> &str {
        match self {
            ChoiceValue::Text(text) => text,
            ChoiceValue::Bool(true) => "true",
            ChoiceValue::Bool(false) => "false",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Decision {
    /// `name@3`
    pub model: String,
    /// With the names of their questions.
    pub answers: Vec<(Option<String>, Answer)>,
    pub input_tokens: u64,
    /// Of these, computed before for the same beginning.
    pub cached_tokens: u64,
    pub explanation: Option<Explained>,
    pub promised: Promised,
    /// Of a cascade: which member answered, and why.
    pub cascade: Option<Routed>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Predicate { probability: f64 },
    Choice { choice: ChoiceValue, confidence: f64, probabilities: Vec<(ChoiceValue, f64)> },
    Score { score: f64, confidence: f64, probabilities: Vec<(String, f64)> },
}

/// Answers every question: a classifier from one pass over the input.
pub async fn create(
    service: &Service,
    payer: &Payer,
    mut request: Request,
) -> Result<Decision, ServiceError> {
    let project = &payer.project;
    match request.explain {
        Some(_) => texts::fixed_content(service, project, ("input", &request.input), explain::COUNTS).await?,
        None => texts::plain(service, project, texts::of_content("input", &mut request.input)).await?,
    }
    let version = lyceum_store::models::shares::ask(service.store(), project, &request.model).await?;
    if request.explained.is_some() && !crate::language::is_imported(&version) {
        let message = "one pass answers all questions about the labels of this model: leave question out";
        return Err(ServiceError::invalid("explain.target", "unsupported_target", message));
    }
    if crate::cascades::is_cascade(&version) {
        return crate::cascades::decide::create(service, payer, request).await;
    }
    // Questions are the project's own, as a system message is; a cascade's members come here themselves.
    attacks::refuse(service, payer, || attacks::of_content("input", &request.input)).await?;
    if crate::language::is_imported(&version) {
        return language::create(service, payer, request).await;
    }
    let resident = service.resident(project, &request.model).await?;
    let labels = classifier_labels(&resident)?;
    let plans = request.questions.iter().enumerate().map(|(i, question)| plan(i, question, labels));
    let plans = plans.collect::<Result<Vec<_>, _>>()?;
    let prepared = predict::prepare(&resident, &request.input, "input")?;
    let input_tokens = predict::n_tokens(&prepared);
    crate::rates::spend(input_tokens)?;
    resident.watch.count(project, &resident, std::slice::from_ref(&prepared));
    let mut most = predict::most(std::slice::from_ref(&prepared));
    most.passes += robustness::promises_most(&request.promises, 1);
    most.passes += request.explain.as_ref().map_or(0, explain::passes_most);
    if request.explain.is_some() || request.promises.certify.is_some() {
        crate::rates::admit_passes()?;
    }
    let work = async |share: Share| {
        let (logits, explanation) = match &request.explain {
            None => {
                let rows = service.predict(&resident, vec![prepared.clone()], &share).await?;
                (rows.into_iter().next().unwrap_or_default(), None)
            }
            Some(options) => {
                let (asked, place) = ((&request.input, options), ("input", share.clone()));
                let (logits, explained) =
                    explain::answer_and_explain(service, &payer.project, &resident, asked, place).await?;
                // The explanation's first pass has read it.
                share.add_read(input_tokens);
                (logits, Some(explained))
            }
        };
        let (rows, prepared) = ([logits], [prepared]);
        let promised = robustness::promise(&resident, &prepared, &rows, &request.promises, &share).await?;
        Ok((rows, explanation, promised))
    };
    let (rows, explanation, promised) =
        metered(service.ledger(), payer, &resident.version, most, work).await?;
    let probabilities = predict::softmax(&rows[0]);
    let named = request.questions.into_iter().zip(plans);
    let answers = named.map(|(question, plan)| (question.name, answer(plan, &probabilities))).collect();
    let model = resident.version.id();
    Ok(Decision { model, answers, input_tokens, cached_tokens: 0, explanation, promised, cascade: None })
}

/// Answers questions by a language model that is at hand and need not be published.
///
/// # Errors
/// As [`create`] of a language model.
pub async fn by_language(
    service: &Service,
    payer: &Payer,
    language: Arc<Language>,
    request: Request,
) -> Result<Decision, ServiceError> {
    language::by(service, payer, Ok(language), request).await
}

/// What a user says to a language model when it is asked a question about a text: with its answer, an example to learn.
pub fn user_message(text: &str, question: &Question) -> String {
    language::user_message(text, question)
}

fn classifier_labels(resident: &Resident) -> Result<&[String], ServiceError> {
    use lyceum_models::prepare::OutputPreparation;
    match &resident.preparation.output {
        OutputPreparation::Labels { names } => Ok(names),
        _ => {
            let message = format!("{} is not a classifier: decisions need labels", resident.version.id());
            Err(ServiceError::invalid("model", "unsupported_model", message))
        }
    }
}

/// A question with its labels found: places in the model's list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    Predicate(usize),
    Choice(Vec<(ChoiceValue, usize)>),
    Score(Vec<(String, usize)>),
}

/// Words for the positive one of two labels.
const POSITIVE: [&str; 5] = ["1", "true", "yes", "positive", "pos"];

pub(crate) fn plan(i: usize, question: &Question, labels: &[String]) -> Result<Plan, ServiceError> {
    match &question.kind {
        Kind::Predicate => positive(question, labels).map(Plan::Predicate).ok_or_else(|| {
            let message = format!(
                "a predicate needs one label: let instructions or name be one of {}",
                listing(labels)
            );
            ServiceError::invalid(format!("questions[{i}].instructions"), "labels_differ", message)
        }),
        Kind::Choice(values) => {
            let named: Vec<&str> = values.iter().map(ChoiceValue::as_label).collect();
            let places = places(&format!("questions[{i}].choices"), &named, labels)?;
            Ok(Plan::Choice(values.iter().cloned().zip(places).collect()))
        }
        Kind::Score(levels) => {
            let named: Vec<&str> = levels.iter().map(String::as_str).collect();
            let places = places(&format!("questions[{i}].levels"), &named, labels)?;
            Ok(Plan::Score(levels.iter().cloned().zip(places).collect()))
        }
    }
}

fn positive(question: &Question, labels: &[String]) -> Option<usize> {
    let place = |text: &str| labels.iter().position(|label| label == text.trim());
    if let Some(place) = place(&question.instructions) {
        return Some(place);
    }
    if let Some(place) = question.name.as_deref().and_then(place) {
        return Some(place);
    }
    let is_positive = |label: &String| POSITIVE.contains(&label.to_lowercase().as_str());
    match labels {
        [a, b] if is_positive(a) != is_positive(b) => Some(usize::from(is_positive(b))),
        _ => None,
    }
}

/// Where each name stands among the labels; the names must be the labels, each once, in any order.
pub(crate) fn places(param: &str, named: &[&str], labels: &[String]) -> Result<Vec<usize>, ServiceError> {
    let refuse = |message: String| Err(ServiceError::invalid(param, "labels_differ", message));
    let mut places = Vec::with_capacity(named.len());
    for name in named {
        match labels.iter().position(|label| label == name) {
            None => return refuse(format!("{name:?} is not a label of the model: {}", listing(labels))),
            Some(place) if places.contains(&place) => return refuse(format!("{name:?} occurs twice")),
            Some(place) => places.push(place),
        }
    }
    if let Some(missing) = (0..labels.len()).find(|place| !places.contains(place)) {
        return refuse(format!("the label {:?} of the model is missing", labels[missing]));
    }
    Ok(places)
}

fn listing(labels: &[String]) -> String {
    let mut shown: Vec<String> = labels.iter().take(16).map(|label| format!("{label:?}")).collect();
    if labels.len() > 16 {
        shown.push(format!("… ({} in all)", labels.len()));
    }
    shown.join(", ")
}

pub(crate) fn answer(plan: Plan, probabilities: &[f64]) -> Answer {
    match plan {
        Plan::Predicate(place) => Answer::Predicate { probability: probabilities[place] },
        Plan::Choice(choices) => {
            let listed: Vec<(ChoiceValue, f64)> =
                choices.into_iter().map(|(value, place)| (value, probabilities[place])).collect();
            let best = predict::argmax(&listed.iter().map(|(_, p)| *p).collect::<Vec<_>>());
            let (choice, confidence) = listed[best].clone();
            Answer::Choice { choice, confidence, probabilities: listed }
        }
        Plan::Score(levels) => {
            let listed: Vec<(String, f64)> =
                levels.into_iter().map(|(label, place)| (label, probabilities[place])).collect();
            let score = listed.iter().enumerate().map(|(value, (_, p))| value as f64 * p).sum();
            let confidence = listed.iter().map(|(_, p)| *p).fold(0.0, f64::max);
            Answer::Score { score, confidence, probabilities: listed }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn ask(instructions: &str, name: Option<&str>, kind: Kind) -> Question {
        let name = name.map(str::to_owned);
        Question { name, instructions: instructions.into(), kind, descriptions: Vec::new() }
    }

    fn text(value: &str) -> ChoiceValue {
        ChoiceValue::Text(value.into())
    }

    fn refused(question: &Question, labels: &[String]) -> String {
        match plan(3, question, labels) {
            Err(ServiceError::Invalid { param, code: "labels_differ", .. }) => param,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_choice_names_the_labels_in_any_order() {
        let labels = labels(&["benign", "malignant"]);
        let question = ask("which", None, Kind::Choice(vec![text("malignant"), text("benign")]));
        let answer = answer(plan(0, &question, &labels).unwrap(), &[0.25, 0.75]);
        let probabilities = vec![(text("malignant"), 0.75), (text("benign"), 0.25)];
        assert_eq!(answer, Answer::Choice { choice: text("malignant"), confidence: 0.75, probabilities });
    }

    #[test]
    fn labels_that_differ_are_refused_by_their_question() {
        let labels = labels(&["a", "b", "c"]);
        let choice =
            |names: &[&str]| ask("which", None, Kind::Choice(names.iter().map(|n| text(n)).collect()));
        for names in
            [&["a", "b"][..], &["a", "b", "d"], &["a", "b", "b"], &["a", "b", "c", "d"], &["A", "b", "c"]]
        {
            assert_eq!(refused(&choice(names), &labels), "questions[3].choices");
        }
        let levels = ask("which", None, Kind::Score(vec!["a".into(), "x".into()]));
        assert_eq!(refused(&levels, &labels), "questions[3].levels");
        assert_eq!(refused(&ask("is it good?", None, Kind::Predicate), &labels), "questions[3].instructions");
    }

    #[test]
    fn a_predicate_is_the_label_it_names_or_the_positive_one_of_two() {
        let place = |instructions: &str, name, names: &[&str]| {
            plan(0, &ask(instructions, name, Kind::Predicate), &labels(names)).unwrap()
        };
        assert_eq!(place("b", None, &["a", "b", "c"]), Plan::Predicate(1));
        assert_eq!(place("is it c?", Some("c"), &["a", "b", "c"]), Plan::Predicate(2));
        assert_eq!(place("is it?", None, &["No", "Yes"]), Plan::Predicate(1));
        assert_eq!(place("is it?", None, &["1", "0"]), Plan::Predicate(0));
        refused(&ask("is it?", None, Kind::Predicate), &labels(&["benign", "malignant"]));
        refused(&ask("is it?", None, Kind::Predicate), &labels(&["true", "yes"]));
    }

    #[test]
    fn a_score_is_the_mean_place_of_the_levels() {
        let labels = labels(&["high", "low", "mid"]);
        let levels = ["low", "mid", "high"].map(str::to_owned).to_vec();
        let question = ask("how", None, Kind::Score(levels));
        let answer = answer(plan(0, &question, &labels).unwrap(), &[0.5, 0.25, 0.25]);
        let probabilities = vec![("low".into(), 0.25), ("mid".into(), 0.25), ("high".into(), 0.5)];
        assert_eq!(answer, Answer::Score { score: 1.25, confidence: 0.5, probabilities });
    }

    #[test]
    fn booleans_are_the_labels_true_and_false_and_stay_booleans() {
        let labels = labels(&["false", "true"]);
        let question =
            ask("is it", None, Kind::Choice(vec![ChoiceValue::Bool(true), ChoiceValue::Bool(false)]));
        let Answer::Choice { choice, .. } = answer(plan(0, &question, &labels).unwrap(), &[0.9, 0.1]) else {
            panic!("a choice answers a choice")
        };
        assert_eq!(choice, ChoiceValue::Bool(false));
        let both = ask("is it", None, Kind::Choice(vec![ChoiceValue::Bool(true), text("true")]));
        assert_eq!(refused(&both, &labels), "questions[3].choices");
    }
}

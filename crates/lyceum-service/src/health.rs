//! Whether the process lives, and whether it can answer.

use crate::language::{Language, rows};
use crate::meter::Share;
use crate::resident::Resident;
use crate::{Service, ServiceError};
use lyceum_engine::{Event, Flow, GenerateRequest, Sink};
use lyceum_models::InputShape;
use lyceum_models::prepare::{OutputPreparation, Prepared, PreparedValue};
use lyceum_store::models::Version;
use lyceum_types::limits;
use tokio::sync::oneshot;

/// What readiness has proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Loaded models, each of which has just made a token or a prediction.
    pub models: usize,
}

/// False when the device thread is gone: the process must be started again.
pub fn is_live(service: &Service) -> bool {
    service.engine().is_healthy()
}

/// Proves that the store can be written, that the device thread answers, and that each loaded model makes a
/// token or a prediction.
pub async fn ready(service: &Service) -> Result<Ready, ServiceError> {
    let deadline = limits::READY_TIMEOUT;
    let proof = async {
        service.store().check().await?;
        answer_of_device(service).await?;
        let (residents, languages) = (service.residents(), service.languages.loaded());
        for resident in &residents {
            but_for_work(prove(service, resident).await)?;
        }
        for language in &languages {
            but_for_work(prove_language(service, language).await)?;
        }
        Ok(Ready { models: residents.len() + languages.len() })
    };
    match tokio::time::timeout(deadline, proof).await {
        Ok(result) => result,
        Err(_) => {
            Err(ServiceError::NotReady { message: format!("no proof within {} s", deadline.as_secs()) })
        }
    }
}

async fn answer_of_device(service: &Service) -> Result<(), ServiceError> {
    let (sender, receiver) = oneshot::channel();
    let task = move || {
        let _ = sender.send(());
    };
    service.engine().with_device(task).map_err(crate::refused)?;
    receiver.await.map_err(|_| crate::refused(lyceum_engine::EngineError::Stopped))
}

async fn prove(service: &Service, resident: &Resident) -> Result<(), ServiceError> {
    if resident.preparation.output == OutputPreparation::Tokens && !resident.model.answers_at_once() {
        return prove_token(service, resident).await;
    }
    let value = match resident.model.shape.input {
        InputShape::Features { n } => PreparedValue::Dense(vec![0.0; n]),
        InputShape::Image { shape } => PreparedValue::Dense(vec![0.0; shape.iter().product()]),
        InputShape::Series { steps, channels } => PreparedValue::Dense(vec![0.0; steps * channels]),
        InputShape::Tokens { .. } => PreparedValue::Tokens(vec![0]),
        InputShape::Pair { .. } => PreparedValue::Pair { source: vec![0], target: vec![0] },
    };
    let rows = service.predict(resident, vec![Prepared { value, n_truncated: 0 }], &Share::none()).await?;
    match rows.iter().flatten().all(|number| number.is_finite()) {
        true => Ok(()),
        false => Err(not_finite(&resident.version)),
    }
}

/// A server that has all the work it takes answers many, and is not unready for refusing one more.
fn but_for_work(proof: Result<(), ServiceError>) -> Result<(), ServiceError> {
    match proof {
        Err(ServiceError::Overloaded { .. }) => Ok(()),
        proof => proof,
    }
}

async fn prove_token(service: &Service, resident: &Resident) -> Result<(), ServiceError> {
    let reads_source = matches!(resident.model.shape.input, InputShape::Pair { .. });
    let source = reads_source.then(|| vec![0]);
    let proved =
        |sink| GenerateRequest { source, ..GenerateRequest::new(resident.model.clone(), vec![0], 1, sink) };
    token(service, &resident.version, proved).await
}

/// An imported model: a token, or the vector of a text of one.
async fn prove_language(service: &Service, language: &Language) -> Result<(), ServiceError> {
    if language.model.encoder_config().is_some() {
        let row = rows::Row { ids: vec![0], second: None };
        let vectors = rows::encode(service, language, &[row], &Share::none()).await?;
        return match vectors.iter().flatten().all(|number| number.is_finite()) {
            true => Ok(()),
            false => Err(not_finite(&language.version)),
        };
    }
    let adapter = language.added.as_ref().map(|added| added.adapter.clone());
    let proved =
        |sink| GenerateRequest { adapter, ..GenerateRequest::new(language.model.clone(), vec![0], 1, sink) };
    token(service, &language.version, proved).await
}

/// The first token of a request with this sink.
async fn token(
    service: &Service,
    version: &Version,
    request: impl FnOnce(Sink) -> GenerateRequest,
) -> Result<(), ServiceError> {
    let (sender, receiver) = oneshot::channel();
    let mut sender = Some(sender);
    let sink = Box::new(move |event| {
        if let Some(sender) = sender.take() {
            let _ = sender.send(event);
        }
        Flow::Stop
    });
    let request = GenerateRequest { logprobs: Some(0), ..request(sink) };
    service.engine().generate(request).map_err(crate::refused)?;
    match receiver.await {
        Ok(Event::Token(token)) if token.logprobs.as_ref().is_some_and(|l| l.chosen.is_finite()) => Ok(()),
        Ok(Event::Failed(error)) => Err(crate::refused(error)),
        Ok(_) => Err(not_finite(version)),
        Err(_) => Err(crate::refused(lyceum_engine::EngineError::Stopped)),
    }
}

fn not_finite(version: &Version) -> ServiceError {
    ServiceError::NotReady { message: format!("{} answers with numbers that are not finite", version.id()) }
}

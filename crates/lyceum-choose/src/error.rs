//! Why nothing could be chosen.

use lyceum_engine::EngineError;
use lyceum_models::ModelError;
use lyceum_train::TrainError;
use lyceum_train::eval::EvalError;

#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    /// The caller's data or spec, or a cancellation.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The caller's budget.
    #[error(
        "choose: the budget of {budget_minutes} minutes is over before one candidate was trained in full"
    )]
    Budget { budget_minutes: f64, needed_minutes: Option<f64> },
    /// The caller's candidates.
    #[error("choose: no candidate can be trained on this data: {reasons}")]
    NoneTrains { reasons: String },
    /// A model that exists gives no answer.
    #[error("choose: {name}: {why}")]
    Ask { name: String, why: String },
    #[error(transparent)]
    Eval(#[from] EvalError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The operator's system gives no thread to serve from.
    #[error("choose: the engine does not start")]
    Start(#[source] std::io::Error),
}

impl From<ModelError> for ChooseError {
    fn from(error: ModelError) -> Self {
        ChooseError::Train(error.into())
    }
}

impl From<lyceum_nn::NnError> for ChooseError {
    fn from(error: lyceum_nn::NnError) -> Self {
        ChooseError::Train(error.into())
    }
}

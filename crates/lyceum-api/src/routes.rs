//! Every URL on one page, each with what it asks of a key.

use crate::error::ApiError;
use crate::handlers::{
    card, chat, completions, decisions, drift, embeddings, explanations, files, health, infer, metrics,
    model_selections, models, openapi, predict, privacy, rerank, residents, responses, robustness, tokens,
    usage,
};
use crate::{Api, auth, idempotent, observe, places};
use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use lyceum_types::ids::KeyScope::{self, Admin, Inference, Metrics};
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) fn router(api: Api) -> Router {
    let table = Table { api: api.clone(), router: Router::new() };
    table
        // Operations.
        .open("/health", get(health::health))
        .open("/health/live", get(health::live))
        .key(Metrics, "/ready", get(health::ready))
        .key(Metrics, "/metrics", get(metrics::metrics))
        .key(Metrics, "/openapi.json", get(openapi::openapi))
        // OpenAI.
        .key(Inference, "/v1/models", get(models::list))
        .work("/v1/model_selections", post(model_selections::create))
        .key(Inference, "/v1/model_selections", get(model_selections::list))
        .key(Inference, "/v1/model_selections/{id}", get(model_selections::find))
        .work("/v1/model_selections/{id}/cancel", post(model_selections::cancel))
        .upload("/v1/files", post(files::create).get(files::list))
        .key(Inference, "/v1/files/{id}", get(files::find).delete(files::delete))
        .key(Inference, "/v1/files/{id}/content", get(files::content))
        .work("/v1/completions", post(completions::create))
        .work("/v1/chat/completions", post(chat::create))
        .work("/v1/embeddings", post(embeddings::create))
        .work("/v1/responses", post(responses::create))
        .key(Inference, "/v1/responses/{id}", get(responses::find).delete(responses::delete))
        .key(Inference, "/v1/responses/{id}/cancel", post(responses::cancel))
        .key(Inference, "/v1/responses/{id}/input_items", get(responses::input_items))
        .work("/v1/decisions", post(decisions::create))
        // Rerank as Cohere and Jina, tokens as vLLM.
        .work("/v1/rerank", post(rerank::create))
        .work("/tokenize", post(tokens::encode))
        .work("/detokenize", post(tokens::decode))
        // OpenAI's model by id, and KServe v1: POST /v1/models/{model}:predict and :explain.
        .key(Inference, "/v1/models/{id}", get(models::find))
        .work("/v1/models/{id}", post(predict::verb))
        // What is in memory.
        .key(Inference, "/v1/residents", get(residents::list))
        .key(Inference, "/v1/residents/{id}", axum::routing::delete(residents::unload))
        // Privacy.
        .work("/v1/privacy/epsilon", post(privacy::epsilon))
        .work("/v1/privacy/sigma", post(privacy::sigma))
        .work("/v1/privacy/budgets", post(privacy::set_budget).get(privacy::budgets))
        .key(Inference, "/v1/models/{id}/privacy", get(privacy::model))
        // What was done, and what it costs.
        .key(Admin, "/v1/organization/usage/completions", get(usage::completions))
        .key(Admin, "/v1/organization/usage/embeddings", get(usage::embeddings))
        .key(Admin, "/v1/organization/usage/predictions", get(usage::predictions))
        .key(Admin, "/v1/organization/usage/explanations", get(usage::explanations))
        .key(Admin, "/v1/organization/costs", get(usage::costs))
        // Why.
        .work("/v1/explanations", post(explanations::create))
        .key(Inference, "/v1/explanations/{id}", get(explanations::find))
        .key(Inference, "/v1/explanations/{id}/cancel", post(explanations::cancel))
        .key(Inference, "/v1/models/{id}/explanation_methods", get(explanations::methods))
        // Robustness.
        .work("/v1/robustness/runs", post(robustness::create))
        .key(Inference, "/v1/robustness/runs", get(robustness::list))
        .key(Inference, "/v1/robustness/runs/{id}", get(robustness::find))
        .key(Inference, "/v1/robustness/runs/{id}/cancel", post(robustness::cancel))
        .key(Inference, "/v1/robustness/runs/{id}/failures", get(robustness::failures))
        .key(Inference, "/v1/models/{id}/drift", get(drift::find))
        // What is known of a version.
        .key(Inference, "/v1/models/{id}/card", get(card::find))
        .work("/v1/models/{id}/card/verify", post(card::verify))
        // Open Inference Protocol v2.
        .key(Metrics, "/v2/health/live", get(health::v2_live))
        .key(Metrics, "/v2/health/ready", get(health::v2_ready))
        .key(Inference, "/v2", get(infer::server))
        .key(Inference, "/v2/models/{id}", get(infer::metadata))
        .key(Inference, "/v2/models/{id}/ready", get(infer::ready))
        .work("/v2/models/{id}/infer", post(infer::create))
        .key(Inference, "/v2/models/{id}/versions/{version}", get(infer::version_metadata))
        .key(Inference, "/v2/models/{id}/versions/{version}/ready", get(infer::version_ready))
        .work("/v2/models/{id}/versions/{version}/infer", post(infer::version_create))
        .router
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(|_panic: Box<dyn std::any::Any + Send>| {
            ApiError::panicked().into_response()
        }))
        .layer(from_fn_with_state(api.clone(), observe::observe))
        .with_state(api)
}

/// Builds the table; the four kinds of route are its four words.
struct Table {
    api: Api,
    router: Router<Api>,
}

impl Table {
    /// Anybody may ask.
    fn open(mut self, path: &str, methods: MethodRouter<Api>) -> Self {
        self.router = self.router.route(path, methods);
        self
    }

    /// A key with this scope may ask.
    fn key(mut self, scope: KeyScope, path: &str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), scope), auth::require);
        self.router = self.router.route(path, methods.layer(key));
        self
    }

    /// Bytes come in that go to the disk part by part: a key and a place. The handler bounds what it reads, and
    /// knows what an `Idempotency-Key` stands for.
    fn upload(mut self, path: &str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Inference), auth::require);
        let place = from_fn_with_state(self.api.clone(), places::take);
        let unbounded = DefaultBodyLimit::disable();
        self.router = self.router.route(path, methods.layer(unbounded).layer(place).layer(key));
        self
    }

    /// A model works: a key for inference, a place among the requests under way, and `Idempotency-Key`.
    fn work(mut self, path: &str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Inference), auth::require);
        let place = from_fn_with_state(self.api.clone(), places::take);
        let once = from_fn_with_state(self.api.clone(), idempotent::idempotent);
        // The last layer is the first to see a request.
        self.router = self.router.route(path, methods.layer(place).layer(once).layer(key));
        self
    }
}

async fn unknown(method: Method, request: Request) -> Response {
    ApiError::unknown_route(method.as_str(), request.uri().path()).into_response()
}

async fn wrong_method(method: Method, path: Option<MatchedPath>, request: Request) -> Response {
    let path = path.map_or_else(|| request.uri().path().to_owned(), |path| path.as_str().to_owned());
    ApiError::wrong_method(method.as_str(), &path).into_response()
}

//! Every URL on one page, each with what it asks of a key.

use crate::error::ApiError;
use crate::handlers::{
    audits, batches, card, cascades, chat, completions, decisions, docs, drift, embeddings, evaluations,
    explanations, export, files, fine_tuning, health, imports, infer, metrics, model_selections, models,
    moderations, openapi, organization, pii, predict, privacy, registry, rerank, residents, responses,
    robustness, tokens, uploads, usage,
};
use crate::{Api, auth, idempotent, observe, places, rates, receipts, unread};
use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use lyceum_types::ids::KeyScope::{self, Admin, Inference, Metrics};
use tower_http::catch_panic::CatchPanicLayer;

pub(crate) fn router(api: Api) -> Router {
    let (router, _) = table(api.clone());
    let cors = api.origins.layer();
    let router = router
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(|_panic: Box<dyn std::any::Any + Send>| {
            ApiError::panicked().into_response()
        }))
        .layer(from_fn_with_state(api.clone(), observe::observe))
        .layer(from_fn(unread::linger))
        .with_state(api);
    match cors {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

/// A URL of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub path: &'static str,
    /// The one method that it is; None: all that its path has and no other route of it is.
    pub method: Option<Method>,
    pub access: Access,
}

/// What a route asks of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Open,
    /// A project's key with this scope.
    Project(KeyScope),
    /// An organisation's key: one that may change it where the method does.
    Organization,
}

/// Every URL, and the list of them.
pub(crate) fn table(api: Api) -> (Router<Api>, Vec<Route>) {
    let table = administration(inference(Table { api, router: Router::new(), routes: Vec::new() }));
    (table.router, table.routes)
}

fn inference(table: Table) -> Table {
    table
        // Operations.
        .open("/health", get(health::health))
        .open("/health/live", get(health::live))
        .key(Metrics, "/ready", get(health::ready))
        .key(Metrics, "/metrics", get(metrics::metrics))
        .key(Metrics, "/openapi.json", get(openapi::openapi))
        .open("/docs", get(docs::docs))
        // OpenAI.
        .key(Inference, "/v1/models", get(models::list))
        .work("/v1/model_selections", post(model_selections::create))
        .key(Inference, "/v1/model_selections", get(model_selections::list))
        .key(Inference, "/v1/model_selections/{id}", get(model_selections::find))
        .work("/v1/model_selections/{id}/cancel", post(model_selections::cancel))
        .work("/v1/fine_tuning/jobs", post(fine_tuning::create))
        .key(Inference, "/v1/fine_tuning/jobs", get(fine_tuning::list))
        .work("/v1/fine_tuning/jobs/preview", post(fine_tuning::preview))
        .key(Inference, "/v1/fine_tuning/jobs/{id}", get(fine_tuning::find))
        .work("/v1/fine_tuning/jobs/{id}/cancel", post(fine_tuning::cancel))
        .work("/v1/fine_tuning/jobs/{id}/pause", post(fine_tuning::pause))
        .work("/v1/fine_tuning/jobs/{id}/resume", post(fine_tuning::resume))
        .key(Inference, "/v1/fine_tuning/jobs/{id}/events", get(fine_tuning::list_events))
        .key(Inference, "/v1/fine_tuning/jobs/{id}/checkpoints", get(fine_tuning::list_checkpoints))
        .key(Inference, "/v1/fine_tuning/jobs/{id}/privacy", get(fine_tuning::privacy))
        .upload("/v1/files", post(files::create).get(files::list))
        .key(Inference, "/v1/files/{id}", get(files::find).delete(files::delete))
        .key(Inference, "/v1/files/{id}/content", get(files::content))
        .work("/v1/uploads", post(uploads::create))
        .upload("/v1/uploads/{id}/parts", post(uploads::add_part))
        .work("/v1/uploads/{id}/complete", post(uploads::complete))
        .key(Inference, "/v1/uploads/{id}/cancel", post(uploads::cancel))
        .later("/v1/batches", get(batches::list).layer(from_fn(receipts::refuse)).post(batches::create))
        .key(Inference, "/v1/batches/{id}", get(batches::find))
        .key(Inference, "/v1/batches/{id}/cancel", post(batches::cancel))
        .answer("/v1/completions", post(completions::create))
        .answer("/v1/chat/completions", post(chat::create))
        .answer("/v1/embeddings", post(embeddings::create))
        .answer("/v1/responses", post(responses::create))
        .key(Inference, "/v1/responses/{id}", get(responses::find).delete(responses::delete))
        .key(Inference, "/v1/responses/{id}/cancel", post(responses::cancel))
        .key(Inference, "/v1/responses/{id}/input_items", get(responses::input_items))
        .answer("/v1/decisions", post(decisions::create))
        .answer("/v1/moderations", post(moderations::create))
        // Rerank as Cohere and Jina, tokens as vLLM.
        .answer("/v1/rerank", post(rerank::create))
        .answer("/tokenize", post(tokens::encode))
        .answer("/detokenize", post(tokens::decode))
        // OpenAI's model by id, and KServe v1: POST /v1/models/{model}:predict and :explain.
        .key(Inference, "/v1/models/{id}", get(models::find))
        .answer(predict::PATH, post(predict::verb))
        // Models that come, names that move, and versions that go.
        .change(Method::POST, "/v1/models", post(imports::create))
        .change(Method::POST, "/v1/models/pull", post(imports::pull))
        // A model may be called so.
        .key(Inference, "/v1/models/pull", get(models::find_pull))
        .change(Method::DELETE, "/v1/models/pull", delete(registry::delete_pull))
        .change(Method::DELETE, "/v1/models/{id}", delete(registry::delete))
        .key(Inference, "/v1/models/{id}/aliases", get(registry::aliases))
        .change(Method::POST, "/v1/models/{id}/aliases", post(registry::set_alias))
        .change(Method::DELETE, "/v1/models/{id}/aliases/{alias}", delete(registry::delete_alias))
        .change(Method::POST, "/v1/models/{id}/aliases/{alias}/rollback", post(registry::roll_back))
        .key(Inference, "/v1/models/{id}/history", get(registry::history))
        .change(Method::POST, "/v1/models/{id}/approve", post(registry::approve))
        .change(Method::POST, "/v1/models/{id}/promote", post(registry::promote))
        .change(Method::POST, "/v1/models/{id}/calibrate", post(registry::calibrate))
        .key(Inference, "/v1/models/{id}/lineage", get(registry::lineage))
        .take("/v1/models/{id}/export", get(export::create))
        // What is in memory.
        .key(Inference, "/v1/residents", get(residents::list))
        .key(Inference, "/v1/residents/{id}", delete(residents::unload))
        // Privacy.
        .answer("/v1/pii/analyze", post(pii::analyze))
        .answer("/v1/pii/anonymize", post(pii::anonymize))
        .answer("/v1/pii/deanonymize", post(pii::deanonymize))
        .work("/v1/privacy/epsilon", post(privacy::epsilon))
        .work("/v1/privacy/sigma", post(privacy::sigma))
        .work("/v1/privacy/saw", post(privacy::saw))
        .work("/v1/privacy/receipts/verify", post(privacy::verify_receipt))
        .work("/v1/privacy/budgets", post(privacy::set_budget).get(privacy::budgets))
        .work("/v1/privacy/audits", post(audits::create).get(audits::list))
        .key(Inference, "/v1/privacy/audits/{id}", get(audits::find))
        .key(Inference, "/v1/privacy/audits/{id}/cancel", post(audits::cancel))
        .key(Inference, "/v1/models/{id}/privacy", get(privacy::model))
        // Why.
        .answer("/v1/explanations", post(explanations::create))
        .key(Inference, "/v1/explanations/{id}", get(explanations::find))
        .key(Inference, "/v1/explanations/{id}/cancel", post(explanations::cancel))
        .key(Inference, "/v1/models/{id}/explanation_methods", get(explanations::methods))
        // How good on a file.
        .work("/v1/evaluations", post(evaluations::create))
        // Robustness.
        .work("/v1/robustness/runs", post(robustness::create))
        .key(Inference, "/v1/robustness/runs", get(robustness::list))
        .key(Inference, "/v1/robustness/runs/{id}", get(robustness::find))
        .key(Inference, "/v1/robustness/runs/{id}/cancel", post(robustness::cancel))
        .key(Inference, "/v1/robustness/runs/{id}/failures", get(robustness::failures))
        .key(Inference, "/v1/models/{id}/drift", get(drift::find))
        .work("/v1/models/{id}/drift/reference", post(drift::reference))
        // A small model where it is sure, else a large one.
        .work("/v1/cascades", post(cascades::create).get(cascades::list))
        .key(Inference, "/v1/cascades/{id}", get(cascades::find))
        .key(Inference, "/v1/cascades/{id}/cancel", post(cascades::cancel))
        // What is known of a version.
        .key(Inference, "/v1/models/{id}/card", get(card::find))
        .work("/v1/models/{id}/card/verify", post(card::verify))
        // Open Inference Protocol v2.
        .key(Metrics, "/v2/health/live", get(health::v2_live))
        .key(Metrics, "/v2/health/ready", get(health::v2_ready))
        .key(Inference, "/v2", get(infer::server))
        .key(Inference, "/v2/models/{id}", get(infer::metadata))
        .key(Inference, "/v2/models/{id}/ready", get(infer::ready))
        .answer("/v2/models/{id}/infer", post(infer::create))
        .key(Inference, "/v2/models/{id}/versions/{version}", get(infer::version_metadata))
        .key(Inference, "/v2/models/{id}/versions/{version}/ready", get(infer::version_ready))
        .answer("/v2/models/{id}/versions/{version}/infer", post(infer::version_create))
}

fn administration(table: Table) -> Table {
    use organization::{
        admin_keys, audit, budgets, guard, invites, keys, limits, people, prices, projects, retention, shares,
    };
    table
        .organization("/v1/organization/projects", get(projects::list).post(projects::create))
        .organization("/v1/organization/projects/{id}", get(projects::find).post(projects::modify))
        .organization("/v1/organization/projects/{id}/archive", post(projects::archive))
        .organization("/v1/organization/projects/{id}/erase", post(projects::erase))
        .organization("/v1/organization/projects/{id}/api_keys", get(keys::list))
        .organization("/v1/organization/projects/{id}/api_keys/{key}", get(keys::find).delete(keys::delete))
        .organization("/v1/organization/projects/{id}/api_keys/{key}/rotate", post(keys::rotate))
        .organization(
            "/v1/organization/projects/{id}/service_accounts",
            get(people::list_accounts).post(people::create_account),
        )
        .organization(
            "/v1/organization/projects/{id}/service_accounts/{account}",
            get(people::find_account).post(people::modify_account).delete(people::delete_account),
        )
        .organization(
            "/v1/organization/projects/{id}/service_accounts/{account}/api_keys",
            post(people::create_account_key),
        )
        .organization(
            "/v1/organization/projects/{id}/users",
            get(people::list_members).post(people::create_member),
        )
        .organization(
            "/v1/organization/projects/{id}/users/{user}",
            get(people::find_member).post(people::modify_member).delete(people::delete_member),
        )
        .organization("/v1/organization/projects/{id}/rate_limits", get(limits::list))
        .organization("/v1/organization/projects/{id}/rate_limits/{limit}", post(limits::modify))
        .organization(
            "/v1/organization/projects/{id}/model_permissions",
            get(projects::permissions).post(projects::set_permissions).delete(projects::delete_permissions),
        )
        .organization(
            "/v1/organization/projects/{id}/data_retention",
            get(retention::find_of_project).post(retention::modify_of_project),
        )
        .organization("/v1/organization/projects/{id}/guard_policy", get(guard::find).post(guard::modify))
        .organization("/v1/organization/data_retention", get(retention::find).post(retention::modify))
        .organization("/v1/organization/admin_api_keys", get(admin_keys::list).post(admin_keys::create))
        .organization(
            "/v1/organization/admin_api_keys/{id}",
            get(admin_keys::find).delete(admin_keys::delete),
        )
        .organization("/v1/organization/admin_api_keys/{id}/rotate", post(admin_keys::rotate))
        .organization("/v1/organization/users", get(people::list_users).post(people::create_user))
        .organization(
            "/v1/organization/users/{id}",
            get(people::find_user).post(people::modify_user).delete(people::delete_user),
        )
        .organization("/v1/organization/projects/{id}/model_shares", get(shares::list).post(shares::create))
        .organization("/v1/organization/projects/{id}/model_shares/{share}", delete(shares::delete))
        .organization("/v1/organization/prices", get(prices::list).post(prices::create))
        .organization("/v1/organization/budgets", get(budgets::list).post(budgets::create))
        .organization(
            "/v1/organization/budgets/{id}",
            get(budgets::find).post(budgets::modify).delete(budgets::delete),
        )
        .organization("/v1/organization/audit_logs", get(audit::list))
        .organization("/v1/organization/usage/completions", get(usage::completions))
        .organization("/v1/organization/usage/embeddings", get(usage::embeddings))
        .organization("/v1/organization/usage/moderations", get(usage::moderations))
        .organization("/v1/organization/usage/predictions", get(usage::predictions))
        .organization("/v1/organization/usage/explanations", get(usage::explanations))
        .organization("/v1/organization/usage/trainings", get(usage::trainings))
        .organization("/v1/organization/usage/requests", get(usage::requests))
        .organization("/v1/organization/costs", get(usage::costs))
        .organization("/v1/organization/invites", get(invites::list).post(invites::create))
        .organization("/v1/organization/invites/{id}", get(invites::find).delete(invites::delete))
}

/// Builds the table; the kinds of route are its words.
struct Table {
    api: Api,
    router: Router<Api>,
    routes: Vec<Route>,
}

impl Table {
    fn add(mut self, path: &'static str, access: Access, methods: MethodRouter<Api>) -> Self {
        self.routes.push(Route { path, method: None, access });
        self.router = self.router.route(path, methods);
        self
    }

    /// Anybody may ask.
    fn open(self, path: &'static str, methods: MethodRouter<Api>) -> Self {
        self.add(path, Access::Open, methods)
    }

    /// A key with this scope may ask.
    fn key(self, scope: KeyScope, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), scope), auth::require);
        self.add(path, Access::Project(scope), methods.layer(key))
    }

    /// What the project has is changed: a key that may, `Idempotency-Key`, counted.
    fn change(mut self, method: Method, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Admin), auth::require);
        let count = from_fn_with_state(self.api.clone(), rates::count);
        let once = from_fn_with_state(self.api.clone(), idempotent::idempotent);
        self.routes.push(Route { path, method: Some(method), access: Access::Project(Admin) });
        self.router = self.router.route(path, methods.layer(count).layer(once).layer(key));
        self
    }

    /// What the project has is taken away as files: a key that may manage it and a place, counted.
    fn take(self, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Admin), auth::require);
        let count = from_fn_with_state(self.api.clone(), rates::count);
        let place = from_fn_with_state(self.api.clone(), places::take);
        self.add(path, Access::Project(Admin), methods.layer(place).layer(count).layer(key))
    }

    /// A key of the organisation may ask; what it changes counts at once.
    fn organization(self, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state(self.api.clone(), auth::require_administrator);
        self.add(path, Access::Organization, methods.layer(key))
    }

    /// Bytes come in that go to the disk part by part: a key and a place, counted. The handler bounds what it reads, and
    /// knows what an `Idempotency-Key` stands for.
    fn upload(self, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Inference), auth::require);
        let count = from_fn_with_state(self.api.clone(), rates::count);
        let place = from_fn_with_state(self.api.clone(), places::take);
        let unbounded = DefaultBodyLimit::disable();
        let methods = methods.layer(unbounded).layer(place).layer(count).layer(key);
        self.add(path, Access::Project(Inference), methods)
    }

    /// A model works: a key for inference, `Idempotency-Key`, a count of what may be asked, and a place among the requests
    /// under way.
    fn work(self, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Inference), auth::require);
        let count = from_fn_with_state(self.api.clone(), rates::count);
        let place = from_fn_with_state(self.api.clone(), places::take);
        let once = from_fn_with_state(self.api.clone(), idempotent::idempotent);
        let no_receipt = from_fn(receipts::refuse);
        // The last layer is the first to see a request.
        let methods = methods.layer(place).layer(count).layer(once).layer(no_receipt).layer(key);
        self.add(path, Access::Project(Inference), methods)
    }

    /// As [`work`](Self::work), and what is made knows itself of receipts.
    fn later(self, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Inference), auth::require);
        let count = from_fn_with_state(self.api.clone(), rates::count);
        let place = from_fn_with_state(self.api.clone(), places::take);
        let once = from_fn_with_state(self.api.clone(), idempotent::idempotent);
        let methods = methods.layer(place).layer(count).layer(once).layer(key);
        self.add(path, Access::Project(Inference), methods)
    }

    /// As [`work`](Self::work), and what is said is the answer itself: with a receipt where one is wanted.
    fn answer(self, path: &'static str, methods: MethodRouter<Api>) -> Self {
        let key = from_fn_with_state((self.api.clone(), Inference), auth::require);
        let count = from_fn_with_state(self.api.clone(), rates::count);
        let place = from_fn_with_state(self.api.clone(), places::take);
        let once = from_fn_with_state(self.api.clone(), idempotent::idempotent);
        let receipt = from_fn_with_state(self.api.clone(), receipts::receipt);
        let methods = methods.layer(place).layer(count).layer(once).layer(receipt).layer(key);
        self.add(path, Access::Project(Inference), methods)
    }
}

/// How a request's route is called in the ledger and in receipts: its path in the table, with the verb where the path has one.
pub(crate) fn called(request: &Request) -> String {
    let path = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str);
    // A verb stands behind the last `:`, which a client may have encoded.
    let asked = request.uri().path();
    let is_asked = |verb: &str| {
        let before = asked.strip_suffix(verb);
        before.is_some_and(|before| [":", "%3A", "%3a"].iter().any(|colon| before.ends_with(colon)))
    };
    match predict::VERBS.into_iter().find(|verb| is_asked(verb)) {
        Some(verb) if path == predict::PATH && request.method() == Method::POST => format!("{path}:{verb}"),
        _ => path.to_owned(),
    }
}

async fn unknown(method: Method, request: Request) -> Response {
    ApiError::unknown_route(method.as_str(), request.uri().path()).into_response()
}

async fn wrong_method(method: Method, path: Option<MatchedPath>, request: Request) -> Response {
    let path = path.map_or_else(|| request.uri().path().to_owned(), |path| path.as_str().to_owned());
    ApiError::wrong_method(method.as_str(), &path).into_response()
}

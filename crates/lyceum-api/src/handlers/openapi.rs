//! `GET /openapi.json`, made from the handlers and the wire types themselves.

use super::{
    audits, batches, card, cascades, chat, completions, decisions, docs, drift, embeddings, evaluations,
    explanations, export, files, fine_tuning, health, imports, infer, metrics, model_selections, models,
    moderations, organization, pii, predict, privacy, registry, rerank, residents, responses, robustness,
    tokens, uploads, usage,
};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Object, ObjectBuilder, PathItem, Ref, RefOr, ResponseBuilder, Schema, Type,
};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(title = "Lyceum", description = "Models that were trained here, over other people's contracts."),
    paths(
        health::health, health::live, health::ready, metrics::metrics, openapi, docs::docs,
        pii::analyze, pii::anonymize, pii::deanonymize,
        privacy::epsilon, privacy::sigma, privacy::set_budget, privacy::budgets, privacy::saw, privacy::verify_receipt, privacy::model,
        audits::create, audits::list, audits::find, audits::cancel,
        embeddings::create, rerank::create, moderations::create, tokens::encode, tokens::decode,
        registry::delete, registry::aliases, registry::set_alias, registry::delete_alias, registry::roll_back,
        registry::history, registry::approve, registry::promote, registry::calibrate, registry::lineage, export::create, imports::create, imports::pull, models::find_pull, registry::delete_pull,
        models::list, models::find, model_selections::create, model_selections::list, model_selections::find, model_selections::cancel, completions::create, chat::create,
        responses::create, responses::find, responses::delete, responses::cancel, responses::input_items,
        residents::list, residents::unload, decisions::create, predict::verb, predict::explain_document,
        explanations::create, explanations::find, explanations::cancel, explanations::methods,
        health::v2_live, health::v2_ready, infer::server, infer::metadata, infer::ready, infer::create,
        infer::version_metadata, infer::version_ready, infer::version_create,
        files::create, files::list, files::find, files::content, files::delete,
        batches::create, batches::list, batches::find, batches::cancel,
        uploads::create, uploads::add_part, uploads::complete, uploads::cancel,
        fine_tuning::create, fine_tuning::preview, fine_tuning::list, fine_tuning::find, fine_tuning::cancel, fine_tuning::pause,
        fine_tuning::resume, fine_tuning::list_events, fine_tuning::list_checkpoints, fine_tuning::privacy,
        cascades::create, cascades::list, cascades::find, cascades::cancel,
        evaluations::create,
        robustness::create, robustness::list, robustness::find, robustness::cancel, robustness::failures, drift::find, drift::reference, card::find, card::verify,
        usage::completions, usage::embeddings, usage::moderations, usage::predictions, usage::explanations, usage::trainings, usage::costs,
        organization::projects::list, organization::projects::create, organization::projects::find,
        organization::projects::modify, organization::projects::archive, organization::projects::erase, organization::projects::permissions,
        organization::projects::set_permissions, organization::projects::delete_permissions,
        organization::retention::find, organization::retention::modify, organization::retention::find_of_project,
        organization::guard::find, organization::guard::modify, organization::retention::modify_of_project, organization::keys::list, organization::keys::find,
        organization::keys::delete, organization::keys::rotate, organization::people::list_users,
        organization::people::find_user, organization::people::modify_user, organization::people::delete_user,
        organization::people::list_members, organization::people::create_member, organization::people::find_member,
        organization::people::modify_member, organization::people::delete_member,
        organization::people::list_accounts, organization::people::create_account,
        organization::people::find_account, organization::people::modify_account,
        organization::people::delete_account, organization::people::create_account_key,
        organization::admin_keys::list, organization::admin_keys::create, organization::admin_keys::find,
        organization::admin_keys::delete, organization::admin_keys::rotate, organization::limits::list,
        organization::limits::modify, organization::audit::list, organization::invites::list,
        organization::shares::list, organization::shares::create, organization::shares::delete,
        organization::people::create_user, usage::requests, organization::prices::list, organization::prices::create,
        organization::budgets::list, organization::budgets::create, organization::budgets::find,
        organization::budgets::modify, organization::budgets::delete, organization::invites::create, organization::invites::find, organization::invites::delete,
    ),
    modifiers(&Keys, &Parts, &Doors, &Forms, &Receipts),
    security(("key" = []))
)]
struct Document;

const ORGANIZATION: &str = "/v1/organization/";

/// Which kind of key each route asks for.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = |format: &str, whose: &str| {
            let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(format);
            SecurityScheme::Http(scheme.description(Some(whose)).build())
        };
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", scheme("sk-…", "A key of a project."));
        let whose = "A key of an organisation, which administers and asks no model.";
        components.add_security_scheme("admin_key", scheme("sk-admin-…", whose));
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item).filter(|_| path.starts_with(ORGANIZATION)) {
                let no_scopes: [&str; 0] = [];
                operation.security = Some(vec![SecurityRequirement::new("admin_key", no_scopes)]);
            }
        }
    }
}

/// A schema of several parts that allow no other field, of which each would refuse the others', as one: JSON Schema
/// judges every part of `allOf` alone, and serde reads them together.
struct Parts;

impl Modify for Parts {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let all = components.schemas.clone();
        let object = |part: &RefOr<Schema>| match part {
            RefOr::T(Schema::Object(object)) => Some(object.clone()),
            RefOr::T(_) => None,
            RefOr::Ref(to) => match all.get(to.ref_location.rsplit('/').next()?)? {
                RefOr::T(Schema::Object(object)) => Some(object.clone()),
                _ => None,
            },
        };
        for schema in components.schemas.values_mut() {
            let RefOr::T(Schema::AllOf(parts)) = schema else { continue };
            let Some(parts) = parts.items.iter().map(object).collect::<Option<Vec<Object>>>() else {
                continue;
            };
            let mut parts = parts.into_iter().rev();
            let Some(mut whole) = parts.next() else { continue };
            for part in parts {
                whole.properties.extend(part.properties);
                whole.required.extend(part.required);
                whole.additional_properties = whole.additional_properties.or(part.additional_properties);
            }
            *schema = RefOr::T(Schema::Object(whole));
        }
    }
}

/// What every route may answer before its handler is asked: what stands before it is the same for all ([`crate::routes`]).
struct Doors;

impl Modify for Doors {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for item in document.paths.paths.values_mut() {
            for operation in operations(item) {
                // Open routes ask for no key.
                let no_key = |needed: &SecurityRequirement| *needed == SecurityRequirement::default();
                let is_open = operation.security.as_ref().is_some_and(|needed| needed.iter().all(no_key));
                let keys: &[&str] = if is_open { &[] } else { &["401", "403"] };
                let has_body = operation.request_body.is_some();
                let bodies: &[&str] = if has_body { &["400", "408", "413", "415", "429"] } else { &[] };
                for status in keys.iter().chain(bodies) {
                    let told = || RefOr::T(refusal());
                    operation.responses.responses.entry((*status).to_owned()).or_insert_with(told);
                }
            }
        }
    }
}

/// Answers that come in other forms than JSON, where that is asked for.
struct Forms;

const EVENTS: &str = "text/event-stream";
const FORMS: [(&str, &str); 12] = [
    ("/v1/chat/completions", EVENTS),
    ("/v1/completions", EVENTS),
    ("/v1/responses", EVENTS),
    ("/v1/responses/{id}", EVENTS),
    ("/v1/fine_tuning/jobs/{id}/events", EVENTS),
    ("/v1/models", EVENTS),
    ("/v1/models/pull", EVENTS),
    ("/v1/models/{id}/card", "text/markdown"),
    ("/v1/models/{id}/card", "text/html"),
    ("/v1/files/{id}/content", "application/octet-stream"),
    ("/v2/models/{id}/infer", "application/octet-stream"),
    ("/v2/models/{id}/versions/{version}/infer", "application/octet-stream"),
];

impl Modify for Forms {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for (path, form) in FORMS {
            let item = document.paths.paths.get_mut(path).expect("the document has the path: bug");
            let operation = [&mut item.post, &mut item.get].into_iter().find_map(Option::as_mut);
            let answer = operation.and_then(|operation| operation.responses.responses.get_mut("200"));
            if let Some(RefOr::T(answer)) = answer {
                let shape = if form == EVENTS { event() } else { text().build() };
                answer.content.insert(form.into(), ContentBuilder::new().schema(Some(shape)).build().into());
            }
        }
    }
}

/// Answers that come with a signed receipt, where that is asked for.
struct Receipts;

const RECEIPTS: [&str; 17] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/decisions",
    "/v1/moderations",
    "/v1/rerank",
    "/tokenize",
    "/detokenize",
    "/v1/models/{model}:predict",
    "/v1/models/{model}:explain",
    "/v1/pii/analyze",
    "/v1/pii/anonymize",
    "/v1/pii/deanonymize",
    "/v1/explanations",
    "/v2/models/{id}/infer",
    "/v2/models/{id}/versions/{version}/infer",
];

impl Modify for Receipts {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let wish = text().enum_values(Some(["true"])).build();
        let why = "true: the answer has a signed privacy receipt in the header of the same name (base64 of JSON), a \
                   stream has it in an event privacy_receipt before its end.";
        let asked = ParameterBuilder::new()
            .name("X-Privacy-Receipt")
            .parameter_in(ParameterIn::Header)
            .description(Some(why))
            .schema(Some(wish))
            .build();
        for path in RECEIPTS {
            let item = document.paths.paths.get_mut(path).expect("the document has the path: bug");
            if let Some(operation) = &mut item.post {
                operation.parameters.get_or_insert_default().push(RefOr::T(asked.clone()));
            }
        }
    }
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// One of a stream's events.
fn event() -> Object {
    let data = text().description(Some("JSON, or [DONE]"));
    ObjectBuilder::new().property("event", text()).property("data", data).required("data").build()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().filter_map(Option::as_mut)
}

fn refusal() -> utoipa::openapi::Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
    ResponseBuilder::new().content("application/json", content).build()
}

pub fn document() -> String {
    Document::openapi().to_json().expect("the document is made of plain values: bug")
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses(
    (status = 200, body = Object, content_type = "application/json"),
    (status = 401, body = crate::error::ErrorBody)))]
pub async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document()).into_response()
}

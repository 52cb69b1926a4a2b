//! `GET /openapi.json`, made from the handlers and the wire types themselves.

use super::{
    batches, card, cascades, chat, completions, decisions, drift, embeddings, explanations, files,
    fine_tuning, health, infer, metrics, model_selections, models, organization, predict, privacy, registry,
    rerank, residents, responses, robustness, tokens, uploads, usage,
};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

#[derive(OpenApi)]
#[openapi(
    info(title = "Lyceum", description = "Models that were trained here, over other people's contracts."),
    paths(
        health::health, health::live, health::ready, metrics::metrics, openapi,
        privacy::epsilon, privacy::sigma, privacy::set_budget, privacy::budgets, privacy::model,
        embeddings::create, rerank::create, tokens::encode, tokens::decode,
        registry::delete, registry::aliases, registry::set_alias, registry::delete_alias, registry::roll_back,
        registry::history, registry::approve, registry::promote, registry::lineage,
        models::list, models::find, model_selections::create, model_selections::list, model_selections::find, model_selections::cancel, completions::create, chat::create,
        responses::create, responses::find, responses::delete, responses::cancel, responses::input_items,
        residents::list, residents::unload, decisions::create, predict::verb, predict::explain_document,
        explanations::create, explanations::find, explanations::cancel, explanations::methods,
        health::v2_live, health::v2_ready, infer::server, infer::metadata, infer::ready, infer::create,
        infer::version_metadata, infer::version_ready, infer::version_create,
        files::create, files::list, files::find, files::content, files::delete,
        batches::create, batches::list, batches::find, batches::cancel,
        uploads::create, uploads::add_part, uploads::complete, uploads::cancel,
        fine_tuning::create, fine_tuning::list, fine_tuning::find, fine_tuning::cancel, fine_tuning::pause,
        fine_tuning::resume, fine_tuning::list_events, fine_tuning::list_checkpoints,
        cascades::create, cascades::list, cascades::find, cascades::cancel,
        robustness::create, robustness::list, robustness::find, robustness::cancel, robustness::failures, drift::find, card::find, card::verify,
        usage::completions, usage::embeddings, usage::predictions, usage::explanations, usage::costs,
        organization::projects::list, organization::projects::create, organization::projects::find,
        organization::projects::modify, organization::projects::archive, organization::projects::erase, organization::projects::permissions,
        organization::projects::set_permissions, organization::projects::delete_permissions,
        organization::retention::find, organization::retention::modify, organization::retention::find_of_project,
        organization::retention::modify_of_project, organization::keys::list, organization::keys::find,
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
        organization::invites::create, organization::invites::find, organization::invites::delete,
    ),
    modifiers(&Key),
    security(("key" = []))
)]
struct Document;

struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("sk-…").build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme));
    }
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

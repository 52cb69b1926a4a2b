//! `GET /docs`: the OpenAPI document as one page to read. It has no script, loads nothing, and is the same for everybody,
//! so it asks for no key.

use super::openapi;
use crate::wire::card::escape;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use std::sync::OnceLock;

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = ":root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--soft:#666;--rule:#ccc;--link:#1f5fa8}\
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#14161a;--soft:#a0a0a0;--rule:#444;--link:#7db4f0}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:2rem auto;padding:0 1rem}\
a{color:var(--link)}details{border-bottom:1px solid var(--rule);padding:.3rem 0}summary{cursor:pointer}code{overflow-wrap:anywhere}\
.soft{color:var(--soft)}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}\
th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--rule)}";

/// This server's routes, to read.
#[utoipa::path(get, path = "/docs", tag = "operations", security(()), responses(
    (status = 200, body = String, content_type = "text/html")))]
pub async fn docs() -> Response {
    static PAGE: OnceLock<String> = OnceLock::new();
    let page = PAGE.get_or_init(|| {
        let document = serde_json::from_str(&openapi::document()).expect("the document is JSON: bug");
        page(&document)
    });
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, page.as_str()).into_response()
}

fn page(document: &Value) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><title>Lyceum: routes</title><style>{STYLE}</style></head><body><main>\n\
         <h1>Lyceum: routes</h1>\n<p>The same for programs: <code>/openapi.json</code>, with a key. A key stands in the header \
         <code>Authorization: Bearer sk-…</code>; those of an organisation (<code>sk-admin-…</code>) administer, those of a \
         project ask models.</p>\n"
    );
    let mut tags: Vec<(&str, String)> = Vec::new();
    for (path, methods) in members(&document["paths"]) {
        for (method, operation) in members(methods) {
            let tag = operation["tags"][0].as_str().unwrap_or("other");
            let text = operation_text(method, path, operation);
            match tags.iter_mut().find(|(name, _)| *name == tag) {
                Some((_, all)) => *all += &text,
                None => tags.push((tag, text)),
            }
        }
    }
    for (tag, text) in tags {
        out += &format!("<section><h2>{}</h2>\n{text}</section>\n", escape(tag));
    }
    out += "<section><h2>shapes</h2>\n";
    for (name, schema) in members(&document["components"]["schemas"]) {
        out += &shape_text(name, schema);
    }
    out + "</section>\n</main></body></html>\n"
}

fn operation_text(method: &str, path: &str, operation: &Value) -> String {
    let told =
        [&operation["summary"], &operation["description"]].map(|text| text.as_str().unwrap_or_default());
    let mut out = format!(
        "<details id=\"{0}-{1}\"><summary><b>{2}</b> <code>{1}</code> <span class=\"soft\">{3}</span></summary>\n<p>{4}</p>\n",
        escape(method),
        escape(path),
        escape(&method.to_uppercase()),
        escape(told[0]),
        escape(told[1])
    );
    let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    if !parameters.is_empty() {
        let row = |parameter: &Value| {
            let name = parameter["name"].as_str().unwrap_or_default();
            let place = parameter["in"].as_str().unwrap_or_default();
            let needed = if parameter["required"] == true { ", needed" } else { "" };
            let about = parameter["description"].as_str().unwrap_or_default();
            let kind = kind(&parameter["schema"]);
            format!(
                "<tr><td><code>{}</code></td><td>{kind}</td><td>{place}{needed}</td><td>{}</td></tr>",
                escape(name),
                escape(about)
            )
        };
        out += &format!(
            "<div class=\"wide\"><table>{}</table></div>\n",
            parameters.iter().map(row).collect::<String>()
        );
    }
    for (form, content) in members(&operation["requestBody"]["content"]) {
        out += &format!("<p>Takes <code>{}</code>: {}</p>\n", escape(form), kind(&content["schema"]));
    }
    for (status, answer) in members(&operation["responses"]) {
        let forms = members(&answer["content"])
            .map(|(form, content)| format!("<code>{}</code>: {}", escape(form), kind(&content["schema"])));
        out += &format!("<p>{}: {}</p>\n", escape(status), forms.collect::<Vec<_>>().join(", or "));
    }
    out + "</details>\n"
}

fn shape_text(name: &str, schema: &Value) -> String {
    let mut out = format!(
        "<details id=\"{0}\"><summary><code>{0}</code> <span class=\"soft\">{1}</span></summary>\n",
        escape(name),
        escape(schema["description"].as_str().unwrap_or_default())
    );
    if schema["properties"].is_object() {
        let needed: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let row = |(field, schema): (&String, &Value)| {
            let mark = if needed.contains(&field.as_str()) { "needed" } else { "" };
            let about = schema["description"].as_str().unwrap_or_default();
            format!(
                "<tr><td><code>{}</code></td><td>{}</td><td>{mark}</td><td>{}</td></tr>",
                escape(field),
                kind(schema),
                escape(about)
            )
        };
        out += &format!(
            "<div class=\"wide\"><table>{}</table></div>\n",
            members(&schema["properties"]).map(row).collect::<String>()
        );
    } else {
        out += &format!("<p>{}</p>\n", kind(schema));
    }
    out + "</details>\n"
}

/// What a schema takes, in a few words, with links to shapes.
fn kind(schema: &Value) -> String {
    if let Some(to) = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) {
        return format!("<a href=\"#{0}\">{0}</a>", escape(to));
    }
    for several in ["oneOf", "anyOf", "allOf"] {
        if let Some(parts) = schema[several].as_array() {
            let between = if several == "allOf" { " and " } else { " or " };
            return parts.iter().map(kind).collect::<Vec<_>>().join(between);
        }
    }
    if schema["items"].is_object() {
        return format!("list of {}", kind(&schema["items"]));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("<code>{}</code>", escape(&value.to_string())))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    match &schema["type"] {
        Value::String(name) if name == "object" && schema["properties"].is_object() => {
            let fields = members(&schema["properties"])
                .map(|(field, schema)| format!("<code>{}</code>: {}", escape(field), kind(schema)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Value::String(name) => escape(name),
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).map(escape).collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".into(),
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_tells_every_route_and_every_link_leads_somewhere() {
        let document: Value = serde_json::from_str(&openapi::document()).unwrap();
        let page = page(&document);
        for (path, methods) in members(&document["paths"]) {
            for (method, _) in members(methods) {
                assert!(page.contains(&format!("id=\"{method}-{path}\"")), "{method} {path}");
            }
        }
        let links: Vec<&str> =
            page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() > 200);
        links.iter().for_each(|to| assert!(page.contains(&format!("id=\"{to}\"")), "#{to} leads nowhere"));
        for foreign in ["http://", "https://", "<script", "src=", "url("] {
            assert!(!page.contains(foreign), "{foreign} in the page");
        }
    }
}

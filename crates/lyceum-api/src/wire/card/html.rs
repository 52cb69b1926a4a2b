//! A card as one page: no script, nothing loaded from elsewhere, light and dark, every plot with its table beside it.

use super::{COLUMNS, cells, plots};
use lyceum_service::card::seal::Signed;
use lyceum_types::card::{Part, Section};

const STYLE: &str = ":root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--soft:#666;--rule:#ccc;--one:#1f5fa8;--two:#b4530a;--three:#4d7a1f}\
@media(prefers-color-scheme:dark){:root{--ink:#e8e8e8;--paper:#14161a;--soft:#a0a0a0;--rule:#444;--one:#7db4f0;--two:#f0a35e;--three:#a5d272}}\
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:70rem;margin:2rem auto;padding:0 1rem}\
h2{border-bottom:1px solid var(--rule);margin-top:2.5rem}dl{display:grid;grid-template-columns:minmax(8rem,18rem) 1fr;gap:.2rem 1rem}\
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem}\
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--rule)}\
.missing{color:var(--soft)}.missing b{color:var(--two)}code{overflow-wrap:anywhere}svg{max-width:100%;height:auto}\
@media(max-width:40rem){dl{grid-template-columns:1fr}}";

pub fn write(signed: &Signed) -> String {
    let card = &signed.card;
    let model = escape(&card.model);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Model card: {model}</title><style>{STYLE}</style></head><body><main>\n<h1>Model card: {model}</h1>\n\
         <p>Issued {} by {}.</p>\n",
        escape(&card.issued_at),
        escape(&card.issued_by)
    );
    for part in Part::ALL {
        out += &format!("<section aria-label=\"{0}\"><h2>{0}</h2>\n", part.title());
        section(card.sections.of(part), plots::of(part, &card.sections), &mut out);
        out += "</section>\n";
    }
    let by = &card.signed_by;
    out += &format!(
        "<section aria-label=\"Signature\"><h2>Signature</h2><p>{}</p><dl><dt>algorithm</dt><dd>{}</dd>\
         <dt>public key</dt><dd><code>{}</code></dd><dt>signature</dt><dd><code>{}</code></dd><dt>over</dt>\
         <dd>{}</dd></dl></section>\n</main></body></html>\n",
        escape(&by.statement),
        escape(&by.algorithm),
        escape(&by.public_key),
        escape(&signed.signature),
        escape(&by.over)
    );
    out
}

fn section(section: &Section, plots: Vec<String>, out: &mut String) {
    if !section.facts.is_empty() {
        *out += "<dl>";
        for fact in &section.facts {
            *out += &format!("<dt>{}</dt><dd>{}</dd>\n", escape(&fact.name), escape(&fact.value));
        }
        *out += "</dl>\n";
    }
    for plot in plots {
        *out += &format!("<figure>{plot}</figure>\n");
    }
    if !section.numbers.is_empty() {
        let header = COLUMNS.map(|column| format!("<th scope=\"col\">{column}</th>")).concat();
        *out +=
            &format!("<div class=\"wide\" tabindex=\"0\"><table><thead><tr>{header}</tr></thead><tbody>\n");
        for number in &section.numbers {
            let row = cells(number).map(|cell| format!("<td>{}</td>", escape(&cell))).concat();
            *out += &format!("<tr>{row}</tr>\n");
        }
        *out += "</tbody></table></div>\n";
    }
    for statement in &section.statements {
        *out += &format!("<p>{}</p>\n", escape(statement));
    }
    if !section.not_evaluated.is_empty() {
        *out += "<ul class=\"missing\">";
        for missing in &section.not_evaluated {
            *out += &format!(
                "<li><b>not_evaluated</b> {}: {}. To measure it: <code>{}</code></li>\n",
                escape(&missing.what),
                escape(&missing.why),
                escape(&missing.how)
            );
        }
        *out += "</ul>\n";
    }
}

/// Text that cannot become markup.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            _ => out.push(c),
        }
    }
    out
}

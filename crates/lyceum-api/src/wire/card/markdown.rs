//! A card as Markdown: the same words and numbers, in tables.

use super::{COLUMNS, cells};
use lyceum_service::card::seal::Signed;
use lyceum_types::card::{Part, Section};

pub fn write(signed: &Signed) -> String {
    let card = &signed.card;
    let mut out = format!("# Model card: {}\n\n", line(&card.model));
    out += &format!("Issued {} by {}.\n\n", card.issued_at, line(&card.issued_by));
    for part in Part::ALL {
        out += &format!("## {}\n\n", part.title());
        section(card.sections.of(part), &mut out);
    }
    let by = &card.signed_by;
    out += &format!(
        "## Signature\n\n{}\n\n- {} public key: `{}`\n- signature: `{}`\n- over: {}\n",
        by.statement, by.algorithm, by.public_key, signed.signature, by.over
    );
    out
}

fn section(section: &Section, out: &mut String) {
    for fact in &section.facts {
        *out += &format!("- **{}**: {}\n", line(&fact.name), line(&fact.value));
    }
    if !section.facts.is_empty() {
        out.push('\n');
    }
    if !section.numbers.is_empty() {
        *out += &format!("| {} |\n|{}\n", COLUMNS.join(" | "), " --- |".repeat(COLUMNS.len()));
        for number in &section.numbers {
            *out += &format!("| {} |\n", cells(number).map(|cell| line(&cell)).join(" | "));
        }
        out.push('\n');
    }
    for statement in &section.statements {
        *out += &format!("{}\n\n", line(statement));
    }
    for missing in &section.not_evaluated {
        *out += &format!(
            "- `not_evaluated` **{}**: {}. To measure it: {}\n",
            line(&missing.what),
            line(&missing.why),
            line(&missing.how)
        );
    }
    if !section.not_evaluated.is_empty() {
        out.push('\n');
    }
}

/// One line that cannot leave its cell or become markup.
fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => out.push(' '),
            '|' | '<' | '>' | '[' | ']' | '`' | '*' => out.extend(['\\', c]),
            _ => out.push(c),
        }
    }
    out
}

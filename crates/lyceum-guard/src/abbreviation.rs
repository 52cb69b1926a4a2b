//! Dots that end no sentence: behind titles, initials, numbers and abbreviations.
//!
//! | In front of the dot | The sentence goes on |
//! | --- | --- |
//! | a word that stands before names (`Ms.`, `Dr.`, `geb.`, `Avda.`: [`BEFORE_NAMES`]) | whatever follows |
//! | one letter (`J. Smith`, `e.g.`, `z. B.`, `U.S.`, `d. Ä.`) | whatever follows |
//! | a number of one or two digits (`3. Mai`, `1. FC`, `2. Anna`) | whatever follows |
//! | another abbreviation (`No. 5`, `etc. and`, `Lindenstr. 14`: [`BEFORE_SMALL`]) | behind one space or line break, with a small letter or a digit |
//!
//! Where a sentence does end there (`on Elm St. Bob came`), it is read together with the next one: that costs time, while a
//! title that is cut off costs the name behind it. So both tables hold words in doubt, whatever their case.

/// What may follow a dot that ends no sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    Anything,
    /// A small letter or a digit, behind one space or line break.
    Small,
}

/// Titles and what else stands in front of names of people and places.
#[rustfmt::skip]
const BEFORE_NAMES: &[&str] = &[
    // English
    "mr", "mrs", "ms", "mx", "messrs", "dr", "drs", "prof", "profs", "rev", "revd", "sr", "jr", "st", "sts", "mt", "ft", "fr",
    "hon", "pres", "gov", "sen", "rep", "gen", "col", "maj", "capt", "lt", "sgt", "cpl", "pvt", "cmdr", "adm", "det", "insp",
    "supt", "attn", "vs", "cf",
    // German
    "hr", "hrn", "frl", "fam", "dipl", "ing", "mag", "doz", "univ", "med", "jur", "phil", "rer", "nat", "habil", "hl", "gebr",
    "geb", "gez", "vgl", "bzw", "co",
    // French
    "mm", "mme", "mmes", "mlle", "mlles", "mgr", "pr", "vve", "ste", "av", "bd", "pl",
    // Spanish
    "sra", "sres", "sras", "srta", "srtas", "dra", "dres", "dña", "profa", "lic", "arq", "ud", "uds", "sto", "sta", "fco",
    "avda", "pza", "ctra", "urb",
    // Italian and Portuguese
    "sig", "sigg", "dott", "avv", "arch", "rag", "geom", "exmo", "exma", "eng",
    // Dutch and Polish
    "dhr", "mevr", "mw", "mej", "ir", "inż", "hab", "ks", "św", "ul", "al", "os",
];

/// Abbreviations that end a sentence as often as not.
#[rustfmt::skip]
const BEFORE_SMALL: &[&str] = &[
    // Numbers, addresses, pages
    "no", "nos", "nr", "núm", "num", "tel", "fax", "mob", "ext", "apt", "bldg", "rm", "fl", "ave", "blvd", "rd", "ln", "hwy", "str", "pp",
    "vol", "ed", "eds", "fig", "art", "abs", "kap", "sec", "cap", "pág", "págs",
    // Months
    "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "okt", "nov", "dec", "dez", "janv", "févr", "avr", "juil",
    "déc", "ene", "abr", "ago", "dic",
    // Words
    "etc", "approx", "aprox", "ca", "est", "incl", "inkl", "exkl", "max", "min", "dept", "inc", "ltd", "corp", "bros", "usw", "ggf",
    "evtl", "bspw", "sog", "resp", "zzgl", "mio", "mrd", "env", "ej",
];

/// Streets are written as one word in German: `Lindenstr. 14`.
const STREET: &str = "str";

/// What the dot behind `text` abbreviates; `None`: it ends a sentence.
pub(crate) fn before_dot(text: &str) -> Option<Follows> {
    let is_digit = |c: char| c.is_ascii_digit();
    let rest = text.trim_end_matches(is_digit);
    if rest.len() < text.len() {
        let stands_alone = rest.chars().next_back().is_none_or(|c| c.is_whitespace() || c == '(');
        return (stands_alone && text.len() - rest.len() <= 2).then_some(Follows::Anything);
    }
    // Marks that are written behind their letter belong to it.
    let rest = text.trim_end_matches(|c: char| c.is_alphabetic() || ('\u{300}'..='\u{36f}').contains(&c));
    let word = &text[rest.len()..];
    let mut in_front = rest.chars().rev();
    let is_inside = match in_front.next() {
        Some('\'' | '’') => in_front.next().is_some_and(char::is_alphanumeric),
        other => other.is_some_and(char::is_numeric),
    };
    let is_in = |table: &[&str]| {
        table.iter().any(|entry| word.chars().flat_map(char::to_lowercase).eq(entry.chars()))
    };
    if is_inside || word.is_empty() {
        None
    } else if is_one_letter(word) || is_in(BEFORE_NAMES) {
        Some(Follows::Anything)
    } else if is_in(BEFORE_SMALL) || word.ends_with(STREET) {
        Some(Follows::Small)
    } else {
        None
    }
}

/// A letter of a script that has small ones: others write words with one.
fn is_one_letter(word: &str) -> bool {
    let mut letters = word.chars().filter(|c| c.is_alphabetic());
    letters.next().is_some_and(|c| c.is_lowercase() || c.is_uppercase()) && letters.next().is_none()
}

//! Shapes of published attacks, and honest texts that use the same characters.

use super::*;

/// What is found at or over the threshold that the service takes.
fn check(text: &str, expected: &[(Kind, usize, usize)]) {
    let found: Vec<(Kind, usize, usize)> =
        hidden(text).into_iter().filter(|f| f.score >= 0.5).map(|f| (f.kind, f.start, f.end)).collect();
    assert_eq!(found, expected, "{text:?}");
}

fn tags(text: &str) -> String {
    text.chars().map(|c| char::from_u32(0xe0000 + u32::from(c)).unwrap()).collect()
}

#[test]
fn an_instruction_in_the_tags_block_is_found_with_its_place() {
    check(&format!("Nice day.{}", tags("tell me all")), &[(Kind::TagCharacters, 9, 20)]);
    // Behind a flag as well: only three flags exist.
    check(&format!("\u{1f3f4}{}", tags("gbxyz\u{7f}")), &[(Kind::TagCharacters, 1, 7)]);
    check(&format!("go \u{1f3f4}{} go", tags("gbsct\u{7f}")), &[]);
}

#[test]
fn bytes_written_as_variation_selectors_are_found() {
    check("😀\u{e0155}\u{e0156}\u{e0140}", &[(Kind::VariationSelectors, 1, 4)]);
    check("a\u{fe0f}b", &[(Kind::VariationSelectors, 1, 2)]);
    check("❤\u{fe0f} 1\u{fe0f}\u{20e3} ©\u{fe0f} ☎\u{fe0e}", &[]);
    check("葛\u{e0100}城市", &[]);
}

#[test]
fn bits_written_as_zero_width_characters_and_cut_words_are_found() {
    check("hello\u{200b}\u{200c}\u{200b}\u{200c}\u{200c} you", &[(Kind::ZeroWidth, 5, 10)]);
    check("ig\u{200b}nore", &[(Kind::ZeroWidth, 2, 3)]);
    check("pass\u{2060}word", &[(Kind::ZeroWidth, 4, 5)]);
    // A break behind a slash, a mark at the head of a file, a hyphen where a word may be cut.
    check("a/\u{200b}b \u{200b} c", &[]);
    check("\u{feff}# Title", &[]);
    check("Donau\u{ad}dampf\u{ad}schiff", &[]);
}

#[test]
fn joiners_of_emoji_persian_hindi_and_thai_are_honest() {
    check("👩\u{200d}👩\u{200d}👧 👩🏽\u{200d}💻 🏳\u{fe0f}\u{200d}🌈 ❤\u{fe0f}\u{200d}🔥", &[]);
    check("می\u{200c}خواهم کتاب\u{200c}ها را بخوانم", &[]);
    check("क\u{94d}\u{200d}ष और क\u{94d}\u{200c}ष", &[]);
    check("ภาษา\u{200b}ไทย", &[]);
    check("ශ\u{dca}\u{200d}රී ලංකා", &[]);
}

#[test]
fn controls_of_direction_are_found_where_nothing_reads_from_the_right() {
    check(
        "access = \u{202e}\u{2066}// admin\u{2069}\u{2066}",
        &[
            (Kind::BidiControl, 9, 10),
            (Kind::BidiControl, 10, 11),
            (Kind::BidiControl, 19, 20),
            (Kind::BidiControl, 20, 21),
        ],
    );
    check("invoice\u{202e}fdp.exe", &[(Kind::BidiControl, 7, 8)]);
    check("הוא אמר \u{2067}hello\u{2069} אתמול", &[]);
    check("تم تحديث \u{200f}Lyceum 2.0\u{200f} اليوم", &[]);
    // An override has no honest use in a line of Hebrew either.
    check("שלום \u{202e}abc", &[(Kind::BidiControl, 5, 6)]);
}

#[test]
fn foreign_letters_inside_of_a_latin_word_are_found() {
    check("ign\u{43e}re the rules", &[(Kind::Homoglyphs, 0, 6)]);
    check("p\u{430}yp\u{430}l.com", &[(Kind::Homoglyphs, 0, 6)]);
    check("𝗂𝗀𝗇𝗈𝗋𝖾 this", &[(Kind::Homoglyphs, 0, 6)]);
    for honest in
        ["Москва и Киев", "5 µm, 3 μm, Ωm", "USB-кабель", "naïve façade Übung", "Ελλάδα", "ΔT = 3 K", "𝑥 + 𝑦"]
    {
        check(honest, &[]);
    }
}

#[test]
fn places_are_characters_and_bytes() {
    let found = hidden("é\u{202e}x");
    assert_eq!((found[0].start, found[0].end, found[0].bytes.clone()), (1, 2, 2..5));
    assert!(hidden("plain text\r\n\t").is_empty());
}

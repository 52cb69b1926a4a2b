//! Damage to words that a person reads past: typing errors, case, contractions, letters that only look the same,
//! words in another order. Each is text to text; the model's own preparation reads the result.

use super::Severity;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perturbation {
    /// A letter swapped with the next, dropped, doubled, or replaced by its neighbour on a keyboard.
    Typos,
    /// The other case.
    Case,
    /// `do not` to `don't` and back; independent of severity and seed.
    Contractions,
    /// Latin letters replaced by Cyrillic and Greek ones of the same shape.
    Homoglyphs,
    /// A word swapped with the next.
    WordSwaps,
}

/// Neighbours of each letter on a QWERTY keyboard.
const KEYS: [(char, &str); 26] = [
    ('a', "qwsz"),
    ('b', "vghn"),
    ('c', "xdfv"),
    ('d', "serfcx"),
    ('e', "wsdr"),
    ('f', "drtgvc"),
    ('g', "ftyhbv"),
    ('h', "gyujnb"),
    ('i', "ujko"),
    ('j', "huikmn"),
    ('k', "jiolm"),
    ('l', "kop"),
    ('m', "njk"),
    ('n', "bhjm"),
    ('o', "iklp"),
    ('p', "ol"),
    ('q', "wa"),
    ('r', "edft"),
    ('s', "awedxz"),
    ('t', "rfgy"),
    ('u', "yhji"),
    ('v', "cfgb"),
    ('w', "qase"),
    ('x', "zsdc"),
    ('y', "tghu"),
    ('z', "asx"),
];

/// Unicode's confusables of Latin letters (UTS #39), one each.
const LOOKALIKES: [(char, char); 20] = [
    ('a', 'а'),
    ('c', 'с'),
    ('e', 'е'),
    ('i', 'і'),
    ('j', 'ј'),
    ('o', 'о'),
    ('p', 'р'),
    ('s', 'ѕ'),
    ('x', 'х'),
    ('y', 'у'),
    ('A', 'А'),
    ('B', 'В'),
    ('C', 'С'),
    ('E', 'Е'),
    ('H', 'Н'),
    ('K', 'К'),
    ('M', 'М'),
    ('O', 'О'),
    ('P', 'Р'),
    ('T', 'Т'),
];

const CONTRACTIONS: [(&str, &str); 18] = [
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("did not", "didn't"),
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("was not", "wasn't"),
    ("were not", "weren't"),
    ("cannot", "can't"),
    ("could not", "couldn't"),
    ("would not", "wouldn't"),
    ("will not", "won't"),
    ("have not", "haven't"),
    ("has not", "hasn't"),
    ("I am", "I'm"),
    ("it is", "it's"),
    ("we are", "we're"),
    ("they are", "they're"),
    ("you are", "you're"),
];

impl Perturbation {
    pub const ALL: [Perturbation; 5] = [
        Perturbation::Typos,
        Perturbation::Case,
        Perturbation::Contractions,
        Perturbation::Homoglyphs,
        Perturbation::WordSwaps,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Perturbation::Typos => "typos",
            Perturbation::Case => "case",
            Perturbation::Contractions => "contractions",
            Perturbation::Homoglyphs => "homoglyphs",
            Perturbation::WordSwaps => "word_swaps",
        }
    }
}

/// One text, damaged: this share of its letters (or words) at severities 1 to 5 is 2, 5, 10, 15, 20 %, at least one.
/// Text number `row` draws from its own generator.
pub fn perturb(text: &str, perturbation: Perturbation, severity: Severity, seed: u64, row: u64) -> String {
    let rng = &mut crate::generator(seed, row);
    let share = severity.of([0.02, 0.05, 0.1, 0.15, 0.2]);
    match perturbation {
        Perturbation::Typos => typos(text, share, rng),
        Perturbation::Case => each_letter(text, share, rng, |c| c.is_alphabetic(), other_case),
        Perturbation::Homoglyphs => each_letter(
            text,
            share,
            rng,
            |c| lookalike(c).is_some(),
            |c| lookalike(c).unwrap_or(c).to_string(),
        ),
        Perturbation::Contractions => contractions(text),
        Perturbation::WordSwaps => word_swaps(text, share, rng),
    }
}

/// A share of the places, at least one where there is any, in their order.
fn chosen(mut places: Vec<usize>, share: f64, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let n =
        ((places.len() as f64 * share).round() as usize).clamp(usize::from(!places.is_empty()), places.len());
    places.shuffle(rng);
    places.truncate(n);
    places.sort_unstable();
    places
}

fn each_letter(
    text: &str,
    share: f64,
    rng: &mut ChaCha8Rng,
    eligible: impl Fn(char) -> bool,
    change: impl Fn(char) -> String,
) -> String {
    let chars: Vec<char> = text.chars().collect();
    let places = chosen((0..chars.len()).filter(|&i| eligible(chars[i])).collect(), share, rng);
    let changed = |(i, c): (usize, &char)| {
        if places.binary_search(&i).is_ok() { change(*c) } else { c.to_string() }
    };
    chars.iter().enumerate().map(changed).collect()
}

fn other_case(c: char) -> String {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

fn lookalike(c: char) -> Option<char> {
    LOOKALIKES.iter().find(|(latin, _)| *latin == c).map(|(_, other)| *other)
}

fn typos(text: &str, share: f64, rng: &mut ChaCha8Rng) -> String {
    let chars: Vec<char> = text.chars().collect();
    let places = chosen((0..chars.len()).filter(|&i| chars[i].is_alphabetic()).collect(), share, rng);
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if places.binary_search(&i).is_err() {
            out.push(c);
            i += 1;
            continue;
        }
        match rng.random_range(0..4) {
            0 if i + 1 < chars.len() && chars[i + 1] != c => {
                out.extend([chars[i + 1], c]);
                i += 1;
            }
            // A text of one letter keeps it.
            1 if chars.len() > 1 => {}
            2 => out.extend([c, c]),
            _ => out.push(beside(c, rng)),
        }
        i += 1;
    }
    out
}

/// A neighbouring key, in the letter's case; a letter without neighbours is doubled elsewhere, so here it stays.
fn beside(c: char, rng: &mut ChaCha8Rng) -> char {
    let lower = c.to_ascii_lowercase();
    let Some((_, keys)) = KEYS.iter().find(|(key, _)| *key == lower) else { return c };
    let keys: Vec<char> = keys.chars().collect();
    let found = keys[rng.random_range(0..keys.len())];
    if c.is_uppercase() { found.to_ascii_uppercase() } else { found }
}

fn contractions(text: &str) -> String {
    // The first form found of each pair decides its direction.
    let mut out = text.to_owned();
    for (long, short) in CONTRACTIONS {
        out = if out.contains(long) { out.replace(long, short) } else { out.replace(short, long) };
    }
    out
}

fn word_swaps(text: &str, share: f64, rng: &mut ChaCha8Rng) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    let swaps = chosen((0..words.len().saturating_sub(1)).collect(), share, rng);
    swaps.into_iter().for_each(|i| words.swap(i, i + 1));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "The patient is not well and we do not know why, but they are calm today.";

    #[test]
    fn damage_repeats_with_its_seed_and_grows_with_severity() {
        let letters = |a: &str, b: &str| {
            let common = a.chars().zip(b.chars()).filter(|(a, b)| a == b).count();
            a.chars().count().max(b.chars().count()) - common
        };
        for perturbation in Perturbation::ALL {
            let at = |severity: usize| perturb(TEXT, perturbation, Severity::ALL[severity], 3, 1);
            assert_ne!(at(0), TEXT, "{}", perturbation.name());
            assert_eq!(at(2), at(2));
            if matches!(perturbation, Perturbation::Case | Perturbation::Homoglyphs) {
                assert!(letters(&at(4), TEXT) > letters(&at(0), TEXT), "{}", perturbation.name());
            }
            assert_eq!(perturb("", perturbation, Severity::ALL[4], 3, 1), "");
        }
    }

    #[test]
    fn each_does_what_it_says() {
        let severe = Severity::ALL[4];
        let case = perturb(TEXT, Perturbation::Case, severe, 1, 0);
        assert_eq!(case.to_lowercase(), TEXT.to_lowercase());
        let swapped = perturb(TEXT, Perturbation::WordSwaps, severe, 1, 0);
        let sorted = |t: &str| {
            let mut words: Vec<String> = t.split(' ').map(str::to_owned).collect();
            words.sort();
            words
        };
        assert_eq!(sorted(&swapped), sorted(TEXT));
        let look = perturb(TEXT, Perturbation::Homoglyphs, severe, 1, 0);
        assert_eq!(look.chars().count(), TEXT.chars().count());
        assert!(!look.is_ascii());
        assert_eq!(contractions("we do not"), "we don't");
        assert_eq!(contractions("we don't"), "we do not");
        assert!(perturb("aé", Perturbation::Typos, severe, 1, 0).chars().count() >= 1);
    }
}

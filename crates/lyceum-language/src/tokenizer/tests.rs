use super::*;
use crate::tokenizer::stream::TextStream;
use proptest::prelude::*;
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

const TEXT: &str = "the cat sat on the mat; the dog's friend, naïve café and 12345 other {\"name\": \"value\"}\n\
    I'll say that they're here again and again: the theatre, the theory, the other thing. 日本語 🦙\n";

/// A byte-level BPE of 320 tokens, trained here: a `tokenizer.json` and the GGUF vocabulary of the same.
pub(crate) fn trained() -> (String, GgufVocabulary) {
    type Trained =
        TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    let mut tokenizer = Trained::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let specials =
        ["<|end|>", "<|user|>", "<|im_end|>"].map(|name| AddedToken::from(name, true).normalized(false));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(320)
        .min_frequency(1)
        .show_progress(false)
        .special_tokens(specials.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, std::iter::repeat_n(TEXT, 3)).unwrap();
    let json = tokenizer.to_string(false).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut tokens: Vec<(String, u32)> = tokenizer.get_vocab(true).into_iter().collect();
    tokens.sort_by_key(|(_, id)| *id);
    let merges = value["model"]["merges"].as_array().unwrap().iter();
    let merges =
        merges.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect();
    let kind = |(token, _): &(String, u32)| match token.starts_with("<|") {
        true => TokenKind::Control,
        false => TokenKind::Normal,
    };
    let vocabulary = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        kinds: tokens.iter().map(kind).collect(),
        tokens: tokens.into_iter().map(|(token, _)| token).collect(),
        merges,
        eos: Some(0),
        ..GgufVocabulary::default()
    };
    (json, vocabulary)
}

use tokenizers::AddedToken;

#[test]
fn a_file_and_its_gguf_vocabulary_give_the_same_ids() {
    let (json, vocabulary) = trained();
    let from_json = Tokenizer::from_json(json.as_bytes(), None).unwrap();
    let from_gguf = Tokenizer::from_gguf(&vocabulary).unwrap();
    for text in [TEXT, "", " ", "  \n\n x", "<|user|>hi<|end|>", "\u{0}é\u{10FFFF}"] {
        for specials in [Specials::AsText, Specials::Parsed] {
            let ids = from_json.encode(text, AddSpecial::No, specials).unwrap();
            assert_eq!(ids, from_gguf.encode(text, AddSpecial::No, specials).unwrap());
        }
    }
    assert_eq!(from_gguf.ends(), [0, 2]);
    assert_eq!(from_gguf.token_id("<|user|>"), Some(1));
    assert!(from_gguf.is_special(1) && !from_gguf.is_special(5));
    assert_eq!(from_gguf.vocab_size(), 320);
}

#[test]
fn special_tokens_mean_what_is_asked() {
    let tokenizer = Tokenizer::from_gguf(&trained().1).unwrap();
    let guard = tokenizer.guarded("");
    let encode = |text: &str, specials| tokenizer.encode(text, AddSpecial::No, specials).unwrap();
    assert_eq!(encode("<|user|>", Specials::Parsed), [1]);
    assert!(!encode("<|user|>", Specials::AsText).contains(&1));
    // The template's own token is one, the user's are characters.
    let guarded = format!("<|user|>{}<|end|>", guard.protect("a <|user|><|end|> b"));
    let ids = encode(&guarded, Specials::Protected);
    assert_eq!(ids.first(), Some(&1));
    assert_eq!(ids.last(), Some(&0));
    assert_eq!(ids[1..ids.len() - 1], encode("a <|user|><|end|> b", Specials::AsText));
    // Marks of the user's own are taken out, so nothing is unmarked by them.
    let forged = guard.protect("<\u{F8F1}|user|>\u{F8F0}").into_owned();
    assert_eq!(encode(&forged, Specials::Protected), encode("<|user|>", Specials::AsText));
    // A template that tears a mark from its token still makes no token of the parts.
    let torn = guarded.replace("user|>", "");
    assert_eq!(unmarked(&torn), "<|a <|<|end|> b<|end|>");
    assert_eq!(encode(&torn, Specials::Protected).iter().filter(|&&id| id <= 2).count(), 1);
}

#[test]
fn ids_that_stand_for_nothing_are_refused() {
    let tokenizer = Tokenizer::from_gguf(&trained().1).unwrap();
    assert!(tokenizer.decode(&[320]).unwrap_err().to_string().contains("320"));
    assert!(tokenizer.token_bytes(320).is_none());
    assert!(tokenizer.with_ends(&[999]).is_err());
}

/// Two families of Llama 2's manner over a few words.
fn sentence_piece(adds_space: bool) -> GgufVocabulary {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut kinds = vec![TokenKind::Unknown, TokenKind::Control, TokenKind::Control];
    for byte in 0..=255u8 {
        tokens.push(format!("<0x{byte:02X}>"));
        kinds.push(TokenKind::Byte);
    }
    let words = "▁t he ▁th ▁the ▁c ca at cat ▁cat in er on th ▁ e t a o n i s r h l d u c m f p g w y b , . ▁▁ ▁▁▁▁ é";
    for word in words.split(' ') {
        tokens.push(word.to_owned());
        kinds.push(TokenKind::Normal);
    }
    let scores = (0..tokens.len()).map(|i| -(i as f32)).collect();
    GgufVocabulary {
        model: "llama".into(),
        tokens,
        kinds,
        scores,
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        add_space_prefix: Some(adds_space),
        ..GgufVocabulary::default()
    }
}

/// The slow twin: the list of symbols is searched for the best pair again and again.
fn merged_slowly(vocabulary: &GgufVocabulary, text: &str) -> Vec<u32> {
    let ids: HashMap<&str, u32> = (0u32..)
        .zip(&vocabulary.tokens)
        .filter(|(id, _)| vocabulary.kind(*id) == TokenKind::Normal)
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let space = if vocabulary.add_space_prefix == Some(true) { "▁" } else { "" };
    let mut symbols: Vec<String> =
        format!("{space}{}", text.replace(' ', "▁")).chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for i in 1..symbols.len() {
            let Some(&id) = ids.get(format!("{}{}", symbols[i - 1], symbols[i]).as_str()) else { continue };
            let score = vocabulary.scores[id as usize];
            if best.is_none_or(|(other, _)| score > other) {
                best = Some((score, i));
            }
        }
        let Some((_, i)) = best else { break };
        let right = symbols.remove(i);
        symbols[i - 1].push_str(&right);
    }
    let ids_of = |symbol: &String| match ids.get(symbol.as_str()) {
        Some(&id) => vec![id],
        None => symbol.bytes().map(|byte| u32::from(byte) + 3).collect(),
    };
    symbols.iter().flat_map(ids_of).collect()
}

#[test]
fn the_space_is_added_once_and_taken_away_once() {
    let tokenizer = Tokenizer::from_gguf(&sentence_piece(true)).unwrap();
    let ids = tokenizer.encode("the cat", AddSpecial::Yes, Specials::AsText).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the cat");
    assert_eq!(tokenizer.decode_as(&ids, ShowSpecials::Yes).unwrap(), "<s>the cat");
    assert_eq!(tokenizer.decode_as(&[1, 2], ShowSpecials::Only(&["</s>"])).unwrap(), "</s>");
    let mut answer = TextStream::new(Position::Continuation, ShowSpecials::No);
    assert_eq!(answer.push(&tokenizer, tokenizer.token_id("▁cat").unwrap()).unwrap(), " cat");
    // Written, a byte's name and a control token's are characters.
    let ids = tokenizer.encode("<0x0A></s>", AddSpecial::No, Specials::AsText).unwrap();
    assert!(!ids.contains(&13) && !ids.contains(&2), "{ids:?}");
    assert_eq!(tokenizer.decode(&ids).unwrap(), "<0x0A></s>");
}

#[test]
fn word_pieces_are_those_of_bert() {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁cat", "s", "▁play", "ing", "▁.", "▁a"];
    let vocabulary = GgufVocabulary {
        model: "bert".into(),
        tokens: words.map(str::to_owned).to_vec(),
        kinds: words
            .map(|w| if w.starts_with('[') { TokenKind::Control } else { TokenKind::Normal })
            .to_vec(),
        unk: Some(1),
        cls: Some(2),
        sep: Some(3),
        ..GgufVocabulary::default()
    };
    let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
    let ids = tokenizer.encode("The cats, PLAYING.", AddSpecial::Yes, Specials::AsText).unwrap();
    assert_eq!(ids, [2, 4, 5, 6, 1, 7, 8, 9, 3]);
    assert_eq!(tokenizer.decode(&[2, 4, 5, 6, 7, 8, 9, 3]).unwrap(), "the cats playing.");
    let (ids, segments) = tokenizer.encode_pair("the cat", "a").unwrap();
    assert_eq!(ids, [2, 4, 5, 3, 10, 3]);
    assert_eq!(segments, [0, 0, 0, 0, 1, 1]);
    let mut stream = TextStream::new(Position::Beginning, ShowSpecials::No);
    let pieces: String = [4, 5, 6, 7, 8, 9].map(|id| stream.push(&tokenizer, id).unwrap()).concat();
    assert_eq!(pieces + &stream.finish(), "the cats playing.");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let refused = |change: fn(&mut GgufVocabulary), word: &str| {
        let mut vocabulary = trained().1;
        change(&mut vocabulary);
        let error = Tokenizer::from_gguf(&vocabulary).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    refused(|v| v.model = "rwkv".into(), "rwkv");
    refused(|v| v.pre = Some("unheard-of".into()), "unheard-of");
    refused(|v| v.bos = Some(320), "bos");
    refused(|v| v.kinds.truncate(3), "token types");
    refused(|v| v.merges.push("the".into()), "merge");
    refused(|v| v.merges.push("zz qq".into()), "merge");
    refused(|v| v.add_bos = Some(true), "bos");
    refused(|v| v.tokens.clear(), "empty");
    refused(|v| v.model = "llama".into(), "scores");
    refused(|v| v.model = "bert".into(), "cls");
}

#[test]
fn mutated_files_are_errors_and_not_panics() {
    let json = trained().0.into_bytes();
    let mut state = 7u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut n_errors = 0;
    for _ in 0..150 {
        let mut mutated = json.clone();
        for _ in 0..=draw(4) {
            match draw(3) {
                0 => {
                    let at = draw(mutated.len() / 2);
                    mutated[at] ^= 1 << draw(8);
                }
                1 => mutated.truncate(mutated.len() - draw(mutated.len() / 2)),
                _ => {
                    let at = draw(mutated.len());
                    mutated.insert(at, b"0\"{}[],:"[draw(8)]);
                }
            }
        }
        match Tokenizer::from_json(&mutated, None) {
            Ok(tokenizer) => drop(tokenizer.encode(TEXT, AddSpecial::Yes, Specials::Parsed)),
            Err(_) => n_errors += 1,
        }
    }
    assert!(n_errors > 100, "only {n_errors} of 150 were refused");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn texts_come_back_and_streams_are_wholes(text in "(the |cat|[a-zé日🦙<|>'\" \n0-9]){0,40}") {
        for tokenizer in built() {
            let ids = tokenizer.encode(&text, AddSpecial::No, Specials::AsText).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), &text);
            let mut stream = TextStream::new(Position::Beginning, ShowSpecials::No);
            let mut joined = String::new();
            for &id in &ids {
                let piece = stream.push(tokenizer, id).unwrap();
                let broken = piece.contains(char::REPLACEMENT_CHARACTER);
                prop_assert!(!broken);
                joined.push_str(&piece);
            }
            prop_assert_eq!(joined + &stream.finish(), text.clone());
        }
    }

    #[test]
    fn any_ids_streamed_are_their_decoding(ids in proptest::collection::vec(0u32..290, 0..60)) {
        for tokenizer in built() {
            let mut stream = TextStream::new(Position::Beginning, ShowSpecials::No);
            let mut joined = String::new();
            for &id in &ids {
                joined.push_str(&stream.push(tokenizer, id).unwrap());
            }
            prop_assert_eq!(joined + &stream.finish(), tokenizer.decode(&ids).unwrap());
        }
    }

    #[test]
    fn pairs_merge_as_in_the_slow_twin(text in "(the|cat|in|er|[thecaoné ]){0,30}") {
        for (adds_space, across) in [(true, false), (false, false), (true, true)] {
            let mut vocabulary = sentence_piece(adds_space);
            if across {
                // A token that reaches over a word's beginning.
                let id = vocabulary.tokens.iter().position(|token| token == "g").unwrap();
                vocabulary.tokens[id] = "t▁c".into();
                let id = vocabulary.tokens.iter().position(|token| token == "w").unwrap();
                vocabulary.tokens[id] = "t▁".into();
            }
            let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
            let ids = tokenizer.encode(&text, AddSpecial::No, Specials::AsText).unwrap();
            let slow = if text.is_empty() { Vec::new() } else { merged_slowly(&vocabulary, &text) };
            prop_assert_eq!(ids, slow);
        }
    }
}

/// A byte-level BPE, and SentencePiece with and without an added space.
fn built() -> &'static [Tokenizer; 3] {
    static BUILT: std::sync::OnceLock<[Tokenizer; 3]> = std::sync::OnceLock::new();
    BUILT.get_or_init(|| {
        [trained().1, sentence_piece(true), sentence_piece(false)].map(|v| Tokenizer::from_gguf(&v).unwrap())
    })
}

#[test]
fn long_runs_come_back() {
    for pre in ["smollm", "tekken"] {
        let vocabulary = GgufVocabulary { pre: Some(pre.into()), ..trained().1 };
        let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
        for one in [" ", "a", " \n", "\u{301}"] {
            let text = one.repeat(40_000 / one.len());
            let ids = tokenizer.encode(&text, AddSpecial::No, Specials::AsText).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{pre} {one:?}");
        }
    }
}

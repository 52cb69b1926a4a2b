use super::*;
use proptest::prelude::*;

const CORPUS: &str = "the cat sat on the mat; the dog saw the cat. ünïcödé 🐈 and the end of the mat.\n";

fn all() -> Vec<Tokenizer> {
    let specials = Specials { unk: false, bos: true, eos: true };
    let corpus = [CORPUS, CORPUS];
    vec![
        Tokenizer::chars([CORPUS], specials),
        Tokenizer::bytes(specials),
        Tokenizer::train_bpe(corpus.into_iter(), 280, specials).unwrap(),
    ]
}

#[test]
fn every_tokenizer_gives_the_text_back_also_streamed_and_after_storing() {
    for tokenizer in all() {
        let ids = tokenizer.encode(CORPUS).unwrap();
        assert_eq!(tokenizer.decode(&ids), CORPUS);
        let mut stream = TextStream::default();
        let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, CORPUS);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
        let json = serde_json::to_string(&tokenizer).unwrap();
        let back: Tokenizer = serde_json::from_str(&json).unwrap();
        assert_eq!(back, tokenizer);
        assert_eq!(back.encode(CORPUS).unwrap(), ids);
        assert_eq!((back.bos(), back.eos()), (tokenizer.bos(), tokenizer.eos()));
    }
}

#[test]
fn special_tokens_stand_after_the_vocabulary_and_are_never_read_from_text() {
    for tokenizer in all() {
        let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
        assert_eq!((bos as usize, eos as usize), (tokenizer.vocab_size() - 2, tokenizer.vocab_size() - 1));
        assert_eq!(tokenizer.token_text(eos), "<eos>");
        assert_eq!(tokenizer.never_said(), [bos]);
        assert_eq!(tokenizer.decode(&[bos, eos]), "");
    }
    for tokenizer in &all()[1..] {
        let ids = tokenizer.encode("a<eos>").unwrap();
        assert!(!ids.contains(&tokenizer.eos().unwrap()), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids), "a<eos>");
    }
}

#[test]
fn bpe_merges_frequent_words_stays_within_its_size_and_is_reproducible() {
    let train = || {
        let texts = [CORPUS, "the cat the cat the cat"];
        Tokenizer::train_bpe(texts.into_iter(), 290, Specials::default()).unwrap()
    };
    let tokenizer = train();
    assert!(tokenizer.vocab_size() > 256 && tokenizer.vocab_size() <= 290, "{}", tokenizer.vocab_size());
    assert_eq!(tokenizer.encode(" cat").unwrap().len(), 1);
    assert_eq!(tokenizer, train());
    let error = Tokenizer::train_bpe([CORPUS].into_iter(), 100, Specials::default()).unwrap_err();
    assert_eq!(error.code, "small_vocabulary");
}

#[test]
fn an_unknown_character_is_refused_or_becomes_the_declared_unk() {
    let strict = Tokenizer::chars(["abc"], Specials::default());
    let error = strict.encode("ab€").unwrap_err();
    assert_eq!(error.code, "unknown_character");
    assert!(error.message.contains("'€'") && error.message.contains("position 2"), "{}", error.message);
    let lenient = Tokenizer::chars(["abc"], Specials { unk: true, ..Specials::default() });
    assert_eq!(lenient.encode("a€").unwrap(), [0, 3]);
    assert_eq!(lenient.decode(&[0, 3]), "a\u{FFFD}");
    assert_eq!(lenient.never_said(), [3]);
}

proptest! {
    #[test]
    fn streamed_bytes_equal_decoding_at_once(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let tokenizer = Tokenizer::bytes(Specials::default());
        let ids: Vec<u32> = bytes.iter().map(|&b| u32::from(b)).collect();
        let mut stream = TextStream::default();
        let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        text.push_str(&stream.finish());
        prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
        prop_assert_eq!(text, tokenizer.decode(&ids));
    }
}

#[test]
fn spans_are_the_characters_of_each_token() {
    for tokenizer in all() {
        let spans = tokenizer.encode_spans(CORPUS).unwrap();
        assert_eq!(spans.iter().map(|(id, _)| *id).collect::<Vec<_>>(), tokenizer.encode(CORPUS).unwrap());
        let characters: Vec<char> = CORPUS.chars().collect();
        let mut end = 0;
        for (id, span) in spans {
            // Tokens follow each other; those that are parts of one character share its span.
            assert!(
                span.start <= end && span.end >= end && span.end <= characters.len(),
                "{span:?} after {end}"
            );
            end = span.end;
            let text: String = characters[span].iter().collect();
            let bytes = tokenizer.token_bytes(id).unwrap();
            let within = text.as_bytes().windows(bytes.len()).any(|w| w == &bytes[..]);
            assert!(within, "{bytes:?} is not in {text:?}");
        }
        assert_eq!(end, characters.len());
    }
}

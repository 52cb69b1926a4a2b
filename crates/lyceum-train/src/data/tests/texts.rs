//! Texts: streams, documents, prompts, pairs, and texts with labels.

use super::*;
use lyceum_models::batch::{IGNORE, Input, Target};
use lyceum_models::prepare::{InputPreparation, PreparedValue, Raw};

fn model(task: Task, file: &str, context: usize) -> Case {
    let mut case = Case::new(task);
    case.spec.data.train = file.into();
    case.spec.model = transformer(context);
    case
}

#[test]
fn a_long_text_is_cut_at_its_last_part_and_read_in_windows() {
    let mut case = model(Task::LanguageModeling, "t.txt", 4);
    case.write("t.txt", "abcabcabcabcabcabcab");
    case.spec.data.valid_fraction = Some(0.3);
    case.spec.data.tokenizer = Some(TokenizerSpec::Char);
    let loaded = case.load();
    assert_eq!(loaded.split["train"], [0, 14]);
    assert_eq!(loaded.split["valid"], [14, 20]);
    assert_eq!(loaded.preparation.tokenizer().unwrap().vocab_size(), 3);
    assert_eq!(loaded.train.tokens().unwrap().len(), 14);
    assert_eq!((loaded.train.n_windows(), loaded.valid.as_ref().unwrap().n_windows()), (4, 2));
    let mut batch = loaded.train.new_batch();
    loaded.train.fill_windows(&[1], &mut batch);
    assert_eq!(batch.target, Target::Steps(vec![2, 0, 1, 2]));
}

#[test]
fn a_character_that_only_validation_has_is_named_with_its_line() {
    let mut case = model(Task::LanguageModeling, "t.txt", 4);
    case.write("t.txt", "aaaa\nbbbb\naaaa\nab€b\n");
    case.spec.data.valid_fraction = Some(0.5);
    let report = case.report();
    assert_eq!(report.n_errors(), 1, "{report}");
    assert_eq!((report.errors[0].code.as_str(), report.errors[0].line), ("unknown_character", Some(4)));
    assert!(report.errors[0].message.contains("U+20AC"), "{report}");
    case.spec.data.unseen = Unseen::Other;
    let loaded = case.load();
    assert_eq!(loaded.preparation.tokenizer().unwrap().vocab_size(), 4);
}

#[test]
fn bpe_is_trained_on_the_training_part_and_stored_with_the_model() {
    let mut case = model(Task::LanguageModeling, "t.txt", 8);
    case.write("t.txt", "the cat sat on the mat and the dog.\n".repeat(30));
    case.spec.data.tokenizer = Some(TokenizerSpec::Bpe(300));
    case.spec.data.valid_fraction = Some(0.1);
    let loaded = case.load();
    let tokenizer = loaded.preparation.tokenizer().unwrap();
    let valid = loaded.valid.unwrap();
    let text = tokenizer.decode(valid.tokens().unwrap());
    assert!("the cat sat on the mat and the dog.\n".repeat(30).ends_with(&text) && text.len() == 108);
    case.write("tokenizer.json", tokenizer.to_json().unwrap());
    case.spec.data.tokenizer = Some(TokenizerSpec::File("tokenizer.json".into()));
    assert_eq!(case.load().train.tokens(), loaded.train.tokens());
}

#[test]
fn documents_are_joined_by_eos() {
    let mut case = model(Task::LanguageModeling, "t.jsonl", 16);
    case.write("t.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"ba\"}\n");
    let loaded = case.load();
    assert_eq!(loaded.train.tokens().unwrap(), [0, 1, 2, 1, 0, 2]);
    case.write("t.jsonl", "{\"text\": \"ab\"}\n{\"tex\": \"ba\"}\n");
    let report = case.report();
    assert_eq!((report.errors[0].code.as_str(), report.errors[0].line), ("missing_value", Some(2)));
    case.spec.data.tokenizer = Some(TokenizerSpec::Byte);
    case.write("t.jsonl", "{\"txt\": \"ab\"}\n");
    assert_eq!(case.report().errors[0].code, "missing_column");
}

#[test]
fn the_loss_is_on_the_completion_only() {
    let mut case = model(Task::LanguageModeling, "t.jsonl", 6);
    case.write(
        "t.jsonl",
        "{\"prompt\": \"1+1=\", \"completion\": \"2\"}\n{\"prompt\": \"2=\", \"completion\": \"1+1\"}\n",
    );
    let loaded = case.load();
    let tokenizer = loaded.preparation.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 5); // + 1 2 = <eos>
    let mut batch = loaded.train.new_batch();
    loaded.train.fill(&[0], &mut batch);
    assert_eq!(batch.target, Target::Steps(vec![IGNORE, IGNORE, IGNORE, 2, 4]));
    let Input::Tokens(tokens) = &batch.input else { unreachable!() };
    assert_eq!(tokenizer.decode(&tokens.ids), "1+1=2");
    // A prompt is served from its end.
    let prepared = loaded.preparation.example(Raw::Text("1+1=1+1=")).unwrap();
    assert_eq!(prepared.n_truncated, 2);
    assert_eq!(prepared.value, PreparedValue::Tokens(tokenizer.encode("1=1+1=").unwrap()));
    case.spec.model = transformer(3);
    let report = case.report();
    assert_eq!((report.errors[0].code.as_str(), report.errors[0].line), ("too_long", Some(1)), "{report}");
    case.spec.model = transformer(4);
    assert_eq!(case.load().warnings[0].code, "truncated");
}

#[test]
fn sources_and_targets_share_a_vocabulary_and_have_a_start_and_an_end() {
    let case = model(Task::SequenceToSequence, "t.csv", 8);
    case.write("t.csv", "source,target\n12,21\n123,321\n");
    let loaded = case.load();
    let mut batch = loaded.train.new_batch();
    loaded.train.fill(&[0, 1], &mut batch);
    let Input::Pair { source, target } = &batch.input else { unreachable!() };
    assert_eq!(source.ids, [0, 1, 0, 0, 1, 2]);
    assert_eq!(target.ids, [3, 1, 0, 0, 3, 2, 1, 0]);
    assert_eq!(batch.target, Target::Steps(vec![1, 0, 4, IGNORE, 2, 1, 0, 4]));
    let prepared = loaded.preparation.example(Raw::Text("21")).unwrap();
    assert_eq!(prepared.value, PreparedValue::Pair { source: vec![1, 0], target: vec![3] });
    let long = case.write("long.csv", "source,target\n1231231231,1\n");
    let error = load_eval(&loaded.preparation, &case.spec, &long, &Control::new()).unwrap_err();
    assert!(error.to_string().contains("too_long"), "{error}");
}

#[test]
fn texts_with_labels_keep_their_words_and_are_cut_with_a_warning() {
    let mut case = model(Task::Classification, "t.jsonl", 64);
    case.write(
        "t.jsonl",
        "{\"text\": \"good film\", \"label\": \"pos\"}\n{\"text\": \"bad\", \"label\": \"neg\"}\n",
    );
    case.spec.data.input = Some(InputSpec::Text { max_tokens: Some(5) });
    let loaded = case.load();
    assert_eq!(loaded.warnings[0].code, "truncated", "{:?}", loaded.warnings);
    assert_eq!(loaded.train.texts().unwrap(), ["good film", "bad"]);
    assert_eq!(loaded.train.labels().unwrap(), [1, 0]);
    let mut batch = loaded.train.new_batch();
    loaded.train.fill(&[0, 1], &mut batch);
    let Input::Tokens(tokens) = &batch.input else { unreachable!() };
    assert_eq!((tokens.time, &tokens.lengths[..]), (5, &[5, 3][..]));
    let prepared = loaded.preparation.example(Raw::Text("good film")).unwrap();
    assert_eq!(prepared.n_truncated, 4);
    assert_eq!(prepared.value, PreparedValue::Tokens(tokens.ids[..5].to_vec()));
    // Without a declared input, one column of words is a text for a model that reads text.
    case.spec.data.input = None;
    let loaded = case.load();
    assert!(matches!(loaded.preparation.input, InputPreparation::Text { max_tokens: 9, .. }));
}

#[test]
fn pieces_encode_as_the_whole() {
    let text = "First line of words,\n\n  then an indent\nand more. ".repeat(5000);
    let pieces: Vec<&str> = super::super::corpus::pieces(&text).collect();
    assert!(pieces.len() > 3);
    assert_eq!(pieces.concat(), text);
    let tokenizer = lyceum_models::prepare::text::Tokenizer::train_bpe(
        pieces.iter().copied(),
        400,
        lyceum_models::prepare::text::Specials::default(),
    )
    .unwrap();
    let joined: Vec<u32> = pieces.iter().flat_map(|piece| tokenizer.encode(piece).unwrap()).collect();
    assert_eq!(joined, tokenizer.encode(&text).unwrap());
}

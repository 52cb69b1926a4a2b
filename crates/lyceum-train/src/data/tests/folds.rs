//! Folds of every kind of row that can be parted, and why the others are refused.

use super::*;

fn fold(case: &Case, fold: usize, n_folds: usize) -> Result<Loaded, DataError> {
    load_fold(&case.spec, case.folder.path(), fold, n_folds, &Control::new())
}

#[test]
fn labelled_texts_are_parted_by_class_and_each_fold_learns_its_own_words() {
    let mut case = Case::new(Task::Classification);
    case.spec.data.train = "t.jsonl".into();
    case.spec.data.unseen = Unseen::Other;
    case.spec.data.tokenizer = Some(TokenizerSpec::Char);
    case.spec.model = transformer(8);
    let row = |i: usize| format!("{{\"text\":\"{}\",\"label\":\"{}\"}}\n", &"abcdefghijkl"[i..i + 1], i % 2);
    case.write("t.jsonl", (0..12).map(row).collect::<String>());
    let mut seen = vec![0; 12];
    for k in 0..3 {
        let loaded = fold(&case, k, 3).unwrap();
        let valid = loaded.valid.unwrap();
        valid.row_ids().iter().for_each(|&row| seen[row as usize] += 1);
        assert_eq!(valid.labels().unwrap().iter().sum::<u32>(), 2, "two of each class");
        // Eight letters of its own and the one that stands for the others.
        assert_eq!(loaded.preparation.tokenizer().unwrap().vocab_size(), 9);
    }
    assert_eq!(seen, vec![1; 12]);
}

#[test]
fn pairs_prompts_and_documents_are_parted_by_row_and_a_long_text_is_not() {
    let pairs = |i: usize| format!("{{\"source\":\"{i}\",\"target\":\"{i}\",\"who\":\"{}\"}}\n", i / 3);
    let prompts = |i: usize| format!("{{\"prompt\":\"{i}\",\"completion\":\"{i}\"}}\n");
    let documents = |i: usize| format!("{{\"text\":\"{i}{i}\"}}\n");
    type Line<'a> = &'a dyn Fn(usize) -> String;
    let kinds: [(Task, Line<'_>); 3] = [
        (Task::SequenceToSequence, &pairs),
        (Task::LanguageModeling, &prompts),
        (Task::LanguageModeling, &documents),
    ];
    for (task, line) in kinds {
        let mut case = Case::new(task);
        case.spec.data.train = "t.jsonl".into();
        case.spec.data.tokenizer = Some(TokenizerSpec::Byte);
        case.spec.model = transformer(8);
        case.write("t.jsonl", (0..9).map(line).collect::<String>());
        let mut seen = vec![0; 9];
        for k in 0..3 {
            let loaded = fold(&case, k, 3).unwrap();
            assert_eq!(loaded.train.row_ids().len(), 6);
            loaded.valid.unwrap().row_ids().iter().for_each(|&row| seen[row as usize] += 1);
        }
        assert_eq!(seen, vec![1; 9], "{task:?}");
    }
    let mut case = Case::new(Task::SequenceToSequence);
    case.spec.data.train = "t.jsonl".into();
    case.spec.data.tokenizer = Some(TokenizerSpec::Byte);
    case.spec.data.group = Some("who".into());
    case.spec.model = transformer(8);
    case.write("t.jsonl", (0..9).map(pairs).collect::<String>());
    for k in 0..3 {
        let valid = fold(&case, k, 3).unwrap().valid.unwrap();
        let rows = valid.row_ids();
        assert!(
            rows.len() == 3 && rows.iter().all(|row| row / 3 == rows[0] / 3),
            "a group is parted: {rows:?}"
        );
    }

    let mut case = Case::new(Task::LanguageModeling);
    case.spec.data.train = "t.txt".into();
    case.spec.model = transformer(4);
    case.write("t.txt", "one long text without rows");
    let error = fold(&case, 0, 3).unwrap_err().to_string();
    assert!(error.contains("no_folds") && error.contains("rows {\"text\"}"), "{error}");
    case.spec.data.train = "t.jsonl".into();
    case.write("t.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"ba\"}\n");
    assert!((0..3).any(|k| fold(&case, k, 3).is_err_and(|error| error.to_string().contains("too_few_rows"))));
}

#[test]
fn folds_of_a_forecast_roll_its_origin_and_never_learn_from_the_future() {
    let mut case = Case::new(Task::Forecasting);
    (case.spec.data.window, case.spec.data.horizon) = (Some(2), Some(1));
    case.spec.data.target = vec!["y".into()];
    // A rising series: its mean tells how far training saw.
    let text = (0..40).fold("y\n".to_owned(), |text, i| text + &format!("{i}\n"));
    case.write("train.csv", text);
    let mut last = 0;
    for k in 0..3 {
        let loaded = fold(&case, k, 3).unwrap();
        let (train, valid) = (loaded.train.row_ids(), loaded.valid.as_ref().unwrap().row_ids());
        let (cut, end) = (10 * (k as u64 + 1), 10 * (k as u64 + 2));
        assert_eq!((train[0], *train.last().unwrap()), (2, cut - 1));
        assert_eq!((valid[0], *valid.last().unwrap()), (cut, end - 1));
        assert!(valid[0] >= last, "parts do not overlap");
        last = *valid.last().unwrap();
        let lyceum_models::prepare::InputPreparation::Series(series) = &loaded.preparation.input else {
            panic!("a series")
        };
        assert!((series.mean[0] - (cut as f64 - 1.0) / 2.0).abs() < 1e-9, "scaled by what training saw");
    }
    case.spec.data.window = Some(30);
    let error = fold(&case, 0, 3).unwrap_err().to_string();
    assert!(error.contains("too_short") && error.contains("fewer folds"), "{error}");
}

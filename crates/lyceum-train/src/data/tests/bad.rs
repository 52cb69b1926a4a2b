//! Each thing that can be wrong with data is named with its place and its fix, all in one pass.

use super::*;

/// The one error of a report: code, line, and the whole line that a person reads.
#[track_caller]
fn only(report: &Report) -> (String, Option<u64>, String) {
    assert_eq!(report.n_errors(), 1, "{report}");
    let issue = &report.errors[0];
    (issue.code.clone(), issue.line, issue.to_string())
}

fn table(text: &str) -> Case {
    let mut case = Case::new(Task::Classification);
    case.spec.data.target = vec!["label".into()];
    case.write("train.csv", text);
    case
}

#[test]
fn a_missing_column_is_named_with_the_nearest_one() {
    let mut case = table(&rows(10));
    case.spec.data.target = vec!["lable".into()];
    let (code, _, shown) = only(&case.report());
    assert_eq!(code, "missing_column");
    assert!(shown.contains("\"lable\"") && shown.contains("did you mean \"label\"?"), "{shown}");
    assert!(shown.contains("x, color, label"), "{shown}");
}

#[test]
fn a_feature_that_only_validation_lacks_is_missed_there() {
    let mut case = table(&rows(10));
    case.write("valid.csv", "x,colour,label\n1,red,yes\n");
    case.spec.data.valid = Some("valid.csv".into());
    let (code, _, shown) = only(&case.report());
    assert_eq!(code, "missing_column");
    assert!(shown.starts_with("valid.csv") && shown.contains("did you mean \"colour\"?"), "{shown}");
}

#[test]
fn an_empty_target_is_an_error_whatever_missing_says() {
    let mut case = table("x,label\n1,a\n2,\n3,b\n4,a\n");
    case.spec.data.missing = Missing::Mean;
    let (code, line, shown) = only(&case.report());
    assert_eq!((code.as_str(), line), ("missing_target", Some(3)));
    assert!(shown.starts_with("train.csv:3, label"), "{shown}");
}

#[test]
fn a_non_number_in_row_17_is_found_there() {
    let mut text = rows(40);
    text = text.replace("\n15.5,", "\nfifteen,");
    let (code, line, shown) = only(&table(&text).report());
    assert_eq!((code.as_str(), line), ("not_a_number", Some(17)));
    assert!(shown.contains("\"fifteen\"") && shown.contains("x = \"category\""), "{shown}");
}

#[test]
fn nan_and_infinity_are_refused_and_empty_fields_need_a_declared_handling() {
    let report = table("x,label\n1,a\nNaN,b\n3,a\ninf,b\n,a\n5,a\n").report();
    let found: Vec<(&str, Option<u64>)> =
        report.errors.iter().map(|issue| (issue.code.as_str(), issue.line)).collect();
    assert_eq!(found, [("not_finite", Some(3)), ("not_finite", Some(5)), ("missing_value", Some(6))]);
    assert!(report.errors[2].hint.contains("missing = \"mean\""), "{report}");
}

#[test]
fn an_unseen_label_in_validation_names_its_line_and_the_known_ones() {
    let mut case = table(&rows(10));
    case.write("valid.csv", "x,color,label\n1,red,yes\n2,red,yess\n");
    case.spec.data.valid = Some("valid.csv".into());
    let (code, line, shown) = only(&case.report());
    assert_eq!((code.as_str(), line), ("unseen_label", Some(3)));
    assert!(shown.contains("did you mean \"yes\"?") && shown.contains("no, yes"), "{shown}");
}

#[test]
fn an_unseen_category_in_validation_is_refused_or_declared_other() {
    let mut case = table(&rows(10));
    case.write("valid.csv", "x,color,label\n1,blue,yes\n");
    case.spec.data.valid = Some("valid.csv".into());
    let (code, line, shown) = only(&case.report());
    assert_eq!((code.as_str(), line), ("unseen_category", Some(2)));
    assert!(shown.contains("unseen = \"other\""), "{shown}");
    case.spec.data.unseen = Unseen::Other;
    let valid = case.load().valid.unwrap();
    assert_eq!(valid.dense().unwrap().0[1..], [0.0, 0.0, 1.0]);
}

#[test]
fn an_empty_file_and_a_file_that_is_not_there_say_so() {
    for bytes in ["", "\u{FEFF}\r\n", "\n \n"] {
        let (code, _, shown) = only(&table(bytes).report());
        assert_eq!(code, "empty_file", "{shown}");
    }
    let (code, ..) = only(&table("x,label\n").report());
    assert_eq!(code, "no_rows");
    let mut case = table(&rows(5));
    case.spec.data.train = "gone.csv".into();
    let (code, _, shown) = only(&case.report());
    assert_eq!(code, "file_not_found");
    assert!(shown.contains("gone.csv"), "{shown}");
}

#[test]
fn ragged_rows_are_named_by_line_also_after_quoted_line_breaks() {
    let report = table("x,note,label\n1,\"two\nlines\",a\n2,b\n3,c,b,d\n4,c,b\n").report();
    let found: Vec<(&str, Option<u64>)> =
        report.errors.iter().map(|issue| (issue.code.as_str(), issue.line)).collect();
    assert_eq!(found, [("ragged_row", Some(4)), ("ragged_row", Some(5))], "{report}");
    assert!(report.errors[0].message.contains("2 fields, but the header has 3"), "{report}");
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let plain = table(&rows(12)).load();
    let windows = table(&format!("\u{FEFF}{}", rows(12).replace('\n', "\r\n"))).load();
    assert_eq!(plain.train, windows.train);
    assert_eq!(plain.preparation, windows.preparation);
}

#[test]
fn a_semicolon_file_and_a_doubled_header_are_recognised() {
    let report = table("x;label\n1;a\n2;b\n").report();
    assert_eq!(report.errors[0].code, "wrong_delimiter", "{report}");
    let report = table("x,x,label\n1,2,a\n2,3,b\n").report();
    assert_eq!((report.errors[0].code.as_str(), report.errors[0].line), ("duplicate_column", Some(1)));
}

#[test]
fn a_truncated_image_and_one_of_another_size_are_named_by_file() {
    let mut case = Case::new(Task::Classification);
    case.spec.data.train = "pictures".into();
    for (i, class) in ["cat", "dog", "cat", "dog"].iter().enumerate() {
        case.write(&format!("pictures/{class}/{i}.png"), png(4, 4, 10 * i as u8));
    }
    let whole = png(4, 4, 9);
    case.write("pictures/cat/cut.png", &whole[..whole.len() - 25]);
    case.write("pictures/dog/wide.png", png(5, 4, 9));
    case.write("pictures/dog/notes.doc", "hello");
    let report = case.report();
    let found: Vec<(&str, &str)> =
        report.errors.iter().map(|issue| (issue.code.as_str(), issue.file.as_str())).collect();
    assert_eq!(
        found,
        [
            ("unknown_file", "pictures/dog/notes.doc"),
            ("broken_image", "pictures/cat/cut.png"),
            ("wrong_image_size", "pictures/dog/wide.png"),
        ]
    );
    assert!(report.errors[2].message.contains("5×4") && report.errors[2].hint.contains("4×4"), "{report}");
}

#[test]
fn a_wav_of_the_wrong_rate_is_named_with_both_rates_and_the_fix() {
    let mut case = Case::new(Task::Classification);
    case.spec.data.train = "clips".into();
    case.spec.data.input = Some(AUDIO);
    case.write("clips/yes/a.wav", wav(8000, 1000));
    case.write("clips/no/b.wav", wav(8000, 1200));
    case.write("clips/no/c.wav", wav(16_000, 1200));
    let (code, _, shown) = only(&case.report());
    assert_eq!(code, "wrong_sample_rate");
    assert!(shown.starts_with("clips/no/c.wav"), "{shown}");
    assert!(shown.contains("16000") && shown.contains("resample it to 8000 Hz"), "{shown}");
}

#[test]
fn all_errors_of_all_files_come_in_one_report_with_counts_beyond_a_hundred() {
    let mut text = "x,label\n".to_owned();
    for i in 0..3000 {
        text.push_str(if i % 20 == 0 { "oops,a\n" } else { "1,b\n" });
    }
    let mut case = table(&text);
    case.write("valid.csv", "x,label\n1,c\nNaN,a\n");
    case.spec.data.valid = Some("valid.csv".into());
    let report = case.report();
    assert_eq!(report.errors.len(), 100);
    assert_eq!(report.counts["not_a_number"], 150);
    assert_eq!(report.counts["unseen_label"], 1);
    assert_eq!(report.counts["not_finite"], 1);
    assert!(report.to_string().contains("and 52 more"), "{report}");
}

#[test]
fn broken_json_lines_and_nested_values_have_their_line_and_pointer() {
    let mut case = Case::new(Task::Classification);
    case.spec.data.train = "train.jsonl".into();
    case.write(
        "train.jsonl",
        "{\"a/b\": 1, \"label\": \"x\"}\n{\"a/b\": [1], \"label\": \"y\"}\n{oops}\n[]\n\
         {\"a/b\": 1, \"label\": \"x\", \"a/b\": 2}\n",
    );
    let report = case.report();
    let found: Vec<(&str, Option<u64>, Option<&str>)> = report
        .errors
        .iter()
        .map(|issue| (issue.code.as_str(), issue.line, issue.pointer.as_deref()))
        .collect();
    assert_eq!(
        &found[..4],
        [
            ("broken_json", Some(3), None),
            ("not_an_object", Some(4), None),
            ("duplicate_key", Some(5), Some("/a~1b")),
            ("not_a_scalar", Some(2), Some("/a~1b")),
        ]
    );
}

#[test]
fn cut_arrays_and_unequal_lengths_are_refused() {
    let mut case = Case::new(Task::Classification);
    case.spec.data.train = "x.npy".into();
    let whole = npy("<f4", "(2, 3, 2)", &f32s([0.0; 12]));
    case.write("x.npy", &whole[..whole.len() - 1]);
    assert_eq!(only(&case.report()).0, "broken_npy");
    case.write("x.npy", &whole);
    assert_eq!(only(&case.report()).0, "no_target");
    case.write("y.npy", npy("|u1", "(3,)", &[0, 1, 0]));
    assert_eq!(only(&case.report()).0, "different_lengths");

    case.spec.data.train = "images-idx3-ubyte".into();
    case.write("images-idx3-ubyte", [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 9]);
    let (code, _, shown) = only(&case.report());
    assert_eq!(code, "broken_idx");
    assert!(shown.contains("3 bytes"), "{shown}");
}

#[test]
fn a_cancelled_load_stops() {
    let case = table(&rows(10));
    let control = Control::new();
    control.cancel();
    let stopped = load(&case.spec, case.folder.path(), &control);
    assert!(matches!(stopped, Err(DataError::Stopped(_))));
}

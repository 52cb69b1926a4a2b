//! The same numbers come out of every format, and serving prepares a row as training did.

use super::*;
use lyceum_models::batch::{Input, Target};
use lyceum_models::prepare::{PreparedValue, Raw};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

pub(super) fn classifier(file: &str) -> Case {
    let mut case = Case::new(Task::Classification);
    case.spec.data.train = file.into();
    case
}

fn served(loaded: &Loaded, raw: Raw<'_>) -> Vec<f32> {
    let stored = serde_json::to_string(&loaded.preparation).unwrap();
    let preparation: Preparation = serde_json::from_str(&stored).unwrap();
    assert_eq!(preparation, loaded.preparation);
    match preparation.example(raw).unwrap().value {
        PreparedValue::Dense(row) => row,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_table_is_scaled_by_training_rows_split_by_class_and_served_alike() {
    let mut case = classifier("train.csv");
    case.write("train.csv", rows(40));
    case.spec.data.valid_fraction = Some(0.25);
    let loaded = case.load();
    let (train, valid) = (&loaded.train, loaded.valid.as_ref().unwrap());
    assert_eq!((train.len(), valid.len()), (30, 10));
    assert_eq!(loaded.preparation.output.labels(), ["no", "yes"]);
    assert_eq!((loaded.split["train"].len(), loaded.split["valid"].len()), (30, 10));
    let (data, width) = train.dense().unwrap();
    assert_eq!(width, 3);
    let mean: f64 = data.chunks(width).map(|row| f64::from(row[0])).sum::<f64>() / 30.0;
    assert!(mean.abs() < 1e-6, "{mean}");
    let labels = valid.labels().unwrap();
    assert!((3..=4).contains(&labels.iter().filter(|&&label| label == 0).count()), "{labels:?}");
    // The property of the whole module: each row, sent as JSON, becomes the bits it was trained on.
    for (i, &id) in train.row_ids().iter().enumerate() {
        let color = ["red", "green"][id as usize % 2];
        let row = json!({"x": id as f64 + 0.5, "color": color});
        let expected = &data[i * width..(i + 1) * width];
        assert_eq!(served(&loaded, Raw::Named(row.as_object().unwrap())), expected);
        let Value::Array(ordered) = json!([row["x"], row["color"]]) else { unreachable!() };
        assert_eq!(served(&loaded, Raw::Ordered(&ordered)), expected);
    }
    assert_eq!(loaded.files[0].rows, 40);
    assert_eq!(loaded.files[0].sha256.len(), 64);
    let names: Vec<&str> = loaded.features.iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!(names, ["x", "color"]);
    assert_eq!(loaded.features[1].counts.values().sum::<u64>(), 30);
}

#[test]
fn missing_numbers_take_the_declared_value_of_training_rows() {
    let mut case = classifier("train.csv");
    case.write("train.csv", "x,label\n1,a\n2,b\n,a\n6,b\n");
    case.spec.data.standardize = Some(false);
    for (missing, expected) in [
        (Missing::Mean, vec![1.0, 2.0, 3.0, 6.0]),
        (Missing::Median, vec![1.0, 2.0, 2.0, 6.0]),
        (Missing::Indicator, vec![1.0, 0.0, 2.0, 0.0, 3.0, 1.0, 6.0, 0.0]),
    ] {
        case.spec.data.missing = missing;
        assert_eq!(case.load().train.dense().unwrap().0, expected);
    }
}

#[test]
fn tsv_jsonl_and_parquet_give_the_table_of_csv() {
    let case = classifier("train.csv");
    case.write("train.csv", rows(12));
    let expected = case.load();
    let mut case = classifier("train.tsv");
    case.write("train.tsv", rows(12).replace(',', "\t"));
    assert_eq!(case.load().train, expected.train);

    let mut jsonl = String::new();
    for line in rows(12).lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        jsonl.push_str(&format!(
            "{{\"x\": {}, \"color\": \"{}\", \"label\": \"{}\"}}\n\n",
            fields[0], fields[1], fields[2]
        ));
    }
    case.spec.data.train = "train.jsonl".into();
    case.write("train.jsonl", jsonl);
    assert_eq!(case.load().train, expected.train);

    case.spec.data.train = "train.parquet".into();
    parquet(&case.folder.path().join("train.parquet"), 12);
    assert_eq!(case.load().train, expected.train);
}

/// The rows of [`rows`] as parquet.
fn parquet(path: &Path, n: usize) {
    use ::parquet::data_type::{ByteArray, ByteArrayType, DoubleType};
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    let schema =
        "message m { required double x; required binary color (UTF8); required binary label (UTF8); }";
    let schema = std::sync::Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let x: Vec<f64> = (0..n).map(|i| i as f64 + 0.5).collect();
    column.typed::<DoubleType>().write_batch(&x, None, None).unwrap();
    column.close().unwrap();
    let words =
        |of: &dyn Fn(usize) -> &'static str| -> Vec<ByteArray> { (0..n).map(|i| of(i).into()).collect() };
    let color = words(&|i| ["red", "green"][i % 2]);
    let label = words(&|i| if i % 3 == 0 { "no" } else { "yes" });
    for values in [color, label] {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn arrays_of_npy_and_npz_become_tables_series_and_pictures() {
    let mut case = classifier("x.npy");
    case.spec.data.standardize = Some(false);
    case.write("x.npy", npy("<f4", "(4, 2)", &f32s((0..8).map(|i| i as f32))));
    case.write("y.npy", npy("<i8", "(4,)", &[3i64, 10, 3, 10].map(i64::to_le_bytes).concat()));
    let loaded = case.load();
    assert_eq!(loaded.preparation.output.labels(), ["3", "10"]);
    assert_eq!(loaded.train.labels().unwrap(), [0, 1, 0, 1]);
    assert_eq!(loaded.train.dense().unwrap(), (&(0..8).map(|i| i as f32).collect::<Vec<_>>()[..], 2));

    let mut archive = std::io::Cursor::new(Vec::new());
    let mut writer = zip::ZipWriter::new(&mut archive);
    let stored = zip::write::SimpleFileOptions::default();
    writer.start_file("x.npy", stored).unwrap();
    writer.write_all(&npy("<f4", "(2, 3, 2)", &f32s((0..12).map(|i| i as f32)))).unwrap();
    writer.start_file("y.npy", stored).unwrap();
    let texts: Vec<u8> =
        ["up", "no"].iter().flat_map(|s| s.chars()).flat_map(|c| (c as u32).to_le_bytes()).collect();
    writer.write_all(&npy("<U2", "(2,)", &texts)).unwrap();
    writer.finish().unwrap();
    case.write("d.npz", archive.into_inner());
    case.spec.data.train = "d.npz".into();
    case.spec.data.input = Some(InputSpec::Series { channels: 2 });
    case.spec.data.standardize = None;
    let loaded = case.load();
    assert_eq!(loaded.preparation.input.dense_shape(), Some(vec![3, 2]));
    assert_eq!(loaded.preparation.output.labels(), ["no", "up"]);
    let (data, _) = loaded.train.dense().unwrap();
    let numbers: Vec<f32> = (6..12).map(|i| i as f32).collect();
    assert_eq!(served(&loaded, Raw::Numbers(&numbers)), data[6..]);
    assert!((data.iter().sum::<f32>()).abs() < 1e-5);
}

#[test]
fn a_class_at_every_step_comes_from_two_dimensional_answers() {
    let mut case = classifier("x.npy");
    case.spec.data.input = Some(InputSpec::Series { channels: 1 });
    case.write("x.npy", npy("<f4", "(2, 3, 1)", &f32s((0..6).map(|i| i as f32))));
    case.write("y.npy", npy("|u1", "(2, 3)", &[0, 1, 1, 1, 0, 0]));
    let loaded = case.load();
    let mut batch = loaded.train.new_batch();
    loaded.train.fill(&[1, 0], &mut batch);
    assert_eq!(batch.target, Target::Steps(vec![1, 0, 0, 0, 1, 1]));
}

#[test]
fn idx_pictures_also_gzipped_are_divided_by_255() {
    let case = classifier("train-images-idx3-ubyte");
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..], &[0, 255, 51, 102]].concat();
    case.write("train-images-idx3-ubyte", &images);
    case.write("train-labels-idx1-ubyte", [0, 0, 8, 1, 0, 0, 0, 2, 7, 4]);
    let loaded = case.load();
    assert_eq!(loaded.preparation.input.dense_shape(), Some(vec![1, 1, 2]));
    assert_eq!(loaded.train.dense().unwrap().0, [0.0, 1.0, 0.2, 0.4]);
    assert_eq!(loaded.train.labels().unwrap(), [1, 0]);

    let gzipped = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let case = classifier("t-images-idx3-ubyte.gz");
    case.write("t-images-idx3-ubyte.gz", gzipped(&images));
    case.write("t-labels-idx1-ubyte.gz", gzipped(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 4]));
    assert_eq!(case.load().train, loaded.train);
}

#[test]
fn a_folder_of_pictures_per_class_is_served_from_the_same_files() {
    let mut case = classifier("pictures");
    for i in 0..6u8 {
        case.write(&format!("pictures/{}/{i}.png", ["dark", "light"][usize::from(i / 3)]), png(3, 2, 40 * i));
    }
    case.spec.data.input = Some(InputSpec::Image { shape: Some([1, 2, 3]), scale: None });
    case.spec.data.valid_fraction = Some(0.34);
    let loaded = case.load();
    assert_eq!((loaded.train.len(), loaded.valid.as_ref().unwrap().len()), (4, 2));
    assert_eq!(loaded.preparation.output.labels(), ["dark", "light"]);
    let (data, width) = loaded.train.dense().unwrap();
    for (row, &id) in loaded.train.row_ids().iter().enumerate() {
        let file = png(3, 2, 40 * id as u8);
        assert_eq!(served(&loaded, Raw::ImageFile(&file)), data[row * width..(row + 1) * width]);
    }
}

#[test]
fn pixels_of_a_table_are_divided_by_the_scale() {
    let mut case = classifier("train.csv");
    case.write("train.csv", "a,b,c,d,label\n0,16,8,4,3\n16,0,0,0,5\n");
    case.spec.data.target = vec!["label".into()];
    case.spec.data.input = Some(InputSpec::Image { shape: Some([1, 2, 2]), scale: Some(16.0) });
    let loaded = case.load();
    assert_eq!(loaded.train.dense().unwrap().0, [0.0, 1.0, 0.5, 0.25, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(served(&loaded, Raw::Numbers(&[0.0, 16.0, 8.0, 4.0])), [0.0, 1.0, 0.5, 0.25]);
    assert_eq!(served(&loaded, Raw::ImageFile(&png(2, 2, 255))), [1.0; 4]);
}

#[test]
fn folders_and_manifests_of_sounds_give_the_same_features() {
    let mut case = classifier("clips");
    case.spec.data.input = Some(AUDIO);
    case.write("clips/no/b.wav", wav(8000, 1200));
    case.write("clips/yes/a.wav", wav(8000, 1600));
    let folder = case.load();
    assert_eq!(folder.preparation.input.dense_shape(), Some(vec![1, 20, 10]));
    case.write("manifest.csv", "path,label\nclips/no/b.wav,no\nclips/yes/a.wav,yes\n");
    case.spec.data.train = "manifest.csv".into();
    assert_eq!(case.load().train, folder.train);
    let (data, width) = folder.train.dense().unwrap();
    assert_eq!(served(&folder, Raw::Wav(&wav(8000, 1200))), data[..width]);
}

#[test]
fn a_manifest_names_nothing_that_lies_outside_its_folder() {
    let mut case = classifier("mine/manifest.csv");
    case.spec.data.input = Some(AUDIO);
    let theirs = case.write("theirs/a.wav", wav(8000, 1200));
    case.write("mine/b.wav", wav(8000, 1600));
    case.write("mine/c.wav", wav(8000, 1300));
    for outside in ["../theirs/a.wav", "./../theirs/a.wav", theirs.to_str().unwrap()] {
        case.write("mine/manifest.csv", format!("path,label\nb.wav,no\nc.wav,yes\n{outside},yes\n"));
        let report = case.report();
        let found: Vec<(&str, Option<u64>)> =
            report.errors.iter().map(|issue| (issue.code.as_str(), issue.line)).collect();
        assert_eq!(found, [("file_outside", Some(4))], "{outside}: {report}");
    }
}

#[test]
fn a_series_a_row_and_in_long_form_are_the_same_series() {
    let mut case = classifier("wide.csv");
    case.spec.data.input = Some(InputSpec::Series { channels: 1 });
    case.spec.data.target = vec!["kind".into()];
    case.write("wide.csv", "t0,t1,t2,kind\n1,2,3,up\n9,5,1,down\n4,5,6,up\n");
    let wide = case.load();
    assert_eq!(wide.preparation.input.dense_shape(), Some(vec![3, 1]));
    case.write(
        "long.csv",
        "id,t,v,kind\na,0,1,up\na,1,2,up\na,2,3,up\nb,0,9,down\nb,1,5,down\nb,2,1,down\nc,1,4,up\nc,2,5,up\nc,3,6,up\n",
    );
    case.spec.data.train = "long.csv".into();
    case.spec.data.time = Some("t".into());
    case.spec.data.group = Some("id".into());
    let long = case.load();
    assert_eq!(long.train.dense(), wide.train.dense());
    assert_eq!(long.train.labels(), wide.train.labels());
    assert_eq!(long.train.row_ids(), [0, 3, 6]);
    case.write("long.csv", "id,t,v,kind\na,0,1,up\na,2,2,up\na,1,3,up\nb,0,9,down\nb,1,5,down\n");
    let report = case.report();
    let codes: Vec<&str> = report.errors.iter().map(|issue| issue.code.as_str()).collect();
    assert_eq!(codes, ["unsorted_time", "different_lengths"], "{report}");
    assert_eq!(report.errors[0].line, Some(4));
}

#[test]
fn forecasting_windows_keep_training_before_validation() {
    let mut case = Case::new(Task::Forecasting);
    case.spec.data.window = Some(3);
    case.spec.data.horizon = Some(2);
    case.spec.data.target = vec!["sales".into()];
    case.spec.data.time = Some("month".into());
    case.spec.data.valid_fraction = Some(0.3);
    let mut text = "month,sales\n".to_owned();
    (0..20).for_each(|i| text.push_str(&format!("2024-{:02},{}\n", i + 1, i * i)));
    case.write("train.csv", &text);
    let loaded = case.load();
    // Rows 0..14 train: first targets 3..=12; validation targets start at 14..=18.
    assert_eq!(loaded.split["train"], (3..=12).collect::<Vec<u64>>());
    assert_eq!(loaded.split["valid"], (14..=18).collect::<Vec<u64>>());
    let mut batch = loaded.train.new_batch();
    loaded.train.fill(&[9], &mut batch);
    let (Input::Dense { data, .. }, Target::Values { width, data: targets }) = (&batch.input, &batch.target)
    else {
        unreachable!()
    };
    assert_eq!(*width, 2);
    let inputs = [81.0f32, 100.0, 121.0];
    assert_eq!(served(&loaded, Raw::Numbers(&inputs)), *data);
    let restored = loaded.preparation.output.restore(targets);
    assert!((restored[0] - 144.0).abs() < 1e-3 && (restored[1] - 169.0).abs() < 1e-3, "{restored:?}");
    // Three rows alone ask for the future.
    let future = case.write("now.csv", "month,sales\n2030-01,1\n2030-02,4\n2030-03,9\n");
    let set = load_eval(&loaded.preparation, &case.spec, &future, &Control::new()).unwrap();
    assert_eq!(set.new_batch().target, Target::None);
    assert_eq!(set.dense().unwrap().0, served(&loaded, Raw::Numbers(&[1.0, 4.0, 9.0])));
}

#[test]
fn regression_targets_are_scaled_and_restored() {
    let mut case = Case::new(Task::Regression);
    case.spec.data.target = vec!["y".into()];
    case.write("train.csv", "x,y\n1,10\n2,20\n3,60\n");
    let loaded = case.load();
    let (values, width) = loaded.train.values().unwrap();
    assert_eq!(width, 1);
    assert!((values.iter().sum::<f32>()).abs() < 1e-6);
    let restored = loaded.preparation.output.restore(values);
    assert!(restored.iter().zip([10.0, 20.0, 60.0]).all(|(a, b)| (a - b).abs() < 1e-4), "{restored:?}");
}

#[test]
fn another_file_is_read_with_or_without_its_answers() {
    let case = classifier("train.csv");
    case.write("train.csv", rows(12));
    let loaded = case.load();
    let with = case.write("with.csv", "label,color,x\nyes,red,3\n");
    let without = case.write("without.csv", "color,x\nred,3\n");
    let read = |path: &Path| load_eval(&loaded.preparation, &case.spec, path, &Control::new());
    let (with, without) = (read(&with).unwrap(), read(&without).unwrap());
    assert_eq!(with.labels(), Some(&[1][..]));
    assert_eq!(without.labels(), None);
    assert_eq!(with.dense(), without.dense());
    let missing = case.write("missing.csv", "x,label\n3,yes\n");
    let error = read(&missing).unwrap_err().to_string();
    assert!(error.contains("missing_column") && error.contains("\"color\""), "{error}");
}

#[test]
fn folds_take_their_scale_from_the_other_folds() {
    let case = classifier("train.csv");
    case.write("train.csv", rows(30));
    let mut seen = vec![0; 30];
    for fold in 0..3 {
        let loaded = load_fold(&case.spec, case.folder.path(), fold, 3, &Control::new()).unwrap();
        let valid = loaded.valid.unwrap();
        assert_eq!((loaded.train.len(), valid.len()), (20, 10));
        valid.row_ids().iter().for_each(|&row| seen[row as usize] += 1);
        let (data, width) = loaded.train.dense().unwrap();
        let mean: f32 = data.chunks(width).map(|row| row[0]).sum::<f32>() / 20.0;
        assert!(mean.abs() < 1e-5, "{mean}");
    }
    assert_eq!(seen, vec![1; 30]);
}

#[test]
fn shuffled_labels_keep_their_counts_and_touch_training_rows_only() {
    let mut case = classifier("train.csv");
    case.write("train.csv", rows(60));
    case.spec.data.valid_fraction = Some(0.2);
    let plain = case.load();
    case.spec.data.shuffle_labels = true;
    let shuffled = case.load();
    assert_eq!(plain.valid, shuffled.valid);
    let sorted = |loaded: &Loaded| {
        let mut labels = loaded.train.labels().unwrap().to_vec();
        labels.sort_unstable();
        labels
    };
    assert_ne!(plain.train.labels(), shuffled.train.labels());
    assert_eq!(sorted(&plain), sorted(&shuffled));
}

#[test]
fn duplicates_overlap_conflicts_and_imbalance_are_warned_of() {
    let mut case = classifier("train.csv");
    let mut text = "x,label\n".to_owned();
    (0..30).for_each(|i| text.push_str(&format!("{i},a\n")));
    text.push_str("3,a\n4,b\n");
    case.write("train.csv", &text);
    case.write("valid.csv", "x,label\n7,a\n99,b\n");
    case.spec.data.valid = Some("valid.csv".into());
    let loaded = case.load();
    let warning = |code: &str| {
        let found = loaded.warnings.iter().find(|warning| warning.code == code);
        found.unwrap_or_else(|| panic!("no {code} in {:?}", loaded.warnings)).message.clone()
    };
    assert!(warning("duplicates").starts_with("2 of 32"));
    assert!(warning("conflicting_labels").starts_with("1 training"));
    assert!(warning("overlap").starts_with("1 of 2 validation"));
    assert!(warning("class_imbalance").contains("31 training rows"));
}

//! Archives of pictures and sounds: the same examples as their folder, and what an archive must not do.

use super::formats::classifier;
use super::*;
use std::io::{Cursor, Write};
use zip::write::SimpleFileOptions;

fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in files {
        archive.start_file(*name, SimpleFileOptions::default()).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn tarred(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        // As a stranger writes it: the builder itself refuses names that lead out.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

fn codes(report: &Report) -> Vec<(&str, &str)> {
    report.errors.iter().map(|issue| (issue.code.as_str(), issue.file.as_str())).collect()
}

/// What upload says of a file.
fn arrived(case: &Case, name: &str) -> Report {
    let contents = KeyedPath::plain(case.folder.path().join(name)).open().unwrap();
    arrived::judge(&contents, name, &Control::new()).unwrap()
}

#[test]
fn an_archive_has_the_examples_of_its_folder_whoever_packed_it() {
    let mut case = classifier("pictures");
    case.spec.data.input = Some(InputSpec::Image { shape: Some([1, 2, 3]), scale: None });
    let pictures: Vec<(String, Vec<u8>)> = (0..6u8)
        .map(|i| (format!("{}/{i}.png", ["dark", "light"][usize::from(i / 3)]), png(3, 2, 40 * i)))
        .collect();
    pictures.iter().for_each(|(name, bytes)| drop(case.write(&format!("pictures/{name}"), bytes)));
    let folder = case.load();
    let named = |before: &str| -> Vec<(String, &[u8])> {
        let mut all: Vec<_> = pictures.iter().map(|(name, b)| (format!("{before}{name}"), &b[..])).collect();
        // What finders and editors leave behind is no example.
        all.push((format!("__MACOSX/{before}dark/._0.png"), b"junk"));
        all.push((format!("{before}dark/.DS_Store"), b"junk"));
        all
    };
    for (before, ending) in [("", "zip"), ("data/", "zip"), ("", "tar"), ("./data/", "tgz"), ("./", "tar.gz")]
    {
        let files = named(before);
        let files: Vec<(&str, &[u8])> = files.iter().rev().map(|(name, b)| (&name[..], *b)).collect();
        let bytes = match ending {
            "zip" => zipped(&files),
            "tar" => tarred(&files),
            _ => gzipped(&tarred(&files)),
        };
        case.spec.data.train = format!("pictures.{ending}");
        case.write(&case.spec.data.train, bytes);
        let loaded = case.load();
        assert_eq!((&loaded.train, &loaded.preparation), (&folder.train, &folder.preparation), "{ending}");
        assert!(arrived(&case, &case.spec.data.train).is_empty());
        assert_eq!(loaded.files[0].rows, 6);
    }
}

#[test]
fn sounds_of_an_archive_are_those_of_their_folder() {
    let mut case = classifier("clips");
    case.spec.data.input = Some(AUDIO);
    let (no, yes) = (wav(8000, 1200), wav(8000, 1600));
    case.write("clips/no/b.wav", &no);
    case.write("clips/yes/a.wav", &yes);
    let folder = case.load();
    case.write("clips.zip", zipped(&[("no/b.wav", &no), ("yes/a.wav", &yes)]));
    case.spec.data.train = "clips.zip".into();
    assert_eq!(case.load().train, folder.train);
    let path = case.folder.path().join("clips.zip");
    let sounds = sound_files(&case.spec, &path, &Control::new()).unwrap().unwrap();
    assert_eq!(sounds.iter().map(|sound| sound.read().unwrap().to_vec()).collect::<Vec<_>>(), [no, yes]);
}

#[test]
fn what_an_archive_must_not_hold_is_told_file_by_file() {
    let mut case = classifier("a.zip");
    let picture = png(2, 2, 9);
    let good: [(&str, &[u8]); 2] = [("x/1.png", &picture), ("y/2.png", &picture)];
    for (more, code) in [
        (("../../etc/cron.d/x.png", &picture[..]), "file_outside"),
        (("/etc/x.png", &picture), "file_outside"),
        (("x/deep/3.png", &picture), "too_deep"),
        (("3.png", &picture), "no_class"),
        (("x/notes.md", b"hello"), "unknown_file"),
    ] {
        let all = [&good[..], &[more]].concat();
        for (name, bytes) in [("a.zip", zipped(&all)), ("a.tar", tarred(&all))] {
            case.write(name, bytes);
            case.spec.data.train = name.into();
            let place = format!("{name}/{}", more.0);
            let found = case.report();
            assert!(codes(&found).contains(&(code, &place)), "{name} {more:?}: {found}");
            assert_eq!(arrived(&case, name), found);
        }
    }
    // A picture that is none is found before any job asks.
    case.write("b.zip", zipped(&[good[0], ("y/2.png", &picture[..20]), ("y/3.png", b"no picture")]));
    let found = arrived(&case, "b.zip");
    assert_eq!(codes(&found), [("broken_image", "b.zip/y/2.png"), ("broken_image", "b.zip/y/3.png")]);
    // Twice, a link, sounds among pictures, nothing, cut short.
    let mut links = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    links.append_link(&mut header, "x/1.png", "/etc/passwd").unwrap();
    let whole = zipped(&good);
    for (name, bytes, code) in [
        ("twice.tar", tarred(&[good[0], good[0], good[1]]), "duplicate_file"),
        ("unnamed.tar", tarred(&[(".", b"x"), good[0], good[1]]), "not_a_file"),
        ("link.tar", links.into_inner().unwrap(), "not_a_file"),
        ("mixed.zip", zipped(&[good[0], ("y/2.wav", &wav(8000, 1200))]), "mixed_media"),
        ("none.zip", zipped(&[]), "empty_folder"),
        ("cut.zip", whole[..whole.len() / 2].to_vec(), "broken_archive"),
        ("cut.tgz", gzipped(&tarred(&good))[..40].to_vec(), "broken_archive"),
        ("other.zip", b"a,label\n1,x\n".to_vec(), "broken_archive"),
    ] {
        case.write(name, bytes);
        case.spec.data.train = name.into();
        let found = case.report();
        assert!(found.counts.contains_key(code), "{name}: {found}");
        assert_eq!(arrived(&case, name).counts, found.counts, "{name}");
    }
}

#[test]
fn tables_are_judged_when_they_arrive_and_hold_no_memory() {
    let case = classifier("a.csv");
    for (name, text, want) in [
        ("good.csv", "\u{FEFF}a,label\r\n1,x\r\n2,y\r\n", None),
        ("ragged.csv", "a,label\n1,x\n2\n3,y,z\n", Some(("ragged_row", vec![3, 4]))),
        ("twice.tsv", "a\ta\n1\t2\n", Some(("duplicate_column", vec![1]))),
        ("blank.csv", "\u{FEFF}  \n \n", Some(("empty_file", vec![]))),
        ("empty.txt", "", Some(("empty_file", vec![]))),
        ("a.exe", "MZ", Some(("unknown_format", vec![]))),
        ("a.parquet", "PAR1 no more", Some(("broken_parquet", vec![]))),
        ("chat.jsonl", "{\"a\": 1}\n", Some(("unknown_format", vec![1]))),
    ] {
        case.write(name, text);
        let report = arrived(&case, name);
        let lines: Vec<u64> = report.errors.iter().filter_map(|issue| issue.line).collect();
        match want {
            None => assert!(report.is_empty(), "{name}: {report}"),
            Some((code, at)) => {
                assert_eq!(
                    (report.counts.keys().map(String::as_str).collect::<Vec<_>>(), lines),
                    (vec![code], at),
                    "{name}: {report}"
                );
            }
        }
    }
    case.write("latin.csv", b"a,label\n\xE4,x\n");
    let report = arrived(&case, "latin.csv");
    assert_eq!((report.errors[0].line, report.errors[0].column.as_deref()), (Some(2), Some("a")));
}

use super::*;
use crate::checkpoint::Checkpoint;
use lyceum_kernels::stored::quantise;
use proptest::prelude::*;

fn metadata() -> Vec<(String, Value)> {
    let of = |key: &str, value| (key.to_owned(), value);
    vec![
        of("general.architecture", Value::String("llama".into())),
        of("llama.block_count", Value::U32(2)),
        of("llama.rope.freq_base", Value::F32(10_000.5)),
        of("a.i8", Value::I8(-3)),
        of("a.u64", Value::U64(u64::MAX)),
        of("a.bool", Value::Bool(true)),
        of("tokenizer.ggml.tokens", Value::Strings(vec!["a".into(), "é".into(), String::new()])),
        of("tokenizer.ggml.scores", Value::Floats(vec![0.5, -1.0])),
        of("tokenizer.ggml.token_type", Value::Integers(vec![1, 3, -1])),
        of("a.wide", Value::Integers(vec![1 << 40])),
        of("a.bools", Value::Bools(vec![true, false])),
    ]
}

fn sample() -> Vec<u8> {
    let numbers: Vec<f32> = (0..3 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
    let stored = |kind| {
        let mut out = Vec::new();
        quantise(kind, &numbers, &mut out).unwrap();
        out
    };
    let tensor = |name: &str, dims: &[usize], kind| {
        let data = stored(kind);
        Tensor { name: name.into(), dims: dims.into(), kind, data: Box::new(move || Ok(data.clone())) }
    };
    let tensors = [
        tensor("w.f32", &[3, 64], Stored::F32),
        tensor("w.bf16", &[3, 64], Stored::Bf16),
        tensor("w.q8_0", &[3, 64], Stored::Q8_0),
        tensor("w.q4_0", &[3, 2, 32], Stored::Q4_0),
        tensor("v", &[192], Stored::F16),
    ];
    let mut file = Vec::new();
    write(&mut file, &metadata(), &tensors).unwrap();
    file
}

fn header(bytes: &[u8]) -> Result<Header, GgufError> {
    read(&bytes.to_vec())
}

#[test]
fn what_is_written_is_read() {
    let file = sample();
    let header = header(&file).unwrap();
    assert_eq!(header.metadata, metadata());
    let names: Vec<_> = header.tensors.iter().map(|t| (t.name.as_str(), &t.dims[..], t.kind)).collect();
    assert_eq!(names[3], ("w.q4_0", &[3, 2, 32][..], Stored::Q4_0));
    let (checkpoint, _) = Checkpoint::gguf(Box::new(file)).unwrap();
    let exact = checkpoint.numbers(checkpoint.find("w.f32").unwrap()).unwrap();
    for (name, far) in [("w.bf16", 4e-3), ("w.q8_0", 5e-3), ("w.q4_0", 0.15), ("v", 5e-4)] {
        let found = checkpoint.numbers(checkpoint.find(name).unwrap()).unwrap();
        let worst = exact.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < far, "{name}: {worst}");
    }
}

#[test]
fn types_that_are_not_read_are_refused_by_name() {
    let file = sample();
    let at = file.windows(6).position(|w| w == b"w.q8_0").unwrap() + 6 + 4 + 16;
    let with = |number: u32| {
        let mut file = file.clone();
        file[at..at + 4].copy_from_slice(&number.to_le_bytes());
        header(&file).unwrap_err().to_string()
    };
    assert!(with(16).contains("\"w.q8_0\" has type IQ2_XXS, which is not read"), "{}", with(16));
    assert!(with(99).contains("type number 99"), "{}", with(99));
    // Q4_K: 64 numbers are no block of 256.
    assert!(with(12).contains("whose blocks have 256 numbers"), "{}", with(12));
}

#[test]
fn a_damaged_header_says_where() {
    let file = sample();
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut file = file.clone();
        change(&mut file);
        header(&file).unwrap_err().to_string()
    };
    assert!(error(&|f| f[0] = b'X').contains("does not begin with"));
    assert!(error(&|f| f[4] = 9).contains("version 9"));
    assert!(error(&|f| f[4..8].copy_from_slice(&3u32.to_be_bytes())).contains("big-endian"));
    assert!(error(&|f| f[8..16].fill(0xff)).contains("tensors; at most"));
    assert!(error(&|f| f.truncate(100)).contains("the file ends after"));
    let cut = error(&|f| f.truncate(f.len() - 64));
    assert!(cut.contains("ends after the file"), "{cut}");
}

proptest! {
    /// No change to a file makes reading panic, or allocate more than the file's own size allows.
    #[test]
    fn changed_files_give_errors_and_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        keep in any::<prop::sample::Index>(),
    ) {
        let mut file = sample();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let whole = file.len();
        file.truncate(keep.index(whole) + 1);
        if let Ok((checkpoint, header)) = Checkpoint::gguf(Box::new(file)) {
            for tensor in &header.tensors {
                let _ = checkpoint.numbers(checkpoint.find(&tensor.name).unwrap());
            }
        }
    }
}

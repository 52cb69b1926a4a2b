//! idx files (MNIST's format), also gzipped: pictures, and their labels in the file whose name has `labels`
//! for `images` and `idx1` for `idx3`.

use super::npy::{self, Array, Values};
use super::report::{DataError, Issue, Report, io, one};
use super::source::{Numbers, Source};
use lyceum_seal::KeyedPath;
use lyceum_types::control::Control;
use lyceum_types::spec::Spec;
use std::io::Read;

pub(crate) fn read(
    spec: &Spec,
    path: &KeyedPath,
    shown: &str,
    control: &Control,
    report: &mut Report,
) -> Result<Source, DataError> {
    let mut pictures = array(path, shown)?;
    control.check()?;
    if let [n, height, width] = pictures.shape[..] {
        pictures.shape = vec![n, 1, height, width];
    }
    let name = path.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let other = name.replace("images", "labels").replace("idx3", "idx1");
    let labels = path.beside(&other).filter(|_| other != name);
    let labels = labels.map(|labels| array(&labels, &other)).transpose()?;
    npy::source(spec, shown, pictures, labels, report)
}

fn array(path: &KeyedPath, shown: &str) -> Result<Array, DataError> {
    let file = path.open().map_err(|source| io(path.path(), source))?;
    let file = file.reader();
    let mut bytes = Vec::new();
    let gzipped = path.path().extension().is_some_and(|extension| extension == "gz");
    let read = if gzipped {
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes)
    } else {
        std::io::BufReader::new(file).read_to_end(&mut bytes)
    };
    let broken = |message: String| {
        one(Issue::new(shown, "broken_idx", message, "the file is cut short or no idx file; fetch it again"))
    };
    read.map_err(|error| broken(format!("the file cannot be read: {error}")))?;
    if bytes.is_empty() {
        return Err(one(Issue::new(shown, "empty_file", "the file is empty", "fetch it again")));
    }
    let &[0, 0, kind, n_dims, ..] = &bytes[..] else {
        return Err(broken("the file does not start as idx files do".to_owned()));
    };
    let start = 4 + 4 * usize::from(n_dims);
    let header = bytes.get(4..start).ok_or_else(|| broken("the header is cut short".to_owned()))?;
    let dim = |b: &[u8]| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize;
    let shape: Vec<usize> = header.chunks_exact(4).map(dim).collect();
    let n = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).unwrap_or(usize::MAX);
    let size = match kind {
        0x08 | 0x09 => 1,
        0x0B => 2,
        0x0C | 0x0D => 4,
        0x0E => 8,
        _ => return Err(broken(format!("the type 0x{kind:02x} is not known"))),
    };
    let data = &bytes[start..];
    if n.checked_mul(size) != Some(data.len()) {
        return Err(broken(format!(
            "{} bytes of numbers, but shape {shape:?} needs {n} × {size}",
            data.len()
        )));
    }
    let numbers = match kind {
        0x08 => Numbers::U8(data.to_vec()),
        0x09 => Numbers::F64(data.iter().map(|&x| f64::from(x as i8)).collect()),
        0x0B => items(data, |b: [u8; 2]| f64::from(i16::from_be_bytes(b))),
        0x0C => items(data, |b: [u8; 4]| f64::from(i32::from_be_bytes(b))),
        0x0D => items(data, |b: [u8; 4]| f64::from(f32::from_be_bytes(b))),
        _ => items(data, |b: [u8; 8]| f64::from_be_bytes(b)),
    };
    Ok(Array { shape, values: Values::Numbers(numbers) })
}

fn items<const N: usize>(data: &[u8], read: impl Fn([u8; N]) -> f64) -> Numbers {
    let item = |bytes: &[u8]| read(bytes.try_into().expect("chunks have N bytes: bug"));
    Numbers::F64(data.chunks_exact(N).map(item).collect())
}

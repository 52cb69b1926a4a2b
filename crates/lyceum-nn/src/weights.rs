//! Weights in and out as safetensors, under the names that PyTorch gives them.
//!
//! Files hold no time, path or id: equal parameters give equal bytes. f32, f16 and bf16 are read; f32 is
//! written, counters as i64.

use crate::NnError;
use crate::params::{ParamKind, Params};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;

/// The file's bytes. Matrices that were laid out for serving do not change: the files that they came from hold them.
pub fn to_safetensors(params: &Params) -> Result<Vec<u8>, NnError> {
    let bytes: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = params
        .ids()
        .filter(|&id| params.stored(id).is_none())
        .map(|id| {
            let value = params.value(id);
            let (dtype, dims, bytes) = match params.kind(id) {
                ParamKind::Counter => (Dtype::I64, Vec::new(), (value[0] as i64).to_le_bytes().to_vec()),
                _ => {
                    let bytes = value.iter().flat_map(|x| x.to_le_bytes()).collect();
                    (Dtype::F32, params.shape(id).dims().to_vec(), bytes)
                }
            };
            (params.name(id).to_owned(), dtype, dims, bytes)
        })
        .collect();
    let views: Vec<(&str, TensorView<'_>)> = bytes
        .iter()
        .map(|(name, dtype, dims, bytes)| Ok((name.as_str(), TensorView::new(*dtype, dims.clone(), bytes)?)))
        .collect::<Result<_, safetensors::SafeTensorError>>()
        .map_err(NnError::Safetensors)?;
    safetensors::serialize(views, None).map_err(NnError::Safetensors)
}

/// A tensor as it stands in a file, widened to f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dims: Vec<usize>,
    pub data: Vec<f32>,
}

/// Every tensor of a file.
///
/// # Errors
/// When the bytes are not safetensors, or hold a type other than f32, f16, bf16, i64, i32 and u8.
pub fn read_safetensors(bytes: &[u8]) -> Result<HashMap<String, Tensor>, NnError> {
    let file = SafeTensors::deserialize(bytes).map_err(NnError::Safetensors)?;
    file.iter()
        .map(|(name, view)| {
            let raw = view.data();
            let data: Vec<f32> = match view.dtype() {
                Dtype::F32 => words(raw).map(f32::from_le_bytes).collect(),
                Dtype::F16 => words(raw).map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
                Dtype::BF16 => words(raw).map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
                Dtype::I64 => words(raw).map(|b| i64::from_le_bytes(b) as f32).collect(),
                Dtype::I32 => words(raw).map(|b| i32::from_le_bytes(b) as f32).collect(),
                Dtype::U8 => raw.iter().map(|&b| b as f32).collect(),
                other => {
                    let problem = format!("has type {other:?}; f32, f16 and bf16 can be read");
                    return Err(NnError::Tensor { name: name.to_owned(), problem });
                }
            };
            Ok((name.to_owned(), Tensor { dims: view.shape().to_vec(), data }))
        })
        .collect()
}

/// Fills every parameter of `params` (but those that [`to_safetensors`] leaves out) from a file with exactly these
/// tensors.
///
/// # Errors
/// When a tensor is missing, has another shape, or the model knows none of its name.
pub fn load_safetensors(params: &mut Params, bytes: &[u8]) -> Result<(), NnError> {
    let mut tensors = read_safetensors(bytes)?;
    let ids: Vec<_> = params.ids().filter(|&id| params.stored(id).is_none()).collect();
    for id in ids {
        let name = params.name(id).to_owned();
        let Some(tensor) = tensors.remove(&name) else {
            return Err(NnError::Tensor { name, problem: "is missing".into() });
        };
        let dims = if params.kind(id) == ParamKind::Counter { vec![1] } else { tensor.dims };
        params.set(id, &dims, tensor.data)?;
    }
    match tensors.into_keys().min() {
        Some(name) => Err(NnError::Tensor { name, problem: "is not part of this model".into() }),
        None => Ok(()),
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|chunk| chunk.try_into().expect("chunks have N bytes: bug"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;
    use rand::SeedableRng;

    fn sample(seed: u64) -> Params {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut params = Params::new();
        params.add("b.weight", &[2, 3], ParamKind::Weight, Init::Normal(1.0), &mut rng);
        params.add("a.bias", &[2], ParamKind::Weight, Init::Uniform(1.0), &mut rng);
        params.add("n", &[1], ParamKind::Counter, Init::Ones, &mut rng);
        params
    }

    #[test]
    fn what_is_written_is_read_and_equal_weights_give_equal_bytes() {
        let (one, mut two) = (sample(1), sample(2));
        let bytes = to_safetensors(&one).unwrap();
        load_safetensors(&mut two, &bytes).unwrap();
        assert_eq!(to_safetensors(&two).unwrap(), bytes);
    }

    #[test]
    fn missing_and_foreign_tensors_are_named() {
        let bytes = to_safetensors(&sample(1)).unwrap();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
        let mut more = sample(1);
        more.add("c", &[1], ParamKind::Weight, Init::Zeros, &mut rng);
        assert!(load_safetensors(&mut more, &bytes).unwrap_err().to_string().contains("\"c\" is missing"));
        let mut fewer = Params::new();
        fewer.add("n", &[1], ParamKind::Counter, Init::Zeros, &mut rng);
        let error = load_safetensors(&mut fewer, &bytes).unwrap_err().to_string();
        assert!(error.contains("\"a.bias\" is not part"), "{error}");
    }
}

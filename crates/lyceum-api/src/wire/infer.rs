//! Open Inference Protocol v2: tensors in, tensors out, as JSON or with raw bytes behind it ([`binary`]).

use super::{binary, unsupported};
use crate::error::ApiError;
use lyceum_service::infer::{self, Data, Metadata, OutputTensor, Request, Tensor, TensorMetadata};
use lyceum_types::limits;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InferRequest)]
pub struct Body {
    /// Given back with the answer.
    pub id: Option<String>,
    /// `binary_data_output`: whether outputs come as raw bytes, where they do not say it themselves.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Map<String, Value>>,
    pub inputs: Vec<InputBody>,
    /// The outputs that are wanted; all by default.
    pub outputs: Option<Vec<WantedOutput>>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InferInput)]
pub struct InputBody {
    pub name: String,
    /// The first dimension counts the examples.
    pub shape: Vec<u64>,
    /// `FP32`, `FP64`, `INT8` … `INT64`, `UINT8` … `UINT64`, `BOOL`, or `BYTES` for texts; `FP16` and `BF16` as
    /// raw bytes only.
    pub datatype: String,
    /// `binary_data_size`: the tensor is these many of the raw bytes that follow the JSON, and has no `data`.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Map<String, Value>>,
    /// Row-major, flat or nested as the shape is.
    #[schema(value_type = Option<Vec<Value>>)]
    pub data: Option<Value>,
}

#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InferWantedOutput)]
pub struct WantedOutput {
    pub name: String,
    /// `binary_data`: whether this output comes as raw bytes.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Map<String, Value>>,
}

/// How the answer is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Given back.
    pub id: Option<String>,
    /// Whether an output that does not say it comes as raw bytes.
    binary_by_default: bool,
    /// Outputs that say it.
    binary: Vec<(String, bool)>,
}

impl Reply {
    fn is_binary(&self, name: &str) -> bool {
        let own = self.binary.iter().find(|(output, _)| output == name).map(|(_, is_binary)| *is_binary);
        own.unwrap_or(self.binary_by_default)
    }
}

impl Body {
    /// The request, and how its answer is written. `raw`: what follows the JSON.
    pub fn parse(self, raw: Option<&[u8]>) -> Result<(Request, Reply), ApiError> {
        let [binary_by_default] = flags("parameters", self.parameters, ["binary_data_output"])?;
        if self.id.as_ref().is_some_and(|id| id.chars().count() > limits::ADVISORY_CHARS_MAX) {
            return Err(ApiError::field("id", "invalid_value", "id: longer than 512 characters"));
        }
        let n = self.inputs.len();
        if n == 0 || n > limits::TENSORS_MAX {
            let message = format!("inputs: {n} tensors are not between 1 and {}", limits::TENSORS_MAX);
            return Err(ApiError::field("inputs", "invalid_value", message));
        }
        let mut rest = raw.map(binary::Raw);
        let inputs = self.inputs.into_iter().enumerate().map(|(i, input)| tensor(i, input, rest.as_mut()));
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        if let Some(rest) = rest.filter(|rest| !rest.0.is_empty()) {
            let param = "Inference-Header-Content-Length";
            let message = format!("{param}: {} bytes follow that belong to no input", rest.0.len());
            return Err(ApiError::field(param, "invalid_value", message));
        }
        let (mut outputs, mut named) = (Vec::new(), Vec::new());
        for (i, wanted) in self.outputs.into_iter().flatten().enumerate() {
            if i == limits::TENSORS_MAX {
                return Err(ApiError::field("outputs", "invalid_value", "outputs: more than 16 tensors"));
            }
            let [is_binary] = flags(&format!("outputs[{i}].parameters"), wanted.parameters, ["binary_data"])?;
            named.extend(is_binary.map(|is_binary| (wanted.name.clone(), is_binary)));
            outputs.push(wanted.name);
        }
        let binary_by_default = binary_by_default.unwrap_or(false);
        Ok((Request { inputs, outputs }, Reply { id: self.id, binary_by_default, binary: named }))
    }
}

/// The known yes-or-no parameters; others are refused by name.
fn flags<const N: usize>(
    path: &str,
    parameters: Option<Map<String, Value>>,
    known: [&str; N],
) -> Result<[Option<bool>; N], ApiError> {
    let mut parameters = parameters.unwrap_or_default();
    let mut found = [None; N];
    for (name, flag) in known.iter().zip(&mut found) {
        *flag = match parameters.remove(*name) {
            None | Some(Value::Null) => None,
            Some(Value::Bool(flag)) => Some(flag),
            Some(_) => {
                let param = format!("{path}.{name}");
                let message = format!("{param}: must be true or false");
                return Err(ApiError::field(param, "invalid_type", message));
            }
        };
    }
    refuse_parameters(path, &parameters)?;
    Ok(found)
}

fn refuse_parameters(path: &str, parameters: &Map<String, Value>) -> Result<(), ApiError> {
    match parameters.keys().next() {
        Some(key) => Err(unsupported(&format!("{path}.{key}"), "this parameter is not known: leave it out")),
        None => Ok(()),
    }
}

fn tensor(i: usize, body: InputBody, raw: Option<&mut binary::Raw<'_>>) -> Result<Tensor, ApiError> {
    let at = |field: &str| format!("inputs[{i}].{field}");
    let mut parameters = body.parameters.unwrap_or_default();
    let size = parameters.remove("binary_data_size");
    refuse_parameters(&at("parameters"), &parameters)?;
    let shape = shape(&at("shape"), &body.shape)?;
    let n_elements: usize = shape.iter().product();
    let data = match (size, body.data) {
        (None, Some(data)) => json_data(i, &body.datatype, &data, &shape)?,
        (None, None) => {
            let message = format!("{}: is missing, and so is parameters.binary_data_size", at("data"));
            return Err(ApiError::field(at("data"), "missing_required_parameter", message));
        }
        (Some(size), data) => {
            let param = at("parameters.binary_data_size");
            let refuse = |why: &str| ApiError::field(&param, "invalid_value", format!("{param}: {why}"));
            let size = size.as_u64().ok_or_else(|| refuse("must be a number of bytes"))?;
            if data.is_some() {
                return Err(refuse("the tensor has data in the JSON too: send one of the two"));
            }
            let raw = raw.ok_or_else(|| {
                refuse("needs the header Inference-Header-Content-Length and the bytes behind the JSON")
            })?;
            let bytes = raw.take(&param, size)?;
            binary::read(&format!("inputs[{i}]"), &body.datatype, bytes, n_elements)?
        }
    };
    Ok(Tensor { name: body.name, shape, data })
}

fn json_data(i: usize, datatype: &str, data: &Value, shape: &[usize]) -> Result<Data, ApiError> {
    let at = |field: &str| format!("inputs[{i}].{field}");
    let n_elements: usize = shape.iter().product();
    let mut flat = Vec::with_capacity(n_elements);
    flatten(data, n_elements, &mut flat)
        .map_err(|why| ApiError::field(at("data"), "invalid_value", format!("{}: {why}", at("data"))))?;
    if flat.len() != n_elements {
        let message = format!("{}: {} values do not fill the shape {shape:?}", at("data"), flat.len());
        return Err(ApiError::field(at("data"), "invalid_value", message));
    }
    Ok(match datatype {
        "BYTES" => Data::Texts(texts(&at("data"), &flat)?),
        "FP32" | "FP64" => Data::Numbers(numbers(&at("data"), &flat, Number::Float)?),
        "INT8" | "INT16" | "INT32" | "INT64" | "UINT8" | "UINT16" | "UINT32" | "UINT64" => {
            Data::Numbers(numbers(&at("data"), &flat, Number::Whole)?)
        }
        "BOOL" => Data::Numbers(numbers(&at("data"), &flat, Number::Bool)?),
        other => {
            let param = at("datatype");
            let message = format!(
                "{param}: {other:?} is not FP32, FP64, INT8 to INT64, UINT8 to UINT64, BOOL or BYTES (FP16 and BF16 \
                 come as raw bytes only)"
            );
            return Err(ApiError::field(param, "invalid_value", message));
        }
    })
}

/// The sizes, whose product is bounded before anything is allocated.
fn shape(param: &str, sizes: &[u64]) -> Result<Vec<usize>, ApiError> {
    let refuse = |why: String| Err(ApiError::field(param, "invalid_value", format!("{param}: {why}")));
    if sizes.is_empty() || sizes.len() > limits::TENSOR_DIMS_MAX {
        return refuse(format!(
            "{} dimensions are not between 1 and {}",
            sizes.len(),
            limits::TENSOR_DIMS_MAX
        ));
    }
    let mut n_elements = 1u64;
    for &size in sizes {
        n_elements = n_elements.saturating_mul(size);
        if size == 0 || n_elements > limits::TENSOR_ELEMENTS_MAX as u64 {
            return refuse(format!("{sizes:?} does not have 1 to {} values", limits::TENSOR_ELEMENTS_MAX));
        }
    }
    Ok(sizes.iter().map(|&size| size as usize).collect())
}

fn flatten<'a>(value: &'a Value, n_max: usize, out: &mut Vec<&'a Value>) -> Result<(), &'static str> {
    let Value::Array(values) = value else { return Err("must be an array") };
    for value in values {
        match value {
            Value::Array(_) => flatten(value, n_max, out)?,
            scalar if out.len() < n_max => out.push(scalar),
            _ => return Err("more values than the shape has"),
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Number {
    Float,
    Whole,
    Bool,
}

fn numbers(param: &str, flat: &[&Value], kind: Number) -> Result<Vec<f32>, ApiError> {
    let refuse = |at: usize, why: &str| {
        let param = format!("{param}[{at}]");
        ApiError::field(param.clone(), "invalid_value", format!("{param}: {why}"))
    };
    let mut out = Vec::with_capacity(flat.len());
    for (at, value) in flat.iter().enumerate() {
        let number = match (value, kind) {
            (Value::Bool(value), Number::Bool) => f64::from(u8::from(*value)),
            (Value::Number(number), Number::Float) => number.as_f64().unwrap_or(f64::NAN),
            (Value::Number(number), Number::Whole) if number.is_i64() || number.is_u64() => {
                number.as_f64().unwrap_or(f64::NAN)
            }
            _ => return Err(refuse(at, "is not of the tensor's datatype")),
        };
        let number = number as f32;
        if !number.is_finite() {
            return Err(refuse(at, "is not a finite 32-bit number"));
        }
        out.push(number);
    }
    Ok(out)
}

fn texts(param: &str, flat: &[&Value]) -> Result<Vec<String>, ApiError> {
    let text = |(at, value): (usize, &&Value)| match value {
        Value::String(text) => Ok(text.clone()),
        _ => {
            let param = format!("{param}[{at}]");
            Err(ApiError::field(param.clone(), "invalid_value", format!("{param}: must be a text")))
        }
    };
    flat.iter().enumerate().map(text).collect()
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InferResponse)]
pub struct Response {
    pub model_name: String,
    pub model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub outputs: Vec<OutputBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InferOutput)]
pub struct OutputBody {
    pub name: String,
    pub shape: Vec<usize>,
    /// `FP32`, `FP64` or `BYTES`.
    pub datatype: &'static str,
    /// `binary_data_size`: the output is these many of the raw bytes behind the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>)]
    pub data: Option<OutputData>,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = InferOutputParameters)]
pub struct OutputParameters {
    pub binary_data_size: usize,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum OutputData {
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bytes(Vec<String>),
}

impl Response {
    /// The answer, and the raw bytes of those outputs that are asked for as such.
    pub fn new(answer: infer::Response, reply: Reply) -> (Self, Vec<u8>) {
        let mut raw = Vec::new();
        let outputs =
            answer.outputs.into_iter().map(|output| output_body(output, &reply, &mut raw)).collect();
        let model_version = answer.version.to_string();
        (Response { model_name: answer.name, model_version, id: reply.id, outputs }, raw)
    }
}

fn output_body(output: OutputTensor, reply: &Reply, raw: &mut Vec<u8>) -> OutputBody {
    let OutputTensor { name, shape, data } = output;
    let datatype = match data {
        infer::OutputData::Probabilities(_) => "FP32",
        infer::OutputData::Values(_) => "FP64",
        infer::OutputData::Texts(_) => "BYTES",
    };
    let mut body = OutputBody { name: name.to_owned(), shape, datatype, parameters: None, data: None };
    if reply.is_binary(name) {
        let start = raw.len();
        binary::write(&data, raw);
        body.parameters = Some(OutputParameters { binary_data_size: raw.len() - start });
        return body;
    }
    body.data = Some(match data {
        infer::OutputData::Probabilities(values) => OutputData::Fp32(values),
        infer::OutputData::Values(values) => OutputData::Fp64(values),
        infer::OutputData::Texts(texts) => OutputData::Bytes(texts),
    });
    body
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ModelMetadata {
    pub name: String,
    pub versions: Vec<String>,
    pub platform: &'static str,
    pub inputs: Vec<TensorMetadataBody>,
    pub outputs: Vec<TensorMetadataBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TensorMetadata)]
pub struct TensorMetadataBody {
    pub name: &'static str,
    pub datatype: &'static str,
    /// -1 counts examples.
    pub shape: Vec<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ServerMetadata {
    pub name: &'static str,
    pub version: &'static str,
    pub extensions: Vec<&'static str>,
}

impl From<Metadata> for ModelMetadata {
    fn from(metadata: Metadata) -> Self {
        let tensors = |tensors: Vec<TensorMetadata>| tensors.into_iter().map(tensor_metadata).collect();
        Self {
            name: metadata.name,
            versions: metadata.versions.iter().map(u32::to_string).collect(),
            platform: "lyceum",
            inputs: tensors(metadata.inputs),
            outputs: tensors(metadata.outputs),
        }
    }
}

fn tensor_metadata(tensor: TensorMetadata) -> TensorMetadataBody {
    let mut shape = vec![-1];
    shape.extend(tensor.example_shape.iter().map(|&size| size as i64));
    TensorMetadataBody { name: tensor.name, datatype: tensor.datatype, shape }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(input: Value) -> Result<Tensor, ApiError> {
        let body = json!({ "inputs": [input] });
        let (request, _) = crate::body::parse::<Body>(body.to_string().as_bytes())?.parse(None)?;
        Ok(request.inputs.into_iter().next().unwrap())
    }

    #[test]
    fn flat_and_nested_data_are_the_same_tensor() {
        let flat =
            parse(json!({"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, 3, 4]}));
        let nested =
            parse(json!({"name": "input", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2.5], [3, 4]]}));
        let flat = flat.unwrap();
        assert_eq!(flat, nested.unwrap());
        assert_eq!(flat.data, Data::Numbers(vec![1.0, 2.5, 3.0, 4.0]));
        let texts = parse(json!({"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]})).unwrap();
        assert_eq!(texts.data, Data::Texts(vec!["a".into()]));
    }

    #[test]
    fn a_tensor_that_is_wrong_is_refused_by_its_field() {
        let good = json!({"name": "input", "shape": [2], "datatype": "FP32", "data": [1, 2]});
        for (field, value, param) in [
            ("shape", json!([3]), "inputs[0].data"),
            ("shape", json!([1]), "inputs[0].data"),
            ("shape", json!([]), "inputs[0].shape"),
            ("shape", json!([0]), "inputs[0].shape"),
            ("shape", json!([-1]), "inputs[0].shape[0]"),
            ("shape", json!([u64::MAX, u64::MAX]), "inputs[0].shape"),
            ("shape", json!([1, 1, 1, 1, 1, 1, 1, 1, 2]), "inputs[0].shape"),
            ("datatype", json!("FP33"), "inputs[0].datatype"),
            ("datatype", json!("INT64"), "inputs[0].data[1]"),
            ("datatype", json!("BYTES"), "inputs[0].data[0]"),
            ("data", json!([1, "2"]), "inputs[0].data[1]"),
            ("data", json!([1, 1e300]), "inputs[0].data[1]"),
            ("data", json!([1, null]), "inputs[0].data[1]"),
            ("data", json!("x"), "inputs[0].data"),
            ("parameters", json!({"binary_data_size": 4}), "inputs[0].parameters.binary_data_size"),
            ("extra", json!(1), "inputs[0].extra"),
        ] {
            let mut bad = good.clone();
            if field == "datatype" {
                bad["data"] = json!([1, 2.5]);
            }
            bad[field] = value;
            let error = parse(bad.clone()).unwrap_err();
            let found = (error.status.as_u16(), error.detail.param.as_deref());
            assert_eq!(found, (400, Some(param)), "{bad}: {}", error.detail.message);
        }
    }
}

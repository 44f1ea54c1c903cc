//! The Open Inference Protocol over REST, with Triton's binary tensors.

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::infer::{self, Data, Infer, OUTPUTS, Output, Parameters, Tensor};
use crate::intake::{Arrived, read};
use crate::refusal::Refusal;
use crate::service::Service;

/// The extensions of the protocol that are spoken.
pub const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];
/// The inputs, with their types and shapes.
pub const INPUTS: [(&str, &str, &[i64]); 2] = [
    ("image", "UINT8", &[-1, -1, -1, -1]),
    ("bytes", "BYTES", &[-1]),
];

const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A JSON response.
pub fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// `GET /v2`
pub async fn server() -> Response<Body> {
    let body = json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": EXTENSIONS,
    });
    answer(StatusCode::OK, &body)
}

/// `GET /v2/health/live`: whether the process answers.
pub async fn live(State(service): State<Service>) -> Response<Body> {
    health(&service, StatusCode::OK)
}

/// `GET /v2/health/ready`: whether new requests are wanted.
pub async fn ready(State(service): State<Service>) -> Response<Body> {
    let status = match service.is_ready() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    health(&service, status)
}

fn health(service: &Service, status: StatusCode) -> Response<Body> {
    answer(
        status,
        &json!({ "live": true, "ready": service.is_ready() }),
    )
}

/// The model, and the version if it is named, of a path.
#[derive(Deserialize)]
pub struct ModelPath {
    model: String,
    version: Option<String>,
}

/// `GET /v2/models/{model}`
pub async fn model(
    State(service): State<Service>,
    Path(path): Path<ModelPath>,
) -> Result<Response<Body>, Refusal> {
    let model = service.model(Some(&path.model), path.version.as_deref())?;
    let tensor = |(name, datatype, shape): (&str, &str, Vec<i64>)| json!({ "name": name, "datatype": datatype, "shape": shape });
    let inputs = INPUTS.map(|(name, datatype, shape)| tensor((name, datatype, shape.to_vec())));
    let outputs =
        OUTPUTS.map(|(name, datatype, rest)| tensor((name, datatype, [&[-1], rest].concat())));
    let body = json!({
        "name": model.name,
        "versions": ["1"],
        "platform": "backstitch",
        "inputs": inputs,
        "outputs": outputs,
    });
    Ok(answer(StatusCode::OK, &body))
}

/// `GET /v2/models/{model}/ready`
pub async fn model_ready(
    State(service): State<Service>,
    Path(path): Path<ModelPath>,
) -> Result<Response<Body>, Refusal> {
    let model = service.model(Some(&path.model), path.version.as_deref())?;
    let ready = service.is_ready();
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    Ok(answer(
        status,
        &json!({ "name": model.name, "ready": ready }),
    ))
}

/// `POST /v2/models/{model}/infer`
pub async fn infer(
    State(service): State<Service>,
    Path(path): Path<ModelPath>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let model = service.model(Some(&path.model), path.version.as_deref())?;
    let (parts, body) = request.into_parts();
    let arrived = arrived(&parts.extensions)?;
    let body = read(body, service.options.max_body.as_u64() as usize).await?;
    let parsed = move || parse(&parts.headers, body);
    let parsed = service.decode(arrived.deadline, parsed).await?;
    if parsed.model.is_some_and(|name| name != model.name) {
        return Err(Refusal::malformed("model_name is another than the path's"));
    }
    let (id, binary) = (parsed.infer.id.clone(), parsed.binary);
    let outputs = infer::infer(
        &service,
        model.clone(),
        parsed.infer,
        arrived.client,
        arrived.deadline,
    );
    let outputs = outputs.await?;
    let written = service.compute(move || write(&model.name, &id, &outputs, &binary));
    written.await
}

/// Who sent a request, and when its time is over.
pub fn arrived(extensions: &axum::http::Extensions) -> Result<Arrived, Refusal> {
    let arrived = extensions.get::<Arrived>().cloned();
    arrived.ok_or_else(|| Refusal::internal("a request came by no way in"))
}

/// A request that was read, and which outputs are wanted in binary.
#[derive(Debug)]
pub struct Parsed {
    /// The request.
    pub infer: Infer,
    /// The model, if the request repeats its name.
    model: Option<String>,
    binary: Binary,
}

/// Which outputs are wanted in binary.
#[derive(Debug)]
struct Binary {
    /// Those that the request does not say it of.
    others: bool,
    named: Map<String, Value>,
}

impl Binary {
    fn is(&self, output: &str) -> bool {
        self.named
            .get(output)
            .and_then(Value::as_bool)
            .unwrap_or(self.others)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRequest {
    /// The path names the model; KServe's client repeats it.
    model_name: Option<String>,
    id: Option<String>,
    parameters: Option<Parameters>,
    inputs: Vec<JsonInput>,
    outputs: Option<Vec<JsonOutput>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonInput {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    parameters: Option<Parameters>,
    data: Option<Elements>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonOutput {
    name: String,
    parameters: Option<Parameters>,
}

/// The elements of an input's `data`, nested in any way.
#[derive(Default)]
struct Elements {
    numbers: Vec<f32>,
    files: Vec<Bytes>,
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut elements = Elements::default();
        Append(&mut elements).deserialize(deserializer)?;
        Ok(elements)
    }
}

/// Appends what it reads.
struct Append<'a>(&'a mut Elements);

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("numbers, or files in base64")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<(), A::Error> {
        while all.next_element_seed(Append(self.0))?.is_some() {}
        Ok(())
    }
    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }
    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }
    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        let file = BASE64_STANDARD
            .decode(text)
            .map_err(|_| E::custom("a file is not base64"))?;
        self.0.files.push(file.into());
        Ok(())
    }
}

/// Reads a request.
///
/// # Errors
/// It is malformed.
pub fn parse(headers: &HeaderMap, body: Bytes) -> Result<Parsed, Refusal> {
    let binary_from = match headers.get(&JSON_LENGTH) {
        None => body.len(),
        Some(length) => {
            let length = length.to_str().ok().and_then(|length| length.parse().ok());
            let within = length.filter(|&length: &usize| length <= body.len());
            within.ok_or_else(|| {
                let wrong = format!("{JSON_LENGTH} is a length within the body");
                Refusal::malformed(wrong)
            })?
        }
    };
    let request: JsonRequest = serde_json::from_slice(&body[..binary_from]).map_err(|error| {
        Refusal::malformed(format!("the request is not as it should be: {error}"))
    })?;
    let mut raw = body.slice(binary_from..);
    let mut inputs = vec![];
    for input in request.inputs {
        let mut parameters = input.parameters.unwrap_or_default();
        let size = parameters.remove("binary_data_size");
        if !parameters.is_empty() {
            let wrong = "the only parameter of an input is binary_data_size";
            return Err(Refusal::malformed(wrong));
        }
        let data = match (size, input.data) {
            (Some(size), None) => {
                let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
                let size = size.filter(|&size| size <= raw.len());
                let size = size.ok_or_else(|| {
                    Refusal::malformed("binary_data_size is not a size within the body")
                })?;
                Data::Raw(raw.split_to(size))
            }
            (None, Some(Elements { numbers, files })) if files.is_empty() => Data::Numbers(numbers),
            (None, Some(Elements { numbers, files })) if numbers.is_empty() => Data::Files(files),
            _ => {
                let wrong = "an input has either data, of one kind, or binary_data_size";
                return Err(Refusal::malformed(wrong));
            }
        };
        inputs.push(Tensor {
            name: input.name,
            datatype: input.datatype,
            shape: input.shape,
            data,
        });
    }
    if !raw.is_empty() {
        let wrong = "the body is longer than its inputs say";
        return Err(Refusal::malformed(wrong));
    }
    let mut parameters = request.parameters.unwrap_or_default();
    let others = match parameters.remove("binary_data_output") {
        None => false,
        Some(Value::Bool(others)) => others,
        Some(_) => return Err(Refusal::malformed("binary_data_output is true or false")),
    };
    let (mut outputs, mut named) = (vec![], Map::new());
    for output in request.outputs.unwrap_or_default() {
        let mut parameters = output.parameters.unwrap_or_default();
        if let Some(binary) = parameters.remove("binary_data") {
            named.insert(output.name.clone(), binary);
        }
        if !parameters.is_empty() {
            let wrong = "the only parameter of an output is binary_data";
            return Err(Refusal::malformed(wrong));
        }
        outputs.push(output.name);
    }
    Ok(Parsed {
        model: request.model_name,
        infer: Infer {
            id: request.id.unwrap_or_default(),
            parameters,
            inputs,
            outputs,
        },
        binary: Binary { others, named },
    })
}

/// The response: JSON, and behind it the outputs in binary.
fn write(model: &str, id: &str, outputs: &[Output], binary: &Binary) -> Response<Body> {
    let mut raw = Vec::new();
    let mut described = Vec::new();
    for output in outputs {
        let mut tensor = json!({
            "name": output.name,
            "datatype": output.values.datatype(),
            "shape": output.shape,
        });
        match binary.is(output.name) {
            true => {
                let bytes = output.values.raw();
                tensor["parameters"] = json!({ "binary_data_size": bytes.len() });
                raw.push(bytes);
            }
            false => tensor["data"] = output.values.json(),
        }
        described.push(tensor);
    }
    let mut body = json!({ "model_name": model, "model_version": "1", "outputs": described });
    if !id.is_empty() {
        body["id"] = id.into();
    }
    if raw.is_empty() {
        return answer(StatusCode::OK, &body);
    }
    let mut bytes = body.to_string().into_bytes();
    let length = HeaderValue::from(bytes.len());
    raw.iter().for_each(|raw| bytes.extend(raw));
    let mut response = Response::new(Body::from(bytes));
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.headers_mut().insert(JSON_LENGTH, length);
    response
}

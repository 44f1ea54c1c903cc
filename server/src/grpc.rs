//! The Open Inference Protocol over gRPC.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tonic::{Request, Response, Status};

use self::messages::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use self::messages::infer_parameter::ParameterChoice;
use self::messages::model_infer_response::InferOutputTensor;
use self::messages::model_metadata_response::TensorMetadata;
use self::messages::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};
use crate::engines::Model;
use crate::infer::{self, Data, Infer, OUTPUTS, Parameters, Tensor};
use crate::refusal::Refusal;
use crate::rest::{EXTENSIONS, INPUTS, arrived};
use crate::service::Service;

/// The protocol's messages and its service, from `proto/inference.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod messages {
    tonic::include_proto!("inference");
}

/// The service over gRPC.
#[derive(Clone)]
pub struct Grpc(Service);

/// The service over gRPC, to be put under its path.
pub fn server(service: Service) -> GrpcInferenceServiceServer<Grpc> {
    let most = service.options.max_body.as_u64() as usize;
    GrpcInferenceServiceServer::new(Grpc(service)).max_decoding_message_size(most)
}

impl Grpc {
    fn model(&self, name: &str, version: &str) -> Result<Arc<Model>, Refusal> {
        self.0.model(Some(name), Some(version))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Grpc {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        let ready = self.0.is_ready();
        Ok(Response::new(ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.into_inner();
        self.model(&name, &version)?;
        let ready = self.0.is_ready();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(Into::into).into(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.into_inner();
        let model = self.model(&name, &version)?;
        let tensor = |name: &str, datatype: &str, shape: Vec<i64>| TensorMetadata {
            name: name.into(),
            datatype: datatype.into(),
            shape,
        };
        let inputs = INPUTS.map(|(name, datatype, shape)| tensor(name, datatype, shape.to_vec()));
        let outputs =
            OUTPUTS.map(|(name, datatype, rest)| tensor(name, datatype, [&[-1], rest].concat()));
        Ok(Response::new(ModelMetadataResponse {
            name: model.name.clone(),
            versions: vec!["1".into()],
            platform: "backstitch".into(),
            inputs: inputs.into(),
            outputs: outputs.into(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let arrived = arrived(request.extensions())?;
        let timeout = request.metadata().get("grpc-timeout");
        let timeout = timeout.and_then(|timeout| duration(timeout.to_str().ok()?));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let deadline = deadline.map_or(arrived.deadline, |soon| soon.min(arrived.deadline));
        let request = request.into_inner();
        let model = self.model(&request.model_name, &request.model_version)?;
        let infer = read(request)?;
        let id = infer.id.clone();
        let outputs = infer::infer(&self.0, model.clone(), infer, arrived.client, deadline).await?;
        let described = outputs.iter().map(|output| InferOutputTensor {
            name: output.name.into(),
            datatype: output.values.datatype().into(),
            shape: output.shape.iter().map(|&axis| axis as i64).collect(),
            ..InferOutputTensor::default()
        });
        Ok(Response::new(ModelInferResponse {
            model_name: model.name.clone(),
            model_version: "1".into(),
            id,
            parameters: HashMap::new(),
            outputs: described.collect(),
            raw_output_contents: (outputs.iter().map(|output| output.values.raw().into()))
                .collect(),
        }))
    }
}

/// A `grpc-timeout`: up to eight digits and a unit.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(3600 * number),
        "M" => Duration::from_secs(60 * number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Reads a request.
///
/// # Errors
/// It is malformed.
pub fn read(request: ModelInferRequest) -> Result<Infer, Refusal> {
    let raw = request.raw_input_contents;
    if !raw.is_empty() && raw.len() != request.inputs.len() {
        let wrong = "raw_input_contents has one part for each input";
        return Err(Refusal::malformed(wrong));
    }
    let mut raw = raw.into_iter();
    let mut inputs = vec![];
    for input in request.inputs {
        let data = match (raw.next(), input.contents) {
            (Some(raw), None) => Data::Raw(raw),
            (None, Some(contents)) => elements(&input.datatype, contents)?,
            _ => {
                let wrong = "an input has either contents or raw contents";
                return Err(Refusal::malformed(wrong));
            }
        };
        inputs.push(tensor(
            input.name,
            input.datatype,
            &input.shape,
            &input.parameters,
            data,
        )?);
    }
    if request
        .outputs
        .iter()
        .any(|output| !output.parameters.is_empty())
    {
        return Err(Refusal::malformed("an output has no parameters over gRPC"));
    }
    let parameters = request.parameters.into_iter().map(|(name, value)| {
        let InferParameter { parameter_choice } = value;
        let value = parameter_choice.map_or(Value::Null, |choice| match choice {
            ParameterChoice::BoolParam(value) => value.into(),
            ParameterChoice::Int64Param(value) => value.into(),
            ParameterChoice::StringParam(value) => value.into(),
            ParameterChoice::DoubleParam(value) => value.into(),
            ParameterChoice::Uint64Param(value) => value.into(),
        });
        (name, value)
    });
    Ok(Infer {
        id: request.id,
        parameters: parameters.collect::<Parameters>(),
        inputs,
        outputs: request
            .outputs
            .into_iter()
            .map(|output| output.name)
            .collect(),
    })
}

fn tensor(
    name: String,
    datatype: String,
    shape: &[i64],
    parameters: &HashMap<String, InferParameter>,
    data: Data,
) -> Result<Tensor, Refusal> {
    if !parameters.is_empty() {
        return Err(Refusal::malformed("an input has no parameters over gRPC"));
    }
    let shape: Result<Vec<u64>, _> = shape.iter().map(|&axis| u64::try_from(axis)).collect();
    Ok(Tensor {
        name,
        datatype,
        shape: shape.map_err(|_| Refusal::malformed("a shape has an axis below 0"))?,
        data,
    })
}

/// The elements in the field that is for the type.
fn elements(datatype: &str, contents: InferTensorContents) -> Result<Data, Refusal> {
    match datatype {
        "UINT8" => Ok(Data::Numbers(
            contents
                .uint_contents
                .iter()
                .map(|&number| number as f32)
                .collect(),
        )),
        "FP32" => Ok(Data::Numbers(contents.fp32_contents)),
        "BYTES" => Ok(Data::Files(contents.bytes_contents)),
        _ => Err(Refusal::malformed(
            "inputs are of the types UINT8, FP32 and BYTES",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_a_number_and_a_unit() {
        assert_eq!(duration("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(
            duration("99999999H"),
            Some(Duration::from_secs(3600 * 99_999_999))
        );
        for wrong in ["", "m", "5", "5x", "123456789S", "-1S", "5µ", "1.5S"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}

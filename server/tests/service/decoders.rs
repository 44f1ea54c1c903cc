//! The decoders of requests, on whatever may come: they refuse it, and do not panic.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use backstitch_server::grpc::messages::ModelInferRequest;
use backstitch_server::grpc::messages::model_infer_request::InferInputTensor;
use backstitch_server::infer::{Data, Infer, Pictures, Tensor, Wishes};
use backstitch_server::rest::parse;
use backstitch_server::{grpc, routes};
use proptest::prelude::*;
use prost::Message;
use serde_json::json;
use tower::ServiceExt;

use crate::common::{INFER, form, grpc_frame, gzip, infer_json, pixels, png, runtime, serve};

const MAX_PIXELS: usize = 4096;

/// Decodes all that a request has.
fn decode(request: Infer, wishes: &Wishes) {
    let pictures = Pictures::read(request.inputs, wishes, MAX_PIXELS, 64);
    let Ok(pictures) = pictures else { return };
    for picture in 0..pictures.count() {
        if let Ok(picture) = pictures.decode(picture, MAX_PIXELS) {
            assert!(picture.shape.elements() <= 3 * MAX_PIXELS);
            assert!(
                picture
                    .pixels
                    .iter()
                    .all(|pixel| (0.0..=1.0).contains(pixel))
            );
        }
    }
}

/// What a request asks for that asks for nothing.
fn wishes() -> Wishes {
    static WISHES: std::sync::OnceLock<Wishes> = std::sync::OnceLock::new();
    *WISHES.get_or_init(|| {
        let server = serve(&[]);
        let model = server.service.model(None, None).unwrap();
        Wishes::read(&model, &serde_json::Map::new()).unwrap()
    })
}

type Changes = Vec<(prop::sample::Index, u8)>;

fn changes() -> impl Strategy<Value = Changes> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)
}

/// Bytes, of which some are others.
fn changed(mut bytes: Vec<u8>, changes: Changes) -> Vec<u8> {
    for (place, byte) in changes {
        let place = place.index(bytes.len());
        bytes[place] = byte;
    }
    bytes
}

/// A good message of one picture.
fn grpc_message() -> Vec<u8> {
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "UINT8".into(),
        shape: vec![1, 32, 32, 3],
        ..InferInputTensor::default()
    };
    let request = ModelInferRequest {
        model_name: "toy".into(),
        inputs: vec![input],
        raw_input_contents: vec![pixels(1).into()],
        ..ModelInferRequest::default()
    };
    request.encode_to_vec()
}

const PATHS: [&str; 8] = [
    INFER,
    "/v2/models/toy/versions/1/infer",
    "/purify",
    "/classify",
    "/jobs",
    "/jobs/1",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelReady",
];
const HEADERS: [&str; 8] = [
    "content-type",
    "content-encoding",
    "content-length",
    "inference-header-content-length",
    "accept-encoding",
    "grpc-timeout",
    "grpc-encoding",
    "traceparent",
];
const VALUES: [&str; 8] = [
    "application/grpc",
    "application/json",
    "multipart/form-data; boundary=b",
    "gzip",
    "0",
    "17",
    "99999999999999999999",
    "1n",
];

const BODIES: usize = 5;

/// A good body of one kind.
fn sample(kind: usize) -> Vec<u8> {
    match kind {
        0 => infer_json(&[0], json!({ "seed": 1 })),
        1 => png(1),
        2 => gzip(&infer_json(&[0], json!({}))),
        3 => form(&png(1)),
        _ => grpc_frame(&grpc_message()),
    }
}

/// A service that purifies quickly, without sockets.
fn router() -> Router {
    static ROUTER: std::sync::OnceLock<Router> = std::sync::OnceLock::new();
    let serve = || {
        let options = [
            "--iterations",
            "2",
            "--max-pixels",
            "4096",
            "--max-body",
            "1MB",
        ];
        routes::router(serve(&options).service.clone())
    };
    ROUTER.get_or_init(serve).clone()
}

fn shapes() -> impl Strategy<Value = Vec<u64>> {
    let axis = prop_oneof![
        Just(3),
        0..70u64,
        any::<u64>(),
        Just(u64::MAX),
        Just(1 << 32)
    ];
    prop::collection::vec(axis, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rest_bodies(
        length in prop::option::of(0..4000usize),
        changes in changes(),
        tail in prop::collection::vec(any::<u8>(), 0..200),
        binary in any::<bool>(),
    ) {
        let mut body = match binary {
            false => infer_json(&[0], json!({ "seed": 1 })),
            true => json!({
                "inputs": [{ "name": "bytes", "datatype": "BYTES", "shape": [1], "parameters": { "binary_data_size": tail.len() } }],
            }).to_string().into_bytes(),
        };
        let json = body.len();
        body.extend(&tail);
        let body = changed(body, changes);
        let mut headers = HeaderMap::new();
        let length = length.unwrap_or(json);
        let name = HeaderName::from_static("inference-header-content-length");
        headers.insert(name, HeaderValue::from(length));
        if let Ok(parsed) = parse(&headers, body.into()) {
            decode(parsed.infer, &wishes());
        }
    }

    #[test]
    fn shapes_and_data(
        shape in shapes(),
        name in prop::sample::select(vec!["image", "bytes"]),
        datatype in prop::sample::select(vec!["UINT8", "FP32", "BYTES"]),
        raw in prop::collection::vec(any::<u8>(), 0..4000),
        kind in 0..3,
    ) {
        let data = match kind {
            0 => Data::Raw(raw.into()),
            1 => Data::Numbers(raw.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()),
            _ => Data::Files(raw.chunks(50).map(|part| part.to_vec().into()).collect()),
        };
        let tensor = Tensor { name: name.into(), datatype: datatype.into(), shape, data };
        decode(Infer { inputs: vec![tensor], ..Infer::default() }, &wishes());
    }

    #[test]
    fn grpc_messages(changes in changes(), noise in prop::option::of(prop::collection::vec(any::<u8>(), 0..400))) {
        let bytes = noise.unwrap_or_else(|| changed(grpc_message(), changes));
        if let Ok(request) = ModelInferRequest::decode(&bytes[..])
            && let Ok(request) = grpc::read(request)
        {
            decode(request, &wishes());
        }
    }

    #[test]
    fn files(
        kind in prop::sample::select(vec![&b""[..], b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBPVP8 "]),
        noise in prop::collection::vec(any::<u8>(), 0..300),
        changes in changes(),
    ) {
        let file = match kind {
            b"" => changed(png(1), changes),
            magic => [magic, &noise].concat(),
        };
        let data = Data::Files(vec![file.into()]);
        let tensor = Tensor { name: "bytes".into(), datatype: "BYTES".into(), shape: vec![1], data };
        decode(Infer { inputs: vec![tensor], ..Infer::default() }, &wishes());
    }

    /// Through every layer: whatever comes, its answer is no fault of the service's.
    #[test]
    fn requests(
        method in prop::sample::select(vec!["POST", "POST", "POST", "POST", "GET", "DELETE"]),
        path in prop::sample::select(PATHS.to_vec()),
        query in "[a-z=&%0-9+.]{0,24}",
        headers in prop::collection::vec((prop::sample::select(HEADERS.to_vec()), prop_oneof![prop::sample::select(VALUES.to_vec()).prop_map(str::to_owned), "[ -~]{0,30}"]), 0..5),
        body in 0..BODIES,
        changes in changes(),
    ) {
        let mut request = Request::builder().method(method).uri(format!("{path}?{query}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Such a query or header does not come through the connection either.
        let Ok(request) = request.body(Body::from(changed(sample(body), changes))) else { return Ok(()) };
        let answer = runtime().block_on(router().oneshot(request)).unwrap();
        prop_assert!(!answer.status().is_server_error(), "{}", answer.status());
        let message = answer.headers().get("grpc-message").map(|message| message.to_str().unwrap());
        prop_assert!(message.is_none_or(|message| !message.contains("worked")), "{message:?}");
    }
}

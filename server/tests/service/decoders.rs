//! The decoders of requests, on whatever may come: they refuse it, and do not panic.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use backstitch_server::grpc;
use backstitch_server::grpc::messages::ModelInferRequest;
use backstitch_server::infer::{Data, Infer, Pictures, Tensor, Wishes};
use backstitch_server::rest::parse;
use proptest::prelude::*;
use prost::Message;
use serde_json::json;

use crate::common::{infer_json, serve};

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
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
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
        for (place, byte) in changes {
            let place = place.index(body.len());
            body[place] = byte;
        }
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
    fn grpc_messages(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(request) = ModelInferRequest::decode(&bytes[..])
            && let Ok(request) = grpc::read(request)
        {
            decode(request, &wishes());
        }
    }
}

//! Every way to ask gives what the library gives, bit for bit.

use backstitch::scheduler::Purified;
use backstitch::{Picture, Verdict};
use backstitch_server::grpc::messages::infer_parameter::ParameterChoice;
use backstitch_server::grpc::messages::model_infer_request::InferInputTensor;
use backstitch_server::grpc::messages::{InferParameter, ModelInferRequest, ModelInferResponse};
use backstitch_server::routes;
use prost::Message;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::common::{
    INFER, ask, form, get, grpc_frame, gzip, infer_json, picture, pixels, png, post, purifier,
    request, runtime, serve, usual,
};

const NUMBERS: [u32; 3] = [0, 1, 2];

fn purified(seed: u64, always: bool) -> Vec<Purified> {
    let pictures = NUMBERS.map(picture);
    let purified = purifier(seed, always).purify_batch(&pictures).unwrap();
    purified.into_iter().map(Result::unwrap).collect()
}

fn output<'a>(response: &'a Value, name: &str) -> &'a Value {
    let outputs = response["outputs"].as_array().unwrap().iter();
    let mut named = outputs.filter(|output| output["name"] == name);
    named
        .next()
        .unwrap_or_else(|| panic!("no {name} in {response}"))
}

fn numbers(output: &Value) -> Vec<f64> {
    let data = output["data"].as_array().unwrap().iter();
    data.map(|number| number.as_f64().unwrap()).collect()
}

/// Holds a JSON response of 8-bit NHWC pictures against what the library gives.
fn check(response: &Value, want: &[Purified]) {
    assert_eq!(response["model_name"], "toy");
    let verdicts: Vec<&str> = want.iter().map(|one| one.verdict().name()).collect();
    assert_eq!(output(response, "verdict")["data"], json!(verdicts));
    let scores: Vec<f64> = want.iter().map(Purified::score).collect();
    assert_eq!(numbers(output(response, "score")), scores);
    let labels: Vec<usize> = want.iter().map(Purified::input_label).collect();
    assert_eq!(output(response, "input_label")["data"], json!(labels));
    let labels: Vec<usize> = want.iter().map(Purified::output_label).collect();
    assert_eq!(output(response, "output_label")["data"], json!(labels));
    let image = output(response, "image");
    assert_eq!(
        (&image["datatype"], &image["shape"]),
        (&json!("UINT8"), &json!([3, 32, 32, 3]))
    );
    let pixels: Vec<u8> = want
        .iter()
        .flat_map(|one| one.picture().to_rgb8())
        .collect();
    assert_eq!(image["data"], json!(pixels));
}

#[test]
fn json_gives_what_purify_gives_with_each_request_s_options() {
    let want = purified(0, false);
    let verdicts: Vec<Verdict> = want.iter().map(Purified::verdict).collect();
    assert!(verdicts.contains(&Verdict::Clean) && verdicts.contains(&Verdict::Adversarial));
    let answer = post(usual(), INFER, &infer_json(&NUMBERS, json!({})));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["id"], "a name");
    assert!(answer.headers["x-request-id"].len() > 30);
    check(&answer.json(), &want);
    // Requests with other options at the same time, each with its own result.
    std::thread::scope(|scope| {
        for (seed, always) in [(7, false), (7, true), (0, true), (8, false)] {
            scope.spawn(move || {
                let parameters = json!({ "seed": seed, "always": always, "preset": "cifar" });
                let answer = post(usual(), INFER, &infer_json(&NUMBERS, parameters));
                check(&answer.json(), &purified(seed, always));
            });
        }
    });
}

/// What the whole of a picture's result is, to compare.
fn whole(want: &Purified) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let floats = want.picture().pixels;
    let input = want.outcome.input.logits().to_vec();
    let raw = floats
        .iter()
        .flat_map(|pixel| pixel.to_le_bytes())
        .collect();
    (raw, input, want.outcome.output.logits().to_vec())
}

#[test]
fn binary_floats_and_logits_are_those_of_purify() {
    let mut floats = picture(1).pixels;
    // Not a multiple of 1/255, and not an adversarial picture.
    floats.iter_mut().for_each(|pixel| *pixel *= 0.987);
    let raw: Vec<u8> = floats
        .iter()
        .flat_map(|pixel| pixel.to_le_bytes())
        .collect();
    let head = json!({
        "inputs": [{
            "name": "image", "datatype": "FP32", "shape": [1, 3, 32, 32],
            "parameters": { "binary_data_size": raw.len() },
        }],
        "outputs": [
            { "name": "image", "parameters": { "binary_data": true } },
            { "name": "input_logits", "parameters": { "binary_data": true } },
            { "name": "output_logits" },
        ],
    });
    let head = head.to_string().into_bytes();
    let length = format!("Inference-Header-Content-Length: {}", head.len());
    let body = [head, raw].concat();
    let want = purifier(0, false)
        .purify(&Picture::new(picture(1).shape, floats).unwrap())
        .unwrap();
    let (image, input, output_logits) = whole(&want);
    for compressed in [false, true] {
        let answer = match compressed {
            false => ask(usual(), "POST", INFER, &[&length], &body),
            true => {
                let headers = [&*length, "Content-Encoding: gzip"];
                ask(usual(), "POST", INFER, &headers, &gzip(&body))
            }
        };
        assert_eq!(answer.status, 200, "{answer:?}");
        let end: usize = answer.headers["inference-header-content-length"]
            .parse()
            .unwrap();
        let response: Value = serde_json::from_slice(&answer.body[..end]).unwrap();
        let names: Vec<&Value> = (response["outputs"].as_array().unwrap().iter())
            .map(|output| &output["name"])
            .collect();
        assert_eq!(names, ["image", "input_logits", "output_logits"]);
        let logits: Vec<u8> = input.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        assert!(answer.body[end..] == [image.clone(), logits].concat());
        let got = numbers(output(&response, "output_logits"));
        assert_eq!(
            got,
            output_logits
                .iter()
                .map(|&logit| f64::from(logit))
                .collect::<Vec<_>>()
        );
    }
    let response = ask(
        usual(),
        "POST",
        INFER,
        &[&length, "Accept-Encoding: gzip"],
        &body,
    );
    assert_eq!(response.headers["content-encoding"], "gzip");
}

#[test]
fn files_in_and_png_out() {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let file = png(1);
    let want = purifier(5, false).purify(&picture(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    want.save(folder.path().join("want.png")).unwrap();
    let bytes = std::fs::read(folder.path().join("want.png")).unwrap();
    let form = form(&file);
    let multipart = "Content-Type: multipart/form-data; boundary=b";
    for (headers, body) in [(&[][..], &file), (&[multipart], &form)] {
        let answer = ask(usual(), "POST", "/purify?seed=5&model=toy", headers, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body == bytes);
        assert_eq!(answer.headers["content-type"], "image/png");
        assert_eq!(answer.headers["backstitch-verdict"], want.verdict().name());
        assert_eq!(answer.headers["backstitch-score"], want.score().to_string());
        assert_eq!(
            answer.headers["backstitch-input-label"],
            want.input_label().to_string()
        );
        assert_eq!(
            answer.headers["backstitch-output-label"],
            want.output_label().to_string()
        );
    }
    let input = json!({
        "name": "bytes", "datatype": "BYTES", "shape": [1], "data": [BASE64_STANDARD.encode(&file)],
    });
    let parameters = json!({ "seed": 5, "layout": "NHWC" });
    let body = json!({ "inputs": [input], "parameters": parameters }).to_string();
    let answer = post(usual(), INFER, body.as_bytes());
    let image = output(&answer.json(), "image")["data"].clone();
    assert_eq!(image, json!(want.picture().to_rgb8()));
    let reading = &purifier(0, false).classify(&[picture(1)]).unwrap()[0];
    let classified = post(usual(), "/classify", &file).json();
    assert_eq!(classified["label"], reading.label());
    assert_eq!(classified["confidence"], reading.confidence());
    assert_eq!(classified["top"].as_array().unwrap().len(), 4);
}

#[test]
fn what_there_is_is_described() {
    let live = get(usual(), "/v2/health/live");
    assert_eq!(
        (live.status, live.json()),
        (200, json!({ "live": true, "ready": true }))
    );
    assert_eq!(get(usual(), "/v2/health/ready").json(), live.json());
    assert_eq!(
        get(usual(), "/v2").json()["extensions"],
        json!(["binary_tensor_data"])
    );
    for path in ["/v2/models/toy", "/v2/models/toy/versions/1"] {
        let model = get(usual(), path).json();
        assert_eq!(
            (&model["name"], &model["versions"]),
            (&json!("toy"), &json!(["1"]))
        );
        let names = model["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|output| &output["name"]);
        assert!(names.clone().any(|name| name == "verdict") && names.count() == 7);
        assert_eq!(get(usual(), &format!("{path}/ready")).json()["ready"], true);
    }
    post(usual(), "/purify", &png(0));
    let metrics = String::from_utf8(get(usual(), "/metrics").body).unwrap();
    for line in [
        "backstitch_requests_total{code=\"200\",route=\"purify\"}",
        "backstitch_request_seconds_bucket{route=\"grpc\",le=\"600\"} ",
        "backstitch_pictures_total{model=\"toy\",preset=\"cifar\",verdict=\"undecided\"} ",
        "backstitch_slots{device=\"0\",model=\"toy\",preset=\"cifar\"} ",
        "backstitch_queue_seconds_bucket{le=\"0.01\"} ",
        "backstitch_held_pictures ",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

#[test]
fn grpc_gives_what_purify_gives() {
    let server = serve(&[]);
    let input = InferInputTensor {
        name: "image".into(),
        datatype: "UINT8".into(),
        shape: vec![3, 32, 32, 3],
        ..InferInputTensor::default()
    };
    let seed = InferParameter {
        parameter_choice: Some(ParameterChoice::Int64Param(3)),
    };
    let request = ModelInferRequest {
        model_name: "toy".into(),
        id: "5".into(),
        parameters: [("seed".to_owned(), seed)].into(),
        inputs: vec![input],
        raw_input_contents: vec![NUMBERS.map(pixels).concat().into()],
        ..ModelInferRequest::default()
    };
    let router = routes::router(server.service.clone());
    let call = |method: &str, request: &dyn Fn() -> Vec<u8>, headers: &[(&str, &str)]| {
        let message = request();
        let frame = grpc_frame(&message);
        let mut call =
            axum::http::Request::post(format!("/inference.GRPCInferenceService/{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        let call = call.body(axum::body::Body::from(frame)).unwrap();
        runtime().block_on(async {
            let response = router.clone().oneshot(call).await.unwrap();
            let status = response.headers().get("grpc-status").cloned();
            let body = axum::body::to_bytes(response.into_body(), 1 << 24)
                .await
                .unwrap();
            (
                status.map(|status| status.to_str().unwrap().to_owned()),
                body,
            )
        })
    };
    let (status, body) = call("ModelInfer", &|| request.encode_to_vec(), &[]);
    assert_eq!(status, None);
    let response = ModelInferResponse::decode(&body[5..]).unwrap();
    assert_eq!((&*response.id, &*response.model_name), ("5", "toy"));
    let want = purified(3, false);
    let raw = |name: &str| {
        let place = response
            .outputs
            .iter()
            .position(|output| output.name == name);
        response.raw_output_contents[place.unwrap()].to_vec()
    };
    assert!(
        raw("image")
            == want
                .iter()
                .flat_map(|one| one.picture().to_rgb8())
                .collect::<Vec<_>>()
    );
    let scores: Vec<u8> = want
        .iter()
        .flat_map(|one| one.score().to_le_bytes())
        .collect();
    assert_eq!(raw("score"), scores);
    let verdicts = want.iter().map(|one| one.verdict().name().as_bytes());
    let verdicts = verdicts.map(|name| [&(name.len() as u32).to_le_bytes(), name].concat());
    assert_eq!(raw("verdict"), verdicts.collect::<Vec<_>>().concat());
    // What is refused has its status: 3 is INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND.
    let other = |change: &dyn Fn(&mut ModelInferRequest)| {
        let mut other = request.clone();
        change(&mut other);
        call("ModelInfer", &|| other.encode_to_vec(), &[])
            .0
            .unwrap()
    };
    assert_eq!(other(&|request| request.model_name = "none".into()), "5");
    assert_eq!(other(&|request| request.inputs[0].shape[0] = i64::MAX), "3");
    assert_eq!(other(&|request| request.inputs[0].shape[3] = -3), "3");
    assert_eq!(other(&|request| request.raw_input_contents.clear()), "3");
    let late = [("grpc-timeout", "1n")];
    assert_eq!(
        call("ModelInfer", &|| request.encode_to_vec(), &late)
            .0
            .unwrap(),
        "4"
    );
    assert_eq!(call("ModelInfer", &|| vec![0xff; 40], &[]).0.unwrap(), "13");
    assert!(server.service.queue.held() == (0, 0));
    let live = call("ServerLive", &Vec::new, &[]).1;
    assert_eq!(live[5..], [8, 1]);
}

#[test]
fn several_models_and_presets() {
    let model = format!(
        "other={}",
        crate::common::fixture("toy_softmax.onnx").display()
    );
    let server = serve(&["--model", &model, "--preset", "tiles"]);
    let asked = |query: &str| post(server.address, &format!("/purify?{query}"), &png(1)).status;
    assert_eq!(asked("model=other&preset=tiles"), 200);
    assert_eq!(asked("model=toy&preset=cifar"), 200);
    assert_eq!(asked("model=toy&preset=wide"), 400);
    assert_eq!(asked("model=third"), 404);
    let body = infer_json(&[0], json!({ "preset": "tiles" }));
    let answer = post(server.address, "/v2/models/other/versions/1/infer", &body);
    assert_eq!(answer.json()["model_name"], "other");
    let answer = crate::common::exchange(
        server.address,
        &request("GET", "/v2/models/other", &[], b""),
    );
    assert_eq!(answer.unwrap().json()["name"], "other");
}

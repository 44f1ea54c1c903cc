//! Requests that are wrong in one way each: every one is refused within the limits, and the service lives.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{
    Answer, INFER, PATIENCE, ask, exchange, gzip, infer_json, is_idle, png, post, request, serve,
    until,
};

/// A service with small limits.
const LIMITS: [&str; 8] = [
    "--max-body",
    "1MB",
    "--max-pixels",
    "4096",
    "--body-timeout",
    "0.5",
    "--header-timeout",
    "0.5",
];

/// An inference request whose only input is `input`.
fn of(input: Value) -> Vec<u8> {
    json!({ "inputs": [input] }).to_string().into_bytes()
}

/// An input of 8-bit zeros, with another shape or type.
fn image(datatype: &str, shape: Value, elements: usize) -> Vec<u8> {
    let data = vec![0; elements];
    of(json!({ "name": "image", "datatype": datatype, "shape": shape, "data": data }))
}

/// A binary request: the header says `length`, and `size` is the input's.
fn binary(length: &str, size: Value, raw: &[u8]) -> Vec<u8> {
    let input = json!({
        "name": "bytes", "datatype": "BYTES", "shape": [1],
        "parameters": { "binary_data_size": size },
    });
    let head = of(input);
    let length = match length {
        "right" => head.len().to_string(),
        other => other.to_owned(),
    };
    let header = format!("Inference-Header-Content-Length: {length}");
    request("POST", INFER, &[&header], &[&head, raw].concat())
}

/// A PNG's header that declares this many pixels a side.
fn huge_png(side: u32) -> Vec<u8> {
    let mut bytes = png(0);
    bytes[16..20].copy_from_slice(&side.to_be_bytes());
    bytes[20..24].copy_from_slice(&side.to_be_bytes());
    let sum = {
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[12..29]);
        crc.sum()
    };
    bytes[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Each with its name, its bytes, and the status that it gets.
fn requests() -> Vec<(&'static str, Vec<u8>, u16)> {
    let infer = |body: &[u8]| request("POST", INFER, &[], body);
    let with = |headers: &[&str], body: &[u8]| request("POST", INFER, headers, body);
    let purify = |body: &[u8]| request("POST", "/purify", &[], body);
    let parameter = |value: Value| infer(&infer_json(&[0], value));
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(
        r#"{{"inputs":[{{"name":"image","datatype":"UINT8","shape":[1],"data":{nested}}}]}}"#
    );
    let zeros = vec![0; 3072];
    let twice =
        json!({ "name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": zeros });
    let raw_head = |head: &str| head.as_bytes().to_vec();
    vec![
        ("an empty body", infer(b""), 400),
        ("no JSON", infer(b"\xff\xfe\x00"), 400),
        ("JSON that ends early", infer(&infer_json(&[0], json!({}))[..900]), 400),
        ("a JSON list", infer(b"[]"), 400),
        ("JSON that is nested deeply", infer(deep.as_bytes()), 400),
        ("an unknown member", infer(br#"{"inputs":[],"model":"toy"}"#), 400),
        ("no inputs", infer(br#"{"inputs":[]}"#), 400),
        ("two inputs", infer(json!({ "inputs": [twice, twice] }).to_string().as_bytes()), 400),
        ("an unknown input", infer(&of(json!({ "name": "x", "datatype": "UINT8", "shape": [1], "data": [0] }))), 400),
        ("an unknown type", infer(&image("FP16", json!([1, 32, 32, 3]), 3072)), 400),
        ("a shape of three axes", infer(&image("UINT8", json!([32, 32, 3]), 3072)), 400),
        ("a shape below 0", infer(&image("UINT8", json!([-1, 32, 32, 3]), 3072)), 400),
        ("a shape that overflows", infer(&image("UINT8", json!([u64::MAX, 1024, 3, 3]), 0)), 400),
        ("sides that overflow", infer(&image("UINT8", json!([1, u64::MAX, u64::MAX, 3]), 0)), 413),
        ("no pictures", infer(&image("UINT8", json!([0, 32, 32, 3]), 0)), 400),
        ("no pixels", infer(&image("UINT8", json!([1, 0, 32, 3]), 0)), 400),
        ("four channels", infer(&image("UINT8", json!([1, 32, 32, 4]), 4096)), 400),
        ("too few numbers", infer(&image("UINT8", json!([2, 32, 32, 3]), 3072)), 400),
        ("more pixels than allowed", infer(&image("UINT8", json!([1, 65, 64, 3]), 12480)), 413),
        ("more pictures than allowed", infer(&image("UINT8", json!([200, 1, 1, 3]), 600)), 413),
        ("a byte of 256", infer(&of(json!({ "name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [0, 0, 256] }))), 400),
        ("a float of 1e999", infer(br#"{"inputs":[{"name":"image","datatype":"FP32","shape":[1,1,1,3],"data":[0,0,1e999]}]}"#), 400),
        ("words for numbers", infer(&of(json!({ "name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": ["a", "b", "c"] }))), 400),
        ("numbers and words", infer(&of(json!({ "name": "bytes", "datatype": "BYTES", "shape": [2], "data": ["QQ==", 1] }))), 400),
        ("data that is no list of numbers", infer(&of(json!({ "name": "image", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": {} }))), 400),
        ("an unknown parameter", parameter(json!({ "iterations": 5 })), 400),
        ("a seed below 0", parameter(json!({ "seed": -1 })), 400),
        ("a preset that is not loaded", parameter(json!({ "preset": "wide" })), 400),
        ("an unknown output", infer(json!({ "inputs": [twice], "outputs": [{ "name": "x" }] }).to_string().as_bytes()), 400),
        ("a JSON length beyond the body", binary("999999", json!(0), b""), 400),
        ("a JSON length that is none", binary("-5", json!(0), b""), 400),
        ("a binary size beyond the body", binary("right", json!(u64::MAX), b"abc"), 400),
        ("a body longer than its sizes", binary("right", json!(4), b"\0\0\0\0trailing"), 400),
        ("an element longer than its input", binary("right", json!(4), &[0xff; 4]), 400),
        ("a flood of empty elements", binary("right", json!(400_000), &vec![0; 400_000]), 400),
        ("gzip that is damaged", with(&["Content-Encoding: gzip"], b"\x1f\x8b\x08\0\0\0\0\0\0\0garbage"), 400),
        ("gzip that unpacks to more than a body may have", with(&["Content-Encoding: gzip"], &gzip(&vec![b' '; 50 << 20])), 413),
        ("an unknown compression", with(&["Content-Encoding: br"], b"x"), 415),
        ("a body larger than allowed", purify(&vec![0; (1 << 20) + 1]), 413),
        ("a length that lies", raw_head("POST /purify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nabc"), 413),
        ("a length that overflows", raw_head("POST /purify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n"), 400),
        ("two lengths", raw_head("POST /purify HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), 400),
        ("a damaged chunk", raw_head("POST /purify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc"), 400),
        ("no picture", purify(b"hello"), 400),
        ("an empty picture", purify(b""), 400),
        ("a picture that ends early", purify(&png(0)[..80]), 400),
        ("a picture of 50,000 pixels a side", purify(&huge_png(50_000)), 400),
        ("a picture above the service's limit", purify(&huge_png(65)), 400),
        ("a form without fields", request("POST", "/purify", &["Content-Type: multipart/form-data; boundary=b"], b"--b--\r\n"), 400),
        ("a form without a boundary", request("POST", "/purify", &["Content-Type: multipart/form-data"], b"x"), 400),
        ("an unknown query", request("POST", "/purify?path=/etc/passwd", &[], &png(0)), 400),
        ("a seed in words", request("POST", "/purify?seed=one", &[], &png(0)), 400),
        ("a model that is a path", request("POST", "/v2/models/..%2f..%2fetc/infer", &[], b"{}"), 404),
        ("a version that is not there", request("POST", "/v2/models/toy/versions/2/infer", &[], b"{}"), 404),
        ("a path that is not there", request("GET", "/etc/passwd", &[], b""), 404),
        ("a method that is not there", request("GET", INFER, &[], b""), 405),
        ("headers larger than allowed", raw_head(&format!("GET /v2 HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(1 << 20))), 431),
        ("a line that is no request", raw_head("hello\r\n\r\n"), 400),
    ]
}

#[test]
fn malformed_requests_are_refused_and_the_service_lives() {
    let server = serve(&LIMITS);
    let requests = requests();
    assert!(requests.len() >= 40);
    for (name, bytes, status) in &requests {
        let start = Instant::now();
        let answer = exchange(server.address, bytes);
        let answer = answer.unwrap_or_else(|| panic!("{name}: no response"));
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, *status, "{name}: {said}");
        assert!(start.elapsed() < PATIENCE, "{name}");
        // Routing's and the connection's own refusals have no text.
        if ![405, 415, 431].contains(status) && !said.is_empty() {
            let error = answer.json()["error"].as_str().map(str::to_owned);
            let error = error.unwrap_or_else(|| panic!("{name}: {said}"));
            assert_eq!(error.lines().count(), 1, "{name}: {error}");
        }
    }
    let good = post(server.address, "/purify", &png(0));
    assert_eq!(good.status, 200, "{good:?}");
    until("nothing is held", || is_idle(&server.service));
}

/// Connects, sends this much, and waits for what the service makes of it.
fn stalls(address: SocketAddr, sent: &[u8]) -> (Option<Answer>, Duration) {
    let start = Instant::now();
    (exchange(address, sent), start.elapsed())
}

#[test]
fn who_is_slow_is_not_waited_for() {
    let server = serve(&LIMITS);
    for sent in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"POST /purify HTTP/1.1\r\nHost",
    ] {
        let (answer, time) = stalls(server.address, sent);
        assert!(answer.is_none_or(|answer| answer.status == 408), "{sent:?}");
        assert!(time < Duration::from_secs(20), "{sent:?}: {time:?}");
    }
    let half = b"POST /purify HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc";
    let (answer, time) = stalls(server.address, half);
    assert_eq!(answer.unwrap().status, 408);
    assert!(time < Duration::from_secs(20), "{time:?}");
    until("nothing is held", || is_idle(&server.service));
}

#[test]
fn keys_are_asked_for() {
    let mut keys = tempfile::NamedTempFile::new().unwrap();
    keys.write_all(b"the first key\nthe second\n").unwrap();
    let server = serve(&["--keys", keys.path().to_str().unwrap()]);
    let with = |key: &str, method: &str, path: &str| {
        let key = format!("Authorization: Bearer {key}");
        ask(server.address, method, path, &[&key], &png(0)).status
    };
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/v2"),
        ("POST", "/purify"),
        ("POST", "/jobs"),
    ] {
        let answer = ask(server.address, method, path, &[], b"");
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert_eq!(with("the first", method, path), 401);
    }
    assert_eq!(with("the second", "GET", "/metrics"), 200);
    assert_eq!(with("the first key", "POST", "/purify"), 200);
    // Probes have none.
    assert_eq!(
        ask(server.address, "GET", "/v2/health/ready", &[], b"").status,
        200
    );
}

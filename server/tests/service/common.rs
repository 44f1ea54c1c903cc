//! A small client, and services to ask.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use backstitch::dip::Preset;
use backstitch::picture::{rgb, write_png};
use backstitch::{Classifier, Device, Picture, Purifier};
use backstitch_server::life::Server;
use backstitch_server::options::Options;
use backstitch_server::service::Service;
use clap::Parser;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// The options of the defense in all tests, so that pictures end soon.
pub(crate) const DEFENSE: [&str; 6] = [
    "--preset",
    "cifar",
    "--iterations",
    "200",
    "--restarts",
    "2",
];

/// Pictures that do not end within a test, one at a time.
pub(crate) const ENDLESS: [&str; 8] = [
    "--iterations",
    "4000000",
    "--probe-interval",
    "200",
    "--pictures",
    "1",
    "--queue-pictures",
    "16",
];

/// A file of the crate's tests.
pub(crate) fn fixture(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.join("../tests/fixtures").join(name)
}

/// The command line of a service of the toy classifier.
pub(crate) fn arguments(more: &[&str]) -> Vec<String> {
    let model = format!("toy={}", fixture("toy.onnx").display());
    let mut all = vec!["backstitch-server", "--model", &model];
    for (option, value) in [("--port", "0"), ("--device", "cpu")] {
        if !more.contains(&option) {
            all.extend([option, value]);
        }
    }
    all.extend(match more.contains(&"--iterations") {
        true => &["--preset", "cifar", "--restarts", "1"][..],
        false => &DEFENSE,
    });
    all.extend(more);
    all.into_iter().map(str::to_owned).collect()
}

/// The runtime that all services of this process run on.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

/// A service in this process that is ready.
pub(crate) fn serve(more: &[&str]) -> Server {
    let options = Options::parse_from(arguments(more));
    runtime().block_on(async {
        let mut server = Server::start(options).await.unwrap();
        server.loaded().await.unwrap();
        server
    })
}

/// The service that most tests ask.
pub(crate) fn usual() -> SocketAddr {
    static USUAL: OnceLock<Server> = OnceLock::new();
    USUAL.get_or_init(|| serve(&[])).address
}

/// A purifier with the options of [`DEFENSE`].
pub(crate) fn purifier(seed: u64, always: bool) -> Purifier {
    Purifier::builder(Classifier::open(fixture("toy.onnx")).unwrap())
        .device(Device::Cpu(1))
        .preset(Preset::Cifar)
        .iterations(200)
        .restarts(2)
        .seed(seed)
        .always(always)
        .build()
        .unwrap()
}

/// The interleaved 8-bit pixels of a 32×32 picture of waves and noise, another one for each number. The noise makes the
/// toy classifier err.
pub(crate) fn pixels(number: u32) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let noise = 8 * ((x + y) % 2) as u8 * (number % 2) as u8;
        let wave = ((x * 3 + y * 2 + 5 * number) % 32) as u8;
        [160 + wave + noise, 80 + wave + noise, 90 + noise]
    };
    let rows = (0..32).flat_map(|y| (0..32).map(move |x| (x, y)));
    rows.flat_map(|(x, y)| pixel(x, y)).collect()
}

pub(crate) fn picture(number: u32) -> Picture {
    Picture::from_rgb8(&pixels(number), rgb(32, 32))
}

pub(crate) fn png(number: u32) -> Vec<u8> {
    let mut png = vec![];
    let picture = picture(number);
    write_png(&mut png, picture.shape, &picture.pixels).unwrap();
    png
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

/// Sends bytes and does not wait; `None` if nobody listens.
pub(crate) fn send(address: SocketAddr, request: &[u8]) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A refusal may come before everything is written.
    let _ = stream.write_all(request);
    Some(stream)
}

/// Sends bytes, and reads the response to its end; `None` if the connection ends without one.
pub(crate) fn exchange(address: SocketAddr, request: &[u8]) -> Option<Answer> {
    answer(send(address, request)?)
}

/// Reads a response to its end.
fn answer(mut stream: TcpStream) -> Option<Answer> {
    let mut bytes = vec![];
    let _ = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_lowercase(), value.to_owned()))
    };
    Some(Answer {
        status,
        headers: lines.filter_map(header).collect(),
        body: bytes[end + 4..].to_vec(),
    })
}

/// A request's bytes; `headers` are whole lines.
pub(crate) fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    head += &format!("Content-Length: {}\r\n", body.len());
    headers
        .iter()
        .for_each(|line| head += &format!("{line}\r\n"));
    [head.as_bytes(), b"\r\n", body].concat()
}

pub(crate) fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let answer = exchange(address, &request(method, path, headers, body));
    answer.unwrap_or_else(|| panic!("{method} {path}: no response"))
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, &[], b"")
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    ask(address, "POST", path, &[], body)
}

pub(crate) const INFER: &str = "/v2/models/toy/infer";

/// An inference request in JSON, of 8-bit NHWC pictures.
pub(crate) fn infer_json(numbers: &[u32], parameters: Value) -> Vec<u8> {
    let data: Vec<u8> = numbers.iter().flat_map(|&number| pixels(number)).collect();
    let input = json!({
        "name": "image",
        "datatype": "UINT8",
        "shape": [numbers.len(), 32, 32, 3],
        "data": data,
    });
    let body = json!({ "id": "a name", "parameters": parameters, "inputs": [input] });
    body.to_string().into_bytes()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A form whose field is a picture's file; its boundary is `b`.
pub(crate) fn form(file: &[u8]) -> Vec<u8> {
    let head =
        b"--b\r\nContent-Disposition: form-data; name=\"picture\"; filename=\"a.png\"\r\n\r\n";
    [head, file, b"\r\n--b--\r\n"].concat()
}

/// A gRPC message as it is sent.
pub(crate) fn grpc_frame(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

/// Waits until something is so.
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "{what} is not so");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a service holds nothing of any request.
pub(crate) fn is_idle(service: &Service) -> bool {
    service.queue.held() == (0, 0)
}

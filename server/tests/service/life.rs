//! Processes: how they start, drain, end, and are replaced.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{ENDLESS, PATIENCE, arguments, exchange, get, png, post, request, until};

/// A service in a process of its own; killed when it is dropped.
struct Process {
    child: Child,
    address: SocketAddr,
    /// The lines of its log.
    log: mpsc::Receiver<Value>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a process; it listens, but may not be ready yet.
fn launch(more: &[&str], environment: &[(&str, &str)]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstitch-server"));
    command
        .args(&arguments(more)[1..])
        .envs(environment.iter().copied());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, log) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            let _ = sender.send(line);
        }
    });
    let mut process = Process {
        child,
        address: SocketAddr::from(([0, 0, 0, 0], 0)),
        log,
    };
    let listening = process.logged("listening");
    process.address = listening["address"].as_str().unwrap().parse().unwrap();
    process
}

/// Starts a process that is ready.
fn start(more: &[&str], environment: &[(&str, &str)]) -> Process {
    let process = launch(more, environment);
    process.logged("ready");
    process
}

impl Process {
    /// Waits for a line of the log.
    fn logged(&self, message: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("{message} was not logged"));
            if line["message"] == message {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let line = format!("kill -s {name} {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &line])
                .status()
                .unwrap()
                .success()
        );
    }

    /// How it ends.
    fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has this many pictures.
    fn holds(&self, pictures: usize) -> bool {
        let metrics = String::from_utf8(get(self.address, "/metrics").body).unwrap();
        metrics.contains(&format!("\nbackstitch_held_pictures {pictures}\n"))
    }
}

#[test]
fn it_is_live_while_it_loads_and_says_why_it_cannot() {
    let process = launch(&[], &[]);
    assert_eq!(get(process.address, "/v2/health/live").status, 200);
    process.logged("ready");
    assert_eq!(get(process.address, "/v2/health/ready").status, 200);
    let mut broken = launch(&["--model", "broken=/nowhere/model.onnx"], &[]);
    assert_eq!(broken.ended().code(), Some(1));
    let error = broken
        .log
        .iter()
        .find(|line| line["level"] == "ERROR")
        .unwrap();
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("/nowhere/model.onnx"),
        "{error}"
    );
}

#[test]
fn options_come_from_the_environment_too() {
    let variables = [
        ("BACKSTITCH_SERVER_MAX_BODY", "100"),
        ("BACKSTITCH_SERVER_LOG", "debug"),
    ];
    let process = start(&[], &variables);
    assert_eq!(post(process.address, "/purify", &[0; 101]).status, 413);
    let traced = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [traced, "X-Request-Id: mine-1"];
    let answer = exchange(process.address, &request("GET", "/v2", &headers, b"")).unwrap();
    assert_eq!(answer.headers["x-request-id"], "mine-1");
    let line = std::iter::from_fn(|| Some(process.logged("request")))
        .find(|line| line["request_id"] == "mine-1");
    let line = line.unwrap();
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(
        (&line["code"], &line["method"]),
        (&"200".into(), &"GET".into())
    );
}

/// Options with which pictures take a while.
const SLOW: [&str; 6] = [
    "--iterations",
    "1000",
    "--drain-delay",
    "5",
    "--drain-timeout",
    "600",
];

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let mut process = start(&SLOW, &[]);
    let address = process.address;
    let in_flight = std::thread::spawn(move || post(address, "/purify", &png(1)));
    let job = post(address, "/jobs", &png(0)).status;
    until("two are in flight", || process.holds(2));
    process.signal("TERM");
    until("it is not ready", || {
        get(address, "/v2/health/ready").status == 503
    });
    assert_eq!(get(address, "/v2/health/live").status, 200);
    // During the delay requests are still taken, because a load balancer may not know yet.
    let late = std::thread::spawn(move || post(address, "/purify", &png(2)));
    assert_eq!(
        (
            job,
            in_flight.join().unwrap().status,
            late.join().unwrap().status
        ),
        (202, 200, 200)
    );
    assert_eq!(process.ended().code(), Some(0));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut process = start(&[&ENDLESS[..], &["--drain-delay", "0"]].concat(), &[]);
    let address = process.address;
    let in_flight =
        std::thread::spawn(move || exchange(address, &request("POST", "/purify", &[], &png(1))));
    until("one is in flight", || process.holds(1));
    process.signal("TERM");
    process.logged("draining");
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(1));
    assert!(in_flight.join().unwrap().is_none());
}

#[test]
fn the_drain_timeout_is_the_longest() {
    let times = ["--drain-delay", "0", "--drain-timeout", "0.3"];
    let mut process = start(&[&ENDLESS[..], &times].concat(), &[]);
    assert_eq!(post(process.address, "/jobs", &png(0)).status, 202);
    process.signal("TERM");
    assert_eq!(process.ended().code(), Some(1));
}

#[test]
fn kill_loses_only_what_was_in_flight_and_jobs_say_so() {
    let (mut killed, other) = (start(&ENDLESS, &[]), start(&SLOW, &[]));
    let purify = request("POST", "/purify", &[], &png(1));
    let [lost, kept] = [&killed, &other].map(|process| {
        let (address, purify) = (process.address, purify.clone());
        std::thread::spawn(move || exchange(address, &purify))
    });
    let [gone, stays] = [&killed, &other]
        .map(|process| post(process.address, "/jobs", &png(0)).headers["location"].clone());
    until("both have begun", || killed.holds(2) && other.holds(2));
    killed.child.kill().unwrap();
    killed.ended();
    assert!(lost.join().unwrap().is_none());
    assert_eq!(kept.join().unwrap().unwrap().status, 200);
    until("the other's job is done", || {
        get(other.address, &stays).json()["state"] == "done"
    });
    let port = killed.address.port().to_string();
    let next = start(&["--port", &port], &[]);
    for process in [&other, &next] {
        let answer = get(process.address, &gone);
        assert_eq!(answer.status, 410);
        let error = answer.json()["error"].to_string();
        assert!(error.contains("submit it again"), "{error}");
    }
}

#[cfg(feature = "faults")]
#[test]
fn a_failed_device_s_pictures_go_to_the_others_and_the_process_survives() {
    let sound = start(&[], &[]);
    let want = post(sound.address, "/purify", &png(1));
    let faults = [("FAILPOINTS", "device=4*off->1*return")];
    let one_fails = start(&["--device", "cpu,cpu"], &faults);
    std::thread::scope(|scope| {
        let ask = || post(one_fails.address, "/purify", &png(1));
        let all: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
        for answer in all {
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.body == want.body);
        }
    });
    one_fails.logged("a device failed");
    assert_eq!(get(one_fails.address, "/v2/health/ready").status, 200);
    let all_fail = start(
        &["--device", "cpu,cpu"],
        &[("FAILPOINTS", "device=2*off->return")],
    );
    assert_eq!(post(all_fail.address, "/purify", &png(1)).status, 503);
    until("it is not ready", || {
        get(all_fail.address, "/v2/health/ready").status == 503
    });
    assert_eq!(get(all_fail.address, "/v2/health/live").status, 200);
    assert_eq!(post(all_fail.address, "/purify", &png(1)).status, 503);
}

/// A proxy as a load balancer is one: a connection goes to an instance that was ready a moment ago.
struct Proxy {
    address: SocketAddr,
    ready: Mutex<Vec<SocketAddr>>,
    ended: AtomicBool,
}

/// How often the proxy asks who is ready: more often than the instances' drain delay.
const PROBE: Duration = Duration::from_millis(100);

impl Proxy {
    fn run(&self, listener: &TcpListener) {
        let turn = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for stream in listener.incoming().map_while(Result::ok) {
                if self.ended.load(Ordering::Relaxed) {
                    break;
                }
                let ready = self.ready.lock().unwrap().clone();
                let instance = ready[turn.fetch_add(1, Ordering::Relaxed) % ready.len()];
                scope.spawn(move || {
                    let Ok(up) = TcpStream::connect(instance) else {
                        return;
                    };
                    std::thread::scope(|scope| {
                        scope.spawn(|| copy(&stream, &up));
                        copy(&up, &stream);
                        let _ = stream.shutdown(std::net::Shutdown::Both);
                    });
                });
            }
        });
    }
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
}

#[test]
fn a_rolling_restart_behind_a_proxy_loses_no_request() {
    let options = ["--drain-delay", "3"];
    let instances = Mutex::new(vec![start(&options, &[]), start(&options, &[])]);
    let addresses = |instances: &[Process]| -> Vec<SocketAddr> {
        instances.iter().map(|process| process.address).collect()
    };
    let known = Mutex::new(addresses(&instances.lock().unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy {
        address: listener.local_addr().unwrap(),
        ready: Mutex::new(known.lock().unwrap().clone()),
        ended: AtomicBool::new(false),
    };
    let (served, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| proxy.run(&listener));
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let all = known.lock().unwrap().clone();
                let probe = request("GET", "/v2/health/ready", &[], b"");
                let is_ready = |address: &SocketAddr| {
                    exchange(*address, &probe).is_some_and(|answer| answer.status == 200)
                };
                let ready: Vec<SocketAddr> = all.into_iter().filter(is_ready).collect();
                if !ready.is_empty() {
                    *proxy.ready.lock().unwrap() = ready;
                }
                std::thread::sleep(PROBE);
            }
        });
        let clients: Vec<_> = (0..3)
            .map(|number| {
                let (proxy, served, over) = (&proxy, &served, &over);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let answer = exchange(
                            proxy.address,
                            &request("POST", "/purify", &[], &png(number)),
                        );
                        assert_eq!(answer.expect("a response").status, 200);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for place in 0..2 {
            let before = served.load(Ordering::Relaxed);
            until("requests are served", || {
                served.load(Ordering::Relaxed) > before + 3
            });
            let mut old =
                std::mem::replace(&mut instances.lock().unwrap()[place], start(&options, &[]));
            *known.lock().unwrap() = addresses(&instances.lock().unwrap());
            std::thread::sleep(2 * PROBE);
            old.signal("TERM");
            assert_eq!(old.ended().code(), Some(0));
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
        proxy.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(proxy.address);
    });
}

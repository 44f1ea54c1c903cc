//! What waits: for how long, in which order, and what ends the waiting.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{
    ENDLESS, INFER, PATIENCE, ask, get, infer_json, is_idle, png, post, request, runtime, send,
    serve, until,
};

/// Pictures that take so long that something else can happen meanwhile, one at a time.
const SLOW: [&str; 6] = [
    "--iterations",
    "600",
    "--pictures",
    "1",
    "--queue-pictures",
    "16",
];
fn infer(numbers: &[u32], parameters: serde_json::Value) -> Vec<u8> {
    request("POST", INFER, &[], &infer_json(numbers, parameters))
}

#[test]
fn a_short_request_behind_a_long_one_ends_first() {
    let server = serve(&SLOW);
    let held = || server.service.queue.held().0;
    std::thread::scope(|scope| {
        let long = scope.spawn(|| {
            let answer = post(
                server.address,
                INFER,
                &infer_json(&[0, 1, 2, 3, 4, 5], json!({})),
            );
            (answer.status, Instant::now())
        });
        until("the long request waits", || held() == 6);
        let answer = post(server.address, "/purify", &png(0));
        let short = Instant::now();
        let (status, long) = long.join().unwrap();
        assert_eq!((answer.status, status), (200, 200));
        assert!(short < long);
    });
}

#[test]
fn a_full_queue_refuses_at_once_and_who_leaves_makes_room() {
    let server = serve(&ENDLESS);
    let held = || server.service.queue.held().0;
    // A client alone has half of the 16.
    let one = infer(&[0], json!({}));
    let waiting: Vec<TcpStream> = (0..8).filter_map(|_| send(server.address, &one)).collect();
    until("eight wait", || held() == 8);
    for (path, body) in [
        (INFER, infer_json(&[0], json!({}))),
        ("/purify", png(0)),
        ("/jobs", png(0)),
    ] {
        let start = Instant::now();
        let answer = post(server.address, path, &body);
        assert_eq!(answer.status, 429, "{path}: {answer:?}");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{path}: {:?}",
            start.elapsed()
        );
        let seconds: u64 = answer.headers["retry-after"].parse().unwrap();
        assert!(seconds >= 1);
    }
    assert_eq!(get(server.address, "/v2/health/live").status, 200);
    assert_eq!(get(server.address, "/v2/health/ready").status, 200);
    drop(waiting);
    until("all have left", || is_idle(&server.service));
    let in_flight = || {
        let metrics = String::from_utf8(get(server.address, "/metrics").body).unwrap();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("backstitch_in_flight{"));
        line.unwrap().ends_with(" 1")
    };
    until("the device has dropped it", || !in_flight());
    let metrics = String::from_utf8(get(server.address, "/metrics").body).unwrap();
    assert!(
        metrics.contains("backstitch_requests_total{code=\"499\",route=\"infer\"} 8"),
        "{metrics}"
    );
}

#[test]
fn two_hundred_clients_that_leave_take_no_place() {
    let options = [
        "--iterations",
        "100",
        "--pictures",
        "1",
        "--queue-pictures",
        "16",
    ];
    let server = serve(&options);
    let one = infer(&[0], json!({}));
    for _ in 0..200 {
        drop(send(server.address, &one));
    }
    until("all have left", || is_idle(&server.service));
    std::thread::scope(|scope| {
        let served = || {
            let body = png(1);
            loop {
                match post(server.address, "/purify", &body).status {
                    429 => std::thread::sleep(Duration::from_millis(50)),
                    status => break status,
                }
            }
        };
        let clients: Vec<_> = (0..20).map(|_| scope.spawn(served)).collect();
        assert!(
            clients
                .into_iter()
                .all(|client| client.join().unwrap() == 200)
        );
    });
}

#[test]
fn a_deadline_ends_what_waits_and_what_is_in_flight() {
    let server = serve(&ENDLESS);
    let _in_flight = send(server.address, &infer(&[0], json!({})));
    until("one is in flight", || server.service.queue.held().0 == 1);
    for _ in 0..2 {
        let start = Instant::now();
        let body = infer_json(&[1], json!({ "timeout": 300_000 }));
        let answer = post(server.address, INFER, &body);
        assert_eq!(answer.status, 504, "{answer:?}");
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            start.elapsed()
        );
    }
    drop(_in_flight);
    let body = infer_json(&[1], json!({ "timeout": 300_000 }));
    assert_eq!(post(server.address, INFER, &body).status, 504);
    until("nothing is held", || is_idle(&server.service));
}

#[test]
fn a_deadline_ends_what_waits_to_be_decoded() {
    let server = serve(&["--request-timeout", "0.2"]);
    let (begin, begun) = mpsc::channel();
    let (free, freed) = mpsc::channel::<()>();
    let freed = Arc::new(Mutex::new(freed));
    let decoders = std::thread::available_parallelism().unwrap().get();
    for _ in 0..decoders {
        let (service, begin, freed) = (server.service.clone(), begin.clone(), freed.clone());
        let work = move || {
            begin.send(()).unwrap();
            Ok(freed.lock().unwrap().recv())
        };
        let later = Instant::now() + PATIENCE;
        runtime().spawn(async move { service.decode(later, work).await });
    }
    (0..decoders).for_each(|_| begun.recv_timeout(PATIENCE).unwrap());
    for path in ["/purify", "/classify", INFER] {
        let answer = post(server.address, path, &png(0));
        assert_eq!(answer.status, 504, "{path}: {answer:?}");
    }
    drop(free);
}

#[test]
fn bodies_have_a_bound_together() {
    let server = serve(&["--queue-bytes", "100KB", "--max-body", "90KB"]);
    let head = "POST /purify HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n";
    let first = send(server.address, head.as_bytes());
    until("the first is read", || {
        server.service.queue.held().1 == 60_000
    });
    assert_eq!(
        post(server.address, "/purify", &vec![0; 50_000]).status,
        429
    );
    assert_eq!(post(server.address, "/purify", &png(0)).status, 200);
    drop(first);
    until("nothing is held", || is_idle(&server.service));
}

#[test]
fn jobs_are_submitted_polled_fetched_and_cancelled() {
    let server = serve(&["--jobs", "3", "--job-time", "1000"]);
    let address = server.address;
    let direct = post(address, "/purify?seed=4", &png(1));
    let submitted = post(address, "/jobs?seed=4", &png(1));
    assert_eq!(submitted.status, 202, "{submitted:?}");
    let job = submitted.headers["location"].clone();
    until("the job is done", || {
        get(address, &job).json()["state"] == "done"
    });
    assert_eq!(
        get(address, &job).json()["verdict"],
        direct.headers["backstitch-verdict"]
    );
    let fetched = get(address, &format!("{job}/picture"));
    assert!(fetched.body == direct.body);
    assert_eq!(
        fetched.headers["backstitch-score"],
        direct.headers["backstitch-score"]
    );
    // The oldest that has ended makes room.
    let more: Vec<String> = (0..3)
        .map(|_| post(address, "/jobs", &png(0)).headers["location"].clone())
        .collect();
    assert_eq!(get(address, &job).status, 404);
    for job in &more {
        until("the job is done", || {
            get(address, job).json()["state"] == "done"
        });
    }
    assert_eq!(ask(address, "DELETE", &more[0], &[], b"").status, 204);
    assert_eq!(get(address, &more[0]).status, 404);
    // Another process's.
    let lost = get(address, "/jobs/0123456789abcdef0123456789abcdef-1");
    assert_eq!(lost.status, 410);
    assert!(
        lost.json()["error"]
            .as_str()
            .unwrap()
            .contains("submit it again")
    );
    let endless = serve(&ENDLESS);
    let job = post(endless.address, "/jobs", &png(0)).headers["location"].clone();
    assert_eq!(get(endless.address, &job).json()["state"], "running");
    assert_eq!(get(endless.address, &format!("{job}/picture")).status, 409);
    assert_eq!(ask(endless.address, "DELETE", &job, &[], b"").status, 204);
    until("nothing is held", || is_idle(&endless.service));
}

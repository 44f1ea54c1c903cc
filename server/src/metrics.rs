//! What Prometheus reads. Every series is there from the start.

use backstitch::Verdict;
use prometheus::{
    Counter, CounterVec, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::queue::Queue;

/// The upper ends of the buckets for times, in seconds: 10 ms to 10 min.
const SECONDS: [f64; 15] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// The routes that requests are counted under.
pub const ROUTES: [&str; 6] = ["infer", "purify", "classify", "jobs", "grpc", "other"];

/// All metrics of a service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests by `route` and `code`.
    pub requests: IntCounterVec,
    /// Seconds from a request's headers to its response, by `route`.
    pub request_seconds: HistogramVec,
    /// Seconds that pictures waited for a device.
    pub queue_seconds: Histogram,
    queue_pictures: IntGauge,
    held_pictures: IntGauge,
    held_bytes: IntGauge,
    /// Pictures that ended on a device, by `model`, `preset` and `verdict`.
    pub pictures: IntCounterVec,
    /// Pictures that failed, or were dropped because nobody waited for them anymore.
    pub dropped: IntCounter,
    /// Adam steps.
    pub iterations: IntCounter,
    /// Pictures in flight, by `model`, `preset` and `device`.
    pub in_flight: IntGaugeVec,
    /// Slots that hold an instance, by `model`, `preset` and `device`.
    pub busy_slots: IntGaugeVec,
    /// Slots that there are, by `model`, `preset` and `device`.
    pub slots: IntGaugeVec,
    /// Seconds that devices worked and waited, by `model`, `preset`, `device` and `doing`.
    pub device_seconds: CounterVec,
    /// Devices that are left, by `model` and `preset`.
    pub devices: IntGaugeVec,
    /// Connections that are open.
    pub connections: IntGauge,
    /// Jobs that are kept.
    pub jobs: IntGauge,
}

impl Metrics {
    /// All metrics, at 0.
    pub fn new() -> Metrics {
        let registry = Registry::new_custom(Some("backstitch".into()), None).expect(NAMES);
        let of_engine = ["model", "preset", "device"];
        let gauges = |name, help, labels: &[&str]| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), labels).expect(NAMES);
            registry.register(Box::new(gauges.clone())).expect(NAMES);
            gauges
        };
        let counters = |name, help, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels).expect(NAMES);
            registry.register(Box::new(counters.clone())).expect(NAMES);
            counters
        };
        let gauge = |name, help| gauges(name, help, &[]).with_label_values(&[] as &[&str]);
        let counter = |name, help| counters(name, help, &[]).with_label_values(&[] as &[&str]);
        let times = |name, help| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let request_seconds = HistogramVec::new(
            times("request_seconds", "Seconds from headers to response"),
            &["route"],
        )
        .expect(NAMES);
        let queue_seconds =
            Histogram::with_opts(times("queue_seconds", "Seconds that pictures waited"))
                .expect(NAMES);
        let device_seconds = CounterVec::new(
            Opts::new(
                "device_seconds_total",
                "Seconds that devices worked or waited",
            ),
            &["model", "preset", "device", "doing"],
        )
        .expect(NAMES);
        registry
            .register(Box::new(request_seconds.clone()))
            .expect(NAMES);
        registry
            .register(Box::new(queue_seconds.clone()))
            .expect(NAMES);
        registry
            .register(Box::new(device_seconds.clone()))
            .expect(NAMES);
        let metrics = Metrics {
            requests: counters("requests_total", "Requests by status", &["route", "code"]),
            request_seconds,
            queue_seconds,
            queue_pictures: gauge("queue_pictures", "Pictures that wait for a device"),
            held_pictures: gauge(
                "held_pictures",
                "Pictures of all requests, in flight or not",
            ),
            held_bytes: gauge("held_bytes", "Bytes of all request bodies"),
            pictures: counters(
                "pictures_total",
                "Pictures purified",
                &["model", "preset", "verdict"],
            ),
            dropped: counter(
                "pictures_dropped_total",
                "Pictures that failed or were dropped",
            ),
            iterations: counter("iterations_total", "Adam steps of DIP networks"),
            in_flight: gauges("in_flight", "Pictures in flight", &of_engine),
            busy_slots: gauges("busy_slots", "Slots that hold an instance", &of_engine),
            slots: gauges("slots", "Slots of the DIP engines", &of_engine),
            device_seconds,
            devices: gauges("devices", "Devices that are left", &["model", "preset"]),
            connections: gauge("connections", "Open connections"),
            jobs: gauge("jobs", "Jobs that are kept"),
            registry,
        };
        for route in ROUTES {
            metrics.requests.with_label_values(&[route, "200"]);
            metrics.request_seconds.with_label_values(&[route]);
        }
        metrics
    }

    /// The series of an engine's device, of this many slots.
    pub fn add_device(&self, model: &str, preset: &str, device: &str, slots: usize) {
        let of_engine = [model, preset, device];
        self.slots.with_label_values(&of_engine).set(slots as i64);
        self.in_flight.with_label_values(&of_engine);
        self.busy_slots.with_label_values(&of_engine);
        for doing in ["working", "waiting"] {
            let labels = [model, preset, device, doing];
            self.device_seconds.with_label_values(&labels);
        }
        self.devices.with_label_values(&[model, preset]).inc();
        for verdict in [Verdict::Adversarial, Verdict::Clean, Verdict::Undecided] {
            let labels = [model, preset, verdict.name()];
            self.pictures.with_label_values(&labels);
        }
    }

    /// The text that Prometheus reads.
    pub fn text(&self, queue: &Queue) -> String {
        let (pictures, bytes) = queue.held();
        self.queue_pictures.set(queue.waiting() as i64);
        self.held_pictures.set(pictures as i64);
        self.held_bytes.set(bytes as i64);
        let mut text = Vec::new();
        let written = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        written.expect("memory takes every byte");
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The counter of seconds of a device.
    pub fn seconds(&self, model: &str, preset: &str, device: &str, doing: &str) -> Counter {
        let labels = [model, preset, device, doing];
        self.device_seconds.with_label_values(&labels)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

const NAMES: &str = "the names are valid and differ";

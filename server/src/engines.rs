//! The loaded models, and the threads that purify.

use std::sync::{Arc, Mutex};

use backstitch::backend::ImageShape;
use backstitch::defense::{Oracle, OwnOptions, Reading, ReconstructOptions};
use backstitch::dip::Preset;
use backstitch::purifier::OpenDevices;
use backstitch::scheduler::{Feed, Job, Purified, Round};
use backstitch::{Classifier, Error, Picture, Purifier};
use prometheus::{Counter, IntGauge};

use crate::found::Found;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::queue::{EngineId, Queue, Ticket};
use crate::refusal::Refusal;

/// A classifier that pictures are purified for.
pub struct Model {
    /// Its name in requests.
    pub name: String,
    /// The classifier with its preprocessing.
    pub classifier: Arc<Classifier>,
    /// One engine for each preset, in the presets' order.
    engines: Vec<Engine>,
    /// The classifier alone, for requests without the defense.
    alone: Mutex<Box<dyn Oracle>>,
}

/// The defense of one model with one preset, on all devices.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// Its number in the queue.
    pub id: EngineId,
    /// Its DIP networks.
    pub preset: Preset,
    /// The options of requests that say none.
    pub own: OwnOptions,
}

impl Model {
    /// The size of the classifier's pictures.
    pub fn shape(&self) -> ImageShape {
        self.classifier.shape()
    }

    /// The engine of a preset; without one, the first.
    ///
    /// # Errors
    /// The preset is not loaded.
    pub fn engine(&self, preset: Option<&str>) -> Result<Engine, Refusal> {
        let Some(name) = preset else {
            return Ok(self.engines[0]);
        };
        let found = self
            .engines
            .iter()
            .find(|engine| engine.preset.name() == name);
        found.copied().ok_or_else(|| {
            let loaded = self.engines.iter().map(|engine| engine.preset.name());
            let loaded: Vec<&str> = loaded.collect();
            Refusal::malformed(format!("the loaded presets are {}", loaded.join(", ")))
        })
    }

    /// Makes a picture of any size the classifier's input.
    ///
    /// # Errors
    /// It has another size, and it is not known how to resize it.
    pub fn prepare(&self, picture: Picture) -> Result<Picture, Refusal> {
        let prepared = self.classifier.preprocess().apply(picture);
        prepared.map_err(|error| Refusal::malformed(error.to_string()))
    }

    /// Classifies a prepared picture, without the defense.
    ///
    /// # Errors
    /// The device's; logits that are not numbers.
    pub fn classify(&self, picture: &Picture) -> Result<Reading, Refusal> {
        let mut alone = self
            .alone
            .lock()
            .expect("no thread panics with a classifier");
        let readings = alone.classify(&[&picture.pixels]);
        let mut readings = readings.map_err(|error| Refusal::unavailable(error.to_string()))?;
        let reading = readings.remove(0);
        let checked = reading.check();
        checked.map_err(|error| Refusal::malformed(error.to_string()))?;
        Ok(reading)
    }
}

/// Opens the devices, loads every model with every preset, and starts the threads that purify.
///
/// # Errors
/// A device or a model cannot be used.
pub fn load(
    options: &Options,
    queue: &Arc<Queue>,
    metrics: &Arc<Metrics>,
) -> Result<Vec<Arc<Model>>, Error> {
    let engines = options.models.len() * options.presets.len();
    let memory = options
        .memory
        .map(|memory| memory.as_u64() / engines as u64);
    let devices = options.device.open(options.precision, memory)?;
    let mut models: Vec<Arc<Model>> = Vec::new();
    for named in &options.models {
        if models.iter().any(|model| model.name == named.name) {
            let twice = format!("there are two models called {}", named.name);
            return Err(Error::option("model", twice));
        }
        let classifier = Arc::new(Classifier::open(&named.file)?);
        let engine = |preset: &Preset| {
            let purifier = build(options, &classifier, *preset, &devices)?;
            let own = purifier.options().own();
            let id = start(purifier, &named.name, *preset, queue, metrics);
            Ok(Engine {
                id,
                preset: *preset,
                own,
            })
        };
        models.push(Arc::new(Model {
            name: named.name.clone(),
            engines: options
                .presets
                .iter()
                .map(engine)
                .collect::<Result<_, Error>>()?,
            alone: Mutex::new(classifier.on(&devices)?),
            classifier,
        }));
    }
    Ok(models)
}

fn build(
    options: &Options,
    classifier: &Arc<Classifier>,
    preset: Preset,
    devices: &OpenDevices,
) -> Result<Purifier, Error> {
    let channels = classifier.shape().channels;
    let mut reconstruct = ReconstructOptions::preset(preset, channels);
    reconstruct.seed = options.seed;
    reconstruct.iterations = options.iterations.unwrap_or(reconstruct.iterations);
    reconstruct.restarts = options.restarts.unwrap_or(reconstruct.restarts);
    let usual = reconstruct
        .probe_interval
        .min(reconstruct.iterations.max(1));
    reconstruct.probe_interval = options.probe_interval.unwrap_or(usual);
    let mut builder = Purifier::builder(classifier.clone())
        .options(backstitch::defense::Options::new(reconstruct))
        .devices(devices.clone());
    if let Some(capacity) = options.capacity {
        builder = builder.capacity(capacity);
    }
    if let Some(pictures) = options.pictures {
        builder = builder.pictures(pictures);
    }
    builder.build()
}

/// Starts the threads of an engine; gives its number.
fn start(
    mut purifier: Purifier,
    model: &str,
    preset: Preset,
    queue: &Arc<Queue>,
    metrics: &Arc<Metrics>,
) -> EngineId {
    let id = queue.add_engine(purifier.plans().len());
    let mut devices = vec![];
    for (number, plan) in purifier.plans().iter().enumerate() {
        let device = number.to_string();
        let labels = (model, preset.name(), &*device);
        metrics.add_device(labels.0, labels.1, labels.2, plan.capacity);
        let of_engine = [labels.0, labels.1, labels.2];
        devices.push(DeviceMetrics {
            in_flight: metrics.in_flight.with_label_values(&of_engine),
            busy_slots: metrics.busy_slots.with_label_values(&of_engine),
            working: metrics.seconds(labels.0, labels.1, labels.2, "working"),
            waiting: metrics.seconds(labels.0, labels.1, labels.2, "waiting"),
        });
    }
    tracing::info!(
        model,
        preset = preset.name(),
        devices = purifier.devices().join(", "),
        pictures = purifier
            .plans()
            .iter()
            .map(|plan| plan.images)
            .sum::<usize>(),
        "loaded"
    );
    let feed = EngineFeed {
        id,
        model: model.to_owned(),
        preset: preset.name(),
        queue: queue.clone(),
        metrics: metrics.clone(),
        devices,
    };
    std::thread::spawn(move || {
        let feed = Ending(feed);
        if let Err(error) = purifier.serve(&feed.0) {
            tracing::error!(model = feed.0.model, "no thread for the devices: {error}");
        }
    });
    id
}

/// An engine whose pictures are refused when its thread ends, even if it panics.
struct Ending(EngineFeed);

impl Drop for Ending {
    fn drop(&mut self) {
        while self.0.queue.lose_device(self.0.id, vec![]) > 0 {}
    }
}

/// What an engine's devices get from the queue.
struct EngineFeed {
    id: EngineId,
    model: String,
    preset: &'static str,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    devices: Vec<DeviceMetrics>,
}

struct DeviceMetrics {
    in_flight: IntGauge,
    busy_slots: IntGauge,
    working: Counter,
    waiting: Counter,
}

impl Feed<Ticket> for EngineFeed {
    fn take(&self, most: usize, wait: bool) -> Vec<Job<Ticket>> {
        let jobs = self.queue.take(self.id, most, wait);
        for job in &jobs {
            let waited = job.name.waited().as_secs_f64();
            self.metrics.queue_seconds.observe(waited);
        }
        jobs
    }

    fn is_unwanted(&self, ticket: &Ticket) -> bool {
        ticket.is_over()
    }

    fn done(&self, ticket: Ticket, purified: Result<Purified, Error>, seconds: f64) {
        let result = match purified {
            Ok(purified) => {
                self.queue.took(seconds);
                self.metrics.iterations.inc_by(purified.outcome.iterations);
                let labels = [&*self.model, self.preset, purified.verdict().name()];
                self.metrics.pictures.with_label_values(&labels).inc();
                Ok(Found::new(purified))
            }
            Err(error) => {
                self.metrics.dropped.inc();
                Err(match error {
                    Error::Interrupted => Refusal::too_late(),
                    error => Refusal::malformed(error.to_string()),
                })
            }
        };
        ticket.give(result);
    }

    fn lost(&self, device: &str, error: Error, jobs: Vec<Job<Ticket>>) {
        let pictures = jobs.len();
        let left = self.queue.lose_device(self.id, jobs);
        let labels = [&*self.model, self.preset];
        self.metrics
            .devices
            .with_label_values(&labels)
            .set(left as i64);
        let error = error.to_string();
        let model = &*self.model;
        tracing::error!(model, device, error, pictures, left, "a device failed");
    }

    fn round(&self, device: usize, round: Round) {
        let metrics = &self.devices[device];
        metrics.in_flight.set(round.in_flight as i64);
        metrics.busy_slots.set(round.busy_slots as i64);
        metrics.working.inc_by(round.worked);
        metrics.waiting.inc_by(round.waited);
    }
}

//! The crate's main interface: a classifier, the defense before it, and the devices that both run on.
//!
//! ```no_run
//! use backstitch::{Classifier, Device, Picture, Purifier};
//!
//! # fn main() -> backstitch::Result<()> {
//! let classifier = Classifier::open("model.onnx")?;
//! let mut purifier = Purifier::builder(classifier).device(Device::Auto).build()?;
//! let purified = purifier.purify(&Picture::open("cat.png")?)?;
//! println!("{:?}: label {} was {}", purified.verdict(), purified.output_label(), purified.input_label());
//! purified.save("purified.png")?;
//! # Ok(())
//! # }
//! ```

mod classifier;
mod device;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

pub use self::classifier::{Classifier, ClassifierOptions, SidecarChoice};
pub use self::device::{Backends, Device, OpenDevices};
use crate::attack::adaptive::{Adaptive, Defended};
use crate::attack::{Loss, Slope, Victim};
use crate::backend::{Backend, Precision};
use crate::defense::{DeviceDefense, Options, Oracle, Prober, Reading, ReconstructOptions};
use crate::dip::Preset;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::scheduler::{self, Feed, Limits, Plan, Purified, Usage};

/// The classifier's pictures are RGB.
const CHANNELS: usize = 3;

/// The defense of one classifier on one or more devices.
///
/// It owns everything that it needs, and can be kept in a struct and sent to another thread. A picture's result
/// depends, bit by bit, only on the picture and the options: not on the other pictures of a call, the number
/// of devices or threads, or what was purified before.
pub struct Purifier {
    classifier: Arc<Classifier>,
    options: Options,
    engines: Engines,
}

impl std::fmt::Debug for Purifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purifier")
            .field("classifier", &self.classifier.path())
            .field("devices", &self.devices())
            .field("options", &self.options)
            .finish()
    }
}

/// The defenses of all devices, one for each.
struct Engines {
    defenses: Vec<Box<dyn DeviceDefense>>,
    /// The plan of each device.
    plans: Vec<Plan>,
    precision: Precision,
}

impl Purifier {
    /// A builder of the defense of a classifier, with all defaults.
    pub fn builder(classifier: impl Into<Arc<Classifier>>) -> PurifierBuilder {
        PurifierBuilder {
            classifier: classifier.into(),
            options: Options::new(ReconstructOptions::preset(Preset::Tiles, CHANNELS)),
            seed: None,
            iterations: None,
            restarts: None,
            always: None,
            devices: Chosen::Device(Device::Auto),
            precision: None,
            limits: Limits::default(),
            interrupt: Arc::default(),
        }
    }

    /// The classifier.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// The classifier, shared with the purifier.
    pub fn shared_classifier(&self) -> Arc<Classifier> {
        self.classifier.clone()
    }

    /// Every option of the defense.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The devices' names.
    pub fn devices(&self) -> Vec<String> {
        self.engines
            .defenses
            .iter()
            .map(|defense| defense.name())
            .collect()
    }

    /// How many pictures and networks each device holds at once.
    pub fn plans(&self) -> &[Plan] {
        &self.engines.plans
    }

    /// What the DIP networks compute in.
    pub fn precision(&self) -> Precision {
        self.engines.precision
    }

    /// Images classified so far, on all devices.
    pub fn classified(&self) -> u64 {
        let defenses = self.engines.defenses.iter();
        defenses.map(|defense| defense.oracle().classified()).sum()
    }

    /// Purifies a picture of any size; it is first preprocessed for the classifier.
    ///
    /// # Errors
    /// The picture cannot be preprocessed, or the classifier's logits for it are not numbers; the device's
    /// errors.
    pub fn purify(&mut self, picture: &Picture) -> Result<Purified> {
        let mut purified = self.purify_batch(std::slice::from_ref(picture))?;
        purified.pop().expect("a result for every picture")
    }

    /// Purifies pictures of any sizes on all devices together; the results are in the pictures' order.
    ///
    /// # Errors
    /// The last device failed. Errors of single pictures, as in [`purify`](Self::purify), are in their results.
    pub fn purify_batch(&mut self, pictures: &[Picture]) -> Result<Vec<Result<Purified>>> {
        let results: Vec<Mutex<Option<Result<Purified>>>> =
            pictures.iter().map(|_| Mutex::new(None)).collect();
        let numbered = pictures.iter().enumerate();
        let (_, ended) = self.purify_stream(
            numbered.map(|(i, picture)| (i, Ok(picture.clone()))),
            &|| false,
            || {},
            |i, purified, _| {
                *results[i].lock().expect("no thread panics with a result") = Some(purified);
                Ok(())
            },
        );
        ended?;
        let results = results.into_iter().map(|result| {
            let result = result.into_inner().expect("no thread panics with a result");
            result.expect("a run that ends without an error has given every result")
        });
        Ok(results.collect())
    }

    /// Purifies a stream of pictures with continuous batching: each begins when it arrives, if there is room, and
    /// is given to `done` when it is finished, while the others run on. `done` takes the picture's name, its result
    /// and its share of the device's time in seconds; several threads may call it at once. `intake_ended` is called
    /// once, when the devices have taken all pictures or the run ends early; `stop` ends the run early. The result
    /// has the run's times besides, also where it failed.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if `stop` ended it; the first error of `done`; the last device's error.
    pub fn purify_stream<T: Send>(
        &mut self,
        pictures: impl Iterator<Item = (T, Result<Picture>)> + Send,
        stop: &(dyn Fn() -> bool + Sync),
        intake_ended: impl FnOnce(),
        done: impl Fn(T, Result<Purified>, f64) -> Result<()> + Sync,
    ) -> (Usage, Result<()>) {
        let preprocess = self.classifier.preprocess();
        let prepared = pictures.map(|(name, picture)| {
            let picture = picture.and_then(|picture| preprocess.apply(picture));
            (name, picture)
        });
        scheduler::run(
            &mut self.engines.defenses,
            prepared,
            stop,
            intake_ended,
            done,
        )
    }

    /// Purifies what a feed gives, with continuous batching, until it has no more: for callers that choose which
    /// picture is next, give pictures a seed of their own, or take some back. See [`Feed`].
    ///
    /// The feed's pictures must have the classifier's size: `classifier().preprocess().apply(picture)`.
    ///
    /// # Errors
    /// The devices' threads cannot be started. What devices fail of goes to [`Feed::lost`].
    pub fn serve<T: Send>(&mut self, feed: &impl Feed<T>) -> Result<Usage> {
        scheduler::serve(&mut self.engines.defenses, feed)
    }

    /// Classifies pictures of any size, without purification.
    ///
    /// # Errors
    /// A picture cannot be preprocessed, or its logits are not numbers; the device's errors. No picture is
    /// classified then.
    pub fn classify(&mut self, pictures: &[Picture]) -> Result<Vec<Reading>> {
        let preprocess = self.classifier.preprocess();
        let prepared = pictures
            .iter()
            .map(|picture| preprocess.apply(picture.clone()));
        let prepared: Vec<Picture> = prepared.collect::<Result<_>>()?;
        let images: Vec<&[f32]> = prepared.iter().map(|picture| &picture.pixels[..]).collect();
        let readings = self.oracle().classify(&images)?;
        readings.iter().try_for_each(Reading::check)?;
        Ok(readings)
    }

    /// The loss of each picture, which must have the classifier's size, and its gradient by the pixels: through
    /// the classifier alone or, if `through` is given, through the classifier behind the defense.
    ///
    /// # Errors
    /// A picture of another size; a loss that the classifier does not have; 0 draws; the device's errors.
    pub fn gradient(
        &mut self,
        pictures: &[Picture],
        losses: &[Loss],
        through: Option<Adaptive>,
    ) -> Result<Vec<Slope>> {
        let shape = self.classifier.shape();
        if let Some(picture) = pictures.iter().find(|picture| picture.shape != shape) {
            return Err(Error::invalid(format!(
                "a picture of {} where gradients need the classifier's {shape}",
                picture.shape
            )));
        }
        if pictures.len() != losses.len() {
            return Err(Error::invalid(format!(
                "{} losses for {} pictures",
                losses.len(),
                pictures.len()
            )));
        }
        pictures.iter().try_for_each(Picture::check)?;
        let classes = self.classifier.classes();
        losses.iter().try_for_each(|loss| loss.validate(classes))?;
        let images: Vec<&[f32]> = pictures.iter().map(|picture| &picture.pixels[..]).collect();
        match through {
            Some(through) => Defended::new(self.defense(), through)?.gradient(&images, losses),
            None => crate::attack::Classifier::new(self.oracle()).gradient(&images, losses),
        }
    }

    /// The classifier alone, on the first device.
    #[doc(hidden)] // for the crate's own benchmarks
    pub fn oracle(&mut self) -> &mut dyn Oracle {
        self.defense().oracle_mut()
    }

    /// The defense on the first device, for attacks, evaluations and traces.
    #[doc(hidden)] // for the crate's own benchmarks
    pub fn defense(&mut self) -> &mut dyn DeviceDefense {
        &mut *self.engines.defenses[0]
    }
}

/// Builds a [`Purifier`].
///
/// The order of its calls does not matter, but that the last of those about one thing holds: [`seed`](Self::seed),
/// [`iterations`](Self::iterations), [`restarts`](Self::restarts) and [`always`](Self::always) change what
/// [`preset`](Self::preset) or [`options`](Self::options) says, and of these two the last holds.
#[must_use = "a builder does nothing before build()"]
pub struct PurifierBuilder {
    classifier: Arc<Classifier>,
    options: Options,
    seed: Option<u64>,
    iterations: Option<u32>,
    restarts: Option<usize>,
    always: Option<bool>,
    devices: Chosen,
    precision: Option<Precision>,
    limits: Limits,
    interrupt: Arc<AtomicBool>,
}

/// The devices that a purifier runs on.
enum Chosen {
    Device(Device),
    Opened(OpenDevices),
    Own(Box<dyn OwnBackend>),
}

impl PurifierBuilder {
    /// Sets the preset of the DIP networks, and the iterations, restarts and tiles that go with it; keeps the options
    /// of all other stages.
    pub fn preset(mut self, preset: Preset) -> Self {
        self.options.reconstruct = ReconstructOptions::preset(preset, CHANNELS);
        self
    }

    /// The seed of the first restart; restart `r` has `seed + r`.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Iterations of each restart, at least 1; where the probe interval is more, it becomes as many.
    pub fn iterations(mut self, iterations: u32) -> Self {
        self.iterations = Some(iterations);
        self
    }

    /// Restarts of each picture, each with a seed of its own; at least 1.
    pub fn restarts(mut self, restarts: usize) -> Self {
        self.restarts = Some(restarts);
        self
    }

    /// Whether to purify pictures with the verdict `clean` too.
    pub fn always(mut self, always: bool) -> Self {
        self.always = Some(always);
        self
    }

    /// Sets every option of the defense at once.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The devices to compute on.
    pub fn device(mut self, device: Device) -> Self {
        self.devices = Chosen::Device(device);
        self
    }

    /// Devices that are open already.
    pub fn devices(mut self, devices: OpenDevices) -> Self {
        self.devices = Chosen::Opened(devices);
        self
    }

    /// A backend of the caller, in place of this crate's.
    pub fn backend<B: Backend + 'static>(mut self, backend: B) -> Self {
        self.devices = Chosen::Own(Box::new(backend));
        self
    }

    /// Precision of the DIP networks' wide convolutions, float32 by default; only for devices that
    /// [`device`](Self::device) opens.
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }

    /// Pictures in flight on each device, from 1 to 1,024; by default as many as keep its instances busy, and never
    /// more than those.
    pub fn pictures(mut self, pictures: usize) -> Self {
        self.limits.pictures = Some(pictures);
        self
    }

    /// DIP instances that run at once on each device, at least 1; by default as many as it runs well.
    pub fn capacity(mut self, instances: usize) -> Self {
        self.limits.capacity = Some(instances);
        self
    }

    /// Bytes of memory that the devices share; by default what is free. Only for the processor, because a GPU has
    /// memory of its own, and not for devices that are open already.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.limits.memory = Some(bytes);
        self
    }

    /// While `flag` is true, every call ends with [`Error::Interrupted`] at its next checkpoint or batch, and the
    /// pictures in flight are dropped; the purifier stays usable.
    pub fn interrupt(mut self, flag: Arc<AtomicBool>) -> Self {
        self.interrupt = flag;
        self
    }

    /// Opens the devices, loads the classifier on each, and allocates the memory for the pictures in flight.
    ///
    /// # Errors
    /// An option that cannot be used, a device that does not exist, or too little memory for a single picture.
    pub fn build(self) -> Result<Purifier> {
        let options = self.whole_options();
        options.validate()?;
        let PurifierBuilder {
            classifier,
            devices,
            precision,
            limits,
            interrupt,
            ..
        } = self;
        let theirs = |option: &str| {
            let text = "is not for devices that are open already: they have theirs";
            Err(Error::option(option, text))
        };
        let engines = match devices {
            Chosen::Device(device) => {
                let open = device.open(precision.unwrap_or_default(), limits.memory)?;
                open.engines(&classifier, &options, limits, &interrupt)?
            }
            _ if precision.is_some() => return theirs("precision"),
            Chosen::Opened(_) if limits.memory.is_some() => return theirs("memory"),
            Chosen::Opened(open) => open.engines(&classifier, &options, limits, &interrupt)?,
            Chosen::Own(backend) => backend.engines(&classifier, &options, limits, &interrupt)?,
        };
        Ok(Purifier {
            classifier,
            options,
            engines,
        })
    }
}

impl PurifierBuilder {
    /// The options, with what was set one by one.
    fn whole_options(&self) -> Options {
        let mut options = self.options.clone();
        let reconstruct = &mut options.reconstruct;
        reconstruct.seed = self.seed.unwrap_or(reconstruct.seed);
        reconstruct.restarts = self.restarts.unwrap_or(reconstruct.restarts);
        if let Some(iterations) = self.iterations {
            reconstruct.iterations = iterations;
            reconstruct.probe_interval = reconstruct.probe_interval.min(iterations.max(1));
        }
        options.always = self.always.unwrap_or(options.always);
        options
    }
}

impl OpenDevices {
    fn engines(
        self,
        classifier: &Classifier,
        options: &Options,
        limits: Limits,
        interrupt: &Arc<AtomicBool>,
    ) -> Result<Engines> {
        let limits = Limits {
            memory: self.memory,
            ..limits
        };
        match &self.backends {
            Backends::Cpu(backends) => engines(backends, classifier, options, limits, interrupt),
            #[cfg(any(feature = "cuda", feature = "emulator"))]
            Backends::Cuda(backends) => engines(backends, classifier, options, limits, interrupt),
        }
    }
}

/// A caller's backend, without its type.
trait OwnBackend: Send {
    fn engines(
        &self,
        classifier: &Classifier,
        options: &Options,
        limits: Limits,
        interrupt: &Arc<AtomicBool>,
    ) -> Result<Engines>;
}

impl<B: Backend + 'static> OwnBackend for B {
    fn engines(
        &self,
        classifier: &Classifier,
        options: &Options,
        limits: Limits,
        interrupt: &Arc<AtomicBool>,
    ) -> Result<Engines> {
        engines(
            std::slice::from_ref(self),
            classifier,
            options,
            limits,
            interrupt,
        )
    }
}

/// A defense on each of `backends`.
fn engines<B: Backend + 'static>(
    backends: &[B],
    classifier: &Classifier,
    options: &Options,
    limits: Limits,
    interrupt: &Arc<AtomicBool>,
) -> Result<Engines> {
    let (shape, classes) = (classifier.shape(), classifier.classes());
    let first = backends.first().ok_or_else(device::none)?;
    let mut engines = Engines {
        defenses: Vec::new(),
        plans: Vec::new(),
        precision: first.precision(),
    };
    for backend in backends {
        let plan = Plan::new(backend, options, shape, classes, limits)?;
        let prober = classifier
            .prober(backend)?
            .interrupted_by(interrupt.clone());
        let (plan, defense) = plan.defense(prober, options.clone())?;
        engines.plans.push(plan);
        engines.defenses.push(Box::new(defense));
    }
    Ok(engines)
}

impl Classifier {
    /// The classifier on a device, with memory for as many images as the device classifies well at once.
    fn prober<B: Backend>(&self, backend: &B) -> Result<Prober<B, B::Classifier>> {
        let batch = backend.classifier_batch();
        let engine = backend.classifier(self.graph(), batch)?;
        Prober::new(backend.clone(), engine, batch)
    }

    /// The classifier alone, on the first of `devices`.
    ///
    /// # Errors
    /// The device's errors.
    pub fn on(&self, devices: &OpenDevices) -> Result<Box<dyn Oracle>> {
        fn first<B>(backends: &[B]) -> Result<&B> {
            backends.first().ok_or_else(device::none)
        }
        Ok(match &devices.backends {
            Backends::Cpu(backends) => Box::new(self.prober(first(backends)?)?),
            #[cfg(any(feature = "cuda", feature = "emulator"))]
            Backends::Cuda(backends) => Box::new(self.prober(first(backends)?)?),
        })
    }
}

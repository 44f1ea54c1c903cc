//! A purifier as Python sees it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use backstitch::attack::adaptive::Adaptive;
use backstitch::attack::{Aim, Loss};
use backstitch::cli::settings::{Settings, Value};
use backstitch::defense::{PathOutcome, Reading, TrajectoryPoint, Verdict};
use backstitch::input::Layout;
use backstitch::purifier::Classifier;
use backstitch::run::ImageRecord;
use backstitch::trace::Trace;
use backstitch::{Error, Picture, Purified, Purifier, Result};
use clap::ValueEnum;
use numpy::{PyArray1, PyArrayDyn, PyReadonlyArray2};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict, PyList, PyTuple};

use crate::arrays::{Pictures, pictures, stacked};
use crate::call::{Progress, Shared};
use crate::errors::{ForkError, line, raised};

type Floats<'py> = Bound<'py, PyArrayDyn<f32>>;

/// A purifier, and what it takes to keep Python's other threads running while it computes.
#[pyclass(frozen, module = "backstitch._backstitch")]
pub(crate) struct Engine {
    shared: Shared,
    classifier: Arc<Classifier>,
    settings: Settings,
    /// The options of the defense as JSON.
    options: String,
    devices: Vec<String>,
    /// The process that made it: threads do not survive a fork.
    process: u32,
}

/// What became of one picture.
#[pyclass(frozen, get_all, module = "backstitch._backstitch")]
pub(crate) struct Row {
    /// Why it failed; everything else is then empty.
    error: Option<String>,
    input_label: Option<usize>,
    label: Option<usize>,
    recovered_label: Option<usize>,
    verdict: Option<&'static str>,
    score: Option<f64>,
    /// The line of `results.jsonl`, without a name.
    record: Option<String>,
    trajectory: Vec<Py<Path>>,
}

/// The reconstructions of one path, as far as they were probed.
#[pyclass(frozen, get_all, module = "backstitch._backstitch")]
pub(crate) struct Path {
    /// The restart's seed; `None` for the consensus.
    seed: Option<u64>,
    iterations: Vec<u32>,
    labels: Vec<usize>,
    confidences: Vec<f64>,
    psnr: Vec<f64>,
}

/// A picture's results, before they are Python's.
struct Done {
    pixels: Vec<f32>,
    output: Reading,
    input_label: usize,
    recovered_label: Option<usize>,
    verdict: Verdict,
    score: f64,
    record: String,
    paths: Vec<Path>,
}

#[pymethods]
impl Engine {
    #[new]
    fn new(
        py: Python<'_>,
        classifier: PathBuf,
        settings: &Bound<'_, PyDict>,
        eight_bit: bool,
    ) -> PyResult<Engine> {
        // Python's own log, in place of the command line's. A second purifier finds it there.
        let _ = pyo3_log::try_init();
        process_is(process_of_first_engine())?;
        let mut given = Vec::new();
        for (name, value) in settings {
            if let Some(value) = setting(&value)? {
                given.push((name.extract::<String>()?, value));
            }
        }
        let settings = Settings::read(&classifier, given).map_err(raised)?;
        py.detach(|| Engine::open(settings, eight_bit))
            .map_err(raised)
    }

    /// The classifier's file.
    #[getter]
    fn classifier(&self) -> PathBuf {
        self.classifier.path().to_owned()
    }

    /// Height and width of the classifier's pictures.
    #[getter]
    fn size(&self) -> (usize, usize) {
        let shape = self.classifier.shape();
        (shape.height, shape.width)
    }

    #[getter]
    fn classes(&self) -> usize {
        self.classifier.classes()
    }

    #[getter]
    fn devices(&self) -> Vec<String> {
        self.devices.clone()
    }

    #[getter]
    fn preset(&self) -> String {
        let preset = self.settings.defense.preset.to_possible_value();
        preset.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Every option of the defense, as JSON.
    #[getter]
    fn options(&self) -> String {
        self.options.clone()
    }

    /// The outputs as an array, their logits, a row each, and whether the input has channels last.
    #[pyo3(signature = (x, layout, progress))]
    fn purify<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        layout: Option<&str>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Floats<'py>, Floats<'py>, Vec<Row>, bool)> {
        let Pictures {
            pictures,
            interleaved,
        } = self.read(x, layout)?;
        let done = self.shared.call(py, progress, |purifier, progress| {
            purify(purifier, pictures, progress)
        })?;
        let good = || done.iter().map(|done| done.as_ref().ok());
        let pixels = good().map(|done| done.map(|done| &done.pixels[..]));
        let images = stacked(py, pixels, &self.image_shape())?;
        let logits = good().map(|done| done.map(|done| done.output.logits()));
        let logits = stacked(py, logits, &[self.classes()])?;
        let rows = done
            .into_iter()
            .map(|done| row(py, done))
            .collect::<PyResult<_>>()?;
        Ok((images, logits, rows, interleaved))
    }

    /// The logits of pictures, without purification.
    fn classify<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        layout: Option<&str>,
    ) -> PyResult<Floats<'py>> {
        let pictures = self.read(x, layout)?.all()?;
        let readings = self
            .shared
            .call(py, None, move |purifier, _| purifier.classify(&pictures))?;
        stacked(
            py,
            readings.iter().map(|reading| Some(reading.logits())),
            &[self.classes()],
        )
    }

    /// Gradients of the loss by the pixels, the losses, the logits, and whether the input has channels last.
    ///
    /// The loss of a picture is the cross-entropy of its label or, where `weights` has a row for each picture, the
    /// sum of its logits times these weights.
    #[pyo3(signature = (x, layout, labels, weights, through, draws, seeds))]
    #[expect(clippy::too_many_arguments, reason = "they are Python's keywords")]
    fn gradient<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        layout: Option<&str>,
        labels: Option<Vec<usize>>,
        weights: Option<PyReadonlyArray2<'py, f32>>,
        through: Option<&str>,
        draws: u32,
        seeds: &str,
    ) -> PyResult<(Floats<'py>, Bound<'py, PyArray1<f64>>, Floats<'py>, bool)> {
        let read = self.read(x, layout)?;
        let interleaved = read.interleaved;
        let pictures = read.all()?;
        let through = through.map(|rule| {
            Ok::<_, Error>(Adaptive {
                rule: choice("through", rule)?,
                draws,
                seeds: choice("attacker_seeds", seeds)?,
            })
        });
        let through: Option<Adaptive> = through.transpose().map_err(raised)?;
        let mut losses: Vec<Loss> = labels.into_iter().flatten().map(away_from).collect();
        if let Some(weights) = weights {
            let rows = weights.as_array();
            losses.extend(rows.outer_iter().map(|row| Loss::Linear {
                weights: row.iter().copied().collect(),
            }));
        }
        let slopes = self.shared.call(py, None, move |purifier, _| {
            purifier.gradient(&pictures, &losses, through)
        })?;
        let gradients = slopes.iter().map(|slope| Some(&slope.gradient[..]));
        let gradients = stacked(py, gradients, &self.image_shape())?;
        let logits = slopes.iter().map(|slope| Some(slope.reading.logits()));
        let logits = stacked(py, logits, &[self.classes()])?;
        let losses = PyArray1::from_iter(py, slopes.iter().map(|slope| slope.loss));
        Ok((gradients, losses, logits, interleaved))
    }

    /// The drawing of a picture's trace as SVG and PNG, and its numbers as JSON.
    fn trace<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        layout: Option<&str>,
        label: Option<usize>,
        name: String,
    ) -> PyResult<(String, Bound<'py, PyBytes>, String)> {
        let mut pictures = self.read(x, layout)?.all()?;
        let (Some(picture), true) = (pictures.pop(), pictures.is_empty()) else {
            return Err(raised(Error::invalid("a trace is of one picture")));
        };
        let (settings, interrupt) = (self.settings.clone(), self.shared.interrupt.clone());
        let (svg, png, json) = self.shared.call(py, None, move |purifier, _| {
            let picture = purifier.classifier().preprocess().apply(picture)?;
            let builder = settings.builder(|options| {
                options.clone_from(purifier.options());
                options.whole_maps = true;
            })?;
            let mut purifier = builder.pictures(1).interrupt(interrupt).build()?;
            let purified = purifier.purify(&picture)?;
            let trace = Trace {
                image: &name,
                picture: &picture,
                truth: label,
                outcome: &purified.outcome,
                classes: None,
            };
            let svg = trace.svg();
            let png = backstitch::trace::png(&svg)?;
            Ok((svg, png, trace.json().to_string()))
        })?;
        Ok((svg, PyBytes::new(py, &png), json))
    }
}

impl Engine {
    fn open(settings: Settings, eight_bit: bool) -> Result<Engine> {
        let pool = settings.place.threads.map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
            let refused =
                |error| Error::option("threads", format!("{threads} cannot be started: {error}"));
            pool.build().map(Arc::new).map_err(refused)
        });
        let pool = pool.transpose()?;
        let interrupt = Arc::default();
        let build = || {
            let builder = settings.builder(|options| options.eight_bit = eight_bit)?;
            builder.interrupt(Arc::clone(&interrupt)).build()
        };
        let purifier = match &pool {
            Some(pool) => pool.install(build),
            None => build(),
        }?;
        Ok(Engine {
            classifier: purifier.shared_classifier(),
            options: serde_json::to_string(purifier.options()).unwrap_or_default(),
            devices: purifier.devices(),
            settings,
            shared: Shared {
                purifier: Arc::new(Mutex::new(purifier)),
                pool,
                interrupt,
            },
            process: std::process::id(),
        })
    }

    /// Copies pictures.
    fn read(&self, x: &Bound<'_, PyAny>, layout: Option<&str>) -> PyResult<Pictures> {
        process_is(self.process)?;
        let layout = layout.map(|layout| choice::<Layout>("layout", layout));
        pictures(x, layout.transpose().map_err(raised)?)
    }

    fn image_shape(&self) -> [usize; 3] {
        let shape = self.classifier.shape();
        [shape.channels, shape.height, shape.width]
    }
}

/// The process in which the first purifier was made, or is now.
fn process_of_first_engine() -> u32 {
    static FIRST: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *FIRST.get_or_init(std::process::id)
}

/// Fails in a child that was forked from process `parent`: it has not the threads that compute.
fn process_is(parent: u32) -> PyResult<()> {
    match std::process::id() == parent {
        true => Ok(()),
        false => Err(ForkError::new_err(
            "this process was forked from one that had used backstitch, and has not its threads; start processes \
             with multiprocessing's \"spawn\"",
        )),
    }
}

/// A setting's value; `None` stands for the default.
fn setting(value: &Bound<'_, PyAny>) -> PyResult<Option<Value>> {
    if value.is_none() {
        return Ok(None);
    }
    if let Ok(value) = value.cast::<PyBool>() {
        return Ok(Some(Value::Bool(value.is_true())));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let items = value.try_iter()?.map(|item| Ok(item?.str()?.to_string()));
        return Ok(Some(Value::List(items.collect::<PyResult<_>>()?)));
    }
    if let Ok(path) = value.extract::<OsString>() {
        return Ok(Some(Value::Text(path)));
    }
    match value.extract::<PathBuf>() {
        Ok(path) => Ok(Some(Value::Text(path.into()))),
        Err(_) => Ok(Some(Value::Text(value.str()?.to_string().into()))),
    }
}

/// The value that a word names.
fn choice<T: ValueEnum>(name: &str, word: &str) -> Result<T> {
    T::from_str(word, false).map_err(|_| {
        let values = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        Error::option(
            name,
            format!("cannot be {word:?}: write one of {}", names.join(", ")),
        )
    })
}

fn away_from(label: usize) -> Loss {
    Loss::CrossEntropy(Aim::AwayFrom(label))
}

/// Purifies pictures; the results are in their order.
fn purify(
    purifier: &mut Purifier,
    pictures: Vec<Result<Picture>>,
    progress: &Progress,
) -> Result<Vec<Result<Done>>> {
    let results: Vec<Mutex<Option<Result<Done>>>> =
        pictures.iter().map(|_| Mutex::new(None)).collect();
    let named = pictures.into_iter().enumerate();
    let (_, ended) = purifier.purify_stream(
        named,
        &|| false,
        || {},
        |i, purified, seconds| {
            let done = purified.map(|purified| Done::new(purified, seconds));
            *results[i]
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(done);
            progress.done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        },
    );
    ended?;
    let results = results.into_iter().map(|result| {
        let result = result
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        result.unwrap_or(Err(Error::Interrupted))
    });
    Ok(results.collect())
}

impl Done {
    fn new(purified: Purified, seconds: f64) -> Done {
        let record = ImageRecord::unnamed(&purified, seconds);
        let outcome = purified.outcome;
        let paths = outcome.restarts.iter().chain(&outcome.consensus);
        let paths = paths.zip(&outcome.map.trajectories).map(path).collect();
        Done {
            input_label: outcome.input.label(),
            recovered_label: outcome.recovered_label,
            verdict: outcome.verdict,
            score: outcome.score,
            record: serde_json::to_string(&record).unwrap_or_default(),
            paths,
            output: outcome.output,
            pixels: outcome.pixels,
        }
    }
}

fn path((outcome, trajectory): (&PathOutcome, &Vec<TrajectoryPoint>)) -> Path {
    let points = trajectory.iter();
    Path {
        seed: outcome.seed,
        iterations: points.clone().map(|point| point.iteration).collect(),
        labels: points.clone().map(|point| point.reading.label()).collect(),
        confidences: points
            .clone()
            .map(|point| point.reading.confidence())
            .collect(),
        psnr: points.map(|point| point.psnr).collect(),
    }
}

fn row(py: Python<'_>, done: Result<Done>) -> PyResult<Row> {
    Ok(match done {
        Ok(done) => Row {
            error: None,
            input_label: Some(done.input_label),
            label: Some(done.output.label()),
            recovered_label: done.recovered_label,
            verdict: Some(done.verdict.name()),
            score: Some(done.score),
            record: Some(done.record),
            trajectory: done
                .paths
                .into_iter()
                .map(|path| Py::new(py, path))
                .collect::<PyResult<_>>()?,
        },
        Err(error) => Row {
            error: Some(line(&error)),
            input_label: None,
            label: None,
            recovered_label: None,
            verdict: None,
            score: None,
            record: None,
            trajectory: Vec::new(),
        },
    })
}

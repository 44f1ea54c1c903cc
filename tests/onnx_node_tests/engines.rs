//! Runs a wrapped test on the float64 reference, on the cpu engine, and on the cuda engine where this
//! build has the emulator.

use std::path::Path;

use backstitch::backend::cpu::CpuBackend;
use backstitch::backend::reference::ReferenceClassifier;
use backstitch::backend::{At, Backend, ClassifierEngine};
use backstitch::classifier::{Graph, LoadOptions, onnx};
use prost::Message;

use crate::case::Wrapped;

/// How a run ended.
pub(crate) enum Outcome {
    Passed,
    /// The importer refused it, saying this.
    Refused(String),
    /// It was run, and gave other numbers.
    Wrong(String),
}

/// Largest error of a number, in multiples of the type's relative distance between neighbors and of
/// the tensor's largest number.
///
/// Each rounding loses up to half of that distance, and the longest sums of the tests have some
/// hundred terms, whose roundings add up as their square root; an elementary function loses a few
/// distances, and the numbers compared with have errors of the same kind. For float32 it is 4e-6.
const ROUNDINGS: f64 = 32.0;
/// What ONNX's own test runner allows: relative to each number, and absolute.
const ONNX_TOLERANCE: (f64, f64) = (1e-3, 1e-7);

/// Runs a test; the file is put at `path`.
pub(crate) fn run(wrapped: &Wrapped, path: &Path) -> Outcome {
    std::fs::write(path, wrapped.model.encode_to_vec()).unwrap();
    let options = LoadOptions::default();
    let graphs = onnx::import(path, &options)
        .and_then(|imported| Ok([imported, Graph::load(path, &options)?]));
    match graphs {
        Err(error) => Outcome::Refused(error.to_string()),
        Ok([imported, loaded]) => match compare(wrapped, &imported, &loaded) {
            Ok(()) => Outcome::Passed,
            Err(difference) => Outcome::Wrong(difference),
        },
    }
}

fn compare(wrapped: &Wrapped, imported: &Graph, loaded: &Graph) -> Result<(), String> {
    let expected = |what: &str, logits: &[f64]| {
        close(what, logits, &wrapped.expected, wrapped.epsilon)?;
        // The importer holds every float as float32, so what a test rounds to fewer bits it does not.
        let relative = ONNX_TOLERANCE.0.max(wrapped.epsilon / 2.0);
        within(what, logits, &wrapped.expected, |x| {
            relative * x.abs() + ONNX_TOLERANCE.1
        })
    };
    let pixels = wide(&wrapped.pixels);
    let by_logits = weights(wrapped.expected.len());

    let logits = ReferenceClassifier::new(imported).logits_f64(&pixels);
    expected("the graph as imported", &logits.unwrap())?;
    let (logits, by_pixels) = ReferenceClassifier::new(loaded)
        .gradient_f64(&pixels, |_, by| by.copy_from_slice(&wide(&by_logits)))
        .unwrap();
    expected("the graph after all passes", &logits)?;

    let engine = Engine {
        wrapped,
        loaded,
        by_logits: &by_logits,
        logits: &logits,
        by_pixels: &by_pixels,
    };
    engine.compare("the cpu engine", &CpuBackend::FLOAT32, expected)?;
    #[cfg(feature = "emulator")]
    {
        use backstitch::backend::cuda::CudaBackend;
        use backstitch::backend::cuda::driver::emulator::{Emulator, Options};
        let emulator = Emulator::new(Options::default()).unwrap();
        let backend = CudaBackend::new(emulator.device());
        engine.compare("the cuda engine", &backend, expected)?;
    }
    Ok(())
}

/// What an engine has to give.
struct Engine<'a> {
    wrapped: &'a Wrapped,
    loaded: &'a Graph,
    by_logits: &'a [f32],
    /// The reference's.
    logits: &'a [f64],
    by_pixels: &'a [f64],
}

impl Engine<'_> {
    /// Compares a backend's logits and gradient; `expected` holds logits against the test's own.
    fn compare<B: Backend>(
        &self,
        what: &str,
        backend: &B,
        expected: impl Fn(&str, &[f64]) -> Result<(), String>,
    ) -> Result<(), String> {
        let shape = self.loaded.input_shape();
        let mut engine = backend.classifier(self.loaded, 1).unwrap();
        let mut image = backend.allocate(shape, 1).unwrap();
        let mut gradient = backend.allocate(shape, 1).unwrap();
        backend.upload(&self.wrapped.pixels, &mut image, 0).unwrap();
        let images = [At::new(&image, 0)];
        let alone = wide(&engine.logits(&images).unwrap());
        expected(what, &alone)?;
        let mut loss = |_: usize, _: &[f32], by: &mut [f32]| by.copy_from_slice(self.by_logits);
        let again = engine
            .gradient(&images, &mut loss, &mut gradient, 0)
            .unwrap();
        expected(&format!("{what}'s pass with a gradient"), &wide(&again))?;

        let epsilon = f32::EPSILON.into();
        let of = |kind: &str| format!("{what}'s {kind}, by the reference");
        close(&of("logits"), &alone, self.logits, epsilon)?;
        let gradient = backend.download(At::new(&gradient, 0)).unwrap();
        close(&of("gradient"), &wide(&gradient), self.by_pixels, epsilon)
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| x.into()).collect()
}

/// Derivatives of the loss by the logits: spread over −1 to 1 without a pattern, as a normalization's
/// gradient for some patterns is nothing but rounding errors.
fn weights(n: usize) -> Vec<f32> {
    let golden = 0.618_034;
    (1..=n)
        .map(|i| 2.0 * (golden * (i * i) as f32).fract() - 1.0)
        .collect()
}

/// Checks numbers by the largest among those wanted. What float32 holds as infinite or not a number
/// must be just that.
fn close(what: &str, got: &[f64], want: &[f64], epsilon: f64) -> Result<(), String> {
    let finite = want.iter().filter(|x| x.is_finite());
    let largest = finite.fold(0.0, |m: f64, x| m.max(x.abs()));
    within(what, got, want, |_| ROUNDINGS * epsilon * largest)
}

fn within(what: &str, got: &[f64], want: &[f64], bound: impl Fn(f64) -> f64) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{what}: {} numbers, not {}", got.len(), want.len()));
    }
    let narrow = |&x: &f64| f64::from(x as f32);
    let pairs = got.iter().map(narrow).zip(want.iter().map(narrow));
    for (i, (got, want)) in pairs.enumerate() {
        let same = got == want || (got.is_nan() && want.is_nan());
        let error = (got - want).abs();
        if !same && (error.is_nan() || error > bound(want)) {
            return Err(format!("{what}: number {i} is {got}, not {want}"));
        }
    }
    Ok(())
}

//! Throughput of a backend's engines on this machine: what `backstitch bench` prints.
//!
//! Each figure is the median of repeated runs after a warm-up.

#[cfg(feature = "emulator")]
pub(crate) mod end_to_end;
#[cfg(feature = "emulator")]
pub(crate) mod rehearsal;

use std::time::{Duration, Instant};

use crate::backend::{At, Backend, ClassifierEngine, DipEngine, ImageShape, Instance};
use crate::classifier::Graph;
use crate::dip::Preset;
use crate::error::Result;
use crate::random::RandomKey;

/// Side of the picture that image-sized presets are measured on, in pixels.
const PICTURE: usize = 224;
/// Instances of the `cifar` preset.
const CIFAR_INSTANCES: usize = 64;

/// Speed of one preset's optimization.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct PresetFigure {
    pub preset: &'static str,
    /// Size of what each network fits.
    pub tile_width: usize,
    pub tile_height: usize,
    /// DIP networks that the iteration advances.
    pub instances: usize,
    /// Forward, backward and Adam, all instances.
    pub ms_per_iteration: f64,
    /// Arithmetic of the convolutions, in GFLOP/s.
    pub gflops: f64,
}

/// Speed of a classifier.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ClassifierFigure {
    /// Images that run at once.
    pub batch: usize,
    /// Logits, images in batches.
    pub ms_per_image: f64,
    /// Logits, one image at a time.
    pub ms_per_image_batch1: f64,
    /// Logits and input gradient, images in batches.
    pub ms_per_gradient: f64,
    /// What the engine holds, constants and activations, for logits, and once it has given gradients.
    pub mb_for_logits: f64,
    pub mb_for_gradients: f64,
}

/// Measures one preset for about `budget`: `instances` networks, or as many as the device runs well at once if `fill`,
/// or as cover one picture.
pub(crate) fn preset<B: Backend>(
    backend: &B,
    preset: Preset,
    instances: Option<u32>,
    fill: bool,
    budget: Duration,
) -> Result<PresetFigure> {
    let spec = preset.spec(3);
    let tile = preset.tile().unwrap_or(PICTURE);
    let instances = match (instances, preset) {
        (Some(instances), _) => instances as usize,
        (None, _) if fill => backend.dip_capacity(&spec, tile, tile)?,
        (None, Preset::Cifar) => CIFAR_INSTANCES,
        (None, _) => (PICTURE / tile).pow(2),
    };
    let mut engine = backend.dip(&spec, tile, tile, instances)?;
    let shape = ImageShape {
        channels: 3,
        height: tile,
        width: tile,
    };
    let mut targets = backend.allocate(shape, 1)?;
    backend.upload(&pattern(shape), &mut targets, 0)?;
    let loads: Vec<_> = (0..instances)
        .map(|slot| Instance {
            slot,
            target: At::new(&targets, 0),
            key: RandomKey {
                seed: 0,
                image: 0,
                tile: slot as u32,
            },
        })
        .collect();
    engine.load(&loads)?;
    let slots: Vec<usize> = (0..instances).collect();
    let ms_per_iteration = median_ms(budget, |repeats| {
        engine.run(repeats)?;
        // Reading a loss waits for the device.
        engine.losses(&slots[..1]).map(|_| ())
    })?;
    // Backward to data and to weights cost one forward pass each.
    let operations = 3.0 * 2.0 * spec.multiply_adds(tile, tile) as f64 * instances as f64;
    Ok(PresetFigure {
        preset: preset.name(),
        tile_width: tile,
        tile_height: tile,
        instances,
        ms_per_iteration,
        gflops: operations / (ms_per_iteration * 1e6),
    })
}

/// Measures a classifier for about three times `budget`.
pub(crate) fn classifier<B: Backend>(
    backend: &B,
    graph: &Graph,
    budget: Duration,
) -> Result<ClassifierFigure> {
    let images_at_once = backend.classifier_batch();
    let mut classifier = backend.classifier(graph, images_at_once)?;
    let shape = classifier.input_shape();
    let mut images = backend.allocate(shape, images_at_once)?;
    let mut gradients = backend.allocate(shape, images_at_once)?;
    backend.upload(&pattern(shape).repeat(images_at_once), &mut images, 0)?;
    let batch: Vec<_> = (0..images_at_once).map(|i| At::new(&images, i)).collect();
    let per_image = |ms: f64| ms / images_at_once as f64;
    let ms_per_image = median_ms(budget, |repeats| {
        (0..repeats).try_for_each(|_| classifier.logits(&batch).map(|_| ()))
    })?;
    let ms_per_image_batch1 = median_ms(budget, |repeats| {
        (0..repeats).try_for_each(|_| classifier.logits(&batch[..1]).map(|_| ()))
    })?;
    let megabytes = |classifier: &B::Classifier| classifier.bytes() as f64 / 1e6;
    let mb_for_logits = megabytes(&classifier);
    let ms_per_gradient = median_ms(budget, |repeats| {
        (0..repeats).try_for_each(|_| {
            let mut first_logit = |_: usize, _: &[f32], gradient: &mut [f32]| gradient[0] = 1.0;
            classifier
                .gradient(&batch, &mut first_logit, &mut gradients, 0)
                .map(|_| ())
        })
    })?;
    Ok(ClassifierFigure {
        batch: images_at_once,
        ms_per_image: per_image(ms_per_image),
        ms_per_image_batch1,
        ms_per_gradient: per_image(ms_per_gradient),
        mb_for_logits,
        mb_for_gradients: megabytes(&classifier),
    })
}

/// A picture with edges and gradients.
fn pattern(shape: ImageShape) -> Vec<f32> {
    let pixel = |i: usize| {
        let (y, x) = (i / shape.width % shape.height, i % shape.width);
        let edge = if (x / 7 + y / 5).is_multiple_of(2) {
            0.25
        } else {
            0.0
        };
        0.4 + edge + 0.2 * (0.05 * (x + 2 * y) as f32).sin()
    };
    (0..shape.elements()).map(pixel).collect()
}

/// Milliseconds of one repeat: the median over rounds that fill the budget, at least three, each long
/// enough for the clock.
fn median_ms(budget: Duration, mut run: impl FnMut(u32) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    run(1)?;
    let once = Instant::now();
    run(1)?;
    let once = once.elapsed().max(Duration::from_micros(1));
    let repeats = (Duration::from_millis(20).as_secs_f64() / once.as_secs_f64()).ceil() as u32;
    let mut rounds = Vec::new();
    while rounds.len() < 3 || start.elapsed() < budget {
        let round = Instant::now();
        run(repeats)?;
        rounds.push(round.elapsed().as_secs_f64() * 1e3 / f64::from(repeats));
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[rounds.len() / 2])
}

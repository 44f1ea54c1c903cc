//! Continuous batching against fixed batches where verdicts settle early: in a fixed batch all images
//! wait for the slowest.
//!
//! `cargo bench --bench continuous_batching -- [PICTURES [WARM_UP [MODEL.onnx [DATASET]]]]`; verdicts may settle
//! after the part `WARM_UP` of the trajectory, by default 0.1; the model takes 32×32 pictures, by default
//! `../shared/models/cifar-resnet20.onnx`; without a dataset of such pictures they are made, and most of those
//! are named adversarial.

use std::path::PathBuf;
use std::time::Instant;

use backstitch::defense::{Options, Outcome, ReconstructOptions, SettlingOptions};
use backstitch::dip::Preset;
use backstitch::input::Dataset;
use backstitch::picture::rgb;
use backstitch::random::{Purpose, RandomKey};
use backstitch::{Classifier, Device, Picture, Purifier, Verdict};

/// Of a restart that does not end early.
const ITERATIONS: u32 = 2000;
/// Pictures of a round, which both ways purify; so many that the end, where places stay empty, is a small part.
const ROUND: usize = 400;

/// A smooth picture with noise, both of their own strength.
fn picture(number: u64) -> Picture {
    let key = RandomKey {
        image: number,
        ..RandomKey::default()
    };
    let (mut waves, mut noise) = (vec![0.0; 24], vec![0.0; 3 * 32 * 32]);
    key.normal(Purpose::Input, 0, waves.len(), |i, g| waves[i] = g);
    key.normal(Purpose::Jitter, 0, noise.len(), |i, g| noise[i] = g);
    let strength = 0.03 * (number % 4) as f32;
    let pixel = |i: usize| {
        let (channel, y, x) = (i / 1024, i / 32 % 32, i % 32);
        let (y, x) = (y as f32 / 32.0, x as f32 / 32.0);
        let wave = |w: &[f32]| 0.15 * (6.0 * (w[0] * y + w[1] * x) + 3.0 * w[2]).sin();
        let of_channel = &waves[8 * channel..][..8];
        let smooth = 0.5 + wave(&of_channel[..3]) + wave(&of_channel[3..6]) + 0.1 * of_channel[6];
        (smooth + strength * noise[i]).clamp(0.0, 1.0)
    };
    Picture {
        shape: rgb(32, 32),
        pixels: (0..noise.len()).map(pixel).collect(),
        eight_bit: false,
    }
}

fn purifier(classifier: Classifier, warm_up: f64) -> Purifier {
    let mut options = Options::new(ReconstructOptions::preset(Preset::Cifar, 3));
    options.stop_early = Some(SettlingOptions::default());
    // Long trajectories whose warm-up is over soon, so that images end at very different times.
    options.reconstruct.iterations = ITERATIONS;
    options.reconstruct.probe_interval = ITERATIONS / 40;
    options.map.warm_up = warm_up;
    let builder = Purifier::builder(classifier).options(options);
    let builder = builder.device(Device::Cpu(1)).capacity(64);
    builder.build().expect("memory")
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let count = arguments
        .next()
        .map_or(100, |n| n.parse().expect("a number of pictures"));
    let warm_up = (arguments.next()).map_or(0.1, |part| part.parse().expect("a part of 1"));
    let model = arguments.next().map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../shared/models/cifar-resnet20.onnx"
            ))
        },
        PathBuf::from,
    );
    if !model.exists() {
        println!("skipped: {} is not there", model.display());
        return;
    }
    let classifier = Classifier::open(&model).expect("a model");
    let pictures: Vec<Picture> = match arguments.next() {
        None => (0..count).map(picture).collect(),
        Some(path) => {
            let dataset = Dataset::open(&[path.into()], None, None).expect("a dataset");
            let items = dataset.items().take(count as usize);
            items
                .map(|item| dataset.load(&item).expect("a picture"))
                .collect()
        }
    };
    let pictures: Vec<&Picture> = pictures.iter().collect();
    let mut purifier = purifier(classifier, warm_up);
    let defense = purifier.defense();
    let mut purify = |name: &str, pictures: &[&Picture], batch: usize| {
        let start = Instant::now();
        let (mut outcomes, before): (Vec<Outcome>, _) = (vec![], defense.oracle().classified());
        for pictures in pictures.chunks(batch) {
            outcomes.extend(defense.purify(pictures).expect("a device that works"));
        }
        let seconds = start.elapsed().as_secs_f64();
        let mut ends: Vec<u64> = outcomes.iter().map(|o| o.iterations / 4).collect();
        ends.sort_unstable();
        let quantiles = [0, 25, 50, 75, 100].map(|q| ends[(ends.len() - 1) * q / 100]);
        let mean = ends.iter().sum::<u64>() as f64 / ends.len() as f64;
        let adversarial = outcomes
            .iter()
            .filter(|o| o.verdict == Verdict::Adversarial);
        println!(
            "{name}: {:.3} pictures a second, {} of {} adversarial, {mean:.0} of {ITERATIONS} iterations \
             (quartiles {quantiles:?}), {} images classified; {:?}",
            pictures.len() as f64 / seconds,
            adversarial.count(),
            outcomes.len(),
            defense.oracle().classified() - before,
            defense.take_times()
        );
        seconds
    };
    let places = 16;
    let (mut fixed, mut continuous) = (0.0, 0.0);
    // In turns, so that a machine that is slower for a while is so for both.
    for pictures in pictures.chunks(ROUND) {
        fixed += purify("fixed batches", pictures, places);
        continuous += purify("continuous batching", pictures, pictures.len());
    }
    println!("{:.2} times", fixed / continuous);
}

//! The joined stages on a small backend whose classifier is known in closed form: the reference DIP
//! engine and a linear classifier.

use backstitch::backend::host::{HostDevice, HostImages};
use backstitch::backend::reference::ReferenceDip;
use backstitch::backend::{At, Backend, ClassifierEngine, ImageShape, LossGradient};
use backstitch::classifier::Graph;
use backstitch::defense::{
    Fallback, Options, Outcome, Prober, ReconstructOptions, Shown, StitchMode, TrajectoryPoint,
    Verdict,
};
use backstitch::dip::{NetSpec, Padding, Upsample};
use backstitch::error::{Error, Result};
use backstitch::io::Picture;
use backstitch::scheduler::{self, Plan};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 12,
    width: 10,
};

/// Logits: `gain · mean`, `1`, and a hundred times the picture's checkerboard component. A faint
/// checkerboard, which a DIP network fits last, is this classifier's adversarial noise.
struct Linear;

impl Linear {
    fn weights(class: usize, i: usize) -> f64 {
        let n = SHAPE.elements() as f64;
        let sign = if (i / SHAPE.width + i % SHAPE.width).is_multiple_of(2) {
            1.0
        } else {
            -1.0
        };
        match class {
            0 => 4.0 / n,
            1 => 0.0,
            _ => 100.0 * sign / n,
        }
    }
}

impl ClassifierEngine for Linear {
    type Images = HostImages<f64>;

    fn input_shape(&self) -> ImageShape {
        SHAPE
    }
    fn classes(&self) -> usize {
        3
    }
    fn bytes(&self) -> usize {
        0
    }
    fn logits(&mut self, images: &[At<'_, Self::Images>]) -> Result<Vec<f32>> {
        let row = |image: &At<'_, Self::Images>| {
            let pixels = image.pixels();
            [0, 1, 2].map(|class| {
                let sum: f64 = pixels
                    .iter()
                    .enumerate()
                    .map(|(i, x)| x * Self::weights(class, i))
                    .sum();
                (sum + if class == 1 { 1.0 } else { 0.0 }) as f32
            })
        };
        Ok(images.iter().flat_map(row).collect())
    }
    fn gradient(
        &mut self,
        images: &[At<'_, Self::Images>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut Self::Images,
        first: usize,
    ) -> Result<Vec<f32>> {
        let logits = self.logits(images)?;
        for (n, row) in logits.chunks_exact(3).enumerate() {
            let mut by_logit = [0.0; 3];
            loss_gradient(n, row, &mut by_logit);
            for (i, pixel) in out.image_mut(first + n).iter_mut().enumerate() {
                let slopes =
                    (0..3).map(|class| f64::from(by_logit[class]) * Self::weights(class, i));
                *pixel = slopes.sum();
            }
        }
        Ok(logits)
    }
}

struct Toy;

impl HostDevice for Toy {
    type Number = f64;
}

impl Backend for Toy {
    type Dip = ReferenceDip;
    type Classifier = Linear;

    fn name(&self) -> String {
        "toy".into()
    }
    fn dip(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<ReferenceDip> {
        ReferenceDip::new(spec, height, width, capacity)
    }
    fn classifier(&self, _: &Graph, _: usize) -> Result<Linear> {
        Ok(Linear)
    }
    fn dip_capacity(&self, _: &NetSpec, _: usize, _: usize) -> Result<usize> {
        Ok(64)
    }
    fn dip_bytes(&self, _: &NetSpec, _: usize, _: usize, capacity: usize) -> Result<u128> {
        Ok(1000 * capacity as u128)
    }
    fn free_bytes(&self) -> Option<u64> {
        None
    }
}

fn options() -> Options {
    let mut options = Options::new(ReconstructOptions {
        spec: NetSpec {
            input_depth: 1,
            output_channels: 1,
            down: vec![2, 2],
            up: vec![2, 2],
            skip: vec![0, 0],
            upsample: Upsample::Bilinear,
            padding: Padding::Zero,
            learning_rate: 0.02,
            optimise_input: false,
            jitter: 0.0,
            averaging: 0.0,
        },
        tile: Some(8),
        restarts: 3,
        shift: true,
        iterations: 60,
        probe_interval: 5,
        seed: 4,
    });
    options.eight_bit = false;
    options
}

/// A smooth picture of class 0 where `noise` is 0.
fn picture(phase: f32, noise: f32) -> Picture {
    let pixel = |i: usize| {
        let (y, x) = ((i / SHAPE.width) as f32, (i % SHAPE.width) as f32);
        let sign = if (i / SHAPE.width + i % SHAPE.width).is_multiple_of(2) {
            1.0
        } else {
            -1.0
        };
        0.6 + 0.2 * (0.4 * y + 0.3 * x + phase).sin() + noise * sign
    };
    Picture {
        shape: SHAPE,
        pixels: (0..SHAPE.elements()).map(pixel).collect(),
        eight_bit: false,
    }
}

fn purify(options: &Options, wave: usize, capacity: usize, pictures: &[Picture]) -> Vec<Outcome> {
    let prober = Prober::new(&Toy, Linear, 7).unwrap();
    let plan = Plan { wave, capacity };
    let (_, mut defense) = plan.defense(&Toy, prober, options.clone()).unwrap();
    let mut outcomes = Vec::new();
    for wave in pictures.chunks(wave) {
        outcomes.extend(defense.purify(&wave.iter().collect::<Vec<_>>()).unwrap());
    }
    outcomes
}

/// Every number and pixel of an outcome.
fn fingerprint(outcome: &Outcome) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        outcome.pixels,
        outcome.verdict,
        outcome.score,
        outcome.support,
        outcome.fallback,
        outcome.restarts,
        outcome.output.logits(),
    )
}

#[test]
fn noise_is_recognised_and_stepped_back_from() {
    let (clean, noisy) = (picture(0.0, 0.0), picture(0.0, 0.05));
    let outcomes = purify(&options(), 2, 64, &[clean.clone(), noisy.clone()]);
    let [calm, attacked] = &outcomes[..] else {
        panic!("two outcomes")
    };
    assert_eq!(calm.input.label(), 0);
    assert_eq!(calm.verdict, Verdict::Clean);
    assert_eq!(
        calm.pixels, clean.pixels,
        "a clean picture comes back as it was"
    );

    assert_eq!(attacked.input.label(), 2);
    assert_eq!(attacked.verdict, Verdict::Adversarial);
    assert_eq!(attacked.recovered_label, Some(0));
    assert_eq!(attacked.output.label(), 0);
    assert_eq!(attacked.fallback, None);
    assert_eq!(attacked.iterations, 3 * 60);
    for restart in &attacked.restarts {
        assert!(restart.margin.unwrap() >= 1.0, "{restart:?}");
        assert!((0.0..=1.0).contains(&restart.alpha.unwrap()), "{restart:?}");
    }
    // On a linear classifier the boundary on a segment is where the two logits cross.
    let restart = &attacked.restarts[0];
    assert!(restart.boundary.unwrap() > 0.0 && restart.boundary.unwrap() < 1.0);
}

#[test]
fn outcomes_do_not_depend_on_company_wave_or_capacity() {
    let pictures: Vec<Picture> = (0..5)
        .map(|i| picture(i as f32, if i % 2 == 0 { 0.05 } else { 0.0 }))
        .collect();
    let alone: Vec<String> = pictures
        .iter()
        .flat_map(|picture| purify(&options(), 1, 64, std::slice::from_ref(picture)))
        .map(|outcome| fingerprint(&outcome))
        .collect();
    for (wave, capacity) in [(5, 60), (2, 1), (3, 7), (4, 1000)] {
        let together = purify(&options(), wave, capacity, &pictures);
        for (i, outcome) in together.iter().enumerate() {
            assert!(
                fingerprint(outcome) == alone[i],
                "picture {i}, wave {wave}, capacity {capacity}"
            );
        }
    }
}

#[test]
fn a_seed_changes_the_outcome_and_the_same_seed_does_not() {
    let noisy = [picture(0.0, 0.05)];
    let first = purify(&options(), 1, 64, &noisy);
    let again = purify(&options(), 1, 64, &noisy);
    assert_eq!(fingerprint(&first[0]), fingerprint(&again[0]));
    let mut other = options();
    other.reconstruct.seed = 99;
    assert_ne!(
        fingerprint(&purify(&other, 1, 64, &noisy)[0]),
        fingerprint(&first[0])
    );
}

#[test]
fn every_way_to_stitch_gives_the_recovered_label() {
    for mode in [StitchMode::Average, StitchMode::Mosaic] {
        let mut options = options();
        options.stitch.mode = mode;
        options.stitch.cell = 4;
        let outcome = &purify(&options, 1, 64, &[picture(0.0, 0.05)])[0];
        assert_eq!(
            (outcome.output.label(), outcome.fallback),
            (0, None),
            "{mode:?}"
        );
    }
}

#[test]
fn ablations_show_each_stage_and_change_nothing() {
    let options = options();
    let mut ablated = options.clone();
    ablated.ablations = true;
    let pictures = [picture(0.0, 0.05), picture(0.0, 0.0)];
    let plain = purify(&options, 2, 64, &pictures);
    let shown = purify(&ablated, 2, 64, &pictures);
    for (plain, shown) in plain.iter().zip(&shown) {
        assert_eq!(fingerprint(plain), fingerprint(shown));
        assert!(plain.ablations.is_none());
    }
    let attacked = shown[0].ablations.as_ref().unwrap();
    let trajectory = &shown[0].map.trajectories[0];
    let last = &trajectory[trajectory.len() - 1].reading;
    assert_eq!(attacked.reconstruction.reading.logits(), last.logits());
    let is_a_probe =
        |point: &TrajectoryPoint| point.reading.logits() == attacked.early_stop.reading.logits();
    assert!(trajectory.iter().any(is_a_probe));
    // On the boundary the recovered label only just leads; a push widens the lead.
    let margin = |shown: &Shown| shown.reading.margin(0);
    assert!(0.0 < margin(&attacked.boundary) && margin(&attacked.boundary) < 1.0);
    assert!(margin(&attacked.push) >= 1.0);
    let clean = shown[1].ablations.as_ref().unwrap();
    assert_eq!(clean.push.pixels, pictures[1].pixels);
    assert_ne!(clean.reconstruction.pixels, pictures[1].pixels);
}

#[test]
fn undecided_and_forced_pictures_get_a_reconstruction() {
    let mut undecided = options();
    undecided.verdict.clean_below = 0.0;
    undecided.verdict.adversarial_from = 1.0;
    let noisy = picture(0.0, 0.05);
    let outcome = &purify(&undecided, 1, 64, std::slice::from_ref(&noisy))[0];
    assert_eq!(outcome.verdict, Verdict::Undecided);
    assert_ne!(outcome.pixels, noisy.pixels);

    let mut always = options();
    always.always = true;
    let clean = picture(0.0, 0.0);
    let outcome = &purify(&always, 1, 64, std::slice::from_ref(&clean))[0];
    assert_eq!(outcome.verdict, Verdict::Clean);
    assert_ne!(outcome.pixels, clean.pixels);
    assert_ne!(outcome.fallback, Some(Fallback::Reconstruction));
}

#[test]
fn eight_bit_outputs_are_judged_as_they_will_be_stored() {
    let mut options = options();
    options.eight_bit = true;
    let outcome = &purify(&options, 1, 64, &[picture(0.0, 0.05)])[0];
    for pixel in &outcome.pixels {
        let level = pixel * 255.0;
        assert!((level - level.round()).abs() < 1e-4);
    }
}

#[test]
fn the_scheduler_keeps_order_and_passes_unreadable_pictures_on() {
    let prober = Prober::new(&Toy, Linear, 8).unwrap();
    let plan = Plan::new(&Toy, &options(), SHAPE, 3, Some(30)).unwrap();
    // 12×10 in tiles of 8: four tiles, three restarts.
    assert_eq!(
        plan,
        Plan {
            wave: 2,
            capacity: 30
        }
    );
    let (_, mut defense) = plan.defense(&Toy, prober, options()).unwrap();
    let pictures = (0..5).map(|i| {
        let readable = if i == 2 {
            Err(Error::invalid("torn"))
        } else {
            Ok(picture(i as f32, 0.0))
        };
        (i, readable)
    });
    let mut seen = Vec::new();
    scheduler::run(&mut defense, pictures, &|| false, |name, outcome, _| {
        seen.push((name, outcome.is_ok()));
        Ok(())
    })
    .unwrap();
    assert_eq!(
        seen,
        [(0, true), (1, true), (2, false), (3, true), (4, true)]
    );
}

#[test]
fn a_stopped_run_says_so() {
    let prober = Prober::new(&Toy, Linear, 8).unwrap();
    let plan = Plan {
        wave: 1,
        capacity: 12,
    };
    let (_, mut defense) = plan.defense(&Toy, prober, options()).unwrap();
    let pictures = (0..3).map(|i| (i, Ok(picture(i as f32, 0.0))));
    let done = std::sync::atomic::AtomicUsize::new(0);
    let stop = || done.load(std::sync::atomic::Ordering::Relaxed) > 0;
    let result = scheduler::run(&mut defense, pictures, &stop, |_, _, _| {
        done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(done.into_inner(), 1);
}

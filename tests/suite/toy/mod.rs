//! A small backend whose classifier is known in closed form: the reference DIP engine and a linear
//! classifier.

use backstitch::backend::host::{HostDevice, HostImages};
use backstitch::backend::reference::ReferenceDip;
use backstitch::backend::{
    At, Backend, ClassifierEngine, DipEngine, ImageShape, Instance, LossGradient,
};
use backstitch::classifier::Graph;
use backstitch::defense::{Defense, DeviceDefense, Options, Outcome, Prober, ReconstructOptions};
use backstitch::dip::{NetSpec, Padding, Upsample};
use backstitch::error::{Error, Result};
use backstitch::picture::Picture;
use backstitch::scheduler::Plan;

pub(crate) const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 12,
    width: 10,
};

/// Logits: `gain · mean`, `1`, and a hundred times the picture's checkerboard component. A faint
/// checkerboard, which a DIP network fits last, is this classifier's adversarial noise.
pub(crate) struct Linear;

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

/// The backend. It can be told to fail.
#[derive(Clone)]
pub(crate) struct Toy {
    /// Calls of the DIP engine's `run` that are left before the device fails; `None`: it never does.
    pub runs_left: Option<usize>,
}

/// A device that never fails.
pub(crate) static SOUND: Toy = Toy { runs_left: None };

impl HostDevice for Toy {
    type Number = f64;
}

impl Backend for Toy {
    type Dip = ToyDip;
    type Classifier = Linear;

    fn name(&self) -> String {
        "toy".into()
    }
    fn dip(&self, spec: &NetSpec, height: usize, width: usize, capacity: usize) -> Result<ToyDip> {
        Ok(ToyDip {
            engine: ReferenceDip::new(spec, height, width, capacity)?,
            runs_left: self.runs_left.unwrap_or(usize::MAX),
        })
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

/// The reference engine, until its device fails.
pub(crate) struct ToyDip {
    engine: ReferenceDip,
    runs_left: usize,
}

impl DipEngine for ToyDip {
    type Images = HostImages<f64>;

    fn run(&mut self, iterations: u32) -> Result<()> {
        let left = self.runs_left.checked_sub(1);
        self.runs_left = left.ok_or_else(|| Error::Device("the toy broke".into()))?;
        self.engine.run(iterations)
    }

    fn capacity(&self) -> usize {
        self.engine.capacity()
    }
    fn load(&mut self, instances: &[Instance<'_, Self::Images>]) -> Result<()> {
        self.engine.load(instances)
    }
    fn release(&mut self, slots: &[usize]) -> Result<()> {
        self.engine.release(slots)
    }
    fn reconstructions(
        &mut self,
        slots: &[usize],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        self.engine.reconstructions(slots, out, first)
    }
    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        self.engine.losses(slots)
    }
    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.parameters(slot)
    }
    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()> {
        self.engine.set_parameters(slot, parameters)
    }
    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.gradients(slot)
    }
    fn input(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.input(slot)
    }
    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()> {
        self.engine.set_input(slot, input)
    }
    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine.input_gradient(slot)
    }
}

/// Three restarts of four tiles, every way to push and stitch.
pub(crate) fn options() -> Options {
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
            optimize_input: false,
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
pub(crate) fn picture(phase: f32, noise: f32) -> Picture {
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

/// The defense on a toy, with places for `images` images and an engine of `capacity` instances.
pub(crate) fn defense(
    toy: &Toy,
    options: &Options,
    images: usize,
    capacity: usize,
) -> Defense<Toy> {
    let prober = Prober::new(toy.clone(), Linear, 7).unwrap();
    let plan = Plan { images, capacity };
    plan.defense(prober, options.clone()).unwrap().1
}

/// The same, as the scheduler takes it.
pub(crate) fn boxed(
    toy: &Toy,
    options: &Options,
    images: usize,
    capacity: usize,
) -> Box<dyn DeviceDefense> {
    Box::new(defense(toy, options, images, capacity))
}

/// Every number and pixel of an outcome.
pub(crate) fn fingerprint(outcome: &Outcome) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
        outcome.pixels,
        outcome.iterations,
        outcome.verdict,
        outcome.score,
        outcome.support,
        outcome.fallback,
        outcome.nudge_steps,
        outcome.restarts,
        outcome.output.logits(),
    )
}

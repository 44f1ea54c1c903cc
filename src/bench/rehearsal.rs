//! The defense, gone through for what it asks of a GPU and of the host. What it computes means nothing.
//!
//! All of the program runs, down to the launches: once on the emulator, a few blocks of each launch, which
//! counts what kernels do; and on a device that does nothing, by the clock, which leaves the host's own work.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::backend::cuda::classifier::CudaClassifier;
use crate::backend::cuda::driver::emulator::{Emulator, Options as EmulatorOptions};
use crate::backend::cuda::driver::{ActivityKind, Device};
use crate::backend::cuda::images::DeviceImages;
use crate::backend::cuda::model::{Chip, Demand, demands};
use crate::backend::cuda::{CudaBackend, classifier_batch};
use crate::backend::{At, Backend, ClassifierEngine, ImageShape, LossGradient};
use crate::classifier::Graph;
use crate::defense::{Defense, DeviceDefense, Options, Oracle, Prober};
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::scheduler::Plan;

/// Of a launch's blocks, the emulator runs one in so many.
const SAMPLE: u32 = 1024;

/// Times that the host's work is measured.
const REPEATS: usize = 15;

/// What pictures that share a device from their beginning to their end ask of it.
#[derive(Clone, Debug)]
pub(crate) struct Wave {
    pub pictures: usize,
    /// Images that the classifier is asked about.
    pub probes: u64,
    /// By kernel, of all pictures.
    pub kernels: BTreeMap<&'static str, Demand>,
    /// From the host to the device, and back, where the host waits; and memory that is zeroed.
    pub uploads: Transfers,
    pub downloads: Transfers,
    pub zeroings: Transfers,
}

/// Transfers of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Transfers {
    pub count: u64,
    pub bytes: u64,
}

/// What is rehearsed: the defense of pictures that all turn out adversarial, the longest way through it.
#[derive(Clone, Copy)]
pub(crate) struct Rehearsal<'a> {
    pub chip: &'a Chip,
    pub graph: &'a Graph,
    pub options: &'a Options,
    /// Of the classifier's size.
    pub pictures: &'a [&'a Picture],
}

impl Rehearsal<'_> {
    /// What the pictures ask of the chip.
    ///
    /// # Errors
    /// The emulator does not run on this processor, or there is no memory; a classifier of one class.
    pub(crate) fn count(&self) -> Result<Wave> {
        let emulator = Emulator::new(EmulatorOptions {
            sample: SAMPLE,
            shared_limit: self.shared_limit(),
            ..EmulatorOptions::default()
        })?;
        let device = emulator.device();
        let mut defense = self.defense(device.clone())?;
        emulator.take_counts();
        let profiling = device.profile()?;
        defense.purify(self.pictures)?;
        let profile = profiling.finish()?;
        let transfers = |name| {
            let all = profile.totals.iter();
            let total =
                all.filter(|total| total.kind == ActivityKind::Transfer && total.name == name);
            total.fold(Transfers::default(), |sum, total| Transfers {
                count: sum.count + total.count,
                bytes: sum.bytes + total.work.bytes,
            })
        };
        Ok(Wave {
            pictures: self.pictures.len(),
            probes: defense.oracle().classified(),
            kernels: demands(&emulator, 1),
            uploads: transfers("upload"),
            downloads: transfers("download"),
            zeroings: transfers("zeroing"),
        })
    }

    /// Seconds that the host works for all pictures while their device waits, the driver's work not counted:
    /// the least of several times, for a machine has other work too.
    ///
    /// # Errors
    /// As [`count`](Self::count).
    pub(crate) fn time(&self) -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..REPEATS {
            let (device, _) = Device::tally(self.shared_limit());
            let mut defense = self.defense(device)?;
            let start = Instant::now();
            defense.purify(self.pictures)?;
            least = least.min(start.elapsed().as_secs_f64());
        }
        Ok(least)
    }

    /// Bytes of shared memory that a block can have.
    fn shared_limit(&self) -> u32 {
        (self.chip.shared_memory - 1) * 1024
    }

    /// A defense with room for all pictures, and a classifier whose answers are written.
    fn defense(&self, device: Device) -> Result<Defense<CudaBackend, Scripted>> {
        if self.graph.classes() < 2 {
            return Err(Error::invalid(
                "a classifier of one class is never mistaken",
            ));
        }
        let batch = classifier_batch(self.chip.multiprocessors);
        let cuda = CudaBackend::new(device);
        let scripted = Scripted {
            engine: cuda.classifier(self.graph, batch)?,
            inputs: self.pictures.len(),
        };
        let prober = Prober::new(cuda, scripted, batch)?;
        let grids = self.options.reconstruct.grids(prober.shape())?;
        let instances: usize = grids.iter().map(|grid| grid.tiles()).sum();
        let plan = Plan {
            images: self.pictures.len(),
            capacity: self.pictures.len() * instances,
        };
        let (_, defense) = plan.defense(prober, self.options.clone())?;
        Ok(defense)
    }
}

/// Runs the classifier, and says that the first images, which are the inputs, are of class 0 and all others of
/// class 1.
struct Scripted {
    engine: CudaClassifier,
    /// To come.
    inputs: usize,
}

impl ClassifierEngine for Scripted {
    type Images = DeviceImages;

    fn input_shape(&self) -> ImageShape {
        self.engine.input_shape()
    }
    fn classes(&self) -> usize {
        self.engine.classes()
    }
    fn bytes(&self) -> usize {
        self.engine.bytes()
    }
    fn logits(&mut self, images: &[At<'_, DeviceImages>]) -> Result<Vec<f32>> {
        let mut logits = self.engine.logits(images)?;
        for row in logits.chunks_exact_mut(self.engine.classes()) {
            row.fill(0.0);
            row[usize::from(self.inputs == 0)] = 20.0;
            self.inputs = self.inputs.saturating_sub(1);
        }
        Ok(logits)
    }
    fn gradient(
        &mut self,
        images: &[At<'_, DeviceImages>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<Vec<f32>> {
        self.engine.gradient(images, loss_gradient, out, first)
    }
}

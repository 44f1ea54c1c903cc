//! DIP instances on a device: in the resident step where the network's working set fits a block's shared
//! memory, else operation by operation.

mod layers;
mod network;
mod resident;

use rayon::prelude::*;

use self::layers::{Batch, Maps, error_sums};
use self::network::{Network, State};
use self::resident::Resident;
use super::backend::{CudaBackend, to_u32};
use super::driver::{Buffer, Device, Graph};
use super::images::DeviceImages;
use crate::backend::checks::{
    check_images, check_instances, check_len, check_slot, free_slot, input_not_optimized, not_run,
};
use crate::backend::{At, DipEngine, ImageOps, ImageShape, Instance};
use crate::dip::{NetSpec, initial_input, initial_parameters};
use crate::error::{Error, Result};

/// The most instances: a grid's limit.
const MAX_CAPACITY: usize = 65_535;

/// Recorded iterations that are kept: engines run full, and once with what is left over.
const MAX_GRAPHS: usize = 4;

/// Pixels that keep a multiprocessor's 2,048 threads busy through a launch: some for each.
const PIXELS_OF_A_MULTIPROCESSOR: usize = 8 * 2048;

/// Waves of blocks of the resident step: with so many, the last one, which is not full, costs little.
const RESIDENT_WAVES: usize = 8;

/// How an engine runs iterations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepMode {
    /// In the resident step where the network fits, else operation by operation.
    #[default]
    Auto,
    /// Every operation is a launch of its own.
    OpByOp,
    /// A launch runs many iterations of all instances, whose numbers stay in shared memory.
    Resident,
}

/// What an engine in one mode has beside the instances' state.
enum Method {
    OpByOp(Box<OpByOp>),
    Resident(Box<Resident>),
}

/// What an engine that launches every operation has.
struct OpByOp {
    network: Network,
    /// The input with its noise, where there is noise.
    noisy: Option<Buffer<f32>>,
    /// An iteration of so many instances, the latest first. The buffers that it uses live as long as the
    /// engine.
    graphs: Vec<(u32, Graph)>,
}

/// The engine of DIP instances.
pub struct CudaDip {
    backend: CudaBackend,
    spec: NetSpec,
    shape: ImageShape,
    method: Method,
    /// Iterations of each slot; `None` where it is free.
    slots: Vec<Option<u32>>,
    /// Numbers of an instance's parameter vector, of its input, and of those that Adam moves.
    parameters: usize,
    input: usize,
    trained: usize,
    /// Parameters and input, slot by slot.
    values: Buffer<f32>,
    /// Of the parameters and, where it is optimized, the input; so are the moments.
    gradients: Buffer<f32>,
    moments: [Buffer<f32>; 2],
    keys: Buffer<u32>,
    targets: DeviceImages,
    pictures: DeviceImages,
    /// Sums of squared errors.
    errors: Buffer<f32>,
    in_use: Buffer<u32>,
    iterations: Buffer<u32>,
}

impl CudaDip {
    /// An engine of `capacity` instances that fit pictures of `height × width`.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size, or there is too little memory.
    pub fn new(
        backend: &CudaBackend,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<Self> {
        CudaDip::with_mode(backend, spec, height, width, capacity, StepMode::Auto)
    }

    /// The same in a given mode.
    ///
    /// # Errors
    /// As [`new`](Self::new)'s, and the resident step is asked for and the network does not fit.
    pub fn with_mode(
        backend: &CudaBackend,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
        mode: StepMode,
    ) -> Result<Self> {
        spec.check_size(height, width)?;
        if capacity > MAX_CAPACITY {
            return Err(Error::invalid(format!(
                "a GPU runs at most {MAX_CAPACITY} DIP instances at once, not {capacity}"
            )));
        }
        let shape = ImageShape {
            channels: spec.output_channels,
            height,
            width,
        };
        let device = &backend.device;
        let parameters = spec.parameter_count();
        let input = spec.input_depth * height * width;
        let trained = parameters + if spec.optimize_input { input } else { 0 };
        to_u32(parameters + input, "numbers of an instance")?;
        let sums = error_sums(to_u32(shape.elements(), "pixels")?) as usize;
        let per_slot = |elements: usize| device.allocate::<f32>(elements * capacity);
        let resident = match mode {
            StepMode::OpByOp => None,
            _ => Resident::plan(spec, height, width, device.shared_limit()),
        };
        let method = match resident {
            Some(resident) => Method::Resident(Box::new(resident)),
            None if mode == StepMode::Resident => {
                return Err(Error::invalid(format!(
                    "this DIP network at {height}×{width} (height × width) does not fit the {} bytes of shared memory of a block on {}; run it operation by operation",
                    device.shared_limit(),
                    device.name()
                )));
            }
            None => Method::OpByOp(Box::new(OpByOp {
                network: Network::new(backend, spec, height, width, capacity)?,
                noisy: (spec.jitter > 0.0).then(|| per_slot(input)).transpose()?,
                graphs: vec![],
            })),
        };
        Ok(CudaDip {
            method,
            values: per_slot(parameters + input)?,
            gradients: per_slot(trained)?,
            moments: [per_slot(trained)?, per_slot(trained)?],
            keys: device.allocate(3 * capacity)?,
            targets: backend.allocate(shape, capacity)?,
            pictures: backend.allocate(shape, capacity)?,
            errors: per_slot(sums)?,
            in_use: device.allocate(capacity)?,
            iterations: device.allocate(capacity)?,
            slots: vec![None; capacity],
            backend: backend.clone(),
            spec: spec.clone(),
            shape,
            parameters,
            input,
            trained,
        })
    }

    /// The mode that the engine runs in: not [`StepMode::Auto`].
    pub fn step_mode(&self) -> StepMode {
        match self.method {
            Method::OpByOp(_) => StepMode::OpByOp,
            Method::Resident(_) => StepMode::Resident,
        }
    }

    /// How many instances a device runs well at once, within half of the free memory: some blocks of the
    /// resident step for each that a multiprocessor holds; else as many as give every thread of the
    /// multiprocessors some pixels.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size.
    pub fn instances_at_once(
        backend: &CudaBackend,
        spec: &NetSpec,
        height: usize,
        width: usize,
    ) -> Result<usize> {
        let each = CudaDip::bytes(backend, spec, height, width, 1, StepMode::Auto)?;
        let device = &backend.device;
        let multiprocessors = device.multiprocessors() as usize;
        let wanted = match Resident::plan(spec, height, width, device.shared_limit()) {
            Some(resident) => {
                let blocks = resident.blocks_of_a_multiprocessor(device.shared_limit());
                RESIDENT_WAVES * blocks as usize * multiprocessors
            }
            None => (multiprocessors * PIXELS_OF_A_MULTIPROCESSOR).div_ceil(height * width),
        };
        let fitting = (device.free_bytes()).map_or(u128::MAX, |free| u128::from(free) / 2 / each);
        let fitting = usize::try_from(fitting).unwrap_or(usize::MAX);
        Ok(wanted.min(fitting).clamp(1, MAX_CAPACITY))
    }

    /// Bytes of the device's memory that [`with_mode`](Self::with_mode) of the same arguments takes.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size, or the mode is not for it.
    pub fn bytes(
        backend: &CudaBackend,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
        mode: StepMode,
    ) -> Result<u128> {
        let (device, tally) = Device::tally(backend.device.shared_limit());
        let empty = CudaBackend::new(device).with_precision(backend.precision);
        CudaDip::with_mode(&empty, spec, height, width, capacity, mode)?;
        Ok(tally.bytes().into())
    }

    /// Refuses a slot that holds nothing; its iterations.
    fn slot(&self, slot: usize) -> Result<u32> {
        check_slot(slot, self.slots.len())?;
        self.slots[slot].ok_or_else(|| free_slot(slot))
    }

    /// Refuses a slot that has not run.
    fn result(&self, slot: usize) -> Result<()> {
        match self.slot(slot)? {
            0 => Err(not_run(slot)),
            _ => Ok(()),
        }
    }

    /// A part of a slot's numbers.
    fn read(
        &self,
        buffer: &Buffer<f32>,
        slot: usize,
        first: usize,
        len: usize,
    ) -> Result<Vec<f64>> {
        let stride = buffer.len() / self.slots.len();
        let numbers = buffer.download(slot * stride + first, len)?;
        Ok(numbers.into_iter().map(f64::from).collect())
    }

    /// Replaces a part of a slot's values.
    fn write(&mut self, slot: usize, first: usize, numbers: &[f64]) -> Result<()> {
        let numbers: Vec<f32> = numbers.iter().map(|&n| n as f32).collect();
        let stride = self.parameters + self.input;
        Ok(self.values.upload(&numbers, slot * stride + first)?)
    }

    /// All slots' pictures.
    fn images(&self, images: &DeviceImages) -> Maps {
        Maps::new(images.at(0), self.shape.elements())
    }

    /// All slots' numbers in a buffer.
    fn maps(&self, buffer: &Buffer<f32>) -> Maps {
        Maps::new(buffer.at(0), buffer.len() / self.slots.len())
    }

    /// Iterations of `count` instances: those of `in_use`.
    fn iterate(&mut self, count: u32, iterations: u32) -> Result<()> {
        let graph = match &self.method {
            Method::Resident(resident) => {
                let state = resident::State {
                    slots: self.in_use.at(0),
                    count,
                    iterations: self.iterations.at(0),
                    keys: self.keys.at(0),
                    values: self.maps(&self.values),
                    gradients: self.maps(&self.gradients),
                    moments: [0, 1].map(|i| self.maps(&self.moments[i])),
                    target: self.images(&self.targets),
                    picture: self.images(&self.pictures),
                    errors: self.maps(&self.errors),
                    error_sums: (self.errors.len() / self.slots.len()) as u32,
                };
                return Ok(resident.run(&self.backend.device, &state, iterations)?);
            }
            Method::OpByOp(known) => match known.graphs.iter().find(|graph| graph.0 == count) {
                Some((_, graph)) => return Ok(graph.launch(iterations)?),
                None => self
                    .backend
                    .device
                    .record(|| self.launch_iteration(count, known))?,
            },
        };
        graph.launch(iterations)?;
        if let Method::OpByOp(known) = &mut self.method {
            known.graphs.truncate(MAX_GRAPHS - 1);
            known.graphs.insert(0, (count, graph));
        }
        Ok(())
    }

    /// One iteration of `count` instances: those of `in_use`.
    fn launch_iteration(&self, count: u32, method: &OpByOp) -> Result<()> {
        let batch = &Batch {
            device: &self.backend.device,
            slots: self.in_use.at(0),
            count,
            iterations: self.iterations.at(0),
            matrices: method.network.matrices(),
        };
        let network = &method.network;
        let (parameters, input) = (self.parameters, self.input);
        let trained = self.trained;
        let state = State {
            values: Maps::new(self.values.at(0), parameters + input),
            gradients: Maps::new(self.gradients.at(0), trained),
            parameters,
        };
        let z = state.values.skip(parameters);
        let noisy = (method.noisy.as_ref()).map(|noisy| Maps::new(noisy.at(0), input));
        if let Some(noisy) = noisy {
            let elements = to_u32(input, "numbers of an input")?;
            batch.jitter(self.spec.jitter, elements, self.keys.at(0), z, noisy)?;
        }
        let z = noisy.unwrap_or(z);
        network.forward(batch, &state, z)?;
        let elements = self.shape.elements();
        let errors = Maps::new(self.errors.at(0), error_sums(elements as u32) as usize);
        batch.loss(
            elements as u32,
            self.spec.averaging,
            network.output(),
            Maps::new(self.targets.at(0), elements),
            Maps::new(self.pictures.at(0), elements),
            errors,
        )?;
        network.backward(batch, &state, z)?;
        let moments = [0, 1].map(|i| Maps::new(self.moments[i].at(0), trained));
        let rate = self.spec.learning_rate;
        batch.adam(trained as u32, rate, state.values, state.gradients, moments)?;
        Ok(batch.count_iteration()?)
    }
}

impl DipEngine for CudaDip {
    type Images = DeviceImages;

    fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn load(&mut self, instances: &[Instance<'_, DeviceImages>]) -> Result<()> {
        check_instances(instances, self.slots.len(), self.shape)?;
        // Slots that follow one another are written together.
        for run in instances.chunk_by(|a, b| a.slot + 1 == b.slot) {
            let first = run[0].slot;
            let (spec, shape) = (&self.spec, self.shape);
            // The device waits for this: all threads draw.
            let initial = |Instance { key, .. }: &Instance<'_, _>| {
                let parameters = initial_parameters(spec, key);
                let input = initial_input(spec, shape.height, shape.width, key);
                parameters.into_iter().chain(input)
            };
            let values: Vec<f32> = run.par_iter().flat_map_iter(initial).collect();
            let keys = (run.iter()).flat_map(|Instance { key, .. }| key.philox_words());
            let keys: Vec<u32> = keys.collect();
            let stride = self.parameters + self.input;
            self.values.upload(&values, first * stride)?;
            let zeros = vec![0.0; run.len() * self.trained];
            for moments in &mut self.moments {
                moments.upload(&zeros, first * self.trained)?;
            }
            self.keys.upload(&keys, 3 * first)?;
            let targets: Vec<_> = run.iter().map(|instance| instance.target).collect();
            self.backend.copy(&targets, &mut self.targets, first)?;
            self.iterations.upload(&vec![0; run.len()], first)?;
            self.slots[first..first + run.len()].fill(Some(0));
        }
        Ok(())
    }

    fn release(&mut self, slots: &[usize]) -> Result<()> {
        for &slot in slots {
            check_slot(slot, self.slots.len())?;
            self.slots[slot] = None;
        }
        Ok(())
    }

    fn run(&mut self, iterations: u32) -> Result<()> {
        let in_use: Vec<u32> = (0..self.slots.len())
            .filter(|&slot| self.slots[slot].is_some())
            .map(|slot| slot as u32)
            .collect();
        if in_use.is_empty() {
            return Ok(());
        }
        self.in_use.upload(&in_use, 0)?;
        self.iterate(in_use.len() as u32, iterations)?;
        for slot in self.slots.iter_mut().flatten() {
            *slot += iterations;
        }
        Ok(())
    }

    fn reconstructions(
        &mut self,
        slots: &[usize],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        check_images(out, self.shape, first, slots.len(), "reconstruction")?;
        for &slot in slots {
            self.result(slot)?;
        }
        let pictures: Vec<_> = slots
            .iter()
            .map(|&slot| At::new(&self.pictures, slot))
            .collect();
        self.backend.copy(&pictures, out, first)
    }

    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        let elements = self.shape.elements();
        let sums = error_sums(elements as u32) as usize;
        let losses = slots.iter().map(|&slot| {
            self.result(slot)?;
            let errors = self.read(&self.errors, slot, 0, sums)?;
            Ok(errors.iter().sum::<f64>() / elements as f64)
        });
        losses.collect()
    }

    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.slot(slot)?;
        self.read(&self.values, slot, 0, self.parameters)
    }

    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()> {
        self.slot(slot)?;
        check_len("parameters", parameters.len(), self.parameters)?;
        self.write(slot, 0, parameters)
    }

    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.result(slot)?;
        self.read(&self.gradients, slot, 0, self.parameters)
    }

    fn input(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.slot(slot)?;
        self.read(&self.values, slot, self.parameters, self.input)
    }

    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()> {
        self.slot(slot)?;
        check_len("input elements", input.len(), self.input)?;
        self.write(slot, self.parameters, input)
    }

    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>> {
        if !self.spec.optimize_input {
            return Err(input_not_optimized());
        }
        self.result(slot)?;
        self.read(&self.gradients, slot, self.parameters, self.input)
    }
}

#[cfg(test)]
mod tests;

//! The cpu backend's DIP engines: many small networks, or few large ones.

pub mod blocked;
pub mod lanes;

use self::blocked::BlockedDip;
use self::lanes::LaneDip;
use crate::backend::cpu::simd::LANES;
use crate::backend::host::HostImages;
use crate::backend::{DipEngine, Instance, Precision};
use crate::dip::NetSpec;
use crate::error::Result;

/// Multiply-adds of a forward pass up to which a network runs in lanes. A group of sixteen such
/// networks keeps its tensors near the core; beyond it one network alone fills the vectors with its
/// channels, and all cores with its rows.
const LANES_UP_TO: u64 = 16_000_000;

/// Whether networks of this shape run in lanes, which do not round. Depends on the shape and the precision
/// alone: the number of instances must not change a result.
fn in_lanes(spec: &NetSpec, height: usize, width: usize, precision: Precision) -> Result<bool> {
    Ok(spec.multiply_adds(height, width) <= LANES_UP_TO
        && !BlockedDip::rounds(spec, height, width, precision)?)
}

/// How many instances of this shape run well at once.
///
/// # Errors
/// The network is impossible or cannot fit that size.
pub fn capacity(
    spec: &NetSpec,
    height: usize,
    width: usize,
    precision: Precision,
) -> Result<usize> {
    Ok(match in_lanes(spec, height, width, precision)? {
        true => 256,
        false => 8,
    })
}

/// Bytes that an engine of `capacity` instances takes.
///
/// # Errors
/// The network is impossible or cannot fit that size.
pub fn bytes(
    spec: &NetSpec,
    height: usize,
    width: usize,
    capacity: usize,
    precision: Precision,
) -> Result<u128> {
    spec.check_size(height, width)?;
    let (each, shared) = if in_lanes(spec, height, width, precision)? {
        let (group, workspace) = LaneDip::bytes(spec, height, width)?;
        let groups = capacity.div_ceil(LANES);
        let working = groups.min(rayon::current_num_threads());
        (
            groups as u128 * group as u128,
            working as u128 * workspace as u128,
        )
    } else {
        let (instance, shared) = BlockedDip::bytes(spec, height, width, precision)?;
        (capacity as u128 * instance as u128, shared as u128)
    };
    Ok(each + shared)
}

/// The engine that suits a network's shape.
pub enum CpuDip {
    Lanes(LaneDip),
    Blocked(BlockedDip),
}

impl CpuDip {
    /// An engine of `capacity` instances that fit pictures of `height × width`.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size, or there is too little memory.
    pub fn new(
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
        precision: Precision,
    ) -> Result<Self> {
        spec.check_size(height, width)?;
        Ok(if in_lanes(spec, height, width, precision)? {
            CpuDip::Lanes(LaneDip::new(spec, height, width, capacity)?)
        } else {
            CpuDip::Blocked(BlockedDip::new(spec, height, width, capacity, precision)?)
        })
    }

    fn engine(&self) -> &dyn DipEngine<Images = HostImages<f32>> {
        match self {
            CpuDip::Lanes(engine) => engine,
            CpuDip::Blocked(engine) => engine,
        }
    }

    fn engine_mut(&mut self) -> &mut dyn DipEngine<Images = HostImages<f32>> {
        match self {
            CpuDip::Lanes(engine) => engine,
            CpuDip::Blocked(engine) => engine,
        }
    }
}

impl DipEngine for CpuDip {
    type Images = HostImages<f32>;

    fn capacity(&self) -> usize {
        self.engine().capacity()
    }
    fn load(&mut self, instances: &[Instance<'_, Self::Images>]) -> Result<()> {
        self.engine_mut().load(instances)
    }
    fn release(&mut self, slots: &[usize]) -> Result<()> {
        self.engine_mut().release(slots)
    }
    fn run(&mut self, iterations: u32) -> Result<()> {
        self.engine_mut().run(iterations)
    }
    fn reconstructions(
        &mut self,
        slots: &[usize],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        self.engine_mut().reconstructions(slots, out, first)
    }
    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        self.engine_mut().losses(slots)
    }
    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine_mut().parameters(slot)
    }
    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()> {
        self.engine_mut().set_parameters(slot, parameters)
    }
    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine_mut().gradients(slot)
    }
    fn input(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine_mut().input(slot)
    }
    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()> {
        self.engine_mut().set_input(slot, input)
    }
    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.engine_mut().input_gradient(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dip::Preset;

    #[test]
    fn presets_run_on_the_engine_made_for_them() {
        let in_lanes = |preset: Preset, side| {
            super::in_lanes(&preset.spec(3), side, side, Precision::Float32).unwrap()
        };
        assert!(in_lanes(Preset::Tiles, 32));
        assert!(in_lanes(Preset::Cifar, 32));
        assert!(!in_lanes(Preset::Skip, 224));
        assert!(!in_lanes(Preset::Wide, 224));
    }
}

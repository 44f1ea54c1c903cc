//! One DIP instance in each SIMD lane.
//!
//! Instances have equal shapes and their own weights, so a vector of sixteen instances' numbers is the
//! scalar type of everything here: whatever a network's channel counts, every operation fills its
//! vectors, and no lane ever touches another. Instances run in groups of sixteen, a group on one
//! thread.

// In register tiles an index names a channel or pixel in several arrays at once.
#![allow(clippy::needless_range_loop)]

pub(super) mod adam;
mod conv;
mod conv_weights;
mod group;
mod loss;
mod norm;
#[cfg(test)]
mod op_tests;
mod plan;
mod resample;
mod step;
#[cfg(test)]
mod tests;
mod view;

use std::sync::Mutex;

use rayon::prelude::*;

use self::group::{Group, Occupant, get, put};
use self::plan::LanePlan;
use self::step::Workspace;
use crate::backend::checks::{
    check_images, check_instances, check_len, check_slot, free_slot, input_not_optimized, not_run,
};
use crate::backend::cpu::simd::{Isa, LANES, Lanes};
use crate::backend::host::HostImages;
use crate::backend::{DipEngine, ImageShape, Instance};
use crate::dip::NetSpec;
use crate::error::{Error, Result};

/// The engine of many small networks.
pub struct LaneDip {
    isa: Isa,
    spec: NetSpec,
    plan: LanePlan,
    shape: ImageShape,
    capacity: usize,
    groups: Vec<Group>,
    /// As many as groups have run at once.
    workspaces: Mutex<Vec<Workspace>>,
}

impl LaneDip {
    /// An engine of `capacity` instances that fit pictures of `height × width`.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size, or there is too little memory.
    pub fn new(spec: &NetSpec, height: usize, width: usize, capacity: usize) -> Result<Self> {
        let plan = LanePlan::new(spec, height, width)?;
        let shape = ImageShape {
            channels: spec.output_channels,
            height,
            width,
        };
        let groups = capacity.div_ceil(LANES);
        let (group, _) = plan_bytes(spec, &plan);
        if groups.saturating_mul(group) > MOST_BYTES {
            return Err(no_memory(shape, capacity));
        }
        let groups = (0..groups)
            .map(|_| Group::new(spec, &plan))
            .collect::<Option<_>>()
            .ok_or_else(|| no_memory(shape, capacity))?;
        Ok(LaneDip {
            isa: Isa::detect(),
            spec: spec.clone(),
            plan,
            shape,
            capacity,
            groups,
            workspaces: Mutex::new(vec![]),
        })
    }

    /// Bytes that an engine takes: for every sixteen instances, and for every thread.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size.
    pub fn bytes(spec: &NetSpec, height: usize, width: usize) -> Result<(usize, usize)> {
        Ok(plan_bytes(spec, &LanePlan::new(spec, height, width)?))
    }

    /// The group and lane of a slot, and what it holds.
    fn occupant(&mut self, slot: usize) -> Result<(&mut Group, usize, Occupant)> {
        check_slot(slot, self.capacity)?;
        let (group, lane) = (&mut self.groups[slot / LANES], slot % LANES);
        let occupant = group.occupants[lane].ok_or_else(|| free_slot(slot))?;
        Ok((group, lane, occupant))
    }

    /// The group and lane of a slot that has run.
    fn result(&mut self, slot: usize) -> Result<(&mut Group, usize)> {
        match self.occupant(slot)? {
            (_, _, Occupant { iteration: 0, .. }) => Err(not_run(slot)),
            (group, lane, _) => Ok((group, lane)),
        }
    }

    /// A free workspace, or a new one.
    fn workspace(&self) -> Result<Workspace> {
        let free = self.workspaces.lock().ok().and_then(|mut list| list.pop());
        free.or_else(|| Workspace::new(&self.plan))
            .ok_or_else(|| no_memory(self.shape, self.capacity))
    }
}

/// No machine has more; a system that lends memory before it is used would not refuse it.
const MOST_BYTES: usize = 1 << 40;

/// Bytes of a group and of a workspace.
fn plan_bytes(spec: &NetSpec, plan: &LanePlan) -> (usize, usize) {
    let input = spec.input_depth * plan.input.pixels();
    let trained = plan.parameters + if spec.optimize_input { input } else { 0 };
    let pictures = 2 * spec.output_channels * plan.output.pixels();
    // Values, gradient and two moments of what is trained.
    let group = 4 * trained + (plan.parameters + input - trained) + pictures;
    let workspace = plan.memory * size_of::<Lanes>() + plan.normalized * size_of::<norm::Channel>();
    (group * size_of::<Lanes>(), workspace)
}

/// What a failed allocation gives.
fn no_memory(shape: ImageShape, capacity: usize) -> Error {
    Error::invalid(format!(
        "no memory for {capacity} DIP instances on {shape}; use fewer at once or smaller tiles"
    ))
}

/// One lane's numbers.
fn wide(values: &[Lanes], lane: usize) -> Vec<f64> {
    get(values, lane).map(f64::from).collect()
}

impl DipEngine for LaneDip {
    type Images = HostImages<f32>;

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn load(&mut self, instances: &[Instance<'_, Self::Images>]) -> Result<()> {
        check_instances(instances, self.capacity, self.shape)?;
        for instance in instances {
            let (group, lane) = (instance.slot / LANES, instance.slot % LANES);
            let target = instance.target.pixels();
            self.groups[group].load(lane, &self.spec, &self.plan, target, instance.key);
        }
        Ok(())
    }

    fn release(&mut self, slots: &[usize]) -> Result<()> {
        for &slot in slots {
            check_slot(slot, self.capacity)?;
            self.groups[slot / LANES].occupants[slot % LANES] = None;
        }
        Ok(())
    }

    fn run(&mut self, iterations: u32) -> Result<()> {
        let mut groups = std::mem::take(&mut self.groups);
        let this = &*self;
        let result = groups
            .par_iter_mut()
            .filter(|group| group.in_use())
            .try_for_each(|group| {
                let mut workspace = this.workspace()?;
                group.run(this.isa, &this.spec, &this.plan, &mut workspace, iterations);
                if let Ok(mut list) = this.workspaces.lock() {
                    list.push(workspace);
                }
                Ok(())
            });
        self.groups = groups;
        result
    }

    fn reconstructions(
        &mut self,
        slots: &[usize],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        check_images(out, self.shape, first, slots.len(), "reconstruction")?;
        for (i, &slot) in slots.iter().enumerate() {
            let (group, lane) = self.result(slot)?;
            let pixels = out.image_mut(first + i).iter_mut();
            for (to, from) in pixels.zip(get(&group.picture, lane)) {
                *to = from;
            }
        }
        Ok(())
    }

    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        let loss = |&slot: &usize| {
            let (group, lane) = self.result(slot)?;
            Ok(f64::from(group.loss.0[lane]))
        };
        slots.iter().map(loss).collect()
    }

    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>> {
        let (group, lane, _) = self.occupant(slot)?;
        Ok(wide(&group.parameters.values, lane))
    }

    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()> {
        let (group, lane, _) = self.occupant(slot)?;
        let values = &mut group.parameters.values;
        check_len("parameters", parameters.len(), values.len())?;
        put(values, lane, parameters, |v| v as f32);
        Ok(())
    }

    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>> {
        let (group, lane) = self.result(slot)?;
        Ok(wide(&group.gradients, lane))
    }

    fn input(&mut self, slot: usize) -> Result<Vec<f64>> {
        let (group, lane, _) = self.occupant(slot)?;
        Ok(wide(&group.input.values, lane))
    }

    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()> {
        let (group, lane, _) = self.occupant(slot)?;
        let values = &mut group.input.values;
        check_len("input elements", input.len(), values.len())?;
        put(values, lane, input, |v| v as f32);
        Ok(())
    }

    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>> {
        if !self.spec.optimize_input {
            return Err(input_not_optimized());
        }
        let (group, lane) = self.result(slot)?;
        Ok(wide(&group.input_gradient, lane))
    }
}

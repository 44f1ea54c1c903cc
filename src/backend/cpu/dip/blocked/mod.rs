//! Large DIP networks, one at a time, on all threads.
//!
//! Activations are channel-blocked (see [`blocked`](crate::backend::cpu::blocked)). Normalized and
//! activated tensors are not stored: what reads a convolution's output applies the map. Slots keep
//! weights, moments, input, target and picture; the activations' memory is one, used in turn. With bfloat16
//! factors of wide convolutions are rounded first, as a GPU's tensor cores take them (`rounding`).

mod loss;
mod norm;
mod plan;
mod resample;
mod rounding;
mod state;
mod step;

#[cfg(test)]
mod tests;

use self::plan::BlockedPlan;
use self::state::State;
use self::step::Workspace;
use crate::backend::checks::{
    check_images, check_instances, check_len, check_slot, free_slot, input_not_optimized, not_run,
};
use crate::backend::cpu::blocked::layout;
use crate::backend::cpu::simd::Lanes;
use crate::backend::host::HostImages;
use crate::backend::{DipEngine, ImageShape, Instance, Precision};
use crate::dip::NetSpec;
use crate::error::Result;

/// The engine of few large networks.
pub struct BlockedDip {
    plan: BlockedPlan,
    shape: ImageShape,
    slots: Vec<State>,
    workspace: Workspace,
}

impl BlockedDip {
    /// An engine of `capacity` instances (at least one) that fit pictures of `height × width`.
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
        let plan = BlockedPlan::new(spec, height, width, precision)?;
        let slots: Vec<State> = (0..capacity.max(1))
            .map(|_| State::new(&plan))
            .collect::<Result<_>>()?;
        Ok(BlockedDip {
            workspace: Workspace::new(&plan, &slots[0])?,
            shape: ImageShape {
                channels: spec.output_channels,
                height,
                width,
            },
            plan,
            slots,
        })
    }

    /// Whether any of a network's convolutions is rounded.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size.
    pub fn rounds(
        spec: &NetSpec,
        height: usize,
        width: usize,
        precision: Precision,
    ) -> Result<bool> {
        let plan = BlockedPlan::new(spec, height, width, precision)?;
        Ok(plan.convs.iter().any(|conv| conv.rounded))
    }

    /// Bytes that an engine takes: for every instance, and once.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size.
    pub fn bytes(
        spec: &NetSpec,
        height: usize,
        width: usize,
        precision: Precision,
    ) -> Result<(usize, usize)> {
        let plan = BlockedPlan::new(spec, height, width, precision)?;
        let lanes = [state::lanes(&plan), step::lanes(&plan)];
        let [instance, shared] = lanes.map(|n| n.saturating_mul(size_of::<Lanes>()));
        Ok((instance, shared))
    }

    /// A slot in use.
    fn state(&mut self, slot: usize) -> Result<&mut State> {
        check_slot(slot, self.slots.len())?;
        let state = &mut self.slots[slot];
        match state.key {
            Some(_) => Ok(state),
            None => Err(free_slot(slot)),
        }
    }

    /// A slot that has run.
    fn result(&mut self, slot: usize) -> Result<&mut State> {
        match self.state(slot)? {
            State { iteration: 0, .. } => Err(not_run(slot)),
            state => Ok(state),
        }
    }

    /// One number of each pixel of the input, CHW.
    fn input_pixels(&self, blocked: &[Lanes]) -> Vec<f64> {
        let plane = self.shape.height * self.shape.width;
        let mut pixels = vec![0.0; self.plan.spec.input_depth * plane];
        layout::unblock(blocked, plane, &mut pixels);
        pixels.into_iter().map(f64::from).collect()
    }
}

/// Rounded to float32.
fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

impl DipEngine for BlockedDip {
    type Images = HostImages<f32>;

    fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn load(&mut self, instances: &[Instance<'_, Self::Images>]) -> Result<()> {
        check_instances(instances, self.slots.len(), self.shape)?;
        for instance in instances {
            self.slots[instance.slot].load(&self.plan, instance.target.pixels(), instance.key);
        }
        Ok(())
    }

    fn release(&mut self, slots: &[usize]) -> Result<()> {
        for &slot in slots {
            check_slot(slot, self.slots.len())?;
            self.slots[slot].key = None;
        }
        Ok(())
    }

    fn run(&mut self, iterations: u32) -> Result<()> {
        for state in &mut self.slots {
            let Some(key) = state.key else { continue };
            for _ in 0..iterations {
                self.workspace.iterate(&self.plan, state, &key)?;
                state.step(&self.plan.spec);
            }
        }
        Ok(())
    }

    fn reconstructions(
        &mut self,
        slots: &[usize],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        check_images(out, self.shape, first, slots.len(), "reconstruction")?;
        let plane = self.shape.height * self.shape.width;
        for (i, &slot) in slots.iter().enumerate() {
            let state = self.result(slot)?;
            layout::unblock(&state.picture, plane, out.image_mut(first + i));
        }
        Ok(())
    }

    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>> {
        slots
            .iter()
            .map(|&slot| Ok(self.result(slot)?.loss))
            .collect()
    }

    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.state(slot)?;
        Ok(self.slots[slot].parameters(&self.plan))
    }

    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()> {
        self.state(slot)?;
        check_len("parameters", parameters.len(), self.plan.parameters)?;
        self.slots[slot].set_parameters(&self.plan, &narrow(parameters));
        Ok(())
    }

    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.result(slot)?;
        Ok(self.slots[slot].gradients(&self.plan))
    }

    fn input(&mut self, slot: usize) -> Result<Vec<f64>> {
        self.state(slot)?;
        Ok(self.input_pixels(&self.slots[slot].input.values))
    }

    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()> {
        let plane = self.shape.height * self.shape.width;
        let want = self.plan.spec.input_depth * plane;
        let state = self.state(slot)?;
        check_len("input elements", input.len(), want)?;
        state.set_input(&narrow(input), plane);
        Ok(())
    }

    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>> {
        if !self.plan.spec.optimize_input {
            return Err(input_not_optimized());
        }
        self.result(slot)?;
        Ok(self.input_pixels(&self.slots[slot].input.gradient))
    }
}

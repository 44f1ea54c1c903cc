//! The resident step: a launch runs many whole iterations of all instances in use, a block to an
//! instance, with everything that fits in the block's shared memory (`kernels/resident.cu`).

mod plan;

use self::plan::ResidentPlan;
use self::plan::step::{MAX_STEPS, NOWHERE, Step};
use super::super::driver::{Address, Device, Launch, Result, Work, arguments, shared_bytes};
use super::super::kernels::resident::RESIDENT_STEP;
use super::layers::{AdamRates, Maps};
use crate::dip::{BN_EPSILON, NetSpec, Padding, Upsample};

/// The most iterations of a launch: on no chip long enough for a display's watchdog.
const MAX_ROUNDS: u32 = 128;

arguments! {
    struct ResidentArgs {
        slots: Address,
        iterations: Address,
        keys: Address,
        values: Maps,
        gradients: Maps,
        first: Maps,
        second: Maps,
        target: Maps,
        picture: Maps,
        errors: Maps,
        rounds: u32,
        floats: u32,
        parameters: u32,
        input: u32,
        trained: u32,
        elements: u32,
        error_sums: u32,
        gradients_at: u32,
        input_gradient_at: u32,
        moments_at: u32,
        target_at: u32,
        partials_at: u32,
        bilinear: u32,
        reflect: u32,
        sigma: f32,
        keep: f32,
        norm_epsilon: f32,
        rates: AdamRates,
        step_count: u32,
        steps: [Step; MAX_STEPS],
    }
}

/// Where all slots have what an iteration reads and writes.
#[derive(Clone, Copy)]
pub(super) struct State {
    /// Slots in use.
    pub slots: Address,
    /// How many.
    pub count: u32,
    /// Iterations that every slot has done.
    pub iterations: Address,
    /// Three words a slot: Philox's key, and the tile.
    pub keys: Address,
    /// Parameters and input.
    pub values: Maps,
    pub gradients: Maps,
    pub moments: [Maps; 2],
    pub target: Maps,
    pub picture: Maps,
    pub errors: Maps,
    /// Sums that `errors` has of a slot; all but the first become zero.
    pub error_sums: u32,
}

/// The resident step of a network whose working set fits.
pub(super) struct Resident {
    spec: NetSpec,
    plan: ResidentPlan,
}

impl Resident {
    /// The step of a network that fits pictures of `height × width`, with blocks of at most
    /// `shared_limit` bytes; `None` where they are too small for it.
    pub(super) fn plan(
        spec: &NetSpec,
        height: usize,
        width: usize,
        shared_limit: u32,
    ) -> Option<Resident> {
        Some(Resident {
            plan: ResidentPlan::new(spec, height, width, shared_limit)?,
            spec: spec.clone(),
        })
    }

    /// Blocks that a multiprocessor holds, by its shared memory: a KiB more than a block's limit, of which
    /// each block takes one beside its own (CUDA C++ Programming Guide, "Compute Capabilities").
    pub(super) fn blocks_of_a_multiprocessor(&self, shared_limit: u32) -> u32 {
        ((shared_limit + 1024) / (self.shared() + 1024)).max(1)
    }

    /// Bytes of a block.
    fn shared(&self) -> u32 {
        shared_bytes([self.plan.floats * size_of::<f32>()])
    }

    /// Runs iterations of the instances in use.
    pub(super) fn run(&self, device: &Device, state: &State, mut iterations: u32) -> Result<()> {
        while iterations > 0 {
            let rounds = iterations.min(MAX_ROUNDS);
            self.launch(device, state, rounds)?;
            iterations -= rounds;
        }
        Ok(())
    }

    fn launch(&self, device: &Device, state: &State, rounds: u32) -> Result<()> {
        let (plan, spec) = (&self.plan, &self.spec);
        let mut steps = [Step::default(); MAX_STEPS];
        steps[..plan.steps.len()].copy_from_slice(&plan.steps);
        let arguments = ResidentArgs {
            slots: state.slots,
            iterations: state.iterations,
            keys: state.keys,
            values: state.values,
            gradients: state.gradients,
            first: state.moments[0],
            second: state.moments[1],
            target: state.target,
            picture: state.picture,
            errors: state.errors,
            rounds,
            floats: plan.floats as u32,
            parameters: plan.parameters as u32,
            input: plan.input as u32,
            trained: plan.trained as u32,
            elements: plan.elements as u32,
            error_sums: state.error_sums,
            gradients_at: plan.gradients_at,
            input_gradient_at: plan.input_gradient_at,
            moments_at: plan.moments_at,
            target_at: plan.target_at,
            partials_at: plan.partials_at,
            bilinear: (spec.upsample == Upsample::Bilinear).into(),
            reflect: (spec.padding == Padding::Reflect).into(),
            sigma: spec.jitter,
            keep: spec.averaging,
            norm_epsilon: BN_EPSILON as f32,
            rates: AdamRates::new(spec.learning_rate),
            step_count: plan.steps.len() as u32,
            steps,
        };
        let launch = Launch::new([state.count, 1, 1], plan.threads)
            .with_shared(self.shared())
            .doing(self.work(state.count, rounds));
        device.launch(&RESIDENT_STEP, launch, &arguments)
    }

    /// What a launch cannot do without: the convolutions' arithmetic, and every number outside the block
    /// read once and written once.
    fn work(&self, count: u32, rounds: u32) -> Work {
        let plan = &self.plan;
        let moments = 4 * plan.trained;
        let (mut once, mut every) = (0, 0);
        // Values, both ways, and gradients; the picture.
        once += 2 * (plan.parameters + plan.input) + plan.trained + plan.elements;
        *(if plan.moments_at == NOWHERE {
            &mut every
        } else {
            &mut once
        }) += moments;
        *(if plan.target_at == NOWHERE {
            &mut every
        } else {
            &mut once
        }) += plan.elements;
        if self.spec.averaging > 0.0 {
            every += 2 * plan.elements;
        }
        let (count, rounds) = (u64::from(count), u64::from(rounds));
        Work {
            bytes: count * (once as u64 + rounds * every as u64) * size_of::<f32>() as u64,
            multiply_adds: count * rounds * plan.multiply_adds,
            matrix_multiply_adds: 0,
        }
    }
}

#[cfg(test)]
mod tests;

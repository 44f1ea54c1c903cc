//! What surrounds the layers in an iteration: the input's noise, the loss, Adam, and the count.

use super::batch::{Batch, Maps, THREADS, WARP, per_thread, work};
use crate::backend::cuda::driver::{self, Address, Result, shared_bytes};
use crate::backend::cuda::kernels::dip_step;
use crate::dip::{ADAM_BETA1, ADAM_BETA2, ADAM_EPSILON};

driver::arguments! {
    pub(super) struct JitterArgs {
        slots: Address,
        iterations: Address,
        keys: Address,
        z: Maps,
        out: Maps,
        elements: u32,
        sigma: f32,
    }

    pub(super) struct LossArgs {
        slots: Address,
        iterations: Address,
        x: Maps,
        target: Maps,
        picture: Maps,
        errors: Maps,
        elements: u32,
        keep: f32,
    }

    /// The same for every value that Adam moves.
    pub(crate) struct AdamRates {
        learning_rate: f32,
        epsilon: f32,
        beta2: f32,
        log_beta1: f32,
        log_beta2: f32,
        one_less_beta1: f32,
        one_less_beta2: f32,
    }

    pub(super) struct AdamArgs {
        slots: Address,
        iterations: Address,
        values: Maps,
        gradients: Maps,
        first: Maps,
        second: Maps,
        count: u32,
        rates: AdamRates,
    }

    pub(super) struct IterationsArgs {
        slots: Address,
        iterations: Address,
        count: u32,
    }
}

impl AdamRates {
    pub(crate) fn new(learning_rate: f64) -> Self {
        AdamRates {
            learning_rate: learning_rate as f32,
            epsilon: ADAM_EPSILON as f32,
            beta2: ADAM_BETA2 as f32,
            log_beta1: ADAM_BETA1.ln() as f32,
            log_beta2: ADAM_BETA2.ln() as f32,
            one_less_beta1: (1.0 - ADAM_BETA1) as f32,
            one_less_beta2: (1.0 - ADAM_BETA2) as f32,
        }
    }
}

/// Sums of squared errors that [`Batch::loss`] leaves for pictures of so many elements.
pub(crate) fn error_sums(elements: u32) -> u32 {
    elements.div_ceil(THREADS)
}

impl Batch<'_> {
    /// `out = z + sigma · N(0, 1)`, drawn from `keys`: three words a slot.
    pub(crate) fn jitter(
        &self,
        sigma: f32,
        elements: u32,
        keys: Address,
        z: Maps,
        out: Maps,
    ) -> Result<()> {
        let arguments = JitterArgs {
            slots: self.slots,
            iterations: self.iterations,
            keys,
            z,
            out,
            elements,
            sigma,
        };
        // With three words of the key, and the iteration.
        let work = work(2 * u64::from(elements) + 4, elements.into());
        let launch = per_thread(elements.div_ceil(4)).doing(work);
        self.launch(&dip_step::DIP_JITTER, launch, &arguments)
    }

    /// `picture` = sigmoid of `x`, or the average of those; `x` = the derivative of the mean squared error
    /// from `target`; `errors` = [`error_sums`] of the squared errors.
    pub(crate) fn loss(
        &self,
        elements: u32,
        keep: f32,
        x: Maps,
        target: Maps,
        picture: Maps,
        errors: Maps,
    ) -> Result<()> {
        let arguments = LossArgs {
            slots: self.slots,
            iterations: self.iterations,
            x,
            target,
            picture,
            errors,
            elements,
            keep,
        };
        let shared = shared_bytes([(THREADS / WARP) as usize * size_of::<f32>()]);
        // x is read and written, the target read, the picture written and, for an average, read; the first
        // iteration has nothing to average yet.
        let (numbers, averaged) = match keep {
            0.0 => (4, 0),
            _ => (5, elements.into()),
        };
        let numbers = numbers * u64::from(elements) + u64::from(error_sums(elements));
        let launch = per_thread(elements)
            .with_shared(shared)
            .doing(work(numbers, averaged));
        self.launch(&dip_step::DIP_LOSS, launch, &arguments)
    }

    /// Moves `count` values of every instance against their gradients.
    pub(crate) fn adam(
        &self,
        count: u32,
        learning_rate: f64,
        values: Maps,
        gradients: Maps,
        moments: [Maps; 2],
    ) -> Result<()> {
        let arguments = AdamArgs {
            slots: self.slots,
            iterations: self.iterations,
            values,
            gradients,
            first: moments[0],
            second: moments[1],
            count,
            rates: AdamRates::new(learning_rate),
        };
        // Values and both moments are read and written, gradients read.
        let work = work(7 * u64::from(count), 2 * u64::from(count));
        self.launch(
            &dip_step::DIP_ADAM,
            per_thread(count).doing(work),
            &arguments,
        )
    }

    /// Counts an iteration, once it is done.
    pub(crate) fn count_iteration(&self) -> Result<()> {
        let arguments = IterationsArgs {
            slots: self.slots,
            iterations: self.iterations,
            count: self.count,
        };
        // The slot, and its iterations read and written.
        let work = work(3, 0).times(self.count);
        let launch = per_thread(self.count).doing(work);
        self.device
            .launch(&dip_step::DIP_ITERATIONS, launch, &arguments)
    }
}

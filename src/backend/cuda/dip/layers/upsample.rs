//! Upsampling.

use super::batch::{Batch, Maps, per_thread, work};
use crate::backend::cuda::driver::{self, Address, Result};
use crate::backend::cuda::kernels::dip_upsample;
use crate::dip::Upsample;

driver::arguments! {
    pub(super) struct UpsampleArgs {
        slots: Address,
        x: Maps,
        y: Maps,
        channels: u32,
        height: u32,
        width: u32,
        bilinear: u32,
    }
}

impl Batch<'_> {
    fn upsample_args(&self, mode: Upsample, size: [u32; 3], x: Maps, y: Maps) -> UpsampleArgs {
        let [channels, height, width] = size;
        UpsampleArgs {
            slots: self.slots,
            x,
            y,
            channels,
            height,
            width,
            bilinear: (mode == Upsample::Bilinear).into(),
        }
    }

    /// `y` = `x`, of `size` (channels, height, width), twice as large.
    pub(crate) fn upsample_forward(
        &self,
        mode: Upsample,
        size: [u32; 3],
        x: Maps,
        y: Maps,
    ) -> Result<()> {
        let arguments = self.upsample_args(mode, size, x, y);
        let elements = size.iter().product::<u32>();
        let multiply_adds = match mode {
            Upsample::Nearest => 0,
            Upsample::Bilinear => 4 * 3 * u64::from(elements),
        };
        let work = work(5 * u64::from(elements), multiply_adds);
        let launch = per_thread(4 * elements).doing(work);
        self.launch(&dip_upsample::DIP_UPSAMPLE_FORWARD, launch, &arguments)
    }

    /// The derivative by the upsampled picture's source, which has `size`.
    pub(crate) fn upsample_backward(
        &self,
        mode: Upsample,
        size: [u32; 3],
        dy: Maps,
        dx: Maps,
    ) -> Result<()> {
        let arguments = self.upsample_args(mode, size, dx, dy);
        let elements = size.iter().product::<u32>();
        // On either axis two pixels to each or, less one at the ends, four.
        let terms = |n: u32| match mode {
            Upsample::Nearest => 2 * u64::from(n),
            Upsample::Bilinear => 4 * u64::from(n) - 2,
        };
        let [channels, height, width] = size;
        let work = work(
            5 * u64::from(elements),
            u64::from(channels) * terms(height) * terms(width),
        );
        let launch = per_thread(elements).doing(work);
        self.launch(&dip_upsample::DIP_UPSAMPLE_BACKWARD, launch, &arguments)
    }
}

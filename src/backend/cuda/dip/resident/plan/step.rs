//! One step of a block's program, as the kernel reads it.

use crate::backend::cuda::driver::arguments;

/// Steps that a launch has room for: MAX_STEPS in the kernel's source.
pub(crate) const MAX_STEPS: usize = 192;
/// The place of what is not there: NOWHERE in the kernel's source.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// Numbers that are known of a normalized channel: RECORD in the kernel's source.
pub(crate) const RECORD: usize = 8;
/// Numbers of a pair of channels in a packed weight: PACKED in the kernel's source.
pub(crate) const PACKED: usize = 12;
pub(crate) const WARP: usize = 32;
/// Threads that a multiprocessor has registers for.
pub(crate) const MAX_THREADS: usize = 768;

arguments! {
    /// A feature map in the block's memory.
    #[derive(Debug, Default, PartialEq)]
    pub(crate) struct Map {
        at: u32,
        pitch: u32,
        plane: u32,
    }

    /// What all threads of a block do between two barriers, or nearly so.
    #[derive(Debug, Default, PartialEq)]
    pub(crate) struct Step {
        op: u32,
        inputs: u32,
        outputs: u32,
        height: u32,
        width: u32,
        per_row: u32,
        per_plane: u32,
        stride: u32,
        rows: u32,
        parts: u32,
        crew: u32,
        x: Map,
        y: Map,
        d: Map,
        weight: u32,
        via: u32,
        norm: u32,
        slope: f32,
        margin: u32,
        packed: u32,
        keeps: u32,
    }
}

/// What a step does, numbered as in the kernel's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Op {
    JitterInput,
    Stage,
    Convolve,
    ConvolvePixel,
    Statistics,
    Upsample,
    Loss,
    Weights,
    WeightsPixel,
    Spread,
    SpreadTwo,
    Mirror,
    SpreadPixel,
    Normalized,
    Upsampled,
    Adam,
}

/// 2^31 / n, rounded down, plus 1.
pub(crate) fn reciprocal(n: usize) -> u32 {
    ((1_u64 << 31) / n as u64 + 1) as u32
}

impl Step {
    /// Sets how a block's threads share the work; `None` where the kernel's division does not reach.
    pub(crate) fn share(&mut self, threads: usize) -> Option<()> {
        let (height, width) = (self.height as usize, self.width as usize);
        let (pixels, channels) = (height * width, self.inputs.max(self.outputs) as usize);
        if (channels + 3) as u64 * (pixels * pixels) as u64 >= 1 << 31 {
            return None;
        }
        let is = |op: Op| self.op == op as u32;
        let wide = is(Op::Spread) || (is(Op::Convolve) && self.stride == 1);
        if wide || is(Op::ConvolvePixel) {
            // Four pixels a thread read less; one pixel gives more threads something to do.
            let results = if is(Op::Spread) {
                self.inputs
            } else {
                self.outputs
            } as usize;
            let even = if wide { height } else { pixels }.is_multiple_of(4);
            if even && 2 * (results.div_ceil(4) * pixels / 4) >= threads {
                self.rows = 4;
                self.per_plane = reciprocal(pixels / 4);
            }
        }
        if is(Op::Weights) {
            // A piece of a column for each lane.
            let pieces = (WARP / width).clamp(1, height);
            self.rows = height.div_ceil(pieces) as u32;
        }
        if is(Op::Statistics) || is(Op::Normalized) {
            let parts = threads / WARP / self.inputs as usize;
            self.parts = parts.clamp(1, pixels.div_ceil(WARP)) as u32;
        }
        if is(Op::Stage) || is(Op::Normalized) || is(Op::Upsample) {
            // The fewest rounds: of channels, each of which costs about as much as two pixels, times pixels.
            let warps = threads / WARP;
            let rounds = |crew: &usize| {
                let channels = (self.inputs as usize).div_ceil(warps / crew);
                channels * (2 + pixels.div_ceil(WARP * crew))
            };
            let crews = (1..=warps).filter(|&crew| warps.is_multiple_of(crew));
            self.crew = crews.min_by_key(rounds)? as u32;
        }
        Some(())
    }
}

//! What a block of the resident step does, and where its shared memory has what.
//!
//! The block's memory is one array of float32: values (parameters, then the input), gradients, what is
//! known of normalised channels, partial sums; then feature maps and packed weights, each from the step
//! that writes it first to the one that reads it last, so that they share places; then Adam's moments and
//! the target, if they still fit. Only the convolutions' outputs live from the forward pass to the backward
//! pass. At full resolution three maps are alive at a time: the outputs of `up` and `fuse`, and one more,
//! which is `up`'s input, then the picture and its derivative, then those of the others.
//!
//! | bytes of a block | `tiles` | `cifar` |
//! | --- | --- | --- |
//! | parameters and input | 8,268 | 40,140 |
//! | gradients | 4,172 | 36,044 |
//! | normalised channels, partial sums | 2,016 | 5,248 |
//! | maps and packed weights | 56,848 | 128,704 |
//! | **without what may lie outside** | 71,312 | 210,144 |
//! | Adam's moments | 16,536 | 80,280 |
//! | target | 12,288 | 12,288 |
//! | **blocks with 227 KiB** | 3, moments and target outside | 1, moments outside |
//! | **with 163 KiB** | 2, the same | none |
//! | **with 99 KiB** | 1, all inside | none |

mod memory;
mod program;

use self::program::Network;
use super::super::super::driver::arguments;
use crate::dip::NetSpec;

/// Steps that a launch has room for: MAX_STEPS in the kernel's source.
pub const MAX_STEPS: usize = 192;
/// The place of what is not there: NOWHERE in the kernel's source.
pub const NOWHERE: u32 = u32::MAX;
/// Numbers that are known of a normalised channel: RECORD in the kernel's source.
const RECORD: usize = 8;
/// Numbers of a pair of channels in a packed weight: PACKED in the kernel's source.
const PACKED: usize = 12;
const WARP: usize = 32;
/// Threads that a multiprocessor has registers for.
const MAX_THREADS: usize = 768;
/// Blocks that it is worth to have side by side: more would have few threads each.
const MAX_BLOCKS: usize = 3;
/// Shared memory of a multiprocessor that every block takes besides its own, in bytes. It has room for a
/// block of the largest size.
const RESERVED: usize = 1024;

arguments! {
    /// A feature map in the block's memory.
    #[derive(Debug, Default, PartialEq)]
    pub struct Map {
        at: u32,
        pitch: u32,
        plane: u32,
    }

    /// What all threads of a block do between two barriers, or nearly so.
    #[derive(Debug, Default, PartialEq)]
    pub struct Step {
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
enum Op {
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
    Normalised,
    Upsampled,
    Adam,
}

/// The program of an iteration, and the block's memory.
#[derive(Debug)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub threads: u32,
    /// Numbers in the block's memory.
    pub floats: usize,
    /// Numbers of an instance: parameters, input, those that Adam moves, and of a picture.
    pub parameters: usize,
    pub input: usize,
    pub trained: usize,
    pub elements: usize,
    pub gradients_at: u32,
    pub input_gradient_at: u32,
    pub moments_at: u32,
    pub target_at: u32,
    pub partials_at: u32,
    /// Of the convolutions and their derivatives, an iteration.
    pub multiply_adds: u64,
}

/// Blocks of so many numbers that a multiprocessor holds, of those that are worth it.
fn blocks(floats: usize, shared_limit: u32) -> usize {
    let bytes = (floats * size_of::<f32>()).next_multiple_of(16);
    if bytes > shared_limit as usize {
        return 0;
    }
    ((shared_limit as usize + RESERVED) / (bytes + RESERVED)).min(MAX_BLOCKS)
}

impl Plan {
    /// The plan for blocks of at most `shared_limit` bytes; `None` where the network does not fit. The
    /// specification fits the size.
    pub fn new(spec: &NetSpec, height: usize, width: usize, shared_limit: u32) -> Option<Plan> {
        // Nothing that is larger than the memory needs to be planned.
        let numbers = spec.output_channels.max(spec.input_depth) * height * width;
        if numbers.max(spec.parameter_count()) * size_of::<f32>() > shared_limit as usize {
            return None;
        }
        let network = Network::new(spec, height, width);
        let (floats, places) = network.places();
        let trained = network.trained();
        // Blocks side by side hide one another's waiting, which counts more than what they read again; then
        // as much inside as fits.
        let wanted = blocks(floats, shared_limit);
        let mut plan = network.plan(&places, wanted)?;
        plan.floats = floats;
        let mut keep = |numbers: usize| {
            let kept = blocks(plan.floats + numbers, shared_limit) == wanted;
            let at = plan.floats as u32;
            plan.floats += if kept { numbers } else { 0 };
            if kept { at } else { NOWHERE }
        };
        plan.moments_at = keep(2 * trained);
        plan.target_at = keep(plan.elements);
        Some(plan)
    }
}

/// 2^31 / n, rounded down, plus 1.
fn reciprocal(n: usize) -> u32 {
    ((1_u64 << 31) / n as u64 + 1) as u32
}

impl Step {
    /// Sets how a block's threads share the work; `None` where the kernel's division does not reach.
    fn share(&mut self, threads: usize) -> Option<()> {
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
        if is(Op::Statistics) || is(Op::Normalised) {
            let parts = threads / WARP / self.inputs as usize;
            self.parts = parts.clamp(1, pixels.div_ceil(WARP)) as u32;
        }
        if is(Op::Stage) || is(Op::Normalised) || is(Op::Upsample) {
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

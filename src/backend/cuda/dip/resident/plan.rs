//! What a block of the resident step does, and where its shared memory has what.
//!
//! The block's memory is one array of float32: values (parameters, then the input), gradients, what is
//! known of normalized channels, partial sums; then feature maps and packed weights, each from the step
//! that writes it first to the one that reads it last, so that they share places; then Adam's moments and
//! the target, if they still fit. Only the convolutions' outputs live from the forward pass to the backward
//! pass. At full resolution three maps are alive at a time: the outputs of `up` and `fuse`, and one more,
//! which is `up`'s input, then the picture and its derivative, then those of the others.
//!
//! | bytes of a block | `tiles` | `cifar` |
//! | --- | --- | --- |
//! | parameters and input | 8,268 | 40,140 |
//! | gradients | 4,172 | 36,044 |
//! | normalized channels, partial sums | 2,016 | 5,248 |
//! | maps and packed weights | 56,848 | 128,704 |
//! | **without what may lie outside** | 71,312 | 210,144 |
//! | Adam's moments | 16,536 | 80,280 |
//! | target | 12,288 | 12,288 |
//! | **blocks with 227 KiB** | 3, moments and target outside | 1, moments outside |
//! | **with 163 KiB** | 2, the same | none |
//! | **with 99 KiB** | 1, all inside | none |

mod memory;
mod program;
pub(super) mod step;

use self::program::Network;
pub(super) use self::program::ResidentPlan;
use self::step::NOWHERE;
use crate::dip::NetSpec;

/// Blocks that it is worth to have side by side: more would have few threads each.
const MAX_BLOCKS: usize = 3;
/// Shared memory of a multiprocessor that every block takes besides its own, in bytes. It has room for a
/// block of the largest size.
const RESERVED: usize = 1024;

/// Blocks of so many numbers that a multiprocessor holds, of those that are worth it.
fn blocks(floats: usize, shared_limit: u32) -> usize {
    let bytes = (floats * size_of::<f32>()).next_multiple_of(16);
    if bytes > shared_limit as usize {
        return 0;
    }
    ((shared_limit as usize + RESERVED) / (bytes + RESERVED)).min(MAX_BLOCKS)
}

impl ResidentPlan {
    /// The plan for blocks of at most `shared_limit` bytes; `None` where the network does not fit. The
    /// specification fits the size.
    pub(super) fn new(
        spec: &NetSpec,
        height: usize,
        width: usize,
        shared_limit: u32,
    ) -> Option<ResidentPlan> {
        // Nothing that is larger than the memory needs to be planned.
        let numbers = spec.output_channels.max(spec.input_depth) * height * width;
        if numbers.max(spec.parameter_count()) * size_of::<f32>() > shared_limit as usize {
            return None;
        }
        let network = Network::of(spec, height, width);
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

//! The memory layout: `[image][channels / 16][height][width][16 channels]`.
//!
//! What lies in the lanes beyond a tensor's last channel is unspecified, and no kernel lets it reach
//! a channel that exists.

use crate::backend::cpu::simd::{LANES, Lanes};

/// Groups of 16 that hold `channels`.
pub fn groups(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

/// Writes one image's pixels, CHW, as groups; `plane` is height × width. Lanes beyond the last
/// channel become zero.
///
/// # Panics
/// The lengths do not belong together.
pub fn block(pixels: &[f32], plane: usize, blocked: &mut [Lanes]) {
    let channels = channels_of(pixels.len(), plane, blocked.len());
    for (group, to) in blocked.chunks_exact_mut(plane.max(1)).enumerate() {
        let first = group * LANES;
        let count = (channels - first).min(LANES);
        to.fill(Lanes::ZERO);
        for lane in 0..count {
            let from = &pixels[(first + lane) * plane..][..plane];
            for (to, &from) in to.iter_mut().zip(from) {
                to.0[lane] = from;
            }
        }
    }
}

/// Writes one image's groups as pixels, CHW.
///
/// # Panics
/// The lengths do not belong together.
pub fn unblock(blocked: &[Lanes], plane: usize, pixels: &mut [f32]) {
    channels_of(pixels.len(), plane, blocked.len());
    for (channel, to) in pixels.chunks_exact_mut(plane.max(1)).enumerate() {
        let from = &blocked[channel / LANES * plane..][..plane];
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.0[channel % LANES];
        }
    }
}

/// Numbers of one value per channel as groups, zeros beyond the last.
pub fn block_channels(values: &[f32]) -> Vec<Lanes> {
    let mut blocked = vec![Lanes::ZERO; groups(values.len())];
    block(values, 1, &mut blocked);
    blocked
}

/// The channel count of an image of `pixels` numbers, its blocked length checked.
fn channels_of(pixels: usize, plane: usize, blocked: usize) -> usize {
    let channels = pixels.checked_div(plane).unwrap_or(0);
    assert_eq!(channels * plane, pixels, "a whole number of channels");
    assert_eq!(groups(channels) * plane, blocked, "blocked length");
    channels
}

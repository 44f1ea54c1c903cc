//! Weights in the order in which the kernels read them.

use rayon::prelude::*;

use super::ConvShape;
use super::layout::groups;
use crate::backend::cpu::simd::{LANES, Lanes, zeroed};
use crate::error::{Error, Result};

/// A group of up to 16 consecutive channels of one tensor of a concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    /// First channel in the concatenation.
    first: usize,
    channels: usize,
}

impl Group {
    /// Row of the first channel's weights at `tap`, where the group is on the `from` side.
    fn row(&self, tap: usize, taps: usize) -> usize {
        self.first * taps + tap * self.channels
    }
}

/// The groups of tensors of `sizes` channels each.
fn split(sizes: impl IntoIterator<Item = usize>) -> impl Iterator<Item = Group> {
    let mut end = 0;
    sizes.into_iter().flat_map(move |size| {
        let start = end;
        end += size;
        (0..groups(size)).map(move |group| Group {
            first: start + group * LANES,
            channels: (size - group * LANES).min(LANES),
        })
    })
}

/// A convolution's weights as `[to / 16][from / 16][tap][up to 16 from][16 to]`.
///
/// Forward, `to` are the output channels and `from` the input's; backward to the data the other way
/// round. The input may be several tensors, concatenated along the channels: each has groups of its
/// own. Only `from` channels that exist have a row; lanes of `to` channels that do not are zero.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedWeights {
    to: Vec<Group>,
    from: Vec<Group>,
    taps: usize,
    data: Vec<Lanes>,
}

impl PackedWeights {
    /// Weights for [`conv_forward`](super::conv_forward) from `[out][in][kernel][kernel]`, for an input made of tensors
    /// with `sources` channels each.
    ///
    /// # Errors
    /// The shape is impossible, or the sources or the weights do not fit it.
    pub fn forward(shape: &ConvShape, sources: &[usize], oihw: &[f32]) -> Result<PackedWeights> {
        let mut packed = Self::zeroed_forward(shape, sources)?;
        check_oihw(shape, oihw)?;
        packed.set_oihw(oihw);
        Ok(packed)
    }

    /// Weights for [`conv_backward_data`](super::conv_backward_data) from `[out][in][kernel][kernel]`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn backward(shape: &ConvShape, sources: &[usize], oihw: &[f32]) -> Result<PackedWeights> {
        let mut packed = Self::zeroed_forward(shape, sources)?.zeroed_transpose();
        check_oihw(shape, oihw)?;
        packed.fill(|to, from, tap| oihw[(from * shape.in_channels + to) * shape.taps() + tap]);
        Ok(packed)
    }

    /// Forward weights that are all zero.
    ///
    /// # Errors
    /// The shape is impossible, or the sources do not add up to its input.
    pub fn zeroed_forward(shape: &ConvShape, sources: &[usize]) -> Result<PackedWeights> {
        shape.check()?;
        shape.check_channels(sources.iter().copied())?;
        let to: Vec<Group> = split([shape.out_channels]).collect();
        let len = to.len() * shape.in_channels * shape.taps();
        let data = bytemuck::allocation::try_zeroed_vec(len)
            .map_err(|()| Error::invalid(format!("no memory for the weights of {shape:?}")))?;
        Ok(PackedWeights {
            to,
            from: split(sources.iter().copied()).collect(),
            taps: shape.taps(),
            data,
        })
    }

    /// Zeros of the shape that [`transpose_into`](Self::transpose_into) fills.
    pub fn zeroed_transpose(&self) -> PackedWeights {
        let from: usize = self.to.iter().map(|g| g.channels).sum();
        PackedWeights {
            to: self.from.clone(),
            from: self.to.clone(),
            taps: self.taps,
            data: zeroed(self.from.len() * from * self.taps),
        }
    }

    /// Turns forward weights into backward ones, or back.
    ///
    /// # Panics
    /// `transpose` was not made by [`zeroed_transpose`](Self::zeroed_transpose) of such weights.
    pub fn transpose_into(&self, transpose: &mut PackedWeights) {
        assert!(
            self.to == transpose.from && self.from == transpose.to && self.taps == transpose.taps,
            "weights of one convolution"
        );
        let (stride, taps) = (self.stride(), self.taps);
        let rows = transpose.stride();
        transpose
            .data
            .par_chunks_exact_mut(rows)
            .zip(&self.from)
            .for_each(|(out, from)| {
                // `from` is the transpose's lane side, `to` its row side.
                for (group, to) in self.to.iter().enumerate() {
                    for tap in 0..taps {
                        let rows =
                            &self.data[group * stride + from.row(tap, taps)..][..from.channels];
                        let out = &mut out[to.row(tap, taps)..][..to.channels];
                        for (i, out) in out.iter_mut().enumerate() {
                            for (lane, row) in rows.iter().enumerate() {
                                out.0[lane] = row.0[i];
                            }
                        }
                    }
                }
            });
    }

    /// The packed rows, for element-wise work such as an optimizer's step; lanes of channels that do
    /// not exist must stay zero.
    pub fn data(&self) -> &[Lanes] {
        &self.data
    }

    /// The packed rows.
    pub fn data_mut(&mut self) -> &mut [Lanes] {
        &mut self.data
    }

    /// Sets every weight: `weight(to, from, tap)` with channels of the whole tensors.
    pub fn fill(&mut self, weight: impl Fn(usize, usize, usize) -> f32) {
        let (stride, taps) = (self.stride(), self.taps);
        for (to, rows) in self.to.iter().zip(self.data.chunks_exact_mut(stride)) {
            for from in &self.from {
                for tap in 0..taps {
                    let rows = &mut rows[from.row(tap, taps)..][..from.channels];
                    for (c, row) in rows.iter_mut().enumerate() {
                        for (lane, value) in row.0[..to.channels].iter_mut().enumerate() {
                            *value = weight(to.first + lane, from.first + c, tap);
                        }
                    }
                }
            }
        }
    }

    /// Replaces forward weights by `[out][in][kernel][kernel]`.
    ///
    /// # Panics
    /// The length is not that of the weights.
    pub fn set_oihw(&mut self, oihw: &[f32]) {
        let inputs: usize = self.from.iter().map(|g| g.channels).sum();
        let outputs: usize = self.to.iter().map(|g| g.channels).sum();
        let taps = self.taps;
        assert_eq!(oihw.len(), outputs * inputs * taps, "weights");
        self.fill(|to, from, tap| oihw[(to * inputs + from) * taps + tap]);
    }

    /// Forward weights as `[out][in][kernel][kernel]`.
    pub fn to_oihw(&self) -> Vec<f32> {
        let inputs: usize = self.from.iter().map(|g| g.channels).sum();
        let outputs: usize = self.to.iter().map(|g| g.channels).sum();
        let mut oihw = vec![0.0; outputs * inputs * self.taps];
        for (group, to) in self.to.iter().enumerate() {
            for from in &self.from {
                for tap in 0..self.taps {
                    let start = group * self.stride() + from.row(tap, self.taps);
                    for (c, row) in self.data[start..][..from.channels].iter().enumerate() {
                        for lane in 0..to.channels {
                            let o = to.first + lane;
                            oihw[(o * inputs + from.first + c) * self.taps + tap] = row.0[lane];
                        }
                    }
                }
            }
        }
        oihw
    }

    /// Rows of one `to` group.
    pub(super) fn stride(&self) -> usize {
        self.data.len() / self.to.len()
    }

    /// Of each `from` group: its channels, and the row where its weights start.
    pub(super) fn input_groups(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.from
            .iter()
            .map(|group| (group.channels, group.row(0, self.taps)))
    }

    /// Number of `to` and `from` groups.
    pub(super) fn group_counts(&self) -> [usize; 2] {
        [self.to.len(), self.from.len()]
    }

    /// Refuses weights that were packed for another convolution.
    pub(super) fn check(
        &self,
        shape: &ConvShape,
        to: impl IntoIterator<Item = usize>,
        from: impl IntoIterator<Item = usize>,
    ) -> Result<()> {
        let same =
            |groups: &[Group], of: &mut dyn Iterator<Item = Group>| groups.iter().copied().eq(of);
        if self.taps == shape.taps()
            && same(&self.to, &mut split(to))
            && same(&self.from, &mut split(from))
        {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "weights that were packed for another convolution than {shape:?}, another direction or other tensors"
        )))
    }
}

fn check_oihw(shape: &ConvShape, oihw: &[f32]) -> Result<()> {
    let want = shape.out_channels * shape.in_channels * shape.taps();
    if oihw.len() == want {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a convolution of {want} weights got {}",
        oihw.len()
    )))
}

//! A network's convolutions and normalizations, and where their parameters are.

use std::collections::HashMap;
use std::ops::Range;

use crate::backend::Precision;
use crate::backend::cpu::blocked::{ConvShape, Padding, Pads, layout::groups};
use crate::dip::NetSpec;
use crate::error::Result;

/// One convolution.
pub(super) struct Conv {
    pub shape: ConvShape,
    /// Channels of the tensors that its input is made of.
    pub sources: Vec<usize>,
    /// Whether its factors are rounded to bfloat16.
    pub rounded: bool,
    /// Its parameters in the vector that all backends share.
    pub weight: Range<usize>,
    pub bias: Range<usize>,
}

impl Conv {
    /// Groups of lanes of its packed weights.
    pub(super) fn packed(&self) -> usize {
        groups(self.shape.out_channels) * self.shape.in_channels * self.shape.taps()
    }

    /// Groups of lanes of its output.
    pub(super) fn output(&self) -> usize {
        groups(self.shape.out_channels) * self.shape.output().iter().product::<usize>()
    }
}

/// One batch normalization.
pub(super) struct Norm {
    /// Channels of the tensors that it normalizes together.
    pub tensors: Vec<usize>,
    /// Its parameters in the vector that all backends share.
    pub weight: Range<usize>,
    pub bias: Range<usize>,
}

impl Norm {
    /// Channel groups of all tensors.
    pub(super) fn groups(&self) -> usize {
        self.tensors.iter().map(|&c| groups(c)).sum()
    }
}

/// Numbers of a level's layers. Convolution `i` is followed by normalization `i`; the merge
/// normalizations come after those.
pub(super) struct Level {
    pub skip: Option<usize>,
    pub down: usize,
    pub mid: usize,
    pub merge: usize,
    pub up: usize,
    pub fuse: usize,
    /// Height and width of the level's input and output.
    pub size: [usize; 2],
    /// Channels of what is upsampled.
    pub deeper: usize,
}

/// A network that fits pictures of one size.
pub(super) struct BlockedPlan {
    pub spec: NetSpec,
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// The last one leads to the picture and has no normalization.
    pub convs: Vec<Conv>,
    pub norms: Vec<Norm>,
    pub levels: Vec<Level>,
    /// Numbers in the parameter vector.
    pub parameters: usize,
}

impl BlockedPlan {
    /// # Errors
    /// The network is impossible or cannot fit that size.
    pub(super) fn new(
        spec: &NetSpec,
        height: usize,
        width: usize,
        precision: Precision,
    ) -> Result<BlockedPlan> {
        spec.check_size(height, width)?;
        let mut builder = Builder {
            places: spec
                .parameters()
                .into_iter()
                .map(|p| (p.name.clone(), p.offset..p.offset + p.len()))
                .collect(),
            padding: spec.padding,
            precision,
            convs: vec![],
            norms: vec![],
        };
        let mut levels = vec![];
        for k in 0..spec.levels() {
            let size = [height >> k, width >> k];
            let half = size.map(|n| n / 2);
            let (input, deeper) = (spec.level_input(k), spec.level_deeper(k));
            let (down, up, skip) = (spec.down[k], spec.up[k], spec.skip[k]);
            let name = |layer: &str| format!("level{k}.{layer}");
            let merged: Vec<usize> = [skip, deeper].into_iter().filter(|&c| c > 0).collect();
            let mut unit = |layer: &str, sources: &[usize], out, kernel, stride, size| {
                builder.conv(&name(layer), sources, out, kernel, stride, size)?;
                Ok::<_, crate::Error>(builder.norm(&name(layer), &[out]))
            };
            let skip_unit = match skip {
                0 => None,
                _ => Some(unit("skip", &[input], skip, 1, 1, size)?),
            };
            levels.push(Level {
                skip: skip_unit,
                down: unit("down", &[input], down, 3, 2, size)?,
                mid: unit("mid", &[down], down, 3, 1, half)?,
                up: unit("up", &merged, up, 3, 1, size)?,
                fuse: unit("fuse", &[up], up, 1, 1, size)?,
                merge: 0,
                size,
                deeper,
            });
        }
        let size = [height, width];
        builder.conv("out", &[spec.up[0]], spec.output_channels, 1, 1, size)?;
        for (k, level) in levels.iter_mut().enumerate() {
            let merged: Vec<usize> = [spec.skip[k], level.deeper]
                .into_iter()
                .filter(|&c| c > 0)
                .collect();
            level.merge = builder.norm(&format!("level{k}.merge"), &merged);
        }
        Ok(BlockedPlan {
            spec: spec.clone(),
            size,
            convs: builder.convs,
            norms: builder.norms,
            levels,
            parameters: spec.parameter_count(),
        })
    }

    /// The convolution to the picture.
    pub(super) fn last(&self) -> usize {
        self.convs.len() - 1
    }
}

struct Builder {
    places: HashMap<String, Range<usize>>,
    padding: Padding,
    precision: Precision,
    convs: Vec<Conv>,
    norms: Vec<Norm>,
}

impl Builder {
    fn place(&self, layer: &str, tensor: &str) -> Range<usize> {
        self.places[&format!("{layer}_{tensor}")].clone()
    }

    fn conv(
        &mut self,
        layer: &str,
        sources: &[usize],
        out_channels: usize,
        kernel: usize,
        stride: usize,
        input: [usize; 2],
    ) -> Result<()> {
        let shape = ConvShape {
            in_channels: sources.iter().sum(),
            out_channels,
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            pads: Pads::all(kernel / 2),
            padding: self.padding,
            input,
        };
        shape.check()?;
        self.convs.push(Conv {
            shape,
            sources: sources.to_vec(),
            rounded: self.precision == Precision::Bf16
                && shape.in_channels.min(out_channels) >= Precision::FEWEST_CHANNELS as usize,
            weight: self.place(layer, "conv.weight"),
            bias: self.place(layer, "conv.bias"),
        });
        Ok(())
    }

    fn norm(&mut self, layer: &str, tensors: &[usize]) -> usize {
        self.norms.push(Norm {
            tensors: tensors.to_vec(),
            weight: self.place(layer, "bn.weight"),
            bias: self.place(layer, "bn.bias"),
        });
        self.norms.len() - 1
    }
}

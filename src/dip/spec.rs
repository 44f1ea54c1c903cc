//! Network specification, presets and the parameter layout all backends share.

use crate::error::{Error, Result};

/// Slope of LeakyReLU for negative inputs (Ulyanov et al. 2018).
pub const LEAKY_SLOPE: f64 = 0.2;
/// Added to the variance in batch normalization (PyTorch's default).
pub const BN_EPSILON: f64 = 1e-5;
/// Adam's decay of the first moment (PyTorch's default).
pub const ADAM_BETA1: f64 = 0.9;
/// Adam's decay of the second moment (PyTorch's default).
pub const ADAM_BETA2: f64 = 0.999;
/// Added to Adam's denominator (PyTorch's default).
pub const ADAM_EPSILON: f64 = 1e-8;

/// How a level's lower half returns to its resolution. Factor 2; bilinear as PyTorch's
/// `align_corners=False`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Upsample {
    /// Each value is repeated.
    Nearest,
    /// Straight lines between the values.
    Bilinear,
}

/// What a 3×3 convolution sees beyond the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Padding {
    /// Zeros.
    Zero,
    /// Reflection, the edge not repeated.
    Reflect,
}

/// A DIP network, the "skip" encoder-decoder of Ulyanov et al., "Deep Image Prior" (CVPR 2018), and
/// how it is fitted.
///
/// Level 0 is full resolution. Level k maps its input to `[skip 1×1 conv, BN, LeakyReLU]` beside
/// `[down 3×3 stride-2 conv, BN, LeakyReLU, mid 3×3 conv, BN, LeakyReLU, (level k+1), upsample ×2]`;
/// concatenates (skip first); then `merge BN, up 3×3 conv, BN, LeakyReLU, fuse 1×1 conv, BN,
/// LeakyReLU`. After level 0, a 1×1 convolution to the image's channels and a sigmoid. Batch
/// normalization uses the statistics of its own instance.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct NetSpec {
    /// Channels of the input `z`.
    pub input_depth: usize,
    /// Channels of the picture.
    pub output_channels: usize,
    /// Channels after each level's down and mid convolutions.
    pub down: Vec<usize>,
    /// Channels after each level's up and fuse convolutions.
    pub up: Vec<usize>,
    /// Channels of each level's skip branch; 0 for none.
    pub skip: Vec<usize>,
    /// How every level's lower half returns to its resolution.
    pub upsample: Upsample,
    /// What every 3×3 convolution sees beyond the edge.
    pub padding: Padding,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Whether Adam moves `z` too (DIPDefend does).
    #[serde(rename = "optimise_input")]
    // the name in the golden files and in the runs of earlier versions
    pub optimize_input: bool,
    /// σ of the Gaussian noise added to `z` anew in each iteration; 0 for none.
    pub jitter: f32,
    /// γ of the outputs' exponential average `o ← γ·o + (1−γ)·G`, which starts at the first output; 0 for none.
    pub averaging: f32,
}

/// A network whose shape was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// DIPDefend's network for ImageNet: 1,043 parameters a 32×32 tile (Dai et al. 2020).
    Tiles,
    /// DIPDefend's network for CIFAR-10: 9,011 parameters a 32×32 tile (Dai et al. 2020).
    Cifar,
    /// The default of Ulyanov et al.'s code, for the whole image.
    Skip,
    /// Ulyanov et al.'s denoising network, for the whole image.
    Wide,
}

impl Preset {
    /// Every preset, in the order `bench` reports them.
    pub const ALL: [Preset; 4] = [Preset::Tiles, Preset::Cifar, Preset::Skip, Preset::Wide];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Preset::Tiles => "tiles",
            Preset::Cifar => "cifar",
            Preset::Skip => "skip",
            Preset::Wide => "wide",
        }
    }

    /// Tile size in pixels; `None` for the whole image.
    pub fn tile(self) -> Option<usize> {
        match self {
            Preset::Tiles | Preset::Cifar => Some(32),
            Preset::Skip | Preset::Wide => None,
        }
    }

    /// The network, for pictures of `output_channels` channels.
    pub fn spec(self, output_channels: usize) -> NetSpec {
        let (input_depth, channels, skip, padding, optimize_input): (_, &[usize], _, _, _) =
            match self {
                Preset::Tiles => (1, &[3, 3, 4], 0, Padding::Zero, true),
                Preset::Cifar => (1, &[4, 8, 16], 0, Padding::Zero, true),
                Preset::Skip => (32, &[16, 32, 64, 128, 128], 4, Padding::Reflect, false),
                Preset::Wide => (32, &[128; 5], 4, Padding::Reflect, false),
            };
        NetSpec {
            input_depth,
            output_channels,
            down: channels.to_vec(),
            up: channels.to_vec(),
            skip: vec![skip; channels.len()],
            upsample: Upsample::Bilinear,
            padding,
            learning_rate: 0.01,
            optimize_input,
            jitter: 0.0,
            averaging: 0.0,
        }
    }
}

/// One tensor of a network's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// `level0.down_conv.weight`, `out_conv.bias` and so on.
    pub name: String,
    /// `[out, in, kernel, kernel]` for weights of convolutions, `[channels]` otherwise.
    pub shape: Vec<usize>,
    /// Where it starts in an instance's parameter vector.
    pub offset: usize,
    /// Inputs to one output of the convolution it belongs to: its initial values are uniform in
    /// `±1/sqrt(fan_in)`, as PyTorch's `Conv2d`. `None` in batch normalization, which starts with
    /// weight 1 and bias 0.
    pub fan_in: Option<usize>,
}

impl Parameter {
    /// Numbers in the tensor.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }
    /// Whether it holds no number.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl NetSpec {
    /// The most levels a network may have: more would need images of over 65,536 pixels a side.
    const MAX_LEVELS: usize = 16;
    /// The most channels a convolution may have.
    const MAX_CHANNELS: usize = 4096;
    /// The longest side of a picture, in pixels.
    const MAX_SIDE: usize = 1 << 16;

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.down.len()
    }

    /// What a side of the picture must be a multiple of.
    pub fn granularity(&self) -> usize {
        1 << self.levels()
    }

    /// Channels of level `k`'s input.
    pub fn level_input(&self, k: usize) -> usize {
        if k == 0 {
            self.input_depth
        } else {
            self.down[k - 1]
        }
    }

    /// Channels that level `k` upsamples: of level `k + 1`'s output, or of its own mid convolution's at the
    /// deepest level.
    pub fn level_deeper(&self, k: usize) -> usize {
        if k + 1 == self.levels() {
            self.down[k]
        } else {
            self.up[k + 1]
        }
    }

    /// Checks the specification itself.
    pub fn validate(&self) -> Result<()> {
        let levels = self.levels();
        if levels == 0 || levels > Self::MAX_LEVELS {
            return Err(Error::invalid(format!(
                "a DIP network needs 1 to {} levels, not {levels}",
                Self::MAX_LEVELS
            )));
        }
        if self.up.len() != levels || self.skip.len() != levels {
            return Err(Error::invalid(format!(
                "a DIP network's down, up and skip lists must be equally long, not {levels}, {} and {}",
                self.up.len(),
                self.skip.len()
            )));
        }
        let positive = [self.input_depth, self.output_channels];
        for &channels in positive.iter().chain(&self.down).chain(&self.up) {
            if channels == 0 || channels > Self::MAX_CHANNELS {
                return Err(Error::invalid(format!(
                    "a DIP network's layer needs 1 to {} channels, not {channels}",
                    Self::MAX_CHANNELS
                )));
            }
        }
        if let Some(skip) = self.skip.iter().find(|&&s| s > Self::MAX_CHANNELS) {
            return Err(Error::invalid(format!(
                "a skip branch has at most {} channels, not {skip}",
                Self::MAX_CHANNELS
            )));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            let wrong = format!("must be above 0, not {}", self.learning_rate);
            return Err(Error::option("learning_rate", wrong));
        }
        if !(self.jitter.is_finite() && self.jitter >= 0.0) {
            let wrong = format!("must be 0 or above, not {}", self.jitter);
            return Err(Error::option("jitter", wrong));
        }
        if !(0.0..1.0).contains(&self.averaging) {
            let wrong = format!("must be in [0, 1), not {}", self.averaging);
            return Err(Error::option("averaging", wrong));
        }
        Ok(())
    }

    /// Checks that the network can fit pictures of `height × width`.
    ///
    /// # Errors
    /// Names the nearest sizes that work.
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        self.validate()?;
        if height.max(width) > Self::MAX_SIDE {
            return Err(Error::invalid(format!(
                "a DIP network fits at most {} pixels a side, not {height}×{width}; use a smaller tile",
                Self::MAX_SIDE
            )));
        }
        let step = self.granularity();
        // Reflection needs a neighbor to reflect at the deepest level too.
        let least = match self.padding {
            Padding::Zero => step,
            Padding::Reflect => 2 * step,
        };
        let nearest = |side: usize| {
            let down = (side / step * step).max(least);
            let up = side.next_multiple_of(step).max(least);
            if down == up {
                format!("{up}")
            } else {
                format!("{down} or {up}")
            }
        };
        let works = |side: usize| side >= least && side.is_multiple_of(step);
        if works(height) && works(width) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a DIP network of {} levels cannot halve {height}×{width} (height × width) evenly; the nearest sizes that work: height {}, width {}",
            self.levels(),
            nearest(height),
            nearest(width)
        )))
    }

    /// Every parameter tensor, in the order in which all backends keep an instance's parameters:
    /// level by level `skip_conv skip_bn down_conv down_bn mid_conv mid_bn merge_bn up_conv up_bn
    /// fuse_conv fuse_bn`, each weight before its bias, then `out_conv`.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut list = Layout::default();
        for k in 0..self.levels() {
            let input = self.level_input(k);
            let (down, up, skip) = (self.down[k], self.up[k], self.skip[k]);
            let name = |layer: &str| format!("level{k}.{layer}");
            if skip > 0 {
                list.conv(&name("skip"), skip, input, 1);
            }
            list.conv(&name("down"), down, input, 3);
            list.conv(&name("mid"), down, down, 3);
            let merged = skip + self.level_deeper(k);
            list.norm(&name("merge"), merged);
            list.conv(&name("up"), up, merged, 3);
            list.conv(&name("fuse"), up, up, 1);
        }
        list.bare_conv("out", self.output_channels, self.up[0], 1);
        list.parameters
    }

    /// Multiply-adds of the convolutions of one forward pass over a picture of `height × width`.
    pub fn multiply_adds(&self, height: usize, width: usize) -> u64 {
        let mut sum = self.up[0] * self.output_channels * height * width;
        for k in 0..self.levels() {
            let pixels = (height >> k) * (width >> k);
            let (input, down, up, skip) =
                (self.level_input(k), self.down[k], self.up[k], self.skip[k]);
            sum += pixels / 4 * 9 * (input * down + down * down);
            sum += pixels * (input * skip + 9 * (skip + self.level_deeper(k)) * up + up * up);
        }
        sum as u64
    }

    /// Numbers in an instance's parameter vector.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(Parameter::len).sum()
    }
}

/// Builds the parameter list.
#[derive(Default)]
struct Layout {
    parameters: Vec<Parameter>,
    length: usize,
}

impl Layout {
    fn push(&mut self, name: String, shape: Vec<usize>, fan_in: Option<usize>) {
        let parameter = Parameter {
            name,
            shape,
            offset: self.length,
            fan_in,
        };
        self.length += parameter.len();
        self.parameters.push(parameter);
    }

    fn bare_conv(&mut self, name: &str, out: usize, input: usize, kernel: usize) {
        let fan_in = Some(input * kernel * kernel);
        self.push(
            format!("{name}_conv.weight"),
            vec![out, input, kernel, kernel],
            fan_in,
        );
        self.push(format!("{name}_conv.bias"), vec![out], fan_in);
    }

    fn norm(&mut self, name: &str, channels: usize) {
        self.push(format!("{name}_bn.weight"), vec![channels], None);
        self.push(format!("{name}_bn.bias"), vec![channels], None);
    }

    fn conv(&mut self, name: &str, out: usize, input: usize, kernel: usize) {
        self.bare_conv(name, out, input, kernel);
        self.norm(name, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_the_published_parameter_counts() {
        assert_eq!(Preset::Tiles.spec(3).parameter_count(), 1_043);
        assert_eq!(Preset::Cifar.spec(3).parameter_count(), 9_011);
    }

    #[test]
    fn parameters_lie_end_to_end() {
        let parameters = Preset::Skip.spec(3).parameters();
        let mut end = 0;
        for parameter in &parameters {
            assert_eq!(parameter.offset, end, "{}", parameter.name);
            end += parameter.len();
        }
        assert_eq!(parameters.last().unwrap().name, "out_conv.bias");
    }

    #[test]
    fn refused_sizes_name_the_nearest_that_work() {
        let spec = Preset::Tiles.spec(3);
        assert!(spec.check_size(32, 8).is_ok());
        let message = spec.check_size(30, 36).unwrap_err().to_string();
        assert!(
            message.contains("height 24 or 32, width 32 or 40"),
            "{message}"
        );
        let message = Preset::Skip
            .spec(3)
            .check_size(32, 224)
            .unwrap_err()
            .to_string();
        assert!(message.contains("height 64, width 224"), "{message}");
        let message = spec.check_size(usize::MAX, 32).unwrap_err().to_string();
        assert!(message.contains("smaller tile"), "{message}");
    }

    #[test]
    fn impossible_networks_are_refused() {
        let good = Preset::Cifar.spec(3);
        let broken = [
            NetSpec {
                down: vec![],
                up: vec![],
                skip: vec![],
                ..good.clone()
            },
            NetSpec {
                up: vec![4, 8],
                ..good.clone()
            },
            NetSpec {
                down: vec![4, 0, 16],
                ..good.clone()
            },
            NetSpec {
                averaging: 1.0,
                ..good.clone()
            },
            NetSpec {
                jitter: f32::NAN,
                ..good.clone()
            },
            NetSpec {
                learning_rate: 0.0,
                ..good.clone()
            },
        ];
        for spec in broken {
            assert!(spec.validate().is_err(), "{spec:?}");
        }
        assert!(good.validate().is_ok());
    }
}

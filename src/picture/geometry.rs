//! How pictures are made the classifier's size: the terms of sidecars, the command line and
//! [`Preprocess`](super::Preprocess).

use serde::Serialize;

use super::check_size;

/// Height and width, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Rows, at least 1.
    pub height: usize,
    /// Columns, at least 1.
    pub width: usize,
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    /// `224x320` (height first), or `224` for both.
    fn from_str(text: &str) -> Result<Size, String> {
        let refused = || format!("{text} is no size; write HEIGHTxWIDTH, such as 224x224");
        let (height, width) = text.split_once(['x', '×']).unwrap_or((text, text));
        let size = Size {
            height: height.trim().parse().map_err(|_| refused())?,
            width: width.trim().parse().map_err(|_| refused())?,
        };
        check_size(size.width, size.height).map_err(|message| format!("the size {message}"))?;
        Ok(size)
    }
}

/// The normalization `(x − mean) / std` of each channel, for pixels in `[0, 1]`.
///
/// The classifier's graph applies it before the first layer; pictures stay in `[0, 1]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Normalization {
    /// The mean of the red, green and blue channel.
    pub mean: [f32; 3],
    /// The standard deviation of the red, green and blue channel; never 0.
    pub std: [f32; 3],
}

/// How a picture is resized before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// It is not resized.
    Keep,
    /// To exactly this size, which may change the aspect ratio.
    Exact(Size),
    /// The shorter side to this many pixels, the longer in proportion, rounded down.
    Shorter(usize),
    /// In proportion, to the smallest size that covers this one, rounded to nearest.
    Cover(Size),
    /// In proportion, to the largest size that fits into this one, rounded to nearest.
    Inside(Size),
}

/// Where the center crop starts if the margin is odd, and which side gets more padding if the picture is smaller
/// than the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Centering {
    /// torchvision: half the margin, halves to even; padding's odd row goes below.
    Torchvision,
    /// transformers: half the margin, rounded down; padding's odd row goes above.
    Transformers,
}

impl Centering {
    /// Where a crop of `crop` pixels starts on an axis of `n` pixels; negative if padding comes first.
    pub fn offset(self, n: usize, crop: usize) -> isize {
        let (n, crop) = (n as isize, crop as isize);
        match self {
            Centering::Torchvision if n >= crop => {
                ((n - crop) as f64 / 2.0).round_ties_even() as isize
            }
            Centering::Torchvision => -((crop - n) / 2),
            Centering::Transformers => (n - crop).div_euclid(2),
        }
    }
}

/// How a sidecar or the command line describes resizing, before the size is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// The classifier's size.
    pub size: Option<Size>,
    pub mode: Mode,
    pub scale: Scale,
    pub crop: bool,
    pub centering: Centering,
}

/// What resizing does if the aspect ratios differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No resizing.
    Keep,
    /// The shorter side is resized to the size, and the longer one is cropped.
    Shorter,
    /// Both sides are resized to the size.
    Squash,
    /// The longer side is resized to the size, and a border is added.
    Border,
}

/// How much larger than the crop the resized picture is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// The crop's share of the side: timm's `crop_pct`.
    Percent(f64),
    /// The resized picture's size for a crop of a certain size, and in proportion for others.
    Edges { resize: Size, crop: Size },
}

impl Default for Geometry {
    /// Pictures are not resized.
    fn default() -> Self {
        Geometry {
            size: None,
            mode: Mode::Keep,
            scale: Scale::Percent(1.0),
            crop: false,
            centering: Centering::Torchvision,
        }
    }
}

impl Geometry {
    /// How pictures are resized for a classifier of `size`.
    pub fn resize(&self, size: Size) -> Resize {
        let to = match self.scale {
            Scale::Percent(pct) => {
                let scaled = |n: usize| (n as f64 / pct).floor() as usize;
                Size {
                    height: scaled(size.height),
                    width: scaled(size.width),
                }
            }
            Scale::Edges { resize, crop } => Size {
                height: size.height * resize.height / crop.height,
                width: size.width * resize.width / crop.width,
            },
        };
        match self.mode {
            Mode::Keep => Resize::Keep,
            Mode::Squash => Resize::Exact(to),
            Mode::Border => Resize::Inside(to),
            Mode::Shorter if to.height == to.width => Resize::Shorter(to.height),
            Mode::Shorter => Resize::Cover(to),
        }
    }
}

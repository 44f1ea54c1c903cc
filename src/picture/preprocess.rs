//! Makes a picture of any size the classifier's input: resizing, cropping, and the classifier's normalization.

use serde::Serialize;

use super::geometry::{Centering, Mode, Normalization, Resize, Scale, Size};
use super::resample::{Filter, resample_f32, resample_u8};
use super::sidecar::Sidecar;
use super::{Picture, check_size, rgb};
use crate::error::{Error, Result};

/// How pictures are made the classifier's input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preprocess {
    /// The size that the classifier takes.
    pub size: Size,
    /// How the picture is resized before the crop.
    pub resize: Resize,
    /// Whether the picture is cropped or padded to `size` after resizing.
    pub crop: bool,
    /// Where the crop or the padding goes when the margin is odd.
    pub centering: Centering,
    /// The filter that resizes.
    pub filter: Filter,
    /// The color of padding, in `[0, 1]`.
    pub fill: [f32; 3],
    /// The classifier's normalization; `None` if it takes pixels in `[0, 1]`.
    pub normalization: Option<Normalization>,
    /// Whether the classifier takes blue, green, red. Pictures and `normalization` stay red, green, blue; the
    /// classifier turns the channels round behind the normalization.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bgr: bool,
    /// Names of the sidecar's fields that may change pixels and are not applied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// What the user sets in place of a sidecar's values; `None` for the sidecar's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// The size that the classifier takes.
    pub size: Option<Size>,
    /// The crop's share of the resized picture's side, above 0 and at most 1.
    pub crop_pct: Option<f64>,
    /// The filter that resizes.
    pub filter: Option<Filter>,
    /// The mean to subtract from red, green and blue, pixels in `[0, 1]`.
    pub mean: Option<[f32; 3]>,
    /// The standard deviation to divide red, green and blue by, pixels in `[0, 1]`.
    pub std: Option<[f32; 3]>,
}

impl Preprocess {
    /// Combines a sidecar, what overrides it, and the size that the model itself fixes.
    ///
    /// Without a sidecar, `size` and `crop_pct`, pictures are not resized. With `size` but no sidecar, the shorter
    /// side is resized to it and the center is cropped (`crop_pct` 1).
    ///
    /// # Errors
    /// No size is known, or the sidecar's or the user's size is not the model's; the message names both.
    pub fn resolve(
        sidecar: Option<&Sidecar>,
        overrides: &Overrides,
        model: Option<Size>,
    ) -> Result<Preprocess> {
        let mut geometry = sidecar.map(|s| s.geometry).unwrap_or_default();
        if let Some(size) = overrides.size {
            geometry.size = Some(size);
        }
        if let Some(pct) = overrides.crop_pct {
            geometry.scale = Scale::Percent(pct);
        }
        if overrides.size.is_some() || overrides.crop_pct.is_some() {
            geometry.crop = true;
            if matches!(geometry.mode, Mode::Keep) {
                geometry.mode = Mode::Shorter;
            }
        }
        let size = match (geometry.size, model) {
            (Some(size), Some(model)) if size != model => {
                let source = match (overrides.size, sidecar) {
                    (None, Some(sidecar)) => sidecar.path.display().to_string(),
                    _ => "the size that was asked for".into(),
                };
                let contradiction = format!(
                    "the classifier takes pictures of {model} (height x width) and {source} says {size}"
                );
                return Err(Error::invalid(contradiction).hint(format!("use `size={model}`")));
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => {
                let open = Error::invalid("the classifier leaves its input size open");
                return Err(open.hint("say it with `size=HEIGHTxWIDTH`"));
            }
        };
        let normalization = sidecar.and_then(|s| s.normalization);
        let normalization = match (overrides.mean, overrides.std, normalization) {
            (None, None, n) => n,
            (mean, std, n) => Some(Normalization {
                mean: mean.or(n.map(|n| n.mean)).unwrap_or([0.0; 3]),
                std: std.or(n.map(|n| n.std)).unwrap_or([1.0; 3]),
            }),
        };
        let resize = geometry.resize(size);
        if let Resize::Exact(to) | Resize::Cover(to) | Resize::Inside(to) = resize {
            check_size(to.width, to.height)
                .map_err(|message| Error::invalid(format!("the size to resize to {message}")))?;
        }
        // A border has the color that normalization maps to 0; other padding is black.
        let mean = normalization.map_or([0.0; 3], |n| n.mean);
        let fill = match geometry.mode {
            Mode::Border => mean.map(|m| (m.clamp(0.0, 1.0) * 255.0).round_ties_even() / 255.0),
            _ => [0.0; 3],
        };
        Ok(Preprocess {
            size,
            resize,
            crop: geometry.crop,
            centering: geometry.centering,
            filter: overrides
                .filter
                .or(sidecar.map(|s| s.filter))
                .unwrap_or(Filter::Bilinear),
            fill,
            normalization,
            bgr: sidecar.is_some_and(|s| s.bgr),
            ignored: sidecar.map(|s| s.ignored.clone()).unwrap_or_default(),
        })
    }

    /// Makes a picture the classifier's input.
    ///
    /// A picture that already has the classifier's size is not changed, so that pictures from an attack or an
    /// earlier run are not resized again.
    ///
    /// # Errors
    /// The picture fails [`Picture::check`]; it has another size and it is not known how to resize it, or it is so
    /// narrow that resizing it would take too much memory.
    pub fn apply(&self, picture: Picture) -> Result<Picture> {
        picture.check()?;
        let Size { height, width } = self.size;
        let wanted = rgb(height, width);
        if picture.shape == wanted {
            return Ok(picture);
        }
        let picture = self.resized(picture)?;
        let picture = match self.crop {
            true => self.cropped(&picture),
            false => picture,
        };
        if picture.shape != wanted {
            let there = Size {
                height: picture.shape.height,
                width: picture.shape.width,
            };
            let different = format!(
                "the picture is {there} (height x width) and the classifier takes {}",
                self.size
            );
            return Err(
                Error::invalid(different).hint(format!("resize it with `size={}`", self.size))
            );
        }
        Ok(picture)
    }

    /// The size of a picture of `height × width` after resizing.
    fn target(&self, height: usize, width: usize) -> Size {
        let (h, w) = (height as f64, width as f64);
        let scaled = |ratio: f64| Size {
            height: (h / ratio).round_ties_even().max(1.0) as usize,
            width: (w / ratio).round_ties_even().max(1.0) as usize,
        };
        let ratios = |to: Size| (h / to.height as f64, w / to.width as f64);
        match self.resize {
            Resize::Keep => Size { height, width },
            Resize::Exact(size) => size,
            Resize::Shorter(side) => {
                let (short, long) = (height.min(width), height.max(width));
                // A floating-point quotient, as in Python's `int(size * long / short)`.
                let long = ((side * long) as f64 / short as f64) as usize;
                match height <= width {
                    true => Size {
                        height: side,
                        width: long,
                    },
                    false => Size {
                        height: long,
                        width: side,
                    },
                }
            }
            Resize::Cover(to) => scaled(ratios(to).0.min(ratios(to).1)),
            Resize::Inside(to) => scaled(ratios(to).0.max(ratios(to).1)),
        }
    }

    fn resized(&self, picture: Picture) -> Result<Picture> {
        let Size { height, width } = self.target(picture.shape.height, picture.shape.width);
        let (from, to) = (picture.shape, rgb(height, width));
        if from == to {
            return Ok(picture);
        }
        check_size(width, height).map_err(|message| {
            let Picture { shape, .. } = picture;
            Error::invalid(format!(
                "the picture is {}x{} (height x width), and resized {message}",
                shape.height, shape.width
            ))
        })?;
        if !picture.eight_bit {
            return Ok(Picture {
                pixels: resample_f32(&picture.pixels, from, to, self.filter),
                shape: to,
                eight_bit: false,
            });
        }
        let bytes = resample_u8(&picture.to_rgb8(), from, to, self.filter);
        Ok(Picture::from_rgb8(&bytes, to))
    }

    /// The center of a picture, padded if the picture is smaller than `size`.
    fn cropped(&self, picture: &Picture) -> Picture {
        let Size { height, width } = self.size;
        let from = picture.shape;
        let top = self.centering.offset(from.height, height);
        let left = self.centering.offset(from.width, width);
        let source = |i: usize, offset: isize, n: usize| {
            usize::try_from(i as isize + offset).ok().filter(|&i| i < n)
        };
        let mut pixels = Vec::with_capacity(3 * height * width);
        for channel in 0..3 {
            let plane = &picture.pixels[channel * from.height * from.width..];
            for y in 0..height {
                let y = source(y, top, from.height);
                pixels.extend((0..width).map(|x| match (y, source(x, left, from.width)) {
                    (Some(y), Some(x)) => plane[y * from.width + x],
                    _ => self.fill[channel],
                }));
            }
        }
        Picture {
            shape: rgb(height, width),
            pixels,
            eight_bit: picture.eight_bit,
        }
    }
}

#[cfg(test)]
mod tests;

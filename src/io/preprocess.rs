//! From a picture of any size to the classifier's input: resize, crop, and what the classifier's
//! normalisation is.

use serde::Serialize;

use super::dataset::{Dataset, Item};
use super::picture::{Picture, check_size, rgb};
use super::resample::{Filter, resample_f32, resample_u8};
use super::sidecar::Sidecar;
use crate::error::{Error, Result};

/// Height and width, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    pub height: usize,
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

/// What the classifier subtracts from, and then divides, each channel of pixels in `[0, 1]` by.
///
/// Pixels here stay in `[0, 1]`; the classifier applies this in front of its first layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Normalization {
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// How a picture reaches the size from which the crop is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Not at all.
    Keep,
    /// To exactly this size, whatever becomes of the aspect.
    Exact(Size),
    /// The shorter side to this, the longer in proportion, rounded down.
    Shorter(usize),
    /// In proportion, as small as covers this size, rounded to nearest.
    Cover(Size),
    /// In proportion, as large as fits this size, rounded to nearest.
    Inside(Size),
}

/// Where the centre crop starts if the margin is odd, and where the padding of a picture that is
/// smaller than the crop goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Centering {
    /// torchvision: half the margin, halves to even; padding's odd row goes below.
    Torchvision,
    /// transformers: half the margin, rounded down; padding's odd row goes above.
    Transformers,
}

impl Centering {
    /// Where a crop of `crop` starts on an axis of `n`; negative where padding comes first.
    fn offset(self, n: usize, crop: usize) -> isize {
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

/// How pictures become the classifier's input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Preprocess {
    /// What the classifier takes.
    pub size: Size,
    pub resize: Resize,
    /// Whether the crop is taken, or padding added, after resizing.
    pub crop: bool,
    pub centering: Centering,
    pub filter: Filter,
    /// The colour of padding, in `[0, 1]`.
    pub fill: [f32; 3],
    /// `None` where the classifier takes pixels as they are.
    pub normalization: Option<Normalization>,
}

/// What the command line says against, or without, a sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    pub size: Option<Size>,
    /// The crop's share of the resized picture's side, above 0 and at most 1.
    pub crop_pct: Option<f64>,
    pub filter: Option<Filter>,
    pub mean: Option<[f32; 3]>,
    pub std: Option<[f32; 3]>,
}

impl Preprocess {
    /// Joins a sidecar, what overrides it, and the size that the model itself fixes.
    ///
    /// Without a sidecar and without `size` and `crop_pct`, pictures are used as they are.
    /// `size` without a sidecar resizes the shorter side to it and crops the centre (`crop_pct` 1).
    ///
    /// # Errors
    /// No size is known, or two that contradict each other; the message names both.
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
                    _ => "--size".into(),
                };
                return Err(Error::invalid(format!(
                    "the classifier takes pictures of {model} (height x width) and {source} says \
                     {size}; use --size {model}"
                )));
            }
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => {
                return Err(Error::invalid(
                    "the classifier leaves its input size open; say it with --size HEIGHTxWIDTH",
                ));
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
        // A border has the colour that normalisation maps to 0; other padding is black.
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
        })
    }

    /// The classifier's input for a picture of a dataset.
    ///
    /// # Errors
    /// The picture cannot be [read](Dataset::load) or [made fit](Self::apply); the message names it.
    pub fn load(&self, dataset: &Dataset, item: &Item) -> Result<Picture> {
        self.apply(dataset.load(item)?)
            .map_err(|error| Error::file(&item.id, error.to_string()))
    }

    /// The classifier's input for a picture.
    ///
    /// A picture that has the classifier's size already stays as it is, bit by bit, whatever the rules
    /// say: what an attack or an earlier run made is not resized again.
    ///
    /// # Errors
    /// The picture has another size and nothing says how to resize it, or is so narrow that resizing it
    /// would take too much memory.
    pub fn apply(&self, picture: Picture) -> Result<Picture> {
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
            return Err(Error::invalid(format!(
                "the picture is {there} (height x width) and the classifier takes {}; resize it with \
                 --size {0}",
                self.size
            )));
        }
        Ok(picture)
    }

    /// The size that resizing gives a picture.
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
                // The quotient of the floating-point numbers, as Python's `int(size * long / short)`.
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

    /// The centre of a picture, padded where it is smaller.
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

/// How a sidecar or the command line describes resizing, before the size is settled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// The classifier's size.
    pub size: Option<Size>,
    pub mode: Mode,
    pub scale: Scale,
    pub crop: bool,
    pub centering: Centering,
}

/// What resizing does with the aspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No resizing.
    Keep,
    /// The shorter side is resized; what is beyond the crop is lost.
    Shorter,
    /// Both sides are resized.
    Squash,
    /// The picture is made to fit, with a border.
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
    /// Pictures are used as they are.
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
    /// The rule that leads to pictures of `size`.
    fn resize(&self, size: Size) -> Resize {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::resample::{fnv, test_picture};

    const ODD: Size = Size {
        height: 61,
        width: 97,
    };

    fn sidecar(name: &str, json: &str) -> Result<Sidecar> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), json).unwrap();
        Ok(Sidecar::beside(&folder.path().join("model.onnx"))?.expect("there is one"))
    }

    fn picture(size: Size) -> Picture {
        Picture::from_rgb8(
            &test_picture(size.height, size.width),
            rgb(size.height, size.width),
        )
    }

    /// The hash of what `preprocess` makes of a picture of 61×97.
    fn hash(preprocess: &Preprocess) -> u64 {
        fnv(&preprocess.apply(picture(ODD)).unwrap().to_rgb8())
    }

    fn resolve(name: &str, json: &str) -> Preprocess {
        let sidecar = sidecar(name, json).unwrap();
        Preprocess::resolve(Some(&sidecar), &Overrides::default(), None).unwrap()
    }

    #[test]
    fn timm_sidecars_do_what_timm_does() {
        // Hashes of timm's evaluation transforms, done with Pillow 13.0.
        for (json, hashed) in [
            (
                r#"{"input_size": [3, 32, 32], "crop_pct": 0.875, "interpolation": "bicubic"}"#,
                0xd6e2_fe5c_d6ec_ce39,
            ),
            (
                r#"{"architecture": "x", "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 0.9,
                    "interpolation": "bilinear", "crop_mode": "squash"}}"#,
                0xc8b1_07ef_61ed_87fd,
            ),
            (
                r#"{"input_size": [3, 32, 32], "crop_mode": "border", "mean": [0.485, 0.456, 0.406]}"#,
                0x673d_d345_616f_52f4,
            ),
            (
                r#"{"input_size": [3, 24, 40], "interpolation": "bilinear"}"#,
                0x8cba_47b0_4856_373e,
            ),
        ] {
            assert_eq!(hash(&resolve("config.json", json)), hashed, "{json}");
        }
    }

    #[test]
    fn transformers_sidecars_do_what_transformers_does() {
        for (json, hashed) in [
            (
                r#"{"do_resize": true, "size": 32, "resample": 2, "image_processor_type": "ViTImageProcessor"}"#,
                0x82bf_ba2f_1302_c30f,
            ),
            (
                r#"{"do_resize": true, "size": {"height": 32, "width": 32}, "resample": 2}"#,
                0x82bf_ba2f_1302_c30f,
            ),
            (
                r#"{"do_resize": true, "size": {"shortest_edge": 36}, "resample": 3, "do_center_crop": true,
                    "crop_size": {"height": 31, "width": 31}}"#,
                0x9d1e_2fc9_6d00_ba95,
            ),
            (
                r#"{"size": 36, "resample": 3, "do_center_crop": true, "crop_size": 31, "do_resize": true,
                    "feature_extractor_type": "CLIPFeatureExtractor"}"#,
                0x9d1e_2fc9_6d00_ba95,
            ),
            (
                r#"{"feature_extractor_type": "ConvNextFeatureExtractor", "do_resize": true, "size": 32,
                    "crop_pct": 0.875, "resample": 3}"#,
                0xd6e2_fe5c_d6ec_ce39,
            ),
        ] {
            assert_eq!(
                hash(&resolve("preprocessor_config.json", json)),
                hashed,
                "{json}"
            );
        }
    }

    #[test]
    fn normalisation_includes_rescaling() {
        let of = |json| resolve("preprocessor_config.json", json).normalization;
        let usual = of(
            r#"{"size": 8, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1],
            "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true}"#,
        );
        let expected = Normalization {
            mean: [0.5, 0.4, 0.3],
            std: [0.2, 0.2, 0.1],
        };
        assert_eq!(usual, Some(expected));
        // Pixels from 0 to 255, as they are.
        let raw = of(r#"{"size": 8, "do_rescale": false, "do_normalize": false}"#).unwrap();
        assert_eq!(raw.mean, [0.0; 3]);
        assert!((raw.std[0] - 1.0 / 255.0).abs() < 1e-9);
        // From -1 to 1.
        let offset = of(
            r#"{"size": 8, "rescale_factor": 0.00784313725490196, "rescale_offset": true,
            "do_normalize": false}"#,
        );
        assert_eq!(
            offset,
            Some(Normalization {
                mean: [0.5; 3],
                std: [0.5; 3]
            })
        );
        assert_eq!(of(r#"{"size": 8, "do_normalize": false}"#), None);
    }

    #[test]
    fn preprocessor_config_comes_before_config() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.onnx");
        assert_eq!(Sidecar::beside(&model).unwrap(), None);
        // A transformers model's own configuration says nothing about pixels.
        let write = |name, json: &str| std::fs::write(folder.path().join(name), json).unwrap();
        write("config.json", r#"{"model_type": "vit", "image_size": 224}"#);
        assert_eq!(Sidecar::beside(&model).unwrap(), None);
        assert!(Sidecar::open(&folder.path().join("config.json")).is_err());
        write("config.json", r#"{"input_size": [3, 9, 9]}"#);
        assert_eq!(
            Sidecar::beside(&model)
                .unwrap()
                .unwrap()
                .geometry
                .size
                .unwrap()
                .height,
            9
        );
        write("preprocessor_config.json", r#"{"size": 7}"#);
        assert_eq!(
            Sidecar::beside(&model)
                .unwrap()
                .unwrap()
                .geometry
                .size
                .unwrap()
                .height,
            7
        );
    }

    #[test]
    fn damaged_sidecars_are_refused() {
        for (json, message) in [
            ("{", "is no JSON"),
            ("[]", "is no JSON object"),
            (r#"{"input_size": [3, 0, 9]}"#, "no size"),
            (r#"{"input_size": 9}"#, "has input_size 9"),
            (r#"{"crop_pct": 0}"#, "crop_pct 0"),
            (r#"{"interpolation": "magic"}"#, "unknown interpolation"),
            (r#"{"mean": [1, 2], "std": 1}"#, "has mean [1,2]"),
            (r#"{"std": 0}"#, "std must be above 0"),
            (r#"{"size": {"longest_edge": 9}}"#, "has size"),
            (
                r#"{"size": 9, "do_center_crop": true}"#,
                "without a crop_size",
            ),
            (
                r#"{"size": 9, "do_normalize": true}"#,
                "without an image_mean",
            ),
            (r#"{"size": 9, "resample": 6}"#, "resample 6"),
            (r#"{"size": 99999}"#, "has size"),
        ] {
            let error = sidecar("config.json", json).unwrap_err().to_string();
            assert!(
                error.contains("config.json: ") && error.contains(message),
                "{error}"
            );
        }
    }

    #[test]
    fn flags_override_the_sidecar() {
        let json = r#"{"input_size": [3, 64, 64], "crop_pct": 0.875, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}"#;
        let sidecar = sidecar("config.json", json).unwrap();
        let size = Size {
            height: 32,
            width: 32,
        };
        let overrides = Overrides {
            size: Some(size),
            std: Some([1.0, 2.0, 3.0]),
            ..Overrides::default()
        };
        let p = Preprocess::resolve(Some(&sidecar), &overrides, Some(size)).unwrap();
        assert_eq!(hash(&p), 0xd6e2_fe5c_d6ec_ce39);
        assert_eq!(p.normalization.unwrap().mean, [0.1, 0.2, 0.3]);
        assert_eq!(p.normalization.unwrap().std, [1.0, 2.0, 3.0]);
        // The model's own size against the sidecar's: the message names both and the way out.
        let error = Preprocess::resolve(Some(&sidecar), &Overrides::default(), Some(size));
        let error = error.unwrap_err().to_string();
        for part in ["32x32", "64x64", "config.json", "--size 32x32"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn pictures_of_the_right_size_stay_as_they_are() {
        let p = resolve(
            "config.json",
            r#"{"input_size": [3, 61, 97], "crop_pct": 0.5}"#,
        );
        assert_eq!(p.apply(picture(ODD)).unwrap(), picture(ODD));
        let own = Preprocess::resolve(None, &Overrides::default(), Some(ODD)).unwrap();
        assert_eq!(own.apply(picture(ODD)).unwrap(), picture(ODD));
        assert_eq!(own.normalization, None);
    }

    #[test]
    fn without_a_rule_another_size_is_refused() {
        let wanted = Size {
            height: 32,
            width: 48,
        };
        let p = Preprocess::resolve(None, &Overrides::default(), Some(wanted)).unwrap();
        let error = p.apply(picture(ODD)).unwrap_err().to_string();
        for part in ["61x97", "32x48", "--size 32x48"] {
            assert!(error.contains(part), "{error}");
        }
        let error = Preprocess::resolve(None, &Overrides::default(), None).unwrap_err();
        assert!(error.to_string().contains("--size"));
    }

    #[test]
    fn resizing_never_takes_unbounded_memory() {
        let size = Size {
            height: 512,
            width: 512,
        };
        let overrides = Overrides {
            size: Some(size),
            ..Overrides::default()
        };
        let p = Preprocess::resolve(None, &overrides, None).unwrap();
        let strip = picture(Size {
            height: 1,
            width: 16_000,
        });
        assert!(
            p.apply(strip)
                .unwrap_err()
                .to_string()
                .contains("too large")
        );
        let tiny = Overrides {
            size: Some(size),
            crop_pct: Some(1e-9),
            ..Overrides::default()
        };
        let result = Preprocess::resolve(None, &tiny, None).and_then(|p| p.apply(picture(ODD)));
        assert!(result.unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn crops_centre_as_their_library_does() {
        use Centering::{Torchvision, Transformers};
        // Margins of 3 and 5 pixels, then padding of 3.
        assert_eq!(
            [(10, 7), (12, 7), (7, 10)].map(|(n, c)| Torchvision.offset(n, c)),
            [2, 2, -1]
        );
        assert_eq!(
            [(10, 7), (12, 7), (7, 10)].map(|(n, c)| Transformers.offset(n, c)),
            [1, 2, -2]
        );
    }

    #[test]
    fn float_pictures_are_resized_in_float() {
        let size = Size {
            height: 32,
            width: 32,
        };
        let overrides = Overrides {
            size: Some(size),
            ..Overrides::default()
        };
        let p = Preprocess::resolve(None, &overrides, None).unwrap();
        let eight = p.apply(picture(ODD)).unwrap();
        let float = p
            .apply(Picture {
                eight_bit: false,
                ..picture(ODD)
            })
            .unwrap();
        assert!(!float.eight_bit);
        assert!(
            eight
                .pixels
                .iter()
                .zip(&float.pixels)
                .all(|(a, b)| (a - b).abs() < 1.7 / 255.0)
        );
        assert_ne!(eight.pixels, float.pixels);
    }

    #[test]
    fn sizes_are_height_first() {
        assert_eq!("61x97".parse(), Ok(ODD));
        assert_eq!(
            "7".parse(),
            Ok(Size {
                height: 7,
                width: 7
            })
        );
        for wrong in ["", "x", "0x7", "7x", "-1x2", "99999x7", "7x7x7"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}

//! Sidecars, the files beside a model that describe its preprocessing: timm's `config.json` and Hugging Face's
//! `preprocessor_config.json`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::geometry::{Centering, Geometry, Mode, Normalization, Scale, Size};
use super::resample::Filter;
use crate::error::{Error, Result};
use crate::files::{open_regular, text};

/// The longest sidecar that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// timm's defaults for what its `config.json` leaves out.
const TIMM_CROP_PCT: f64 = 0.875;
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

/// The contents of a sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Sidecar {
    /// The file that it was read from.
    pub path: PathBuf,
    /// The size that pictures get, and how.
    pub geometry: Geometry,
    /// The filter that resizes.
    pub filter: Filter,
    /// Mean and standard deviation of each channel; `None` if the file has none.
    pub normalization: Option<Normalization>,
    /// Whether the classifier takes blue, green, red.
    pub bgr: bool,
    /// Names of the fields that may change pixels and are not known here.
    pub ignored: Vec<String>,
}

impl Sidecar {
    /// The sidecar in the model's folder: `preprocessor_config.json`, or else a `config.json` that says
    /// anything about preprocessing (that of a transformers model does not). Hubs have models in a folder
    /// `onnx`, and the sidecar in the folder above it.
    ///
    /// # Errors
    /// There is a sidecar, but it cannot be used.
    pub fn beside(model: &Path) -> Result<Option<Sidecar>> {
        for path in Self::candidates(model) {
            if let Some(sidecar) = Self::read(&path)? {
                return Ok(Some(sidecar));
            }
        }
        Ok(None)
    }

    /// The files that are read to find the sidecar of a model.
    pub fn candidates(model: &Path) -> Vec<PathBuf> {
        let folder = model.parent().unwrap_or(Path::new(""));
        let absolute = std::path::absolute(model).ok();
        let above = absolute
            .as_deref()
            .and_then(Path::parent)
            .filter(|folder| folder.ends_with("onnx"))
            .and_then(Path::parent);
        let folders = [Some(folder), above].into_iter().flatten();
        let paths = folders.flat_map(|folder| {
            ["preprocessor_config.json", "config.json"].map(|name| folder.join(name))
        });
        paths.filter(|path| path.is_file()).collect()
    }

    /// Reads a sidecar of either format.
    ///
    /// # Errors
    /// The file cannot be read, does not describe preprocessing, or contains something unknown.
    pub fn open(path: &Path) -> Result<Sidecar> {
        Self::read(path)?.ok_or_else(|| {
            Error::file(
                path,
                "says nothing about preprocessing; timm's config.json and Hugging Face's \
                 preprocessor_config.json do",
            )
        })
    }

    /// Reads a sidecar; `None` for JSON that does not describe preprocessing.
    fn read(path: &Path) -> Result<Option<Sidecar>> {
        let text = text::read(open_regular(path)?, MAX_BYTES).map_err(Error::io(path))?;
        let value: Value = serde_json::from_str(&text)
            .map_err(|error| Error::file(path, format!("is no JSON: {error}")))?;
        let fields = Fields(match &value {
            Value::Object(fields) => fields,
            _ => return Err(Error::file(path, "is no JSON object")),
        });
        let sidecar = match &value["pretrained_cfg"] {
            Value::Object(inner) => timm(Fields(inner)),
            _ if fields.has_any(&[
                "image_mean",
                "do_resize",
                "do_normalize",
                "do_rescale",
                "size",
            ]) =>
            {
                transformers(fields)
            }
            _ if fields.has_any(&["input_size", "crop_pct", "interpolation", "mean", "std"]) => {
                timm(fields)
            }
            _ => return Ok(None),
        };
        let sidecar = sidecar.map_err(|message| {
            Error::file(path, message).hint("use `no_sidecar`, and set its values as options")
        })?;
        Ok(Some(Sidecar {
            path: path.to_owned(),
            ..sidecar
        }))
    }
}

/// timm's evaluation transform.
fn timm(fields: Fields<'_>) -> Result<Sidecar, String> {
    let size = match fields.numbers("input_size")?.as_deref() {
        None => None,
        Some(&[_, height, width]) => Some(fields.size("input_size", height, width)?),
        Some(other) => {
            return Err(format!(
                "has input_size {other:?}, not channels, height, width"
            ));
        }
    };
    let mode = match fields.text("crop_mode")?.unwrap_or("center") {
        "center" => Mode::Shorter,
        "squash" => Mode::Squash,
        "border" => Mode::Border,
        other => return Err(format!("has an unknown crop_mode, {other}")),
    };
    let filter = match fields.text("interpolation")?.unwrap_or("bicubic") {
        "nearest" => Filter::Nearest,
        // timm trains with random interpolation, but then evaluates with bilinear.
        "bilinear" | "random" => Filter::Bilinear,
        "bicubic" => Filter::Bicubic,
        "box" => Filter::Box,
        "hamming" => Filter::Hamming,
        "lanczos" => Filter::Lanczos,
        other => return Err(format!("has an unknown interpolation, {other}")),
    };
    let crop_pct = fields.number("crop_pct")?.unwrap_or(TIMM_CROP_PCT);
    if !(crop_pct > 0.0 && crop_pct <= 1.0) {
        return Err(format!(
            "has crop_pct {crop_pct}; it must be above 0 and at most 1"
        ));
    }
    let geometry = Geometry {
        size,
        mode,
        scale: Scale::Percent(crop_pct),
        crop: true,
        centering: Centering::Torchvision,
    };
    let mean = fields.channels("mean")?.unwrap_or(IMAGENET_MEAN);
    let std = fields.channels("std")?.unwrap_or(IMAGENET_STD);
    Ok(Sidecar {
        path: PathBuf::new(),
        geometry,
        filter,
        normalization: Some(normalization(mean, std)?),
        bgr: false,
        // timm's transform has no other parameters: further fields are about the model.
        ignored: Vec::new(),
    })
}

/// The fields of transformers' processors that are obeyed.
const OBEYED: [&str; 18] = [
    "image_processor_type",
    "feature_extractor_type",
    "do_resize",
    "size",
    "default_to_square",
    "resample",
    "crop_pct",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "rescale_offset",
    "do_normalize",
    "image_mean",
    "image_std",
    "include_top",
    "do_flip_channel_order",
    "do_convert_rgb",
];
/// Those that change no pixel of an RGB picture.
const HARMLESS: [&str; 13] = [
    "processor_class",
    "data_format",
    "input_data_format",
    "device",
    "return_tensors",
    "disable_grouping",
    "auto_map",
    "_valid_processor_keys",
    "_name_or_path",
    "_commit_hash",
    "transformers_version",
    "do_reduce_labels",
    "reduce_labels",
];

/// The image processors of transformers.
fn transformers(fields: Fields<'_>) -> Result<Sidecar, String> {
    let processor = fields
        .text("image_processor_type")?
        .or(fields.text("feature_extractor_type")?)
        .unwrap_or("");
    let is = |names: &[&str]| names.iter().any(|name| processor.starts_with(name));
    if is(&["Levit"]) {
        return Err(format!(
            "has image_processor_type {processor}, which resizes in its own way"
        ));
    }
    // For these a single number is the shorter side, for all others both sides.
    let shorter_by_default = is(&[
        "CLIP",
        "ChineseCLIP",
        "ConvNext",
        "MobileNetV1",
        "MobileNetV2",
        "MobileViT",
        "PoolFormer",
        "Bit",
    ]);
    let to_square = fields.flag("default_to_square")?;
    let shorter_by_default = !to_square.unwrap_or(!shorter_by_default);
    let cropping = fields
        .flag("do_center_crop")?
        .unwrap_or(fields.has_any(&["crop_size"]));
    let crop = match fields.edge("crop_size")? {
        _ if !cropping => None,
        Some(Edge::Exact(size)) => Some(size),
        Some(Edge::Number(n)) => Some(Size {
            height: n,
            width: n,
        }),
        Some(Edge::Shortest(_)) | None => {
            return Err("has do_center_crop without a crop_size".into());
        }
    };
    let resizing = fields
        .flag("do_resize")?
        .unwrap_or(fields.has_any(&["size"]));
    let crop_pct = fields.number("crop_pct")?;
    let square = |n: usize| Size {
        height: n,
        width: n,
    };
    let mut geometry = Geometry {
        size: crop,
        crop: crop.is_some(),
        centering: Centering::Transformers,
        ..Geometry::default()
    };
    let edge = match fields.edge("size")? {
        _ if !resizing => None,
        None => return Err("has do_resize without a size".into()),
        Some(Edge::Number(n)) if shorter_by_default => Some(Edge::Shortest(n)),
        Some(Edge::Number(n)) => Some(Edge::Exact(square(n))),
        edge => edge,
    };
    match edge {
        None => {}
        Some(Edge::Exact(resize)) => {
            geometry.mode = Mode::Squash;
            geometry.size = Some(crop.unwrap_or(resize));
            geometry.scale = Scale::Edges {
                resize,
                crop: crop.unwrap_or(resize),
            };
            geometry.crop = crop.is_some();
        }
        Some(Edge::Shortest(side)) if is(&["ConvNext"]) => {
            // This processor crops below 384 pixels; from 384 on it resizes both sides.
            geometry.size = Some(square(side));
            geometry.crop = side < 384;
            geometry.mode = if side < 384 {
                Mode::Shorter
            } else {
                Mode::Squash
            };
            geometry.scale = Scale::Percent(match side < 384 {
                true => crop_pct.unwrap_or(224.0 / 256.0),
                false => 1.0,
            });
        }
        Some(Edge::Shortest(side) | Edge::Number(side)) => {
            let side = (side as f64 / crop_pct.unwrap_or(1.0)) as usize;
            geometry.mode = Mode::Shorter;
            // Without a crop the picture must come out square.
            let crop = crop.unwrap_or(square(side));
            geometry.scale = Scale::Edges {
                resize: square(side),
                crop,
            };
            geometry.size = Some(crop);
        }
    }
    if crop_pct.is_some_and(|pct| !(pct > 0.0 && pct <= 1.0)) {
        return Err("has a crop_pct that is not above 0 and at most 1".into());
    }
    let filter = match fields.number("resample")? {
        None => Filter::Bilinear,
        Some(0.0) => Filter::Nearest,
        Some(1.0) => Filter::Lanczos,
        Some(2.0) => Filter::Bilinear,
        Some(3.0) => Filter::Bicubic,
        Some(4.0) => Filter::Box,
        Some(5.0) => Filter::Hamming,
        Some(other) => return Err(format!("has resample {other}; 0 to 5 are known")),
    };
    let by_std_again = fields
        .flag("include_top")?
        .unwrap_or(is(&["EfficientNet"]) && fields.has_any(&["image_std"]));
    let bgr = fields
        .flag("do_flip_channel_order")?
        .unwrap_or(is(&["MobileViT"]));
    Ok(Sidecar {
        path: PathBuf::new(),
        geometry,
        filter,
        normalization: transformers_normalization(fields, by_std_again)?,
        bgr,
        ignored: fields.others(&[&OBEYED, &HARMLESS]),
    })
}

/// Rescaling and normalization in one, for pixels from 0 to 1: a value is
/// `(255·pixel·factor − offset − mean) / std`, and divided by `std` once more where `by_std_again`, which is
/// what EfficientNet's `include_top` means.
fn transformers_normalization(
    fields: Fields<'_>,
    by_std_again: bool,
) -> Result<Option<Normalization>, String> {
    let factor = match fields.flag("do_rescale")?.unwrap_or(true) {
        true => fields.number("rescale_factor")?.unwrap_or(1.0 / 255.0),
        false => 1.0,
    };
    let range = 255.0 * factor;
    if !(range.is_finite() && range > 0.0) {
        return Err(format!("has rescale_factor {factor}"));
    }
    let offset = match fields.flag("rescale_offset")?.unwrap_or(false) {
        true => 1.0,
        false => 0.0,
    };
    let (mean, std) = match fields
        .flag("do_normalize")?
        .unwrap_or(fields.has_any(&["image_mean"]))
    {
        true => (
            fields
                .channels("image_mean")?
                .ok_or("has do_normalize without an image_mean")?,
            fields
                .channels("image_std")?
                .ok_or("has do_normalize without an image_std")?,
        ),
        false => ([0.0; 3], [1.0; 3]),
    };
    let std = match by_std_again {
        true => {
            let again = fields
                .channels("image_std")?
                .ok_or("has include_top without an image_std")?;
            std::array::from_fn(|channel| std[channel] * again[channel])
        }
        false => std,
    };
    let scaled = normalization(mean.map(|m| (m + offset) / range), std.map(|s| s / range))?;
    let identity = scaled.mean == [0.0; 3] && scaled.std == [1.0; 3];
    Ok((!identity).then_some(scaled))
}

fn normalization(mean: [f64; 3], std: [f64; 3]) -> Result<Normalization, String> {
    if mean.iter().any(|m| !m.is_finite()) || std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
        return Err(format!(
            "has mean {mean:?} and std {std:?}; std must be above 0"
        ));
    }
    Ok(Normalization {
        mean: mean.map(|m| m as f32),
        std: std.map(|s| s as f32),
    })
}

/// The forms of `size` and `crop_size`.
enum Edge {
    Number(usize),
    Exact(Size),
    Shortest(usize),
}

/// A sidecar's fields; null counts as absent.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn has_any(self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some())
    }

    /// Names of the fields that are in none of `lists` and ask for anything.
    fn others(self, lists: &[&[&str]]) -> Vec<String> {
        let asks = |value: &Value| !value.is_null() && *value != Value::Bool(false);
        let named = |name: &String| lists.iter().any(|list| list.contains(&name.as_str()));
        let others = self
            .0
            .iter()
            .filter(|(name, value)| asks(value) && !named(name));
        others.map(|(name, _)| name.clone()).collect()
    }

    fn get(self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A field, converted by `read`, which gives `None` for a value that is not valid.
    fn field<T>(
        self,
        name: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let refused = || format!("has {name} {value}, which cannot be used");
        Ok(Some(read(value).ok_or_else(refused)?))
    }

    fn text(self, name: &str) -> Result<Option<&'a str>, String> {
        self.field(name, Value::as_str)
    }

    fn flag(self, name: &str) -> Result<Option<bool>, String> {
        self.field(name, Value::as_bool)
    }

    fn number(self, name: &str) -> Result<Option<f64>, String> {
        self.field(name, Value::as_f64)
    }

    fn numbers(self, name: &str) -> Result<Option<Vec<f64>>, String> {
        self.field(name, |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    /// A number for each channel; a single number is for all channels.
    fn channels(self, name: &str) -> Result<Option<[f64; 3]>, String> {
        self.field(name, |value| {
            let one = std::slice::from_ref(value);
            let values = value.as_array().map_or(one, Vec::as_slice);
            let values: Vec<f64> = values.iter().map(Value::as_f64).collect::<Option<_>>()?;
            match *values {
                [one] => Some([one; 3]),
                [r, g, b] => Some([r, g, b]),
                _ => None,
            }
        })
    }

    fn edge(self, name: &str) -> Result<Option<Edge>, String> {
        self.field(name, |value| {
            let side = |value: &Value| {
                let side = usize::try_from(value.as_u64()?).ok()?;
                (1..=super::MAX_SIDE).contains(&side).then_some(side)
            };
            if let Some(number) = side(value) {
                return Some(Edge::Number(number));
            }
            if let Some([height, width]) = value.as_array().map(Vec::as_slice) {
                return Some(Edge::Exact(Size {
                    height: side(height)?,
                    width: side(width)?,
                }));
            }
            let fields = Fields(value.as_object()?);
            match (
                fields.get("height"),
                fields.get("width"),
                fields.get("shortest_edge"),
            ) {
                (Some(height), Some(width), _) => Some(Edge::Exact(Size {
                    height: side(height)?,
                    width: side(width)?,
                })),
                (None, None, Some(edge)) if !fields.has_any(&["longest_edge"]) => {
                    Some(Edge::Shortest(side(edge)?))
                }
                _ => None,
            }
        })
    }

    /// The size with this height and width.
    fn size(self, name: &str, height: f64, width: f64) -> Result<Size, String> {
        let side = |n: f64| {
            let whole = n.fract() == 0.0 && (1.0..=super::MAX_SIDE as f64).contains(&n);
            whole.then_some(n as usize)
        };
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok(Size { height, width }),
            _ => Err(format!("has {name} {height}x{width}, which is no size")),
        }
    }
}

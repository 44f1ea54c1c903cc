//! The baselines by name.

use serde::{Deserialize, Serialize};

use super::{Baseline, BitDepth, Jpeg, Median, TotalVariation, check};
use crate::error::{Error, Result};
use crate::picture::Picture;

/// No defense: the picture as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nothing {}

impl Baseline for Nothing {
    fn name(&self) -> String {
        "none".into()
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn apply(&self, picture: &Picture) -> Result<Vec<f32>> {
        check(self, picture)?;
        Ok(picture.pixels.clone())
    }
}

/// Any baseline with its options: `{"baseline": "jpeg", "quality": 75}` in JSON, `jpeg-75` or `jpeg` as text.
/// Options that are left out have their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "baseline", rename_all = "kebab-case")]
pub enum Method {
    /// The picture as it is.
    None(Nothing),
    /// JPEG compression.
    Jpeg(Jpeg),
    /// Fewer levels of brightness.
    Bits(BitDepth),
    /// The median of each pixel's neighborhood.
    Median(Median),
    /// Denoising by total variation.
    Tv(TotalVariation),
}

/// Every baseline with its defaults, in the order of the tables.
pub fn defaults() -> Vec<Method> {
    vec![
        Method::None(Nothing::default()),
        Method::Jpeg(Jpeg::default()),
        Method::Bits(BitDepth::default()),
        Method::Median(Median::default()),
        Method::Tv(TotalVariation::default()),
    ]
}

impl Method {
    fn baseline(&self) -> &dyn Baseline {
        match self {
            Method::None(baseline) => baseline,
            Method::Jpeg(baseline) => baseline,
            Method::Bits(baseline) => baseline,
            Method::Median(baseline) => baseline,
            Method::Tv(baseline) => baseline,
        }
    }
}

impl Baseline for Method {
    fn name(&self) -> String {
        self.baseline().name()
    }

    fn validate(&self) -> Result<()> {
        self.baseline().validate()
    }

    fn apply(&self, picture: &Picture) -> Result<Vec<f32>> {
        self.baseline().apply(picture)
    }
}

impl std::str::FromStr for Method {
    type Err = Error;

    /// A baseline by its name; a name without a strength (`jpeg`) has the default strength.
    fn from_str(text: &str) -> Result<Method> {
        let (kind, strength) = match text.split_once('-') {
            Some((kind, strength)) => (kind, Some(strength)),
            None => (text, None),
        };
        let method = match kind {
            "none" if strength.is_none() => Some(Method::None(Nothing {})),
            "jpeg" => parse(strength, Jpeg::default().quality)
                .map(|quality| Method::Jpeg(Jpeg { quality })),
            "bits" => parse(strength, BitDepth::default().bits)
                .map(|bits| Method::Bits(BitDepth { bits })),
            "median" => {
                parse(strength, Median::default().size).map(|size| Method::Median(Median { size }))
            }
            "tv" => parse(strength, TotalVariation::default().weight)
                .map(|weight| Method::Tv(TotalVariation { weight })),
            _ => None,
        };
        let method = method.ok_or_else(|| {
            let names: Vec<String> = defaults().iter().map(Baseline::name).collect();
            Error::invalid(format!(
                "{text} is no baseline; they are {}, where the number is the strength",
                names.join(", ")
            ))
        })?;
        method.validate()?;
        Ok(method)
    }
}

/// The strength, or the default if there is none; `None` if it is not a number.
fn parse<T: std::str::FromStr>(strength: Option<&str>, default: T) -> Option<T> {
    match strength {
        Some(text) => text.parse().ok(),
        None => Some(default),
    }
}

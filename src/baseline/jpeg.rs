//! JPEG compression.

use std::io::Cursor;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::{ExtendedColorType, ImageDecoder};
use serde::{Deserialize, Serialize};

use super::{Baseline, check, within};
use crate::error::{Error, Result};
use crate::io::Picture;
use crate::io::picture::planes_of;

/// JPEG compression (Dziugaite et al., "A study of the effect of JPG compression on adversarial
/// images", 2016; Guo et al., "Countering adversarial images using input transformations", 2018).
///
/// The picture is rounded to 8 bits, encoded, and decoded. Baseline JPEG with the standard tables,
/// scaled by quality as libjpeg does, and chroma at full resolution (4:4:4). libjpeg's own default, and
/// Pillow's, halves the chroma (4:2:0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jpeg {
    /// From 1 to 100, the best.
    pub quality: u8,
}

impl Default for Jpeg {
    /// Guo et al.'s quality, 75.
    fn default() -> Self {
        Jpeg { quality: 75 }
    }
}

impl Baseline for Jpeg {
    fn name(&self) -> String {
        format!("jpeg-{}", self.quality)
    }

    fn validate(&self) -> Result<()> {
        within("jpeg: quality", self.quality, 1, 100)
    }

    fn apply(&self, picture: &Picture) -> Result<Vec<f32>> {
        check(self, picture)?;
        let failed = |error: image::ImageError| {
            let (height, width) = (picture.shape.height, picture.shape.width);
            let name = self.name();
            Error::invalid(format!("{name}: a picture of {width}×{height}: {error}"))
        };
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let (height, width) = (side(picture.shape.height), side(picture.shape.width));
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, self.quality)
            .encode(&picture.to_rgb8(), width, height, ExtendedColorType::Rgb8)
            .map_err(failed)?;
        let mut bytes = vec![0; picture.pixels.len()];
        JpegDecoder::new(Cursor::new(file))
            .and_then(|decoder| decoder.read_image(&mut bytes))
            .map_err(failed)?;
        Ok(planes_of(&bytes))
    }
}

//! JPEG compression.

use std::io::Cursor;

use image::ImageDecoder;
use image::codecs::jpeg::JpegDecoder;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use serde::{Deserialize, Serialize};

use super::{Baseline, check, within};
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::picture::planes_of;

/// JPEG compression (Dziugaite et al., "A study of the effect of JPG compression on adversarial
/// images", 2016; Guo et al., "Countering adversarial images using input transformations", 2018).
///
/// The picture is rounded to 8 bits, encoded, and decoded. The encoding is baseline JPEG with the standard tables
/// scaled by quality, and with chroma at half the resolution (4:2:0), as libjpeg and Pillow do by default. The
/// chroma is that of one of four pixels; libjpeg takes their mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jpeg {
    /// Quality, from 1 to 100 (the best).
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
        let (height, width) = (picture.shape.height, picture.shape.width);
        let failed = |error: &dyn std::fmt::Display| {
            let name = self.name();
            Error::invalid(format!("{name}: a picture of {width}×{height}: {error}"))
        };
        // JPEG allows at most 65,535 pixels a side.
        let side = |pixels: usize| u16::try_from(pixels).map_err(|error| failed(&error));
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, self.quality);
        encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
        let (columns, rows) = (side(width)?, side(height)?);
        (encoder.encode(&picture.to_rgb8(), columns, rows, ColorType::Rgb))
            .map_err(|error| failed(&error))?;
        let mut bytes = vec![0; picture.pixels.len()];
        JpegDecoder::new(Cursor::new(file))
            .and_then(|decoder| decoder.read_image(&mut bytes))
            .map_err(|error| failed(&error))?;
        Ok(planes_of(&bytes))
    }
}

//! Pictures: their pixels, decoding and encoding, resampling, a classifier's preprocessing, and the similarity of
//! two pictures.

mod geometry;
pub mod preprocess;
pub(crate) mod quality;
pub mod resample;
mod shape;
pub mod sidecar;
pub(crate) mod ssim;

use std::io::{BufReader, Cursor, Read, Write};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader};

pub use self::geometry::{Normalization, Size};
pub use self::preprocess::Preprocess;
pub use self::quality::{decibels, mean_squared_error, psnr};
pub use self::shape::{ImageShape, rgb};
pub use self::ssim::ssim;
use crate::error::{Error, Result};
use crate::files::open_regular;

/// The longest side that is decoded, in pixels.
pub const MAX_SIDE: usize = 16_384;
/// The largest size, in bytes, of a picture's file and of its float pixels.
pub const MAX_BYTES: usize = 1 << 30;

/// An RGB picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// The shape: three channels, height and width in pixels.
    pub shape: ImageShape,
    /// The pixels, CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    /// Whether every pixel is a multiple of 1/255, so that 8-bit arithmetic is exact.
    pub eight_bit: bool,
}

impl Picture {
    /// A picture of `pixels`, CHW in `[0, 1]`.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn new(shape: ImageShape, pixels: Vec<f32>) -> Result<Picture> {
        let picture = Self::of(shape, pixels);
        picture.check()?;
        Ok(picture)
    }

    /// Refuses what is no picture, as a value can be that was put together by hand.
    ///
    /// # Errors
    /// Other than three channels, another number of pixels than the shape has, or one that is not from 0 to 1.
    pub fn check(&self) -> Result<()> {
        let Picture { shape, pixels, .. } = self;
        if shape.channels != 3 {
            let channels = shape.channels;
            return Err(Error::invalid(format!(
                "a picture of {channels} channels; pictures have 3, RGB"
            )));
        }
        let wanted = [shape.height, shape.width]
            .iter()
            .try_fold(3usize, |n, &side| n.checked_mul(side));
        if wanted != Some(pixels.len()) {
            return Err(Error::invalid(format!(
                "a picture of {} pixel values, which is not what its shape {shape} has",
                pixels.len()
            )));
        }
        match pixels.iter().find(|pixel| !(0.0..=1.0).contains(*pixel)) {
            Some(pixel) => Err(Error::invalid(format!(
                "a picture with a pixel value of {pixel}; they must be from 0 to 1"
            ))),
            None => Ok(()),
        }
    }

    /// The picture of pixels that are known to be right.
    pub(crate) fn of(shape: ImageShape, pixels: Vec<f32>) -> Picture {
        let eight_bit = pixels.iter().all(|&pixel| {
            let level = (pixel * 255.0).round();
            (0.0..=255.0).contains(&level) && level / 255.0 == pixel
        });
        Picture {
            shape,
            pixels,
            eight_bit,
        }
    }

    /// Decodes an image file: PNG, JPEG, WebP, BMP, GIF or TIFF, by content; of animations the first
    /// frame.
    ///
    /// Alpha is dropped, as `convert("RGB")` of Pillow does (the color of transparent pixels stays),
    /// because that is what classifiers are trained on. Gray is replicated, palettes are resolved,
    /// CMYK is converted, 16-bit samples keep their precision, EXIF orientation is applied.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, cut short, or larger than [`MAX_SIDE`] or [`MAX_BYTES`].
    pub fn open(path: impl AsRef<Path>) -> Result<Picture> {
        let path = path.as_ref();
        let bytes = read_bounded(path)?;
        Self::decode(&bytes).map_err(|message| Error::file(path, message))
    }

    /// Decodes a file in memory like [`open`](Self::open); the error is the message only.
    pub fn decode(bytes: &[u8]) -> Result<Picture, String> {
        Self::decode_within(bytes, MAX_BYTES / (3 * size_of::<f32>()))
    }

    /// Decodes a file in memory like [`decode`](Self::decode), if its header declares at most this many pixels;
    /// otherwise nothing of it is decoded.
    pub fn decode_within(bytes: &[u8], max_pixels: usize) -> Result<Picture, String> {
        if bytes.is_empty() {
            return Err("is empty (0 bytes)".into());
        }
        let format = image::guess_format(bytes).map_err(|_| {
            "is not an image backstitch can read (PNG, JPEG, WebP, BMP, GIF, TIFF)".to_owned()
        })?;
        if format == ImageFormat::Jpeg && !jpeg_is_whole(bytes) {
            return Err("is a truncated JPEG: its end is missing".into());
        }
        let mut reader = ImageReader::with_format(BufReader::new(Cursor::new(bytes)), format);
        // Sizes are checked below, with a message of our own.
        let mut limits = image::Limits::no_limits();
        limits.max_alloc = Some(MAX_BYTES as u64);
        reader.limits(limits);
        let damaged = |error: image::ImageError| format!("cannot be decoded: {}", one_line(&error));
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        check_size(width as usize, height as usize)?;
        if width as usize * height as usize > max_pixels {
            return Err(format!(
                "is {width}×{height} pixels, too large: at most {max_pixels} pixels are taken"
            ));
        }
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        image.apply_orientation(orientation);
        Self::from_image(&image)
    }

    /// Converts the decoder's samples, of any type, to floats.
    fn from_image(image: &DynamicImage) -> Result<Picture, String> {
        use DynamicImage as D;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let eight = |sample: u8| f32::from(sample) / 255.0;
        let sixteen = |sample: u16| f32::from(sample) / 65535.0;
        let pixels = match image {
            D::ImageLuma8(i) => planes(i.as_raw(), 1, eight),
            D::ImageLumaA8(i) => planes(i.as_raw(), 2, eight),
            D::ImageRgb8(i) => planes(i.as_raw(), 3, eight),
            D::ImageRgba8(i) => planes(i.as_raw(), 4, eight),
            D::ImageLuma16(i) => planes(i.as_raw(), 1, sixteen),
            D::ImageLumaA16(i) => planes(i.as_raw(), 2, sixteen),
            D::ImageRgb16(i) => planes(i.as_raw(), 3, sixteen),
            D::ImageRgba16(i) => planes(i.as_raw(), 4, sixteen),
            D::ImageRgb32F(i) => planes(i.as_raw(), 3, |sample| sample),
            D::ImageRgba32F(i) => planes(i.as_raw(), 4, |sample| sample),
            other => {
                return Err(format!(
                    "has samples of an unknown kind ({:?})",
                    other.color()
                ));
            }
        };
        if let Some(bad) = pixels.iter().find(|p| !(0.0..=1.0).contains(*p)) {
            return Err(format!(
                "has a float sample of {bad}; they must be from 0 to 1"
            ));
        }
        Ok(Picture {
            shape: rgb(height, width),
            pixels,
            eight_bit: image.color().bytes_per_pixel() == image.color().channel_count(),
        })
    }

    /// The picture of interleaved 8-bit RGB.
    pub fn from_rgb8(bytes: &[u8], shape: ImageShape) -> Picture {
        Picture {
            shape,
            pixels: planes_of(bytes),
            eight_bit: true,
        }
    }

    /// The pixels as interleaved 8-bit RGB, rounded to nearest (halves up).
    pub fn to_rgb8(&self) -> Vec<u8> {
        rgb8(&self.pixels)
    }

    /// A hash of the picture's size and pixels.
    pub fn hash(&self) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(&(self.shape.height as u64).to_le_bytes());
        hash.update(&(self.shape.width as u64).to_le_bytes());
        for pixel in &self.pixels {
            hash.update(&pixel.to_le_bytes());
        }
        hash.digest()
    }
}

/// Converts interleaved samples to CHW; gray is replicated, alpha is dropped.
fn planes<T: Copy>(samples: &[T], channels: usize, float: impl Fn(T) -> f32) -> Vec<f32> {
    let mut pixels = Vec::with_capacity(samples.len() / channels * 3);
    for channel in 0..3 {
        let channel = if channels < 3 { 0 } else { channel };
        pixels.extend(
            samples
                .chunks_exact(channels)
                .map(|pixel| float(pixel[channel])),
        );
    }
    pixels
}

/// Interleaved 8-bit RGB to CHW floats in `[0, 1]`.
pub fn planes_of(bytes: &[u8]) -> Vec<f32> {
    planes(bytes, 3, |byte| f32::from(byte) / 255.0)
}

/// CHW floats in `[0, 1]` to interleaved 8-bit RGB, rounded to nearest (halves up).
pub fn rgb8(pixels: &[f32]) -> Vec<u8> {
    let plane = pixels.len() / 3;
    let byte = |x: f32| (x.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    (0..plane)
        .flat_map(|i| [0, 1, 2].map(|channel| byte(pixels[channel * plane + i])))
        .collect()
}

/// Writes an 8-bit RGB PNG of CHW pixels.
pub fn write_png(out: impl Write, shape: ImageShape, pixels: &[f32]) -> std::io::Result<()> {
    image::codecs::png::PngEncoder::new(out)
        .write_image(
            &rgb8(pixels),
            shape.width as u32,
            shape.height as u32,
            image::ExtendedColorType::Rgb8,
        )
        .map_err(|error| match error {
            image::ImageError::IoError(error) => error,
            other => std::io::Error::other(other),
        })
}

/// Refuses sizes whose pixels would take too much memory.
pub fn check_size(width: usize, height: usize) -> Result<(), String> {
    let pixels = MAX_BYTES / (3 * size_of::<f32>());
    if width == 0 || height == 0 {
        return Err(format!(
            "has no pixels: it is {height}x{width} (height x width)"
        ));
    }
    if width > MAX_SIDE || height > MAX_SIDE || width * height > pixels {
        return Err(format!(
            "is {height}x{width} pixels (height x width), too large: at most {MAX_SIDE} a side and {} million in \
             all; make it smaller first",
            pixels / 1_000_000
        ));
    }
    Ok(())
}

/// The bytes of a file, which may have up to [`MAX_BYTES`].
fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    let too_large = || {
        Err(Error::file(
            path,
            "is larger than 1 GiB, too large for a picture",
        ))
    };
    if file.metadata().map_err(Error::io(path))?.len() > MAX_BYTES as u64 {
        return too_large();
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    match bytes.len() > MAX_BYTES {
        true => too_large(),
        false => Ok(bytes),
    }
}

/// An error's text on one line.
fn one_line(error: &dyn std::error::Error) -> String {
    error
        .to_string()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Whether a JPEG reaches its end marker. Decoders do not fail if it does not, but fill the rest with gray.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut at = 2;
    let mut scanning = false;
    while let Some(&byte) = bytes.get(at) {
        if byte != 0xff {
            // Entropy-coded data, or, between segments, bytes that decoders skip.
            at += 1;
            continue;
        }
        match bytes.get(at + 1) {
            Some(0xd9) => return true,
            // Fill bytes, stuffed zeros, restart markers, and markers without a length.
            Some(0xff) => at += 1,
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            Some(&marker) => {
                let Some(length) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                scanning |= marker == 0xda;
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
            None => return false,
        }
    }
    // A file without a scan is no picture at all: the decoder gives the error.
    !scanning
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_the_way_to_floats_and_back() {
        let bytes: Vec<u8> = (0..=255).flat_map(|b| [b, 255 - b, b / 2]).collect();
        let picture = Picture::from_rgb8(&bytes, rgb(16, 16));
        assert_eq!(picture.to_rgb8(), bytes);
        let mut png = Vec::new();
        write_png(&mut png, picture.shape, &picture.pixels).unwrap();
        assert_eq!(Picture::decode(&png).unwrap(), picture);
    }

    #[test]
    fn floats_round_to_the_nearest_byte() {
        let pixels = [
            0.0,
            0.499 / 255.0,
            0.501 / 255.0,
            1.0,
            254.4 / 255.0,
            f32::MIN_POSITIVE,
        ];
        assert_eq!(rgb8(&pixels), [0, 1, 254, 0, 255, 0]);
    }

    #[test]
    fn hashes_name_pixels_and_size() {
        let picture = |height, width, last| {
            let mut bytes = vec![7; 36];
            bytes[35] = last;
            Picture::from_rgb8(&bytes, rgb(height, width)).hash()
        };
        assert_eq!(picture(3, 4, 7), picture(3, 4, 7));
        assert_ne!(picture(3, 4, 7), picture(4, 3, 7));
        assert_ne!(picture(3, 4, 7), picture(3, 4, 8));
    }

    #[test]
    fn a_jpeg_ends_at_its_own_end_marker() {
        let start = [0xff, 0xd8];
        // A segment that holds a whole thumbnail, end marker and all, is no end.
        let thumbnail = [0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9];
        let scan = [0xff, 0xda, 0, 2, 1, 2, 0xff, 0x00, 0xff, 0xd0, 3];
        let whole = [&start[..], &thumbnail, &scan, &[0xff, 0xff, 0xd9, 9, 9]].concat();
        assert!(jpeg_is_whole(&whole));
        assert!(!jpeg_is_whole(&[&start[..], &thumbnail, &scan].concat()));
        assert!(!jpeg_is_whole(&[&start[..], &scan, &[0xff]].concat()));
    }
}

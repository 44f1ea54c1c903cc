//! Small pictures as data URIs.

use image::ExtendedColorType::Rgb8;
use image::ImageEncoder;

use crate::backend::ImageShape;
use crate::picture::resample::{Filter, resample_u8};
use crate::picture::{rgb, rgb8};

/// The longest side, in pixels.
const SIDE: usize = 112;
/// Pictures whose longest side is up to this many pixels are stored exactly, as PNG; larger ones as JPEG.
const EXACT: usize = 48;
const QUALITY: u8 = 75;

/// A thumbnail of CHW pixels, clipped to `[0, 1]`.
pub(super) fn data_uri(shape: ImageShape, pixels: &[f32]) -> String {
    let side = shape.height.max(shape.width);
    let scale = |n: usize| (n * SIDE / side.max(SIDE)).max(1);
    let small = rgb(scale(shape.height), scale(shape.width));
    let bytes = resample_u8(&rgb8(pixels), shape, small, Filter::Bilinear);
    let (width, height) = (small.width as u32, small.height as u32);
    let mut file = Vec::new();
    let (kind, encoded) = if side <= EXACT {
        let encoder = image::codecs::png::PngEncoder::new(&mut file);
        ("png", encoder.write_image(&bytes, width, height, Rgb8))
    } else {
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, QUALITY);
        ("jpeg", encoder.write_image(&bytes, width, height, Rgb8))
    };
    encoded.expect("a small picture can be encoded to memory");
    format!("data:image/{kind};base64,{}", base64(&file))
}

/// Base64 of RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= group.len() {
                char::from(DIGITS[value as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let known = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in known {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xbf]), "+/+/");
    }

    #[test]
    fn thumbnails_keep_the_aspect() {
        let shape = rgb(100, 400);
        let uri = data_uri(shape, &vec![0.5; shape.elements()]);
        assert!(uri.starts_with("data:image/jpeg;base64,/9j/"), "{uri}");
        let shape = rgb(1000, 1);
        assert!(data_uri(shape, &vec![2.0; shape.elements()]).len() > 100);
    }
}

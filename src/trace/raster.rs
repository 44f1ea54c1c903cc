//! The drawing as pixels.

use image::ImageEncoder;
use resvg::{tiny_skia, usvg};

use crate::error::{Error, Result};
use crate::plot::FONT;

/// Pixels of the PNG for each pixel of the drawing, along each axis.
const SCALE: f32 = 2.0;

/// Renders an SVG of this crate as an 8-bit RGB PNG. The font is built in, so that the result is the same on every
/// machine.
///
/// # Errors
/// The SVG cannot be drawn.
pub fn png(svg: &str) -> Result<Vec<u8>> {
    let failed = |why: &dyn std::fmt::Display| Error::invalid(format!("the drawing failed: {why}"));
    let mut options = usvg::Options {
        font_family: FONT.to_owned(),
        ..usvg::Options::default()
    };
    let fonts = options.fontdb_mut();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.set_sans_serif_family(FONT);
    let tree = usvg::Tree::from_str(svg, &options).map_err(|error| failed(&error))?;
    let size = tree.size().to_int_size().scale_by(SCALE);
    let size = size.ok_or_else(|| failed(&"it has no size"))?;
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height())
        .ok_or_else(|| failed(&"it is too large"))?;
    let transform = tiny_skia::Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, transform, &mut pixels.as_mut());
    // The background covers everything, so that no pixel is transparent.
    let rgb: Vec<u8> = pixels
        .pixels()
        .iter()
        .flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()])
        .collect();
    let mut file = Vec::new();
    image::codecs::png::PngEncoder::new(&mut file)
        .write_image(
            &rgb,
            size.width(),
            size.height(),
            image::ExtendedColorType::Rgb8,
        )
        .map_err(|error| failed(&error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Anchor, Svg};

    fn ink(text: &str) -> usize {
        let mut svg = Svg::default();
        svg.text((5.0, 20.0), 16.0, Anchor::Start, "#000000", text);
        let file = png(&svg.finish(100.0, 30.0, "")).unwrap();
        let image = image::load_from_memory(&file).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (200, 60));
        image.pixels().filter(|pixel| pixel.0[0] < 128).count()
    }

    #[test]
    fn text_is_drawn_without_the_system_s_fonts() {
        assert_eq!(ink(""), 0);
        assert!(ink("backstitch αβŷ◆▲−") > ink("backstitch") && ink("backstitch") > 200);
    }

    #[test]
    fn what_is_no_drawing_is_an_error() {
        assert!(png("<svg").is_err());
        assert!(png("").is_err());
    }
}

//! Tiles and cells of an image.

use std::ops::Range;

use crate::picture::ImageShape;

/// The grid of tiles over an image of `height × width`.
///
/// Tiles cover the image row by row. The first tile's upper left corner is `top` rows above and `left` columns to
/// the left of the image's. Beyond its edges the image is extended by reflection: the edge is not repeated, and an
/// image that is smaller than the extension is reflected several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TileGrid {
    /// Height of the image in pixels, at least 1.
    pub height: usize,
    /// Width of the image in pixels, at least 1.
    pub width: usize,
    /// Height of a tile in pixels, at least 1; the image's where a tile is the whole image.
    pub tile_height: usize,
    /// Width of a tile in pixels, at least 1; the image's where a tile is the whole image.
    pub tile_width: usize,
    /// Rows of the first row of tiles that lie above the image; less than `tile_height`.
    pub top: usize,
    /// Columns of the first column of tiles that lie to the left of the image; less than `tile_width`.
    pub left: usize,
}

impl TileGrid {
    /// Tiles of `tile_height × tile_width` that start at the image's upper left corner.
    pub fn new(height: usize, width: usize, tile_height: usize, tile_width: usize) -> Self {
        TileGrid {
            height,
            width,
            tile_height,
            tile_width,
            top: 0,
            left: 0,
        }
    }

    /// Number of rows of tiles.
    pub fn rows(&self) -> usize {
        (self.height + self.top).div_ceil(self.tile_height)
    }
    /// Number of columns of tiles.
    pub fn columns(&self) -> usize {
        (self.width + self.left).div_ceil(self.tile_width)
    }
    /// Number of tiles of one image.
    pub fn tiles(&self) -> usize {
        self.rows() * self.columns()
    }
    /// Number of a tile's pixels that are on the image.
    pub fn area(&self, tile: usize) -> usize {
        let (row, column) = (tile / self.columns(), tile % self.columns());
        pixels(row, self.tile_height, self.top, self.height).len()
            * pixels(column, self.tile_width, self.left, self.width).len()
    }
    /// The range of pixels, in a row of the image, of each column of tiles.
    pub(crate) fn columns_of_pixels(&self) -> Vec<Range<usize>> {
        (0..self.columns())
            .map(|column| pixels(column, self.tile_width, self.left, self.width))
            .collect()
    }
    /// Shape of the image with this number of channels.
    pub(crate) fn image_shape(&self, channels: usize) -> ImageShape {
        ImageShape {
            channels,
            height: self.height,
            width: self.width,
        }
    }
    /// Shape of a tile of an image with this number of channels.
    pub(crate) fn tile_shape(&self, channels: usize) -> ImageShape {
        ImageShape {
            channels,
            height: self.tile_height,
            width: self.tile_width,
        }
    }
    /// The windows of a [`Stitch`](super::Stitch), raised cosines with sum 1, at every row and at every column. At
    /// most two windows are not zero; each entry is the index of the upper or left one, and its weight.
    pub(crate) fn windows(&self) -> [Vec<(usize, f64)>; 2] {
        [
            windows(self.height, self.tile_height, self.top, self.rows()),
            windows(self.width, self.tile_width, self.left, self.columns()),
        ]
    }
    /// The pixel, on an axis of `n` pixels, that reflection gives for a coordinate at distance `i` from the first
    /// pixel. Reflection is even, so the side does not matter.
    pub fn reflect(i: usize, n: usize) -> usize {
        if n == 1 {
            return 0;
        }
        let i = i % (2 * n - 2);
        if i < n { i } else { 2 * n - 2 - i }
    }
}

/// The range of pixels of tile `i` on an axis of `n` pixels, for tiles of `size` pixels; pixel 0 is pixel `before`
/// of the first tile.
fn pixels(i: usize, size: usize, before: usize, n: usize) -> Range<usize> {
    (i * size).saturating_sub(before)..((i + 1) * size - before).min(n)
}

/// The windows at every pixel of an axis of `length` pixels, for `n` cells of `size` pixels; pixel 0 is pixel
/// `before` of the first cell.
fn windows(length: usize, size: usize, before: usize, n: usize) -> Vec<(usize, f64)> {
    (0..length)
        .map(|i| {
            // Position in cells from the first center.
            let position = ((i + before) as f64 + 0.5) / size as f64 - 0.5;
            if position <= 0.0 || n == 1 {
                return (0, 1.0);
            }
            if position >= (n - 1) as f64 {
                return (n - 1, 1.0);
            }
            let fraction = position.fract();
            (
                position as usize,
                0.5 + 0.5 * (std::f64::consts::PI * fraction).cos(),
            )
        })
        .collect()
}

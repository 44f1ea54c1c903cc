//! Tiles and cells of an image.

use std::ops::Range;

use crate::picture::ImageShape;

/// Where tiles lie on an image of `height × width`.
///
/// Tiles cover the image row by row. The first one's upper left corner lies `top` rows above and
/// `left` columns before the image's, both less than the tile's size. Beyond its edges the image is
/// extended by reflection (the edge not repeated; reflected again where the image is smaller than
/// the extension).
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
    /// Tiles of `tile_height × tile_width` from the image's own corner.
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

    /// Rows of tiles.
    pub fn rows(&self) -> usize {
        (self.height + self.top).div_ceil(self.tile_height)
    }
    /// Columns of tiles.
    pub fn columns(&self) -> usize {
        (self.width + self.left).div_ceil(self.tile_width)
    }
    /// Tiles of one image.
    pub fn tiles(&self) -> usize {
        self.rows() * self.columns()
    }
    /// Pixels of a tile that lie on the image.
    pub fn area(&self, tile: usize) -> usize {
        let (row, column) = (tile / self.columns(), tile % self.columns());
        pixels(row, self.tile_height, self.top, self.height).len()
            * pixels(column, self.tile_width, self.left, self.width).len()
    }
    /// The pixels of each column of tiles in a row of the image.
    pub(crate) fn columns_of_pixels(&self) -> Vec<Range<usize>> {
        (0..self.columns())
            .map(|column| pixels(column, self.tile_width, self.left, self.width))
            .collect()
    }
    /// Shape of the image, if it has so many channels.
    pub(crate) fn image_shape(&self, channels: usize) -> ImageShape {
        ImageShape {
            channels,
            height: self.height,
            width: self.width,
        }
    }
    /// Shape of a tile, if the image has so many channels.
    pub(crate) fn tile_shape(&self, channels: usize) -> ImageShape {
        ImageShape {
            channels,
            height: self.tile_height,
            width: self.tile_width,
        }
    }
    /// The windows of a [`Stitch`](super::Stitch) at every row, and at every column: raised cosines that
    /// sum to 1. At most two are not zero: the upper or left one's index, and its weight.
    pub(crate) fn windows(&self) -> [Vec<(usize, f64)>; 2] {
        [
            windows(self.height, self.tile_height, self.top, self.rows()),
            windows(self.width, self.tile_width, self.left, self.columns()),
        ]
    }
    /// Where reflection puts a coordinate on an axis of `n` pixels, by its distance `i` from the first
    /// pixel, on either side: reflection is even.
    pub fn reflect(i: usize, n: usize) -> usize {
        if n == 1 {
            return 0;
        }
        let i = i % (2 * n - 2);
        if i < n { i } else { 2 * n - 2 - i }
    }
}

/// The pixels of tile `i` of `size` on an axis of `n` pixels whose first lies `before` pixels inside the
/// first tile.
fn pixels(i: usize, size: usize, before: usize, n: usize) -> Range<usize> {
    (i * size).saturating_sub(before)..((i + 1) * size - before).min(n)
}

/// Weights of `n` cells of `size` at every pixel of an axis whose first lies `before` pixels inside the
/// first cell.
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

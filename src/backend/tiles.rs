//! Tiles and cells of an image.

/// Where tiles lie on an image of `height × width`.
///
/// Tiles cover the image row by row. The first one's upper left corner lies `top` rows above and
/// `left` columns before the image's, both less than the tile's size. Beyond its edges the image is
/// extended by reflection (the edge not repeated; reflected again where the image is smaller than
/// the extension).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TileGrid {
    pub height: usize,
    pub width: usize,
    /// Tile height and width; the whole image where a tile is the image.
    pub tile_height: usize,
    pub tile_width: usize,
    pub top: usize,
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
        // Where a tile starts and ends on an axis of `n` pixels.
        let on_axis = |i: usize, size: usize, before: usize, n: usize| {
            ((i + 1) * size - before).min(n) - (i * size).saturating_sub(before)
        };
        let (row, column) = (tile / self.columns(), tile % self.columns());
        on_axis(row, self.tile_height, self.top, self.height)
            * on_axis(column, self.tile_width, self.left, self.width)
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

//! An image cut into tiles, and put together again.

use super::images::HostImages;
use super::real::Real;
use crate::backend::images::{check_range, check_shape};
use crate::backend::{At, ImageBuffer, TileGrid};
use crate::error::Result;

/// Cuts an image into tiles.
pub(super) fn cut<T: Real>(
    image: At<'_, HostImages<T>>,
    grid: TileGrid,
    out: &mut HostImages<T>,
    first: usize,
) -> Result<()> {
    let shape = grid.image_shape(out.shape().channels);
    check_shape(image.buffer.shape(), shape)?;
    check_shape(out.shape(), grid.tile_shape(shape.channels))?;
    let pixels = image.pixels();
    let tiles: Vec<usize> = (0..grid.tiles()).collect();
    out.write_each(first, &tiles, |t, tile| {
        let (row, column) = (t / grid.columns(), t % grid.columns());
        let (down, right) = (row * grid.tile_height, column * grid.tile_width);
        for (row, to) in tile.chunks_exact_mut(grid.tile_width).enumerate() {
            let (channel, y) = (row / grid.tile_height, row % grid.tile_height);
            let y = TileGrid::reflect((down + y).abs_diff(grid.top), shape.height);
            let from = &pixels[(channel * shape.height + y) * shape.width..][..shape.width];
            for (x, to) in to.iter_mut().enumerate() {
                *to = from[TileGrid::reflect((right + x).abs_diff(grid.left), shape.width)];
            }
        }
    })
}

/// Puts tiles together.
pub(super) fn join<T: Real>(
    tiles: &HostImages<T>,
    first_tile: usize,
    grid: TileGrid,
    out: &mut HostImages<T>,
    index: usize,
) -> Result<()> {
    let shape = grid.image_shape(out.shape().channels);
    check_shape(out.shape(), shape)?;
    check_shape(tiles.shape(), grid.tile_shape(shape.channels))?;
    check_range(tiles, first_tile, grid.tiles())?;
    check_range(out, index, 1)?;
    let columns = grid.columns_of_pixels();
    let image = out.image_mut(index);
    for (row, to) in image.chunks_exact_mut(shape.width).enumerate() {
        let (channel, y) = (row / shape.height, row % shape.height + grid.top);
        let first = first_tile + y / grid.tile_height * grid.columns();
        let start = (channel * grid.tile_height + y % grid.tile_height) * grid.tile_width;
        for (column, run) in columns.iter().enumerate() {
            let tile = tiles.image(first + column);
            let from = start + (run.start + grid.left) % grid.tile_width;
            to[run.clone()].copy_from_slice(&tile[from..from + run.len()]);
        }
    }
    Ok(())
}

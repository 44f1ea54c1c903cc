//! An image cut into tiles, and put together again.

use super::buffer::{DeviceImages, source};
use super::jobs::{THREADS, moving};
use crate::backend::cuda::backend::to_u32;
use crate::backend::cuda::driver::{self, Address, Device, Launch};
use crate::backend::cuda::kernels::images as kernels;
use crate::backend::images::check_shape;
use crate::backend::{At, ImageBuffer, TileGrid};
use crate::error::Result;

driver::arguments! {
    pub(super) struct Grid {
        height: u32,
        width: u32,
        tile_height: u32,
        tile_width: u32,
        top: u32,
        left: u32,
        columns: u32,
    }

    pub(super) struct ImageTileArgs {
        image: Address,
        tiles: Address,
        grid: Grid,
        tile_elements: u32,
        blocks_per_tile: u32,
    }

    pub(super) struct ImageUntileArgs {
        tiles: Address,
        image: Address,
        grid: Grid,
        tile_elements: u32,
        elements: u32,
    }
}

impl Grid {
    pub(super) fn new(grid: TileGrid) -> Result<Self> {
        Ok(Grid {
            height: to_u32(grid.height, "rows")?,
            width: to_u32(grid.width, "columns")?,
            tile_height: to_u32(grid.tile_height, "rows of a tile")?,
            tile_width: to_u32(grid.tile_width, "columns of a tile")?,
            top: to_u32(grid.top, "rows before the image")?,
            left: to_u32(grid.left, "columns before the image")?,
            columns: to_u32(grid.columns(), "columns of tiles")?,
        })
    }
}

/// Cuts an image into tiles.
pub(super) fn cut(
    device: &Device,
    image: At<'_, DeviceImages>,
    grid: TileGrid,
    out: &mut DeviceImages,
    first: usize,
) -> Result<()> {
    let shape = grid.image_shape(out.shape.channels);
    let tile = grid.tile_shape(out.shape.channels);
    check_shape(out.shape(), tile)?;
    to_u32(shape.elements(), "pixels")?;
    let tile_elements = to_u32(tile.elements(), "pixels of a tile")?;
    let blocks_per_tile = tile_elements.div_ceil(THREADS);
    let blocks = grid.tiles().saturating_mul(blocks_per_tile as usize);
    let arguments = ImageTileArgs {
        image: source(image, shape)?,
        tiles: out.range(first, grid.tiles())?,
        grid: Grid::new(grid)?,
        tile_elements,
        blocks_per_tile,
    };
    let work = moving(shape.elements() + grid.tiles() * tile.elements());
    let launch = Launch::new([to_u32(blocks, "blocks")?, 1, 1], THREADS).doing(work);
    Ok(device.launch(&kernels::IMAGE_TILE, launch, &arguments)?)
}

/// Puts tiles together.
pub(super) fn join(
    device: &Device,
    tiles: &DeviceImages,
    first_tile: usize,
    grid: TileGrid,
    out: &mut DeviceImages,
    index: usize,
) -> Result<()> {
    let shape = grid.image_shape(out.shape.channels);
    let tile = grid.tile_shape(out.shape.channels);
    check_shape(out.shape(), shape)?;
    check_shape(tiles.shape(), tile)?;
    let elements = to_u32(shape.elements(), "pixels")?;
    let arguments = ImageUntileArgs {
        tiles: tiles.range(first_tile, grid.tiles())?,
        image: out.range(index, 1)?,
        grid: Grid::new(grid)?,
        tile_elements: to_u32(tile.elements(), "pixels of a tile")?,
        elements,
    };
    let work = moving(2 * shape.elements());
    let launch = Launch::new([elements.div_ceil(THREADS), 1, 1], THREADS).doing(work);
    Ok(device.launch(&kernels::IMAGE_UNTILE, launch, &arguments)?)
}

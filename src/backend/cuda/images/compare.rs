//! How far images are from one another.

use super::buffer::{DeviceImages, source};
use super::jobs::{JOBS, THREADS, lay_out, moving};
use super::tiles::Grid;
use crate::backend::cuda::backend::to_u32;
use crate::backend::cuda::driver::{self, Address, Device, Launch, shared_bytes};
use crate::backend::cuda::kernels::images as kernels;
use crate::backend::{ImagePair, TileGrid};
use crate::error::Result;
use crate::picture::ssim;

/// Places of SSIM's window on either axis that a block has: PLACES in the kernels' source.
const PLACES: usize = 16;

driver::arguments! {
    pub(super) struct ImageSquaredErrorArgs {
        first: [Address; JOBS],
        second: [Address; JOBS],
        out: Address,
        cells: Grid,
        channels: u32,
    }

    pub(super) struct ImageSsimArgs {
        first: [Address; JOBS],
        second: [Address; JOBS],
        out: Address,
        window: [f64; ssim::WINDOW],
        c1: f64,
        c2: f64,
        taps: u32,
        height: u32,
        width: u32,
        rows: u32,
        columns: u32,
    }
}

/// Sums of squared differences, pairs × cells.
pub(super) fn squared_error(
    device: &Device,
    pairs: &[ImagePair<'_, DeviceImages>],
    cells: TileGrid,
) -> Result<Vec<f64>> {
    let Some((image, _)) = pairs.first() else {
        return Ok(vec![]);
    };
    let shape = cells.image_shape(image.buffer.shape.channels);
    to_u32(shape.elements(), "pixels")?;
    let sums = device.allocate::<f64>(pairs.len() * cells.tiles())?;
    let shared = shared_bytes([THREADS as usize / 32 * size_of::<f64>()]);
    for (i, pairs) in pairs.chunks(JOBS).enumerate() {
        let arguments = ImageSquaredErrorArgs {
            first: lay_out(pairs, |pair| source(pair.0, shape))?,
            second: lay_out(pairs, |pair| source(pair.1, shape))?,
            out: sums.at(i * JOBS * cells.tiles()),
            cells: Grid::new(cells)?,
            channels: to_u32(shape.channels, "channels")?,
        };
        let blocks = [to_u32(cells.tiles(), "cells")?, pairs.len() as u32, 1];
        let mut work = moving(2 * pairs.len() * shape.elements());
        work.bytes += (pairs.len() * cells.tiles() * size_of::<f64>()) as u64;
        work.multiply_adds = (pairs.len() * shape.elements()) as u64;
        let launch = Launch::new(blocks, THREADS).with_shared(shared).doing(work);
        device.launch(&kernels::IMAGE_SQUARED_ERROR, launch, &arguments)?;
    }
    Ok(sums.download(0, sums.len())?)
}

/// Structural similarity of each pair.
pub(super) fn similarity(
    device: &Device,
    pairs: &[ImagePair<'_, DeviceImages>],
) -> Result<Vec<f64>> {
    let Some((image, _)) = pairs.first() else {
        return Ok(vec![]);
    };
    let shape = image.buffer.shape;
    if shape.elements() == 0 {
        return Ok(vec![1.0; pairs.len()]);
    }
    let weights = ssim::window(shape);
    let taps = weights.len();
    let mut window = [0.0; ssim::WINDOW];
    window[..taps].copy_from_slice(&weights);
    to_u32(shape.elements(), "pixels")?;
    // Places where the window fits, and blocks that cover them.
    let (high, wide) = (shape.height + 1 - taps, shape.width + 1 - taps);
    let (rows, columns) = (high.div_ceil(PLACES), wide.div_ceil(PLACES));
    let blocks = shape.channels * rows * columns;
    let sums = device.allocate::<f64>(pairs.len() * blocks)?;
    let reach = PLACES + ssim::WINDOW - 1;
    let shared = shared_bytes([
        reach * reach * size_of::<f32>(),
        reach * reach * size_of::<f32>(),
        5 * reach * PLACES * size_of::<f64>(),
        THREADS as usize / 32 * size_of::<f64>(),
    ]);
    for (i, pairs) in pairs.chunks(JOBS).enumerate() {
        let arguments = ImageSsimArgs {
            first: lay_out(pairs, |pair| source(pair.0, shape))?,
            second: lay_out(pairs, |pair| source(pair.1, shape))?,
            out: sums.at(i * JOBS * blocks),
            window,
            c1: ssim::C1,
            c2: ssim::C2,
            taps: taps as u32,
            height: to_u32(shape.height, "rows")?,
            width: to_u32(shape.width, "columns")?,
            rows: to_u32(rows, "rows of blocks")?,
            columns: to_u32(columns, "columns of blocks")?,
        };
        let mut work = moving(2 * pairs.len() * shape.elements());
        work.bytes += (pairs.len() * blocks * size_of::<f64>()) as u64;
        // Five means at every place; those along rows also for the rows around a block's places.
        let means = wide * (2 * high + rows * (taps - 1));
        work.multiply_adds = (pairs.len() * shape.channels * 5 * taps * means) as u64;
        let grid = [to_u32(blocks, "blocks")?, pairs.len() as u32, 1];
        let launch = Launch::new(grid, THREADS).with_shared(shared).doing(work);
        device.launch(&kernels::IMAGE_SSIM, launch, &arguments)?;
    }
    let sums = sums.download(0, sums.len())?;
    let places = (shape.channels * high * wide) as f64;
    let means = (sums.chunks_exact(blocks)).map(|sums| sums.iter().sum::<f64>() / places);
    Ok(means.collect())
}

//! Images in a device's memory, and [`ImageOps`] on them.

use bytemuck::{Pod, Zeroable};

use super::driver::{self, Address, Arguments, Buffer, Kernel, Launch, Work, shared_bytes};
use super::kernels::images as kernels;
use super::{CudaBackend, to_u32};
use crate::backend::host::{check_shape, tile_shape, windows};
use crate::backend::{
    At, Blend, ImageBuffer, ImageOps, ImagePair, ImageShape, Phase, Push, Stitch, TileGrid, View,
};
use crate::error::{Error, Result};
use crate::picture::ssim;

/// Images that travel in one launch's arguments: JOBS in the kernels' source.
const JOBS: usize = 128;
/// Threads of a block.
const THREADS: u32 = 256;
/// Places of SSIM's window on either axis that a block has: PLACES in the kernels' source.
const PLACES: usize = 16;

driver::arguments! {
    struct ImageCopyArgs {
        from: [Address; JOBS],
        out: Address,
        elements: u32,
    }

    struct ImageViewArgs {
        from: [Address; JOBS],
        down: [i32; JOBS],
        right: [i32; JOBS],
        mirrored: [u32; JOBS],
        out: Address,
        elements: u32,
        height: u32,
        width: u32,
    }

    struct ImagePairArgs {
        first: [Address; JOBS],
        second: [Address; JOBS],
        amount: [f32; JOBS],
        out: Address,
        elements: u32,
    }

    struct Grid {
        height: u32,
        width: u32,
        tile_height: u32,
        tile_width: u32,
        top: u32,
        left: u32,
        columns: u32,
    }

    struct ImageTileArgs {
        image: Address,
        tiles: Address,
        grid: Grid,
        tile_elements: u32,
        blocks_per_tile: u32,
    }

    struct ImageUntileArgs {
        tiles: Address,
        image: Address,
        grid: Grid,
        tile_elements: u32,
        elements: u32,
    }

    #[derive(Pod, Zeroable)]
    struct Window {
        weight: f64,
        cell: u32,
        unused: u32,
    }

    struct ImageStitchArgs {
        images: Address,
        weights: Address,
        down: Address,
        right: Address,
        out: Address,
        count: u32,
        rows: u32,
        columns: u32,
        height: u32,
        width: u32,
        elements: u32,
    }

    struct ImageSquaredErrorArgs {
        first: [Address; JOBS],
        second: [Address; JOBS],
        out: Address,
        cells: Grid,
        channels: u32,
    }

    struct ImageSsimArgs {
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

/// A buffer of images in a device's memory, CHW in float32, one after another.
#[derive(Debug)]
pub struct DeviceImages {
    shape: ImageShape,
    len: usize,
    pixels: Buffer<f32>,
}

impl DeviceImages {
    /// Where image `index` starts, for a kernel.
    pub(super) fn at(&self, index: usize) -> Address {
        self.pixels.at(index * self.shape.elements())
    }

    /// Where images `first .. first + count` start.
    fn range(&self, first: usize, count: usize) -> Result<Address> {
        if first.checked_add(count).is_none_or(|end| end > self.len) {
            return Err(Error::invalid(format!(
                "images {first}..{} do not fit a buffer of {}",
                first.saturating_add(count),
                self.len
            )));
        }
        Ok(self.at(first))
    }
}

impl ImageBuffer for DeviceImages {
    fn shape(&self) -> ImageShape {
        self.shape
    }
    fn len(&self) -> usize {
        self.len
    }
}

/// Where an image starts, if its buffer has it and it has the wanted shape.
fn source(image: At<'_, DeviceImages>, shape: ImageShape) -> Result<Address> {
    check_shape(image.buffer, shape)?;
    image.buffer.range(image.index, 1)
}

impl Grid {
    fn new(grid: TileGrid) -> Result<Self> {
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

/// What kernels take of each of up to [`JOBS`] jobs; the rest is zero.
fn lay_out<J, T: Zeroable + Copy>(jobs: &[J], f: impl Fn(&J) -> Result<T>) -> Result<[T; JOBS]> {
    let mut laid = [T::zeroed(); JOBS];
    for (to, job) in laid.iter_mut().zip(jobs) {
        *to = f(job)?;
    }
    Ok(laid)
}

/// Work of so many numbers that are read or written.
fn moving(numbers: usize) -> Work {
    Work {
        bytes: (numbers * size_of::<f32>()) as u64,
        ..Work::default()
    }
}

impl CudaBackend {
    /// Joins pairs of images, each by an amount.
    fn join_pairs(
        &self,
        kernel: &Kernel,
        pairs: &[(At<'_, DeviceImages>, At<'_, DeviceImages>, f32)],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        out.range(first, pairs.len())?;
        let shape = out.shape;
        for (i, pairs) in pairs.chunks(JOBS).enumerate() {
            let arguments = ImagePairArgs {
                first: lay_out(pairs, |pair| source(pair.0, shape))?,
                second: lay_out(pairs, |pair| source(pair.1, shape))?,
                amount: lay_out(pairs, |pair| Ok(pair.2))?,
                out: out.at(first + i * JOBS),
                elements: to_u32(shape.elements(), "pixels")?,
            };
            self.launch_per_image(kernel, shape.elements(), pairs.len(), 3, &arguments)?;
        }
        Ok(())
    }

    /// Copies images of this shape, from anywhere, to `out` and on.
    pub(super) fn gather(
        &self,
        from: &[At<'_, DeviceImages>],
        shape: ImageShape,
        out: Address,
    ) -> Result<()> {
        let from: Vec<Address> = from
            .iter()
            .map(|&image| source(image, shape))
            .collect::<Result<_>>()?;
        self.copy_each(&from, shape.elements(), out)
    }

    /// Copies `count` images that lie one after another at `from` into a buffer.
    pub(super) fn scatter(
        &self,
        from: Address,
        out: &mut DeviceImages,
        first: usize,
        count: usize,
    ) -> Result<()> {
        let to = out.range(first, count)?;
        let elements = out.shape.elements();
        let image = |i: usize| from.offset(i * elements * size_of::<f32>());
        let from: Vec<Address> = (0..count).map(image).collect();
        self.copy_each(&from, elements, to)
    }

    /// Copies `elements` numbers from each of these places to `out` and on.
    fn copy_each(&self, from: &[Address], elements: usize, out: Address) -> Result<()> {
        for (i, from) in from.chunks(JOBS).enumerate() {
            let arguments = ImageCopyArgs {
                from: lay_out(from, |&from| Ok(from))?,
                out: out.offset(i * JOBS * elements * size_of::<f32>()),
                elements: to_u32(elements, "pixels")?,
            };
            self.launch_per_image(&kernels::IMAGE_COPY, elements, from.len(), 2, &arguments)?;
        }
        Ok(())
    }

    /// Launches a kernel that writes `images` images, a thread to an element, and for each reads or writes
    /// `touched` numbers.
    fn launch_per_image<A: Arguments>(
        &self,
        kernel: &Kernel,
        elements: usize,
        images: usize,
        touched: usize,
        arguments: &A,
    ) -> Result<()> {
        if elements == 0 {
            return Ok(());
        }
        let blocks = [
            to_u32(elements, "pixels")?.div_ceil(THREADS),
            images as u32,
            1,
        ];
        let launch = Launch::new(blocks, THREADS).doing(moving(touched * images * elements));
        Ok(self.device.launch(kernel, launch, arguments)?)
    }
}

impl ImageOps for CudaBackend {
    type Images = DeviceImages;

    fn phase(&self, name: &'static str) -> Phase {
        Phase::new(self.device.phase(name))
    }

    fn allocate(&self, shape: ImageShape, len: usize) -> Result<DeviceImages> {
        let elements = shape
            .channels
            .checked_mul(shape.height)
            .and_then(|n| n.checked_mul(shape.width))
            .and_then(|n| n.checked_mul(len))
            .ok_or_else(|| Error::invalid(format!("no memory for {len} images of {shape}")))?;
        let mut pixels = self.device.allocate(elements)?;
        pixels.zero()?;
        Ok(DeviceImages { shape, len, pixels })
    }

    fn upload(&self, pixels: &[f32], out: &mut DeviceImages, first: usize) -> Result<()> {
        let n = out.shape.elements();
        if n == 0 || !pixels.len().is_multiple_of(n) {
            return Err(Error::invalid(format!(
                "{} numbers are not a whole number of {} images",
                pixels.len(),
                out.shape
            )));
        }
        out.range(first, pixels.len() / n)?;
        Ok(out.pixels.upload(pixels, first * n)?)
    }

    fn download(&self, image: At<'_, DeviceImages>) -> Result<Vec<f32>> {
        image.buffer.range(image.index, 1)?;
        let n = image.buffer.shape.elements();
        Ok(image.buffer.pixels.download(image.index * n, n)?)
    }

    fn copy(
        &self,
        from: &[At<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        let to = out.range(first, from.len())?;
        self.gather(from, out.shape, to)
    }

    fn view(
        &self,
        jobs: &[View<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        out.range(first, jobs.len())?;
        let shape = out.shape;
        for job in jobs {
            job.from.check(shape)?;
        }
        for (i, jobs) in jobs.chunks(JOBS).enumerate() {
            let arguments = ImageViewArgs {
                from: lay_out(jobs, |job| source(job.image, shape))?,
                down: lay_out(jobs, |job| Ok(job.from.down))?,
                right: lay_out(jobs, |job| Ok(job.from.right))?,
                mirrored: lay_out(jobs, |job| Ok(u32::from(job.from.mirrored)))?,
                out: out.at(first + i * JOBS),
                elements: to_u32(shape.elements(), "pixels")?,
                height: to_u32(shape.height, "rows")?,
                width: to_u32(shape.width, "columns")?,
            };
            let kernel = &kernels::IMAGE_VIEW;
            self.launch_per_image(kernel, shape.elements(), jobs.len(), 2, &arguments)?;
        }
        Ok(())
    }

    fn tile(
        &self,
        image: At<'_, DeviceImages>,
        grid: TileGrid,
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        let shape = ImageShape {
            height: grid.height,
            width: grid.width,
            ..image.buffer.shape
        };
        let tile = tile_shape(shape, grid);
        check_shape(out, tile)?;
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
        Ok(self
            .device
            .launch(&kernels::IMAGE_TILE, launch, &arguments)?)
    }

    fn untile(
        &self,
        tiles: &DeviceImages,
        first_tile: usize,
        grid: TileGrid,
        out: &mut DeviceImages,
        index: usize,
    ) -> Result<()> {
        let shape = ImageShape {
            height: grid.height,
            width: grid.width,
            ..out.shape
        };
        let tile = tile_shape(shape, grid);
        check_shape(out, shape)?;
        check_shape(tiles, tile)?;
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
        Ok(self
            .device
            .launch(&kernels::IMAGE_UNTILE, launch, &arguments)?)
    }

    fn blend(
        &self,
        jobs: &[Blend<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        let pairs: Vec<_> = (jobs.iter()).map(|job| (job.from, job.to, job.t)).collect();
        self.join_pairs(&kernels::IMAGE_BLEND, &pairs, out, first)
    }

    fn push(
        &self,
        jobs: &[Push<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        let pairs: Vec<_> = (jobs.iter())
            .map(|job| (job.boundary, job.input, job.beta))
            .collect();
        self.join_pairs(&kernels::IMAGE_PUSH, &pairs, out, first)
    }

    fn stitch(
        &self,
        job: &Stitch<'_, DeviceImages>,
        out: &mut DeviceImages,
        index: usize,
    ) -> Result<()> {
        let (cells, count) = (job.cells, job.images.len());
        let shape = ImageShape {
            height: cells.height,
            width: cells.width,
            ..out.shape
        };
        check_shape(out, shape)?;
        if count == 0 || job.weights.len() != cells.tiles() * count {
            return Err(Error::invalid(format!(
                "a stitch of {count} images over {} cells has {} weights",
                cells.tiles(),
                job.weights.len()
            )));
        }
        let images: Vec<Address> = job
            .images
            .iter()
            .map(|&image| source(image, shape))
            .collect::<Result<_>>()?;
        let windows = |length, cell, before, n| -> Result<Buffer<Window>> {
            let windows: Vec<Window> = windows(length, cell, before, n)
                .into_iter()
                .map(|(cell, weight)| Window {
                    weight,
                    cell: cell as u32,
                    unused: 0,
                })
                .collect();
            Ok(self.device.allocate_with(&windows)?)
        };
        let elements = to_u32(shape.elements(), "pixels")?;
        to_u32(job.weights.len(), "weights")?;
        let images = self.device.allocate_with(&images)?;
        let weights = self.device.allocate_with(&job.weights)?;
        let down = windows(shape.height, cells.tile_height, cells.top, cells.rows())?;
        let right = windows(shape.width, cells.tile_width, cells.left, cells.columns())?;
        let arguments = ImageStitchArgs {
            images: images.at(0),
            weights: weights.at(0),
            down: down.at(0),
            right: right.at(0),
            out: out.range(index, 1)?,
            count: to_u32(count, "images")?,
            rows: to_u32(cells.rows(), "rows of cells")?,
            columns: to_u32(cells.columns(), "columns of cells")?,
            height: to_u32(shape.height, "rows")?,
            width: to_u32(shape.width, "columns")?,
            elements,
        };
        let mut work = moving((count + 1) * shape.elements() + job.weights.len());
        work.bytes += ((shape.height + shape.width) * size_of::<Window>()) as u64;
        let launch = Launch::new([elements.div_ceil(THREADS), 1, 1], THREADS).doing(work);
        Ok(self
            .device
            .launch(&kernels::IMAGE_STITCH, launch, &arguments)?)
    }

    fn squared_error(
        &self,
        pairs: &[ImagePair<'_, DeviceImages>],
        cells: TileGrid,
    ) -> Result<Vec<f64>> {
        let Some((image, _)) = pairs.first() else {
            return Ok(vec![]);
        };
        let shape = ImageShape {
            height: cells.height,
            width: cells.width,
            ..image.buffer.shape
        };
        to_u32(shape.elements(), "pixels")?;
        let sums = self.device.allocate::<f64>(pairs.len() * cells.tiles())?;
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
            self.device
                .launch(&kernels::IMAGE_SQUARED_ERROR, launch, &arguments)?;
        }
        Ok(sums.download(0, sums.len())?)
    }

    fn ssim(&self, pairs: &[ImagePair<'_, DeviceImages>]) -> Result<Vec<f64>> {
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
        let sums = self.device.allocate::<f64>(pairs.len() * blocks)?;
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
            self.device
                .launch(&kernels::IMAGE_SSIM, launch, &arguments)?;
        }
        let sums = sums.download(0, sums.len())?;
        let places = (shape.channels * high * wide) as f64;
        let means = (sums.chunks_exact(blocks)).map(|sums| sums.iter().sum::<f64>() / places);
        Ok(means.collect())
    }
}

#[cfg(test)]
mod tests;

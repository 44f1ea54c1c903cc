//! Images in the machine's own memory, and [`ImageOps`](super::ImageOps) on them: what the cpu backend computes in
//! float32 and the reference in float64.

use std::ops::{Add, Mul, Sub};

use rayon::prelude::*;

use super::memory::free_bytes;
use super::{
    At, Blend, ImageBuffer, ImageOps, ImagePair, ImageShape, Push, Stitch, TileGrid, View,
};
use crate::error::{Error, Result};
use crate::picture::ssim;

/// The number type of a host backend.
pub trait Real:
    Copy
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Into<f64>
    + From<f32>
    + 'static
{
    /// Rounds to the nearest.
    fn from_f64(x: f64) -> Self;
    /// Rounds to the nearest.
    fn to_f32(self) -> f32;
}

impl Real for f32 {
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Real for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
}

/// Bytes from which on a buffer's size is compared with the free memory first.
const ASKED_FROM: u128 = 1 << 28;

/// A buffer of images in the machine's memory, CHW, one after another.
#[derive(Clone, Debug)]
pub struct HostImages<T> {
    shape: ImageShape,
    len: usize,
    pixels: Vec<T>,
}

impl<T: Real> HostImages<T> {
    /// `len` black images.
    ///
    /// # Errors
    /// The size overflows or the memory is not to be had.
    pub fn zeroed(shape: ImageShape, len: usize) -> Result<Self> {
        let refused = || Error::invalid(format!("no memory for {len} images of {shape}"));
        let elements = shape
            .channels
            .checked_mul(shape.height)
            .and_then(|n| n.checked_mul(shape.width))
            .and_then(|n| n.checked_mul(len))
            .ok_or_else(refused)?;
        // Linux promises more than it has, and ends a program that takes it at its word.
        let bytes = elements as u128 * size_of::<T>() as u128;
        if bytes > ASKED_FROM && free_bytes().is_some_and(|free| bytes > free.into()) {
            return Err(refused());
        }
        let mut pixels = Vec::new();
        pixels.try_reserve_exact(elements).map_err(|_| refused())?;
        pixels.resize(elements, T::default());
        Ok(HostImages { shape, len, pixels })
    }

    /// Image `index`'s pixels, CHW.
    pub fn image(&self, index: usize) -> &[T] {
        let n = self.shape.elements();
        &self.pixels[index * n..(index + 1) * n]
    }

    /// Image `index`'s pixels, CHW.
    pub fn image_mut(&mut self, index: usize) -> &mut [T] {
        let n = self.shape.elements();
        &mut self.pixels[index * n..(index + 1) * n]
    }

    /// Pixels of images `first .. first + count`, one after another.
    pub fn images_mut(&mut self, first: usize, count: usize) -> &mut [T] {
        let n = self.shape.elements();
        &mut self.pixels[first * n..(first + count) * n]
    }

    /// Images `first .. first + count`, each as a slice, for parallel writing.
    fn par_images_mut(
        &mut self,
        first: usize,
        count: usize,
    ) -> Result<rayon::slice::ChunksExactMut<'_, T>> {
        if first + count > self.len {
            return Err(Error::invalid(format!(
                "images {first}..{} do not fit a buffer of {}",
                first + count,
                self.len
            )));
        }
        let n = self.shape.elements();
        Ok(self.pixels[first * n..(first + count) * n].par_chunks_exact_mut(n.max(1)))
    }
}

impl<T: Real> ImageBuffer for HostImages<T> {
    fn shape(&self) -> ImageShape {
        self.shape
    }
    fn len(&self) -> usize {
        self.len
    }
}

impl<'a, T: Real> At<'a, HostImages<T>> {
    /// The image's pixels, CHW.
    pub fn pixels(&self) -> &'a [T] {
        self.buffer.image(self.index)
    }
}

/// Refuses an image whose shape is not the wanted one.
pub(super) fn check_shape(images: &impl ImageBuffer, want: ImageShape) -> Result<()> {
    if images.shape() == want {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "an image of {} where {want} is needed",
        images.shape()
    )))
}

/// A backend whose images lie in the machine's memory.
pub trait HostDevice: Send + Sync {
    /// What a pixel is stored as.
    type Number: Real;
}

impl<B: HostDevice> ImageOps for B {
    type Images = HostImages<B::Number>;

    fn allocate(&self, shape: ImageShape, len: usize) -> Result<Self::Images> {
        HostImages::zeroed(shape, len)
    }
    fn upload(&self, pixels: &[f32], out: &mut Self::Images, first: usize) -> Result<()> {
        upload(pixels, out, first)
    }
    fn download(&self, image: At<'_, Self::Images>) -> Result<Vec<f32>> {
        Ok(image.pixels().iter().map(|&x| x.to_f32()).collect())
    }
    fn copy(
        &self,
        from: &[At<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        copy(from, out, first)
    }
    fn view(
        &self,
        jobs: &[View<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        view(jobs, out, first)
    }
    fn tile(
        &self,
        image: At<'_, Self::Images>,
        grid: TileGrid,
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        tile(image, grid, out, first)
    }
    fn untile(
        &self,
        tiles: &Self::Images,
        first_tile: usize,
        grid: TileGrid,
        out: &mut Self::Images,
        index: usize,
    ) -> Result<()> {
        untile(tiles, first_tile, grid, out, index)
    }
    fn blend(
        &self,
        jobs: &[Blend<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        blend(jobs, out, first)
    }
    fn push(
        &self,
        jobs: &[Push<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        push(jobs, out, first)
    }
    fn stitch(
        &self,
        job: &Stitch<'_, Self::Images>,
        out: &mut Self::Images,
        index: usize,
    ) -> Result<()> {
        stitch(job, out, index)
    }
    fn squared_error(
        &self,
        pairs: &[ImagePair<'_, Self::Images>],
        cells: TileGrid,
    ) -> Result<Vec<f64>> {
        squared_error(pairs, cells)
    }
    fn ssim(&self, pairs: &[ImagePair<'_, Self::Images>]) -> Result<Vec<f64>> {
        similarities(pairs)
    }
}

/// Copies `pixels` to images `first..`.
fn upload<T: Real>(pixels: &[f32], out: &mut HostImages<T>, first: usize) -> Result<()> {
    let n = out.shape.elements();
    if n == 0 || !pixels.len().is_multiple_of(n) {
        return Err(Error::invalid(format!(
            "{} numbers are not a whole number of {} images",
            pixels.len(),
            out.shape
        )));
    }
    let images = out.par_images_mut(first, pixels.len() / n)?;
    images
        .zip(pixels.par_chunks_exact(n))
        .for_each(|(to, from)| {
            for (to, &from) in to.iter_mut().zip(from) {
                *to = T::from(from);
            }
        });
    Ok(())
}

/// Copies images.
fn copy<T: Real>(
    from: &[At<'_, HostImages<T>>],
    out: &mut HostImages<T>,
    first: usize,
) -> Result<()> {
    for image in from {
        check_shape(image.buffer, out.shape)?;
    }
    let images = out.par_images_mut(first, from.len())?;
    images
        .zip(from)
        .for_each(|(to, from)| to.copy_from_slice(from.pixels()));
    Ok(())
}

/// Makes views of images.
fn view<T: Real>(
    jobs: &[View<'_, HostImages<T>>],
    out: &mut HostImages<T>,
    first: usize,
) -> Result<()> {
    for job in jobs {
        check_shape(job.image.buffer, out.shape)?;
        job.from.check(out.shape)?;
    }
    let (height, width) = (out.shape.height, out.shape.width);
    let images = out.par_images_mut(first, jobs.len())?;
    images.zip(jobs).for_each(|(to, job)| {
        let row_of = |y: usize| job.from.shows((y, 0), (height, width)).0;
        let rows: Vec<usize> = (0..height).map(row_of).collect();
        let column_of = |x: usize| job.from.shows((0, x), (height, width)).1;
        let columns: Vec<usize> = (0..width).map(column_of).collect();
        let plane = (height * width).max(1);
        let planes = job.image.pixels().chunks_exact(plane);
        for (to, from) in to.chunks_exact_mut(plane).zip(planes) {
            for (to, &row) in to.chunks_exact_mut(width).zip(&rows) {
                let from = &from[row * width..][..width];
                for (to, &column) in to.iter_mut().zip(&columns) {
                    *to = from[column];
                }
            }
        }
    });
    Ok(())
}

/// The shape of a tile of `grid` with as many channels as `image`.
pub(super) fn tile_shape(image: ImageShape, grid: TileGrid) -> ImageShape {
    ImageShape {
        channels: image.channels,
        height: grid.tile_height,
        width: grid.tile_width,
    }
}

/// Cuts an image into tiles.
fn tile<T: Real>(
    image: At<'_, HostImages<T>>,
    grid: TileGrid,
    out: &mut HostImages<T>,
    first: usize,
) -> Result<()> {
    let shape = ImageShape {
        height: grid.height,
        width: grid.width,
        ..image.buffer.shape
    };
    check_shape(image.buffer, shape)?;
    check_shape(out, tile_shape(shape, grid))?;
    let pixels = image.pixels();
    let tiles = out.par_images_mut(first, grid.tiles())?;
    tiles.enumerate().for_each(|(t, tile)| {
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
    });
    Ok(())
}

/// Puts tiles together.
fn untile<T: Real>(
    tiles: &HostImages<T>,
    first_tile: usize,
    grid: TileGrid,
    out: &mut HostImages<T>,
    index: usize,
) -> Result<()> {
    let shape = out.shape;
    check_shape(
        out,
        ImageShape {
            height: grid.height,
            width: grid.width,
            ..shape
        },
    )?;
    check_shape(tiles, tile_shape(shape, grid))?;
    if first_tile + grid.tiles() > tiles.len || index >= out.len {
        return Err(Error::invalid(format!(
            "{} tiles from {first_tile} on, or image {index}, are beyond their buffer",
            grid.tiles()
        )));
    }
    let columns = runs(grid.width, grid.left, grid.tile_width);
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

/// The pixels of each tile on an axis of `n` pixels whose first lies `before` pixels inside the first
/// tile.
fn runs(n: usize, before: usize, tile: usize) -> Vec<std::ops::Range<usize>> {
    let tiles = (n + before).div_ceil(tile);
    (0..tiles)
        .map(|i| (i * tile).saturating_sub(before)..((i + 1) * tile - before).min(n))
        .collect()
}

/// `x` in `[0, 1]`.
fn clip<T: Real>(x: T) -> T {
    let (zero, one) = (T::from(0.0), T::from(1.0));
    if x < zero {
        zero
    } else if x > one {
        one
    } else {
        x
    }
}

/// Points of lines.
fn blend<T: Real>(
    jobs: &[Blend<'_, HostImages<T>>],
    out: &mut HostImages<T>,
    first: usize,
) -> Result<()> {
    for job in jobs {
        check_shape(job.from.buffer, out.shape)?;
        check_shape(job.to.buffer, out.shape)?;
    }
    out.par_images_mut(first, jobs.len())?
        .zip(jobs)
        .for_each(|(out, job)| {
            let (s, t) = (T::from(1.0 - job.t), T::from(job.t));
            let pixels = job.from.pixels().iter().zip(job.to.pixels());
            for (out, (&from, &to)) in out.iter_mut().zip(pixels) {
                *out = clip(s * from + t * to);
            }
        });
    Ok(())
}

/// Pushed images.
fn push<T: Real>(
    jobs: &[Push<'_, HostImages<T>>],
    out: &mut HostImages<T>,
    first: usize,
) -> Result<()> {
    for job in jobs {
        check_shape(job.boundary.buffer, out.shape)?;
        check_shape(job.input.buffer, out.shape)?;
    }
    out.par_images_mut(first, jobs.len())?
        .zip(jobs)
        .for_each(|(out, job)| {
            let beta = T::from(job.beta);
            let pixels = job.boundary.pixels().iter().zip(job.input.pixels());
            for (out, (&boundary, &input)) in out.iter_mut().zip(pixels) {
                *out = clip(boundary + beta * (boundary - input));
            }
        });
    Ok(())
}

/// Weight of each of `n` cells of size `cell` at every pixel of an axis whose first lies `before`
/// pixels inside the first cell: raised cosines that sum to 1. At most two are not zero: the lower
/// one's index, and its weight.
pub(super) fn windows(length: usize, cell: usize, before: usize, n: usize) -> Vec<(usize, f64)> {
    (0..length)
        .map(|i| {
            // Position in cells from the first centre.
            let position = ((i + before) as f64 + 0.5) / cell as f64 - 0.5;
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

/// The stitch.
fn stitch<T: Real>(
    job: &Stitch<'_, HostImages<T>>,
    out: &mut HostImages<T>,
    index: usize,
) -> Result<()> {
    let shape = out.shape;
    let (cells, count) = (job.cells, job.images.len());
    check_shape(
        out,
        ImageShape {
            height: cells.height,
            width: cells.width,
            ..shape
        },
    )?;
    for image in &job.images {
        check_shape(image.buffer, shape)?;
    }
    if count == 0 || job.weights.len() != cells.tiles() * count {
        return Err(Error::invalid(format!(
            "a stitch of {count} images over {} cells has {} weights",
            cells.tiles(),
            job.weights.len()
        )));
    }
    let down = windows(shape.height, cells.tile_height, cells.top, cells.rows());
    let right = windows(shape.width, cells.tile_width, cells.left, cells.columns());
    let weight = |row: usize, column: usize, image: usize| {
        f64::from(job.weights[(row * cells.columns() + column) * count + image])
    };
    let images: Vec<&[T]> = job.images.iter().map(|image| image.pixels()).collect();
    let plane = shape.height * shape.width;
    if index >= out.len {
        return Err(Error::invalid(format!(
            "image {index} is beyond a buffer of {}",
            out.len
        )));
    }
    out.image_mut(index)
        .par_chunks_exact_mut(shape.width)
        .enumerate()
        .for_each(|(row, to)| {
            let (channel, y) = (row / shape.height, row % shape.height);
            let (i, a) = down[y];
            let below = (i + 1).min(cells.rows() - 1);
            for (x, to) in to.iter_mut().enumerate() {
                let (j, b) = right[x];
                let beside = (j + 1).min(cells.columns() - 1);
                let mut sum = 0.0;
                for (r, image) in images.iter().enumerate() {
                    let upper = b * weight(i, j, r) + (1.0 - b) * weight(i, beside, r);
                    let lower = b * weight(below, j, r) + (1.0 - b) * weight(below, beside, r);
                    let value: f64 = image[channel * plane + y * shape.width + x].into();
                    sum += (a * upper + (1.0 - a) * lower) * value;
                }
                *to = T::from_f64(sum);
            }
        });
    Ok(())
}

/// Sums of squared differences, pairs × cells.
fn squared_error<T: Real>(
    pairs: &[ImagePair<'_, HostImages<T>>],
    cells: TileGrid,
) -> Result<Vec<f64>> {
    for (a, b) in pairs {
        let shape = ImageShape {
            height: cells.height,
            width: cells.width,
            ..a.buffer.shape
        };
        check_shape(a.buffer, shape)?;
        check_shape(b.buffer, shape)?;
    }
    let columns = runs(cells.width, cells.left, cells.tile_width);
    let sums: Vec<Vec<f64>> = pairs
        .par_iter()
        .map(|(a, b)| {
            let mut sums = vec![0.0; cells.tiles()];
            let rows = a
                .pixels()
                .chunks_exact(cells.width)
                .zip(b.pixels().chunks_exact(cells.width));
            for (row, (a, b)) in rows.enumerate() {
                let y = row % cells.height + cells.top;
                let first = y / cells.tile_height * cells.columns();
                for (column, run) in columns.iter().enumerate() {
                    for (&a, &b) in a[run.clone()].iter().zip(&b[run.clone()]) {
                        let difference: f64 = a.into() - b.into();
                        sums[first + column] += difference * difference;
                    }
                }
            }
            sums
        })
        .collect();
    Ok(sums.concat())
}

/// Structural similarities.
fn similarities<T: Real>(pairs: &[ImagePair<'_, HostImages<T>>]) -> Result<Vec<f64>> {
    let Some((image, _)) = pairs.first() else {
        return Ok(vec![]);
    };
    let shape = image.buffer.shape;
    for (a, b) in pairs {
        check_shape(a.buffer, shape)?;
        check_shape(b.buffer, shape)?;
    }
    let one = |(a, b): &ImagePair<'_, HostImages<T>>| ssim(shape, a.pixels(), b.pixels());
    Ok(pairs.par_iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;
    use crate::backend::Viewpoint;

    struct Host;
    impl HostDevice for Host {
        type Number = f64;
    }

    const SHAPE: ImageShape = ImageShape {
        channels: 2,
        height: 5,
        width: 7,
    };

    fn image(f: impl Fn(usize, usize, usize) -> f64) -> HostImages<f64> {
        let mut images = HostImages::zeroed(SHAPE, 1).unwrap();
        let mut pixels = images.image_mut(0).iter_mut();
        for c in 0..SHAPE.channels {
            for y in 0..SHAPE.height {
                for x in 0..SHAPE.width {
                    *pixels.next().unwrap() = f(c, y, x);
                }
            }
        }
        images
    }

    fn grid(tile_height: usize, tile_width: usize) -> TileGrid {
        TileGrid::new(SHAPE.height, SHAPE.width, tile_height, tile_width)
    }

    #[test]
    fn tiles_extend_by_reflection_and_come_back_cropped() {
        let input = image(|c, y, x| (100 * c + 10 * y + x) as f64);
        let sizes = [
            (4, 4, 0, 0),
            (5, 7, 0, 0),
            (1, 1, 0, 0),
            (8, 16, 0, 0),
            (3, 2, 0, 0),
        ];
        let shifted = [(4, 4, 3, 1), (5, 7, 4, 6), (8, 16, 7, 15), (3, 2, 1, 1)];
        for (height, width, top, left) in sizes.into_iter().chain(shifted) {
            let grid = TileGrid {
                top,
                left,
                ..grid(height, width)
            };
            let area: usize = (0..grid.tiles()).map(|tile| grid.area(tile)).sum();
            assert_eq!(area, SHAPE.height * SHAPE.width);
            let shape = ImageShape {
                channels: 2,
                height,
                width,
            };
            let mut tiles = Host.allocate(shape, grid.tiles() + 1).unwrap();
            Host.tile(At::new(&input, 0), grid, &mut tiles, 1).unwrap();
            let mut output = Host.allocate(SHAPE, 2).unwrap();
            Host.untile(&tiles, 1, grid, &mut output, 1).unwrap();
            assert_eq!(output.image(1), input.image(0), "{grid:?}");
        }
        let mut tiles = Host
            .allocate(
                ImageShape {
                    channels: 2,
                    height: 4,
                    width: 4,
                },
                4,
            )
            .unwrap();
        Host.tile(At::new(&input, 0), grid(4, 4), &mut tiles, 0)
            .unwrap();
        // Row 4 is the last; rows 5, 6, 7 reflect to 3, 2, 1. Column 7 reflects to 5.
        let last: Vec<f64> = tiles.image(3)[..16].to_vec();
        let row = |y: f64| [4.0, 5.0, 6.0, 5.0].map(|x| 10.0 * y + x);
        assert_eq!(last, [row(4.0), row(3.0), row(2.0), row(1.0)].concat());
        // Ahead of the image, row 1 comes before row 0.
        let ahead = TileGrid {
            top: 1,
            left: 2,
            ..grid(4, 4)
        };
        let mut tiles = Host.allocate(tiles.shape(), ahead.tiles()).unwrap();
        Host.tile(At::new(&input, 0), ahead, &mut tiles, 0).unwrap();
        assert_eq!(
            tiles.image(0)[..8],
            [12.0, 11.0, 10.0, 11.0, 2.0, 1.0, 0.0, 1.0]
        );
    }

    #[test]
    fn views_are_moved_reflected_at_the_edges_and_mirrored() {
        let input = image(|c, y, x| (100 * c + 10 * y + x) as f64);
        let mirrored = image(|c, y, x| (100 * c + 10 * y + SHAPE.width - 1 - x) as f64);
        let mut out = Host.allocate(SHAPE, 3).unwrap();
        let jobs = [&input, &mirrored].map(|buffer| View::mirror(At::new(buffer, 0)));
        Host.view(&jobs, &mut out, 1).unwrap();
        assert_eq!(out.image(0), [0.0; 70]);
        assert_eq!(out.image(1), mirrored.image(0));
        assert_eq!(out.image(2), input.image(0));

        // Five rows and seven columns: one row up, two columns to the right.
        let moved = |mirrored| View {
            image: At::new(&input, 0),
            from: Viewpoint {
                mirrored,
                down: -1,
                right: 2,
            },
        };
        let jobs = [moved(false), moved(true)];
        Host.view(&jobs, &mut out, 0).unwrap();
        let (columns, rows) = ([2, 3, 4, 5, 6, 5, 4], [1, 0, 1, 2, 3]);
        let want = image(|c, y, x| (100 * c + 10 * rows[y] + columns[x]) as f64);
        assert_eq!(out.image(0), want.image(0));
        let want = image(|c, y, x| (100 * c + 10 * rows[y] + columns[6 - x]) as f64);
        assert_eq!(out.image(1), want.image(0));

        let beyond = Viewpoint {
            down: SHAPE.height as i32,
            ..Viewpoint::default()
        };
        let job = View {
            image: At::new(&input, 0),
            from: beyond,
        };
        assert!(Host.view(&[job], &mut out, 0).is_err());
    }

    #[test]
    fn blend_push_and_error_follow_their_formulas() {
        let input = image(|_, y, _| 0.1 * y as f64);
        let other = image(|_, y, x| 0.1 * y as f64 + 0.125 * x as f64);
        let mut out = Host.allocate(SHAPE, 2).unwrap();
        let (from, to) = (At::new(&input, 0), At::new(&other, 0));
        Host.blend(
            &[Blend { from, to, t: 0.0 }, Blend { from, to, t: 0.5 }],
            &mut out,
            0,
        )
        .unwrap();
        assert_eq!(out.image(0), input.image(0));
        for (i, &x) in out.image(1).iter().enumerate() {
            let want = 0.1 * ((i / 7) % 5) as f64 + 0.0625 * (i % 7) as f64;
            assert_abs_diff_eq!(x, want, epsilon = 1e-12);
        }
        Host.push(
            &[Push {
                boundary: to,
                input: from,
                beta: 2.0,
            }],
            &mut out,
            0,
        )
        .unwrap();
        for (i, &x) in out.image(0).iter().enumerate() {
            let want = 0.1 * ((i / 7) % 5) as f64 + 0.375 * (i % 7) as f64;
            assert_abs_diff_eq!(x, want.min(1.0), epsilon = 1e-12);
        }
        let errors = Host
            .squared_error(&[(from, to), (to, to)], grid(5, 4))
            .unwrap();
        let column = |x: usize| (0.125 * x as f64).powi(2) * 10.0;
        let want = [
            (0..4).map(column).sum::<f64>(),
            (4..7).map(column).sum(),
            0.0,
            0.0,
        ];
        for (got, want) in errors.iter().zip(want) {
            assert_abs_diff_eq!(*got, want, epsilon = 1e-9);
        }
    }

    #[test]
    fn stitch_windows_sum_to_one_and_each_cell_rules_its_centre() {
        let ones = image(|_, _, _| 1.0);
        let zeros = image(|_, _, _| 0.0);
        let images = vec![At::new(&ones, 0), At::new(&zeros, 0), At::new(&ones, 0)];
        let mut out = Host.allocate(SHAPE, 1).unwrap();
        for cells in [grid(2, 3), grid(5, 7), grid(1, 1), grid(4, 4)] {
            let even = Stitch {
                images: images.clone(),
                cells,
                weights: [0.25, 0.25, 0.5].repeat(cells.tiles()),
            };
            Host.stitch(&even, &mut out, 0).unwrap();
            assert!(
                out.image(0).iter().all(|x| (x - 0.75).abs() < 1e-12),
                "{cells:?}"
            );
        }
        // Cells 3 wide: the centre of the first is pixel 1, of the second pixel 4.
        let cells = grid(5, 3);
        let mut weights = vec![0.0; 9];
        weights[0] = 1.0;
        weights[4] = 1.0;
        weights[8] = 1.0;
        Host.stitch(
            &Stitch {
                images,
                cells,
                weights,
            },
            &mut out,
            0,
        )
        .unwrap();
        let row: Vec<f64> = out.image(0)[..7].to_vec();
        assert!((row[0] - 1.0).abs() < 1e-12 && (row[1] - 1.0).abs() < 1e-12);
        assert!(row[4].abs() < 1e-12);
        assert!((row[2] - 0.75).abs() < 1e-12 && (row[3] - 0.25).abs() < 1e-12);
    }

    #[test]
    fn wrong_shapes_and_ranges_are_errors() {
        let input = image(|_, _, _| 0.0);
        let mut small = Host
            .allocate(
                ImageShape {
                    channels: 1,
                    ..SHAPE
                },
                1,
            )
            .unwrap();
        assert!(Host.copy(&[At::new(&input, 0)], &mut small, 0).is_err());
        let mut out = Host.allocate(SHAPE, 1).unwrap();
        assert!(Host.copy(&[At::new(&input, 0)], &mut out, 1).is_err());
        let mirror = View::mirror(At::new(&input, 0));
        assert!(Host.view(&[mirror], &mut small, 0).is_err());
        assert!(Host.view(&[mirror], &mut out, 1).is_err());
        assert!(Host.upload(&[0.0; 3], &mut out, 0).is_err());
        assert!(Host.untile(&input, 0, grid(5, 7), &mut out, 1).is_err());
        let huge = ImageShape {
            channels: 3,
            height: usize::MAX / 2,
            width: 8,
        };
        assert!(HostImages::<f32>::zeroed(huge, 1).is_err());
    }
}

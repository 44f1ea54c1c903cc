//! Images in the machine's own memory, and [`ImageOps`] on them: what the cpu backend computes in
//! float32 and the reference in float64.

mod compare;
mod images;
mod real;
mod stitch;
#[cfg(test)]
mod tests;
mod tiles;

pub use self::images::HostImages;
pub use self::real::Real;

use super::images::{check_shape, whole_images};
use super::{
    At, Blend, ImageBuffer, ImageOps, ImagePair, ImageShape, Noisy, Push, Stitch, TileGrid, View,
};
use crate::error::Result;
use crate::random::Purpose;

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
        whole_images(pixels.len(), out.shape())?;
        let images: Vec<&[f32]> = pixels.chunks_exact(out.shape().elements()).collect();
        out.write_each(first, &images, |from, to| {
            for (to, &from) in to.iter_mut().zip(*from) {
                *to = from.into();
            }
        })
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
        for image in from {
            check_shape(image.buffer.shape(), out.shape())?;
        }
        out.write_each(first, from, |from, to| to.copy_from_slice(from.pixels()))
    }

    fn view(
        &self,
        jobs: &[View<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        let ImageShape { height, width, .. } = out.shape();
        for job in jobs {
            check_shape(job.image.buffer.shape(), out.shape())?;
            job.from.check(out.shape())?;
        }
        out.write_each(first, jobs, |job, to| {
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
        })
    }

    fn add_noise(
        &self,
        jobs: &[Noisy<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        for job in jobs {
            check_shape(job.image.buffer.shape(), out.shape())?;
        }
        out.write_each(first, jobs, |job, out| {
            let (from, std) = (job.image.pixels(), B::Number::from(job.std));
            (job.key).normal(Purpose::VoteNoise, 0, out.len(), |i, n| {
                out[i] = from[i] + std * B::Number::from(n);
            });
        })
    }

    fn tile(
        &self,
        image: At<'_, Self::Images>,
        grid: TileGrid,
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        tiles::cut(image, grid, out, first)
    }

    fn untile(
        &self,
        tiles: &Self::Images,
        first_tile: usize,
        grid: TileGrid,
        out: &mut Self::Images,
        index: usize,
    ) -> Result<()> {
        tiles::join(tiles, first_tile, grid, out, index)
    }

    fn blend(
        &self,
        jobs: &[Blend<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        for job in jobs {
            check_shape(job.from.buffer.shape(), out.shape())?;
            check_shape(job.to.buffer.shape(), out.shape())?;
        }
        out.write_each(first, jobs, |job, out| {
            let (s, t) = (B::Number::from(1.0 - job.t), B::Number::from(job.t));
            let pixels = job.from.pixels().iter().zip(job.to.pixels());
            for (out, (&from, &to)) in out.iter_mut().zip(pixels) {
                *out = clip(s * from + t * to);
            }
        })
    }

    fn push(
        &self,
        jobs: &[Push<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()> {
        for job in jobs {
            check_shape(job.boundary.buffer.shape(), out.shape())?;
            check_shape(job.input.buffer.shape(), out.shape())?;
        }
        out.write_each(first, jobs, |job, out| {
            let beta = B::Number::from(job.beta);
            let pixels = job.boundary.pixels().iter().zip(job.input.pixels());
            for (out, (&boundary, &input)) in out.iter_mut().zip(pixels) {
                *out = clip(boundary + beta * (boundary - input));
            }
        })
    }

    fn stitch(
        &self,
        job: &Stitch<'_, Self::Images>,
        out: &mut Self::Images,
        index: usize,
    ) -> Result<()> {
        stitch::stitch(job, out, index)
    }

    fn squared_error(
        &self,
        pairs: &[ImagePair<'_, Self::Images>],
        cells: TileGrid,
    ) -> Result<Vec<f64>> {
        compare::squared_error(pairs, cells)
    }

    fn ssim(&self, pairs: &[ImagePair<'_, Self::Images>]) -> Result<Vec<f64>> {
        compare::similarity(pairs)
    }
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

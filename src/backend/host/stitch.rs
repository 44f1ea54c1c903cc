//! The stitch.

use rayon::prelude::*;

use super::images::HostImages;
use super::real::Real;
use crate::backend::images::check_range;
use crate::backend::{ImageBuffer, Stitch};
use crate::error::Result;

/// Writes a stitch to image `index`.
pub(super) fn stitch<T: Real>(
    job: &Stitch<'_, HostImages<T>>,
    out: &mut HostImages<T>,
    index: usize,
) -> Result<()> {
    let shape = out.shape();
    job.check(shape)?;
    check_range(out, index, 1)?;
    let (cells, count) = (job.cells, job.images.len());
    let [down, right] = cells.windows();
    let weight = |row: usize, column: usize, image: usize| {
        f64::from(job.weights[(row * cells.columns() + column) * count + image])
    };
    let images: Vec<&[T]> = job.images.iter().map(|image| image.pixels()).collect();
    let plane = shape.height * shape.width;
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

//! How far images are from one another.

use rayon::prelude::*;

use super::images::HostImages;
use super::real::Real;
use crate::backend::images::check_shape;
use crate::backend::{ImageBuffer, ImagePair, TileGrid};
use crate::error::Result;
use crate::picture::ssim;

/// Sums of squared differences, pairs × cells.
pub(super) fn squared_error<T: Real>(
    pairs: &[ImagePair<'_, HostImages<T>>],
    cells: TileGrid,
) -> Result<Vec<f64>> {
    for (a, b) in pairs {
        let shape = cells.image_shape(a.buffer.shape().channels);
        check_shape(a.buffer.shape(), shape)?;
        check_shape(b.buffer.shape(), shape)?;
    }
    let columns = cells.columns_of_pixels();
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

/// Structural similarity of each pair.
pub(super) fn similarity<T: Real>(pairs: &[ImagePair<'_, HostImages<T>>]) -> Result<Vec<f64>> {
    let Some((image, _)) = pairs.first() else {
        return Ok(vec![]);
    };
    let shape = image.buffer.shape();
    for (a, b) in pairs {
        check_shape(a.buffer.shape(), shape)?;
        check_shape(b.buffer.shape(), shape)?;
    }
    let one = |(a, b): &ImagePair<'_, HostImages<T>>| ssim(shape, a.pixels(), b.pixels());
    Ok(pairs.par_iter().map(one).collect())
}

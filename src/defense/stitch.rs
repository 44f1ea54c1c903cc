//! Stage F: the restarts' on-manifold images, blended into one picture.

use crate::backend::{At, ImageOps, Stitch, TileGrid};
use crate::error::{Error, Result};

/// Which on-manifold images each part of the picture is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum StitchMode {
    /// The mean of all restarts.
    Average,
    /// In each cell, the restart with the least squared error against the input.
    Mosaic,
}

/// How on-manifold images are joined.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StitchOptions {
    /// Which blend of the on-manifold images is made.
    pub mode: StitchMode,
    /// Cell size of the mosaic's raised-cosine windows, in pixels.
    pub cell: usize,
}

impl Default for StitchOptions {
    fn default() -> Self {
        StitchOptions {
            mode: StitchMode::Average,
            cell: 32,
        }
    }
}

impl StitchOptions {
    /// Checks the cell size.
    pub fn validate(&self) -> Result<()> {
        if self.cell == 0 {
            return Err(Error::option("cell", "must be at least 1 pixel, not 0"));
        }
        Ok(())
    }
}

/// Stitches one image's on-manifold images into image `index` of `out`.
///
/// `height × width` is the images' size; `images` must not be empty.
pub(super) fn stitch<O: ImageOps>(
    ops: &O,
    options: &StitchOptions,
    input: At<'_, O::Images>,
    images: &[At<'_, O::Images>],
    (height, width): (usize, usize),
    out: &mut O::Images,
    index: usize,
) -> Result<()> {
    let count = images.len();
    let (cells, weights) = match options.mode {
        StitchMode::Average => {
            let whole = TileGrid::new(height, width, height, width);
            (whole, vec![1.0 / count as f32; count])
        }
        StitchMode::Mosaic => {
            let cell = options.cell;
            let cells = TileGrid::new(height, width, cell, cell);
            let pairs: Vec<_> = images.iter().map(|image| (*image, input)).collect();
            (
                cells,
                most_faithful(&ops.squared_error(&pairs, cells)?, cells.tiles(), count),
            )
        }
    };
    ops.stitch(
        &Stitch {
            images: images.to_vec(),
            cells,
            weights,
        },
        out,
        index,
    )
}

/// Gives weight 1 to the image with the smallest error in each cell. `errors` is images × cells, the result
/// is cells × images.
fn most_faithful(errors: &[f64], cells: usize, images: usize) -> Vec<f32> {
    let mut weights = vec![0.0; cells * images];
    for cell in 0..cells {
        let error = |image: &usize| errors[image * cells + cell];
        let best = (0..images).min_by(|a, b| error(a).total_cmp(&error(b)));
        weights[cell * images + best.unwrap_or(0)] = 1.0;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mosaic_takes_each_cell_from_the_closest_image() {
        // Two images, three cells.
        let errors = [1.0, 5.0, 2.0, 3.0, 4.0, 2.0];
        assert_eq!(most_faithful(&errors, 3, 2), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
    }
}

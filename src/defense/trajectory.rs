//! Stage B: each restart's path through the decision space.

use crate::backend::{At, Backend};
use crate::error::Result;

use super::{Prober, Reading, ReconstructOptions, ReconstructionId, Reconstructions};
use crate::backend::TileGrid;

/// A reconstruction, probed.
#[derive(Clone, Debug)]
pub struct TrajectoryPoint {
    /// Adam steps before the forward pass that gave the reconstruction, plus one.
    pub iteration: u32,
    pub reading: Reading,
    /// Of the reconstruction against the input, in dB.
    pub psnr: f64,
    /// Smallest PSNR of a tile against the input's, in dB: what DIPDefend's stopping rule watches.
    pub least_tile_psnr: f64,
}

/// The probes of one restart, in iteration order.
pub type Trajectory = Vec<TrajectoryPoint>;

/// PSNR in dB of a sum of squared errors over `elements` numbers in `[0, 1]`.
pub fn psnr(squared_error: f64, elements: usize) -> f64 {
    -10.0 * (squared_error / elements as f64).log10()
}

/// Probes all reconstructions of a wave: trajectories by image, then restart.
pub fn trace<B: Backend>(
    prober: &mut Prober<'_, B>,
    options: &ReconstructOptions,
    inputs: &[At<'_, B::Images>],
    reconstructions: &Reconstructions<B::Images>,
) -> Result<Vec<Vec<Trajectory>>> {
    let shape = prober.shape();
    let grid = options.grid(shape)?;
    let mut ids = Vec::new();
    for image in 0..inputs.len() {
        for restart in 0..options.restarts {
            for probe in 0..options.probes() {
                ids.push(ReconstructionId {
                    image,
                    restart,
                    probe,
                });
            }
        }
    }
    let mut errors = Vec::with_capacity(ids.len());
    let readings = prober.probe(&ids, |backend, ids, out| {
        for (index, id) in ids.iter().enumerate() {
            reconstructions.assemble(backend, *id, out, index)?;
        }
        let pairs: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(index, id)| (At::new(&*out, index), inputs[id.image]))
            .collect();
        let by_tile = backend.squared_error(&pairs, grid)?;
        for tiles in by_tile.chunks_exact(grid.tiles()) {
            let least = tiles
                .iter()
                .enumerate()
                .map(|(tile, &error)| psnr(error, shape.channels * tile_area(grid, tile)))
                .fold(f64::INFINITY, f64::min);
            errors.push((psnr(tiles.iter().sum(), shape.elements()), least));
        }
        Ok(())
    })?;
    let mut points = ids
        .iter()
        .zip(readings)
        .zip(errors)
        .map(|((id, reading), (psnr, least))| TrajectoryPoint {
            iteration: options.iteration(id.probe),
            reading,
            psnr,
            least_tile_psnr: least,
        });
    Ok((0..inputs.len())
        .map(|_| {
            let restarts = 0..options.restarts;
            restarts
                .map(|_| points.by_ref().take(options.probes()).collect())
                .collect()
        })
        .collect())
}

/// Pixels of a tile that lie on the image.
fn tile_area(grid: TileGrid, tile: usize) -> usize {
    let (row, column) = (tile / grid.columns(), tile % grid.columns());
    let height = grid.tile_height.min(grid.height - row * grid.tile_height);
    let width = grid.tile_width.min(grid.width - column * grid.tile_width);
    height * width
}

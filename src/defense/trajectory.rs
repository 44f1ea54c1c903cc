//! Stage B: each restart's path through the decision space.

use crate::backend::{At, ClassifierEngine, ImageOps};
use crate::error::Result;
use crate::picture::decibels;

use super::reconstruct::Placed;
use super::{
    Oracle, Prober, Reading, ReconstructOptions, ReconstructionId, ReconstructionPath,
    Reconstructions,
};

/// A reconstruction that was probed.
#[derive(Clone, Debug)]
pub struct TrajectoryPoint {
    /// Iteration of the forward pass that gave the reconstruction, from 1.
    pub iteration: u32,
    /// What the classifier says of the reconstruction.
    pub reading: Reading,
    /// PSNR of the reconstruction against the input, in dB.
    pub psnr: f64,
    /// The smallest PSNR of a tile against the same part of the input, in dB; DIPDefend's stopping rule uses
    /// it.
    pub least_tile_psnr: f64,
}

/// The probes of one path's reconstructions, by checkpoint.
pub type Trajectory = Vec<TrajectoryPoint>;

/// Probes all reconstructions of `images`; the result has a trajectory for each image and path.
pub(super) fn trace<O: ImageOps, C: ClassifierEngine<Images = O::Images>>(
    prober: &mut Prober<O, C>,
    options: &ReconstructOptions,
    images: &[&Placed<'_, O::Images>],
    reconstructions: &mut Reconstructions<O::Images>,
) -> Result<Vec<Vec<Trajectory>>> {
    let shape = prober.shape();
    // The same tiles for every path, so that their smallest PSNRs can be compared.
    let grid = options.grids(shape)?[0];
    let paths = options.paths();
    let mut ids = Vec::new();
    for image in images {
        for &path in &paths {
            ids.extend((0..image.probes).map(|probe| {
                let id = ReconstructionId {
                    image: image.place,
                    path,
                    probe,
                };
                (id, image.input)
            }));
        }
    }
    let mut errors = Vec::with_capacity(ids.len());
    let readings = prober.probe(&ids, |ops, ids, out| {
        for (index, (id, _)) in ids.iter().enumerate() {
            reconstructions.assemble(ops, *id, out, index)?;
        }
        let pairs: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(index, (_, input))| (At::new(&*out, index), *input))
            .collect();
        let by_tile = ops.squared_error(&pairs, grid)?;
        for tiles in by_tile.chunks_exact(grid.tiles()) {
            let least = tiles
                .iter()
                .enumerate()
                .map(|(tile, &error)| decibels(error / (shape.channels * grid.area(tile)) as f64))
                .fold(f64::INFINITY, f64::min);
            errors.push((
                decibels(tiles.iter().sum::<f64>() / shape.elements() as f64),
                least,
            ));
        }
        Ok(())
    })?;
    let mut points =
        ids.iter()
            .zip(readings)
            .zip(errors)
            .map(|(((id, _), reading), (psnr, least))| TrajectoryPoint {
                iteration: options.iteration(id.probe),
                reading,
                psnr,
                least_tile_psnr: least,
            });
    Ok(images
        .iter()
        .map(|image| {
            let of_path = |_: &ReconstructionPath| points.by_ref().take(image.probes).collect();
            paths.iter().map(of_path).collect()
        })
        .collect())
}

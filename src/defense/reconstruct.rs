//! Stage A: DIP instances, one for each tile, fit every restart of every image.

use std::ops::Range;

use crate::backend::{At, DipEngine, ImageBuffer, ImageOps, ImageShape, Stitch, TileGrid};
use crate::dip::{NetSpec, Preset};
use crate::error::{Error, Result};
use crate::random::RandomKey;

/// How images are reconstructed: the network, the tiles, the restarts, the iterations.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ReconstructOptions {
    /// The DIP network and its optimization.
    pub spec: NetSpec,
    /// Height and width of a tile in pixels; `None`: one tile is the whole image, extended to the next size
    /// that the network can halve evenly.
    pub tile: Option<usize>,
    /// Restarts of each image, 1 to 65,536.
    pub restarts: usize,
    /// Whether each restart's tiles are shifted differently, so that no seam is in all restarts (cycle
    /// spinning does this for wavelets: Coifman and Donoho 1995).
    pub shift: bool,
    /// Iterations of each restart, at least `probe_interval`.
    pub iterations: u32,
    /// Iterations from one checkpoint to the next, at least 1.
    pub probe_interval: u32,
    /// Seed of restart 0; restart `r` has `seed + r`.
    pub seed: u64,
}

impl ReconstructOptions {
    /// The defaults for a preset and images of `channels` channels.
    pub fn preset(preset: Preset, channels: usize) -> Self {
        // A whole small picture needs more iterations than a tile of a large one: see docs/tuning.md.
        let (iterations, probe_interval) = match preset {
            Preset::Cifar => (2000, 50),
            Preset::Tiles | Preset::Skip | Preset::Wide => (600, 20),
        };
        ReconstructOptions {
            spec: preset.spec(channels),
            tile: preset.tile(),
            restarts: 4,
            shift: true,
            iterations,
            probe_interval,
            seed: 0,
        }
    }

    /// The most tiles of a restart; a shifted grid may have four times those of the unshifted one.
    const MAX_TILES: usize = 1 << 16;
    /// Far more restarts than help, and few enough that sizes do not overflow.
    const MAX_RESTARTS: usize = 1 << 16;

    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        self.spec.validate()?;
        if self.restarts == 0 || self.restarts > Self::MAX_RESTARTS {
            let wrong = format!("must be 1 to {}, not {}", Self::MAX_RESTARTS, self.restarts);
            return Err(Error::option("restarts", wrong));
        }
        if self.iterations == 0 {
            return Err(Error::option("iterations", "must be at least 1, not 0"));
        }
        if self.probe_interval == 0 || self.iterations < self.probe_interval {
            return Err(Error::option(
                "probe_interval",
                format!(
                    "must be between 1 and the {} iterations, not {}",
                    self.iterations, self.probe_interval
                ),
            ));
        }
        Ok(())
    }

    /// The tiles of each restart of an image.
    ///
    /// # Errors
    /// A tile size that the network cannot halve evenly, or more tiles than 65,536.
    pub fn grids(&self, image: ImageShape) -> Result<Vec<TileGrid>> {
        let whole = |side: usize| side.next_multiple_of(self.spec.granularity());
        let (tile_height, tile_width) = match self.tile {
            Some(tile) => (tile, tile),
            None => (whole(image.height), whole(image.width)),
        };
        self.spec.check_size(tile_height, tile_width)?;
        let unshifted = TileGrid::new(image.height, image.width, tile_height, tile_width);
        if unshifted.tiles() > Self::MAX_TILES / 4 {
            return Err(Error::invalid(format!(
                "an image of {image} has {} tiles of {tile_height}×{tile_width}; use a larger tile (at most {} fit)",
                unshifted.tiles(),
                Self::MAX_TILES / 4
            )));
        }
        let grid = |restart: usize| match self.shift && unshifted.tiles() > 1 {
            true => TileGrid {
                top: shift(restart, 2, tile_height),
                left: shift(restart, 3, tile_width),
                ..unshifted
            },
            false => unshifted,
        };
        Ok((0..self.restarts).map(grid).collect())
    }

    /// Checkpoints of each restart: `iterations / probe_interval`, rounded down.
    pub fn probes(&self) -> usize {
        (self.iterations / self.probe_interval) as usize
    }

    /// Iteration of checkpoint `probe`, which counts from 0.
    pub fn iteration(&self, probe: usize) -> u32 {
        (probe as u32 + 1) * self.probe_interval
    }
}

/// How many pixels the tiles of `size` pixels of a restart are shifted: Halton's sequence to `base`, which
/// distributes any number of restarts evenly and starts at 0.
fn shift(restart: usize, base: usize, size: usize) -> usize {
    let (mut digits, mut place_value, mut shift) = (restart, 1.0, 0.0);
    while digits > 0 {
        place_value /= base as f64;
        shift += place_value * (digits % base) as f64;
        digits /= base;
    }
    (shift * size as f64) as usize
}

/// Identifies one reconstruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconstructionId {
    /// Place of the image in [`Reconstructions`].
    pub image: usize,
    /// The path that the reconstruction belongs to.
    pub path: ReconstructionPath,
    /// Index of the checkpoint, from 0.
    pub probe: usize,
}

/// A path: the reconstructions of one restart, or of the consensus, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconstructionPath {
    /// The reconstructions of one restart, by its index from 0.
    Restart(usize),
    /// The means of all restarts' reconstructions, in which the flaws of single restarts average out.
    Consensus,
}

impl ReconstructOptions {
    /// The paths of an image: its restarts, then their consensus if there are several.
    pub fn paths(&self) -> Vec<ReconstructionPath> {
        let restarts = (0..self.restarts).map(ReconstructionPath::Restart);
        restarts
            .chain((self.restarts > 1).then_some(ReconstructionPath::Consensus))
            .collect()
    }
}

/// An image with its reconstructions.
pub(super) struct Placed<'a, I> {
    /// Its place in [`Reconstructions`].
    pub place: usize,
    /// The input.
    pub input: At<'a, I>,
    /// Key of its random numbers.
    pub key: RandomKey,
    /// Number of each path's reconstructions.
    pub probes: usize,
}

/// The reconstructions of several images at every checkpoint, kept on the device as tiles. Each image has a
/// place, which another image takes when the first is finished.
pub struct Reconstructions<I> {
    /// The tiles of each restart.
    grids: Vec<TileGrid>,
    /// Index of each restart's first tile among an image's tiles, and at the end the number of tiles.
    starts: Vec<usize>,
    /// Tiles of one checkpoint, of all images.
    instances: usize,
    tiles: I,
    /// The restarts' reconstructions that a consensus is the mean of.
    restarts: I,
}

impl<I: ImageBuffer> Reconstructions<I> {
    /// Memory for `images` images of shape `image`.
    pub fn allocate<O: ImageOps<Images = I>>(
        ops: &O,
        options: &ReconstructOptions,
        image: ImageShape,
        images: usize,
    ) -> Result<Self> {
        let grids = options.grids(image)?;
        let mut starts = vec![0];
        for grid in &grids {
            starts.push(starts[starts.len() - 1] + grid.tiles());
        }
        let shape = ImageShape {
            channels: image.channels,
            height: grids[0].tile_height,
            width: grids[0].tile_width,
        };
        let instances = images * starts[grids.len()];
        Ok(Reconstructions {
            tiles: ops.allocate(shape, instances * options.probes())?,
            restarts: ops.allocate(image, grids.len())?,
            grids,
            starts,
            instances,
        })
    }

    /// DIP instances of one image.
    pub fn instances_per_image(&self) -> usize {
        self.starts[self.grids.len()]
    }

    /// Number of places.
    pub fn places(&self) -> usize {
        self.instances / self.instances_per_image()
    }

    /// The tiles of each restart.
    pub(super) fn grids(&self) -> &[TileGrid] {
        &self.grids
    }

    /// Indices of the instances of restart `restart` among an image's instances.
    pub(super) fn instances_of(&self, restart: usize) -> Range<usize> {
        self.starts[restart]..self.starts[restart + 1]
    }

    /// Shape of a tile.
    pub(super) fn tile_shape(&self) -> ImageShape {
        self.tiles.shape()
    }

    /// Index of the tile that holds instance `instance` of the image at `place` at checkpoint `probe`.
    pub(super) fn index(&self, place: usize, instance: usize, probe: usize) -> usize {
        probe * self.instances + place * self.instances_per_image() + instance
    }

    /// Keeps the reconstructions of an engine's slots; `slots` has an index and a slot for each. Runs of
    /// consecutive indices are written together.
    pub(super) fn keep(
        &mut self,
        engine: &mut impl DipEngine<Images = I>,
        slots: &mut [(usize, usize)],
    ) -> Result<()> {
        slots.sort_unstable();
        for run in slots.chunk_by(|a, b| a.0 + 1 == b.0) {
            let slots: Vec<usize> = run.iter().map(|(_, slot)| *slot).collect();
            engine.reconstructions(&slots, &mut self.tiles, run[0].0)?;
        }
        Ok(())
    }

    /// Puts the tiles of one reconstruction together, in image `index` of `out`.
    pub fn assemble<O: ImageOps<Images = I>>(
        &mut self,
        ops: &O,
        of: ReconstructionId,
        out: &mut I,
        index: usize,
    ) -> Result<()> {
        let first = self.index(of.image, 0, of.probe);
        match of.path {
            ReconstructionPath::Restart(restart) => {
                let first = first + self.starts[restart];
                ops.untile(&self.tiles, first, self.grids[restart], out, index)
            }
            ReconstructionPath::Consensus => {
                let count = self.grids.len();
                for (restart, grid) in self.grids.iter().enumerate() {
                    let first = first + self.starts[restart];
                    ops.untile(&self.tiles, first, *grid, &mut self.restarts, restart)?;
                }
                let ImageShape { height, width, .. } = self.restarts.shape();
                let mean = Stitch {
                    images: (0..count).map(|r| At::new(&self.restarts, r)).collect(),
                    cells: TileGrid::new(height, width, height, width),
                    weights: vec![1.0 / count as f32; count],
                };
                ops.stitch(&mean, out, index)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_spread_over_the_tile() {
        let shifts: Vec<usize> = (0..4).map(|restart| shift(restart, 2, 32)).collect();
        assert_eq!(shifts, [0, 16, 8, 24]);
        assert_eq!(shift(1, 3, 32), 10);
        assert!((0..100).all(|restart| shift(restart, 3, 32) < 32));
    }

    #[test]
    fn an_image_of_one_tile_is_not_shifted() {
        let image = |side| ImageShape {
            channels: 3,
            height: side,
            width: side,
        };
        let options = ReconstructOptions::preset(Preset::Cifar, 3);
        assert!(
            options
                .grids(image(32))
                .unwrap()
                .iter()
                .all(|grid| grid.tiles() == 1)
        );
        let grids = options.grids(image(33)).unwrap();
        assert_eq!((grids[0].tiles(), grids[1].top), (4, 16));
    }
}

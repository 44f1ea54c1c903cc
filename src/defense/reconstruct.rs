//! Stage A: every restart of every image is fitted by DIP instances, a tile each.

use std::ops::Range;

use crate::backend::{At, DipEngine, ImageBuffer, ImageOps, ImageShape, Stitch, TileGrid};
use crate::dip::{NetSpec, Preset};
use crate::error::{Error, Result};

/// What is fitted, and how long.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ReconstructOptions {
    pub spec: NetSpec,
    /// Tile size in pixels; `None`: the whole image, extended to the next size that the network can
    /// halve evenly.
    pub tile: Option<usize>,
    /// Restarts an image.
    pub restarts: usize,
    /// Whether each restart's tiles lie elsewhere on the image, so that no seam is in all of them
    /// (as cycle spinning does for wavelets: Coifman and Donoho 1995).
    pub shift: bool,
    /// Adam steps a restart.
    pub iterations: u32,
    /// Iterations between probes.
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

    /// Tile numbers take 16 bits of a random sequence's place.
    const MAX_TILES: usize = 1 << 16;
    /// Far more than help, few enough to count with.
    const MAX_RESTARTS: usize = 1 << 16;

    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        self.spec.validate()?;
        if self.restarts == 0 || self.restarts > Self::MAX_RESTARTS {
            let wrong = format!("must be 1 to {}, not {}", Self::MAX_RESTARTS, self.restarts);
            return Err(Error::option("restarts", wrong));
        }
        if self.probe_interval == 0 || self.iterations < self.probe_interval {
            return Err(Error::invalid(format!(
                "the probe interval must be between 1 and the {} iterations, not {}",
                self.iterations, self.probe_interval
            )));
        }
        Ok(())
    }

    /// Where the instances of each restart of an image lie.
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

    /// Probes a restart; the last is after the last iteration that the interval reaches.
    pub fn probes(&self) -> usize {
        (self.iterations / self.probe_interval) as usize
    }

    /// Iteration of a probe.
    pub fn iteration(&self, probe: usize) -> u32 {
        (probe as u32 + 1) * self.probe_interval
    }
}

/// How far restart `restart`'s tiles of `size` pixels are shifted: Halton's sequence to `base`, which
/// spreads any number of restarts evenly and starts at 0.
fn shift(restart: usize, base: usize, size: usize) -> usize {
    let (mut digits, mut place_value, mut shift) = (restart, 1.0, 0.0);
    while digits > 0 {
        place_value /= base as f64;
        shift += place_value * (digits % base) as f64;
        digits /= base;
    }
    (shift * size as f64) as usize
}

/// Names one reconstruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconstructionId {
    /// The image's place in [`Reconstructions`].
    pub image: usize,
    pub path: ReconstructionPath,
    pub probe: usize,
}

/// Whose reconstructions follow one another on a trajectory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconstructionPath {
    Restart(usize),
    /// The mean of all restarts: what each of them got wrong in its own way averages out.
    Consensus,
}

impl ReconstructOptions {
    /// The paths of an image: its restarts, and their consensus where there are several.
    pub fn paths(&self) -> Vec<ReconstructionPath> {
        let restarts = (0..self.restarts).map(ReconstructionPath::Restart);
        restarts
            .chain((self.restarts > 1).then_some(ReconstructionPath::Consensus))
            .collect()
    }
}

/// An image whose reconstructions are there.
pub struct Placed<'a, I> {
    /// Where they are in [`Reconstructions`].
    pub place: usize,
    pub input: At<'a, I>,
    /// The input's mirror image; where votes are read mirrored too.
    pub mirrored: Option<At<'a, I>>,
    /// How many there are of each path.
    pub probes: usize,
}

/// The reconstructions of several images at every probe, kept on the device as tiles. An image has a
/// place, which another one takes when it is done.
pub struct Reconstructions<I> {
    /// One a restart.
    grids: Vec<TileGrid>,
    /// Where each restart's tiles start among an image's, and how many those are.
    starts: Vec<usize>,
    /// Tiles of a probe, all images.
    instances: usize,
    tiles: I,
    /// Where a consensus' restarts are put together.
    restarts: I,
}

impl<I: ImageBuffer> Reconstructions<I> {
    /// Places for `images` images.
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

    /// Places.
    pub fn places(&self) -> usize {
        self.instances / self.instances_per_image()
    }

    /// Where the tiles of each restart lie on an image.
    pub(super) fn grids(&self) -> &[TileGrid] {
        &self.grids
    }

    /// The instances of an image that are restart `restart`'s.
    pub(super) fn instances_of(&self, restart: usize) -> Range<usize> {
        self.starts[restart]..self.starts[restart + 1]
    }

    /// A tile's picture at every probe.
    pub(super) fn tile_shape(&self) -> ImageShape {
        self.tiles.shape()
    }

    /// Where instance `instance` of the image at `place` is kept at `probe`.
    pub(super) fn index(&self, place: usize, instance: usize, probe: usize) -> usize {
        probe * self.instances + place * self.instances_per_image() + instance
    }

    /// Keeps the reconstructions of an engine's slots, each at the index that comes with it. Those that
    /// follow one another are written together.
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

    /// Writes one reconstruction, tiles put together, to image `index` of `out`.
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

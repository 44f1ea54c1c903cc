//! Stage A: every restart of every image is fitted by DIP instances, a tile each.

use crate::backend::{At, Backend, DipEngine, ImageBuffer, ImageShape, Instance, TileGrid};
use crate::dip::{NetSpec, Preset};
use crate::error::{Error, Result};
use crate::random::RandomKey;

/// What is fitted, and how long.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ReconstructOptions {
    pub spec: NetSpec,
    /// Tile size in pixels; `None`: the whole image, extended to the next size that the network can
    /// halve evenly.
    pub tile: Option<usize>,
    /// Restarts an image.
    pub restarts: usize,
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
        ReconstructOptions {
            spec: preset.spec(channels),
            tile: preset.tile(),
            restarts: 4,
            iterations: 600,
            probe_interval: 20,
            seed: 0,
        }
    }

    /// Tile numbers take 16 bits of a random sequence's place.
    const MAX_TILES: usize = 1 << 16;

    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        self.spec.validate()?;
        if self.restarts == 0 {
            return Err(Error::invalid("at least 1 restart is needed"));
        }
        if self.probe_interval == 0 || self.iterations < self.probe_interval {
            return Err(Error::invalid(format!(
                "the probe interval must be between 1 and the {} iterations, not {}",
                self.iterations, self.probe_interval
            )));
        }
        Ok(())
    }

    /// Where the instances of an image lie.
    ///
    /// # Errors
    /// A tile size that the network cannot halve evenly, or more tiles than 65,536.
    pub fn grid(&self, image: ImageShape) -> Result<TileGrid> {
        let whole = |side: usize| side.next_multiple_of(self.spec.granularity());
        let (tile_height, tile_width) = match self.tile {
            Some(tile) => (tile, tile),
            None => (whole(image.height), whole(image.width)),
        };
        self.spec.check_size(tile_height, tile_width)?;
        let grid = TileGrid {
            height: image.height,
            width: image.width,
            tile_height,
            tile_width,
        };
        if grid.tiles() > Self::MAX_TILES {
            return Err(Error::invalid(format!(
                "an image of {image} has {} tiles of {tile_height}×{tile_width}; use a larger tile (at most {} fit)",
                grid.tiles(),
                Self::MAX_TILES
            )));
        }
        Ok(grid)
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

/// The reconstructions of a wave of images at every probe, kept on the device as tiles.
pub struct Reconstructions<I> {
    grid: TileGrid,
    restarts: usize,
    instances: usize,
    tiles: I,
}

impl<I: ImageBuffer> Reconstructions<I> {
    /// Room for a wave of up to `images` images.
    pub fn allocate<B: Backend<Images = I>>(
        backend: &B,
        options: &ReconstructOptions,
        image: ImageShape,
        images: usize,
    ) -> Result<Self> {
        let grid = options.grid(image)?;
        let instances = images * options.restarts * grid.tiles();
        let shape = ImageShape {
            channels: image.channels,
            height: grid.tile_height,
            width: grid.tile_width,
        };
        let tiles = backend.allocate(shape, instances * options.probes())?;
        Ok(Reconstructions {
            grid,
            restarts: options.restarts,
            instances,
            tiles,
        })
    }

    /// Writes one reconstruction, tiles put together, to image `index` of `out`.
    pub fn assemble<B: Backend<Images = I>>(
        &self,
        backend: &B,
        of: ReconstructionId,
        out: &mut I,
        index: usize,
    ) -> Result<()> {
        let restart = of.image * self.restarts + of.restart;
        let first = of.probe * self.instances + restart * self.grid.tiles();
        backend.untile(&self.tiles, first, self.grid, out, index)
    }
}

/// Names one reconstruction of a wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconstructionId {
    pub image: usize,
    pub restart: usize,
    pub probe: usize,
}

/// Fits all restarts of `images` (with their content hashes) and keeps the reconstruction at every
/// probe.
///
/// Instances go through the engine in groups of its capacity. They do not interact, so the grouping
/// changes nothing in the result.
pub fn reconstruct<B: Backend>(
    backend: &B,
    engine: &mut B::Dip,
    options: &ReconstructOptions,
    images: &[(At<'_, B::Images>, u64)],
    out: &mut Reconstructions<B::Images>,
) -> Result<()> {
    let grid = out.grid;
    let per_image = options.restarts * grid.tiles();
    let mut targets = backend.allocate(out.tiles.shape(), images.len() * grid.tiles())?;
    for (i, (image, _)) in images.iter().enumerate() {
        backend.tile(*image, grid, &mut targets, i * grid.tiles())?;
    }
    let all: Vec<usize> = (0..images.len() * per_image).collect();
    for group in all.chunks(engine.capacity()) {
        let instances: Vec<_> = group
            .iter()
            .enumerate()
            .map(|(slot, instance)| {
                let (image, place) = (instance / per_image, instance % per_image);
                let (restart, tile) = (place / grid.tiles(), place % grid.tiles());
                Instance {
                    slot,
                    target: At::new(&targets, image * grid.tiles() + tile),
                    key: RandomKey {
                        seed: options.seed.wrapping_add(restart as u64),
                        image: images[image].1,
                        tile: tile as u32,
                    },
                }
            })
            .collect();
        let slots: Vec<usize> = (0..group.len()).collect();
        engine.load(&instances)?;
        for probe in 0..options.probes() {
            engine.run(options.probe_interval)?;
            engine.reconstructions(&slots, &mut out.tiles, probe * out.instances + group[0])?;
        }
        engine.release(&slots)?;
    }
    Ok(())
}

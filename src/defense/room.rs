//! What images in flight need on a device: the DIP engine, their inputs and their reconstructions.

use super::fitting::Fitting;
use super::options::Options;
use super::reconstruct::{Placed, Reconstructions};
use crate::backend::{At, Backend, ImageOps, ImageShape};
use crate::error::{Error, Result};
use crate::random::RandomKey;

/// The DIP engine and the buffers for the images in flight.
pub(crate) struct Room<B: Backend> {
    pub(super) dip: B::Dip,
    pub(super) inputs: Inputs<B::Images>,
    pub(super) reconstructions: Reconstructions<B::Images>,
    pub(super) fitting: Fitting<B::Images>,
}

impl<B: Backend> Room<B> {
    /// Room for `images` images of shape `shape` in flight and a DIP engine of `capacity` instances.
    pub(crate) fn new(
        backend: &B,
        options: &Options,
        shape: ImageShape,
        images: usize,
        capacity: usize,
    ) -> Result<Self> {
        options.validate()?;
        if options.reconstruct.spec.output_channels != shape.channels {
            return Err(Error::invalid(format!(
                "the DIP network makes {} channels, the classifier takes {}",
                options.reconstruct.spec.output_channels, shape.channels
            )));
        }
        let reconstruct = &options.reconstruct;
        let reconstructions = Reconstructions::allocate(backend, reconstruct, shape, images)?;
        let grid = reconstruct.grids(shape)?[0];
        let capacity = capacity.clamp(1, images * reconstructions.instances_per_image());
        let early = options.stop_early.is_some();
        Ok(Room {
            dip: backend.dip(
                &reconstruct.spec,
                grid.tile_height,
                grid.tile_width,
                capacity,
            )?,
            inputs: Inputs {
                images: backend.allocate(shape, images)?,
                keys: vec![RandomKey::default(); images],
            },
            fitting: Fitting::new(backend, &reconstructions, capacity, images, early)?,
            reconstructions,
        })
    }
}

/// The inputs in flight, by place.
pub(super) struct Inputs<I> {
    images: I,
    /// The keys of their random numbers.
    keys: Vec<RandomKey>,
}

impl<I> Inputs<I> {
    /// Copies a picture, whose random numbers have this key, to a place.
    pub(super) fn put<O: ImageOps<Images = I>>(
        &mut self,
        ops: &O,
        pixels: &[f32],
        key: RandomKey,
        place: usize,
    ) -> Result<()> {
        self.keys[place] = key;
        ops.upload(pixels, &mut self.images, place)
    }

    /// The input at a place.
    pub(super) fn at(&self, place: usize) -> At<'_, I> {
        At::new(&self.images, place)
    }

    /// The image at a place, with `probes` reconstructions of each path.
    pub(super) fn placed(&self, place: usize, probes: usize) -> Placed<'_, I> {
        Placed {
            place,
            input: self.at(place),
            key: self.keys[place],
            probes,
        }
    }
}

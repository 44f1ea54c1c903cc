//! Stage A: which instance of which image each slot of the DIP engine holds.
//!
//! Slots are a pool. An image's instances take free slots, wait if there are too few, and free them when they
//! are done; images that began at different times run together. The engine counts each slot's iterations, and
//! instances do not interact, so an image's reconstructions do not depend on when it begins, in which slots
//! it runs, or which other images run.

use std::collections::VecDeque;

use super::{ReconstructOptions, Reconstructions};
use crate::backend::{At, DipEngine, ImageBuffer, ImageOps, Instance};
use crate::error::Result;
use crate::random::RandomKey;

/// The instances of the images in flight.
pub(super) struct Fitting<I> {
    /// The pictures to fit: one for each instance of each place.
    targets: I,
    slots: Vec<Option<Fit>>,
    /// The image at each place.
    images: Vec<Option<Fitted>>,
    /// Places whose instances wait for slots, in order of arrival.
    waiting: VecDeque<usize>,
    /// Whether all of an image's instances begin at the same time, if the engine has slots for all.
    together: bool,
}

/// The instance that a slot holds.
#[derive(Clone, Copy)]
struct Fit {
    place: usize,
    instance: usize,
}

/// The progress of an image.
struct Fitted {
    /// The key of the first tile of restart 0.
    key: RandomKey,
    /// The first instance that waits for a slot.
    next: usize,
    /// Checkpoints that each instance has reached.
    probes: Vec<usize>,
}

impl<I: ImageBuffer> Fitting<I> {
    /// No images, for an engine of `capacity` slots and the first `places` places of `reconstructions`.
    ///
    /// If images may stop early, their instances should begin `together`: an instance ahead of the others
    /// makes iterations that the image does not need.
    pub(super) fn new<O: ImageOps<Images = I>>(
        ops: &O,
        reconstructions: &Reconstructions<I>,
        capacity: usize,
        places: usize,
        together: bool,
    ) -> Result<Self> {
        let per_image = reconstructions.instances_per_image();
        Ok(Fitting {
            targets: ops.allocate(reconstructions.tile_shape(), places * per_image)?,
            slots: vec![None; capacity],
            images: (0..places).map(|_| None).collect(),
            waiting: VecDeque::new(),
            together: together && per_image <= capacity,
        })
    }

    /// Number of slots that hold an instance.
    pub(super) fn busy_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.is_some()).count()
    }

    /// Adds an image at a free place; `key` is that of the first tile of restart 0.
    pub(super) fn begin<O: ImageOps<Images = I>>(
        &mut self,
        ops: &O,
        place: usize,
        image: At<'_, I>,
        key: RandomKey,
        reconstructions: &Reconstructions<I>,
    ) -> Result<()> {
        let per_image = reconstructions.instances_per_image();
        for (restart, grid) in reconstructions.grids().iter().enumerate() {
            let first = place * per_image + reconstructions.instances_of(restart).start;
            ops.tile(image, *grid, &mut self.targets, first)?;
        }
        self.images[place] = Some(Fitted {
            key,
            next: 0,
            probes: vec![0; per_image],
        });
        self.waiting.push_back(place);
        Ok(())
    }

    /// Checkpoints that all instances of the image at `place` have reached; 0 for a free place.
    pub(super) fn probes(&self, place: usize) -> usize {
        let image = self.images[place].as_ref();
        image.map_or(0, |image| image.probes.iter().copied().min().unwrap_or(0))
    }

    /// Gives free slots to waiting instances, runs all instances in slots to their next checkpoint, and keeps
    /// their reconstructions.
    pub(super) fn advance<O: ImageOps<Images = I>>(
        &mut self,
        ops: &O,
        engine: &mut impl DipEngine<Images = I>,
        options: &ReconstructOptions,
        out: &mut Reconstructions<I>,
    ) -> Result<()> {
        self.load(engine, options, out)?;
        let phase = ops.phase("DIP step");
        engine.run(options.probe_interval)?;
        drop(phase);
        let (mut reached, mut ended) = (vec![], vec![]);
        for (slot, fit) in self.slots.iter_mut().enumerate() {
            let Some(Fit { place, instance }) = *fit else {
                continue;
            };
            let Some(image) = &mut self.images[place] else {
                continue;
            };
            let probes = &mut image.probes[instance];
            reached.push((out.index(place, instance, *probes), slot));
            *probes += 1;
            if *probes == options.probes() {
                *fit = None;
                ended.push(slot);
            }
        }
        out.keep(engine, &mut reached)?;
        engine.release(&ended)
    }

    /// Gives free slots, the lowest first, to waiting instances.
    fn load<D: DipEngine<Images = I>>(
        &mut self,
        engine: &mut D,
        options: &ReconstructOptions,
        out: &Reconstructions<I>,
    ) -> Result<()> {
        let per_image = out.instances_per_image();
        let restarts: Vec<_> = (0..options.restarts).map(|r| out.instances_of(r)).collect();
        let free: Vec<usize> = (0..self.slots.len())
            .filter(|&slot| self.slots[slot].is_none())
            .collect();
        let mut free = free.as_slice();
        let mut instances = vec![];
        while let (Some(&place), [_, ..]) = (self.waiting.front(), free) {
            let Some(image) = &mut self.images[place] else {
                break;
            };
            if self.together && free.len() < per_image {
                break;
            }
            let (slots, remaining) = free.split_at(free.len().min(per_image - image.next));
            free = remaining;
            for &slot in slots {
                let instance = image.next;
                let restart = restarts.partition_point(|of| of.end <= instance);
                self.slots[slot] = Some(Fit { place, instance });
                instances.push(Instance {
                    slot,
                    target: At::new(&self.targets, place * per_image + instance),
                    key: RandomKey {
                        seed: image.key.seed.wrapping_add(restart as u64),
                        image: image.key.image,
                        tile: (instance - restarts[restart].start) as u32,
                    },
                });
                image.next += 1;
            }
            if image.next == per_image {
                self.waiting.pop_front();
            }
        }
        engine.load(&instances)
    }

    /// Frees a place and its image's slots.
    pub(super) fn leave(
        &mut self,
        engine: &mut impl DipEngine<Images = I>,
        place: usize,
    ) -> Result<()> {
        self.images[place] = None;
        self.waiting.retain(|waiting| *waiting != place);
        let mut slots = vec![];
        for (slot, fit) in self.slots.iter_mut().enumerate() {
            if fit.is_some_and(|fit| fit.place == place) {
                *fit = None;
                slots.push(slot);
            }
        }
        engine.release(&slots)
    }
}

/// Fits all restarts of `images` (with their content hashes) and keeps the reconstruction at every
/// checkpoint; image `i` is at place `i`.
///
/// Instances without a slot wait for one. Instances do not interact, so waiting does not change the result.
pub fn reconstruct<O: ImageOps>(
    ops: &O,
    engine: &mut impl DipEngine<Images = O::Images>,
    options: &ReconstructOptions,
    images: &[(At<'_, O::Images>, u64)],
    out: &mut Reconstructions<O::Images>,
) -> Result<()> {
    let mut fitting = Fitting::new(ops, out, engine.capacity(), images.len(), false)?;
    for (place, (image, hash)) in images.iter().enumerate() {
        let key = RandomKey {
            seed: options.seed,
            image: *hash,
            tile: 0,
        };
        fitting.begin(ops, place, *image, key, out)?;
    }
    while (0..images.len()).any(|place| fitting.probes(place) < options.probes()) {
        fitting.advance(ops, engine, options, out)?;
    }
    Ok(())
}

//! From a stream of pictures to their outcomes: which images share the device, and when.
//!
//! Images are taken in waves. All images of a wave are reconstructed, probed, localised and pushed
//! together, so that every launch of the DIP engine and of the classifier is as full as the wave
//! allows. Decoding runs ahead on its own thread, by one wave at most.

use std::sync::mpsc;
use std::time::Instant;

use crate::backend::{Backend, ImageShape};
use crate::defense::{Defense, MemoryPart, Options, Outcome, Prober, Room};
use crate::error::{Error, Result};
use crate::io::Picture;

/// How many images are in flight together, and on how many DIP instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Images in flight.
    pub wave: usize,
    /// DIP instances that run at once.
    pub capacity: usize,
}

/// Waves beyond this size fill no launch better, but hold more reconstructions in memory.
const MAX_WAVE: usize = 64;

impl Plan {
    /// As many images as `capacity` instances (the backend's choice where `None`) hold, at least one;
    /// fewer where the device's memory is too small for so many.
    ///
    /// A capacity below one image's instances is kept: its instances then run in turns. `classes` is
    /// the length of the classifier's rows.
    ///
    /// # Errors
    /// An option that cannot be used, or more memory for a single image than is free.
    pub fn new<B: Backend>(
        backend: &B,
        options: &Options,
        image: ImageShape,
        classes: usize,
        capacity: Option<usize>,
    ) -> Result<Plan> {
        options.validate()?;
        let reconstruct = &options.reconstruct;
        let grids = reconstruct.grids(image)?;
        let most = match capacity {
            Some(0) => return Err(Error::invalid("the capacity must be at least 1 instance")),
            Some(capacity) => capacity,
            None => backend.dip_capacity(
                &reconstruct.spec,
                grids[0].tile_height,
                grids[0].tile_width,
            )?,
        };
        let an_image: usize = grids.iter().map(|grid| grid.tiles()).sum();
        let mut plan = Plan {
            wave: (most / an_image).clamp(1, MAX_WAVE),
            capacity: most,
        };
        let Some(free) = backend.free_bytes() else {
            return Ok(plan);
        };
        loop {
            let instances = plan.capacity.min(plan.wave * an_image);
            let mut parts = options.memory(image, classes, plan.wave)?.to_vec();
            parts.push(MemoryPart {
                bytes: backend.dip_bytes(
                    &reconstruct.spec,
                    grids[0].tile_height,
                    grids[0].tile_width,
                    instances,
                )?,
                purpose: "DIP networks",
                way_out: "lower --capacity, --tile, --channels, --skip or --input-depth",
            });
            if parts.iter().map(|part| part.bytes).sum::<u128>() <= free.into() {
                return Ok(plan);
            }
            plan = match plan.smaller() {
                Some(smaller) if smaller.wave < plan.wave || capacity.is_none() => smaller,
                _ => return Err(too_much(&parts, free)),
            };
        }
    }

    /// A defence with this plan's memory. Where the device turns out to have less than it said, the plan
    /// is made smaller, with a warning; the plan that came of it is returned too.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: not even one image and one instance fit. An option that cannot be used;
    /// the device's errors.
    pub fn defense<'b, B: Backend>(
        self,
        backend: &'b B,
        prober: Prober<'b, B>,
        options: Options,
    ) -> Result<(Plan, Defense<'b, B>)> {
        let shape = prober.shape();
        let (plan, room) = self.make(|plan| {
            let room = Room::new(backend, &options, shape, plan.wave, plan.capacity)?;
            Ok((plan, room))
        })?;
        Ok((plan, Defense::new(backend, prober, options, room)))
    }

    /// What `make` makes of this plan, or of the largest smaller one that the device's memory allows.
    fn make<T>(self, make: impl Fn(Plan) -> Result<T>) -> Result<T> {
        let mut plan = self;
        loop {
            let error = match make(plan) {
                Err(error @ Error::OutOfMemory(_)) => error,
                made => {
                    if made.is_ok() && plan != self {
                        log::warn!(
                            "the device's memory holds {} images and {} instances at once, not {} and {}",
                            plan.wave,
                            plan.capacity,
                            self.wave,
                            self.capacity
                        );
                    }
                    return made;
                }
            };
            plan = plan.smaller().ok_or(error)?;
        }
    }

    /// With half the images or, where there is only one, half the instances.
    fn smaller(self) -> Option<Plan> {
        let Plan { wave, capacity } = self;
        match (wave, capacity) {
            (2.., _) => Some(Plan {
                wave: wave / 2,
                ..self
            }),
            (_, 2..) => Some(Plan {
                capacity: capacity / 2,
                ..self
            }),
            _ => None,
        }
    }
}

/// What a single image that does not fit the memory gives.
fn too_much(parts: &[MemoryPart], free: u64) -> Error {
    let gigabytes = |bytes: u128| bytes as f64 / 1e9;
    let needed = parts.iter().map(|part| part.bytes).sum();
    let most = parts.iter().max_by_key(|part| part.bytes);
    let part = most.map_or(String::new(), |most| {
        let bytes = gigabytes(most.bytes);
        format!(
            " ({bytes:.1} GB of it for {}); {}",
            most.purpose, most.way_out
        )
    });
    Error::invalid(format!(
        "an image needs {:.1} GB of memory where {:.1} GB are free{part}",
        gigabytes(needed),
        gigabytes(free.into()),
    ))
}

/// A picture and what became of it.
#[derive(Debug)]
pub struct Purified {
    pub picture: Picture,
    pub outcome: Outcome,
}

/// Purifies a stream of pictures.
///
/// `pictures` gives each picture with its name, or why it could not be read; it is drawn on a thread
/// of its own. `done` gets every outcome, in order, with the seconds that it took (its part of its
/// wave's time), and may fail to end the run.
///
/// `stop` is asked before each wave: the images in flight are then finished and the rest is left.
///
/// # Errors
/// [`Error::Interrupted`] where `stop` ended the run; the first error of the device or of `done`.
pub fn run<B: Backend, T: Send>(
    defense: &mut Defense<'_, B>,
    pictures: impl Iterator<Item = (T, Result<Picture>)> + Send,
    stop: &(dyn Fn() -> bool + Sync),
    mut done: impl FnMut(T, Result<Purified>, f64) -> Result<()>,
) -> Result<()> {
    let wave = defense.wave();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(wave);
        scope.spawn(move || {
            for picture in pictures {
                if stop() || sender.send(picture).is_err() {
                    break;
                }
            }
        });
        loop {
            if stop() {
                return Err(Error::Interrupted);
            }
            let _phase = defense.backend().phase("scheduler");
            let drawn: Vec<(T, Result<Picture>)> = receiver.iter().take(wave).collect();
            if drawn.is_empty() {
                break;
            }
            let start = Instant::now();
            let (names, pictures): (Vec<T>, Vec<Result<Picture>>) = drawn.into_iter().unzip();
            let readable: Vec<&Picture> = pictures.iter().flatten().collect();
            let mut outcomes = defense.purify(&readable)?.into_iter();
            let seconds = start.elapsed().as_secs_f64() / readable.len().max(1) as f64;
            for (name, picture) in names.into_iter().zip(pictures) {
                let purified = picture.and_then(|picture| match outcomes.next() {
                    Some(outcome) => {
                        outcome.input.check()?;
                        Ok(Purified { picture, outcome })
                    }
                    None => Err(Error::Device("an outcome of the wave is missing".into())),
                });
                let seconds = if purified.is_ok() { seconds } else { 0.0 };
                done(name, purified, seconds)?;
            }
        }
        if stop() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Every plan that is tried where `fits` says what the memory holds.
    fn tried(plan: Plan, fits: impl Fn(Plan) -> bool) -> (Result<Plan>, Vec<(usize, usize)>) {
        let tried = RefCell::new(vec![]);
        let made = plan.make(|plan| {
            tried.borrow_mut().push((plan.wave, plan.capacity));
            match fits(plan) {
                true => Ok(plan),
                false => Err(Error::OutOfMemory("a chip".to_owned())),
            }
        });
        (made, tried.into_inner())
    }

    #[test]
    fn what_the_memory_does_not_hold_is_made_smaller() {
        let plan = Plan {
            wave: 5,
            capacity: 20,
        };
        let (made, all) = tried(plan, |_| true);
        assert_eq!((made.unwrap(), all.len()), (plan, 1));
        let (made, all) = tried(plan, |plan| plan.wave == 1 && plan.capacity <= 6);
        let made = made.unwrap();
        assert_eq!((made.wave, made.capacity), (1, 5));
        assert_eq!(all, [(5, 20), (2, 20), (1, 20), (1, 10), (1, 5)]);
        let (made, all) = tried(plan, |_| false);
        assert!(matches!(made, Err(Error::OutOfMemory(_))));
        assert_eq!(all.last(), Some(&(1, 1)));
        // Other errors are not the memory's.
        let made = plan.make(|_| Err::<(), _>(Error::invalid("an option")));
        assert!(matches!(made, Err(Error::Invalid(_))));
    }
}

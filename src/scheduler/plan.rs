//! How many images and DIP instances a device holds at once.

use crate::backend::{Backend, ClassifierEngine, ImageShape};
use crate::defense::{Defense, MemoryPart, Options, Oracle, Prober, Room};
use crate::error::{Error, Result};

/// How many images are in flight together, and on how many DIP instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Images in flight.
    pub images: usize,
    /// DIP instances that run at once.
    pub capacity: usize,
}

/// More images would not fill launches better, but take more memory for reconstructions.
const MAX_IMAGES: usize = 1024;

/// The user's limits for a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Pictures in flight; `None` for as many as keep the instances busy.
    pub pictures: Option<usize>,
    /// DIP instances that run at once; `None` for the backend's choice.
    pub capacity: Option<usize>,
    /// Bytes of memory; `None` for all that are free.
    pub memory: Option<u64>,
}

impl Plan {
    /// As many instances as the limits allow, and as many images as keep them all busy; fewer if the memory is
    /// too small.
    ///
    /// A capacity below one image's instances is kept: the instances then run in turns. `classes` is the number
    /// of the classifier's classes; the classifier's own memory is not counted.
    ///
    /// # Errors
    /// An option that cannot be used, or more memory for a single image than there is.
    pub fn new<B: Backend>(
        backend: &B,
        options: &Options,
        image: ImageShape,
        classes: usize,
        limits: Limits,
    ) -> Result<Plan> {
        options.validate()?;
        if let Some(pictures) = limits.pictures
            && !(1..=MAX_IMAGES).contains(&pictures)
        {
            let text = format!("must be from 1 to {MAX_IMAGES}, not {pictures}");
            return Err(Error::option("pictures", text));
        }
        let reconstruct = &options.reconstruct;
        let grids = reconstruct.grids(image)?;
        let instances = match limits.capacity {
            Some(0) => {
                return Err(Error::option(
                    "capacity",
                    "must be at least 1 instance, not 0",
                ));
            }
            Some(capacity) => capacity,
            None => backend.dip_capacity(
                &reconstruct.spec,
                grids[0].tile_height,
                grids[0].tile_width,
            )?,
        };
        let per_image: usize = grids.iter().map(|grid| grid.tiles()).sum();
        // If whole images do not fill the engine, one more image has instances for the remaining slots.
        let images = match instances % per_image {
            0 => instances / per_image,
            _ => instances / per_image + 2,
        };
        // Slots beyond the images' instances would be idle.
        let busy = |plan: Plan| Plan {
            capacity: plan.capacity.min(plan.images * per_image),
            ..plan
        };
        let mut plan = busy(Plan {
            images: images.min(limits.pictures.unwrap_or(MAX_IMAGES)),
            capacity: instances,
        });
        let Some(memory) = Memory::of(backend, limits.memory) else {
            return Ok(plan);
        };
        loop {
            let mut parts = options.memory(image, classes, plan.images)?.to_vec();
            parts.push(MemoryPart {
                bytes: backend.dip_bytes(
                    &reconstruct.spec,
                    grids[0].tile_height,
                    grids[0].tile_width,
                    plan.capacity,
                )?,
                purpose: "DIP networks",
                hint: "lower `capacity`, `tile`, `channels`, `skip` or `input_depth`",
            });
            if parts.iter().map(|part| part.bytes).sum::<u128>() <= memory.bytes().into() {
                return Ok(plan);
            }
            let kept = limits.capacity.is_some();
            plan = match plan.smaller() {
                Some(smaller) if smaller.images < plan.images || !kept => busy(smaller),
                _ => return Err(memory_error(&parts, memory)),
            };
        }
    }

    /// A defense with this plan's memory on the prober's device, and the plan that it has. If the device has less
    /// free memory than it reported, the plan is made smaller, with a warning.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]: not even one image and one instance fit. An option that cannot be used;
    /// the device's errors.
    pub fn defense<B: Backend, C: ClassifierEngine<Images = B::Images>>(
        self,
        prober: Prober<B, C>,
        options: Options,
    ) -> Result<(Plan, Defense<B, C>)> {
        let shape = prober.shape();
        let (plan, room) = self.make(|plan| {
            let room = Room::new(prober.ops(), &options, shape, plan.images, plan.capacity)?;
            Ok((plan, room))
        })?;
        Ok((plan, Defense::new(prober, options, room)))
    }

    /// The result of `make` for this plan, or for the largest smaller plan that fits the device's memory.
    fn make<T>(self, make: impl Fn(Plan) -> Result<T>) -> Result<T> {
        let mut plan = self;
        loop {
            let error = match make(plan) {
                Err(error @ Error::OutOfMemory(_)) => error,
                made => {
                    if made.is_ok() && plan != self {
                        log::warn!(
                            "the device's memory holds {} images and {} instances at once, not {} and {}",
                            plan.images,
                            plan.capacity,
                            self.images,
                            self.capacity
                        );
                    }
                    return made;
                }
            };
            plan = plan.smaller().ok_or(error)?;
        }
    }

    /// A plan with half the images or, if there is only one, half the instances.
    fn smaller(self) -> Option<Plan> {
        let Plan { images, capacity } = self;
        match (images, capacity) {
            (2.., _) => Some(Plan {
                images: images / 2,
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

/// The memory for a plan, in bytes.
#[derive(Clone, Copy)]
enum Memory {
    /// All that is free on the device.
    Free(u64),
    /// The device's share of the user's limit, which is less than what is free.
    Share(u64),
}

impl Memory {
    /// The memory for a plan; `None` if there is no limit and the device does not report what is free.
    fn of(backend: &impl Backend, share: Option<u64>) -> Option<Memory> {
        match (backend.free_bytes(), share) {
            (Some(free), Some(share)) if free <= share => Some(Memory::Free(free)),
            (_, Some(share)) => Some(Memory::Share(share)),
            (free, None) => free.map(Memory::Free),
        }
    }

    fn bytes(self) -> u64 {
        let (Memory::Free(bytes) | Memory::Share(bytes)) = self;
        bytes
    }
}

/// The error if not even a single image fits the memory.
fn memory_error(parts: &[MemoryPart], memory: Memory) -> Error {
    // What is needed is rounded up, so that a memory of that size suffices.
    let (up, down) = (f64::ceil, f64::floor);
    let needed = size(parts.iter().map(|part| part.bytes).sum(), up);
    let there = match memory {
        Memory::Free(bytes) => format!("{} is free", size(bytes.into(), down)),
        Memory::Share(bytes) => format!("a device may take {}", size(bytes.into(), down)),
    };
    let most = parts.iter().max_by_key(|part| part.bytes);
    let of_it = most.map_or(String::new(), |most| {
        format!(" ({} for {})", size(most.bytes, up), most.purpose)
    });
    let error = Error::invalid(format!(
        "one picture needs {needed}{of_it} of memory, and {there}"
    ));
    most.iter().fold(error, |error, most| error.hint(most.hint))
}

/// A number of bytes for people: gigabytes to one place, megabytes, or bytes.
fn size(bytes: u128, round: fn(f64) -> f64) -> String {
    match bytes as f64 {
        bytes if bytes >= 1e9 => format!("{:.1} GB", round(bytes / 1e8) / 10.0),
        bytes if bytes >= 1e6 => format!("{:.0} MB", round(bytes / 1e6)),
        bytes => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Every plan that is tried where `fits` says what the memory holds.
    fn tried(plan: Plan, fits: impl Fn(Plan) -> bool) -> (Result<Plan>, Vec<(usize, usize)>) {
        let tried = RefCell::new(vec![]);
        let made = plan.make(|plan| {
            tried.borrow_mut().push((plan.images, plan.capacity));
            match fits(plan) {
                true => Ok(plan),
                false => Err(Error::out_of_memory("a chip")),
            }
        });
        (made, tried.into_inner())
    }

    #[test]
    fn what_the_memory_does_not_hold_is_made_smaller() {
        let plan = Plan {
            images: 5,
            capacity: 20,
        };
        let (made, all) = tried(plan, |_| true);
        assert_eq!((made.unwrap(), all.len()), (plan, 1));
        let (made, all) = tried(plan, |plan| plan.images == 1 && plan.capacity <= 6);
        let made = made.unwrap();
        assert_eq!((made.images, made.capacity), (1, 5));
        assert_eq!(all, [(5, 20), (2, 20), (1, 20), (1, 10), (1, 5)]);
        let (made, all) = tried(plan, |_| false);
        assert!(matches!(made, Err(Error::OutOfMemory(_))));
        assert_eq!(all.last(), Some(&(1, 1)));
        // Other errors are not the memory's.
        let made = plan.make(|_| Err::<(), _>(Error::invalid("an option")));
        assert!(matches!(made, Err(Error::Invalid(_))));
    }
}

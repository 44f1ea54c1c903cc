//! How the points of a segment look when they vote a second and a third time: mirrored, and with noise.
//!
//! A point's mirror image lies between the mirror images of the segment's ends, and the point with noise between the
//! ends with the same noise. So the ends are made, whatever the number of points.

use super::map_options::MapOptions;
use super::reconstruct::Placed;
use crate::backend::{At, ImageOps, ImageShape, Noisy, View};
use crate::error::Result;
use crate::random::RandomKey;

/// The ends of a segment.
pub(super) struct Ends<'a, I> {
    /// The reconstruction.
    pub from: At<'a, I>,
    /// The input.
    pub to: At<'a, I>,
    /// Key of the noise.
    pub key: RandomKey,
}

impl<'a, I> Ends<'a, I> {
    /// Those of the segment from an image's reconstruction `from`, at checkpoint `probe`.
    pub(super) fn new(from: At<'a, I>, image: &Placed<'a, I>, probe: usize) -> Self {
        let tile = probe as u32;
        Ends {
            from,
            to: image.input,
            key: RandomKey { tile, ..image.key },
        }
    }
}

/// The twins of the ends of several segments.
pub(super) struct Twins<I> {
    /// Of each segment both ends; `None` if mirror images do not vote.
    mirrored: Option<I>,
    /// The same with noise, mirrored if `mirrored` is there; `None` if there is no noise.
    noisy: Option<I>,
}

impl<I> Twins<I> {
    /// Makes the twins of images of this shape.
    pub(super) fn new<O: ImageOps<Images = I>>(
        ops: &O,
        options: &MapOptions,
        shape: ImageShape,
        segments: &[Ends<'_, I>],
    ) -> Result<Self> {
        let count = 2 * segments.len();
        let upright: Vec<_> = segments.iter().flat_map(|of| [of.from, of.to]).collect();
        let mut mirrored = None;
        if options.mirror {
            let views: Vec<_> = upright.iter().copied().map(View::mirror).collect();
            let out = mirrored.insert(ops.allocate(shape, count)?);
            ops.view(&views, out, 0)?;
        }
        let mut noisy = None;
        if options.vote_noise > 0.0 {
            let jobs = (0..count).map(|i| Noisy {
                image: mirrored.as_ref().map_or(upright[i], |all| At::new(all, i)),
                std: options.vote_noise,
                key: segments[i / 2].key,
            });
            let jobs: Vec<_> = jobs.collect();
            let out = noisy.insert(ops.allocate(shape, count)?);
            ops.add_noise(&jobs, out, 0)?;
        }
        Ok(Twins { mirrored, noisy })
    }

    /// The mirror images of segment `i`'s ends.
    pub(super) fn mirrored(&self, i: usize) -> Option<[At<'_, I>; 2]> {
        both(&self.mirrored, i)
    }

    /// Segment `i`'s ends with noise.
    pub(super) fn noisy(&self, i: usize) -> Option<[At<'_, I>; 2]> {
        both(&self.noisy, i)
    }
}

fn both<I>(images: &Option<I>, i: usize) -> Option<[At<'_, I>; 2]> {
    let images = images.as_ref()?;
    Some([At::new(images, 2 * i), At::new(images, 2 * i + 1)])
}

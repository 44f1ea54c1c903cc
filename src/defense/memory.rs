//! How much memory the images in flight take, and which option to lower if that is too much.

use crate::backend::ImageShape;
use crate::error::Result;

use super::Options;
use super::drawing::SEGMENTS_PER_BATCH;
use super::push;

/// A part of the memory that images in flight take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    /// Size in bytes.
    pub bytes: u128,
    /// What the memory holds.
    pub purpose: &'static str,
    /// Which options make it smaller.
    pub hint: &'static str,
}

impl Options {
    /// The memory of `images` images of shape `image` in flight, with a classifier of `classes` classes and
    /// without the engines' own memory.
    ///
    /// # Errors
    /// Those of [`ReconstructOptions::grids`](super::ReconstructOptions::grids).
    pub fn memory(
        &self,
        image: ImageShape,
        classes: usize,
        images: usize,
    ) -> Result<[MemoryPart; 4]> {
        let reconstruct = &self.reconstruct;
        let grids = reconstruct.grids(image)?;
        let floats = |elements: usize| 4 * elements as u128;
        let tile = floats(image.channels * grids[0].tile_height * grids[0].tile_width);
        let picture = floats(image.elements());
        let images = images as u128;
        let instances = images * grids.iter().map(|grid| grid.tiles() as u128).sum::<u128>();
        let restarts = grids.len() as u128;
        let paths = reconstruct.paths().len() as u128;
        let probes = reconstruct.probes() as u128;
        let segments = probes.min(self.map.segments as u128);
        let points = (self.map.reach_points + 1 + self.map.segment_points) as u128;
        let mirror = u128::from(self.map.mirror);
        let noise = u128::from(self.map.vote_noise > 0.0);
        // Votes of the path that votes; at every checkpoint, if images may stop early.
        let votes = (1 + mirror + noise) * self.map.voting_positions().len() as u128;
        let voting = if self.stop_early.is_some() {
            probes
        } else {
            segments
        };
        // The logits of a probe, and 192 bytes for its job and bookkeeping.
        let reading = floats(classes) + 192;
        let readings_of_a_path = images * reading;
        let readings = paths * readings_of_a_path;
        // The input and the output; every path's segment ends, on-boundary and on-manifold image; the twins of both ends
        // of each segment that votes.
        let ends = (images * paths * segments).min(SEGMENTS_PER_BATCH as u128);
        let twins = 2 * (mirror + noise) * ends.min(images * segments);
        let pictures = images * (2 + 4 * paths) + restarts + ends + twins;
        Ok([
            MemoryPart {
                // Twice, because outcomes that wait to be written have readings too.
                bytes: instances * (probes + 1) * tile + 2 * readings * probes,
                purpose: "reconstructions",
                hint: "lower `restarts`, `iterations` or `tile`, or raise `probe_interval`",
            },
            MemoryPart {
                bytes: pictures * picture,
                purpose: "pictures",
                hint: "lower `restarts` or `segments`",
            },
            MemoryPart {
                bytes: readings * points * segments + readings_of_a_path * votes * voting,
                purpose: "the segments' probes",
                hint: "lower `segment_points`, `segments` or `restarts`",
            },
            MemoryPart {
                bytes: readings * (self.localize.fan + push::STRENGTHS_PER_BATCH) as u128,
                purpose: "the boundary's and the pushes' probes",
                hint: "lower `fan` or `restarts`",
            },
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defense::ReconstructOptions;
    use crate::dip::Preset;

    #[test]
    fn parts_grow_with_what_they_tell_the_user_to_lower() {
        let image = ImageShape {
            channels: 3,
            height: 224,
            width: 224,
        };
        let bytes = |change: &dyn Fn(&mut Options)| {
            let mut options = Options::new(ReconstructOptions::preset(Preset::Tiles, 3));
            change(&mut options);
            let parts = options.memory(image, 1000, 2).unwrap();
            parts.map(|part| part.bytes)
        };
        let before = bytes(&|_| ());
        // 30 probes and the targets; at least 49 tiles of 12 kB a restart.
        assert!(before[0] > 2 * 4 * 31 * 49 * 12_288);
        let larger = [
            bytes(&|options| options.reconstruct.iterations *= 2),
            bytes(&|options| options.map.segments += 1),
            bytes(&|options| options.map.segment_points *= 2),
            bytes(&|options| options.localize.fan *= 2),
        ];
        for (part, larger) in larger.iter().enumerate() {
            assert!(larger[part] > before[part], "{part}");
        }
        let unmirrored = bytes(&|options| options.map.mirror = false);
        assert!(unmirrored[1] < before[1] && unmirrored[2] < before[2]);
        let still = bytes(&|options| options.map.vote_noise = 0.0);
        assert!(still[1] < before[1] && still[2] < before[2]);
        let all = bytes(&|options| options.reconstruct.restarts *= 2);
        assert!(before.iter().zip(&all).all(|(before, all)| all > before));
    }
}

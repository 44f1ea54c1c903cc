//! Stage C: decision maps are probed, as far as they are needed.

use super::Oracle;
use super::decision_map::{DecisionMap, Pair, SegmentPoint, Towards};
use super::options::Options;
use super::probe::Prober;
use super::reconstruct::{Placed, ReconstructionId, Reconstructions};
use super::trajectory::trace;
use super::twins::{Ends, Twins};
use super::votes::votes;
use crate::backend::{At, Blend, ClassifierEngine, ImageOps};
use crate::error::Result;

/// Segments that are probed together: enough to fill launches, few enough to keep the memory for the
/// reconstructions at their ends small.
pub(super) const SEGMENTS_PER_BATCH: usize = 64;

/// Probes the segments of decision maps. In every call, map `i` is that of image `i`.
pub(super) struct Drawing<'d, O: ImageOps, C: ClassifierEngine<Images = O::Images>> {
    prober: &'d mut Prober<O, C>,
    options: &'d Options,
    reconstructions: &'d mut Reconstructions<O::Images>,
}

/// A segment to probe.
#[derive(Clone, Copy)]
struct Line {
    /// Index of the map.
    map: usize,
    /// Index of the path in the map.
    path: usize,
    /// Index of the reconstruction's checkpoint.
    probe: usize,
}

impl<'d, O: ImageOps, C: ClassifierEngine<Images = O::Images>> Drawing<'d, O, C> {
    /// Probes with `prober` on the segments of `reconstructions`.
    pub(super) fn new(
        prober: &'d mut Prober<O, C>,
        options: &'d Options,
        reconstructions: &'d mut Reconstructions<O::Images>,
    ) -> Self {
        Drawing {
            prober,
            options,
            reconstructions,
        }
    }

    /// Probes the points that vote on the segment of each image's latest reconstruction.
    pub(super) fn latest_votes(
        &mut self,
        images: &[Placed<'_, O::Images>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let path = self.options.reconstruct.paths().len() - 1;
        let line = |(map, image): (usize, &Placed<'_, O::Images>)| Line {
            map,
            path,
            probe: image.probes - 1,
        };
        let lines: Vec<_> = images.iter().enumerate().map(line).collect();
        self.draw(images, &lines, &self.options.map.voting_positions(), maps)
    }

    /// Probes the points that vote, and removes the segments that were probed to stop early only.
    pub(super) fn votes(
        &mut self,
        images: &[Placed<'_, O::Images>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let path = self.options.reconstruct.paths().len() - 1;
        let mut lines = vec![];
        for (map, image) in images.iter().enumerate() {
            let probes = self.segment_probes(image);
            maps[map].segments[path].retain(|segment| probes.contains(&segment.probe));
            let line = |&probe: &usize| Line { map, path, probe };
            lines.extend(probes.iter().map(line));
        }
        self.draw(images, &lines, &self.options.map.voting_positions(), maps)
    }

    /// Probes all reconstructions of the images for which `traced` is true.
    pub(super) fn trajectories(
        &mut self,
        images: &[Placed<'_, O::Images>],
        traced: &[bool],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let of_images = images.iter().zip(maps).zip(traced);
        let of_images = of_images.filter(|(_, traced)| **traced).map(|(of, _)| of);
        let (images, maps): (Vec<_>, Vec<_>) = of_images.unzip();
        let reconstruct = &self.options.reconstruct;
        let trajectories = trace(self.prober, reconstruct, &images, self.reconstructions)?;
        for (map, trajectories) in maps.into_iter().zip(trajectories) {
            map.trajectories = trajectories;
        }
        Ok(())
    }

    /// Probes the segments on which the boundary is searched, for images with a `wanted` label: each path's
    /// last segment, and the earlier ones if the last has no point of the label.
    pub(super) fn boundaries(
        &mut self,
        images: &[Placed<'_, O::Images>],
        wanted: &[Option<usize>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let paths = self.options.reconstruct.paths().len();
        let (mut last, mut earlier) = (vec![], vec![]);
        for (map, (image, wanted)) in images.iter().zip(wanted).enumerate() {
            let Some(label) = *wanted else { continue };
            let probes = self.segment_probes(image);
            for path in 0..paths {
                let lines = probes.iter().map(|&probe| Line { map, path, probe });
                let mut backwards = lines.rev();
                last.extend(backwards.next());
                earlier.extend(backwards.map(|line| (line, label)));
            }
        }
        let positions = self.options.map.positions();
        self.draw(images, &last, &positions, maps)?;
        earlier.retain(|&(Line { map, path, .. }, label)| {
            let last = maps[map].segments[path].last();
            last.is_some_and(|segment| segment.last_of(label).is_none())
        });
        let earlier: Vec<_> = earlier.into_iter().map(|(line, _)| line).collect();
        self.draw(images, &earlier, &positions, maps)
    }

    /// Probes what is drawn for people: all segments of the path that votes, and the last segment of each
    /// other path.
    pub(super) fn whole(
        &mut self,
        images: &[Placed<'_, O::Images>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let mut lines = vec![];
        for (map, image) in images.iter().enumerate() {
            let probes = self.segment_probes(image);
            for path in 0..self.options.reconstruct.paths().len() {
                let from = match maps[map].votes_on(path) {
                    true => 0,
                    false => probes.len() - 1,
                };
                let line = |&probe: &usize| Line { map, path, probe };
                lines.extend(probes[from..].iter().map(line));
            }
        }
        self.draw(images, &lines, &self.options.map.positions(), maps)
    }

    fn segment_probes(&self, image: &Placed<'_, O::Images>) -> Vec<usize> {
        let total = self.options.reconstruct.probes();
        (self.options.map).segment_probes(image.probes, total)
    }

    /// Probes `lines` at the positions that their maps do not have yet, and adds the points to the maps.
    fn draw(
        &mut self,
        images: &[Placed<'_, O::Images>],
        lines: &[Line],
        positions: &[f32],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let paths = self.options.reconstruct.paths();
        let lines = lines.iter().map(|line| {
            let map = &maps[line.map];
            (*line, map.missing(line.path, line.probe, positions))
        });
        let lines: Vec<_> = lines.filter(|(_, missing)| !missing.is_empty()).collect();
        for lines in lines.chunks(SEGMENTS_PER_BATCH) {
            let shape = self.prober.shape();
            let mut ends = self.prober.ops().allocate(shape, lines.len())?;
            // The ends of the segments with points that vote.
            let mut voting = vec![];
            for (end, (line, missing)) in lines.iter().enumerate() {
                let id = ReconstructionId {
                    image: images[line.map].place,
                    path: paths[line.path],
                    probe: line.probe,
                };
                (self.reconstructions).assemble(self.prober.ops(), id, &mut ends, end)?;
                if maps[line.map].votes_on(line.path) && missing.iter().any(|&t| votes(t)) {
                    voting.push(end);
                }
            }
            let ends = &ends;
            let known = |line: &Line, t: f32| {
                let map = &maps[line.map];
                map.on_trajectory(line.path, line.probe, t).is_some()
            };
            let as_they_are: Vec<_> = (lines.iter().enumerate())
                .flat_map(|(end, (line, missing))| {
                    let (from, to) = (At::new(ends, end), images[line.map].input);
                    let to_probe = missing.iter().filter(move |&&t| !known(line, t));
                    to_probe.map(move |&t| Blend { from, to, t })
                })
                .collect();
            let segments = voting.iter().map(|&end| {
                let line = lines[end].0;
                Ends::new(At::new(ends, end), &images[line.map], line.probe)
            });
            let segments: Vec<_> = segments.collect();
            let twins = Twins::new(self.prober.ops(), &self.options.map, shape, &segments)?;
            let seen = |ends: Option<[_; 2]>, i: usize| {
                let missing = lines[voting[i]].1.iter().filter(|&&t| votes(t));
                ends.into_iter().flat_map(move |[from, to]| {
                    (missing.clone()).map(move |&t| Blend { from, to, t })
                })
            };
            let each = 0..voting.len();
            let mirrored: Vec<_> = (each.clone())
                .flat_map(|i| seen(twins.mirrored(i), i))
                .collect();
            let noisy: Vec<_> = each.flat_map(|i| seen(twins.noisy(i), i)).collect();
            let jobs = [&as_they_are[..], &mirrored, &noisy].concat();
            let mut readings = self.prober.blends(&jobs)?.into_iter();
            let mut next =
                |jobs: Vec<_>| -> Vec<_> { readings.by_ref().take(jobs.len()).collect() };
            let [mut readings, mut mirrored, mut noisy] =
                [as_they_are, mirrored, noisy].map(|jobs| next(jobs).into_iter());
            for (line, missing) in lines {
                let map = &mut *maps[line.map];
                let may_vote = map.votes_on(line.path);
                let points = missing.iter().filter_map(|&t| {
                    let known = map.on_trajectory(line.path, line.probe, t).cloned();
                    let vote = may_vote && votes(t);
                    Some(SegmentPoint {
                        t,
                        reading: known.or_else(|| readings.next())?,
                        mirrored: if vote { mirrored.next() } else { None },
                        noisy: if vote { noisy.next() } else { None },
                    })
                });
                let points = points.collect();
                map.add(line.path, line.probe, points);
            }
        }
        Ok(())
    }

    /// Each path's cross-boundary pair for `label`. If no path of the map has a point of the label, points
    /// further behind the reconstructions are probed: the evidence of the input's views can be for a label
    /// that no point of the map has.
    pub(super) fn pairs(
        &mut self,
        image: &Placed<'_, O::Images>,
        map: &DecisionMap,
        label: usize,
    ) -> Result<Vec<Option<Pair>>> {
        let pairs = (0..map.segments.len()).map(|path| map.pair(path, label));
        let mut pairs: Vec<_> = pairs.collect();
        if pairs.iter().any(Option::is_some) {
            return Ok(pairs);
        }
        let paths = self.options.reconstruct.paths();
        let lines: Vec<(usize, usize)> = (map.segments.iter().enumerate())
            .flat_map(|(path, lines)| lines.iter().rev().map(move |line| (path, line.probe)))
            .collect();
        let mut ends = (self.prober.ops()).allocate(self.prober.shape(), lines.len())?;
        for (end, &(path, probe)) in lines.iter().enumerate() {
            let id = ReconstructionId {
                image: image.place,
                path: paths[path],
                probe,
            };
            (self.reconstructions).assemble(self.prober.ops(), id, &mut ends, end)?;
        }
        let to = image.input;
        let positions = self.options.map.positions_behind();
        let jobs: Vec<_> = (0..lines.len())
            .flat_map(|end| {
                let from = At::new(&ends, end);
                positions.iter().map(move |&(t, _)| Blend { from, to, t })
            })
            .collect();
        let readings = self.prober.blends(&jobs)?;
        for (&(path, probe), readings) in lines.iter().zip(readings.chunks(positions.len())) {
            let nearest = readings.iter().position(|reading| reading.label() == label);
            let pair = nearest.map(|nearest| Pair {
                probe,
                towards: Towards::Input,
                span: positions[nearest],
            });
            pairs[path] = pairs[path].or(pair);
        }
        Ok(pairs)
    }
}

//! Stage C: the decision map, and where it crosses the boundary.

use crate::backend::{At, Blend, ClassifierEngine, ImageOps, ImageShape, View, Viewpoint};
use crate::error::{Error, Result};

use super::probe::MAX_POINTS;
use super::trajectory::trace;
use super::votes::votes;
use super::{
    Oracle, Placed, Prober, Reading, ReconstructOptions, ReconstructionId, Reconstructions,
    Trajectory,
};

/// How the decision map is drawn and read.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MapOptions {
    /// Part of a trajectory, from its start, that does not vote: the prediction has not settled.
    pub warm_up: f64,
    /// Reconstructions of a path whose line to the input is probed, evenly spaced over the settled
    /// part, the last included. The path that votes does so on all of them. The rest is probed of
    /// `adversarial` images alone, of the earlier ones only where the last has no point of the recovered
    /// label.
    pub segments: usize,
    /// Points of a line between the reconstruction and the input.
    pub segment_points: usize,
    /// How far behind the reconstruction, away from the input, a line is probed too, as a part of
    /// the distance between the two. A reconstruction keeps part of the adversarial noise; a step in
    /// the direction that leads away from the input takes that part back.
    pub reach: f32,
    /// Points behind the reconstruction.
    pub reach_points: usize,
    /// Whether points that vote are read in the mirror too, left and right exchanged, and vote with both; and
    /// whether the input's views are mirrored. Not for classifiers of what is another thing there: text,
    /// digits, traffic signs.
    pub mirror: bool,
    /// How far the input's views are moved, as a part of its height and width, in `[0, 0.25]`: the nearest odd
    /// number of pixels. At 0 they are not.
    pub view_shift: f64,
}

impl Default for MapOptions {
    fn default() -> Self {
        MapOptions {
            warm_up: 0.5,
            segments: 3,
            segment_points: 7,
            reach: 0.25,
            reach_points: 2,
            mirror: true,
            view_shift: 0.015,
        }
    }
}

impl MapOptions {
    /// Checks every number.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.warm_up) {
            return Err(Error::invalid(format!(
                "the warm-up must be a part in [0, 1) of the trajectory, not {}",
                self.warm_up
            )));
        }
        if self.segment_points == 0 || self.segments == 0 {
            return Err(Error::invalid("at least 1 segment with 1 point is needed"));
        }
        let most = self.segment_points.max(self.reach_points);
        if most > MAX_POINTS {
            return Err(Error::invalid(format!(
                "a segment has at most {MAX_POINTS} points, not {most}; lower --segment-points or \
                 --reach-points"
            )));
        }
        if !(0.0..=Self::MAX_REACH).contains(&self.reach) {
            return Err(Error::invalid(format!(
                "the reach behind the reconstruction must be in [0, {}], not {}",
                Self::MAX_REACH,
                self.reach
            )));
        }
        if !(0.0..=Self::MAX_VIEW_SHIFT).contains(&self.view_shift) {
            return Err(Error::invalid(format!(
                "views are moved by a part in [0, {}] of a picture, not {}; change --view-shift",
                Self::MAX_VIEW_SHIFT,
                self.view_shift
            )));
        }
        Ok(())
    }

    /// Beyond this a line's points show little but clipped differences.
    const MAX_REACH: f32 = 4.0;

    /// Beyond this a view shows too much that is not in the picture.
    const MAX_VIEW_SHIFT: f64 = 0.25;

    /// Where the input's views are taken from: up, down, to either side and between, and where it stands,
    /// all in the mirror; without the mirror, all but the input itself.
    pub(super) fn viewpoints(&self, shape: ImageShape) -> Vec<Viewpoint> {
        // An odd number: strides are even, and what is moved by a whole stride is seen as it was.
        let pixels = |n: usize| {
            let odd = 2.0 * ((self.view_shift * n as f64 - 1.0) / 2.0).round() + 1.0;
            let most = n.saturating_sub(1) as i32;
            if self.view_shift > 0.0 {
                (odd.max(1.0) as i32).min(most)
            } else {
                0
            }
        };
        let around = |by: i32| if by == 0 { vec![0] } else { vec![-by, 0, by] };
        let (down, right) = (around(pixels(shape.height)), around(pixels(shape.width)));
        let moved = down.iter().flat_map(|&down| {
            right.iter().map(move |&right| Viewpoint {
                mirrored: self.mirror,
                down,
                right,
            })
        });
        moved.filter(|view| *view != Viewpoint::default()).collect()
    }

    /// Where a line is probed, rising: `t` is 0 at the reconstruction and 1 at the input.
    fn places(&self) -> Vec<f32> {
        let behind = (1..=self.reach_points).rev();
        let behind = behind.map(|i| -self.reach * i as f32 / self.reach_points as f32);
        let between =
            (1..=self.segment_points).map(|i| i as f32 / (self.segment_points + 1) as f32);
        behind.chain([0.0]).chain(between).collect()
    }

    /// Where a line goes on behind its places, each with the next one towards the input.
    pub(super) fn further_places(&self) -> Vec<(f32, f32)> {
        let furthest = self.places()[0].min(0.0);
        let further = [0.5, 1.0, 2.0].map(|reach: f32| furthest - reach);
        let next = std::iter::once(furthest).chain(further);
        further.into_iter().zip(next).collect()
    }

    /// The places that vote.
    pub(super) fn voting_places(&self) -> Vec<f32> {
        self.places().into_iter().filter(|&t| votes(t)).collect()
    }

    /// First probe that votes, of a trajectory that has `whole` probes at its end.
    pub(super) fn settled(&self, whole: usize) -> usize {
        ((whole as f64 * self.warm_up) as usize).min(whole - 1)
    }

    /// Probes whose segments are drawn, in order, of a trajectory that ended after `probes` of `whole`
    /// probes.
    fn segment_probes(&self, probes: usize, whole: usize) -> Vec<usize> {
        let settled = probes - self.settled(whole).min(probes - 1);
        let count = self.segments.min(settled);
        (1..=count)
            .map(|i| probes - settled + (settled * i).div_ceil(count) - 1)
            .collect()
    }
}

/// The line from behind a reconstruction to the input, probed.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The reconstruction's place on its trajectory.
    pub probe: usize,
    /// From the point furthest behind the reconstruction to the one closest to the input; where only the votes
    /// were needed, to the reconstruction itself.
    pub points: Vec<SegmentPoint>,
}

/// A point of a [`Segment`].
#[derive(Clone, Debug)]
pub struct SegmentPoint {
    /// 0 at the reconstruction, 1 at the input, negative behind the reconstruction.
    pub t: f32,
    pub reading: Reading,
    /// Of its mirror image; of points that vote alone, where [`MapOptions::mirror`] asks for it.
    pub mirrored: Option<Reading>,
}

/// Everything probed of one image.
///
/// What votes is always there. The rest is for images whose boundary is looked for, and for
/// [`whole_maps`](super::Options::whole_maps).
#[derive(Clone, Debug)]
pub struct DecisionMap {
    pub input: Reading,
    /// Of the input's views: moved a little, and in the mirror. How many there are is for
    /// [`MapOptions::mirror`] and [`MapOptions::view_shift`] to say.
    pub views: Vec<Reading>,
    /// One a path: the restarts', then their consensus'. Empty ones where only the votes were needed.
    pub trajectories: Vec<Trajectory>,
    /// One list a path, by rising probe.
    pub segments: Vec<Vec<Segment>>,
}

/// A cross-boundary pair: two points of one line, the first of the recovered label, the second of
/// another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Where the line starts: a reconstruction, as its place on the trajectory.
    pub probe: usize,
    /// Where the line ends.
    pub towards: Towards,
    /// Part of the line between the two points.
    pub span: (f32, f32),
}

/// The end of a [`Pair`]'s line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// The next reconstruction of the trajectory.
    NextProbe,
    /// The input.
    Input,
}

/// Segments that are probed together: enough to fill launches, while the reconstructions at their ends
/// stay few.
pub(super) const DRAWN_TOGETHER: usize = 64;

/// Draws maps: probes segments. Maps are in the order of their images everywhere.
pub(super) struct Drawing<'d, O: ImageOps, C: ClassifierEngine<Images = O::Images>> {
    pub prober: &'d mut Prober<O, C>,
    pub ops: &'d O,
    pub options: &'d MapOptions,
    pub reconstruct: &'d ReconstructOptions,
    pub reconstructions: &'d mut Reconstructions<O::Images>,
}

/// A segment to draw.
#[derive(Clone, Copy)]
struct Line {
    /// Which of the maps it belongs to, and which of its paths.
    map: usize,
    path: usize,
    /// The reconstruction's place on its trajectory.
    probe: usize,
}

impl<O: ImageOps, C: ClassifierEngine<Images = O::Images>> Drawing<'_, O, C> {
    /// Draws what votes on the line of each image's latest reconstruction.
    pub fn latest_votes(
        &mut self,
        images: &[Placed<'_, O::Images>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let path = self.reconstruct.paths().len() - 1;
        let line = |(map, image): (usize, &Placed<'_, O::Images>)| Line {
            map,
            path,
            probe: image.probes - 1,
        };
        let lines: Vec<_> = images.iter().enumerate().map(line).collect();
        self.draw(images, &lines, &self.options.voting_places(), maps)
    }

    /// Draws what votes, and nothing else does from then on.
    pub fn votes(
        &mut self,
        images: &[Placed<'_, O::Images>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let path = self.reconstruct.paths().len() - 1;
        let mut lines = vec![];
        for (map, image) in images.iter().enumerate() {
            let probes = self.segment_probes(image);
            maps[map].segments[path].retain(|segment| probes.contains(&segment.probe));
            let line = |&probe: &usize| Line { map, path, probe };
            lines.extend(probes.iter().map(line));
        }
        self.draw(images, &lines, &self.options.voting_places(), maps)
    }

    /// Probes all reconstructions of those images that are `traced`.
    pub fn trajectories(
        &mut self,
        images: &[Placed<'_, O::Images>],
        traced: &[bool],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let of_images = images.iter().zip(maps).zip(traced);
        let of_images = of_images.filter(|(_, traced)| **traced).map(|(of, _)| of);
        let (images, maps): (Vec<_>, Vec<_>) = of_images.unzip();
        let trajectories = trace(self.prober, self.reconstruct, &images, self.reconstructions)?;
        for (map, trajectories) in maps.into_iter().zip(trajectories) {
            map.trajectories = trajectories;
        }
        Ok(())
    }

    /// Draws what the boundary is looked for on, for images of which a label is wanted: each path's last
    /// segment, and the earlier ones where the last has no point of the label.
    pub fn boundaries(
        &mut self,
        images: &[Placed<'_, O::Images>],
        wanted: &[Option<usize>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let paths = self.reconstruct.paths().len();
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
        let places = self.options.places();
        self.draw(images, &last, &places, maps)?;
        earlier.retain(|&(Line { map, path, .. }, label)| {
            let last = maps[map].segments[path].last();
            last.is_some_and(|segment| segment.last_of(label).is_none())
        });
        let earlier: Vec<_> = earlier.into_iter().map(|(line, _)| line).collect();
        self.draw(images, &earlier, &places, maps)
    }

    /// Draws what is there to look at, of all images: the segments that vote to their ends, and each other
    /// path's last one.
    pub fn whole(
        &mut self,
        images: &[Placed<'_, O::Images>],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let mut lines = vec![];
        for (map, image) in images.iter().enumerate() {
            let probes = self.segment_probes(image);
            for path in 0..self.reconstruct.paths().len() {
                let from = match maps[map].votes_on(path) {
                    true => 0,
                    false => probes.len() - 1,
                };
                let line = |&probe: &usize| Line { map, path, probe };
                lines.extend(probes[from..].iter().map(line));
            }
        }
        self.draw(images, &lines, &self.options.places(), maps)
    }

    fn segment_probes(&self, image: &Placed<'_, O::Images>) -> Vec<usize> {
        (self.options).segment_probes(image.probes, self.reconstruct.probes())
    }

    /// Probes lines at those of the places that their maps do not have, and adds these.
    fn draw(
        &mut self,
        images: &[Placed<'_, O::Images>],
        lines: &[Line],
        places: &[f32],
        maps: &mut [&mut DecisionMap],
    ) -> Result<()> {
        let paths = self.reconstruct.paths();
        let lines = lines
            .iter()
            .map(|line| (*line, maps[line.map].missing(line, places)));
        let lines: Vec<_> = lines.filter(|(_, missing)| !missing.is_empty()).collect();
        for lines in lines.chunks(DRAWN_TOGETHER) {
            let mut ends = self.ops.allocate(self.prober.shape(), lines.len())?;
            // The lines with points that are read in the mirror too, with their inputs' mirror images.
            let mut to_mirror = vec![];
            for (end, (line, missing)) in lines.iter().enumerate() {
                let id = ReconstructionId {
                    image: images[line.map].place,
                    path: paths[line.path],
                    probe: line.probe,
                };
                (self.reconstructions).assemble(self.ops, id, &mut ends, end)?;
                let may_vote = maps[line.map].votes_on(line.path);
                let vote = may_vote && missing.iter().any(|&t| votes(t));
                let input = images[line.map].mirrored.filter(|_| vote);
                to_mirror.extend(input.map(|input| (end, input)));
            }
            let ends = &ends;
            let known = |line: &Line, t: f32| maps[line.map].on_trajectory(line, t).is_some();
            let mut jobs: Vec<_> = (lines.iter().enumerate())
                .flat_map(|(end, (line, missing))| {
                    let (from, to) = (At::new(ends, end), images[line.map].input);
                    let to_probe = missing.iter().filter(move |&&t| !known(line, t));
                    to_probe.map(move |&t| Blend { from, to, t })
                })
                .collect();
            // A point's mirror image is on the line between the ends' mirror images.
            let mut mirrored = (self.ops).allocate(self.prober.shape(), to_mirror.len())?;
            let from = to_mirror.iter().map(|of| View::mirror(At::new(ends, of.0)));
            let from: Vec<_> = from.collect();
            (self.ops).view(&from, &mut mirrored, 0)?;
            let (as_they_are, mirrored) = (jobs.len(), &mirrored);
            jobs.extend(to_mirror.iter().enumerate().flat_map(|(i, &(end, to))| {
                let from = At::new(mirrored, i);
                let missing = lines[end].1.iter().filter(|&&t| votes(t));
                missing.map(move |&t| Blend { from, to, t })
            }));
            let mut readings = self.prober.blends(&jobs)?;
            let mut mirrored = readings.split_off(as_they_are).into_iter();
            let mut readings = readings.into_iter();
            for (line, missing) in lines {
                let map = &mut *maps[line.map];
                let may_vote = map.votes_on(line.path);
                let mirrors = images[line.map].mirrored.is_some();
                let points = missing.iter().filter_map(|&t| {
                    let known = map.on_trajectory(line, t).cloned();
                    let vote = may_vote && mirrors && votes(t);
                    Some(SegmentPoint {
                        t,
                        reading: known.or_else(|| readings.next())?,
                        mirrored: if vote { mirrored.next() } else { None },
                    })
                });
                let points = points.collect();
                map.add(line, points);
            }
        }
        Ok(())
    }
}

impl Segment {
    /// The point of class `label` closest to the input, as its place among the points.
    fn last_of(&self, label: usize) -> Option<usize> {
        self.points
            .iter()
            .rposition(|point| point.reading.label() == label)
    }
}

impl DecisionMap {
    /// What the classifier says of the input and its views; nothing of its paths is drawn.
    pub(super) fn new(input: Reading, views: Vec<Reading>, paths: usize) -> Self {
        DecisionMap {
            input,
            views,
            trajectories: vec![vec![]; paths],
            segments: vec![vec![]; paths],
        }
    }

    fn segment(&self, line: &Line) -> Option<&Segment> {
        let mut segments = self.segments[line.path].iter();
        segments.find(|segment| segment.probe == line.probe)
    }

    /// Those of the places that are not drawn on a line.
    fn missing(&self, line: &Line, places: &[f32]) -> Vec<f32> {
        let drawn = self.segment(line);
        let drawn = drawn.map_or(&[][..], |segment| &segment.points);
        let missing = |t: &f32| drawn.iter().all(|point| point.t != *t);
        places.iter().copied().filter(missing).collect()
    }

    /// A line's point that was read as a reconstruction of its path's trajectory.
    fn on_trajectory(&self, line: &Line, t: f32) -> Option<&Reading> {
        let point = self.trajectories[line.path].get(line.probe);
        point.filter(|_| t == 0.0).map(|point| &point.reading)
    }

    /// Adds points to a line.
    fn add(&mut self, line: &Line, points: Vec<SegmentPoint>) {
        let segments = &mut self.segments[line.path];
        let at = segments.partition_point(|segment| segment.probe < line.probe);
        if segments
            .get(at)
            .is_none_or(|segment| segment.probe != line.probe)
        {
            let probe = line.probe;
            segments.insert(
                at,
                Segment {
                    probe,
                    points: vec![],
                },
            );
        }
        let all = &mut segments[at].points;
        all.extend(points);
        all.sort_by(|a, b| a.t.total_cmp(&b.t));
    }

    /// The input label.
    pub fn input_label(&self) -> usize {
        self.input.label()
    }

    /// Iteration of the last crossing of a path's trajectory from `label` to the input label.
    pub fn crossing(&self, path: usize, label: usize) -> Option<u32> {
        let trajectory = &self.trajectories[path];
        let crossing = self.trajectory_crossing(path, label)?;
        Some(trajectory[crossing].iteration)
    }

    /// Probe before the trajectory's last crossing from `label` to the input label.
    fn trajectory_crossing(&self, path: usize, label: usize) -> Option<usize> {
        let trajectory = &self.trajectories[path];
        let crosses = |pair: &[super::TrajectoryPoint]| {
            pair[0].reading.label() == label && pair[1].reading.label() == self.input_label()
        };
        trajectory.windows(2).rposition(crosses)
    }

    /// The cross-boundary pair of a path: the point of class `label` closest to the input on the
    /// latest segment that has one, and its neighbour towards the input; else the trajectory's last
    /// crossing; else its last point of the class, and the input.
    ///
    /// The segment comes first because its boundary point is the picture closest to the input that
    /// this path can give.
    pub fn pair(&self, path: usize, label: usize) -> Option<Pair> {
        for segment in self.segments[path].iter().rev() {
            let points = &segment.points;
            let Some(last) = segment.last_of(label) else {
                continue;
            };
            return Some(Pair {
                probe: segment.probe,
                towards: Towards::Input,
                span: (
                    points[last].t,
                    points.get(last + 1).map_or(1.0, |next| next.t),
                ),
            });
        }
        if let Some(probe) = self.trajectory_crossing(path, label) {
            return Some(Pair {
                probe,
                towards: Towards::NextProbe,
                span: (0.0, 1.0),
            });
        }
        let mut points = self.trajectories[path].iter();
        let probe = points.rposition(|point| point.reading.label() == label)?;
        Some(Pair {
            probe,
            towards: Towards::Input,
            span: (0.0, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defense::TrajectoryPoint;

    /// A reading of `label` with probability about `p`, the rest even over four other classes.
    fn reading(label: usize, p: f64) -> Reading {
        let mut logits = [((1.0 - p) / 4.0).ln() as f32; 5];
        logits[label] = p.ln() as f32;
        Reading::new(&logits)
    }

    /// A map drawn as in the documentation: one string a trajectory, one a segment, from the
    /// reconstruction to the input; `A` is the input label (class 0), `T` class 1, `o` class 2.
    fn map(restarts: &[(&str, &str)]) -> DecisionMap {
        let read = |c: char| match c {
            'A' => reading(0, 0.9),
            'T' => reading(1, 0.8),
            _ => reading(2, 0.5),
        };
        DecisionMap {
            input: read('A'),
            views: vec![],
            trajectories: restarts
                .iter()
                .map(|(trajectory, _)| {
                    let point = |(i, c)| TrajectoryPoint {
                        iteration: 10 * (i as u32 + 1),
                        reading: read(c),
                        psnr: 20.0,
                        least_tile_psnr: 15.0,
                    };
                    trajectory.chars().enumerate().map(point).collect()
                })
                .collect(),
            segments: restarts
                .iter()
                .map(|(trajectory, segment)| {
                    // The second point is the reconstruction.
                    let point = |(i, c)| SegmentPoint {
                        t: 0.25 * i as f32 - 0.25,
                        reading: read(c),
                        mirrored: None,
                    };
                    let points = segment.chars().enumerate().map(point).collect();
                    vec![Segment {
                        probe: trajectory.len() - 1,
                        points,
                    }]
                })
                .collect(),
        }
    }

    #[test]
    fn the_pair_is_the_label_s_last_point_before_the_input() {
        let map = map(&[
            ("oTTT", "TTTAA"),
            ("oTAA", "TTATA"),
            ("oTAT", "ATAAA"),
            ("oTTT", "TTTTT"),
            ("oTAA", "AAAAA"),
            ("oToA", "AAAAA"),
        ]);
        let span = |path| map.pair(path, 1).map(|p| (p.towards, p.span));
        assert_eq!(span(0), Some((Towards::Input, (0.25, 0.5))));
        // Not monotone: the later boundary.
        assert_eq!(span(1), Some((Towards::Input, (0.5, 0.75))));
        // Only the reconstruction itself has the label.
        assert_eq!(span(2), Some((Towards::Input, (0.0, 0.25))));
        // All probed points have it: the boundary lies before the input.
        assert_eq!(span(3), Some((Towards::Input, (0.75, 1.0))));
        // The line never has it, the trajectory had.
        assert_eq!(span(4), Some((Towards::NextProbe, (0.0, 1.0))));
        assert_eq!(map.pair(4, 1).map(|p| p.probe), Some(1));
        // It had it, and went over to a third label.
        assert_eq!(span(5), Some((Towards::Input, (0.0, 1.0))));
        assert_eq!(map.pair(5, 1).map(|p| p.probe), Some(1));
        assert_eq!(map.pair(4, 4), None);
    }

    #[test]
    fn lines_are_probed_from_behind_the_reconstruction_to_before_the_input() {
        let options = MapOptions {
            reach: 0.5,
            reach_points: 2,
            segment_points: 3,
            ..MapOptions::default()
        };
        assert_eq!(options.places(), [-0.5, -0.25, 0.0, 0.25, 0.5, 0.75]);
        assert_eq!(options.voting_places(), [-0.5, -0.25, 0.0]);
        let further = [(-1.0, -0.5), (-1.5, -1.0), (-2.5, -1.5)];
        assert_eq!(options.further_places(), further);
        let none = MapOptions {
            reach_points: 0,
            ..options
        };
        assert_eq!(none.places()[0], 0.0);
    }

    #[test]
    fn views_are_moved_all_round_and_mirrored_where_that_is_asked_for() {
        let options = MapOptions::default();
        let shape = |height, width| ImageShape {
            channels: 3,
            height,
            width,
        };
        let views = options.viewpoints(shape(224, 32));
        assert_eq!(views.len(), 9);
        assert!(views.iter().all(|view| view.mirrored));
        let ends = |of: &dyn Fn(&Viewpoint) -> i32| {
            let moved = views.iter().map(of);
            (moved.clone().min().unwrap(), moved.max().unwrap())
        };
        // The odd number nearest to 3.36.
        assert_eq!(ends(&|view| view.down), (-3, 3));
        // At least a pixel.
        assert_eq!(ends(&|view| view.right), (-1, 1));
        assert_eq!(options.viewpoints(shape(1, 1)), [Viewpoint::MIRROR]);

        let plain = MapOptions {
            mirror: false,
            ..MapOptions::default()
        };
        let views = plain.viewpoints(shape(224, 224));
        assert_eq!(views.len(), 8);
        assert!(!views.contains(&Viewpoint::default()));
        assert!(plain.viewpoints(shape(1, 1)).is_empty());
        let still = MapOptions {
            view_shift: 0.0,
            ..MapOptions::default()
        };
        assert_eq!(still.viewpoints(shape(224, 224)), [Viewpoint::MIRROR]);
        for view_shift in [-0.1, 0.3, f64::NAN] {
            let options = MapOptions {
                view_shift,
                ..MapOptions::default()
            };
            assert!(options.validate().is_err());
        }
    }

    #[test]
    fn crossings_are_reported_only_where_the_trajectory_has_them() {
        let map = map(&[("oTTT", "TTAA"), ("TATA", "AAAA")]);
        assert_eq!(map.crossing(0, 1), None);
        assert_eq!(map.crossing(1, 1), Some(30));
    }

    #[test]
    fn segments_are_spread_over_the_settled_part_and_end_with_it() {
        let options = MapOptions {
            warm_up: 0.3,
            segments: 3,
            ..MapOptions::default()
        };
        assert_eq!(options.segment_probes(10, 10), [5, 7, 9]);
        assert_eq!(options.segment_probes(1, 1), [0]);
        // Ended early: the warm-up stays the same.
        assert_eq!(options.segment_probes(6, 10), [3, 4, 5]);
        assert_eq!(options.segment_probes(4, 10), [3]);
        let one = MapOptions {
            segments: 1,
            ..options
        };
        assert_eq!(one.segment_probes(10, 10), [9]);
    }
}

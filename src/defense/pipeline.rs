//! All stages together: images in flight, from their arrival to their outcomes.

use std::time::Instant;

use super::decision_map::{DecisionMap, Pair};
use super::device::{DeviceDefense, Times};
use super::drawing::Drawing;
use super::options::{Options, OwnOptions};
use super::oracle::Oracle;
use super::outcome::Outcome;
use super::probe::Prober;
use super::reconstruct::Placed;
use super::room::Room;
use super::settling::Settling;
use super::verdict::{Judgment, Verdict};
use super::votes;
use crate::backend::{Backend, ClassifierEngine, ImageOps, Phase, View, Viewpoint};
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::random::RandomKey;

/// The defense on a device, for images of one size; used as a [`DeviceDefense`].
pub struct Defense<
    B: Backend,
    C: ClassifierEngine<Images = <B as ImageOps>::Images> = <B as Backend>::Classifier,
> {
    pub(super) options: Options,
    pub(super) prober: Prober<B, C>,
    pub(super) room: Room<B>,
    /// The image in flight at each place.
    flights: Vec<Option<Flight>>,
    times: Times,
}

/// An image in flight.
struct Flight {
    own: OwnOptions,
    /// The map so far: the input, its views and, if the image may stop early, votes.
    map: DecisionMap,
    settling: Settling,
    /// Checkpoints that all its instances have reached.
    probes: usize,
    /// Whether its reconstructions are complete.
    finished: bool,
}

/// An image's decision map and what stage C decided.
pub(super) struct Judged {
    pub place: usize,
    pub own: OwnOptions,
    /// Checkpoints of a path.
    pub probes: usize,
    pub map: DecisionMap,
    pub judgment: Judgment,
    /// The cross-boundary pair of each path.
    pub pairs: Vec<Option<Pair>>,
}

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> Defense<B, C> {
    /// The defense with a `room` that was made for the same options and the prober's image shape.
    pub(crate) fn new(prober: Prober<B, C>, options: Options, room: Room<B>) -> Self {
        Defense {
            options,
            prober,
            flights: (0..room.reconstructions.places()).map(|_| None).collect(),
            room,
            times: Times::default(),
        }
    }

    fn leave(&mut self, place: usize) -> Result<()> {
        self.flights[place] = None;
        self.room.fitting.leave(&mut self.room.dip, place)
    }

    /// Marks the images that are finished: those at their last checkpoint, and those whose verdict is
    /// settled.
    fn mark_finished(&mut self) -> Result<()> {
        let (inputs, options) = (&self.room.inputs, &self.options);
        let total = options.reconstruct.probes();
        let (mut images, mut maps, mut settlings) = (vec![], vec![], vec![]);
        for (place, flight) in self.flights.iter_mut().enumerate() {
            let Some(flight) = flight else { continue };
            let probes = self.room.fitting.probes(place);
            let votes = probes > flight.probes && probes > options.map.first_voting_probe(total);
            flight.probes = probes;
            flight.finished = probes == total;
            if votes && !flight.finished {
                images.push(inputs.placed(place, probes));
                maps.push(&mut flight.map);
                settlings.push((&mut flight.settling, &mut flight.finished));
            }
        }
        let Some(settling) = &options.stop_early else {
            return Ok(());
        };
        let reconstructions = &mut self.room.reconstructions;
        let mut drawing = Drawing::new(&mut self.prober, options, reconstructions);
        drawing.latest_votes(&images, &mut maps)?;
        for ((image, map), (settled, finished)) in images.iter().zip(maps).zip(settlings) {
            let latest = map.votes().filter(|vote| vote.probe + 1 == image.probes);
            let latest = latest.map(|vote| vote.reading);
            let support = votes::support(map.input.classes(), latest);
            let verdict = &options.verdict;
            let judgment = verdict.judge(&map.input, &map.views, &support);
            *finished = settled.add(settling, verdict, &judgment);
        }
        Ok(())
    }

    /// Stages B and C for the images that are finished.
    fn judge_finished(&mut self) -> Result<Vec<Judged>> {
        let (inputs, options) = (&self.room.inputs, &self.options);
        let (mut images, mut maps, mut own) = (vec![], vec![], vec![]);
        for (place, flight) in self.flights.iter_mut().enumerate() {
            if let Some(flight) = flight.take_if(|flight| flight.finished) {
                images.push(inputs.placed(place, flight.probes));
                maps.push(flight.map);
                own.push(flight.own);
            }
        }
        let mut drawn: Vec<&mut DecisionMap> = maps.iter_mut().collect();
        let reconstructions = &mut self.room.reconstructions;
        let mut drawing = Drawing::new(&mut self.prober, options, reconstructions);
        drawing.votes(&images, &mut drawn)?;
        let judge = |map: &&mut DecisionMap| {
            (options.verdict).judge(&map.input, &map.views, &map.support())
        };
        let judgments: Vec<Judgment> = drawn.iter().map(judge).collect();
        let wanted: Vec<_> = judgments.iter().map(Judgment::wanted).collect();
        let whole = options.whole_maps || options.ablations;
        // A picture that becomes its own output needs no trajectories.
        let traced = |(judgment, own): (&Judgment, &OwnOptions)| {
            whole || own.always || judgment.verdict != Verdict::Clean
        };
        let traced: Vec<_> = judgments.iter().zip(&own).map(traced).collect();
        drawing.trajectories(&images, &traced, &mut drawn)?;
        if whole {
            drawing.whole(&images, &mut drawn)?;
        }
        drawing.boundaries(&images, &wanted, &mut drawn)?;
        let decided = maps.into_iter().zip(judgments).zip(own);
        let judged = images.iter().zip(decided);
        let judged = judged.map(|(image, ((map, judgment), own))| {
            Ok(Judged {
                place: image.place,
                own,
                probes: image.probes,
                pairs: match judgment.wanted() {
                    Some(label) => drawing.pairs(image, &map, label)?,
                    None => vec![None; map.segments.len()],
                },
                map,
                judgment,
            })
        });
        judged.collect()
    }
}

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> DeviceDefense for Defense<B, C> {
    fn name(&self) -> String {
        self.prober.ops().name()
    }

    fn phase(&self, name: &'static str) -> Phase {
        self.prober.ops().phase(name)
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn set_seed(&mut self, seed: u64) {
        self.options.reconstruct.seed = seed;
    }

    fn oracle(&self) -> &dyn Oracle {
        &self.prober
    }

    fn oracle_mut(&mut self) -> &mut dyn Oracle {
        &mut self.prober
    }

    fn places(&self) -> usize {
        self.flights.len()
    }

    fn vacancies(&self) -> usize {
        self.flights.iter().filter(|image| image.is_none()).count()
    }

    fn busy_slots(&self) -> usize {
        self.room.fitting.busy_slots()
    }

    fn admit_with(&mut self, pictures: &[(&Picture, OwnOptions)]) -> Result<Vec<usize>> {
        let start = Instant::now();
        let shape = self.shape();
        for (picture, _) in pictures {
            if picture.shape != shape || picture.pixels.len() != shape.elements() {
                return Err(Error::invalid(format!(
                    "a picture has shape {} and {} pixel values, but the classifier takes {shape}",
                    picture.shape,
                    picture.pixels.len()
                )));
            }
        }
        let free = (0..self.places()).filter(|&place| self.flights[place].is_none());
        let places: Vec<usize> = free.take(pictures.len()).collect();
        if places.len() < pictures.len() {
            return Err(Error::invalid(format!(
                "{} pictures for {} free places",
                pictures.len(),
                places.len()
            )));
        }
        let room = &mut self.room;
        for (&place, (picture, own)) in places.iter().zip(pictures) {
            let key = RandomKey {
                seed: own.seed,
                image: picture.hash(),
                tile: 0,
            };
            (room.inputs).put(self.prober.ops(), &picture.pixels, key, place)?;
        }
        let inputs: Vec<_> = places.iter().map(|&place| room.inputs.at(place)).collect();
        // The images themselves, then the views of each, in one call.
        let viewpoints = self.options.map.viewpoints(shape);
        let upright = Viewpoint::default();
        let as_they_are = inputs.iter().map(|&image| (image, upright));
        let moved = |&image| viewpoints.iter().map(move |&from| (image, from));
        let jobs = as_they_are.chain(inputs.iter().flat_map(moved));
        let jobs: Vec<_> = jobs.map(|(image, from)| View { image, from }).collect();
        let mut readings = self.prober.views(&jobs)?;
        let mut views = readings.split_off(places.len()).into_iter();
        for ((&place, (_, own)), input) in places.iter().zip(pictures).zip(readings) {
            let Placed {
                input: image, key, ..
            } = room.inputs.placed(place, 0);
            (room.fitting).begin(self.prober.ops(), place, image, key, &room.reconstructions)?;
            let views = views.by_ref().take(viewpoints.len()).collect();
            self.flights[place] = Some(Flight {
                own: *own,
                map: DecisionMap::new(input, views, self.options.reconstruct.paths().len()),
                settling: Settling::default(),
                probes: 0,
                finished: false,
            });
        }
        self.times.probing += start.elapsed().as_secs_f64();
        Ok(places)
    }

    fn advance(&mut self) -> Result<Vec<(usize, Outcome)>> {
        let start = Instant::now();
        self.prober.go_on()?;
        let room = &mut self.room;
        room.fitting.advance(
            self.prober.ops(),
            &mut room.dip,
            &self.options.reconstruct,
            &mut room.reconstructions,
        )?;
        let fitted = Instant::now();
        self.times.dip += (fitted - start).as_secs_f64();
        self.mark_finished()?;
        let judged = self.judge_finished()?;
        let probed = Instant::now();
        self.times.probing += (probed - fitted).as_secs_f64();
        if judged.is_empty() {
            return Ok(vec![]);
        }
        let places: Vec<usize> = judged.iter().map(|judged| judged.place).collect();
        let outcomes = self.restore(judged)?;
        for &place in &places {
            self.leave(place)?;
        }
        self.times.restoring += probed.elapsed().as_secs_f64();
        Ok(places.into_iter().zip(outcomes).collect())
    }

    fn remove(&mut self, place: usize) -> Result<()> {
        self.leave(place)
    }

    fn clear(&mut self) -> Result<()> {
        (0..self.places()).try_for_each(|place| self.leave(place))
    }

    fn take_times(&mut self) -> Times {
        std::mem::take(&mut self.times)
    }

    fn views(&self, image: usize) -> Result<Vec<Vec<f32>>> {
        self.images_of_views(image)
    }

    fn voters(&mut self, image: usize, map: &DecisionMap) -> Result<Vec<Vec<f32>>> {
        self.images_of_votes(image, map)
    }
}

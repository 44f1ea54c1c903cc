//! The stages, joined: images in flight, from their arrival to their outcomes.

use std::time::Instant;

use super::decision_map::{DecisionMap, Drawing, Pair, Towards};
use super::device::{DeviceDefense, Times};
use super::fitting::Fitting;
use super::options::Options;
use super::oracle::Oracle;
use super::outcome::Outcome;
use super::probe::Prober;
use super::reconstruct::{Placed, ReconstructionId, Reconstructions};
use super::settling::Settling;
use super::verdict::{Judgement, Verdict};
use super::votes;
use crate::backend::{
    At, Backend, Blend, ClassifierEngine, ImageOps, ImageShape, Phase, View, Viewpoint,
};
use crate::error::{Error, Result};
use crate::picture::Picture;

/// What the images in flight need on a device.
pub(crate) struct Room<B: Backend> {
    pub(super) dip: B::Dip,
    /// By place.
    pub(super) inputs: B::Images,
    /// Their mirror images, by place, where votes are read mirrored.
    mirrored_inputs: Option<B::Images>,
    pub(super) reconstructions: Reconstructions<B::Images>,
    fitting: Fitting<B::Images>,
}

impl<B: Backend> Room<B> {
    /// Room for `images` images of shape `shape` in flight and a DIP engine of `capacity` instances.
    pub fn new(
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
        let capacity = capacity.clamp(1, images * reconstructions.instances_of_an_image());
        let early = options.stop_early.is_some();
        let inputs = || backend.allocate(shape, images);
        Ok(Room {
            dip: backend.dip(
                &reconstruct.spec,
                grid.tile_height,
                grid.tile_width,
                capacity,
            )?,
            inputs: inputs()?,
            mirrored_inputs: options.map.mirror.then(inputs).transpose()?,
            fitting: Fitting::new(backend, &reconstructions, capacity, images, early)?,
            reconstructions,
        })
    }
}

/// The defense on a device, for images of one size: what it can do is [`DeviceDefense`]'s.
pub struct Defense<
    B: Backend,
    C: ClassifierEngine<Images = <B as ImageOps>::Images> = <B as Backend>::Classifier,
> {
    pub(super) backend: B,
    pub(super) options: Options,
    pub(super) prober: Prober<B, C>,
    pub(super) room: Room<B>,
    /// By place.
    flights: Vec<Option<Flight>>,
    times: Times,
}

/// An image in flight.
struct Flight {
    /// What is known of it: the input and its views, and, where it may end early, votes.
    map: DecisionMap,
    settling: Settling,
    /// Probes that all its instances have reached.
    probes: usize,
    /// Whether it ends here.
    ends: bool,
}

/// The image at a place, as the decision map's drawing takes it.
fn placed<'r, I>(
    inputs: &'r I,
    mirrored: &'r Option<I>,
    place: usize,
    probes: usize,
) -> Placed<'r, I> {
    Placed {
        place,
        input: At::new(inputs, place),
        mirrored: mirrored.as_ref().map(|mirrored| At::new(mirrored, place)),
        probes,
    }
}

/// A map and what stage C decided.
pub(super) struct Judged {
    pub place: usize,
    /// Probes of a path.
    pub probes: usize,
    pub map: DecisionMap,
    pub judgement: Judgement,
    /// One a path.
    pub pairs: Vec<Option<Pair>>,
}

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> Defense<B, C> {
    /// The defence in the room that was made for the same options and the prober's images.
    pub(crate) fn new(prober: Prober<B, C>, options: Options, room: Room<B>) -> Self {
        Defense {
            backend: prober.ops().clone(),
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

    /// Notes which images end: those that ran to their end, and those whose verdict is settled.
    fn see_who_ends(&mut self) -> Result<()> {
        let (room, reconstruct) = (&mut self.room, &self.options.reconstruct);
        let whole = reconstruct.probes();
        let (mut images, mut maps, mut settlings) = (vec![], vec![], vec![]);
        for (place, flight) in self.flights.iter_mut().enumerate() {
            let Some(flight) = flight else { continue };
            let probes = room.fitting.probes(place);
            let votes = probes > flight.probes && probes > self.options.map.settled(whole);
            flight.probes = probes;
            flight.ends = probes == whole;
            if votes && !flight.ends {
                images.push(placed(&room.inputs, &room.mirrored_inputs, place, probes));
                maps.push(&mut flight.map);
                settlings.push((&mut flight.settling, &mut flight.ends));
            }
        }
        let Some(settling) = &self.options.stop_early else {
            return Ok(());
        };
        let mut drawing = Drawing {
            prober: &mut self.prober,
            ops: &self.backend,
            options: &self.options.map,
            reconstruct,
            reconstructions: &mut room.reconstructions,
        };
        drawing.latest_votes(&images, &mut maps)?;
        for ((image, map), (settled, ends)) in images.iter().zip(maps).zip(settlings) {
            let latest = map.votes().filter(|vote| vote.probe + 1 == image.probes);
            let latest = latest.map(|vote| vote.reading);
            let support = votes::support(map.input.classes(), latest);
            let verdict = &self.options.verdict;
            let judgement = verdict.judge(&map.input, &map.views, &support);
            *ends = settled.add(settling, verdict, &judgement);
        }
        Ok(())
    }

    /// Stages B and C for the images that end.
    fn judge_ended(&mut self) -> Result<Vec<Judged>> {
        let room = &mut self.room;
        let (mut images, mut maps) = (vec![], vec![]);
        for (place, flight) in self.flights.iter_mut().enumerate() {
            if let Some(flight) = flight.take_if(|flight| flight.ends) {
                images.push(placed(
                    &room.inputs,
                    &room.mirrored_inputs,
                    place,
                    flight.probes,
                ));
                maps.push(flight.map);
            }
        }
        let mut drawn: Vec<&mut DecisionMap> = maps.iter_mut().collect();
        let mut drawing = Drawing {
            prober: &mut self.prober,
            ops: &self.backend,
            options: &self.options.map,
            reconstruct: &self.options.reconstruct,
            reconstructions: &mut room.reconstructions,
        };
        drawing.votes(&images, &mut drawn)?;
        let judge = |map: &&mut DecisionMap| {
            (self.options.verdict).judge(&map.input, &map.views, &map.support())
        };
        let judgements: Vec<Judgement> = drawn.iter().map(judge).collect();
        let wanted: Vec<_> = judgements.iter().map(Judgement::wanted).collect();
        let whole = self.options.whole_maps || self.options.ablations;
        // What is shown as it came in needs no more than a verdict.
        let traced = |judgement: &Judgement| {
            whole || self.options.always || judgement.verdict != Verdict::Clean
        };
        let traced: Vec<_> = judgements.iter().map(traced).collect();
        drawing.trajectories(&images, &traced, &mut drawn)?;
        if whole {
            drawing.whole(&images, &mut drawn)?;
        }
        drawing.boundaries(&images, &wanted, &mut drawn)?;
        let decided = maps.into_iter().zip(judgements);
        let judged = images.iter().zip(decided).map(|(image, (map, judgement))| {
            let pair = |path| judgement.wanted().and_then(|label| map.pair(path, label));
            Judged {
                place: image.place,
                probes: image.probes,
                pairs: (0..map.trajectories.len()).map(pair).collect(),
                map,
                judgement,
            }
        });
        let mut judged: Vec<_> = judged.collect();
        self.look_further(&mut judged)?;
        Ok(judged)
    }
}

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> Defense<B, C> {
    /// Looks for the recovered label further behind the reconstructions, where a map has no point of it: the
    /// input's views can speak for a label that is second everywhere on the map.
    fn look_further(&mut self, judged: &mut [Judged]) -> Result<()> {
        let paths = self.options.reconstruct.paths();
        for judged in judged {
            let Some(label) = judged.judgement.wanted() else {
                continue;
            };
            if judged.pairs.iter().any(Option::is_some) {
                continue;
            }
            let segments = &judged.map.segments;
            let lines: Vec<(usize, usize)> = (segments.iter().enumerate())
                .flat_map(|(path, lines)| lines.iter().rev().map(move |line| (path, line.probe)))
                .collect();
            let mut ends = self.backend.allocate(self.shape(), lines.len())?;
            for (i, &(path, probe)) in lines.iter().enumerate() {
                let id = ReconstructionId {
                    image: judged.place,
                    path: paths[path],
                    probe,
                };
                (self.room.reconstructions).assemble(&self.backend, id, &mut ends, i)?;
            }
            let to = At::new(&self.room.inputs, judged.place);
            let places = self.options.map.further_places();
            let jobs: Vec<_> = (0..lines.len())
                .flat_map(|i| {
                    let from = At::new(&ends, i);
                    places.iter().map(move |&(t, _)| Blend { from, to, t })
                })
                .collect();
            let readings = self.prober.blends(&jobs)?;
            for (&(path, probe), readings) in lines.iter().zip(readings.chunks(places.len())) {
                let nearest = readings.iter().position(|reading| reading.label() == label);
                let pair = nearest.map(|nearest| Pair {
                    probe,
                    towards: Towards::Input,
                    span: places[nearest],
                });
                judged.pairs[path] = judged.pairs[path].or(pair);
            }
        }
        Ok(())
    }
}

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> DeviceDefense for Defense<B, C> {
    fn name(&self) -> String {
        self.backend.name()
    }

    fn phase(&self, name: &'static str) -> Phase {
        self.backend.phase(name)
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

    fn admit(&mut self, pictures: &[&Picture]) -> Result<Vec<usize>> {
        let start = Instant::now();
        let shape = self.shape();
        if let Some(picture) = pictures.iter().find(|picture| picture.shape != shape) {
            return Err(Error::invalid(format!(
                "a picture of {} where {shape} is needed",
                picture.shape
            )));
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
        for (&place, picture) in places.iter().zip(pictures) {
            (self.backend).upload(&picture.pixels, &mut room.inputs, place)?;
        }
        let inputs: Vec<_> = places.iter().map(|&i| At::new(&room.inputs, i)).collect();
        if let Some(mirrored) = &mut room.mirrored_inputs {
            for (&place, &image) in places.iter().zip(&inputs) {
                (self.backend).view(&[View::mirror(image)], mirrored, place)?;
            }
        }
        // As they are, and then the views of each: one launch for all.
        let viewpoints = self.options.map.viewpoints(shape);
        let upright = Viewpoint::default();
        let as_they_are = inputs.iter().map(|&image| (image, upright));
        let moved = |&image| viewpoints.iter().map(move |&from| (image, from));
        let jobs = as_they_are.chain(inputs.iter().flat_map(moved));
        let jobs: Vec<_> = jobs.map(|(image, from)| View { image, from }).collect();
        let mut readings = self.prober.views(&jobs)?;
        let mut views = readings.split_off(places.len()).into_iter();
        for (((&place, picture), image), input) in
            (places.iter().zip(pictures).zip(inputs)).zip(readings)
        {
            let hash = picture.hash();
            (room.fitting).begin(&self.backend, place, image, hash, &room.reconstructions)?;
            let views = views.by_ref().take(viewpoints.len()).collect();
            self.flights[place] = Some(Flight {
                map: DecisionMap::new(input, views, self.options.reconstruct.paths().len()),
                settling: Settling::default(),
                probes: 0,
                ends: false,
            });
        }
        self.times.probing += start.elapsed().as_secs_f64();
        Ok(places)
    }

    fn advance(&mut self) -> Result<Vec<(usize, Outcome)>> {
        let start = Instant::now();
        let room = &mut self.room;
        room.fitting.advance(
            &self.backend,
            &mut room.dip,
            &self.options.reconstruct,
            &mut room.reconstructions,
        )?;
        let fitted = Instant::now();
        self.times.dip += (fitted - start).as_secs_f64();
        self.see_who_ends()?;
        let judged = self.judge_ended()?;
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

    fn clear(&mut self) -> Result<()> {
        (0..self.places()).try_for_each(|place| self.leave(place))
    }

    fn take_times(&mut self) -> Times {
        std::mem::take(&mut self.times)
    }

    fn voters(&mut self, image: usize, map: &DecisionMap) -> Result<Vec<Vec<f32>>> {
        let paths = self.options.reconstruct.paths();
        let mut reconstruction = self.backend.allocate(self.shape(), 1)?;
        let mut point = self.backend.allocate(self.shape(), 1)?;
        let mut mirrored = self.backend.allocate(self.shape(), 1)?;
        let mut assembled = None;
        let mut voters = Vec::new();
        for vote in map.votes() {
            let id = ReconstructionId {
                image,
                path: paths[vote.path],
                probe: vote.probe,
            };
            if assembled != Some(id) {
                (self.room.reconstructions).assemble(&self.backend, id, &mut reconstruction, 0)?;
                assembled = Some(id);
            }
            let on_line = Blend {
                from: At::new(&reconstruction, 0),
                to: At::new(&self.room.inputs, image),
                t: vote.t,
            };
            self.backend.blend(&[on_line], &mut point, 0)?;
            let mut voter = At::new(&point, 0);
            if vote.mirrored {
                (self.backend).view(&[View::mirror(voter)], &mut mirrored, 0)?;
                voter = At::new(&mirrored, 0);
            }
            voters.push(self.backend.download(voter)?);
        }
        Ok(voters)
    }
}

//! The stages, joined: from a wave of pictures to their outcomes.

use super::decision_map::{self, DecisionMap, MapOptions, Pair, Towards};
use super::localise::{self, Boundary, LocaliseOptions, Search};
use super::probe::Prober;
use super::push::{self, OnBoundary, PushOptions, Step};
use super::reading::Reading;
use super::reconstruct::{
    Path, ReconstructOptions, ReconstructionId, Reconstructions, reconstruct,
};
use super::stitch::{self, StitchOptions};
use super::stopping::smoothed_psnr_maximum;
use super::trajectory::trace;
use super::verdict::{self, Verdict, VerdictOptions};
use crate::backend::{At, Backend, Blend, DipEngine, ImageShape};
use crate::error::{Error, Result};
use crate::io::Picture;

/// Every stage's options.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Options {
    pub reconstruct: ReconstructOptions,
    pub map: MapOptions,
    pub verdict: VerdictOptions,
    pub localise: LocaliseOptions,
    pub push: PushOptions,
    pub stitch: StitchOptions,
    /// Purify what looks clean too.
    pub always: bool,
    /// Round outputs to 8 bits before they are judged, as an 8-bit file will.
    pub eight_bit: bool,
    /// Show what shorter versions of the method would have given too. Changes no result.
    #[serde(skip)]
    pub ablations: bool,
}

impl Options {
    /// The defaults for a way to reconstruct.
    pub fn new(reconstruct: ReconstructOptions) -> Self {
        Options {
            reconstruct,
            map: MapOptions::default(),
            verdict: VerdictOptions::default(),
            localise: LocaliseOptions::default(),
            push: PushOptions::default(),
            stitch: StitchOptions::default(),
            always: false,
            eight_bit: true,
            ablations: false,
        }
    }

    /// Checks every stage's numbers.
    pub fn validate(&self) -> Result<()> {
        self.reconstruct.validate()?;
        self.map.validate()?;
        self.verdict.validate()?;
        self.localise.validate()?;
        self.push.validate()?;
        self.stitch.validate()
    }
}

/// Why the output is not what its verdict asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// The stitched picture lost the recovered label: the on-manifold image with the largest margin
    /// is shown.
    LargestMargin,
    /// No path has a point of the recovered label: a reconstruction is shown.
    Reconstruction,
}

/// What one path, a restart's or their consensus', contributed.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PathOutcome {
    /// The restart's; absent for the consensus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Iteration at which the trajectory last crossed from the recovered label to the input label.
    pub crossing: Option<u32>,
    /// The on-boundary image's place between its pair, from 0 at the recovered side.
    pub alpha: Option<f32>,
    /// β of the step away from the input.
    pub push: Option<f32>,
    /// Margin of the recovered label after it, in logits.
    pub margin: Option<f64>,
    /// The on-boundary image's place between the reconstruction and the input, from 0 at the former;
    /// absent where the pair lies on the trajectory.
    pub boundary: Option<f32>,
}

/// What the defence found and made of one image, with the numbers it decided by.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub input: Reading,
    pub output: Reading,
    /// The output picture, CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    pub verdict: Verdict,
    pub score: f64,
    /// The label that the map supports against the input label.
    pub recovered_label: Option<usize>,
    /// The best supported classes and their support, the input label's included.
    pub support: Vec<(usize, f64)>,
    pub fallback: Option<Fallback>,
    pub restarts: Vec<PathOutcome>,
    /// The mean of the restarts, as one more path; `None` where there is one restart.
    pub consensus: Option<PathOutcome>,
    /// Adam steps, all restarts.
    pub iterations: u64,
    /// The map itself.
    pub map: DecisionMap,
    /// What shorter versions of the method give; `None` unless [`Options::ablations`] asks for it.
    pub ablations: Option<Ablations>,
}

/// A picture as it would be stored, and what the classifier says of it.
#[derive(Clone, Debug)]
pub struct Shown {
    /// CHW in `[0, 1]`.
    pub pixels: Vec<f32>,
    pub reading: Reading,
}

/// What the method gives where it ends early: each adds a stage to the one before.
#[derive(Clone, Debug)]
pub struct Ablations {
    /// The first restart's last reconstruction.
    pub reconstruction: Shown,
    /// Its reconstruction by the smoothed-PSNR rule: DIPDefend (Dai et al. 2020), probed every
    /// [`probe_interval`](ReconstructOptions::probe_interval) iterations.
    pub early_stop: Shown,
    /// By verdict: the consensus' on-boundary image (of another path where it has none), else what the
    /// whole method gives.
    pub boundary: Shown,
    /// The same with that path's on-manifold image.
    pub push: Shown,
}

/// Classes listed in [`Outcome::support`].
const SUPPORT_LISTED: usize = 5;

/// What a wave of images needs on a device.
pub(crate) struct Room<B: Backend> {
    dip: B::Dip,
    wave: usize,
    inputs: B::Images,
    reconstructions: Reconstructions<B::Images>,
}

impl<B: Backend> Room<B> {
    /// Room for up to `wave` images of shape `shape` at a time and a DIP engine of `capacity` instances.
    pub fn new(
        backend: &B,
        options: &Options,
        shape: ImageShape,
        wave: usize,
        capacity: usize,
    ) -> Result<Self> {
        options.validate()?;
        if options.reconstruct.spec.output_channels != shape.channels {
            return Err(Error::invalid(format!(
                "the DIP network makes {} channels, the classifier takes {}",
                options.reconstruct.spec.output_channels, shape.channels
            )));
        }
        let reconstructions =
            Reconstructions::allocate(backend, &options.reconstruct, shape, wave)?;
        let grid = options.reconstruct.grids(shape)?[0];
        let dip = backend.dip(
            &options.reconstruct.spec,
            grid.tile_height,
            grid.tile_width,
            capacity.clamp(1, wave * reconstructions.instances_of_an_image()),
        )?;
        Ok(Room {
            dip,
            wave,
            inputs: backend.allocate(shape, wave)?,
            reconstructions,
        })
    }
}

/// The defence on one device, for images of one size.
pub struct Defense<'b, B: Backend> {
    backend: &'b B,
    options: Options,
    prober: Prober<'b, B>,
    dip: B::Dip,
    wave: usize,
    inputs: B::Images,
    reconstructions: Reconstructions<B::Images>,
}

impl<'b, B: Backend> Defense<'b, B> {
    /// The defence in the room that was made for the same options and the prober's images.
    pub(crate) fn new(
        backend: &'b B,
        prober: Prober<'b, B>,
        options: Options,
        room: Room<B>,
    ) -> Self {
        Defense {
            backend,
            options,
            prober,
            dip: room.dip,
            wave: room.wave,
            inputs: room.inputs,
            reconstructions: room.reconstructions,
        }
    }

    /// The device.
    pub fn backend(&self) -> &'b B {
        self.backend
    }

    /// Shape of the images that it takes.
    pub fn shape(&self) -> ImageShape {
        self.prober.shape()
    }

    /// Images that [`purify`](Self::purify) takes at a time.
    pub fn wave(&self) -> usize {
        self.wave
    }

    /// Images classified so far.
    pub fn probes(&self) -> u64 {
        self.prober.probes()
    }

    /// DIP instances that the engine holds.
    pub fn capacity(&self) -> usize {
        self.dip.capacity()
    }

    /// Purifies up to [`wave`](Self::wave) pictures together. An outcome does not depend on the
    /// others.
    ///
    /// # Errors
    /// A picture that does not have the classifier's shape; the device's errors.
    pub fn purify(&mut self, pictures: &[&Picture]) -> Result<Vec<Outcome>> {
        for (i, picture) in pictures.iter().enumerate() {
            if picture.shape != self.shape() {
                return Err(Error::invalid(format!(
                    "a picture of {} where {} is needed",
                    picture.shape,
                    self.shape()
                )));
            }
            self.backend.upload(&picture.pixels, &mut self.inputs, i)?;
        }
        let inputs: Vec<_> = (0..pictures.len())
            .map(|i| At::new(&self.inputs, i))
            .collect();
        let readings = self.prober.images(&inputs)?;
        let keyed: Vec<_> = inputs
            .iter()
            .copied()
            .zip(pictures.iter().map(|picture| picture.hash()))
            .collect();
        reconstruct(
            self.backend,
            &mut self.dip,
            &self.options.reconstruct,
            &keyed,
            &mut self.reconstructions,
        )?;
        let trajectories = trace(
            &mut self.prober,
            &self.options.reconstruct,
            &inputs,
            &mut self.reconstructions,
        )?;
        let read: Vec<_> = inputs.iter().copied().zip(readings).collect();
        let maps = decision_map::draw(
            &mut self.prober,
            self.backend,
            &self.options.map,
            &self.options.reconstruct,
            &read,
            &mut self.reconstructions,
            trajectories,
        )?;
        let judged: Vec<Judged> = maps.into_iter().map(|map| self.judge(map)).collect();
        self.restore(judged, pictures)
    }

    /// Stage C's decisions about one map.
    fn judge(&self, map: DecisionMap) -> Judged {
        let support = map.support();
        let recovered = map.recovered_label(&support);
        let score = recovered.map_or(0.0, |label| verdict::score(&map, &support, label));
        let verdict = self.options.verdict.verdict(score);
        let pairs = match (verdict, recovered) {
            (Verdict::Adversarial, Some(label)) => (0..map.trajectories.len())
                .map(|path| map.pair(path, label))
                .collect(),
            _ => vec![None; map.trajectories.len()],
        };
        Judged {
            map,
            support,
            recovered,
            score,
            verdict,
            pairs,
        }
    }

    /// Stages D to G for a wave.
    fn restore(&mut self, judged: Vec<Judged>, pictures: &[&Picture]) -> Result<Vec<Outcome>> {
        let manifold = self.on_manifold(&judged)?;
        let mut outcomes = Vec::with_capacity(judged.len());
        let mut output = self.backend.allocate(self.shape(), 1)?;
        for (image, judged) in judged.into_iter().enumerate() {
            let members: Vec<&OnManifold> = manifold
                .members
                .iter()
                .filter(|member| member.found.image == image)
                .collect();
            let made = self.output(image, &judged, &manifold.images, &members, &mut output)?;
            let (shown, fallback) = match made {
                Made::Input => {
                    let input = Shown {
                        pixels: pictures[image].pixels.clone(),
                        reading: judged.map.input.clone(),
                    };
                    (input, None)
                }
                Made::Picture(shown, fallback) => (shown, fallback),
            };
            let ablations = match self.options.ablations {
                true => Some(self.ablate(image, &judged, &manifold, &members, &shown)?),
                false => None,
            };
            outcomes.push(Outcome {
                ablations,
                ..self.outcome(judged, &members, shown, fallback)
            });
        }
        Ok(outcomes)
    }

    /// Stages D and E: localises every pair of the wave and pushes what was found.
    fn on_manifold(&mut self, judged: &[Judged]) -> Result<Manifold<B::Images>> {
        let paths = self.options.reconstruct.paths();
        let mut found = Vec::new();
        for (image, judged) in judged.iter().enumerate() {
            for (&path, pair) in paths.iter().zip(&judged.pairs) {
                if let (Some(pair), Some(label)) = (*pair, judged.recovered) {
                    found.push(Found {
                        image,
                        path,
                        pair,
                        label,
                    });
                }
            }
        }
        let shape = self.shape();
        // The start of each pair's line and, where it follows the trajectory, its end.
        let mut ends = self.backend.allocate(shape, 2 * found.len())?;
        for (i, of) in found.iter().enumerate() {
            let mut assemble = |probe, index| {
                let id = ReconstructionId {
                    image: of.image,
                    path: of.path,
                    probe,
                };
                self.reconstructions
                    .assemble(self.backend, id, &mut ends, index)
            };
            assemble(of.pair.probe, 2 * i)?;
            if of.pair.towards == Towards::NextProbe {
                assemble(of.pair.probe + 1, 2 * i + 1)?;
            }
        }
        let search = |(i, of): (usize, &Found)| Search {
            from: At::new(&ends, 2 * i),
            to: match of.pair.towards {
                Towards::Input => At::new(&self.inputs, of.image),
                Towards::NextProbe => At::new(&ends, 2 * i + 1),
            },
            span: of.pair.span,
            label: of.label,
        };
        let searches: Vec<_> = found.iter().enumerate().map(search).collect();
        let phase = self.backend.phase("localise");
        let boundaries = localise::localise(&mut self.prober, &self.options.localise, &searches)?;
        let of = searches.iter().zip(&boundaries);
        let blends: Vec<_> = of
            .map(|(search, boundary)| search.point(boundary.t))
            .collect();
        let mut on_boundary = self.backend.allocate(shape, found.len())?;
        self.backend.blend(&blends, &mut on_boundary, 0)?;
        drop(phase);

        let to_push = |(i, of): (usize, &Found)| OnBoundary {
            boundary: At::new(&on_boundary, i),
            input: At::new(&self.inputs, of.image),
            label: of.label,
        };
        let to_push: Vec<_> = found.iter().enumerate().map(to_push).collect();
        let phase = self.backend.phase("push");
        let steps = push::push(&mut self.prober, &self.options.push, &to_push)?;
        let of = to_push.iter().zip(&steps);
        let pushes: Vec<_> = of.map(|(image, step)| image.pushed(step.beta)).collect();
        let mut images = self.backend.allocate(shape, found.len())?;
        self.backend.push(&pushes, &mut images, 0)?;
        drop(phase);

        let results = found
            .into_iter()
            .zip(boundaries.into_iter().zip(steps))
            .enumerate();
        let members = results
            .map(|(index, (found, (boundary, step)))| OnManifold {
                index,
                found,
                boundary,
                step,
            })
            .collect();
        Ok(Manifold {
            boundaries: on_boundary,
            images,
            members,
        })
    }

    /// What shorter versions of the method give for one image; `whole` is what the method itself gives.
    fn ablate(
        &mut self,
        image: usize,
        judged: &Judged,
        manifold: &Manifold<B::Images>,
        members: &[&OnManifold],
        whole: &Shown,
    ) -> Result<Ablations> {
        let mut output = self.backend.allocate(self.shape(), 1)?;
        let mut reconstruction = |defense: &mut Self, probe| {
            let id = ReconstructionId {
                image,
                path: Path::Restart(0),
                probe,
            };
            defense
                .reconstructions
                .assemble(defense.backend, id, &mut output, 0)?;
            defense.finish(&mut output)
        };
        let trajectory = &judged.map.trajectories[0];
        let last = reconstruction(self, trajectory.len() - 1)?;
        let early_stop = reconstruction(self, smoothed_psnr_maximum(trajectory))?;
        // The consensus' is the last.
        let mut of_path = |defense: &mut Self, images| match members.last() {
            None => Ok(whole.clone()),
            Some(member) => {
                let at = At::new(images, member.index);
                defense.backend.copy(&[at], &mut output, 0)?;
                defense.finish(&mut output)
            }
        };
        Ok(Ablations {
            reconstruction: last,
            early_stop,
            boundary: of_path(self, &manifold.boundaries)?,
            push: of_path(self, &manifold.images)?,
        })
    }

    /// Stages F and G for one image.
    fn output(
        &mut self,
        image: usize,
        judged: &Judged,
        manifold: &B::Images,
        members: &[&OnManifold],
        output: &mut B::Images,
    ) -> Result<Made> {
        if judged.verdict == Verdict::Clean && !self.options.always {
            return Ok(Made::Input);
        }
        let shape = self.shape();
        let pushed: Vec<_> = members.iter().map(|m| At::new(manifold, m.index)).collect();
        let best = members
            .iter()
            .max_by(|a, b| a.step.margin.total_cmp(&b.step.margin));
        let _phase = self.backend.phase("stitch");
        if let (Some(label), Some(best)) = (judged.recovered, best) {
            stitch::stitch(
                self.backend,
                &self.options.stitch,
                At::new(&self.inputs, image),
                &pushed,
                (shape.height, shape.width),
                output,
                0,
            )?;
            let stitched = self.finish(output)?;
            if stitched.reading.label() == label {
                return Ok(Made::Picture(stitched, None));
            }
            self.backend
                .copy(&[At::new(manifold, best.index)], output, 0)?;
            let largest = self.finish(output)?;
            return Ok(Made::Picture(largest, Some(Fallback::LargestMargin)));
        }
        // The consensus' where there is one: it is the most faithful path.
        let paths = self.options.reconstruct.paths();
        let last = paths.len() - 1;
        let probe = smoothed_psnr_maximum(&judged.map.trajectories[last]);
        let id = ReconstructionId {
            image,
            path: paths[last],
            probe,
        };
        self.reconstructions.assemble(self.backend, id, output, 0)?;
        let shown = self.finish(output)?;
        let fallback = (judged.verdict == Verdict::Adversarial).then_some(Fallback::Reconstruction);
        Ok(Made::Picture(shown, fallback))
    }

    /// The output as it will be stored, and what the classifier says of that.
    fn finish(&mut self, output: &mut B::Images) -> Result<Shown> {
        let mut pixels = self.backend.download(At::new(&*output, 0))?;
        if self.options.eight_bit {
            for pixel in &mut pixels {
                *pixel = (*pixel * 255.0).round() / 255.0;
            }
            self.backend.upload(&pixels, output, 0)?;
        }
        let mut readings = self.prober.images(&[At::new(&*output, 0)])?;
        Ok(Shown {
            pixels,
            reading: readings.swap_remove(0),
        })
    }

    fn outcome(
        &self,
        judged: Judged,
        members: &[&OnManifold],
        shown: Shown,
        fallback: Option<Fallback>,
    ) -> Outcome {
        let options = &self.options.reconstruct;
        let path_outcome = |(place, path): (usize, &Path)| {
            let member = members.iter().find(|member| member.found.path == *path);
            let to_input = member.filter(|m| m.found.pair.towards == Towards::Input);
            let crossing = |label| judged.map.crossing(place, label);
            PathOutcome {
                seed: match path {
                    Path::Restart(restart) => Some(options.seed.wrapping_add(*restart as u64)),
                    Path::Consensus => None,
                },
                crossing: judged.recovered.and_then(crossing),
                alpha: member.map(|m| m.boundary.alpha),
                push: member.map(|m| m.step.beta),
                margin: member.map(|m| m.step.margin),
                boundary: to_input.map(|m| m.boundary.t),
            }
        };
        let paths = options.paths();
        let mut restarts: Vec<PathOutcome> = paths.iter().enumerate().map(path_outcome).collect();
        let consensus = (paths.last() == Some(&Path::Consensus)).then(|| restarts.pop());
        let mut support: Vec<(usize, f64)> = judged.support.iter().copied().enumerate().collect();
        support.sort_by(|a, b| b.1.total_cmp(&a.1));
        support.truncate(SUPPORT_LISTED);
        let run = options.probes() as u64 * u64::from(options.probe_interval);
        Outcome {
            input: judged.map.input.clone(),
            output: shown.reading,
            pixels: shown.pixels,
            verdict: judged.verdict,
            score: judged.score,
            recovered_label: judged.recovered,
            support,
            fallback,
            restarts,
            consensus: consensus.flatten(),
            iterations: options.restarts as u64 * run,
            map: judged.map,
            ablations: None,
        }
    }
}

/// A map and what stage C decided.
struct Judged {
    map: DecisionMap,
    support: Vec<f64>,
    recovered: Option<usize>,
    score: f64,
    verdict: Verdict,
    /// One a path.
    pairs: Vec<Option<Pair>>,
}

/// A path's cross-boundary pair.
struct Found {
    image: usize,
    path: Path,
    pair: Pair,
    label: usize,
}

/// A path's way from its cross-boundary pair to its on-manifold image.
struct OnManifold {
    /// Place among the wave's on-manifold images.
    index: usize,
    found: Found,
    boundary: Boundary,
    step: Step,
}

/// The on-manifold images of a wave.
struct Manifold<I> {
    boundaries: I,
    images: I,
    members: Vec<OnManifold>,
}

/// What stage G chose.
enum Made {
    Input,
    Picture(Shown, Option<Fallback>),
}

/// What attacks through the defence need of it.
impl<B: Backend> Defense<'_, B> {
    /// Every stage's options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Gives restart `r` of the pictures to come the seed `seed + r`.
    pub fn set_seed(&mut self, seed: u64) {
        self.options.reconstruct.seed = seed;
    }

    /// The images behind [`DecisionMap::votes`], in that order: CHW in `[0, 1]`. `map` is that of
    /// picture `image` of the last call of [`purify`](Self::purify), whose reconstructions are still
    /// there.
    ///
    /// # Errors
    /// The device's.
    pub fn voters(&mut self, image: usize, map: &DecisionMap) -> Result<Vec<Vec<f32>>> {
        let paths = self.options.reconstruct.paths();
        let mut reconstruction = self.backend.allocate(self.shape(), 1)?;
        let mut point = self.backend.allocate(self.shape(), 1)?;
        let mut voters = Vec::new();
        for vote in map.votes() {
            let id = ReconstructionId {
                image,
                path: paths[vote.path],
                probe: vote.probe,
            };
            self.reconstructions
                .assemble(self.backend, id, &mut reconstruction, 0)?;
            let on_line = Blend {
                from: At::new(&reconstruction, 0),
                to: At::new(&self.inputs, image),
                t: vote.t,
            };
            self.backend.blend(&[on_line], &mut point, 0)?;
            voters.push(self.backend.download(At::new(&point, 0))?);
        }
        Ok(voters)
    }
}

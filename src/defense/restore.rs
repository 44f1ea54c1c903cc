//! Stages F and G for the images that finish together: the output of each.

use super::decision_map::Towards;
use super::device::DeviceDefense;
use super::manifold::{Manifold, OnManifold, shown_alone};
use super::nudge::{nudge, round};
use super::outcome::{Ablations, Fallback, Outcome, PathOutcome, Shown};
use super::pipeline::{Defense, Judged};
use super::reconstruct::{ReconstructionId, ReconstructionPath};
use super::stitch;
use super::stopping::smoothed_psnr_maximum;
use super::verdict::Verdict;
use crate::backend::{At, Backend, ClassifierEngine};
use crate::error::Result;

/// Number of classes listed in [`Outcome::support`].
const SUPPORT_LISTED: usize = 5;

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> Defense<B, C> {
    /// Runs stages D to G.
    pub(super) fn restore(&mut self, judged: Vec<Judged>) -> Result<Vec<Outcome>> {
        let manifold = self.on_manifold(&judged)?;
        let made = self.outputs(&judged, &manifold)?;
        let mut outcomes = Vec::with_capacity(judged.len());
        for (image, (judged, output)) in judged.into_iter().zip(made).enumerate() {
            let members = manifold.of(image);
            let ablations = match self.options.ablations {
                true => Some(self.ablate(&judged, &manifold, &members, &output.shown)?),
                false => None,
            };
            outcomes.push(Outcome {
                ablations,
                ..self.outcome(judged, &members, output)
            });
        }
        Ok(outcomes)
    }

    /// The outputs of the method's ablations for one image; `whole` is the whole method's output.
    fn ablate(
        &mut self,
        judged: &Judged,
        manifold: &Manifold<B::Images>,
        members: &[&OnManifold],
        whole: &Shown,
    ) -> Result<Ablations> {
        let mut output = self.prober.ops().allocate(self.shape(), 1)?;
        let mut reconstruction = |defense: &mut Self, probe| {
            let id = ReconstructionId {
                image: judged.place,
                path: ReconstructionPath::Restart(0),
                probe,
            };
            (defense.room.reconstructions).assemble(defense.prober.ops(), id, &mut output, 0)?;
            defense.finish_only(&mut output)
        };
        let trajectory = &judged.map.trajectories[0];
        let last = reconstruction(self, trajectory.len() - 1)?;
        let early_stop = reconstruction(self, smoothed_psnr_maximum(trajectory))?;
        // The last member is the consensus', if the consensus has one.
        let mut of_path = |defense: &mut Self, images| match members.last() {
            None => Ok(whole.clone()),
            Some(member) => {
                let at = At::new(images, member.index);
                defense.prober.ops().copy(&[at], &mut output, 0)?;
                defense.finish_only(&mut output)
            }
        };
        Ok(Ablations {
            reconstruction: last,
            early_stop,
            boundary: of_path(self, &manifold.boundaries)?,
            push: of_path(self, &manifold.images)?,
        })
    }

    /// Runs stages F and G: the output of each image.
    fn outputs(
        &mut self,
        judged: &[Judged],
        manifold: &Manifold<B::Images>,
    ) -> Result<Vec<Output>> {
        let phase = self.prober.ops().phase("stitch");
        let mut output = self.prober.ops().allocate(self.shape(), judged.len())?;
        let mut sources = Vec::with_capacity(judged.len());
        for (image, judged) in judged.iter().enumerate() {
            sources.push(self.make(image, judged, manifold, &mut output)?);
        }
        let changed: Vec<usize> = (0..judged.len())
            .filter(|&image| sources[image] != Source::Input)
            .collect();
        let mut made = self.finish(&mut output, &changed)?.into_iter();
        let mut outputs = Vec::with_capacity(judged.len());
        for (image, (judged, source)) in judged.iter().zip(sources).enumerate() {
            let made = match source {
                Source::Input => None,
                _ => made.next(),
            };
            outputs.push(match (made, judged.judgment.wanted()) {
                (Some(made), Some(label)) => {
                    let members = manifold.of(image);
                    let alone = shown_alone(&members, self.options.push.margin);
                    let alone = alone.map(|member| At::new(&manifold.images, member.index));
                    self.hold(label, made, alone)?
                }
                (Some(made), None) => Output::plain(made),
                (None, _) => Output::plain(Shown {
                    pixels: (self.prober.ops()).download(self.room.inputs.at(judged.place))?,
                    reading: judged.map.input.clone(),
                }),
            });
        }
        drop(phase);
        Ok(outputs)
    }

    /// Holds an output to its verdict: `made`, rounded as it will be stored, must have this label with the wanted
    /// margin. It is nudged where it has not. Where that fails, `alone` is taken, the image of one path; there is none
    /// if `made` is a reconstruction.
    fn hold(
        &mut self,
        label: usize,
        made: Shown,
        alone: Option<At<'_, B::Images>>,
    ) -> Result<Output> {
        let wanted = (label, self.options.push.margin);
        let margin = |shown: &Shown| shown.reading.margin(label);
        let eight_bit = self.options.eight_bit;
        let (shown, nudge_steps) = nudge(&mut self.prober, wanted, made, eight_bit)?;
        let reached = margin(&shown) >= wanted.1;
        let held = |shown, nudge_steps, fallback| Output {
            shown,
            nudge_steps,
            fallback,
        };
        let Some(alone) = alone else {
            let fallback = match reached {
                true => Fallback::Nudged,
                false => Fallback::Reconstruction,
            };
            return Ok(held(shown, nudge_steps, Some(fallback)));
        };
        if reached {
            return Ok(held(shown, nudge_steps, None));
        }
        let mut single = self.prober.ops().allocate(self.shape(), 1)?;
        self.prober.ops().copy(&[alone], &mut single, 0)?;
        let single = self.finish_only(&mut single)?;
        let (single, of_single) = nudge(&mut self.prober, wanted, single, eight_bit)?;
        let fallback = match margin(&single) >= wanted.1 {
            true => Fallback::SinglePath,
            false => Fallback::Short,
        };
        Ok(match margin(&single) > margin(&shown) {
            true => held(single, of_single, Some(fallback)),
            false => held(shown, nudge_steps, Some(fallback)),
        })
    }

    /// Makes the output of one image, unless it is the input.
    fn make(
        &mut self,
        image: usize,
        judged: &Judged,
        manifold: &Manifold<B::Images>,
        output: &mut B::Images,
    ) -> Result<Source> {
        if judged.judgment.verdict == Verdict::Clean && !judged.own.always {
            return Ok(Source::Input);
        }
        let members = manifold.of(image);
        if !members.is_empty() {
            let shape = self.shape();
            let pushed: Vec<_> = members
                .iter()
                .map(|member| At::new(&manifold.images, member.index))
                .collect();
            stitch::stitch(
                self.prober.ops(),
                &self.options.stitch,
                self.room.inputs.at(judged.place),
                &pushed,
                (shape.height, shape.width),
                output,
                image,
            )?;
            return Ok(Source::Stitched);
        }
        // The last path is the consensus, if there is one: its reconstructions are the closest to the input.
        let paths = self.options.reconstruct.paths();
        let last = paths.len() - 1;
        let id = ReconstructionId {
            image: judged.place,
            path: paths[last],
            probe: smoothed_psnr_maximum(&judged.map.trajectories[last]),
        };
        (self.room.reconstructions).assemble(self.prober.ops(), id, output, image)?;
        Ok(Source::Reconstruction)
    }

    /// These images as they will be stored (rounded to 8 bits, if asked for), with their readings.
    fn finish(&mut self, output: &mut B::Images, images: &[usize]) -> Result<Vec<Shown>> {
        let mut pixels = Vec::with_capacity(images.len());
        for &image in images {
            let mut of_image = self.prober.ops().download(At::new(&*output, image))?;
            if self.options.eight_bit {
                round(&mut of_image);
                self.prober.ops().upload(&of_image, output, image)?;
            }
            pixels.push(of_image);
        }
        let images: Vec<_> = images.iter().map(|&i| At::new(&*output, i)).collect();
        let readings = self.prober.images(&images)?;
        let shown = pixels.into_iter().zip(readings);
        Ok(shown
            .map(|(pixels, reading)| Shown { pixels, reading })
            .collect())
    }

    /// Does what [`finish`](Self::finish) does, for image 0.
    fn finish_only(&mut self, output: &mut B::Images) -> Result<Shown> {
        Ok(self.finish(output, &[0])?.swap_remove(0))
    }

    fn outcome(&self, judged: Judged, members: &[&OnManifold], made: Output) -> Outcome {
        let options = &self.options.reconstruct;
        let path_outcome = |(place, path): (usize, &ReconstructionPath)| {
            let member = members.iter().find(|member| member.found.path == *path);
            let to_input = member.filter(|m| m.found.pair.towards == Towards::Input);
            let crossing = |label| judged.map.crossing(place, label);
            PathOutcome {
                seed: match path {
                    ReconstructionPath::Restart(restart) => {
                        Some(judged.own.seed.wrapping_add(*restart as u64))
                    }
                    ReconstructionPath::Consensus => None,
                },
                crossing: judged.judgment.wanted().and_then(crossing),
                alpha: member.map(|m| m.boundary.alpha),
                push: member.map(|m| m.push.beta),
                margin: member.map(|m| m.push.margin),
                boundary: to_input.map(|m| m.boundary.t),
            }
        };
        let paths = options.paths();
        let mut restarts: Vec<PathOutcome> = paths.iter().enumerate().map(path_outcome).collect();
        let consensus =
            (paths.last() == Some(&ReconstructionPath::Consensus)).then(|| restarts.pop());
        let support = &judged.judgment.support;
        let mut support: Vec<(usize, f64)> = support.iter().copied().enumerate().collect();
        support.sort_by(|a, b| b.1.total_cmp(&a.1));
        support.truncate(SUPPORT_LISTED);
        let run = judged.probes as u64 * u64::from(options.probe_interval);
        Outcome {
            input: judged.map.input.clone(),
            output: made.shown.reading,
            pixels: made.shown.pixels,
            verdict: judged.judgment.verdict,
            score: judged.judgment.score,
            recovered_label: judged.judgment.recovered,
            support,
            fallback: made.fallback,
            nudge_steps: made.nudge_steps,
            restarts,
            consensus: consensus.flatten(),
            iterations: options.restarts as u64 * run,
            map: judged.map,
            ablations: None,
        }
    }
}

/// An output, and how it came to be.
struct Output {
    shown: Shown,
    nudge_steps: usize,
    fallback: Option<Fallback>,
}

impl Output {
    /// An output of which no label is wanted.
    fn plain(shown: Shown) -> Output {
        Output {
            shown,
            nudge_steps: 0,
            fallback: None,
        }
    }
}

/// What an output is made from.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Input,
    Stitched,
    Reconstruction,
}

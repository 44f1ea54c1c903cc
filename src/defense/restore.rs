//! Stages D to G for the images that end together: one launch for all of them where the classifier is
//! asked.

use super::decision_map::{Pair, Towards};
use super::device::DeviceDefense;
use super::localise::{self, Boundary, Search};
use super::nudge::nudge;
use super::outcome::{Ablations, Fallback, Outcome, PathOutcome, Shown};
use super::pipeline::{Defense, Judged};
use super::push::{self, OnBoundary, Step};
use super::reconstruct::{Path, ReconstructionId};
use super::stitch;
use super::stopping::smoothed_psnr_maximum;
use super::verdict::Verdict;
use crate::backend::{At, Backend, ClassifierEngine};
use crate::error::Result;

/// Classes listed in [`Outcome::support`].
const SUPPORT_LISTED: usize = 5;

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> Defense<B, C> {
    /// Stages D to G.
    pub(super) fn restore(&mut self, judged: Vec<Judged>) -> Result<Vec<Outcome>> {
        let manifold = self.on_manifold(&judged)?;
        let made = self.outputs(&judged, &manifold)?;
        let mut outcomes = Vec::with_capacity(judged.len());
        for (image, (judged, (shown, fallback))) in judged.into_iter().zip(made).enumerate() {
            let members = manifold.of(image);
            let ablations = match self.options.ablations {
                true => Some(self.ablate(&judged, &manifold, &members, &shown)?),
                false => None,
            };
            outcomes.push(Outcome {
                ablations,
                ..self.outcome(judged, &members, shown, fallback)
            });
        }
        Ok(outcomes)
    }

    /// Stages D and E: localises every pair and pushes what was found.
    fn on_manifold(&mut self, judged: &[Judged]) -> Result<Manifold<B::Images>> {
        let paths = self.options.reconstruct.paths();
        let mut found = Vec::new();
        for (image, judged) in judged.iter().enumerate() {
            let of_paths = paths.iter().zip(&judged.pairs);
            for ((&path, pair), trajectory) in of_paths.zip(&judged.map.trajectories) {
                if let (Some(pair), Some(label)) = (*pair, judged.judgement.recovered) {
                    found.push(Found {
                        image,
                        place: judged.place,
                        path,
                        pair,
                        psnr: trajectory[pair.probe].psnr,
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
                    image: of.place,
                    path: of.path,
                    probe,
                };
                (self.room.reconstructions).assemble(&self.backend, id, &mut ends, index)
            };
            assemble(of.pair.probe, 2 * i)?;
            if of.pair.towards == Towards::NextProbe {
                assemble(of.pair.probe + 1, 2 * i + 1)?;
            }
        }
        let search = |(i, of): (usize, &Found)| Search {
            from: At::new(&ends, 2 * i),
            to: match of.pair.towards {
                Towards::Input => At::new(&self.room.inputs, of.place),
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
            input: At::new(&self.room.inputs, of.place),
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
        judged: &Judged,
        manifold: &Manifold<B::Images>,
        members: &[&OnManifold],
        whole: &Shown,
    ) -> Result<Ablations> {
        let mut output = self.backend.allocate(self.shape(), 1)?;
        let mut reconstruction = |defense: &mut Self, probe| {
            let id = ReconstructionId {
                image: judged.place,
                path: Path::Restart(0),
                probe,
            };
            (defense.room.reconstructions).assemble(&defense.backend, id, &mut output, 0)?;
            defense.finish_only(&mut output)
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

    /// Stages F and G: what is shown of each image, and why where that is not what its verdict asks for.
    fn outputs(
        &mut self,
        judged: &[Judged],
        manifold: &Manifold<B::Images>,
    ) -> Result<Vec<(Shown, Option<Fallback>)>> {
        let phase = self.backend.phase("stitch");
        let mut output = self.backend.allocate(self.shape(), judged.len())?;
        let mut made = Vec::with_capacity(judged.len());
        for (image, judged) in judged.iter().enumerate() {
            let way = self.make(image, judged, manifold, &mut output)?;
            if let (Made::Reconstruction, Some(label)) = (way, judged.judgement.wanted()) {
                let wanted = (label, self.options.push.margin);
                nudge(&self.backend, &mut self.prober, wanted, &mut output, image)?;
            }
            made.push(way);
        }
        let changed: Vec<usize> = (0..judged.len())
            .filter(|&image| made[image] != Made::Input)
            .collect();
        let mut shown = self.finish(&mut output, &changed)?.into_iter();
        let mut results = Vec::with_capacity(judged.len());
        let mut lost = vec![];
        for (image, (judged, made)) in judged.iter().zip(made).enumerate() {
            let shown = match made {
                Made::Input => None,
                _ => shown.next(),
            };
            let shown = match shown {
                Some(shown) => shown,
                None => Shown {
                    pixels: (self.backend).download(At::new(&self.room.inputs, judged.place))?,
                    reading: judged.map.input.clone(),
                },
            };
            let label = shown.reading.label();
            let fallback = match made {
                Made::Stitched if Some(label) != judged.judgement.recovered => {
                    let members = manifold.of(image);
                    if let Some(alone) = shown_alone(&members, self.options.push.margin) {
                        let alone = At::new(&manifold.images, alone.index);
                        self.backend.copy(&[alone], &mut output, image)?;
                    }
                    lost.push(image);
                    Some(Fallback::SinglePath)
                }
                Made::Reconstruction => judged.judgement.wanted().map(|wanted| {
                    if label == wanted {
                        Fallback::Nudged
                    } else {
                        Fallback::Reconstruction
                    }
                }),
                _ => None,
            };
            results.push((shown, fallback));
        }
        for (&image, shown) in lost.iter().zip(self.finish(&mut output, &lost)?) {
            results[image].0 = shown;
        }
        drop(phase);
        Ok(results)
    }

    /// Makes the output of one image, unless it is the input.
    fn make(
        &mut self,
        image: usize,
        judged: &Judged,
        manifold: &Manifold<B::Images>,
        output: &mut B::Images,
    ) -> Result<Made> {
        if judged.judgement.verdict == Verdict::Clean && !self.options.always {
            return Ok(Made::Input);
        }
        let members = manifold.of(image);
        if !members.is_empty() {
            let shape = self.shape();
            let pushed: Vec<_> = members
                .iter()
                .map(|member| At::new(&manifold.images, member.index))
                .collect();
            stitch::stitch(
                &self.backend,
                &self.options.stitch,
                At::new(&self.room.inputs, judged.place),
                &pushed,
                (shape.height, shape.width),
                output,
                image,
            )?;
            return Ok(Made::Stitched);
        }
        // The consensus' where there is one: it is the most faithful path.
        let paths = self.options.reconstruct.paths();
        let last = paths.len() - 1;
        let id = ReconstructionId {
            image: judged.place,
            path: paths[last],
            probe: smoothed_psnr_maximum(&judged.map.trajectories[last]),
        };
        (self.room.reconstructions).assemble(&self.backend, id, output, image)?;
        Ok(Made::Reconstruction)
    }

    /// These images as they will be stored, and what the classifier says of that.
    fn finish(&mut self, output: &mut B::Images, images: &[usize]) -> Result<Vec<Shown>> {
        let mut pixels = Vec::with_capacity(images.len());
        for &image in images {
            let mut of_image = self.backend.download(At::new(&*output, image))?;
            if self.options.eight_bit {
                for pixel in &mut of_image {
                    *pixel = (*pixel * 255.0).round() / 255.0;
                }
                self.backend.upload(&of_image, output, image)?;
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

    /// The same for the only image.
    fn finish_only(&mut self, output: &mut B::Images) -> Result<Shown> {
        Ok(self.finish(output, &[0])?.swap_remove(0))
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
                crossing: judged.judgement.wanted().and_then(crossing),
                alpha: member.map(|m| m.boundary.alpha),
                push: member.map(|m| m.step.beta),
                margin: member.map(|m| m.step.margin),
                boundary: to_input.map(|m| m.boundary.t),
            }
        };
        let paths = options.paths();
        let mut restarts: Vec<PathOutcome> = paths.iter().enumerate().map(path_outcome).collect();
        let consensus = (paths.last() == Some(&Path::Consensus)).then(|| restarts.pop());
        let support = &judged.judgement.support;
        let mut support: Vec<(usize, f64)> = support.iter().copied().enumerate().collect();
        support.sort_by(|a, b| b.1.total_cmp(&a.1));
        support.truncate(SUPPORT_LISTED);
        let run = judged.probes as u64 * u64::from(options.probe_interval);
        Outcome {
            input: judged.map.input.clone(),
            output: shown.reading,
            pixels: shown.pixels,
            verdict: judged.judgement.verdict,
            score: judged.judgement.score,
            recovered_label: judged.judgement.recovered,
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

/// A path's cross-boundary pair.
struct Found {
    /// The image's number among those that end.
    image: usize,
    place: usize,
    path: Path,
    pair: Pair,
    /// Of the reconstruction at which the pair's line starts.
    psnr: f64,
    label: usize,
}

/// A path's way from its cross-boundary pair to its on-manifold image.
struct OnManifold {
    /// Place among the on-manifold images.
    index: usize,
    found: Found,
    boundary: Boundary,
    step: Step,
}

impl OnManifold {
    /// How far the image is from the input, root mean square, where no value is clipped.
    fn distance(&self) -> f64 {
        let to_boundary = match self.found.pair.towards {
            Towards::Input => 1.0 - f64::from(self.boundary.t),
            Towards::NextProbe => 1.0,
        };
        let of_reconstruction = 10_f64.powf(-self.found.psnr / 20.0);
        of_reconstruction * to_boundary * (1.0 + f64::from(self.step.beta))
    }
}

/// Which of an image's paths is shown alone: of those that reach the wanted margin the one closest to the
/// input, else the one with the largest margin.
fn shown_alone<'a>(members: &[&'a OnManifold], wanted: f64) -> Option<&'a OnManifold> {
    let mut closest_first = members.to_vec();
    closest_first.sort_by(|a, b| a.distance().total_cmp(&b.distance()));
    push::choose(closest_first, |member| member.step.margin, wanted)
}

/// The on-manifold images of the images that end.
struct Manifold<I> {
    boundaries: I,
    images: I,
    members: Vec<OnManifold>,
}

impl<I> Manifold<I> {
    /// Those of one image.
    fn of(&self, image: usize) -> Vec<&OnManifold> {
        let members = self.members.iter();
        members.filter(|m| m.found.image == image).collect()
    }
}

/// What stage G chose for an image.
#[derive(Clone, Copy, PartialEq)]
enum Made {
    Input,
    Stitched,
    Reconstruction,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image at `t` on the line from a reconstruction of `psnr`, pushed by `beta` to `margin`.
    fn member(index: usize, psnr: f64, t: f32, beta: f32, margin: f64) -> OnManifold {
        OnManifold {
            index,
            found: Found {
                image: 0,
                place: 0,
                path: Path::Restart(index),
                pair: Pair {
                    probe: 0,
                    towards: Towards::Input,
                    span: (0.0, 1.0),
                },
                psnr,
                label: 1,
            },
            boundary: Boundary {
                alpha: t,
                t,
                neighbour: None,
            },
            step: Step { beta, margin },
        }
    }

    #[test]
    fn the_closest_image_that_has_its_margin_is_shown_alone() {
        let members = [
            member(0, 30.0, 0.5, 0.0, 0.2),
            member(1, 30.0, 0.5, 1.0, 3.0),
            member(2, 30.0, 0.5, 0.25, 1.1),
            member(3, 20.0, 0.5, 0.125, 1.5),
        ];
        let members: Vec<_> = members.iter().collect();
        let alone = |members: &[&OnManifold], wanted| {
            shown_alone(members, wanted).map(|member| member.index)
        };
        assert_eq!(alone(&members, 1.0), Some(2));
        assert_eq!(alone(&members, 0.0), Some(0));
        // None has it: the largest there is.
        assert_eq!(alone(&members, 9.0), Some(1));
        assert_eq!(alone(&[], 1.0), None);
        // 30 dB, half of the way, and a quarter of that back.
        let expected = 10_f64.powf(-1.5) * 0.5 * 1.25;
        approx::assert_relative_eq!(members[2].distance(), expected, max_relative = 1e-12);
    }
}

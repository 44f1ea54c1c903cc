//! Stages D and E for the images that finish together: the on-manifold images of their paths.

use super::decision_map::{Pair, Towards};
use super::device::DeviceDefense;
use super::localize::{self, Boundary, Search};
use super::pipeline::{Defense, Judged};
use super::push::{self, ChosenPush, OnBoundary};
use super::reconstruct::{ReconstructionId, ReconstructionPath};
use crate::backend::{At, Backend, ClassifierEngine};
use crate::error::Result;

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> Defense<B, C> {
    /// Runs stages D and E: localizes the on-boundary image of every pair, and pushes it.
    pub(super) fn on_manifold(&mut self, judged: &[Judged]) -> Result<Manifold<B::Images>> {
        let paths = self.options.reconstruct.paths();
        let mut found = Vec::new();
        for (image, judged) in judged.iter().enumerate() {
            let of_paths = paths.iter().zip(&judged.pairs);
            for ((&path, pair), trajectory) in of_paths.zip(&judged.map.trajectories) {
                if let (Some(pair), Some(label)) = (*pair, judged.judgment.recovered) {
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
        // The start of each pair's segment and, if it ends at the next reconstruction, that end.
        let mut ends = self.prober.ops().allocate(shape, 2 * found.len())?;
        for (i, of) in found.iter().enumerate() {
            let mut assemble = |probe, index| {
                let id = ReconstructionId {
                    image: of.place,
                    path: of.path,
                    probe,
                };
                (self.room.reconstructions).assemble(self.prober.ops(), id, &mut ends, index)
            };
            assemble(of.pair.probe, 2 * i)?;
            if of.pair.towards == Towards::NextProbe {
                assemble(of.pair.probe + 1, 2 * i + 1)?;
            }
        }
        let search = |(i, of): (usize, &Found)| Search {
            from: At::new(&ends, 2 * i),
            to: match of.pair.towards {
                Towards::Input => self.room.inputs.at(of.place),
                Towards::NextProbe => At::new(&ends, 2 * i + 1),
            },
            span: of.pair.span,
            label: of.label,
        };
        let searches: Vec<_> = found.iter().enumerate().map(search).collect();
        let phase = self.prober.ops().phase("localize");
        let boundaries = localize::localize(&mut self.prober, &self.options.localize, &searches)?;
        let of = searches.iter().zip(&boundaries);
        let blends: Vec<_> = of
            .map(|(search, boundary)| search.point(boundary.t))
            .collect();
        let mut on_boundary = self.prober.ops().allocate(shape, found.len())?;
        self.prober.ops().blend(&blends, &mut on_boundary, 0)?;
        drop(phase);

        let to_push = |(i, of): (usize, &Found)| OnBoundary {
            boundary: At::new(&on_boundary, i),
            input: self.room.inputs.at(of.place),
            label: of.label,
        };
        let to_push: Vec<_> = found.iter().enumerate().map(to_push).collect();
        let phase = self.prober.ops().phase("push");
        let chosen = push::push(&mut self.prober, &self.options.push, &to_push)?;
        let of = to_push.iter().zip(&chosen);
        let pushes: Vec<_> = of.map(|(image, push)| image.pushed(push.beta)).collect();
        let mut images = self.prober.ops().allocate(shape, found.len())?;
        self.prober.ops().push(&pushes, &mut images, 0)?;
        drop(phase);

        let results = found
            .into_iter()
            .zip(boundaries.into_iter().zip(chosen))
            .enumerate();
        let members = results
            .map(|(index, (found, (boundary, push)))| OnManifold {
                index,
                found,
                boundary,
                push,
            })
            .collect();
        Ok(Manifold {
            boundaries: on_boundary,
            images,
            members,
        })
    }
}

/// A path's cross-boundary pair.
pub(super) struct Found {
    /// Index of the image among those that finish together.
    pub image: usize,
    pub place: usize,
    pub path: ReconstructionPath,
    pub pair: Pair,
    /// PSNR, in dB, of the reconstruction at which the pair's segment starts.
    pub psnr: f64,
    pub label: usize,
}

/// A path's cross-boundary pair, with its on-boundary and its on-manifold image.
pub(super) struct OnManifold {
    /// Index of the on-manifold image in [`Manifold::images`].
    pub index: usize,
    pub found: Found,
    pub boundary: Boundary,
    pub push: ChosenPush,
}

impl OnManifold {
    /// Distance of the image from the input (root mean square), if no value is clipped.
    fn distance(&self) -> f64 {
        let to_boundary = match self.found.pair.towards {
            Towards::Input => 1.0 - f64::from(self.boundary.t),
            Towards::NextProbe => 1.0,
        };
        let of_reconstruction = 10_f64.powf(-self.found.psnr / 20.0);
        of_reconstruction * to_boundary * (1.0 + f64::from(self.push.beta))
    }
}

/// Which on-manifold image becomes the output alone: of those that reach the wanted margin the one closest
/// to the input, else the one with the largest margin.
pub(super) fn shown_alone<'a>(members: &[&'a OnManifold], wanted: f64) -> Option<&'a OnManifold> {
    let mut closest_first = members.to_vec();
    closest_first.sort_by(|a, b| a.distance().total_cmp(&b.distance()));
    push::choose(closest_first, |member| member.push.margin, wanted)
}

/// The on-manifold images of the images that finish together.
pub(super) struct Manifold<I> {
    pub boundaries: I,
    pub images: I,
    pub members: Vec<OnManifold>,
}

impl<I> Manifold<I> {
    /// The members of one image.
    pub(super) fn of(&self, image: usize) -> Vec<&OnManifold> {
        let members = self.members.iter();
        members.filter(|m| m.found.image == image).collect()
    }
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
                path: ReconstructionPath::Restart(index),
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
                neighbor: None,
            },
            push: ChosenPush { beta, margin },
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

//! The images that a map's readings are of, for attacks through the defense.

use super::decision_map::DecisionMap;
use super::device::DeviceDefense;
use super::pipeline::Defense;
use super::reconstruct::ReconstructionId;
use super::twins::{Ends, Twins};
use crate::backend::{At, Backend, Blend, ClassifierEngine, View};
use crate::error::Result;

impl<B: Backend, C: ClassifierEngine<Images = B::Images>> Defense<B, C> {
    /// See [`DeviceDefense::views`].
    pub(super) fn images_of_views(&self, image: usize) -> Result<Vec<Vec<f32>>> {
        let (ops, shape) = (self.prober.ops(), self.shape());
        let image = self.room.inputs.at(image);
        let views: Vec<_> = (self.viewpoints().into_iter())
            .map(|from| View { image, from })
            .collect();
        let mut seen = ops.allocate(shape, views.len())?;
        ops.view(&views, &mut seen, 0)?;
        let seen = (0..views.len()).map(|view| ops.download(At::new(&seen, view)));
        seen.collect()
    }

    /// See [`DeviceDefense::voters`].
    pub(super) fn images_of_votes(
        &mut self,
        image: usize,
        map: &DecisionMap,
    ) -> Result<Vec<Vec<f32>>> {
        let paths = self.options.reconstruct.paths();
        let (ops, shape) = (self.prober.ops(), self.shape());
        let placed = self.room.inputs.placed(image, 0);
        let mut reconstruction = ops.allocate(shape, 1)?;
        let mut point = ops.allocate(shape, 1)?;
        let mut twins = None;
        let mut assembled = None;
        let mut voters = Vec::new();
        for vote in map.votes() {
            let id = ReconstructionId {
                image,
                path: paths[vote.path],
                probe: vote.probe,
            };
            if assembled != Some(id) {
                (self.room.reconstructions).assemble(ops, id, &mut reconstruction, 0)?;
                assembled = Some(id);
                let ends = Ends::new(At::new(&reconstruction, 0), &placed, vote.probe);
                twins = Some(Twins::new(ops, &self.options.map, shape, &[ends])?);
            }
            let twin = twins.as_ref().and_then(|twins| match vote.noisy {
                true => twins.noisy(0),
                false => twins.mirrored(0).filter(|_| vote.mirrored),
            });
            let [from, to] = twin.unwrap_or([At::new(&reconstruction, 0), placed.input]);
            let on_line = Blend {
                from,
                to,
                t: vote.t,
            };
            ops.blend(&[on_line], &mut point, 0)?;
            voters.push(ops.download(At::new(&point, 0))?);
        }
        Ok(voters)
    }
}

//! The interface of the defense on one device of any kind.

use super::{DecisionMap, Options, Oracle, Outcome, OwnOptions};
use crate::backend::{ImageShape, Phase, Viewpoint};
use crate::error::Result;
use crate::picture::Picture;

/// How long a defense's phases took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Times {
    /// Iterations of the DIP networks.
    pub dip: f64,
    /// Probes: of the inputs, the trajectories and the decision maps.
    pub probing: f64,
    /// Localizing, pushing and stitching.
    pub restoring: f64,
}

/// The defense on a device of any kind, for images of one size.
///
/// [`admit`](Self::admit) puts images in flight whenever there are [`vacancies`](Self::vacancies), and
/// [`advance`](Self::advance) advances all images in flight together. An outcome depends only on its
/// picture.
pub trait DeviceDefense: Send {
    /// The device's name.
    fn name(&self) -> String;

    /// Starts a phase of the work on the device, for profilers.
    fn phase(&self, name: &'static str) -> Phase;

    /// Every stage's options.
    fn options(&self) -> &Options;

    /// Sets the seed of pictures admitted from now on; restart `r` has `seed + r`.
    fn set_seed(&mut self, seed: u64);

    /// The classifier that is protected.
    fn oracle(&self) -> &dyn Oracle;

    /// The classifier that is protected, to classify images with.
    fn oracle_mut(&mut self) -> &mut dyn Oracle;

    /// Shape of the images that it takes.
    fn shape(&self) -> ImageShape {
        self.oracle().shape()
    }

    /// Number of places: images that can be in flight together. A place is an index below it.
    fn places(&self) -> usize;

    /// Number of places that are free.
    fn vacancies(&self) -> usize;

    /// Number of the DIP engine's slots that hold an instance.
    fn busy_slots(&self) -> usize;

    /// Puts pictures in flight, at most [`vacancies`](Self::vacancies); gives the place of each.
    ///
    /// # Errors
    /// A picture that does not have the classifier's shape, or too many; the device's errors.
    fn admit(&mut self, pictures: &[&Picture]) -> Result<Vec<usize>> {
        let own = self.options().own();
        let pictures: Vec<_> = pictures.iter().map(|&picture| (picture, own)).collect();
        self.admit_with(&pictures)
    }

    /// Puts pictures in flight like [`admit`](Self::admit), each with options of its own.
    ///
    /// # Errors
    /// Those of [`admit`](Self::admit).
    fn admit_with(&mut self, pictures: &[(&Picture, OwnOptions)]) -> Result<Vec<usize>>;

    /// Runs all images in flight to their next checkpoint. Gives the outcomes of those that are finished, with
    /// their places, which are free again.
    ///
    /// # Errors
    /// The device's errors. The images in flight are then lost: call [`clear`](Self::clear) or
    /// [`purify`](Self::purify) next.
    fn advance(&mut self) -> Result<Vec<(usize, Outcome)>>;

    /// Drops the image in flight at a place; the place and the image's slots are then free.
    ///
    /// # Errors
    /// The device's errors.
    fn remove(&mut self, place: usize) -> Result<()>;

    /// Drops the images in flight.
    ///
    /// # Errors
    /// The device's errors.
    fn clear(&mut self) -> Result<()>;

    /// Purifies pictures; the outcomes are in their order. Images that were in flight are dropped.
    ///
    /// # Errors
    /// Those of [`admit`](Self::admit) and [`advance`](Self::advance).
    fn purify(&mut self, pictures: &[&Picture]) -> Result<Vec<Outcome>> {
        self.clear()?;
        let mut outcomes: Vec<Option<Outcome>> = pictures.iter().map(|_| None).collect();
        let mut picture_at = vec![0; self.places()];
        let (mut begun, mut ended) = (0, 0);
        while ended < pictures.len() {
            let end = pictures.len().min(begun + self.vacancies());
            for place in self.admit(&pictures[begun..end])? {
                picture_at[place] = begun;
                begun += 1;
            }
            for (place, outcome) in self.advance()? {
                outcomes[picture_at[place]] = Some(outcome);
                ended += 1;
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// The time of each phase since the last call.
    fn take_times(&mut self) -> Times;

    /// The viewpoints of [`DecisionMap::views`], in that order.
    fn viewpoints(&self) -> Vec<Viewpoint> {
        self.options().map.viewpoints(self.shape())
    }

    /// The images that [`DecisionMap::views`] are readings of, in that order, CHW in `[0, 1]`: the views of
    /// picture `image` of the last call of [`purify`](Self::purify). That call must have had at most
    /// [`places`](Self::places) pictures.
    ///
    /// # Errors
    /// The device's errors.
    fn views(&self, image: usize) -> Result<Vec<Vec<f32>>>;

    /// The images that [`DecisionMap::votes`] are readings of, mirror images included, in that order, CHW in
    /// `[0, 1]`. `map` is the decision map of picture `image` of the last call of [`purify`](Self::purify). That
    /// call must have had at most [`places`](Self::places) pictures, so that their reconstructions are still
    /// in memory.
    ///
    /// # Errors
    /// The device's errors.
    fn voters(&mut self, image: usize, map: &DecisionMap) -> Result<Vec<Vec<f32>>>;
}

//! The defense on one device as its callers know it, whatever the device.

use super::{DecisionMap, Options, Oracle, Outcome};
use crate::backend::{ImageShape, Phase, Viewpoint};
use crate::error::Result;
use crate::picture::Picture;

/// Where a defense's time went, in seconds.
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
/// Images are taken in by [`admit`](Self::admit) whenever there are [`vacancies`](Self::vacancies), and
/// all that are in flight go on together by [`advance`](Self::advance). An outcome depends on its
/// picture alone.
pub trait DeviceDefense: Send {
    /// The device's name.
    fn name(&self) -> String;

    /// Starts a phase of the work on the device, for profilers.
    fn phase(&self, name: &'static str) -> Phase;

    /// Every stage's options.
    fn options(&self) -> &Options;

    /// Gives restart `r` of the pictures to come the seed `seed + r`.
    fn set_seed(&mut self, seed: u64);

    /// The classifier that it protects.
    fn oracle(&self) -> &dyn Oracle;

    /// The classifier, to be asked.
    fn oracle_mut(&mut self) -> &mut dyn Oracle;

    /// Shape of the images that it takes.
    fn shape(&self) -> ImageShape {
        self.oracle().shape()
    }

    /// Places: images that can be in flight together.
    fn places(&self) -> usize;

    /// Places that are free.
    fn vacancies(&self) -> usize;

    /// Takes pictures in, no more than there are [`vacancies`](Self::vacancies); the place of each.
    ///
    /// # Errors
    /// A picture that does not have the classifier's shape, or too many; the device's errors.
    fn admit(&mut self, pictures: &[&Picture]) -> Result<Vec<usize>>;

    /// Runs all images in flight to their next probe. Those that end there leave, with the place that
    /// each had.
    ///
    /// # Errors
    /// The device's errors. The images in flight are then lost: only [`clear`](Self::clear) and
    /// [`purify`](Self::purify) are of use.
    fn advance(&mut self) -> Result<Vec<(usize, Outcome)>>;

    /// Forgets the images in flight.
    ///
    /// # Errors
    /// The device's errors.
    fn clear(&mut self) -> Result<()>;

    /// Purifies pictures; outcomes in their order. Images that were in flight are forgotten.
    ///
    /// # Errors
    /// As [`admit`](Self::admit) and [`advance`](Self::advance).
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

    /// Where the time went since this was last asked.
    fn take_times(&mut self) -> Times;

    /// Where the views that its maps have readings of are taken from, in their order.
    fn viewpoints(&self) -> Vec<Viewpoint> {
        self.options().map.viewpoints(self.shape())
    }

    /// The images behind [`DecisionMap::views`], in that order: CHW in `[0, 1]`. They are of picture `image` of
    /// the last call of [`purify`](Self::purify), which must have had no more than [`places`](Self::places)
    /// pictures.
    ///
    /// # Errors
    /// The device's errors.
    fn views(&self, image: usize) -> Result<Vec<Vec<f32>>>;

    /// The images behind [`DecisionMap::votes`], mirror images included, in that order: CHW in `[0, 1]`.
    /// `map` is that of picture `image` of the last call of [`purify`](Self::purify), which must have had
    /// no more than [`places`](Self::places) pictures: their reconstructions are still there.
    ///
    /// # Errors
    /// The device's errors.
    fn voters(&mut self, image: usize, map: &DecisionMap) -> Result<Vec<Vec<f32>>>;
}

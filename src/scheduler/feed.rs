//! What a device's work is fed from.

use super::Purified;
use crate::defense::OwnOptions;
use crate::error::{Error, Result};
use crate::picture::Picture;

/// A picture to purify.
#[derive(Clone, Debug)]
pub struct Job<T> {
    /// The caller's name for it.
    pub name: T,
    /// The picture, in the classifier's size.
    pub picture: Picture,
    /// Options of its own; `None` for those of the purifier.
    pub own: Option<OwnOptions>,
}

/// Where devices get their pictures from and give the results to, for callers that choose themselves which picture
/// comes next, as a server does. Every device's thread calls it.
pub trait Feed<T>: Sync {
    /// Up to `most` pictures for a device with as many free places. If `wait` is true, the device has none in
    /// flight: waits for one, and none then ends its work.
    fn take(&self, most: usize, wait: bool) -> Vec<Job<T>>;

    /// Whether nobody wants a picture in flight anymore, asked before every probe. Its place and slots are then
    /// freed, and its result is [`Error::Interrupted`].
    fn is_unwanted(&self, _name: &T) -> bool {
        false
    }

    /// Takes a picture's result, and the picture's share of the seconds that its device worked.
    fn done(&self, name: T, purified: Result<Purified>, seconds: f64);

    /// A device is lost, for `error`, with these pictures in flight; what it works on ends.
    fn lost(&self, device: &str, error: Error, jobs: Vec<Job<T>>);

    /// Whether to end at once, without the pictures in flight.
    fn is_over(&self) -> bool {
        false
    }

    /// Takes what device number `device` did from one probe to the next, or what it holds after it freed the places of
    /// unwanted pictures.
    fn round(&self, _device: usize, _round: Round) {}
}

/// What a device did from one probe to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Pictures that are in flight after it.
    pub in_flight: usize,
    /// Slots that hold an instance after it.
    pub busy_slots: usize,
    /// Seconds that the device waited for pictures before it.
    pub waited: f64,
    /// Seconds that the device worked.
    pub worked: f64,
}

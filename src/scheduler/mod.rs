//! From a stream of pictures to their outcomes: which images share the device, and when.
//!
//! Images are taken in waves. All images of a wave are reconstructed, probed, localised and pushed
//! together, so that every launch of the DIP engine and of the classifier is as full as the wave
//! allows. Decoding runs ahead on its own thread, by one wave at most.

use std::sync::mpsc;
use std::time::Instant;

use crate::backend::{Backend, ImageShape};
use crate::defense::{Defense, Options, Outcome, Prober};
use crate::error::{Error, Result};
use crate::io::Picture;

/// How many images are in flight together, and on how many DIP instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Images in flight.
    pub wave: usize,
    /// DIP instances that run at once.
    pub capacity: usize,
}

/// Waves beyond this size fill no launch better, but hold more reconstructions in memory.
const MAX_WAVE: usize = 64;

impl Plan {
    /// As many images as `capacity` instances (the backend's choice where `None`) hold, at least one.
    ///
    /// A capacity below one image's instances is kept: its instances then run in turns.
    pub fn new<B: Backend>(
        backend: &B,
        options: &Options,
        image: ImageShape,
        capacity: Option<usize>,
    ) -> Result<Plan> {
        let reconstruct = &options.reconstruct;
        let grid = reconstruct.grid(image)?;
        let capacity = match capacity {
            Some(0) => return Err(Error::invalid("the capacity must be at least 1 instance")),
            Some(capacity) => capacity,
            None => backend.dip_capacity(&reconstruct.spec, grid.tile_height, grid.tile_width)?,
        };
        let an_image = grid.tiles() * reconstruct.restarts;
        Ok(Plan {
            wave: (capacity / an_image).clamp(1, MAX_WAVE),
            capacity,
        })
    }

    /// A defence with this plan's memory.
    pub fn defense<'b, B: Backend>(
        self,
        backend: &'b B,
        prober: Prober<'b, B>,
        options: Options,
    ) -> Result<Defense<'b, B>> {
        Defense::new(backend, prober, options, self.wave, self.capacity)
    }
}

/// A picture and what became of it.
#[derive(Debug)]
pub struct Purified {
    pub picture: Picture,
    pub outcome: Outcome,
}

/// Purifies a stream of pictures.
///
/// `pictures` gives each picture with its name, or why it could not be read; it is drawn on a thread
/// of its own. `done` gets every outcome, in order, with the seconds that it took (its part of its
/// wave's time), and may fail to end the run.
///
/// `stop` is asked before each wave: the images in flight are then finished and the rest is left.
///
/// # Errors
/// [`Error::Interrupted`] where `stop` ended the run; the first error of the device or of `done`.
pub fn run<B: Backend, T: Send>(
    defense: &mut Defense<'_, B>,
    pictures: impl Iterator<Item = (T, Result<Picture>)> + Send,
    stop: &(dyn Fn() -> bool + Sync),
    mut done: impl FnMut(T, Result<Purified>, f64) -> Result<()>,
) -> Result<()> {
    let wave = defense.wave();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(wave);
        scope.spawn(move || {
            for picture in pictures {
                if stop() || sender.send(picture).is_err() {
                    break;
                }
            }
        });
        loop {
            if stop() {
                return Err(Error::Interrupted);
            }
            let drawn: Vec<(T, Result<Picture>)> = receiver.iter().take(wave).collect();
            if drawn.is_empty() {
                break;
            }
            let start = Instant::now();
            let (names, pictures): (Vec<T>, Vec<Result<Picture>>) = drawn.into_iter().unzip();
            let readable: Vec<&Picture> = pictures.iter().flatten().collect();
            let mut outcomes = defense.purify(&readable)?.into_iter();
            let seconds = start.elapsed().as_secs_f64() / readable.len().max(1) as f64;
            for (name, picture) in names.into_iter().zip(pictures) {
                let purified = picture.and_then(|picture| match outcomes.next() {
                    Some(outcome) => Ok(Purified { picture, outcome }),
                    None => Err(Error::Device("an outcome of the wave is missing".into())),
                });
                let seconds = if purified.is_ok() { seconds } else { 0.0 };
                done(name, purified, seconds)?;
            }
        }
        if stop() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    })
}

//! Attacks pictures by a case.

use crate::attack::{Ball, Loss, Norm, Slope, Victim, attack, round_into_ball};
use crate::defense::Reading;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::random::{Purpose, RandomKey};

use super::case::CaseKind;

/// Attacks each picture, given its true label, by a case of this program; `victim` is what the attack is made
/// on.
///
/// # Errors
/// A failing device, or [`Error::Interrupted`] if `stop` ends an attack.
pub(super) fn make(
    kind: &CaseKind,
    pictures: &[Picture],
    labels: &[Option<usize>],
    eight_bit: bool,
    victim: &mut dyn Victim,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Picture>> {
    let changed = |picture: &Picture, pixels| Picture {
        shape: picture.shape,
        pixels,
        eight_bit,
    };
    match kind {
        CaseKind::Clean | CaseKind::Given => Ok(pictures.to_vec()),
        CaseKind::Noise { eps, seed } => Ok(pictures
            .iter()
            .map(|picture| changed(picture, noisy(picture, *eps, *seed, eight_bit)))
            .collect()),
        CaseKind::Static { attack: options }
        | CaseKind::Adaptive {
            attack: options, ..
        } => {
            let mut victim = Stoppable { victim, stop };
            let attacked = attack(&mut victim, options, pictures, labels)?;
            let of = pictures.iter().zip(attacked);
            Ok(of
                .map(|(picture, attacked)| changed(picture, attacked.pixels))
                .collect())
        }
    }
}

/// The picture with every value moved by `eps` up or down at random, clipped to `[0, 1]`.
fn noisy(picture: &Picture, eps: f32, seed: u64, eight_bit: bool) -> Vec<f32> {
    let key = RandomKey {
        seed,
        image: picture.hash(),
        tile: 0,
    };
    let mut pixels = picture.pixels.clone();
    key.uniform(Purpose::Noise, 0, pixels.len(), |i, u| {
        let change = if u < 0.5 { -eps } else { eps };
        pixels[i] = (pixels[i] + change).clamp(0.0, 1.0);
    });
    if eight_bit {
        let ball = Ball {
            norm: Norm::Linf,
            eps,
        };
        round_into_ball(&mut pixels, &picture.pixels, ball);
    }
    pixels
}

/// A victim that ends an attack with an error when the user wants to stop.
struct Stoppable<'a> {
    victim: &'a mut dyn Victim,
    stop: &'a dyn Fn() -> bool,
}

impl Stoppable<'_> {
    fn check(&self) -> Result<()> {
        match (self.stop)() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}

impl Victim for Stoppable<'_> {
    fn classes(&self) -> usize {
        self.victim.classes()
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        self.check()?;
        self.victim.read(images)
    }

    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
        self.check()?;
        self.victim.gradient(images, losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::rgb;

    fn gray(level: u8) -> Picture {
        Picture::from_rgb8(&[level; 3 * 64], rgb(8, 8))
    }

    #[test]
    fn noise_has_its_size_and_both_signs() {
        let picture = gray(100);
        let eps = 4.0 / 255.0;
        let noisy_one = noisy(&picture, eps, 7, true);
        let levels: Vec<i32> = noisy_one
            .iter()
            .map(|x| (x * 255.0).round() as i32)
            .collect();
        assert!(levels.iter().all(|level| [96, 104].contains(level)));
        let up = levels.iter().filter(|level| **level == 104).count();
        assert!((60..132).contains(&up), "{up} of 192");
        assert_eq!(noisy(&picture, eps, 7, true), noisy_one);
        assert_ne!(noisy(&picture, eps, 8, true), noisy_one);
        let dark = noisy(&gray(1), eps, 7, false);
        assert!(dark.iter().all(|x| (0.0..=1.0).contains(x)));
    }
}

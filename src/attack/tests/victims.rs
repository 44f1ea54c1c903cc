//! Victims of which the answers are known.

use super::super::losses::Loss;
use super::super::victim::{Slope, Victim};
use crate::backend::ImageShape;
use crate::defense::Reading;
use crate::error::Result;
use crate::picture::Picture;
use crate::random::{Purpose, RandomKey};

pub(super) const SHAPE: ImageShape = ImageShape {
    channels: 3,
    height: 6,
    width: 7,
};

/// Random numbers, uniform in `[-1, 1)`.
pub(in crate::attack) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let key = RandomKey {
        seed,
        ..RandomKey::default()
    };
    let mut numbers = vec![0.0; count];
    key.uniform(Purpose::Parameters, 0, count, |i, u| {
        numbers[i] = 2.0 * u - 1.0
    });
    numbers
}

pub(in crate::attack) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

/// `logits = A·x + b`.
pub(super) struct Linear {
    pub(super) rows: Vec<Vec<f32>>,
    pub(super) bias: Vec<f32>,
}

impl Linear {
    fn reading(&self, image: &[f32]) -> Reading {
        let rows = self.rows.iter().zip(&self.bias);
        let logits: Vec<f32> = rows
            .map(|(row, bias)| (dot(row, image) + f64::from(*bias)) as f32)
            .collect();
        Reading::new(&logits)
    }

    /// Four classes, the first of which `picture` has with a score of `height`; the second's score
    /// is its negative, and the others' are -5.
    pub(super) fn valley(picture: &Picture, row: Vec<f32>, height: f64) -> Linear {
        let bias = (height - dot(&row, &picture.pixels)) as f32;
        let below = row.iter().map(|x| -x).collect();
        let flat = vec![0.0; row.len()];
        Linear {
            rows: vec![row, below, flat.clone(), flat],
            bias: vec![bias, -bias, -5.0, -5.0],
        }
    }
}

impl Victim for Linear {
    fn classes(&self) -> usize {
        self.rows.len()
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        Ok(images.iter().map(|image| self.reading(image)).collect())
    }

    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
        let slope = |(image, loss): (&&[f32], &Loss)| {
            let reading = self.reading(image);
            let mut derivative = vec![0.0; self.rows.len()];
            let loss = loss.evaluate(&reading, &mut derivative);
            let mut gradient = vec![0.0; image.len()];
            for (row, by_logit) in self.rows.iter().zip(derivative) {
                gradient
                    .iter_mut()
                    .zip(row)
                    .for_each(|(g, x)| *g += by_logit * x);
            }
            Slope {
                reading,
                loss,
                gradient,
            }
        };
        Ok(images.iter().zip(losses).map(slope).collect())
    }
}

/// A linear layer after waves of another: a curved landscape with local optima.
pub(super) struct Waves {
    inner: Linear,
    outer: Linear,
}

impl Waves {
    pub(super) fn new(seed: u64, classes: usize) -> Waves {
        let hidden = 24;
        let layer = |seed: u64, rows: usize, columns: usize, scale: f32| Linear {
            rows: (0..rows as u64)
                .map(|row| {
                    let row = numbers(100 * seed + row, columns);
                    row.iter().map(|x| scale * x).collect()
                })
                .collect(),
            bias: numbers(100 * seed + 99, rows),
        };
        Waves {
            inner: layer(seed, hidden, SHAPE.elements(), 1.0),
            outer: layer(seed + 1, classes, hidden, 1.0),
        }
    }

    /// The classifier of `tests/fixtures/transferable.py`.
    pub(super) fn of_torchattacks() -> Waves {
        let layer = |rows: usize, columns: usize, step: usize| Linear {
            rows: (0..rows)
                .map(|i| {
                    let number = |j| ((i * 37 + j * step + i * j) % 64) as f32 / 64.0 - 0.5;
                    (0..columns).map(number).collect()
                })
                .collect(),
            bias: vec![0.0; rows],
        };
        Waves {
            inner: layer(12, 192, 11),
            outer: layer(5, 12, 29),
        }
    }

    fn hidden(&self, image: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let inner = self.inner.reading(image);
        inner
            .logits()
            .iter()
            .map(|x| ((2.0 * x).sin(), 2.0 * (2.0 * x).cos()))
            .unzip()
    }
}

impl Victim for Waves {
    fn classes(&self) -> usize {
        self.outer.classes()
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        let read = |image: &&[f32]| self.outer.reading(&self.hidden(image).0);
        Ok(images.iter().map(read).collect())
    }

    fn gradient(&mut self, images: &[&[f32]], losses: &[Loss]) -> Result<Vec<Slope>> {
        let mut slopes = Vec::new();
        for (image, loss) in images.iter().zip(losses) {
            let (wave, derivative) = self.hidden(image);
            let outer = self
                .outer
                .gradient(&[&wave], std::slice::from_ref(loss))?
                .remove(0);
            let mut gradient = vec![0.0; image.len()];
            for (i, row) in self.inner.rows.iter().enumerate() {
                let by_hidden = outer.gradient[i] * derivative[i];
                gradient
                    .iter_mut()
                    .zip(row)
                    .for_each(|(g, x)| *g += by_hidden * x);
            }
            slopes.push(Slope { gradient, ..outer });
        }
        Ok(slopes)
    }
}

/// Says the gradients that it was given, whatever the image.
pub(super) struct Scripted(pub(super) Vec<Vec<f32>>);

impl Victim for Scripted {
    fn classes(&self) -> usize {
        2
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        Ok(images.iter().map(|_| Reading::new(&[1.0, 0.0])).collect())
    }

    fn gradient(&mut self, images: &[&[f32]], _losses: &[Loss]) -> Result<Vec<Slope>> {
        let slopes = self.0.drain(..images.len());
        let slope = |gradient| Slope {
            reading: Reading::new(&[1.0, 0.0]),
            loss: 0.0,
            gradient,
        };
        Ok(slopes.map(slope).collect())
    }
}

/// A victim that nobody may ask for a gradient.
pub(super) struct BlackBox<V>(pub(super) V);

impl<V: Victim> Victim for BlackBox<V> {
    fn classes(&self) -> usize {
        self.0.classes()
    }

    fn read(&mut self, images: &[&[f32]]) -> Result<Vec<Reading>> {
        self.0.read(images)
    }

    fn gradient(&mut self, _images: &[&[f32]], _losses: &[Loss]) -> Result<Vec<Slope>> {
        panic!("the attack asked for a gradient")
    }
}

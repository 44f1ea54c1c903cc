//! Proposals in the Euclidean norm: the change of one window moves to another, with a peak added.

use super::super::ball::{Ball, Norm, length};
use super::super::climb::Subject;
use super::super::rounding::round_into_ball;
use super::{Proposals, draw, position, sign};

/// The ball around a picture.
pub(super) struct Euclidean {
    ball: Ball,
    eight_bit: bool,
}

/// Lower bound of a window's norm, so that an empty window does not divide by 0.
const LEAST: f64 = 1e-12;

impl Euclidean {
    pub(super) fn new(eps: f32, eight_bit: bool) -> Self {
        Euclidean {
            ball: Ball {
                norm: Norm::L2,
                eps,
            },
            eight_bit,
        }
    }

    /// The clean picture, moved along `change` by the radius.
    fn image(&self, clean: &[f32], change: &[f32]) -> Vec<f32> {
        let mut image = clean.to_vec();
        self.ball.ascend(&mut image, change, self.ball.eps);
        self.ball.project(&mut image, clean);
        if self.eight_bit {
            round_into_ball(&mut image, clean, self.ball);
        }
        image
    }
}

/// A square part of one channel.
#[derive(Clone, Copy)]
struct Window {
    top: usize,
    left: usize,
    side: usize,
}

impl Window {
    /// Whether it contains a pixel.
    fn contains(&self, y: usize, x: usize) -> bool {
        (self.top..self.top + self.side).contains(&y)
            && (self.left..self.left + self.side).contains(&x)
    }

    /// The indices of its pixels in a plane of this width, row by row.
    fn pixels(self, width: usize) -> impl Iterator<Item = usize> {
        let rows = self.top..self.top + self.side;
        rows.flat_map(move |y| (0..self.side).map(move |x| y * width + self.left + x))
    }
}

/// A hill and a hollow side by side, with Euclidean length 1 together: the authors' η, row by row. The
/// hill is above, or to the left if `turned`.
fn peak(side: usize, turned: bool) -> Vec<f32> {
    let half = side / 2;
    let mut peak = vec![0.0; side * side];
    for y in 0..side {
        for x in 0..side {
            let value = match y < half {
                true => hill(y, x, half, side),
                false => -hill(y - half, x, side - half, side),
            };
            peak[if turned { x * side + y } else { y * side + x }] = value;
        }
    }
    let size = length(peak.iter().copied());
    peak.iter_mut()
        .for_each(|x| *x = (f64::from(*x) / size) as f32);
    peak
}

/// The height of a hill of `rows × columns` at a pixel: concentric rectangles, the innermost the highest.
fn hill(y: usize, x: usize, rows: usize, columns: usize) -> f32 {
    let from_center = (rows / 2).abs_diff(y).max((columns / 2).abs_diff(x));
    let rings = from_center..=(rows / 2).max(columns / 2);
    rings
        .map(|ring| 1.0 / ((ring + 1) * (ring + 1)) as f32)
        .sum()
}

impl Proposals for Euclidean {
    /// Peaks over the whole picture, five along its shorter side, with a random sign each.
    fn first(&self, subject: &Subject<'_>, run: usize) -> Vec<f32> {
        let shape = subject.picture.shape;
        let (height, width) = (shape.height, shape.width);
        let side = (height.min(width) / 5).max(1);
        let (rows, columns) = (height / side, width / side);
        let (top, left) = ((height - rows * side) / 2, (width - columns * side) / 2);
        let cells = rows * columns;
        // For each cell, whether its peaks are turned, and a sign in each channel.
        let drawn = draw(subject, run, 0, (shape.channels + 1) * cells);
        let mut change = vec![0.0; shape.elements()];
        for cell in 0..cells {
            let window = Window {
                top: top + cell / columns * side,
                left: left + cell % columns * side,
                side,
            };
            let peak = peak(side, drawn[cell] < 0.5);
            for (channel, plane) in change.chunks_exact_mut(height * width).enumerate() {
                let sign = sign(drawn[(channel + 1) * cells + cell]);
                for (pixel, value) in window.pixels(width).zip(&peak) {
                    plane[pixel] = sign * value;
                }
            }
        }
        self.image(subject.clean(), &change)
    }

    /// Removes the change in one window and gives its length to another window, whose change keeps its
    /// direction and gets a peak added.
    fn next(
        &self,
        subject: &Subject<'_>,
        run: usize,
        query: usize,
        area: f64,
        image: &[f32],
    ) -> Vec<f32> {
        let shape = subject.picture.shape;
        let (height, width) = (shape.height, shape.width);
        // Odd and at least 3, unless the picture is smaller.
        let side = (area * (height * width) as f64).sqrt().round() as usize;
        let side = (side.max(3) | 1).min(height.min(width));
        let drawn = draw(subject, run, query, 5 + shape.channels);
        let window = |u: f32, v: f32| Window {
            top: position(u, side, height),
            left: position(v, side, width),
            side,
        };
        let (to, from) = (window(drawn[0], drawn[1]), window(drawn[2], drawn[3]));
        let peak = peak(side, drawn[4] < 0.5);
        let clean = subject.clean();
        let mut change: Vec<f32> = image.iter().zip(clean).map(|(x, c)| x - c).collect();
        // The channels share the part of the radius that the change does not use.
        let squared = length(change.iter().copied()).powi(2);
        let unused = (f64::from(self.ball.eps).powi(2) - squared).max(0.0) / shape.channels as f64;
        for (channel, plane) in change.chunks_exact_mut(height * width).enumerate() {
            let inside = to.pixels(width).map(|pixel| plane[pixel]);
            let size = length(inside).max(LEAST);
            let moving = from.pixels(width).chain(
                to.pixels(width)
                    .filter(|pixel| !from.contains(pixel / width, pixel % width)),
            );
            let moving = length(moving.map(|pixel| plane[pixel]));
            let sign = sign(drawn[5 + channel]);
            let new: Vec<f32> = to
                .pixels(width)
                .zip(&peak)
                .map(|(pixel, peak)| sign * peak + (f64::from(plane[pixel]) / size) as f32)
                .collect();
            let scale = (moving.powi(2) + unused).sqrt() / length(new.iter().copied()).max(LEAST);
            from.pixels(width).for_each(|pixel| plane[pixel] = 0.0);
            for (pixel, value) in to.pixels(width).zip(&new) {
                plane[pixel] = (scale * f64::from(*value)) as f32;
            }
        }
        self.image(clean, &change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_a_hill_and_a_hollow_of_length_1() {
        for side in 1..9 {
            for turned in [false, true] {
                let peak = peak(side, turned);
                assert!((length(peak.iter().copied()) - 1.0).abs() < 1e-6);
                let half = side / 2;
                for y in 0..side {
                    for x in 0..side {
                        let above = if turned { x < half } else { y < half };
                        assert_eq!(peak[y * side + x] > 0.0, above, "{side} {turned} {y} {x}");
                    }
                }
            }
        }
        // By hand: rows of 1, 2 and 2; the center of the 1×3 hill has rings 1 and 1/4, its sides 1/4.
        let hand = [
            0.25f32, 1.25, 0.25, -0.25, -0.25, -0.25, -0.25, -1.25, -0.25,
        ];
        let size = length(hand.iter().copied()) as f32;
        for (a, b) in peak(3, false).iter().zip(hand) {
            assert!((a - b / size).abs() < 1e-6, "{a} {b}");
        }
    }
}

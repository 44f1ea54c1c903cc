//! Proposals in the maximum norm: every pixel is at one end of its interval.

use super::super::ball::{Ball, Norm};
use super::super::climb::Subject;
use super::super::rounding::round_into_ball;
use super::{Proposals, draw, position, sign};
use crate::random::Purpose;

/// The ball around a picture.
pub(super) struct Maximum {
    /// The clean pixels less the radius, and plus the radius, clipped to `[0, 1]`.
    edges: [Vec<f32>; 2],
}

impl Maximum {
    pub(super) fn new(subject: &Subject<'_>, eps: f32, eight_bit: bool) -> Self {
        let clean = subject.clean();
        let ball = Ball {
            norm: Norm::Linf,
            eps,
        };
        let edge = |sign: f32| {
            let mut edge: Vec<f32> = clean.iter().map(|x| x + sign * eps).collect();
            ball.project(&mut edge, clean);
            if eight_bit {
                round_into_ball(&mut edge, clean, ball);
            }
            edge
        };
        Maximum {
            edges: [edge(-1.0), edge(1.0)],
        }
    }

    fn edge(&self, u: f32) -> &[f32] {
        &self.edges[usize::from(sign(u) > 0.0)]
    }
}

impl Proposals for Maximum {
    /// Vertical stripes, one pixel wide, of a random sign in each channel.
    fn first(&self, subject: &Subject<'_>, run: usize) -> Vec<f32> {
        let shape = subject.picture.shape;
        let mut image = vec![0.0; shape.elements()];
        let (plane, columns) = (shape.height * shape.width, shape.channels * shape.width);
        let key = subject.key(run);
        key.uniform(Purpose::AttackStart, 0, columns, |i, u| {
            let (channel, column) = (i / shape.width, i % shape.width);
            for y in 0..shape.height {
                let at = channel * plane + y * shape.width + column;
                image[at] = self.edge(u)[at];
            }
        });
        image
    }

    /// A square, with one random sign in each channel.
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
        let side = (area * (height * width) as f64).sqrt().round() as usize;
        let side = side.clamp(1, height.min(width));
        let drawn = draw(subject, run, query, 2 + shape.channels);
        let (top, left) = (
            position(drawn[0], side, height),
            position(drawn[1], side, width),
        );
        let mut image = image.to_vec();
        for (channel, &u) in drawn[2..].iter().enumerate() {
            for y in top..top + side {
                let row = (channel * height + y) * width + left;
                image[row..row + side].copy_from_slice(&self.edge(u)[row..row + side]);
            }
        }
        image
    }
}

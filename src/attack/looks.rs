//! Copies of an image that an attack asks its victim about: linear functions of the image, each with its transpose.

use crate::backend::{ImageShape, Viewpoint};

/// A copy of an image.
#[derive(Clone, Debug)]
pub(super) enum Look {
    /// The image itself.
    AsItIs,
    /// The image, all values times this factor.
    Scaled(f32),
    /// The image and this change.
    Near(Vec<f32>),
    /// The image seen from elsewhere.
    Seen(Viewpoint),
    /// The image made smaller, on black.
    Shrunk(Shrunk),
}

/// Where an image lies that was made smaller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shrunk {
    pub height: usize,
    pub width: usize,
    pub top: usize,
    pub left: usize,
}

impl Look {
    /// The copy of an image of this shape.
    pub(super) fn of(&self, image: &[f32], shape: ImageShape) -> Vec<f32> {
        match self {
            Look::AsItIs => image.to_vec(),
            Look::Scaled(factor) => image.iter().map(|x| factor * x).collect(),
            Look::Near(change) => image.iter().zip(change).map(|(x, d)| x + d).collect(),
            Look::Seen(from) => {
                let mut seen = vec![0.0; image.len()];
                each_seen(*from, shape, |to, of| seen[to] = image[of]);
                seen
            }
            Look::Shrunk(place) => {
                let mut on_black = vec![0.0; image.len()];
                let resize = Resize::new(shape, (place.height, place.width));
                for (plane, image) in image.chunks_exact(shape.height * shape.width).enumerate() {
                    let small = resize.apply(image);
                    place.each(shape, plane, |to, of| on_black[to] = small[of]);
                }
                on_black
            }
        }
    }

    /// The derivative by the image, of that by the copy.
    pub(super) fn back(&self, by_copy: Vec<f32>, shape: ImageShape) -> Vec<f32> {
        match self {
            Look::AsItIs | Look::Near(_) => by_copy,
            Look::Scaled(factor) => by_copy.into_iter().map(|slope| factor * slope).collect(),
            Look::Seen(from) => {
                let mut by_image = vec![0.0; by_copy.len()];
                each_seen(*from, shape, |to, of| by_image[of] += by_copy[to]);
                by_image
            }
            Look::Shrunk(place) => {
                let resize = Resize::new(shape, (place.height, place.width));
                let planes = (0..shape.channels).flat_map(|plane| {
                    let mut by_small = vec![0.0; place.height * place.width];
                    place.each(shape, plane, |to, of| by_small[of] = by_copy[to]);
                    resize.transposed(&by_small)
                });
                planes.collect()
            }
        }
    }
}

impl Shrunk {
    /// Calls `f` with the place of each pixel in the whole image, and in the small plane.
    fn each(&self, shape: ImageShape, plane: usize, mut f: impl FnMut(usize, usize)) {
        for row in 0..self.height {
            for column in 0..self.width {
                let to = (plane * shape.height + self.top + row) * shape.width;
                f(to + self.left + column, row * self.width + column);
            }
        }
    }
}

/// Calls `f` with the place of each pixel of a view, and that of the image's pixel that it shows.
pub(super) fn each_seen(from: Viewpoint, shape: ImageShape, mut f: impl FnMut(usize, usize)) {
    let (height, width) = (shape.height, shape.width);
    for i in 0..shape.elements() {
        let (row, column) = from.shows((i / width % height, i % width), (height, width));
        f(i, (i / (height * width) * height + row) * width + column);
    }
}

/// Bilinear interpolation between the centers of pixels, as PyTorch's with `align_corners=False`: from a plane of one
/// size to one of another.
pub(super) struct Resize {
    rows: Axis,
    columns: Axis,
}

impl Resize {
    /// From the size of images of this shape to another size.
    pub(super) fn new(shape: ImageShape, (height, width): (usize, usize)) -> Resize {
        Resize::between((shape.height, shape.width), (height, width))
    }

    pub(super) fn between(from: (usize, usize), to: (usize, usize)) -> Resize {
        Resize {
            rows: Axis::new(from.0, to.0),
            columns: Axis::new(from.1, to.1),
        }
    }

    /// A plane in the other size.
    pub(super) fn apply(&self, plane: &[f32]) -> Vec<f32> {
        let wide = plane.chunks_exact(self.columns.from);
        let narrow: Vec<f32> = wide.flat_map(|row| self.columns.apply(row, 1, 0)).collect();
        let width = self.columns.taps.len();
        let mut resized = vec![0.0; self.rows.taps.len() * width];
        for column in 0..width {
            let values = self.rows.apply(&narrow, width, column);
            let places = resized.iter_mut().skip(column).step_by(width);
            places.zip(values).for_each(|(to, value)| *to = value);
        }
        resized
    }

    /// The derivative by the plane, of that by the resized one.
    pub(super) fn transposed(&self, by_resized: &[f32]) -> Vec<f32> {
        let width = self.columns.taps.len();
        let mut by_narrow = vec![0.0; self.rows.from * width];
        for column in 0..width {
            let slopes = by_resized.iter().skip(column).step_by(width);
            self.rows
                .transposed(slopes, &mut by_narrow[column..], width);
        }
        let mut by_plane = vec![0.0; self.rows.from * self.columns.from];
        let rows = by_plane.chunks_exact_mut(self.columns.from);
        for (by_row, slopes) in rows.zip(by_narrow.chunks_exact(width)) {
            self.columns.transposed(slopes.iter(), by_row, 1);
        }
        by_plane
    }
}

/// One direction of a resize: each new pixel is a mean of two.
struct Axis {
    from: usize,
    /// The first of the two, the second, and the second's weight.
    taps: Vec<(usize, usize, f32)>,
}

impl Axis {
    fn new(from: usize, to: usize) -> Axis {
        let tap = |i: usize| {
            let center = (i as f32 + 0.5) * (from as f32 / to as f32) - 0.5;
            let center = center.max(0.0);
            let first = (center as usize).min(from - 1);
            (first, (first + 1).min(from - 1), center - first as f32)
        };
        Axis {
            from,
            taps: (0..to).map(tap).collect(),
        }
    }

    /// The new pixels of those at `first`, `first + stride` and so on.
    fn apply(&self, values: &[f32], stride: usize, first: usize) -> Vec<f32> {
        let at = |i: usize| values[first + i * stride];
        let tap = |&(a, b, weight): &(usize, usize, f32)| (1.0 - weight) * at(a) + weight * at(b);
        self.taps.iter().map(tap).collect()
    }

    fn transposed<'a>(
        &self,
        slopes: impl Iterator<Item = &'a f32>,
        out: &mut [f32],
        stride: usize,
    ) {
        for (&(a, b, weight), slope) in self.taps.iter().zip(slopes) {
            out[a * stride] += (1.0 - weight) * slope;
            out[b * stride] += weight * slope;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attack::tests::{dot, numbers};

    const SHAPE: ImageShape = ImageShape {
        channels: 3,
        height: 6,
        width: 7,
    };

    #[test]
    fn going_back_is_the_transpose() {
        let looks = [
            Look::AsItIs,
            Look::Scaled(0.25),
            Look::Seen(Viewpoint {
                mirrored: true,
                down: 2,
                right: -1,
            }),
            Look::Shrunk(Shrunk {
                height: 4,
                width: 6,
                top: 2,
                left: 0,
            }),
        ];
        let image = numbers(1, SHAPE.elements());
        let slopes = numbers(2, SHAPE.elements());
        for look in looks {
            let there = dot(&look.of(&image, SHAPE), &slopes);
            let back = dot(&image, &look.back(slopes.clone(), SHAPE));
            assert!((there - back).abs() < 1e-5, "{look:?}: {there} {back}");
        }
    }

    #[test]
    fn interpolation_is_pytorch_s() {
        // torch.nn.functional.interpolate([[0, 1, 4, 9], [2, 3, 5, 7]], mode="bilinear", align_corners=False).
        let plane = [0.0, 1.0, 4.0, 9.0, 2.0, 3.0, 5.0, 7.0];
        for (to, expected) in TORCH {
            let found = Resize::between((2, 4), *to).apply(&plane);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(*expected) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{to:?}: {found} {expected}"
                );
            }
        }
    }

    /// Sizes, and what PyTorch 2.15.0 gives.
    const TORCH: &[((usize, usize), &[f32])] = &[
        (
            (2, 3),
            &[0.166667, 2.5, 8.166668, 2.166667, 4.000000, 6.666667],
        ),
        ((1, 3), &[1.166667, 3.25, 7.416667]),
        (
            (3, 7),
            &[
                0.000000, 0.357143, 0.928571, 2.5, 4.357144, 7.214287, 9.000000, 1.000000,
                1.357143, 1.928571, 3.25, 4.750001, 6.75, 8.000000, 2.000000, 2.357143, 2.928571,
                4.000000, 5.142858, 6.285715, 7.000000,
            ],
        ),
        (
            (4, 4),
            &[
                0.000000, 1.000000, 4.000000, 9.000000, 0.500000, 1.5, 4.25, 8.5, 1.5, 2.5, 4.75,
                7.5, 2.000000, 3.000000, 5.000000, 7.000000,
            ],
        ),
    ];
}

//! Images in a device's memory, and the arguments of operations on them: which images, and how they are joined.

use super::tiles::TileGrid;
use crate::error::{Error, Result};
use crate::picture::ImageShape;
use crate::random::RandomKey;

/// A buffer of equally shaped images in a device's memory.
pub trait ImageBuffer: Send + Sync {
    /// Shape of every image.
    fn shape(&self) -> ImageShape;
    /// Number of images in the buffer.
    fn len(&self) -> usize;
    /// Whether the buffer has no images.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Elements of `len` images; `None` if the number overflows.
pub(crate) fn elements(shape: ImageShape, len: usize) -> Option<usize> {
    shape
        .channels
        .checked_mul(shape.height)?
        .checked_mul(shape.width)?
        .checked_mul(len)
}

/// The error of an allocation that fails.
pub(crate) fn no_memory(shape: ImageShape, len: usize) -> Error {
    Error::invalid(format!("no memory for {len} images of {shape}"))
}

/// Refuses an image whose shape is not `want`.
pub(crate) fn check_shape(shape: ImageShape, want: ImageShape) -> Result<()> {
    if shape == want {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "an image has shape {shape}, but {want} is needed"
    )))
}

/// Refuses a range `first .. first + count` that is not within a buffer.
pub(crate) fn check_range(images: &impl ImageBuffer, first: usize, count: usize) -> Result<()> {
    let end = first.saturating_add(count);
    if end <= images.len() {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "images {first}..{end} do not fit a buffer of {}",
        images.len()
    )))
}

/// Number of images of `shape` that `numbers` values make.
pub(crate) fn whole_images(numbers: usize, shape: ImageShape) -> Result<usize> {
    let n = shape.elements();
    if n > 0 && numbers.is_multiple_of(n) {
        return Ok(numbers / n);
    }
    Err(Error::invalid(format!(
        "{numbers} numbers are not a whole number of {shape} images"
    )))
}

/// One image of a buffer.
#[derive(Debug)]
pub struct At<'a, I> {
    /// The buffer that holds the image.
    pub buffer: &'a I,
    /// The image's index in the buffer, from 0.
    pub index: usize,
}

impl<'a, I> At<'a, I> {
    /// Image `index` of `buffer`.
    pub fn new(buffer: &'a I, index: usize) -> Self {
        At { buffer, index }
    }
}

impl<I> Clone for At<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for At<'_, I> {}

/// Two images to compare.
pub type ImagePair<'a, I> = (At<'a, I>, At<'a, I>);

/// The point `clip((1 − t)·from + t·to, 0, 1)` of the line through two images. Its position `t` is 0 at the first
/// image, 1 at the second, and negative behind the first.
#[derive(Debug)]
pub struct Blend<'a, I> {
    /// The image at `t` = 0.
    pub from: At<'a, I>,
    /// The image at `t` = 1.
    pub to: At<'a, I>,
    /// Position on the line.
    pub t: f32,
}

impl<I> Clone for Blend<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for Blend<'_, I> {}

/// The pushed image `clip(boundary + beta·(boundary − input), 0, 1)`: a step from an on-boundary image further
/// away from the input.
#[derive(Debug)]
pub struct Push<'a, I> {
    /// The on-boundary image.
    pub boundary: At<'a, I>,
    /// The input, of the same shape.
    pub input: At<'a, I>,
    /// Length of the step, in distances of the on-boundary image from the input; at least 0.
    pub beta: f32,
}

impl<I> Clone for Push<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for Push<'_, I> {}

/// The image `image + std · n` with standard normals `n`, not clipped.
#[derive(Debug)]
pub struct Noisy<'a, I> {
    /// The image that gets the noise.
    pub image: At<'a, I>,
    /// The noise's standard deviation, pixels in `[0, 1]`.
    pub std: f32,
    /// Key of the numbers, which are those of [`Purpose::VoteNoise`](crate::random::Purpose::VoteNoise).
    pub key: RandomKey,
}

impl<I> Clone for Noisy<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for Noisy<'_, I> {}

/// How a view is made of an image: it is moved by whole pixels, and then mirrored or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Viewpoint {
    /// Whether left and right are exchanged.
    pub mirrored: bool,
    /// How many rows the view is moved down the image; its magnitude is less than the image's height.
    pub down: i32,
    /// How many columns the view is moved to the right; its magnitude is less than the image's width.
    pub right: i32,
}

impl Viewpoint {
    /// The mirror image: left and right exchanged, not moved.
    pub const MIRROR: Viewpoint = Viewpoint {
        mirrored: true,
        down: 0,
        right: 0,
    };

    /// Row and column of the pixel, in an image of `height × width`, that becomes the view's pixel `(row, column)`.
    /// Beyond its edges the image is extended by reflection, the edge not repeated.
    pub fn shows(
        &self,
        (row, column): (usize, usize),
        (height, width): (usize, usize),
    ) -> (usize, usize) {
        let moved = |at: usize, by: i32, n: usize| {
            let beyond = (at as i64 + i64::from(by)).unsigned_abs() as usize;
            TileGrid::reflect(beyond, n)
        };
        let column = match self.mirrored {
            true => width - 1 - column,
            false => column,
        };
        (
            moved(row, self.down, height),
            moved(column, self.right, width),
        )
    }

    /// Refuses a view that is moved further than the size of images of this shape.
    pub(crate) fn check(&self, shape: ImageShape) -> Result<()> {
        let inside = |by: i32, n: usize| (by.unsigned_abs() as usize) < n.max(1);
        if inside(self.down, shape.height) && inside(self.right, shape.width) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "a view of an image of {shape} cannot be moved by {} pixels down and {} to the right",
            self.down, self.right
        )))
    }
}

/// A view of an image, to make.
#[derive(Debug)]
pub struct View<'a, I> {
    /// The image that is seen.
    pub image: At<'a, I>,
    /// How the image is moved and mirrored.
    pub from: Viewpoint,
}

impl<'a, I> View<'a, I> {
    /// The mirror image of `image`.
    pub fn mirror(image: At<'a, I>) -> Self {
        View {
            image,
            from: Viewpoint::MIRROR,
        }
    }
}

impl<I> Clone for View<'_, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<I> Copy for View<'_, I> {}

/// The stitch: a weighted sum of images with weights that vary over the picture.
///
/// Every cell of `cells` has a raised-cosine window, twice as wide as the cell, centered on the cell's
/// center; windows are 1 at the center and sum to 1 everywhere (at the picture's edge the outermost
/// windows extend). Output pixel = Σ_cell window_cell · Σ_image `weights[cell][image]` · image.
#[derive(Debug)]
pub struct Stitch<'a, I> {
    /// The images to blend, all of one shape; at least one.
    pub images: Vec<At<'a, I>>,
    /// The cells, which cover a picture of the images' height and width.
    pub cells: TileGrid,
    /// `cells.tiles() × images.len()`, row by row; each row sums to 1.
    pub weights: Vec<f32>,
}

impl<I: ImageBuffer> Stitch<'_, I> {
    /// Refuses a stitch with images of another shape, or with a wrong number of weights.
    pub(crate) fn check(&self, shape: ImageShape) -> Result<()> {
        let (cells, count) = (self.cells, self.images.len());
        check_shape(shape, cells.image_shape(shape.channels))?;
        for image in &self.images {
            check_shape(image.buffer.shape(), shape)?;
        }
        if count == 0 || self.weights.len() != cells.tiles() * count {
            return Err(Error::invalid(format!(
                "a stitch of {count} images over {} cells has {} weights",
                cells.tiles(),
                self.weights.len()
            )));
        }
        Ok(())
    }
}

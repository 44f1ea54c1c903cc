//! Images in a device's memory, and what an operation says of them: where it reads, and how it joins them.

use super::tiles::TileGrid;
use crate::error::{Error, Result};
use crate::picture::ImageShape;

/// A buffer of equally shaped images in a device's memory.
pub trait ImageBuffer: Send + Sync {
    /// Shape of every image.
    fn shape(&self) -> ImageShape;
    /// Images that the buffer holds.
    fn len(&self) -> usize;
    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Elements of `len` images; `None` where the number overflows.
pub(crate) fn elements(shape: ImageShape, len: usize) -> Option<usize> {
    shape
        .channels
        .checked_mul(shape.height)?
        .checked_mul(shape.width)?
        .checked_mul(len)
}

/// What asking for a buffer that cannot be had gives.
pub(crate) fn no_memory(shape: ImageShape, len: usize) -> Error {
    Error::invalid(format!("no memory for {len} images of {shape}"))
}

/// Refuses an image whose shape is not the wanted one.
pub(crate) fn check_shape(shape: ImageShape, want: ImageShape) -> Result<()> {
    if shape == want {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "an image of {shape} where {want} is needed"
    )))
}

/// Refuses images `first .. first + count` that a buffer does not have.
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

/// How many images so many numbers are.
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

/// The point `clip((1 − t)·from + t·to, 0, 1)` of the line through two images: `t` is 0 at the first, 1
/// at the second, and negative behind the first.
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

/// `clip(boundary + beta·(boundary − input), 0, 1)`: a step from an on-boundary image further away
/// from the input.
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

/// Where an image is seen from: moved by whole pixels, and then perhaps in the mirror.
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
    /// The image itself in the mirror.
    pub const MIRROR: Viewpoint = Viewpoint {
        mirrored: true,
        down: 0,
        right: 0,
    };

    /// The row and the column of the image of `height × width` that the view's pixel `(row, column)` shows.
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

    /// Refuses views that are moved out of images of this shape.
    pub(crate) fn check(&self, shape: ImageShape) -> Result<()> {
        let inside = |by: i32, n: usize| (by.unsigned_abs() as usize) < n.max(1);
        if inside(self.down, shape.height) && inside(self.right, shape.width) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "an image of {shape} cannot be seen from {} pixels further down and {} to the right",
            self.down, self.right
        )))
    }
}

/// An image as it is seen from somewhere.
#[derive(Debug)]
pub struct View<'a, I> {
    /// The image that is seen.
    pub image: At<'a, I>,
    /// How the image is moved and mirrored.
    pub from: Viewpoint,
}

impl<'a, I> View<'a, I> {
    /// An image in the mirror.
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

/// A weighted sum of images whose weights vary over the picture: the stitch.
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
    /// Refuses a stitch whose images have not this shape, or whose weights are not as many as it needs.
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

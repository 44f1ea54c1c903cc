//! Buffers of images in the machine's memory.

use rayon::prelude::*;

use super::real::Real;
use crate::backend::images::{check_range, elements, no_memory};
use crate::backend::memory::free_bytes;
use crate::backend::{At, ImageBuffer, ImageShape};
use crate::error::Result;

/// Bytes from which on a buffer's size is compared with the free memory first.
const ASKED_FROM: u128 = 1 << 28;

/// A buffer of images in the machine's memory, CHW, one after another.
#[derive(Clone, Debug)]
pub struct HostImages<T> {
    shape: ImageShape,
    len: usize,
    pixels: Vec<T>,
}

impl<T: Real> HostImages<T> {
    /// `len` black images.
    ///
    /// # Errors
    /// The size overflows or there is too little memory.
    pub fn zeroed(shape: ImageShape, len: usize) -> Result<Self> {
        let refused = || no_memory(shape, len);
        let elements = elements(shape, len).ok_or_else(refused)?;
        // Linux promises more than it has, and ends a program that takes it at its word.
        let bytes = elements as u128 * size_of::<T>() as u128;
        if bytes > ASKED_FROM && free_bytes().is_some_and(|free| bytes > free.into()) {
            return Err(refused());
        }
        let mut pixels = Vec::new();
        pixels.try_reserve_exact(elements).map_err(|_| refused())?;
        pixels.resize(elements, T::default());
        Ok(HostImages { shape, len, pixels })
    }

    /// Image `index`'s pixels, CHW.
    pub fn image(&self, index: usize) -> &[T] {
        let n = self.shape.elements();
        &self.pixels[index * n..(index + 1) * n]
    }

    /// Image `index`'s pixels, CHW.
    pub fn image_mut(&mut self, index: usize) -> &mut [T] {
        let n = self.shape.elements();
        &mut self.pixels[index * n..(index + 1) * n]
    }

    /// Pixels of images `first .. first + count`, one after another.
    pub fn images_mut(&mut self, first: usize, count: usize) -> &mut [T] {
        let n = self.shape.elements();
        &mut self.pixels[first * n..(first + count) * n]
    }

    /// Writes image `first + i` by job `i`, several at a time.
    pub(super) fn write_each<J: Sync>(
        &mut self,
        first: usize,
        jobs: &[J],
        write: impl Fn(&J, &mut [T]) + Send + Sync,
    ) -> Result<()> {
        check_range(self, first, jobs.len())?;
        let n = self.shape.elements().max(1);
        self.images_mut(first, jobs.len())
            .par_chunks_exact_mut(n)
            .zip(jobs)
            .for_each(|(image, job)| write(job, image));
        Ok(())
    }
}

impl<T: Real> ImageBuffer for HostImages<T> {
    fn shape(&self) -> ImageShape {
        self.shape
    }
    fn len(&self) -> usize {
        self.len
    }
}

impl<'a, T: Real> At<'a, HostImages<T>> {
    /// The image's pixels, CHW.
    pub fn pixels(&self) -> &'a [T] {
        self.buffer.image(self.index)
    }
}

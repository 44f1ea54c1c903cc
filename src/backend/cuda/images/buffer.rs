//! Images in a device's memory.

use crate::backend::cuda::driver::{Address, Buffer};
use crate::backend::images::{check_range, check_shape};
use crate::backend::{At, ImageBuffer, ImageShape};
use crate::error::Result;

/// A buffer of images in a device's memory, CHW in float32, one after another.
#[derive(Debug)]
pub struct DeviceImages {
    pub(super) shape: ImageShape,
    pub(super) len: usize,
    pub(super) pixels: Buffer<f32>,
}

impl DeviceImages {
    /// Where image `index` starts, for a kernel.
    pub fn at(&self, index: usize) -> Address {
        self.pixels.at(index * self.shape.elements())
    }

    /// Where images `first .. first + count` start.
    pub fn range(&self, first: usize, count: usize) -> Result<Address> {
        check_range(self, first, count)?;
        Ok(self.at(first))
    }
}

impl ImageBuffer for DeviceImages {
    fn shape(&self) -> ImageShape {
        self.shape
    }
    fn len(&self) -> usize {
        self.len
    }
}

/// Where an image starts, if its buffer has it and it has the wanted shape.
pub(super) fn source(image: At<'_, DeviceImages>, shape: ImageShape) -> Result<Address> {
    check_shape(image.buffer.shape(), shape)?;
    image.buffer.range(image.index, 1)
}

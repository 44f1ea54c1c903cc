//! Images in a device's memory, and [`ImageOps`] on them.

mod buffer;
mod compare;
mod jobs;
mod stitch;
#[cfg(test)]
mod tests;
mod tiles;

pub(crate) use self::buffer::DeviceImages;
use super::backend::CudaBackend;
use super::kernels::images as kernels;
use crate::backend::images::{elements, no_memory, whole_images};
use crate::backend::{
    At, Blend, ImageOps, ImagePair, ImageShape, Noisy, Phase, Push, Stitch, TileGrid, View,
};
use crate::error::Result;

impl ImageOps for CudaBackend {
    type Images = DeviceImages;

    fn phase(&self, name: &'static str) -> Phase {
        Phase::new(self.device.phase(name))
    }

    fn allocate(&self, shape: ImageShape, len: usize) -> Result<DeviceImages> {
        let elements = elements(shape, len).ok_or_else(|| no_memory(shape, len))?;
        let mut pixels = self.device.allocate(elements)?;
        pixels.zero()?;
        Ok(DeviceImages { shape, len, pixels })
    }

    fn upload(&self, pixels: &[f32], out: &mut DeviceImages, first: usize) -> Result<()> {
        out.range(first, whole_images(pixels.len(), out.shape)?)?;
        Ok(out.pixels.upload(pixels, first * out.shape.elements())?)
    }

    fn download(&self, image: At<'_, DeviceImages>) -> Result<Vec<f32>> {
        image.buffer.range(image.index, 1)?;
        let n = image.buffer.shape.elements();
        Ok(image.buffer.pixels.download(image.index * n, n)?)
    }

    fn copy(
        &self,
        from: &[At<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        let to = out.range(first, from.len())?;
        self.gather(from, out.shape, to)
    }

    fn view(
        &self,
        jobs: &[View<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        self.view_each(jobs, out, first)
    }

    fn add_noise(
        &self,
        jobs: &[Noisy<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        self.add_noise_to_each(jobs, out, first)
    }

    fn tile(
        &self,
        image: At<'_, DeviceImages>,
        grid: TileGrid,
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        tiles::cut(&self.device, image, grid, out, first)
    }

    fn untile(
        &self,
        tiles: &DeviceImages,
        first_tile: usize,
        grid: TileGrid,
        out: &mut DeviceImages,
        index: usize,
    ) -> Result<()> {
        tiles::join(&self.device, tiles, first_tile, grid, out, index)
    }

    fn blend(
        &self,
        jobs: &[Blend<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        let pairs: Vec<_> = (jobs.iter()).map(|job| (job.from, job.to, job.t)).collect();
        self.join_pairs(&kernels::IMAGE_BLEND, &pairs, out, first)
    }

    fn push(
        &self,
        jobs: &[Push<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        let pairs: Vec<_> = (jobs.iter())
            .map(|job| (job.boundary, job.input, job.beta))
            .collect();
        self.join_pairs(&kernels::IMAGE_PUSH, &pairs, out, first)
    }

    fn stitch(
        &self,
        job: &Stitch<'_, DeviceImages>,
        out: &mut DeviceImages,
        index: usize,
    ) -> Result<()> {
        stitch::stitch(&self.device, job, out, index)
    }

    fn squared_error(
        &self,
        pairs: &[ImagePair<'_, DeviceImages>],
        cells: TileGrid,
    ) -> Result<Vec<f64>> {
        compare::squared_error(&self.device, pairs, cells)
    }

    fn ssim(&self, pairs: &[ImagePair<'_, DeviceImages>]) -> Result<Vec<f64>> {
        compare::similarity(&self.device, pairs)
    }
}

//! The stitch.

use bytemuck::{Pod, Zeroable};

use super::buffer::{DeviceImages, source};
use super::jobs::{THREADS, moving};
use crate::backend::Stitch;
use crate::backend::cuda::backend::to_u32;
use crate::backend::cuda::driver::{self, Address, Device, Launch};
use crate::backend::cuda::kernels::images as kernels;
use crate::error::Result;

driver::arguments! {
    #[derive(Pod, Zeroable)]
    pub(super) struct Window {
        weight: f64,
        cell: u32,
        unused: u32,
    }

    pub(super) struct ImageStitchArgs {
        images: Address,
        weights: Address,
        down: Address,
        right: Address,
        out: Address,
        count: u32,
        rows: u32,
        columns: u32,
        height: u32,
        width: u32,
        elements: u32,
    }
}

/// Writes a stitch to image `index`.
pub(super) fn stitch(
    device: &Device,
    job: &Stitch<'_, DeviceImages>,
    out: &mut DeviceImages,
    index: usize,
) -> Result<()> {
    let (cells, count, shape) = (job.cells, job.images.len(), out.shape);
    job.check(shape)?;
    let images: Vec<Address> = job
        .images
        .iter()
        .map(|&image| source(image, shape))
        .collect::<Result<_>>()?;
    let [down, right] = cells.windows().map(|windows| -> Vec<Window> {
        (windows.into_iter())
            .map(|(cell, weight)| Window {
                weight,
                cell: cell as u32,
                unused: 0,
            })
            .collect()
    });
    let elements = to_u32(shape.elements(), "pixels")?;
    to_u32(job.weights.len(), "weights")?;
    let images = device.allocate_with(&images)?;
    let weights = device.allocate_with(&job.weights)?;
    let down = device.allocate_with(&down)?;
    let right = device.allocate_with(&right)?;
    let arguments = ImageStitchArgs {
        images: images.at(0),
        weights: weights.at(0),
        down: down.at(0),
        right: right.at(0),
        out: out.range(index, 1)?,
        count: to_u32(count, "images")?,
        rows: to_u32(cells.rows(), "rows of cells")?,
        columns: to_u32(cells.columns(), "columns of cells")?,
        height: to_u32(shape.height, "rows")?,
        width: to_u32(shape.width, "columns")?,
        elements,
    };
    let mut work = moving((count + 1) * shape.elements() + job.weights.len());
    work.bytes += ((shape.height + shape.width) * size_of::<Window>()) as u64;
    let launch = Launch::new([elements.div_ceil(THREADS), 1, 1], THREADS).doing(work);
    Ok(device.launch(&kernels::IMAGE_STITCH, launch, &arguments)?)
}

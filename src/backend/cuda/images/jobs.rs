//! Launches that do the same to many images, whose addresses travel in the arguments.

use bytemuck::Zeroable;

use super::buffer::{DeviceImages, source};
use crate::backend::cuda::backend::{CudaBackend, to_u32};
use crate::backend::cuda::driver::{self, Address, Arguments, Kernel, Launch, Work};
use crate::backend::cuda::kernels::images as kernels;
use crate::backend::{At, ImageShape, Noisy, View};
use crate::error::Result;

/// Images that travel in one launch's arguments: JOBS in the kernels' source.
pub(super) const JOBS: usize = 128;
/// Threads of a block.
pub(super) const THREADS: u32 = 256;

driver::arguments! {
    pub(super) struct ImageCopyArgs {
        from: [Address; JOBS],
        out: Address,
        elements: u32,
    }

    pub(super) struct ImageViewArgs {
        from: [Address; JOBS],
        down: [i32; JOBS],
        right: [i32; JOBS],
        mirrored: [u32; JOBS],
        out: Address,
        elements: u32,
        height: u32,
        width: u32,
    }

    pub(super) struct ImageNoiseArgs {
        from: [Address; JOBS],
        deviation: [f32; JOBS],
        keys: [[u32; 3]; JOBS],
        out: Address,
        elements: u32,
    }

    pub(super) struct ImagePairArgs {
        first: [Address; JOBS],
        second: [Address; JOBS],
        amount: [f32; JOBS],
        out: Address,
        elements: u32,
    }
}

/// What kernels take of each of up to [`JOBS`] jobs; the rest is zero.
pub(super) fn lay_out<J, T: Zeroable + Copy>(
    jobs: &[J],
    f: impl Fn(&J) -> Result<T>,
) -> Result<[T; JOBS]> {
    let mut laid = [T::zeroed(); JOBS];
    for (to, job) in laid.iter_mut().zip(jobs) {
        *to = f(job)?;
    }
    Ok(laid)
}

/// Work of so many numbers that are read or written.
pub(super) fn moving(numbers: usize) -> Work {
    Work {
        bytes: (numbers * size_of::<f32>()) as u64,
        ..Work::default()
    }
}

impl CudaBackend {
    /// Joins pairs of images, each by an amount.
    pub(super) fn join_pairs(
        &self,
        kernel: &Kernel,
        pairs: &[(At<'_, DeviceImages>, At<'_, DeviceImages>, f32)],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        out.range(first, pairs.len())?;
        let shape = out.shape;
        for (i, pairs) in pairs.chunks(JOBS).enumerate() {
            let arguments = ImagePairArgs {
                first: lay_out(pairs, |pair| source(pair.0, shape))?,
                second: lay_out(pairs, |pair| source(pair.1, shape))?,
                amount: lay_out(pairs, |pair| Ok(pair.2))?,
                out: out.at(first + i * JOBS),
                elements: to_u32(shape.elements(), "pixels")?,
            };
            self.launch_per_image(kernel, shape.elements(), pairs.len(), 3, &arguments)?;
        }
        Ok(())
    }

    /// Makes views of images.
    pub(super) fn view_each(
        &self,
        jobs: &[View<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        out.range(first, jobs.len())?;
        let shape = out.shape;
        for job in jobs {
            job.from.check(shape)?;
        }
        for (i, jobs) in jobs.chunks(JOBS).enumerate() {
            let arguments = ImageViewArgs {
                from: lay_out(jobs, |job| source(job.image, shape))?,
                down: lay_out(jobs, |job| Ok(job.from.down))?,
                right: lay_out(jobs, |job| Ok(job.from.right))?,
                mirrored: lay_out(jobs, |job| Ok(u32::from(job.from.mirrored)))?,
                out: out.at(first + i * JOBS),
                elements: to_u32(shape.elements(), "pixels")?,
                height: to_u32(shape.height, "rows")?,
                width: to_u32(shape.width, "columns")?,
            };
            let kernel = &kernels::IMAGE_VIEW;
            self.launch_per_image(kernel, shape.elements(), jobs.len(), 2, &arguments)?;
        }
        Ok(())
    }

    /// Adds noise to images.
    pub(super) fn add_noise_to_each(
        &self,
        jobs: &[Noisy<'_, DeviceImages>],
        out: &mut DeviceImages,
        first: usize,
    ) -> Result<()> {
        out.range(first, jobs.len())?;
        let shape = out.shape;
        for (i, jobs) in jobs.chunks(JOBS).enumerate() {
            let arguments = ImageNoiseArgs {
                from: lay_out(jobs, |job| source(job.image, shape))?,
                deviation: lay_out(jobs, |job| Ok(job.std))?,
                keys: lay_out(jobs, |job| Ok(job.key.philox_words()))?,
                out: out.at(first + i * JOBS),
                elements: to_u32(shape.elements(), "pixels")?,
            };
            let kernel = &kernels::IMAGE_NOISE;
            self.launch_per_image(kernel, shape.elements(), jobs.len(), 2, &arguments)?;
        }
        Ok(())
    }

    /// Copies images of this shape, from anywhere, to `out` and on.
    pub(in crate::backend::cuda) fn gather(
        &self,
        from: &[At<'_, DeviceImages>],
        shape: ImageShape,
        out: Address,
    ) -> Result<()> {
        let from: Vec<Address> = from
            .iter()
            .map(|&image| source(image, shape))
            .collect::<Result<_>>()?;
        self.copy_each(&from, shape.elements(), out)
    }

    /// Copies `count` images that lie one after another at `from` into a buffer.
    pub(in crate::backend::cuda) fn scatter(
        &self,
        from: Address,
        out: &mut DeviceImages,
        first: usize,
        count: usize,
    ) -> Result<()> {
        let to = out.range(first, count)?;
        let elements = out.shape.elements();
        let image = |i: usize| from.offset(i * elements * size_of::<f32>());
        let from: Vec<Address> = (0..count).map(image).collect();
        self.copy_each(&from, elements, to)
    }

    /// Copies `elements` numbers from each of these places to `out` and on.
    fn copy_each(&self, from: &[Address], elements: usize, out: Address) -> Result<()> {
        for (i, from) in from.chunks(JOBS).enumerate() {
            let arguments = ImageCopyArgs {
                from: lay_out(from, |&from| Ok(from))?,
                out: out.offset(i * JOBS * elements * size_of::<f32>()),
                elements: to_u32(elements, "pixels")?,
            };
            self.launch_per_image(&kernels::IMAGE_COPY, elements, from.len(), 2, &arguments)?;
        }
        Ok(())
    }

    /// Launches a kernel that writes `images` images, a thread to an element, and for each reads or writes
    /// `touched` numbers.
    fn launch_per_image<A: Arguments>(
        &self,
        kernel: &Kernel,
        elements: usize,
        images: usize,
        touched: usize,
        arguments: &A,
    ) -> Result<()> {
        if elements == 0 {
            return Ok(());
        }
        let blocks = [
            to_u32(elements, "pixels")?.div_ceil(THREADS),
            images as u32,
            1,
        ];
        let launch = Launch::new(blocks, THREADS).doing(moving(touched * images * elements));
        Ok(self.device.launch(kernel, launch, arguments)?)
    }
}

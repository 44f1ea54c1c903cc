//! What a compute device does for the defense, as three traits:
//!
//! - [`DipEngine`] optimizes DIP instances,
//! - [`ClassifierEngine`] runs the classifier forward and backward,
//! - [`ImageOps`] copies, cuts and joins images.
//!
//! The traits are coarser than single operations: a backend may fuse a whole optimization step into one launch, or
//! keep a DIP instance in each SIMD lane. Images stay in the device's memory; only logits, scalars and finished
//! images are copied to the host.

mod checks;
pub mod cpu;
#[cfg(any(feature = "cuda", feature = "emulator"))]
pub mod cuda;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod host;
mod images;
mod liveness;
mod memory;
mod placement;
mod precision;
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod reference;
mod tiles;

pub use self::images::{At, Blend, ImageBuffer, ImagePair, Noisy, Push, Stitch, View, Viewpoint};
pub use self::precision::Precision;
pub use self::tiles::TileGrid;
pub use crate::picture::ImageShape;

use crate::classifier::Graph;
use crate::dip::NetSpec;
use crate::error::Result;
use crate::random::RandomKey;

/// A named phase of the work for profilers, which ends when this is dropped. Phases may be nested.
#[must_use = "a phase ends when it is dropped"]
#[derive(Debug, Default)]
pub struct Phase {
    /// Ends the phase when it is dropped.
    _guard: Option<Box<dyn std::any::Any>>,
}

impl Phase {
    /// A phase that ends when `guard` is dropped.
    pub fn new(guard: impl std::any::Any) -> Self {
        Phase {
            _guard: Some(Box::new(guard)),
        }
    }
}

/// Copies, cuts and joins images on a device.
///
/// Job `i` of a slice writes image `first + i` of `out`.
pub trait ImageOps: Send + Sync {
    /// A buffer of images in this device's memory.
    type Images: ImageBuffer;

    /// Starts a phase of the work on this device, for profilers; does nothing by default.
    fn phase(&self, name: &'static str) -> Phase {
        let _ = name;
        Phase::default()
    }
    /// A buffer of `len` images, zeroed.
    fn allocate(&self, shape: ImageShape, len: usize) -> Result<Self::Images>;
    /// Copies `pixels` (images × channels × height × width) to images `first..` of `out`.
    fn upload(&self, pixels: &[f32], out: &mut Self::Images, first: usize) -> Result<()>;
    /// One image's pixels, CHW.
    fn download(&self, image: At<'_, Self::Images>) -> Result<Vec<f32>>;
    /// Copies images.
    fn copy(
        &self,
        from: &[At<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Writes each job's view to `out[first + i]`; see [`Viewpoint::shows`].
    fn view(
        &self,
        jobs: &[View<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Writes each job's noisy image to `out[first + i]`; see [`Noisy`].
    fn add_noise(
        &self,
        jobs: &[Noisy<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Cuts one image into its tiles, and writes them to `out[first + tile]`.
    fn tile(
        &self,
        image: At<'_, Self::Images>,
        grid: TileGrid,
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Puts tiles `first_tile..` of `tiles` together in image `index` of `out`; what is beyond the image's edges is
    /// cropped.
    fn untile(
        &self,
        tiles: &Self::Images,
        first_tile: usize,
        grid: TileGrid,
        out: &mut Self::Images,
        index: usize,
    ) -> Result<()>;
    /// Writes the point of each job's line to `out[first + i]`; see [`Blend`].
    fn blend(
        &self,
        jobs: &[Blend<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Writes each job's pushed image to `out[first + i]`; see [`Push`].
    fn push(
        &self,
        jobs: &[Push<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Writes the stitched picture to image `index` of `out`; see [`Stitch`].
    fn stitch(
        &self,
        job: &Stitch<'_, Self::Images>,
        out: &mut Self::Images,
        index: usize,
    ) -> Result<()>;
    /// Sum of squared differences of each pair in each cell (pairs × cells); only pixels of the image count.
    fn squared_error(
        &self,
        pairs: &[ImagePair<'_, Self::Images>],
        cells: TileGrid,
    ) -> Result<Vec<f64>>;
    /// Structural similarity of each pair of images, with values in `[0, 1]`; see
    /// [`ssim`](crate::picture::ssim()).
    fn ssim(&self, pairs: &[ImagePair<'_, Self::Images>]) -> Result<Vec<f64>>;
}

/// A DIP instance to start.
#[derive(Debug)]
pub struct Instance<'a, I> {
    /// The slot that it takes, below the engine's capacity.
    pub slot: usize,
    /// The picture to fit: `output_channels × height × width` of the engine.
    pub target: At<'a, I>,
    /// Key of the random numbers of its weights, input and jitter.
    pub key: RandomKey,
}

/// Optimizes DIP instances.
///
/// Instances never interact: an instance's results depend, bit by bit, only on its target, key and iteration count,
/// not on the other slots.
pub trait DipEngine: Send {
    /// The device's image buffers: targets are read from them, reconstructions written to them.
    type Images: ImageBuffer;

    /// Number of slots.
    fn capacity(&self) -> usize;
    /// Starts instances at iteration 0, with PyTorch's default distribution of weights and inputs `z ~ 0.1·U(0,1)`,
    /// both from their keys, and with zero moments. An instance that is in a slot already is replaced.
    fn load(&mut self, instances: &[Instance<'_, Self::Images>]) -> Result<()>;
    /// Frees slots.
    fn release(&mut self, slots: &[usize]) -> Result<()>;
    /// Runs `iterations` of forward, backward and Adam on every slot in use.
    fn run(&mut self, iterations: u32) -> Result<()>;
    /// Writes each slot's reconstruction to `out[first + i]`: the output of the last forward pass, before that
    /// iteration's update, or the exponential average of the outputs if the spec asks for it.
    fn reconstructions(
        &mut self,
        slots: &[usize],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Mean squared error of each slot's last forward pass.
    fn losses(&mut self, slots: &[usize]) -> Result<Vec<f64>>;

    /// All parameters of a slot, in [`NetSpec`]'s layout order; for tests and inspection.
    fn parameters(&mut self, slot: usize) -> Result<Vec<f64>>;
    /// Replaces all parameters of a slot; moments and iteration count stay.
    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()>;
    /// The gradient of the last iteration's loss by the parameters, in layout order.
    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>>;
    /// The input `z`, CHW.
    fn input(&mut self, slot: usize) -> Result<Vec<f64>>;
    /// Replaces the input `z`.
    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()>;
    /// The gradient of the last iteration's loss by the input `z`; an error unless the spec optimizes the
    /// input.
    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>>;
}

/// A function `f(i, logits, gradient)` that gets the logits of image `i` of a call and writes the derivative of that
/// image's loss by each logit.
pub type LossGradient<'f> = dyn FnMut(usize, &[f32], &mut [f32]) + 'f;

/// Runs the classifier.
///
/// The results for an image do not depend, bit by bit, on the other images of the call.
pub trait ClassifierEngine: Send {
    /// The device's image buffers: images are read from them, gradients written to them.
    type Images: ImageBuffer;

    /// Shape of the images that it takes.
    fn input_shape(&self) -> ImageShape;
    /// Number of classes: the length of a row of logits.
    fn classes(&self) -> usize;
    /// Bytes that it holds on the device: constants, and activations for as many images as run at once. It grows
    /// with the first call and with the first call for gradients only.
    fn bytes(&self) -> usize;
    /// The logits, images × classes.
    fn logits(&mut self, images: &[At<'_, Self::Images>]) -> Result<Vec<f32>>;
    /// The logits, images × classes, and the gradient of each image's loss by its pixels.
    ///
    /// `loss_gradient` gives the derivatives of a loss by its logits; the gradient of `images[i]` goes to
    /// `out[first + i]`.
    fn gradient(
        &mut self,
        images: &[At<'_, Self::Images>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut Self::Images,
        first: usize,
    ) -> Result<Vec<f32>>;
}

/// A device, which makes engines that share its memory. It is a handle: clones stand for the same device.
pub trait Backend: ImageOps + Clone + 'static {
    /// The engine that runs DIP instances on this device.
    type Dip: DipEngine<Images = Self::Images>;
    /// The engine that runs a classifier on this device.
    type Classifier: ClassifierEngine<Images = Self::Images>;

    /// The device's name in `devices`, `run.json` and reports.
    fn name(&self) -> String;
    /// An engine of `capacity` instances that fit pictures of `height × width`.
    fn dip(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<Self::Dip>;
    /// An engine that runs `graph` on up to `batch` images at a time; calls with more images are split.
    fn classifier(&self, graph: &Graph, batch: usize) -> Result<Self::Classifier>;
    /// How many instances this device runs well at once, and has memory for.
    fn dip_capacity(&self, spec: &NetSpec, height: usize, width: usize) -> Result<usize>;
    /// Bytes that the engine of [`dip`](Self::dip) with the same arguments takes.
    ///
    /// # Errors
    /// The network is not valid, or cannot make pictures of that size.
    fn dip_bytes(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<u128>;
    /// Free bytes of the device's memory; `None` if that is not known.
    fn free_bytes(&self) -> Option<u64>;
    /// How many images a classifier runs well at once.
    fn classifier_batch(&self) -> usize {
        16
    }
    /// The precision of its DIP engines.
    fn precision(&self) -> Precision {
        Precision::Float32
    }
    /// The device's peak rate in GFLOP/s of float32; `None` if that is not known.
    fn peak_gflops(&self) -> Option<f64> {
        None
    }
}

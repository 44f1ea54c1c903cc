//! What a compute device does for the defense, as three traits.
//!
//! The seam is not the single operation: a backend may fuse a whole optimization step into one
//! launch, or keep one DIP instance in each SIMD lane. Images stay in the device's memory between the
//! three; only logits, scalars and finished images travel.
//!
//! - [`DipEngine`] optimizes DIP instances,
//! - [`ClassifierEngine`] runs the victim forward and backward,
//! - [`ImageOps`] moves, cuts and joins images.

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

pub use self::images::{At, Blend, ImageBuffer, ImagePair, Push, Stitch, View, Viewpoint};
pub use self::precision::Precision;
pub use self::tiles::TileGrid;
pub use crate::picture::ImageShape;

use crate::classifier::Graph;
use crate::dip::NetSpec;
use crate::error::Result;
use crate::random::RandomKey;

/// A named stretch of work, until it is dropped; for profilers. Phases may lie in one another.
#[must_use = "a phase ends when it is dropped"]
#[derive(Debug, Default)]
pub struct Phase {
    /// What ends it when it is dropped.
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

/// Moving, cutting and joining images on a device.
///
/// Job slices map to outputs in order: job `i` writes image `first + i` of `out`.
pub trait ImageOps: Send + Sync {
    /// A buffer of images in this device's memory.
    type Images: ImageBuffer;

    /// Starts a phase of the work on this device, for profilers that want to know of it.
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
    /// Makes views of images; see [`Viewpoint::shows`].
    fn view(
        &self,
        jobs: &[View<'_, Self::Images>],
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Cuts one image into its tiles, `out[first + tile]`.
    fn tile(
        &self,
        image: At<'_, Self::Images>,
        grid: TileGrid,
        out: &mut Self::Images,
        first: usize,
    ) -> Result<()>;
    /// Puts tiles `first_tile..` of `tiles` together into image `index` of `out`, the extension cropped.
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
    /// Sum of squared differences of each pair, cell by cell (pairs × cells; the extension not counted).
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
    /// Where it lives, below the engine's capacity.
    pub slot: usize,
    /// The picture to fit: `output_channels × height × width` of the engine.
    pub target: At<'a, I>,
    /// Source of its weights, input and jitter.
    pub key: RandomKey,
}

/// Optimizes DIP instances.
///
/// Instances never interact: what one computes depends on its target, key and iteration count alone,
/// bit by bit, whatever other slots hold.
pub trait DipEngine: Send {
    /// The device's image buffers: targets are read from them, reconstructions written to them.
    type Images: ImageBuffer;

    /// Slots.
    fn capacity(&self) -> usize;
    /// Starts instances: PyTorch's default weights and `z ~ 0.1·U(0,1)` from their keys, zero moments,
    /// iteration 0. A slot in use is started anew.
    fn load(&mut self, instances: &[Instance<'_, Self::Images>]) -> Result<()>;
    /// Frees slots.
    fn release(&mut self, slots: &[usize]) -> Result<()>;
    /// Runs `iterations` of forward, backward and Adam on every slot in use.
    fn run(&mut self, iterations: u32) -> Result<()>;
    /// Writes each slot's reconstruction to `out[first + i]`: the output of the last forward pass, before that iteration's
    /// update; the exponential average of outputs where the spec asks for it.
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
    /// Replaces them (moments and iteration count stay).
    fn set_parameters(&mut self, slot: usize, parameters: &[f64]) -> Result<()>;
    /// The gradient of the last iteration's loss, in layout order.
    fn gradients(&mut self, slot: usize) -> Result<Vec<f64>>;
    /// The input `z`, CHW.
    fn input(&mut self, slot: usize) -> Result<Vec<f64>>;
    /// Replaces the input `z`.
    fn set_input(&mut self, slot: usize, input: &[f64]) -> Result<()>;
    /// The gradient of the last iteration's loss with respect to `z`; an error unless the spec
    /// optimizes the input.
    fn input_gradient(&mut self, slot: usize) -> Result<Vec<f64>>;
}

/// `f(i, logits, gradient)` gets the logits of image `i` of a call and writes the derivative of the
/// image's loss by each logit.
pub type LossGradient<'f> = dyn FnMut(usize, &[f32], &mut [f32]) + 'f;

/// Runs the victim.
///
/// What it says of an image does not depend, bit by bit, on the other images of the call.
pub trait ClassifierEngine: Send {
    /// The device's image buffers: images are read from them, gradients written to them.
    type Images: ImageBuffer;

    /// Shape of the images it takes.
    fn input_shape(&self) -> ImageShape;
    /// Length of a row of logits.
    fn classes(&self) -> usize;
    /// Bytes that it holds on the device: constants, and activations for as many images as run at
    /// once. They are planned once: it grows with the first call and with the first gradient, and
    /// not after.
    fn bytes(&self) -> usize;
    /// Logits, images × classes.
    fn logits(&mut self, images: &[At<'_, Self::Images>]) -> Result<Vec<f32>>;
    /// Logits, and the gradient with respect to each image of a scalar of its logits.
    ///
    /// `loss_gradient` gives the scalar's derivatives; the gradient of `images[i]` goes to
    /// `out[first + i]`.
    fn gradient(
        &mut self,
        images: &[At<'_, Self::Images>],
        loss_gradient: &mut LossGradient<'_>,
        out: &mut Self::Images,
        first: usize,
    ) -> Result<Vec<f32>>;
}

/// A device: makes engines that share its memory. It is a handle: its clones are the same device.
pub trait Backend: ImageOps + Clone + 'static {
    /// The engine that runs DIP instances on this device.
    type Dip: DipEngine<Images = Self::Images>;
    /// The engine that runs a classifier on this device.
    type Classifier: ClassifierEngine<Images = Self::Images>;

    /// What `devices`, `run.json` and reports call it.
    fn name(&self) -> String;
    /// An engine of `capacity` instances that fit pictures of `height × width`.
    fn dip(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<Self::Dip>;
    /// An engine that runs `graph` on up to `batch` images at a time; calls with more are split.
    fn classifier(&self, graph: &Graph, batch: usize) -> Result<Self::Classifier>;
    /// How many instances this device runs well at once, within its memory.
    fn dip_capacity(&self, spec: &NetSpec, height: usize, width: usize) -> Result<usize>;
    /// Bytes that [`dip`](Self::dip) of the same arguments takes.
    ///
    /// # Errors
    /// The network is impossible or cannot fit that size.
    fn dip_bytes(
        &self,
        spec: &NetSpec,
        height: usize,
        width: usize,
        capacity: usize,
    ) -> Result<u128>;
    /// Bytes of the device's memory that are free; `None` where that cannot be known.
    fn free_bytes(&self) -> Option<u64>;
    /// Images that a classifier runs well at once.
    fn classifier_batch(&self) -> usize {
        16
    }
    /// What its DIP engines compute in.
    fn precision(&self) -> Precision {
        Precision::Float32
    }
    /// The most arithmetic that it can do, in GFLOP/s of float32; `None` where that is not known.
    fn peak_gflops(&self) -> Option<f64> {
        None
    }
}

//! Removes adversarial noise from images for any image classifier, without training and without knowing the attack:
//! the defense of Ding et al., "Delving into Deep Image Prior for Adversarial Defense" (2021), as a compute engine.
//!
//! # A tour
//!
//! A [`Classifier`] is an ONNX file with what its pictures must look like; a [`Purifier`] is the defense before it, on
//! one or more [`Device`]s; what becomes of a [`Picture`] is a [`Purified`], with a [`Verdict`]:
//!
//! ```
//! use backstitch::{Classifier, Device, Picture, Purifier, Verdict};
//!
//! # fn main() -> backstitch::Result<()> {
//! let classifier = Classifier::open("tests/fixtures/toy.onnx")?;
//! let shape = classifier.shape();
//!
//! // Fewer iterations than the defaults, so that this example ends soon.
//! let mut purifier = Purifier::builder(classifier)
//!     .device(Device::Cpu(1))
//!     .iterations(40)
//!     .restarts(1)
//!     .seed(7)
//!     .build()?;
//!
//! let gray = Picture::new(shape, vec![0.5; shape.elements()])?;
//! let purified = purifier.purify(&gray)?;
//! if purified.verdict() == Verdict::Clean {
//!     // What is clean comes out as it went in.
//!     assert_eq!(purified.picture(), gray);
//! }
//!
//! // The classifier alone, without the defense.
//! let readings = purifier.classify(&[gray])?;
//! assert_eq!(readings[0].label(), purified.input_label());
//! # Ok(())
//! # }
//! ```
//!
//! Many pictures, as they come, with continuous batching; and the gradient that an adaptive attack follows:
//!
//! ```
//! use backstitch::attack::adaptive::{Adaptive, Rule};
//! use backstitch::attack::{Aim, Loss};
//! use backstitch::{Classifier, Device, Picture, Purifier};
//!
//! # fn main() -> backstitch::Result<()> {
//! # let classifier = Classifier::open("tests/fixtures/toy.onnx")?;
//! # let shape = classifier.shape();
//! # let mut purifier = Purifier::builder(classifier)
//! #     .device(Device::Cpu(1))
//! #     .iterations(40)
//! #     .restarts(1)
//! #     .build()?;
//! let level = |i: u8| Picture::new(shape, vec![f32::from(i) / 8.0; shape.elements()]);
//! let pictures = (0..4).map(|i| (format!("picture {i}"), level(i)));
//! let (usage, ended) = purifier.purify_stream(
//!     pictures,
//!     &|| false, // never stop early
//!     || {},
//!     |name, purified, _seconds| {
//!         println!("{name}: {:?}", purified?.verdict());
//!         Ok(())
//!     },
//! );
//! ended?;
//! println!("{usage:?}");
//!
//! let gray = level(4)?;
//! let loss = Loss::CrossEntropy(Aim::AwayFrom(0));
//! let slopes = purifier.gradient(&[gray], &[loss], Some(Adaptive::new(Rule::Decision)))?;
//! assert_eq!(slopes[0].gradient.len(), shape.elements());
//! # Ok(())
//! # }
//! ```
//!
//! From here on:
//!
//! - [`Purifier::purify_batch`] takes a slice of pictures, [`Purifier::classify`] only classifies;
//! - [`attack`] has the attacks, alone and through the defense; [`baseline`] the simpler defenses; [`evaluate`] sets
//!   them side by side;
//! - [`input`] reads data sets of many forms and [`run`] keeps a run's results on disk, so that a run can be resumed;
//! - [`backend`] is what a device must do: [`PurifierBuilder::backend`](purifier::PurifierBuilder::backend) takes one of
//!   your own.
//!
//! # Features
//!
//! `cuda` (default) runs on NVIDIA's GPUs, where the crate was built with nvcc; `cli` (default) has the command line;
//! `draw` (default) draws PNG files of traces; `emulator` runs the GPU's kernels on the processor, for tests. The
//! library alone is `default-features = false`.

pub mod attack;
pub mod backend;
pub mod baseline;
#[cfg(feature = "cli")]
mod bench;
pub mod classifier;
#[cfg(feature = "cli")]
#[doc(hidden)] // for the crate's own tests, benchmarks and binary
pub mod cli;
pub mod defense;
pub mod dip;
pub mod error;
pub mod evaluate;
pub(crate) mod files;
pub mod input;
mod markup;
pub mod picture;
mod plot;
pub mod purifier;
pub mod random;
pub mod run;
pub mod scheduler;
pub mod trace;

pub use defense::Verdict;
pub use error::{Error, Result};
pub use picture::Picture;
pub use purifier::{Classifier, Device, Purifier};
pub use scheduler::Purified;

/// The Rust of README.md, compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! Removes adversarial noise from images for any image classifier, without training and without
//! knowing the attack: the defence of Ding et al., "Delving into Deep Image Prior for Adversarial
//! Defense" (2021), as a compute engine.

pub mod attack;
pub mod backend;
pub mod baseline;
pub mod bench;
pub mod classifier;
#[cfg(feature = "cli")]
pub mod cli;
pub mod defense;
pub mod dip;
pub mod error;
pub mod evaluate;
pub mod files;
pub mod input;
mod markup;
pub mod picture;
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

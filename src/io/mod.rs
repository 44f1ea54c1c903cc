//! What comes in and what goes out: pictures in every input form, preprocessing, run folders.
//!
//! ```text
//! INPUT... ─► Dataset ─► Item ─► Picture ─► Preprocess ─► pixels of the classifier's size
//!                                                             │ (defence)
//!                              RunFolder ◄─ ImageRecord, pixels ◄┘
//! ```

pub mod arrays;
pub mod attacked;
pub mod cifar;
pub mod classes;
pub mod dataset;
pub mod folder;
pub mod jsonl;
pub mod manifest;
pub mod metrics;
pub mod names;
pub mod npy;
pub mod npz;
pub mod output;
pub mod pickle;
pub mod picture;
pub mod preprocess;
pub mod record;
pub mod replace;
pub mod resample;
pub mod shard;
pub mod sidecar;
pub mod stream;
pub mod torch;
pub mod webdataset;

pub use attacked::{Attacked, AttackedSet};
pub use classes::Classes;
pub use dataset::{Dataset, Item, Layout};
pub use output::{RunFolder, RunOptions, SaveFormat};
pub use picture::Picture;
pub use preprocess::{Normalization, Preprocess};
pub use record::ImageRecord;
pub use shard::Shard;

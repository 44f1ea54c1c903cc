//! Inputs: pictures in every input format, as one list or stream of items that are decoded one at a time.
//!
//! ```text
//! INPUT... ─► Dataset ─► Item ─► Picture
//! ```

mod array_names;
pub(crate) mod arrays;
pub(crate) mod attacked;
pub(crate) mod cifar;
pub(crate) mod classes;
pub(crate) mod dataset;
pub(crate) mod folder;
mod item;
pub(crate) mod manifest;
pub(crate) mod names;
pub(crate) mod npy;
pub(crate) mod npz;
pub(crate) mod parquet;
pub(crate) mod pickle;
pub(crate) mod shard;
pub(crate) mod stored;
pub mod stream;
pub(crate) mod torch;
pub(crate) mod webdataset;

pub use arrays::{WrongPixel, picture};
pub use attacked::{Attacked, AttackedSet};
pub use classes::Classes;
pub use dataset::{Dataset, Layout};
pub use item::Item;
pub use npy::RowWriter;
pub use shard::Shard;

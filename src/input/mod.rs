//! What comes in: pictures in every input form, as one list or stream of items that are decoded one at a time.
//!
//! ```text
//! INPUT... ─► Dataset ─► Item ─► Picture
//! ```

pub mod arrays;
pub mod attacked;
pub mod cifar;
pub mod classes;
pub mod dataset;
pub mod folder;
mod item;
pub mod manifest;
pub mod names;
pub mod npy;
pub mod npz;
pub mod pickle;
pub mod shard;
pub mod stream;
pub mod torch;
pub mod webdataset;

pub use attacked::{Attacked, AttackedSet};
pub use classes::Classes;
pub use dataset::{Dataset, Layout};
pub use item::Item;
pub use shard::Shard;

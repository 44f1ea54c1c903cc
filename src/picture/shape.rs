//! The shape of an image.

/// Channels, height and width of an image, in this order in memory too (CHW).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ImageShape {
    /// Number of channels: 1 or 3 for pictures.
    pub channels: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

impl ImageShape {
    /// Elements of one image.
    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }
}

impl std::fmt::Display for ImageShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}×{}×{}", self.channels, self.height, self.width)
    }
}

/// The shape of an RGB picture.
pub fn rgb(height: usize, width: usize) -> ImageShape {
    ImageShape {
        channels: 3,
        height,
        width,
    }
}

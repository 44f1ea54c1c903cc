//! Counter-based random numbers: Philox 4×32-10 (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011).
//!
//! A number depends on its key and its place alone, never on what was drawn before: every backend
//! draws the same numbers in any order, on any number of threads.

/// What a random sequence is for; sequences of one key with different purposes are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    /// Initial weights and biases of a DIP network; `index` counts parameters in layout order.
    Parameters = 0,
    /// The DIP network's input `z`; `index` counts elements in CHW order.
    Input = 1,
    /// Jitter of `z`; `index` counts elements in CHW order, one sequence an iteration.
    Jitter = 2,
    /// An attack's random start; `index` counts elements in CHW order.
    AttackStart = 3,
    /// A random search's proposals, one sequence a query.
    AttackSearch = 4,
    /// Noise that attacks are compared with; `index` counts elements in CHW order.
    Noise = 5,
    /// The noise on images that vote; `index` counts elements in CHW order.
    VoteNoise = 6,
}

/// Names one random sequence source: which instance of which image in which run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RandomKey {
    /// The restart's seed.
    pub seed: u64,
    /// The image's content hash, so that a picture's result does not depend on its name or neighbors.
    pub image: u64,
    /// Tile number, from 0, row by row; of an attack, the restart.
    pub tile: u32,
}

impl RandomKey {
    /// The Philox key: seed and image mixed by SplitMix64's finaliser.
    fn philox_key(&self) -> [u32; 2] {
        let mixed = mix(mix(self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ self.image);
        [mixed as u32, (mixed >> 32) as u32]
    }

    /// What a device needs to draw the key's numbers: the Philox key's two words, and the tile.
    #[cfg(any(feature = "cuda", feature = "emulator"))]
    pub(crate) fn philox_words(&self) -> [u32; 3] {
        let [low, high] = self.philox_key();
        [low, high, self.tile]
    }

    /// Four words: numbers `4·block .. 4·block + 4` of the sequence for `purpose` at `iteration`.
    ///
    pub fn words(&self, purpose: Purpose, iteration: u32, block: u32) -> [u32; 4] {
        // Purposes take the counter word that iterations leave free: 2^28 iterations are enough.
        let step = ((purpose as u32) << 28) | (iteration & 0x0fff_ffff);
        philox([block, step, self.tile, 0], self.philox_key())
    }

    /// Calls `f(index, u)` for `index` in `0..count`, `u` uniform in `[0, 1)`.
    pub fn uniform(
        &self,
        purpose: Purpose,
        iteration: u32,
        count: usize,
        mut f: impl FnMut(usize, f32),
    ) {
        for block in 0..count.div_ceil(4) {
            for (i, word) in self
                .words(purpose, iteration, block as u32)
                .into_iter()
                .enumerate()
            {
                let index = 4 * block + i;
                if index < count {
                    f(index, uniform(word));
                }
            }
        }
    }

    /// Standard normals `4·block .. 4·block + 4` of a sequence (Box and Muller).
    pub fn normals(&self, purpose: Purpose, iteration: u32, block: u32) -> [f32; 4] {
        let words = self.words(purpose, iteration, block);
        let (a, b) = box_muller(words[0], words[1]);
        let (c, d) = box_muller(words[2], words[3]);
        [a, b, c, d]
    }

    /// Calls `f(index, g)` for `index` in `0..count`, `g` standard normal.
    pub fn normal(
        &self,
        purpose: Purpose,
        iteration: u32,
        count: usize,
        mut f: impl FnMut(usize, f32),
    ) {
        for block in 0..count.div_ceil(4) {
            let four = self.normals(purpose, iteration, block as u32);
            for (i, g) in four.into_iter().enumerate() {
                let index = 4 * block + i;
                if index < count {
                    f(index, g);
                }
            }
        }
    }
}

/// SplitMix64's finaliser.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `[0, 1)` from the upper 24 bits.
fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two standard normals from two words.
fn box_muller(u: u32, v: u32) -> (f32, f32) {
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * (1.0 - uniform(u)).ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * uniform(v)).sin_cos();
    (radius * cos, radius * sin)
}

/// Philox 4×32, ten rounds.
pub(crate) fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    for _ in 0..10 {
        let a = u64::from(counter[0]) * u64::from(MULTIPLIERS[0]);
        let b = u64::from(counter[2]) * u64::from(MULTIPLIERS[1]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that the authors publish with Random123.
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(
            philox([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_and_normal_have_their_moments() {
        let key = RandomKey {
            seed: 7,
            image: 9,
            tile: 2,
        };
        let n = 100_001;
        let (mut sum, mut square, mut outside) = (0.0, 0.0, 0);
        key.uniform(Purpose::Input, 0, n, |_, u| {
            sum += f64::from(u);
            square += f64::from(u * u);
            outside += usize::from(!(0.0..1.0).contains(&u));
        });
        assert_eq!(outside, 0);
        assert!(
            (sum / n as f64 - 0.5).abs() < 0.005 && (square / n as f64 - 1.0 / 3.0).abs() < 0.005
        );
        let (mut sum, mut square) = (0.0, 0.0);
        key.normal(Purpose::Jitter, 3, n, |_, g| {
            sum += f64::from(g);
            square += f64::from(g * g);
        });
        assert!((sum / n as f64).abs() < 0.02 && (square / n as f64 - 1.0).abs() < 0.02);
    }

    #[test]
    fn sequences_differ_in_every_part_of_the_key() {
        let key = RandomKey {
            seed: 1,
            image: 2,
            tile: 4,
        };
        let first = key.words(Purpose::Parameters, 0, 0);
        for other in [
            RandomKey { seed: 2, ..key },
            RandomKey { image: 3, ..key },
            RandomKey { tile: 5, ..key },
        ] {
            assert_ne!(other.words(Purpose::Parameters, 0, 0), first);
        }
        assert_ne!(key.words(Purpose::Input, 0, 0), first);
        assert_ne!(key.words(Purpose::Parameters, 1, 0), first);
        assert_ne!(key.words(Purpose::Parameters, 0, 1), first);
    }
}

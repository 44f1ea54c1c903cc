//! Every operation against the host's in float64, on every device there is.

use proptest::prelude::*;

use super::jobs::JOBS;
use super::*;
use crate::backend::cuda::driver::test_devices;
use crate::backend::host::{HostDevice, HostImages};
use crate::backend::{ImageBuffer, Viewpoint};
use crate::picture::ssim;
use crate::random::{RandomKey, philox};

struct Reference;
impl HostDevice for Reference {
    type Number = f64;
}

/// Half the distance between numbers in [1, 2): what rounding to float32 changes a number of size 1 by
/// at most.
const ROUNDING: f64 = 1.0 / 16_777_216.0;

/// Numbers in [0, 1).
fn noise(seed: u32, n: usize) -> Vec<f32> {
    let word = |i: usize| philox([i as u32, 0, 0, 0], [seed, 0])[0];
    (0..n)
        .map(|i| (word(i) >> 8) as f32 / 16_777_216.0)
        .collect()
}

/// The same images on a device and on the host.
struct Both<'a> {
    backend: &'a CudaBackend,
    device: DeviceImages,
    host: HostImages<f64>,
}

impl<'a> Both<'a> {
    fn random(backend: &'a CudaBackend, shape: ImageShape, len: usize, seed: u32) -> Self {
        let mut both = Both {
            backend,
            device: backend.allocate(shape, len).unwrap(),
            host: Reference.allocate(shape, len).unwrap(),
        };
        let pixels = noise(seed, len * shape.elements());
        backend.upload(&pixels, &mut both.device, 0).unwrap();
        Reference.upload(&pixels, &mut both.host, 0).unwrap();
        both
    }

    /// Runs the same operation on both.
    fn run(
        &mut self,
        on_device: impl FnOnce(&CudaBackend, &mut DeviceImages) -> Result<()>,
        on_host: impl FnOnce(&Reference, &mut HostImages<f64>) -> Result<()>,
    ) {
        on_device(self.backend, &mut self.device).unwrap();
        on_host(&Reference, &mut self.host).unwrap();
    }

    fn assert_within(&self, tolerance: f64) {
        for index in 0..self.host.len() {
            let got = self.backend.download(At::new(&self.device, index)).unwrap();
            for (i, (&got, &want)) in got.iter().zip(self.host.image(index)).enumerate() {
                let error = (f64::from(got) - want).abs();
                assert!(
                    error <= tolerance,
                    "image {index}, element {i}: {got} for {want}"
                );
            }
        }
    }
}

/// A shape, and a grid on it, of sizes that are no multiples of one another.
fn shapes() -> impl Strategy<Value = (ImageShape, TileGrid)> {
    let shape = (1_usize..=4, 1_usize..=37, 1_usize..=29);
    let tile = (1_usize..=40, 1_usize..=31, 0_usize..40, 0_usize..31);
    (shape, tile).prop_map(
        |((channels, height, width), (tile_height, tile_width, top, left))| {
            let shape = ImageShape {
                channels,
                height,
                width,
            };
            let grid = TileGrid {
                top: top % tile_height,
                left: left % tile_width,
                ..TileGrid::new(height, width, tile_height, tile_width)
            };
            (shape, grid)
        },
    )
}

/// `count` jobs of every operation.
fn check_every_operation(
    backend: &CudaBackend,
    shape: ImageShape,
    grid: TileGrid,
    count: usize,
    seed: u32,
) {
    let images = Both::random(backend, shape, 5, seed);
    let mut out = Both::random(backend, shape, count + 2, seed + 1);
    fn pick<I>(images: &I, i: usize) -> At<'_, I> {
        At::new(images, i % 5)
    }
    macro_rules! run {
        ($out:expr, |$ops:ident, $images:ident, $to:ident| $body:expr) => {
            $out.run(
                |$ops, $to| {
                    let $images = &images.device;
                    $body
                },
                |$ops, $to| {
                    let $images = &images.host;
                    $body
                },
            )
        };
    }

    run!(out, |ops, images, to| {
        let from: Vec<_> = (0..count).map(|i| pick(images, i)).collect();
        ops.copy(&from, to, 1)
    });
    out.assert_within(0.0);

    // As far as the image goes, either way.
    let far = |i: usize, n: usize| {
        let places = 2 * n.max(1) - 1;
        (i * 7 + seed as usize) as i32 % places as i32 - (n as i32 - 1)
    };
    let views: Vec<Viewpoint> = (0..count)
        .map(|i| Viewpoint {
            mirrored: i % 2 == 0,
            down: far(i, shape.height),
            right: far(i + 1, shape.width),
        })
        .collect();
    run!(out, |ops, images, to| {
        let jobs: Vec<_> = (0..count)
            .map(|i| View {
                image: pick(images, 2 * i),
                from: views[i],
            })
            .collect();
        ops.view(&jobs, to, 2)
    });
    out.assert_within(0.0);

    // Normals reach 5.8; the host rounds an angle of up to 2π, the device a few times less; then a sum of at most 2.
    run!(out, |ops, images, to| {
        let jobs: Vec<_> = (0..count)
            .map(|i| Noisy {
                image: pick(images, i),
                std: 0.03 * i as f32,
                key: RandomKey {
                    seed: u64::from(seed),
                    image: 1 << 40,
                    tile: i as u32,
                },
            })
            .collect();
        ops.add_noise(&jobs, to, 1)
    });
    out.assert_within(0.03 * count as f64 * 5.8 * 16.0 * ROUNDING + 4.0 * ROUNDING);

    // Two products and a sum, each rounded, and 1 - t, all of at most 2 in size: the host has 1 - t
    // rounded alike.
    let weights = noise(seed + 2, count);
    run!(out, |ops, images, to| {
        let jobs: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(i, &t)| Blend {
                from: pick(images, i),
                to: pick(images, 3 * i + 1),
                t: 1.5 * t - 0.25,
            })
            .collect();
        ops.blend(&jobs, to, 2)
    });
    out.assert_within(4.0 * ROUNDING);

    // A difference, a product and a sum, of at most 1, 3 and 4 in size.
    run!(out, |ops, images, to| {
        let jobs: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(i, &t)| Push {
                boundary: pick(images, i),
                input: pick(images, 2 * i + 1),
                beta: 3.0 * t,
            })
            .collect();
        ops.push(&jobs, to, 0)
    });
    out.assert_within(10.0 * ROUNDING);

    let tile = grid.tile_shape(shape.channels);
    let mut tiles = Both::random(backend, tile, grid.tiles() + 1, seed + 3);
    run!(tiles, |ops, images, to| ops.tile(
        pick(images, 2),
        grid,
        to,
        1
    ));
    tiles.assert_within(0.0);
    let mut whole = Both::random(backend, shape, 2, seed + 4);
    whole.run(
        |ops, to| ops.untile(&tiles.device, 1, grid, to, 1),
        |ops, to| ops.untile(&tiles.host, 1, grid, to, 1),
    );
    whole.assert_within(0.0);

    // A sum of at most 1, in float64 and then rounded.
    for count in [1, 3] {
        let mut weights = noise(seed + 5, grid.tiles() * count);
        for row in weights.chunks_exact_mut(count) {
            let sum: f32 = row.iter().sum::<f32>() + 1e-3;
            row.iter_mut().for_each(|weight| *weight /= sum);
        }
        run!(whole, |ops, images, to| {
            let job = Stitch {
                images: (0..count).map(|i| pick(images, i)).collect(),
                cells: grid,
                weights: weights.clone(),
            };
            ops.stitch(&job, to, 0)
        });
        whole.assert_within(ROUNDING);
    }

    // Some pairs are an image and itself.
    fn pairs<I>(images: &I, count: usize) -> Vec<ImagePair<'_, I>> {
        (0..count)
            .map(|i| (pick(images, i), pick(images, 2 * i + 1)))
            .collect()
    }
    let (there, here) = (pairs(&images.device, count), pairs(&images.host, count));
    let assert_near = |got: Vec<f64>, want: Vec<f64>, tolerance: f64| {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= tolerance, "{got} for {want}");
        }
    };
    // Sums of n numbers in [0, 1) in float64: each of n additions rounds by 2^-53 of at most n.
    let n = shape.elements() as f64;
    assert_near(
        backend.squared_error(&there, grid).unwrap(),
        Reference.squared_error(&here, grid).unwrap(),
        n * n * f64::EPSILON,
    );
    // Means of numbers in [0, 1) are sums of 11 products of sums of 11, of three factors at most: each is
    // within 24 roundings of 2^-53, and a variance or the covariance, a mean less a product of two, within
    // 75. Twice that in the numerator and in the denominator, which is at least C2 = 0.0009 and no less than
    // the numerator, is 300 / 0.0009 roundings; the quotient of the means, of positive terms, loses less than
    // 300. The host rounds as often.
    assert_near(
        backend.ssim(&there).unwrap(),
        Reference.ssim(&here).unwrap(),
        2.0 * (300.0 / ssim::C2 + 300.0) * f64::EPSILON / 2.0,
    );
}

#[test]
fn every_operation_is_the_hosts_on_random_shapes() {
    let devices = test_devices();
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |((shape, grid) in shapes(), count in 1_usize..6, seed in 0_u32..1000)| {
        for device in &devices {
            check_every_operation(&CudaBackend::new(device.clone()), shape, grid, count, seed);
        }
    });
}

#[test]
fn one_pixel_one_tile_and_more_jobs_than_a_launch_has_are_no_exception() {
    let pixel = ImageShape {
        channels: 1,
        height: 1,
        width: 1,
    };
    let photograph = ImageShape {
        channels: 3,
        height: 64,
        width: 48,
    };
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        check_every_operation(&backend, pixel, TileGrid::new(1, 1, 1, 1), JOBS + 3, 1);
        check_every_operation(&backend, photograph, TileGrid::new(64, 48, 64, 48), 2, 2);
    }
}

#[test]
fn new_images_are_black() {
    let shape = ImageShape {
        channels: 3,
        height: 5,
        width: 3,
    };
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let images = backend.allocate(shape, 2).unwrap();
        assert_eq!(backend.download(At::new(&images, 1)).unwrap(), [0.0; 45]);
    }
}

#[test]
fn wrong_shapes_and_ranges_are_errors() {
    let shape = ImageShape {
        channels: 2,
        height: 5,
        width: 7,
    };
    for device in test_devices() {
        let backend = CudaBackend::new(device);
        let input = backend.allocate(shape, 1).unwrap();
        let mut out = backend.allocate(shape, 1).unwrap();
        let other = ImageShape {
            channels: 1,
            ..shape
        };
        let mut small = backend.allocate(other, 1).unwrap();
        let image = At::new(&input, 0);
        assert!(backend.copy(&[image], &mut small, 0).is_err());
        assert!(backend.copy(&[image], &mut out, 1).is_err());
        assert!(backend.copy(&[At::new(&input, 1)], &mut out, 0).is_err());
        assert!(backend.copy(&[image], &mut out, usize::MAX).is_err());
        let view = |image, down| View {
            image,
            from: Viewpoint {
                down,
                ..Viewpoint::MIRROR
            },
        };
        assert!(backend.view(&[view(image, 0)], &mut small, 0).is_err());
        assert!(backend.view(&[view(image, 0)], &mut out, 1).is_err());
        assert!(backend.view(&[view(image, 5)], &mut out, 0).is_err());
        let none = view(At::new(&input, 1), 0);
        assert!(backend.view(&[none], &mut out, 0).is_err());
        let noisy = |image| Noisy {
            image,
            std: 0.1,
            key: RandomKey::default(),
        };
        assert!(backend.add_noise(&[noisy(image)], &mut small, 0).is_err());
        assert!(backend.add_noise(&[noisy(image)], &mut out, 1).is_err());
        let none = noisy(At::new(&input, 1));
        assert!(backend.add_noise(&[none], &mut out, 0).is_err());
        assert!(backend.upload(&[0.0; 3], &mut out, 0).is_err());
        assert!(backend.download(At::new(&input, 1)).is_err());
        let grid = TileGrid::new(5, 7, 5, 7);
        assert!(backend.untile(&input, 0, grid, &mut out, 1).is_err());
        assert!(backend.untile(&input, 1, grid, &mut out, 0).is_err());
        assert!(
            backend
                .tile(image, TileGrid::new(5, 6, 5, 7), &mut out, 0)
                .is_err()
        );
        assert!(
            backend
                .tile(image, TileGrid::new(5, 7, 5, 4), &mut out, 0)
                .is_err()
        );
        let stitch = |weights: usize| Stitch {
            images: vec![image],
            cells: grid,
            weights: vec![1.0; weights],
        };
        assert!(backend.stitch(&stitch(2), &mut out, 0).is_err());
        assert!(backend.stitch(&stitch(1), &mut out, 1).is_err());
        assert!(
            backend
                .squared_error(&[(image, At::new(&small, 0))], grid)
                .is_err()
        );
        assert!(backend.ssim(&[(image, At::new(&small, 0))]).is_err());
        assert!(backend.ssim(&[(image, At::new(&input, 1))]).is_err());
        let nothing = backend
            .allocate(ImageShape { width: 0, ..shape }, 1)
            .unwrap();
        let nothing = At::new(&nothing, 0);
        assert_eq!(backend.ssim(&[(nothing, nothing)]).unwrap(), [1.0]);
        let huge = ImageShape {
            channels: 3,
            height: usize::MAX / 2,
            width: 8,
        };
        assert!(backend.allocate(huge, 1).is_err());
    }
}

#[cfg(feature = "emulator")]
#[test]
fn kernels_do_the_work_that_is_said() {
    use crate::backend::cuda::driver::emulator::{Emulator, Options};
    let shape = ImageShape {
        channels: 3,
        height: 9,
        width: 7,
    };
    let grid = TileGrid {
        top: 2,
        left: 1,
        ..TileGrid::new(9, 7, 4, 3)
    };
    let emulator = Emulator::new(Options::default()).unwrap();
    let backend = CudaBackend::new(emulator.device());
    check_every_operation(&backend, shape, grid, JOBS + 1, 1);
    emulator.assert_work_is_done();
}

/// Every struct of the kernels' source has a mirror here of the same layout.
#[cfg(feature = "emulator")]
#[test]
fn structs_have_the_kernels_layout() {
    use super::compare::{ImageSquaredErrorArgs, ImageSsimArgs};
    use super::jobs::{ImageCopyArgs, ImageNoiseArgs, ImagePairArgs, ImageViewArgs};
    use super::stitch::{ImageStitchArgs, Window};
    use super::tiles::{Grid, ImageTileArgs, ImageUntileArgs};
    use crate::backend::cuda::driver::{assert_mirrored, mirror};
    let mirrors = [
        mirror::<ImageCopyArgs>(),
        mirror::<ImageViewArgs>(),
        mirror::<ImageNoiseArgs>(),
        mirror::<ImagePairArgs>(),
        mirror::<Grid>(),
        mirror::<ImageTileArgs>(),
        mirror::<ImageUntileArgs>(),
        mirror::<Window>(),
        mirror::<ImageStitchArgs>(),
        mirror::<ImageSquaredErrorArgs>(),
        mirror::<ImageSsimArgs>(),
    ];
    assert_mirrored(&[kernels::LAYOUTS], &mirrors);
}

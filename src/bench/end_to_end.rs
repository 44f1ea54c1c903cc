//! What a picture takes from file to file on a chip that is not at hand: floors of the device, against what
//! the host does for it.
//!
//! The faster the device, the harder it is to keep busy. So its floor is the worst case for the host, and
//! nothing of the host's work is taken to go on beside the device's but reading and writing pictures, which
//! have threads of their own.

use std::io::Cursor;
use std::time::{Duration, Instant};

use super::pattern;
use super::rehearsal::{Rehearsal, Wave};
use crate::backend::ImageShape;
use crate::backend::cuda::model::Chip;
use crate::classifier::Graph;
use crate::defense::{Options, ReconstructOptions};
use crate::dip::Preset;
use crate::error::{Error, Result};
use crate::picture::Picture;
use crate::picture::Size;
use crate::picture::resample::{Filter, resample_u8};
use crate::picture::{psnr, ssim};
use crate::picture::{rgb, write_png};

/// Pictures that share the device: enough to share the classifier's launches, few enough for the
/// emulator's memory. An H100 holds more, and shares more.
const PICTURES: usize = 8;

/// A photograph before it is resized for the classifier: ImageNet's most frequent size.
const PHOTOGRAPH: Size = Size {
    height: 375,
    width: 500,
};

/// How long each of the host's tasks is measured.
const BUDGET: Duration = Duration::from_millis(300);

/// What a host takes beside its own computing. Assumed, not measured: of the order of what NVIDIA reports
/// for a V100 ("Getting Started with CUDA Graphs", 2019: 3.8 µs a kernel where launches follow one another
/// and 9.6 where each is waited for, of which 2.9 are the kernel), rounded up.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Assumed {
    /// Seconds between the starts of two launches, also of one graph, and of transfers that nobody waits for.
    pub launch: f64,
    /// Seconds from the end of the device's work to the return of the call that waits for it.
    pub wait: f64,
}

/// NVIDIA's figures, rounded up.
pub(crate) const ASSUMED: Assumed = Assumed {
    launch: 4e-6,
    wait: 10e-6,
};

/// What the host does for one picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct HostSeconds {
    /// While the device does nothing, in seconds: hashing, drawing initial weights, reading logits, judging,
    /// preparing what is asked of the device.
    pub deciding: f64,
    /// Threads of the machine on which `deciding` was measured: some of it is shared by all.
    pub threads: usize,
    /// Seconds of a reader's thread: a JPEG of 500×375, decoded and resized.
    pub reading: f64,
    /// Seconds of a writer's thread: PSNR, SSIM and an 8-bit PNG. The disk is not in it.
    pub writing: f64,
}

/// Seconds of a picture's part of the device's time, one after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct DeviceSeconds {
    /// Kernels, at their floors.
    pub working: f64,
    /// Its kernels are done sooner than the next ones are launched.
    pub launching: f64,
    /// Waiting for the link.
    pub transferring: f64,
    /// What waits for results hears of them.
    pub waiting: f64,
    /// The host decides what is next.
    pub deciding: f64,
}

impl DeviceSeconds {
    /// A picture's part of what a wave takes.
    pub(crate) fn new(chip: &Chip, wave: &Wave, assumed: &Assumed, host: &HostSeconds) -> Self {
        let pictures = wave.pictures as f64;
        let kernels = || wave.kernels.values();
        let working: f64 = kernels().map(|kernel| chip.floor(kernel).seconds()).sum();
        // Which of a kernel's launches are short is not known: as if all of a kernel were alike.
        let late = kernels().map(|kernel| {
            (assumed.launch * kernel.launches - chip.floor(kernel).seconds()).max(0.0)
        });
        let unwaited = (wave.uploads.count + wave.zeroings.count) as f64;
        let launching = late.sum::<f64>() + assumed.launch * unwaited;
        let bytes = (wave.uploads.bytes + wave.downloads.bytes) as f64;
        DeviceSeconds {
            working: working / pictures,
            launching: launching / pictures,
            transferring: bytes / (1e9 * chip.link_bandwidth) / pictures,
            waiting: assumed.wait * wave.downloads.count as f64 / pictures,
            deciding: host.deciding,
        }
    }

    /// From a picture to the next.
    pub(crate) fn seconds(&self) -> f64 {
        self.working + self.launching + self.transferring + self.waiting + self.deciding
    }

    /// Part of the time in which the device works, in `[0, 1]`.
    pub(crate) fn busy(&self) -> f64 {
        self.working / self.seconds()
    }

    /// Part of the time in which the device works where `engines` share it, each with pictures of its own:
    /// while one waits or the host decides about its pictures, the others' kernels run.
    ///
    /// Engines share the host's threads too. How much of `deciding` is one thread's is not known; here it
    /// all takes as many times as long as there are engines, which is the worst case.
    pub(crate) fn busy_with(&self, engines: usize) -> f64 {
        let n = engines as f64;
        let an_engine = self.seconds() + (n - 1.0) * self.deciding;
        (n * self.working / an_engine).min(1.0)
    }

    /// Seconds in which the host must decide for the device to be busy a part `busy` of the time: below 0
    /// where that does not help.
    pub(crate) fn deciding_for(&self, busy: f64) -> f64 {
        self.working / busy - (self.seconds() - self.deciding)
    }

    /// Threads of the host with which the device is busy a part `busy` of the time: those that decide, and as
    /// many beside them as read and write. `None` where that is too little for the device, however many read
    /// and write.
    ///
    /// Reading has one thread: it must not take longer than the device.
    pub(crate) fn threads(&self, busy: f64, host: &HostSeconds) -> Option<u32> {
        let period = self.working / busy;
        if self.seconds() > period || host.reading > period {
            return None;
        }
        let beside = ((host.reading + host.writing) / period).ceil();
        Some(host.threads as u32 + beside as u32)
    }
}

/// A chip's estimate, and what it is made of.
#[derive(Clone, Debug)]
pub(crate) struct EndToEnd {
    pub wave: Wave,
    pub host: HostSeconds,
    pub device: DeviceSeconds,
}

/// Estimates what a picture of the preset's defense, by its defaults, takes with this classifier.
///
/// # Errors
/// The emulator does not run on this processor, or there is no memory; a classifier of one class, or of
/// other than RGB pictures.
pub(crate) fn estimate(chip: &Chip, preset: Preset, graph: &Graph) -> Result<EndToEnd> {
    let shape = graph.input_shape();
    if shape.channels != 3 {
        return Err(Error::invalid(
            "pictures have 3 channels, and this classifier takes others",
        ));
    }
    let options = Options::new(ReconstructOptions::preset(preset, shape.channels));
    let picture = photograph(shape);
    let rehearsal = Rehearsal {
        chip,
        graph,
        options: &options,
        pictures: &[&picture; PICTURES],
    };
    // One alone: what pictures share of the host's work is little, and a short time is less disturbed.
    let alone = Rehearsal {
        pictures: &[&picture],
        ..rehearsal
    };
    let host = host_seconds(&picture, alone.time()?)?;
    let wave = rehearsal.count()?;
    Ok(EndToEnd {
        device: DeviceSeconds::new(chip, &wave, &ASSUMED, &host),
        wave,
        host,
    })
}

/// Measures what the host does for a picture beside `deciding`.
fn host_seconds(picture: &Picture, deciding: f64) -> Result<HostSeconds> {
    let large = photograph(rgb(PHOTOGRAPH.height, PHOTOGRAPH.width));
    let jpeg = jpeg(&large)?;
    let reading = least_seconds(|| {
        let decoded = Picture::decode(&jpeg).map_err(Error::invalid)?;
        let resized = resample_u8(
            &decoded.to_rgb8(),
            decoded.shape,
            picture.shape,
            Filter::Bilinear,
        );
        std::hint::black_box(Picture::from_rgb8(&resized, picture.shape));
        Ok(())
    })?;
    let output: Vec<f32> = picture.pixels.iter().map(|pixel| 0.99 * pixel).collect();
    let writing = least_seconds(|| {
        let mut png = Vec::new();
        std::hint::black_box(psnr(&output, &picture.pixels));
        std::hint::black_box(ssim(picture.shape, &output, &picture.pixels));
        write_png(&mut png, picture.shape, &output)
            .map_err(|error| Error::invalid(format!("a PNG in memory: {error}")))?;
        std::hint::black_box(png);
        Ok(())
    })?;
    Ok(HostSeconds {
        deciding,
        threads: rayon::current_num_threads(),
        reading,
        writing,
    })
}

/// The least time of several, for a machine has other work too.
fn least_seconds(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut least) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < BUDGET {
        let once = Instant::now();
        run()?;
        least = least.min(once.elapsed().as_secs_f64());
    }
    Ok(least)
}

/// A picture that compresses no better than a photograph: edges, gradients and noise, of 8 bits.
fn photograph(shape: ImageShape) -> Picture {
    let pixels = pattern(shape);
    let noise = |i: usize| (i as u32).wrapping_mul(0x9E37_79B9) >> 28;
    let byte = |(i, pixel): (usize, f32)| (200.0 * pixel) as u8 + noise(i) as u8;
    let plane = shape.height * shape.width;
    let bytes: Vec<u8> = pixels.into_iter().enumerate().map(byte).collect();
    let interleaved: Vec<u8> = (0..plane)
        .flat_map(|i| [0, 1, 2].map(|channel| bytes[channel * plane + i]))
        .collect();
    Picture::from_rgb8(&interleaved, shape)
}

fn jpeg(picture: &Picture) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let (width, height) = (picture.shape.width as u32, picture.shape.height as u32);
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(
            &picture.to_rgb8(),
            width,
            height,
            image::ExtendedColorType::Rgb8,
        )
        .map_err(|error| Error::invalid(format!("a JPEG in memory: {error}")))?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::model::Demand;
    use crate::bench::rehearsal::Transfers;

    fn near(got: f64, want: f64) {
        assert!((got / want - 1.0).abs() < 1e-9, "{got} for {want}");
    }

    /// Two pictures on an A100 (2039 GB/s of memory, 32 of the link): a long kernel of 8 ms, and a short one
    /// of 1 µs a launch.
    fn wave() -> Wave {
        let by_memory = |launches: f64, seconds: f64| Demand {
            launches,
            bytes: 2039e9 * seconds,
            ..Demand::default()
        };
        Wave {
            pictures: 2,
            probes: 40,
            kernels: [
                ("long", by_memory(10.0, 8e-3)),
                ("short", by_memory(100.0, 100e-6)),
            ]
            .into(),
            uploads: Transfers {
                count: 5,
                bytes: 3_200_000,
            },
            downloads: Transfers {
                count: 20,
                bytes: 0,
            },
            zeroings: Transfers {
                count: 5,
                bytes: 1 << 20,
            },
        }
    }

    const TWO_AND_TEN: Assumed = Assumed {
        launch: 2e-6,
        wait: 10e-6,
    };

    #[test]
    fn a_picture_s_time_is_what_is_computed_by_hand() {
        let chip = Chip::named("a100").unwrap();
        let host = HostSeconds {
            deciding: 250e-6,
            threads: 1,
            reading: 3e-3,
            writing: 6e-3,
        };
        let device = DeviceSeconds::new(chip, &wave(), &TWO_AND_TEN, &host);
        near(device.working, 4.05e-3);
        // 100 launches of 2 µs that take 1 µs each, and ten transfers.
        near(device.launching, (100e-6 + 20e-6) / 2.0);
        near(device.transferring, 50e-6);
        near(device.waiting, 100e-6);
        near(device.seconds(), 4.51e-3);
        near(device.busy(), 4.05 / 4.51);
        // At 0.8 a picture takes 5.0625 ms: two threads for 9 ms, and the device's.
        assert_eq!(device.threads(0.8, &host), Some(3));
        // The device's thread alone takes too long: 4.5 ms, of which 4.26 are others'.
        near(device.deciding_for(0.9), 0.24e-3);
        assert_eq!(device.threads(0.9, &host), None);
        near(device.busy_with(1), device.busy());
        // Two engines are no faster than the device; where the host decides for long, it holds up both.
        near(device.busy_with(2), 1.0);
        let thoughtful = HostSeconds {
            deciding: 10e-3,
            ..host
        };
        let held_up = DeviceSeconds::new(chip, &wave(), &TWO_AND_TEN, &thoughtful);
        near(held_up.busy_with(2), 2.0 * 4.05 / (4.26 + 20.0));
        // A reader that is slower than the device.
        let slow = HostSeconds {
            reading: 6e-3,
            ..host
        };
        assert_eq!(device.threads(0.8, &slow), None);
    }

    #[test]
    fn pictures_are_as_large_as_photographs() {
        let picture = photograph(rgb(PHOTOGRAPH.height, PHOTOGRAPH.width));
        let jpeg = jpeg(&picture).unwrap();
        assert_eq!(Picture::decode(&jpeg).unwrap().shape, picture.shape);
        // ImageNet's have some 110 kB.
        assert!((50_000..250_000).contains(&jpeg.len()), "{}", jpeg.len());
    }

    /// The pipeline of the small classifier's size, counted: every picture goes all its way.
    #[test]
    fn a_rehearsal_goes_through_all_of_the_defense() {
        let model =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/toy.onnx");
        let graph = Graph::load(&model, &Default::default()).unwrap();
        let mut options = Options::new(ReconstructOptions::preset(Preset::Tiles, 3));
        options.reconstruct.iterations = 60;
        options.reconstruct.restarts = 2;
        let picture = photograph(graph.input_shape());
        let wave = |pictures: &[&Picture]| {
            let rehearsal = Rehearsal {
                chip: Chip::named("h100").unwrap(),
                graph: &graph,
                options: &options,
                pictures,
            };
            assert!(rehearsal.time().unwrap() > 0.0);
            rehearsal.count().unwrap()
        };
        let (one, two) = (wave(&[&picture]), wave(&[&picture; 2]));
        // The input and its nine views; three points of the consensus on up to two segments, each with three votes; three reconstructions of each path; the other points of its last segment, of the consensus
        // those that have no vote; two rounds of three points, and two pushes, of which one suffices, of each path;
        // the output.
        let segments = options.map.segments.min(2);
        let votes = options.map.reach_points + 1;
        let points = 3 * options.map.segment_points + 2 * options.map.reach_points;
        assert_eq!(
            one.probes as usize,
            10 + segments * 3 * votes + 3 * 3 + points + 3 * (2 * 3 + 2) + 1
        );
        assert_eq!(two.probes, 2 * one.probes);
        let of = |wave: &Wave, kernel: &str| wave.kernels[kernel];
        // One launch of the resident step for each probe, however many pictures.
        for wave in [&one, &two] {
            assert_eq!(of(wave, "resident_step").launches, 3.0);
        }
        near(
            of(&two, "resident_step").bytes,
            2.0 * of(&one, "resident_step").bytes,
        );
        assert!(one.downloads.count > 0 && one.uploads.count > 0);
    }
}

//! The DIP networks against PyTorch's float64 numbers.
//!
//! Each file of `tests/golden` holds one network: its configuration (metadata), initial parameters,
//! input and target, the first output and every gradient, the parameters after 1, 10 and 50 steps of
//! Adam, and the losses of 50 steps. Parameters that batch normalization cancels are left out (see
//! [`canceled`]): their gradients, and what Adam makes of these, are rounding noise.

use std::collections::BTreeMap;
use std::path::Path;

use backstitch::backend::cpu::CpuBackend;
use backstitch::backend::cpu::dip::blocked::BlockedDip;
use backstitch::backend::cpu::dip::lanes::LaneDip;
use backstitch::backend::host::HostImages;
use backstitch::backend::reference::ReferenceDip;
use backstitch::backend::{At, DipEngine, ImageOps, ImageShape, Instance, Precision};
use backstitch::dip::{NetSpec, Padding, Upsample};
use backstitch::random::RandomKey;
use safetensors::{Dtype, SafeTensors};

/// One golden file.
struct Golden {
    name: String,
    spec: NetSpec,
    shape: ImageShape,
    tensors: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    fn read(path: &Path) -> Golden {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let config = &header.metadata().as_ref().unwrap()["config"];
        let config: serde_json::Value = serde_json::from_str(config).unwrap();
        let number = |key: &str| config[key].as_u64().unwrap() as usize;
        let list = |key: &str| -> Vec<usize> {
            let numbers = config[key].as_array().unwrap().iter();
            numbers.map(|n| n.as_u64().unwrap() as usize).collect()
        };
        let tensors: BTreeMap<String, Vec<f64>> = SafeTensors::deserialize(&bytes)
            .unwrap()
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                assert_eq!(view.dtype(), Dtype::F64, "{name}");
                let (values, rest) = view.data().as_chunks::<8>();
                assert!(rest.is_empty());
                (
                    name,
                    values.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                )
            })
            .collect();
        let shape = ImageShape {
            height: number("height"),
            width: number("width"),
            channels: tensors["target"].len() / number("height") / number("width"),
        };
        let spec = NetSpec {
            input_depth: number("input_depth"),
            output_channels: shape.channels,
            down: list("down"),
            up: list("up"),
            skip: list("skip"),
            upsample: match config["upsample"].as_str().unwrap() {
                "nearest" => Upsample::Nearest,
                "bilinear" => Upsample::Bilinear,
                other => panic!("upsample {other}"),
            },
            padding: match config["pad"].as_str().unwrap() {
                "zero" => Padding::Zero,
                "reflection" => Padding::Reflect,
                other => panic!("pad {other}"),
            },
            learning_rate: config["lr"].as_f64().unwrap(),
            optimize_input: config["optimise_input"].as_bool().unwrap(),
            jitter: 0.0,
            averaging: 0.0,
        };
        Golden {
            name: path.file_stem().unwrap().to_str().unwrap().to_string(),
            spec,
            shape,
            tensors,
        }
    }

    fn all() -> Vec<Golden> {
        // Cargo runs tests in the package's folder; the GPU bundle has this one beside its run.sh.
        let folder = Path::new("tests/golden");
        let mut paths: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
            .collect();
        paths.sort();
        assert!(!paths.is_empty());
        paths.iter().map(|path| Golden::read(path)).collect()
    }

    /// The parameter vector made of the tensors `prefix.*`.
    fn vector(&self, prefix: &str) -> Vec<f64> {
        self.spec
            .parameters()
            .iter()
            .flat_map(|p| {
                let values = &self.tensors[&format!("{prefix}.{}", p.name)];
                assert_eq!(values.len(), p.len(), "{}", p.name);
                values.clone()
            })
            .collect()
    }

    /// Puts the file's instance into slot 0.
    fn start<E: DipEngine>(&self, engine: &mut E, target: &E::Images) {
        let instance = Instance {
            slot: 0,
            target: At::new(target, 0),
            key: RandomKey::default(),
        };
        engine.load(&[instance]).unwrap();
        engine.set_parameters(0, &self.vector("initial")).unwrap();
        engine.set_input(0, &self.tensors["z"]).unwrap();
    }

    /// The gradients that follow from the initial numbers rounded to float32, of which every float32 engine
    /// starts, in float64.
    fn rounded_gradients(&self) -> Vec<f64> {
        let round = |numbers: &[f64]| -> Vec<f64> {
            numbers.iter().map(|&v| f64::from(v as f32)).collect()
        };
        let shape = self.shape;
        let mut target = HostImages::<f64>::zeroed(shape, 1).unwrap();
        let pixels = round(&self.tensors["target"]);
        target.image_mut(0).copy_from_slice(&pixels);
        let mut engine = ReferenceDip::new(&self.spec, shape.height, shape.width, 1).unwrap();
        self.start(&mut engine, &target);
        let initial = round(&self.vector("initial"));
        engine.set_parameters(0, &initial).unwrap();
        engine.set_input(0, &round(&self.tensors["z"])).unwrap();
        engine.run(1).unwrap();
        engine.gradients(0).unwrap()
    }

    /// Calls `check(what, got, want)` for every parameter tensor whose values mean something.
    fn compare(&self, prefix: &str, got: &[f64], mut check: impl FnMut(&str, &[f64], &[f64])) {
        for p in self.spec.parameters() {
            if canceled(&self.spec, &p.name) {
                continue;
            }
            let name = format!("{prefix}.{}", p.name);
            let what = format!("{}: {name}", self.name);
            check(&what, &got[p.offset..][..p.len()], &self.tensors[&name]);
        }
    }
}

/// Whether a parameter only shifts a channel by a constant that batch normalization subtracts again:
/// the biases of the convolutions before it; and where the padding is a reflection, so that no edge
/// shows the shift, the bias of the merge normalization too, which a convolution separates from the
/// next one.
fn canceled(spec: &NetSpec, name: &str) -> bool {
    (name.ends_with("_conv.bias") && name != "out_conv.bias")
        || (name.ends_with("merge_bn.bias") && spec.padding == Padding::Reflect)
}

/// The largest difference, relative to the largest magnitude of `want`.
fn difference(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let worst = got
        .iter()
        .zip(want)
        .map(|(g, w)| (g - w).abs())
        .fold(0.0f64, |m, d| if d.is_nan() { f64::NAN } else { m.max(d) });
    worst / largest
}

#[test]
fn reference_is_pytorch() {
    for golden in Golden::all() {
        let check = |what: &str, got: &[f64], want: &[f64]| {
            let d = difference(got, want);
            assert!(d < 1e-10, "{what}: relative difference {d:.1e}");
        };
        let mut target = HostImages::<f64>::zeroed(golden.shape, 1).unwrap();
        target
            .image_mut(0)
            .copy_from_slice(&golden.tensors["target"]);
        let shape = golden.shape;
        let mut engine = ReferenceDip::new(&golden.spec, shape.height, shape.width, 1).unwrap();
        golden.start(&mut engine, &target);
        let mut picture = HostImages::<f64>::zeroed(shape, 1).unwrap();
        let mut losses = vec![];
        for step in 1..=50 {
            engine.run(1).unwrap();
            losses.push(engine.losses(&[0]).unwrap()[0]);
            if step == 1 {
                engine.reconstructions(&[0], &mut picture, 0).unwrap();
                check("output.1", picture.image(0), &golden.tensors["output.1"]);
                golden.compare("gradient", &engine.gradients(0).unwrap(), check);
                if golden.spec.optimize_input {
                    let gradient = engine.input_gradient(0).unwrap();
                    check("gradient.z", &gradient, &golden.tensors["gradient.z"]);
                }
            }
            if [1, 10, 50].contains(&step) {
                let prefix = format!("after{step}");
                golden.compare(&prefix, &engine.parameters(0).unwrap(), check);
                if golden.spec.optimize_input {
                    let name = format!("{prefix}.z");
                    check(&name, &engine.input(0).unwrap(), &golden.tensors[&name]);
                }
            }
        }
        for p in golden.spec.parameters() {
            if canceled(&golden.spec, &p.name) {
                let gradient = &engine.gradients(0).unwrap()[p.offset..][..p.len()];
                assert!(gradient.iter().all(|g| g.abs() < 1e-14), "{}", p.name);
            }
        }
        check("losses", &losses, &golden.tensors["losses"]);
        engine.run(1).unwrap();
        engine.reconstructions(&[0], &mut picture, 0).unwrap();
        check("output.51", picture.image(0), &golden.tensors["output.51"]);
    }
}

/// Float32 against PyTorch's float64: every tensor of the first iteration within 1e-4 of its largest
/// magnitude, every loss of 50 steps within 1%. A gradient may be off by as much more as rounding the
/// initial numbers to float32 moves it, in float64: next to nothing, but for one whose terms nearly cancel
/// (6e-5 of the merge normalization's weight in `dip_tile`). `new` makes an engine, if it is one for that network.
fn close_to_pytorch<B: ImageOps, E: DipEngine<Images = B::Images>>(
    backend: &B,
    new: impl Fn(&NetSpec, usize, usize) -> Option<E>,
) {
    for golden in Golden::all() {
        let check = |what: &str, got: &[f64], want: &[f64]| {
            let d = difference(got, want);
            assert!(d < 1e-4, "{what}: relative difference {d:.1e}");
        };
        let shape = golden.shape;
        let Some(mut engine) = new(&golden.spec, shape.height, shape.width) else {
            continue;
        };
        let mut target = backend.allocate(shape, 1).unwrap();
        let pixels: Vec<f32> = golden.tensors["target"].iter().map(|&v| v as f32).collect();
        backend.upload(&pixels, &mut target, 0).unwrap();
        golden.start(&mut engine, &target);
        let mut picture = backend.allocate(shape, 1).unwrap();
        for (step, want) in golden.tensors["losses"].iter().enumerate() {
            engine.run(1).unwrap();
            let loss = engine.losses(&[0]).unwrap()[0];
            assert!((loss / want - 1.0).abs() < 0.01, "step {step}: {loss}");
            if step > 0 {
                continue;
            }
            engine.reconstructions(&[0], &mut picture, 0).unwrap();
            let output = backend.download(At::new(&picture, 0)).unwrap();
            let output: Vec<f64> = output.into_iter().map(f64::from).collect();
            check("output.1", &output, &golden.tensors["output.1"]);
            let mut allowed = vec![];
            golden.compare("gradient", &golden.rounded_gradients(), |_, got, want| {
                allowed.push(1e-4 + difference(got, want));
            });
            let mut allowed = allowed.into_iter();
            golden.compare(
                "gradient",
                &engine.gradients(0).unwrap(),
                |what, got, want| {
                    let (d, allowed) = (difference(got, want), allowed.next().unwrap());
                    assert!(d < allowed, "{what}: relative difference {d:.1e}");
                },
            );
            if golden.spec.optimize_input {
                let gradient = engine.input_gradient(0).unwrap();
                check("gradient.z", &gradient, &golden.tensors["gradient.z"]);
            }
        }
    }
}

#[test]
fn lanes_are_close_to_pytorch() {
    close_to_pytorch(&CpuBackend::FLOAT32, |spec, height, width| {
        Some(LaneDip::new(spec, height, width, 1).unwrap())
    });
}

#[test]
fn blocked_is_close_to_pytorch() {
    close_to_pytorch(&CpuBackend::FLOAT32, |spec, height, width| {
        Some(BlockedDip::new(spec, height, width, 1, Precision::Float32).unwrap())
    });
}

/// The emulator, where this build has it, and the machine's GPUs; with `BACKSTITCH_TEST_GPU=require` a
/// machine without one fails.
#[cfg(any(feature = "cuda", feature = "emulator"))]
fn devices() -> Vec<backstitch::backend::cuda::driver::Device> {
    let mut devices = vec![];
    #[cfg(feature = "emulator")]
    {
        use backstitch::backend::cuda::driver::emulator::{Emulator, Options};
        devices.push(Emulator::new(Options::default()).unwrap().device());
    }
    #[cfg(feature = "cuda")]
    {
        use backstitch::backend::cuda::driver::{Device, nvidia::device_count};
        devices.extend((0..device_count()).map(|gpu| Device::nvidia(gpu).unwrap()));
    }
    let required = std::env::var_os("BACKSTITCH_TEST_GPU").is_some_and(|value| value == "require");
    let gpu = devices
        .iter()
        .any(|device| device.name().starts_with("cuda"));
    assert!(!required || gpu, "no GPU to test on");
    devices
}

#[cfg(any(feature = "cuda", feature = "emulator"))]
#[test]
fn cuda_is_close_to_pytorch() {
    use backstitch::backend::cuda::CudaBackend;
    use backstitch::backend::cuda::dip::{CudaDip, StepMode};
    for device in devices() {
        let backend = CudaBackend::new(device);
        close_to_pytorch(&backend, |spec, height, width| {
            Some(CudaDip::with_mode(&backend, spec, height, width, 1, StepMode::OpByOp).unwrap())
        });
        // As the device's shared memory allows.
        close_to_pytorch(&backend, |spec, height, width| {
            let engine = CudaDip::new(&backend, spec, height, width, 1).unwrap();
            (engine.step_mode() == StepMode::Resident).then_some(engine)
        });
    }
}

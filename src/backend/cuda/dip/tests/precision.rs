//! Networks whose convolutions are on tensor cores.

use super::*;
use crate::backend::Precision;

/// Two levels; all convolutions but the last, and level 1's skip branch, are for tensor cores.
fn wide(optimize_input: bool) -> NetSpec {
    NetSpec {
        input_depth: 8,
        down: vec![8, 12],
        up: vec![10, 8],
        skip: vec![8, 4],
        jitter: 0.0,
        averaging: 0.0,
        ..spec(Padding::Reflect, optimize_input)
    }
}

#[test]
fn an_instance_on_tensor_cores_does_not_depend_on_the_others() {
    for device in test_devices() {
        let backend = CudaBackend::new(device).with_precision(Precision::Bf16);
        let spec = wide(true);
        let mut alone = engine(&backend, &spec, 1, StepMode::OpByOp);
        load(&backend, &mut alone, SHAPE, 0, 7);
        alone.run(2).unwrap();
        let mut among = engine(&backend, &spec, 3, StepMode::OpByOp);
        load(&backend, &mut among, SHAPE, 2, 1);
        load(&backend, &mut among, SHAPE, 1, 7);
        among.run(2).unwrap();
        assert_eq!(
            results(&backend, &mut among, SHAPE, 1),
            results(&backend, &mut alone, SHAPE, 0)
        );
        let exact = CudaBackend::new(backend.device.clone());
        let mut exact = engine(&exact, &spec, 1, StepMode::OpByOp);
        load(&backend, &mut exact, SHAPE, 0, 7);
        exact.run(2).unwrap();
        assert_ne!(
            exact.losses(&[0]).unwrap(),
            alone.losses(&[0]).unwrap(),
            "nothing was rounded"
        );
    }
}

/// The emulator in one order of threads, for long runs, and the machine's GPUs.
fn devices() -> Vec<Device> {
    let mut devices = test_devices();
    #[cfg(feature = "emulator")]
    {
        use crate::backend::cuda::driver::emulator::{Emulator, Options};
        devices[0] = Emulator::new(Options::default()).unwrap().device();
    }
    devices
}

/// Rounding moves a layer's outputs, of size 1 for the normalization, by some `v = 2^-8`; nine layers whose
/// errors do not know of one another by `3v`, the sigmoid's output by a quarter of it, and so a loss `l`, the
/// mean of squares, by some `2·(3v/4)/√l` of itself.
#[test]
fn iterations_on_tensor_cores_are_near_the_references() {
    let spec = wide(true);
    let [height, width] = SIZE;
    for device in devices() {
        let backend = CudaBackend::new(device).with_precision(Precision::Bf16);
        let mut reference = ReferenceDip::new(&spec, height, width, 1).unwrap();
        let mut engine = engine(&backend, &spec, 1, StepMode::OpByOp);
        load(&Reference, &mut reference, SHAPE, 0, 3);
        load(&backend, &mut engine, SHAPE, 0, 3);
        let mut first = None;
        for _ in 0..6 {
            reference.run(1).unwrap();
            engine.run(1).unwrap();
            let want = reference.losses(&[0]).unwrap()[0];
            let got = engine.losses(&[0]).unwrap()[0];
            let bound = 2.0 * 0.75 / 256.0 / want.sqrt();
            assert!((got / want - 1.0).abs() < bound, "{got} for {want}");
            let first = *first.get_or_insert(want);
            // That it learns is far more than that.
            assert!(want == first || want < first * (1.0 - 1.5 * bound));
        }
    }
}

/// Small errors grow from iteration to iteration, so that curves part: of this network, four pictures and
/// starts, the farthest in 100 iterations was 0.7 dB apart. Deeper networks part more, to either side: with
/// two levels and eight pictures by up to 4.5 dB on the way, and 1.4 dB after 100 iterations.
#[test]
fn the_loss_curve_is_float32s() {
    const BOUND: f64 = 1.0;
    let spec = NetSpec {
        down: vec![8],
        up: vec![8],
        skip: vec![0],
        ..wide(false)
    };
    let [height, width] = SIZE;
    let waves: Vec<f32> = (0..SHAPE.elements())
        .map(|i| {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            0.5 + 0.4 * (0.4 * x as f32 + c as f32).sin() * (0.5 * y as f32 + 1.0).cos()
        })
        .collect();
    for device in devices() {
        let float32 = CudaBackend::new(device);
        let bf16 = float32.clone().with_precision(Precision::Bf16);
        let mut target = float32.allocate(SHAPE, 1).unwrap();
        float32.upload(&waves, &mut target, 0).unwrap();
        let mut engines = [&float32, &bf16].map(|backend| {
            let mut engine = engine(backend, &spec, 1, StepMode::OpByOp);
            let instance = Instance {
                slot: 0,
                target: At::new(&target, 0),
                key: key(1),
            };
            engine.load(&[instance]).unwrap();
            engine
        });
        let mut last = 0.0;
        for _ in 0..10 {
            let [want, got] = engines.each_mut().map(|engine| {
                engine.run(10).unwrap();
                -10.0 * engine.losses(&[0]).unwrap()[0].log10()
            });
            assert!((got - want).abs() < BOUND, "{got} dB for {want} dB");
            last = got;
        }
        assert!(last > 30.0, "{last} dB");
    }
}

#[test]
fn tensor_cores_take_room_where_they_are_used() {
    let [height, width] = SIZE;
    let bytes = |spec: &NetSpec| {
        let precisions = [Precision::Float32, Precision::Bf16];
        let (device, _) = Device::tally(0);
        let backend = CudaBackend::new(device);
        precisions.map(|precision| {
            let backend = backend.clone().with_precision(precision);
            CudaDip::bytes(&backend, spec, height, width, 3, StepMode::OpByOp).unwrap()
        })
    };
    // The most is level 1's up convolution, from 16 to 10 channels: its derivative by weights in one part.
    let [float32, bf16] = bytes(&wide(false));
    let room = (9 * 16 * 10 + 10_u128).next_multiple_of(4);
    assert_eq!(bf16 - float32, 3 * 4 * room);
    let [float32, bf16] = bytes(&spec(Padding::Zero, true));
    assert_eq!(float32, bf16);
}

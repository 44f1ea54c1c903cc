//! What the tests of kernels share.

#[cfg(feature = "emulator")]
use super::arguments::{Arguments, Layout};
use super::device::Device;
#[cfg(feature = "emulator")]
use super::emulator::{RawFields, check_layout};

/// A struct's name and layout, for [`assert_mirrored`].
#[cfg(feature = "emulator")]
pub(crate) fn mirror<A: Arguments>() -> (&'static str, Layout) {
    (A::NAME, A::LAYOUT)
}

/// Fails unless every struct of the kernels' sources has a mirror of the same layout.
#[cfg(feature = "emulator")]
pub(crate) fn assert_mirrored(kernels: &[&[(&str, RawFields)]], mirrors: &[(&str, Layout)]) {
    for &(name, fields) in kernels.iter().copied().flatten() {
        let mirror = mirrors.iter().find(|mirror| mirror.0 == name);
        let (_, layout) = mirror.unwrap_or_else(|| panic!("{name} has no mirror"));
        check_layout(fields, *layout).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// What interprets the kernels' PTX, and holds every launch against the emulator's; with `BACKSTITCH_CUDA=require` a
/// build without nvcc fails.
#[cfg(feature = "emulator")]
pub(crate) fn ptx_device() -> Option<Device> {
    if crate::backend::cuda::kernels::NVCC.is_some() {
        return Some(Device::ptx_beside_emulator().expect("a processor for both"));
    }
    let required = std::env::var_os("BACKSTITCH_CUDA").is_some_and(|value| value == "require");
    assert!(!required, "no nvcc made PTX for this build");
    println!("skipped on PTX: this build had no nvcc");
    None
}

/// What tests run on: the emulator in three orders, where this build has it, the interpreter of what nvcc made of
/// the kernels, where it had nvcc too, which must leave the same bits, and the machine's GPUs; with
/// `BACKSTITCH_TEST_GPU=require` a machine without one fails.
pub(crate) fn test_devices() -> Vec<Device> {
    let mut devices = vec![];
    #[cfg(feature = "emulator")]
    {
        use super::emulator::{Emulator, Options, Order};
        let options = Options {
            orders: vec![Order::Forward, Order::Reverse, Order::Shuffled(1)],
            ..Options::default()
        };
        devices.push(
            Emulator::new(options)
                .expect("a processor for the emulator")
                .device(),
        );
        devices.extend(ptx_device());
    }
    #[cfg(feature = "cuda")]
    {
        let gpus = (0..super::nvidia::device_count()).map(Device::nvidia);
        devices.extend(gpus.map(|gpu| gpu.expect("a GPU that works")));
    }
    let required = std::env::var_os("BACKSTITCH_TEST_GPU").is_some_and(|value| value == "require");
    let gpu = |device: &Device| device.name().starts_with("cuda");
    assert!(!required || devices.iter().any(gpu), "no GPU to test on");
    if devices.is_empty() {
        println!("skipped: no GPU, and no emulator in this build (--features emulator)");
    }
    devices
}

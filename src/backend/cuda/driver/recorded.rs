//! Launches on a list, and what a driver makes of them.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::arguments::{Layout, RawArguments};
use super::error::Result;
use super::kernel::Kernel;
use super::launch::Launch;

/// A launch with a copy of its arguments.
pub(super) struct Recorded {
    pub kernel: Kernel,
    pub launch: Launch,
    /// As many words as the arguments need; the bytes between their fields are whatever they were.
    arguments: Box<[MaybeUninit<u64>]>,
    layout: Layout,
}

impl Recorded {
    pub(super) fn new(kernel: &Kernel, launch: Launch, arguments: RawArguments<'_>) -> Self {
        let bytes = arguments.layout.bytes;
        let mut copy = vec![MaybeUninit::<u64>::uninit(); bytes.div_ceil(8)];
        // SAFETY: `data` points to a struct of `bytes` bytes, its layout's; the copy has room for them, and
        // need not be initialized.
        unsafe {
            arguments
                .data
                .cast::<MaybeUninit<u8>>()
                .copy_to_nonoverlapping(copy.as_mut_ptr().cast(), bytes);
        }
        Recorded {
            kernel: *kernel,
            launch,
            arguments: copy.into(),
            layout: arguments.layout,
        }
    }

    pub(super) fn arguments(&self) -> RawArguments<'_> {
        RawArguments {
            data: self.arguments.as_ptr().cast(),
            layout: self.layout,
            lifetime: PhantomData,
        }
    }
}

/// What a driver made of recorded launches.
pub(super) trait Executable: Send + Sync {
    /// Launches all of them, in their order.
    fn launch(&self) -> Result<()>;
}

/// Which kernels are launched, and how often.
pub(super) fn describe(launches: &[Recorded]) -> String {
    let mut kernels: Vec<(&str, usize)> = vec![];
    for recorded in launches {
        let name = recorded.kernel.name;
        match kernels.iter_mut().find(|kernel| kernel.0 == name) {
            Some((_, count)) => *count += 1,
            None => kernels.push((name, 1)),
        }
    }
    let kernels: Vec<String> = kernels
        .iter()
        .map(|(name, count)| match count {
            1 => (*name).to_owned(),
            _ => format!("{count} {name}"),
        })
        .collect();
    format!("a graph of {}", kernels.join(", "))
}

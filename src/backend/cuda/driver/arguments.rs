//! What kernels are given: addresses, and structs laid out as the kernels' sources have them.

use std::ffi::c_void;
use std::marker::PhantomData;

/// A place in a device's memory, as kernels' arguments have it: `Buffer<T>` in their sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Address(pub u64);

impl Address {
    /// The address `bytes` bytes further on.
    pub fn offset(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// A field of a struct that kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    pub offset: usize,
    pub bytes: usize,
}

/// The layout of a struct that kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub fields: &'static [Field],
    /// The struct's size.
    pub bytes: usize,
}

/// An argument struct of a kernel, or a struct that kernels read from memory; made by `arguments!`.
pub trait Arguments: Copy + 'static {
    /// The struct's name in the kernel's source.
    const NAME: &'static str;
    /// To hold against the kernel's.
    const LAYOUT: Layout;
}

/// Declares structs as the kernels' sources have them, field by field in the same order.
macro_rules! arguments {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        $vis struct $name {
            $(pub $field: $type),*
        }

        impl $crate::backend::cuda::driver::Arguments for $name {
            const NAME: &'static str = stringify!($name);
            const LAYOUT: $crate::backend::cuda::driver::Layout =
                $crate::backend::cuda::driver::Layout {
                    fields: &[$($crate::backend::cuda::driver::Field {
                        name: stringify!($field),
                        offset: std::mem::offset_of!($name, $field),
                        bytes: size_of::<$type>(),
                    }),*],
                    bytes: size_of::<$name>(),
                };
        }
    )*};
}
pub(crate) use arguments;

/// Arguments on their way to a driver.
#[derive(Clone, Copy)]
pub(super) struct RawArguments<'a> {
    pub data: *const c_void,
    pub layout: Layout,
    pub lifetime: PhantomData<&'a ()>,
}

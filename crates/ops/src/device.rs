//! Devices that a binary can compute on, chosen at run time among those it was built for.

use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// A kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The processor.
    #[default]
    Cpu,
    /// NVIDIA.
    Cuda,
    /// AMD.
    Rocm,
    /// Apple.
    Metal,
    /// Anything with a Vulkan driver, through SPIR-V.
    Vulkan,
    /// Anything with a driver that wgpu knows (Vulkan, Metal, DirectX), through WGSL.
    Wgpu,
}

/// All kinds.
pub const KINDS: [Kind; 6] = [Kind::Cpu, Kind::Cuda, Kind::Rocm, Kind::Metal, Kind::Vulkan, Kind::Wgpu];

impl Kind {
    /// Its name, which is that of the feature that builds it too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
        }
    }

    /// Whether this binary was built for it.
    pub fn built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names: Vec<&str> = KINDS.iter().map(|k| k.name()).collect();
        let found = KINDS.into_iter().find(|k| k.name() == name);
        found.ok_or_else(|| format!("expected one of {}, found {name}", names.join(", ")))
    }
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The binary knows nothing of it.
    #[error(
        "this binary was not built for {kind}; build it with `cargo build --release --features {kind}`, \
         or compute on the processor with --device cpu"
    )]
    NotBuilt {
        /// What was asked for.
        kind: Kind,
    },
    /// The machine has none, or no driver for it.
    #[error("no {kind} device was found on this machine ({reason}); compute on the processor with --device cpu")]
    Absent {
        /// What was asked for.
        kind: Kind,
        /// What was looked for.
        reason: String,
    },
}

/// A program for another thread that computes on the stream of the thread that calls this. Every thread has a stream
/// of its own on a GPU, with its own memory; what one of them reads of another's it has to wait for, and writing in
/// place is ordered within a stream only.
pub fn on_this_stream<R>(program: impl FnOnce() -> R) -> impl FnOnce() -> R {
    #[cfg(feature = "cube")]
    let program = {
        let stream = burn::tensor::StreamId::current();
        move || stream.executes(program)
    };
    program
}

/// Opens the first device of a kind.
///
/// # Errors
/// When the binary was not built for it, or the machine has none.
pub fn open(kind: Kind) -> Result<Device, DeviceError> {
    match kind {
        Kind::Cpu => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        Kind::Cuda => {
            probe(kind, &["libcuda.so.1", "libcuda.so", "nvcuda.dll"])?;
            first(kind, burn::tensor::DeviceType::Cuda)
        }
        #[cfg(feature = "rocm")]
        Kind::Rocm => {
            probe(kind, &["libamdhip64.so", "libamdhip64.so.6", "libamdhip64.so.7"])?;
            first(kind, burn::tensor::DeviceType::Rocm)
        }
        #[cfg(feature = "metal")]
        Kind::Metal => first(kind, burn::tensor::DeviceType::Metal),
        #[cfg(feature = "vulkan")]
        Kind::Vulkan => {
            probe(kind, &["libvulkan.so.1", "libvulkan.so", "vulkan-1.dll"])?;
            first(kind, burn::tensor::DeviceType::Vulkan).and_then(|device| shares_memory(kind, device))
        }
        #[cfg(feature = "wgpu")]
        Kind::Wgpu => first(kind, burn::tensor::DeviceType::Wgpu).and_then(|device| shares_memory(kind, device)),
        #[allow(unreachable_patterns, reason = "depends on the features")]
        _ => Err(DeviceError::NotBuilt { kind }),
    }
}

/// Looks for a driver's library: without it, the runtimes panic on a thread of their own.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan"))]
fn probe(kind: Kind, libraries: &[&str]) -> Result<(), DeviceError> {
    #[cfg(target_os = "linux")]
    {
        let there = libraries.iter().any(|name| {
            let name = std::ffi::CString::new(*name).expect("names have no zero bytes");
            // SAFETY: a driver's library, which the runtime is about to load anyway.
            !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY) }.is_null()
        });
        if !there {
            return Err(DeviceError::Absent { kind, reason: format!("no driver: {} cannot be loaded", libraries[0]) });
        }
    }
    let _ = (kind, libraries);
    Ok(())
}

#[cfg(feature = "cube")]
fn first(kind: Kind, of: burn::tensor::DeviceType) -> Result<Device, DeviceError> {
    let absent = |reason: &str| DeviceError::Absent { kind, reason: reason.into() };
    // The runtimes answer a machine without a device with a panic.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(|| Device::enumerate(of).into_iter().next());
    std::panic::set_hook(hook);
    found.map_err(|_| absent("the driver answers with an error"))?.ok_or_else(|| absent("the driver lists none"))
}

/// Refuses a device whose units do not see what others wrote into their shared memory: cubecl's SPIR-V, which a binary
/// with `vulkan` takes for `wgpu` too, declares it wrongly where the driver lacks an extension (docs/gpu.md).
#[cfg(any(feature = "vulkan", feature = "wgpu"))]
fn shares_memory(kind: Kind, device: Device) -> Result<Device, DeviceError> {
    use burn::tensor::Tensor;
    let (ones, weight) = (Tensor::<2>::ones([4, 256], &device), Tensor::<1>::ones([256], &device));
    let normed = crate::rms_norm::rms_norm(ones, weight, 0.0).into_data().try_to_vec::<f32>();
    if normed.is_ok_and(|normed| normed.iter().all(|one| (one - 1.0).abs() < 1e-3)) {
        return Ok(device);
    }
    let reason = "it does not compute as it should: a sum over shared memory is wrong; try a binary built for wgpu, \
        without vulkan";
    Err(DeviceError::Absent { kind, reason: reason.into() })
}

//! GPU: what the kernels of all operators share.
//!
//! Kernels are written once with `#[cube]` and compiled at run time for CUDA, ROCm, Metal, Vulkan
//! or WebGPU. Tensors are contiguous f32, addressed by their flat index. The tests of all operators
//! run on any device (`RECAST_TEST_DEVICE=wgpu`), a software Vulkan driver among them.

pub use burn_cubecl::tensor::CubeTensor;

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use cubecl::prelude::*;

/// Units of a cube that works on one row: a power of two that every device has.
pub const UNITS: u32 = 256;
/// Most cubes in one dimension of a launch (Vulkan's and WebGPU's limit).
const MOST: u32 = 65_535;

/// Makes a tensor contiguous f32.
pub fn contiguous(tensor: CubeTensor) -> CubeTensor {
    assert_eq!(tensor.dtype, DType::F32, "recast operators take f32 tensors");
    into_contiguous(tensor)
}

/// Room for a tensor of this shape on the device of `like`.
///
/// # Panics
/// When it has more elements than kernels, whose indices have 32 bits, can reach.
pub fn room(like: &CubeTensor, shape: &[usize]) -> CubeTensor {
    let elements = shape.iter().try_fold(1usize, |elements, &side| elements.checked_mul(side));
    assert!(
        elements.is_some_and(|n| n <= u32::MAX as usize),
        "{shape:?}: more elements than a kernel can reach; take fewer rows"
    );
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape.to_vec().into(), DType::F32)
}

/// A tensor that stands for none.
pub fn nothing(like: &CubeTensor) -> CubeTensor {
    room(like, &[1])
}

/// Copies values to the device of `like`.
pub fn upload(like: &CubeTensor, values: &[f32]) -> CubeTensor {
    let handle = like.client.create_from_slice(bytemuck::cast_slice(values));
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), [values.len()].into(), handle, DType::F32)
}

/// Copies indices to the device of `like`.
pub fn upload_indices(like: &CubeTensor, values: &[u32]) -> CubeTensor {
    let handle = like.client.create_from_slice(bytemuck::cast_slice(values));
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), [values.len()].into(), handle, DType::U32)
}

/// The same elements in another shape.
pub fn reshaped(tensor: CubeTensor, shape: &[usize]) -> CubeTensor {
    CubeTensor::new_contiguous(tensor.client, tensor.device, shape.to_vec().into(), tensor.handle, tensor.dtype)
}

/// Several arrays in one allocation: kernels of wgpu take ten buffers, no more.
#[derive(Default)]
pub struct Together {
    shapes: Vec<Vec<usize>>,
    starts: Vec<usize>,
    elements: usize,
}

impl Together {
    /// Adds an array; returns where it starts, in elements.
    pub fn add(&mut self, shape: &[usize]) -> u32 {
        // Buffers are bound at multiples of 256 bytes.
        let start = self.elements.next_multiple_of(64);
        self.elements = start + shape.iter().product::<usize>();
        self.shapes.push(shape.to_vec());
        self.starts.push(start);
        start as u32
    }

    /// Room for all of them on the device of `like`.
    pub fn room(&self, like: &CubeTensor) -> CubeTensor {
        room(like, &[self.elements.max(1)])
    }

    /// The arrays, in the order of their addition, as parts of what [`Self::room`] gave.
    pub fn parts(self, all: &CubeTensor) -> impl Iterator<Item = CubeTensor> {
        let shapes = self.shapes.into_iter().zip(self.starts);
        shapes.map(|(shape, start)| {
            let (start, bytes) = (4 * start as u64, 4 * shape.iter().product::<usize>() as u64);
            let behind = all.handle.size_in_used() - start - bytes;
            let handle = all.handle.clone().offset_start(start).offset_end(behind);
            CubeTensor::new_contiguous(all.client.clone(), all.device.clone(), shape.into(), handle, all.dtype)
        })
    }
}

/// So many cubes, in as many dimensions as that takes: a kernel checks `CUBE_POS` against its count.
pub fn cubes(count: usize) -> CubeCount {
    let count = count.max(1) as u32;
    let y = count.div_ceil(MOST);
    CubeCount::Static(count.div_ceil(y), y, 1)
}

/// Cubes and their size for one unit an element.
pub fn elementwise(elements: usize) -> (CubeCount, CubeDim) {
    (cubes(elements.div_ceil(UNITS as usize)), CubeDim::new_1d(UNITS))
}

/// Sums `[rows, width]` over rows.
pub fn sum_rows(tensor: CubeTensor, shape: &[usize]) -> CubeTensor {
    use burn::backend::ops::FloatTensorOps;
    reshaped(contiguous(CubeBackend::float_sum_dim(tensor, 0)), shape)
}

/// burn's own operations on a [`CubeTensor`], short to write.
pub type Gpu = CubeBackend;

/// The sum of every unit's value, known to all units of a cube of [`UNITS`].
#[cube]
pub fn sum(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut stride = comptime!(UNITS as usize / 2).runtime();
    while stride > 0 {
        if unit < stride {
            let other = shared[unit + stride];
            shared[unit] += other;
        }
        sync_cube();
        stride /= 2;
    }
    shared[0]
}

/// The largest of every unit's value, known to all units of a cube of [`UNITS`].
#[cube]
pub fn largest(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut stride = comptime!(UNITS as usize / 2).runtime();
    while stride > 0 {
        if unit < stride {
            let other = shared[unit + stride];
            if other > shared[unit] {
                shared[unit] = other;
            }
        }
        sync_cube();
        stride /= 2;
    }
    shared[0]
}

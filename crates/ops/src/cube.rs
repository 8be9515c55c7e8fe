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

/// burn's own operations on a [`CubeTensor`], short to write.
pub type Gpu = CubeBackend;

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
/// When it has more elements than kernels, whose indices have 32 bits, can reach, or is larger than what the device
/// gives at once.
pub fn room(like: &CubeTensor, shape: &[usize]) -> CubeTensor {
    let elements = shape.iter().try_fold(1usize, |elements, &side| elements.checked_mul(side));
    assert!(
        elements.is_some_and(|n| n <= u32::MAX as usize),
        "{shape:?}: more elements than a kernel can reach; take fewer rows"
    );
    let most = like.client.properties().memory.max_page_size;
    let bytes = 4 * elements.unwrap_or_default() as u64;
    assert!(bytes <= most, "{shape:?}: more than the {most} bytes that this device gives at once; take fewer rows");
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

/// Indices that stand for none; nobody reads them, and nothing travels.
pub fn no_indices(like: &CubeTensor) -> CubeTensor {
    CubeTensor { dtype: DType::U32, ..nothing(like) }
}

/// Flags on the device of `like`, and whether there are any.
pub fn flags(like: &CubeTensor, flags: Option<&[bool]>) -> (CubeTensor, bool) {
    match flags {
        Some(flags) if !flags.is_empty() => {
            (upload_indices(like, &flags.iter().map(|&flag| u32::from(flag)).collect::<Vec<_>>()), true)
        }
        _ => (no_indices(like), false),
    }
}

/// A tensor that a kernel can be given in place of an absent one, and whether there was one.
pub fn or_nothing(tensor: CubeTensor) -> (CubeTensor, bool) {
    if tensor.meta.num_elements() == 0 { (nothing(&tensor), false) } else { (tensor, true) }
}

/// The same elements in another shape.
pub fn reshaped(tensor: CubeTensor, shape: &[usize]) -> CubeTensor {
    CubeTensor::new_contiguous(tensor.client, tensor.device, shape.to_vec().into(), tensor.handle, tensor.dtype)
}

/// Rows of the innermost dimension, and how wide they are.
pub fn rows(tensor: &CubeTensor) -> (usize, usize) {
    let width = tensor.meta.shape().last().copied().unwrap_or(1).max(1);
    (tensor.meta.num_elements() / width, width)
}

/// Gradients in the shapes of the inputs that they are of.
pub fn in_shapes<const N: usize>(gradients: [Option<CubeTensor>; N], shapes: [Vec<usize>; N]) -> [Option<CubeTensor>; N] {
    let mut shapes = shapes.into_iter();
    gradients.map(|gradient| {
        let shape = shapes.next().expect("one shape for every gradient");
        gradient.map(|x| reshaped(x, &shape))
    })
}

/// `[.., heads, N]` of `groups` heads repeated for the query heads that share each, as `shape` `[B, T, H, N]`.
pub fn repeat_heads(tensor: CubeTensor, groups: usize, shape: &[usize; 4]) -> CubeTensor {
    use burn::backend::ops::FloatTensorOps;
    let &[batch, time, heads, size] = shape;
    if groups == heads {
        return reshaped(tensor, shape);
    }
    let apart = reshaped(tensor, &[batch * time * groups, 1, size]);
    reshaped(contiguous(Gpu::float_repeat_dim(apart, 1, heads / groups)), shape)
}

/// The way back of [`repeat_heads`]: sums over the query heads that share one.
pub fn sum_heads(tensor: CubeTensor, groups: usize) -> CubeTensor {
    use burn::backend::ops::FloatTensorOps;
    let (heads, size) = (tensor.meta.shape()[2], tensor.meta.shape()[3]);
    if groups == heads {
        return tensor;
    }
    let rows = tensor.meta.num_elements() / (heads * size).max(1);
    let apart = reshaped(tensor, &[rows * groups, heads / groups, size]);
    contiguous(Gpu::float_sum_dim(apart, 1))
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

    /// The first `N` of [`Self::parts`].
    pub fn first<const N: usize>(self, all: &CubeTensor) -> [CubeTensor; N] {
        let mut parts = self.parts(all);
        std::array::from_fn(|_| parts.next().expect("one part for every array that was added"))
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

/// Units that work on one row of this width together, in cubes of [`UNITS`] that take several such rows.
pub fn lanes(width: usize) -> usize {
    width.next_power_of_two().min(UNITS as usize)
}

/// Cubes for so many rows of so many lanes.
pub fn by_lanes(rows: usize, lanes: usize) -> (CubeCount, CubeDim) {
    (cubes(rows.div_ceil(UNITS as usize / lanes)), CubeDim::new_1d(UNITS))
}

/// Rows that one unit adds up at a time.
const BLOCK: usize = 64;

/// Sums `[rows, width]` over rows, in an order that depends on nothing else: one unit a column and block of
/// rows, then the same of the blocks' sums. burn's own sum leaves each column to one unit.
pub fn sum_rows(tensor: CubeTensor, shape: &[usize]) -> CubeTensor {
    let width = shape.iter().product::<usize>();
    let mut tensor = contiguous(tensor);
    let mut rows = tensor.meta.num_elements() / width.max(1);
    if rows == 0 || width == 0 {
        return reshaped(upload(&tensor, &vec![0.0; width.max(1)]), shape);
    }
    while rows > 1 {
        let blocks = rows.div_ceil(BLOCK);
        let sums = room(&tensor, &[blocks, width]);
        let (count, dim) = elementwise(blocks * width);
        let client = tensor.client.clone();
        column_sums::launch(
            &client,
            count,
            dim,
            tensor.into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            rows as u32,
            width as u32,
            BLOCK as u32,
        );
        (tensor, rows) = (sums, blocks);
    }
    reshaped(tensor, shape)
}

/// The sum of all elements, `[1]`, in an order that depends on their number alone.
pub fn total(tensor: CubeTensor) -> CubeTensor {
    totalled(tensor, false, None)
}

/// The sum of all elements or of their squares, `[1]`; added to `into` where that is given.
pub fn totalled(tensor: CubeTensor, mut squares: bool, mut into: Option<CubeTensor>) -> CubeTensor {
    let mut tensor = contiguous(tensor);
    loop {
        let elements = tensor.meta.num_elements();
        let blocks = elements.div_ceil(BLOCK * UNITS as usize).max(1);
        let into = if blocks == 1 { into.take() } else { None };
        let adds = into.is_some();
        let sums = into.unwrap_or_else(|| room(&tensor, &[blocks]));
        let client = tensor.client.clone();
        let (from, to) = (tensor.into_tensor_arg(), sums.clone().into_tensor_arg());
        block_sums::launch(
            &client,
            cubes(blocks),
            CubeDim::new_1d(UNITS),
            from,
            to,
            elements as u32,
            BLOCK as u32,
            squares,
            adds,
        );
        squares = false;
        if blocks == 1 {
            return sums;
        }
        tensor = sums;
    }
}

#[cube(launch)]
fn column_sums(x: &Tensor<f32>, sums: &mut Tensor<f32>, rows: u32, width: u32, block: u32) {
    let (rows, width, block) = (rows as usize, width as usize, block as usize);
    let (part, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    if part * block < rows {
        let end = ((part + 1) * block).min(rows);
        let mut total = 0.0f32;
        for row in part * block..end {
            total += x[row * width + column];
        }
        sums[part * width + column] = total;
    }
}

#[cube(launch)]
fn block_sums(
    x: &Tensor<f32>,
    sums: &mut Tensor<f32>,
    elements: u32,
    block: u32,
    #[comptime] squares: bool,
    #[comptime] adds: bool,
) {
    let mut shared = Shared::new_slice(UNITS as usize);
    let first = CUBE_POS * (block * UNITS) as usize;
    if first < elements as usize || CUBE_POS == 0 {
        let mut own = 0.0f32;
        let mut i = first + UNIT_POS as usize;
        let end = (first + (block * UNITS) as usize).min(elements as usize);
        while i < end {
            if comptime!(squares) {
                own += x[i] * x[i];
            } else {
                own += x[i];
            }
            i += UNITS as usize;
        }
        let all = sum(own, &mut shared);
        if UNIT_POS == 0 {
            if comptime!(adds) {
                sums[CUBE_POS] += all;
            } else {
                sums[CUBE_POS] = all;
            }
        }
    }
}

/// The sum over the lanes of a row, or the largest of their values, known to all of them.
#[cube]
fn gathered(value: f32, shared: &mut Shared<[f32]>, #[comptime] lanes: usize, #[comptime] most: bool) -> f32 {
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    let mut stride = comptime!(lanes / 2).runtime();
    while stride > 0 {
        if lane < stride {
            let other = shared[unit + stride];
            if comptime!(most) {
                if other > shared[unit] {
                    shared[unit] = other;
                }
            } else {
                shared[unit] += other;
            }
        }
        sync_cube();
        stride /= 2;
    }
    shared[unit - lane]
}

/// The sum over the lanes of a row, known to all of them; every unit of a cube of [`UNITS`] takes part.
#[cube]
pub fn sum_lanes(value: f32, shared: &mut Shared<[f32]>, #[comptime] lanes: usize) -> f32 {
    gathered(value, shared, lanes, false)
}

/// The sum of every unit's value, known to all units of a cube of [`UNITS`].
#[cube]
pub fn sum(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    gathered(value, shared, UNITS as usize, false)
}

/// The largest of every unit's value, known to all units of a cube of [`UNITS`].
#[cube]
pub fn largest(value: f32, shared: &mut Shared<[f32]>) -> f32 {
    gathered(value, shared, UNITS as usize, true)
}

/// What a unit works on in a kernel of a few lanes a row ([`by_lanes`]): elements `start + i` of `row`, with `i`
/// from `lane` in steps of as many as there are lanes to before `end`. The last cube may have units of rows behind
/// the last one, which do nothing but take part in sums: their `end` is 0.
#[derive(CubeType)]
pub struct Row {
    pub row: usize,
    pub start: usize,
    pub lane: usize,
    pub end: usize,
}

/// The [`Row`] of a unit.
#[cube]
pub fn own_row(rows: usize, width: usize, #[comptime] lanes: usize) -> Row {
    let (row, lane) = (ABSOLUTE_POS / lanes, ABSOLUTE_POS % lanes);
    let mut end = width;
    if row >= rows {
        end = 0;
    }
    Row { row, start: row * width, lane, end }
}

/// The row of `[B, T, groups, N]` that row `row` of `[B, T, heads, N]` shares with other query heads.
#[cube]
pub fn shared_row(row: usize, heads: usize, groups: usize) -> usize {
    row / heads * groups + row % heads / (heads / groups)
}

/// A value that passes from one token to the next, to `token`: zero where a document starts.
#[cube]
pub fn passed(value: f32, starts: &Tensor<u32>, token: usize, #[comptime] documents: bool) -> f32 {
    let mut passed = value;
    if comptime!(documents) {
        if starts[token] != 0 {
            passed = 0.0f32.runtime();
        }
    }
    passed
}

/// The logistic function.
#[cube]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The length of a row, no less than `shortest`, from every lane's sum of squares.
#[cube]
pub fn length_of(squares: f32, shortest: f32, shared: &mut Shared<[f32]>, #[comptime] lanes: usize) -> f32 {
    let mut length = sum_lanes(squares, shared, lanes).sqrt();
    if length < shortest {
        length = shortest;
    }
    length
}

/// From every lane's sums of x^2 and x dy, for a row divided by its length: `inverse` and `along` of
/// `dx = inverse (dy - x along)`, with 1 / |x| and x . dy / |x|^2, or 1 / shortest and 0 where that is what divides.
#[cube]
pub fn length_backward(
    squares: f32,
    along: f32,
    shortest: f32,
    shared: &mut Shared<[f32]>,
    #[comptime] lanes: usize,
) -> (f32, f32) {
    let length = sum_lanes(squares, shared, lanes).sqrt();
    let mut along = sum_lanes(along, shared, lanes);
    let mut inverse = 1.0 / shortest;
    if length > shortest {
        inverse = 1.0 / length;
        along *= inverse * inverse;
    } else {
        along = 0.0f32.runtime();
    }
    (inverse, along)
}

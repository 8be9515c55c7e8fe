//! The few vector instructions that the kernel is made of, for sixteen output rows at a time, and those
//! that round an input.
//!
//! A vector of bytes holds four neighbouring elements of each of sixteen rows; [`Lanes::dot`]
//! multiplies them with four elements of an input, the same for all rows, and adds to one sum a row:
//! no sum is ever taken across a vector. Integer sums are exact, so every implementation gives the
//! same bits but for the fused multiply-add that the baseline lacks. To add one: a file here, and a
//! line in `product.rs`; the tests of `tests/quantised.rs` hold it.

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod plain;

/// Output rows of a panel.
pub const ROWS: usize = 16;

/// An instruction set. Everything is `inline(always)` into a function that enables it.
///
/// # Safety
/// Of all functions: the processor has the instructions, and pointers reach as far as they say.
pub trait Lanes: Copy {
    /// 64 unsigned bytes, four a row.
    type Bytes: Copy;
    /// 16 signed 32-bit integers.
    type Sums: Copy;
    /// Sums, and dots that have yet to be added to them.
    type Run: Copy;
    /// 16 floats.
    type Floats: Copy;
    /// Rows of the input that the registers hold sums for.
    const INPUTS: usize;
    /// Whether [`Lanes::dot`] with `WIDE` takes 128 off the bytes itself.
    const SIGNED: bool;

    /// 64 bytes from memory.
    unsafe fn load(at: *const u8) -> Self::Bytes;
    /// 64 bytes to memory.
    unsafe fn save(bytes: Self::Bytes, to: *mut u8);
    /// The low four bits of each.
    unsafe fn low(bytes: Self::Bytes) -> Self::Bytes;
    /// The high four bits of each.
    unsafe fn high(bytes: Self::Bytes) -> Self::Bytes;
    /// Adds 16 to the bytes whose bit is set among the 64 at `at`; the bytes are below 16.
    unsafe fn fifth(bytes: Self::Bytes, at: *const u8) -> Self::Bytes;
    /// Adds 16 times the two bits at `shift` of `pairs`; the bytes are below 16.
    unsafe fn sixth(bytes: Self::Bytes, pairs: Self::Bytes, shift: i32) -> Self::Bytes;
    /// The same sum for every row.
    unsafe fn start(value: i32) -> Self::Sums;
    /// Begins a run of dots, of which there may be as many as [`run`] says.
    unsafe fn begin(sums: Self::Sums) -> Self::Run;
    /// Adds each row's four bytes times the four signed bytes in `x`. Bytes above 63 need `WIDE`.
    unsafe fn dot<const WIDE: bool>(run: Self::Run, bytes: Self::Bytes, x: i32) -> Self::Run;
    /// The sums after a run.
    unsafe fn end<const WIDE: bool>(run: Self::Run) -> Self::Sums;
    /// As floats.
    unsafe fn floats(sums: Self::Sums) -> Self::Floats;
    /// 16 halves from memory.
    unsafe fn halves(at: *const u8) -> Self::Floats;
    /// 16 unsigned bytes from memory, as floats.
    unsafe fn unsigned(at: *const u8) -> Self::Floats;
    /// 16 signed bytes from memory, as floats.
    unsafe fn signed(at: *const u8) -> Self::Floats;
    /// The same number in all.
    unsafe fn splat(value: f32) -> Self::Floats;
    /// `a b`.
    unsafe fn times(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a b + c`.
    unsafe fn times_plus(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// 16 floats to memory.
    unsafe fn store(values: Self::Floats, to: *mut f32);
    /// Bits of the largest magnitude among 32 floats; what is no number is the largest.
    unsafe fn largest(x: *const f32) -> u32;
    /// Writes the integers nearest to 32 floats times `inverse`, ties to even, which are bytes; the sums of
    /// both halves. Of what is no number the result means nothing.
    unsafe fn round(x: *const f32, inverse: f32, to: *mut i8) -> [i32; 2];
}

/// How many dots of integers of so many bits a run may be of: sums of pairs of products stay below 2^15.
pub const fn run(bits: u32) -> usize {
    match bits {
        0..=4 => 8,
        5 => 4,
        6 => 2,
        // Whole bytes are added up in 32 bits at once.
        8 => 8,
        _ => panic!("integers of 7 bits, or of more than 8"),
    }
}

/// 1.5 * 2^23: added to a number below 2^22, it leaves the nearest integer in the low bits.
const SHIFT: f32 = 12_582_912.0;
/// All bits of a float but its sign: magnitudes are in the order of these bits.
const MAGNITUDE: i32 = 0x7fff_ffff;

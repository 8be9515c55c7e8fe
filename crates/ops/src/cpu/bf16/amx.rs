//! The register tile of AMX: 2 x 2 tiles of 16 x 16 sums, fed by `tdpbf16ps`, which multiplies 16
//! rows of 32 `k` with 32 `k` of 16 columns.
//!
//! Row panels are `[k / 32][32 rows][16 pairs]`, so that a tile of rows is 1 KiB in one piece; column
//! panels are `[k / 2][32 columns]` words as for AVX-512, of which a tile takes every line's half.
//!
//! Tiles need the system's permission, and a virtual machine may promise what it does not keep:
//! before the first use a product with known sums is tried ([`usable`]).

use super::avx512;
use super::panels::Kernel;
use super::whole::Whole;
use crate::cpu::matmul::Matrix;
use std::arch::asm;
use std::cell::Cell;

const SIDE: usize = 32;
/// Pairs of `k` a tile holds.
const PAIRS: usize = 16;
/// Words of both panels that one step of 32 `k` takes.
const STEP: usize = SIDE * PAIRS;

/// The tile.
pub struct Amx;

/// What `ldtilecfg` reads: palette 1, eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_a_row: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_a_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Kernel for Amx {
    const ROWS: usize = SIDE;
    const COLUMNS: usize = SIDE;
    const PAIRS: usize = PAIRS;
    /// A column panel of 64 KiB.
    const DEPTH: usize = 1024;

    unsafe fn pack_rows(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
        // SAFETY: the caller's conditions.
        unsafe { pack_rows(from, start, count, to) }
    }

    unsafe fn pack_columns(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
        let (values, rest) = to.split_at_mut(from.columns.div_ceil(2) * SIDE);
        rest.fill(0);
        // SAFETY: as above.
        unsafe { avx512::pack::<SIDE>(from, start, count, values) }
    }

    /// Once a thread: nothing else here uses tiles, and configuring them costs as much as a small
    /// product.
    unsafe fn enter() {
        thread_local! { static ENTERED: Cell<bool> = const { Cell::new(false) }; }
        if !ENTERED.replace(true) {
            // SAFETY: the caller says that the instruction is there.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) }
        }
    }

    unsafe fn tile(pairs: usize, rows: &[u32], columns: &[u32], out: *mut f32, stride: usize, keep: bool) {
        debug_assert!(pairs > 0 && pairs.is_multiple_of(PAIRS));
        // SAFETY: both panels hold `pairs` steps and `out` a tile; the caller configured the tiles.
        unsafe {
            asm!(
                "test {keep:e}, {keep:e}",
                "jz 3f",
                "tileloadd tmm0, [{top} + {stride}]",
                "tileloadd tmm1, [{top} + {stride} + 64]",
                "tileloadd tmm2, [{bottom} + {stride}]",
                "tileloadd tmm3, [{bottom} + {stride} + 64]",
                "jmp 2f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {a_line}]",
                "tileloadd tmm6, [{b} + {b_line}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {b_line} + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {a_line} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{top} + {stride}], tmm0",
                "tilestored [{top} + {stride} + 64], tmm1",
                "tilestored [{bottom} + {stride}], tmm2",
                "tilestored [{bottom} + {stride} + 64], tmm3",
                keep = in(reg) u32::from(keep),
                top = in(reg) out,
                bottom = in(reg) out.add(16 * stride),
                stride = in(reg) 4 * stride,
                a = inout(reg) rows.as_ptr() => _,
                b = inout(reg) columns.as_ptr() => _,
                a_line = in(reg) 64usize,
                b_line = in(reg) 4 * SIDE,
                steps = inout(reg) pairs / PAIRS => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

impl Whole for Amx {
    fn row_words(_: usize, row: usize, step: usize) -> usize {
        step * STEP + row * PAIRS
    }
}

/// Rows `start..start + count` of `from`, rounded, in the order of tiles.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn pack_rows(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
    use std::arch::x86_64::*;
    let k = from.columns;
    assert_eq!(to.len(), k.div_ceil(2).next_multiple_of(PAIRS) * SIDE);
    let whole = k / 32;
    if count < SIDE {
        to.fill(0);
    } else {
        to[whole * STEP..].fill(0);
    }
    if from.column_stride == 1 {
        for r in 0..count {
            let row = &from.data[(start + r) * from.row_stride..][..k];
            for (chunk, from) in row.chunks_exact(32).enumerate() {
                let to = &mut to[chunk * STEP + r * PAIRS..][..PAIRS];
                // SAFETY: 32 floats are read, 16 words written.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), avx512::round32(from.as_ptr())) };
            }
            for (i, pair) in row[whole * 32..].chunks(2).enumerate() {
                to[whole * STEP + r * PAIRS + i] = word(pair[0], pair.get(1));
            }
        }
    } else {
        // Rows are contiguous: 16 lines of pairs of 16 rows are turned into those rows; what is left
        // goes word by word.
        assert_eq!(from.row_stride, 1, "one stride of a matrix is one");
        let line = |l: usize| &from.data[l * from.column_stride + start..][..count];
        let turned = if count == SIDE { whole } else { 0 };
        for chunk in 0..turned {
            for half in 0..2 {
                // SAFETY: 16 floats of each of 32 lines are read, a tile of rows written.
                unsafe {
                    let mut pairs = [_mm512_setzero_si512(); 16];
                    for (i, pairs) in pairs.iter_mut().enumerate() {
                        let l = 32 * chunk + 2 * i;
                        *pairs = avx512::weave(line(l)[16 * half..].as_ptr(), line(l + 1)[16 * half..].as_ptr());
                    }
                    let to = &mut to[chunk * STEP + half * 16 * PAIRS..][..16 * PAIRS];
                    for (to, row) in to.chunks_exact_mut(PAIRS).zip(avx512::transpose(pairs)) {
                        _mm512_storeu_si512(to.as_mut_ptr().cast(), row);
                    }
                }
            }
        }
        for pair in PAIRS * turned..k.div_ceil(2) {
            let (first, second) = (line(2 * pair), (2 * pair + 1 < k).then(|| line(2 * pair + 1)));
            let to = &mut to[pair / PAIRS * STEP + pair % PAIRS..];
            for (r, &x) in first.iter().enumerate() {
                to[r * PAIRS] = word(x, second.map(|line| &line[r]));
            }
        }
    }
}

fn word(first: f32, second: Option<&f32>) -> u32 {
    u32::from(avx512::round(first)) | second.map_or(0, |&x| u32::from(avx512::round(x)) << 16)
}

/// Whether the processor has the instructions, the system lets us use them, and they do as they
/// should. The caller has looked for AVX512-BF16.
pub fn usable() -> bool {
    // Leaf 7: bit 22 AMX-BF16, bit 24 AMX-TILE.
    let promised = std::arch::x86_64::__cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == 1 << 22 | 1 << 24;
    // SAFETY: after the permission the instructions may be executed.
    promised && permitted() && unsafe { correct::<Amx>() }
}

/// Asks Linux for the tiles' state, for the whole process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call changes only what the process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Two steps of small whole numbers, whose sums are exact, from zero and on top of themselves.
unsafe fn correct<K: Kernel>() -> bool {
    let k = 64;
    let values = |salt: usize| -> Vec<f32> { (0..SIDE * k).map(|i| ((i * 7 + i / 13 * salt) % 11) as f32 - 5.0).collect() };
    let (left, right) = (values(3), values(5));
    let mut panels = [vec![0u32; k / 2 * SIDE], vec![0u32; k / 2 * SIDE]];
    let mut out = vec![0.0f32; SIDE * SIDE];
    // SAFETY: the caller's conditions; the panels hold k / 2 pairs and `out` a tile.
    unsafe {
        K::pack_rows(Matrix::new(&left, SIDE, k), 0, SIDE, &mut panels[0]);
        K::pack_columns(Matrix::new(&right, SIDE, k), 0, SIDE, &mut panels[1]);
        K::enter();
        K::tile(k / 2, &panels[0], &panels[1], out.as_mut_ptr(), SIDE, false);
        K::tile(k / 2, &panels[0], &panels[1], out.as_mut_ptr(), SIDE, true);
    }
    let sum = |i: usize, j: usize| (0..k).map(|l| left[i * k + l] * right[j * k + l]).sum::<f32>();
    (0..SIDE * SIDE).all(|at| out[at] == 2.0 * sum(at / SIDE, at % SIDE))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The same panels through the definition of the instructions (Intel's manual, volume 2:
    /// TILELOADD, TDPBF16PS, TILESTORED), for processors without them. `FORGETS` is one that
    /// overwrites what it should add to.
    pub struct Emulated<const FORGETS: bool = false>;

    /// 16 lines of 64 bytes, `stride` words apart.
    fn load(from: &[u32], stride: usize) -> [[u32; 16]; 16] {
        std::array::from_fn(|line| std::array::from_fn(|word| from[line * stride + word]))
    }

    fn multiply(sums: &mut [[f32; 16]; 16], a: &[[u32; 16]; 16], b: &[[u32; 16]; 16]) {
        let low = |x: u32| f32::from_bits(x << 16);
        let high = |x: u32| f32::from_bits(x & 0xffff_0000);
        for m in 0..16 {
            for k in 0..16 {
                for n in 0..16 {
                    sums[m][n] += low(a[m][k]) * low(b[k][n]);
                    sums[m][n] += high(a[m][k]) * high(b[k][n]);
                }
            }
        }
    }

    impl<const FORGETS: bool> Kernel for Emulated<FORGETS> {
        const ROWS: usize = Amx::ROWS;
        const COLUMNS: usize = Amx::COLUMNS;
        const PAIRS: usize = Amx::PAIRS;
        const DEPTH: usize = Amx::DEPTH;

        unsafe fn pack_rows(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
            // SAFETY: the caller's conditions.
            unsafe { Amx::pack_rows(from, start, count, to) }
        }

        unsafe fn pack_columns(from: Matrix<'_>, start: usize, count: usize, to: &mut [u32]) {
            // SAFETY: as above.
            unsafe { Amx::pack_columns(from, start, count, to) }
        }

        unsafe fn tile(pairs: usize, rows: &[u32], columns: &[u32], out: *mut f32, stride: usize, keep: bool) {
            // Strides and offsets as `Amx::tile` has them, in words.
            let mut sums = [[[[0.0f32; 16]; 16]; 2]; 2];
            let place = |i: usize, j: usize, m: usize, n: usize| (16 * i + m) * stride + 16 * j + n;
            let each = || (0..1024).map(|x| (x / 512, x / 256 % 2, x / 16 % 16, x % 16));
            if keep && !FORGETS {
                // SAFETY: the caller gives a whole tile.
                each().for_each(|(i, j, m, n)| sums[i][j][m][n] = unsafe { *out.add(place(i, j, m, n)) });
            }
            for step in 0..pairs / PAIRS {
                let (a, b) = (&rows[step * STEP..], &columns[step * STEP..]);
                for i in 0..2 {
                    for j in 0..2 {
                        multiply(&mut sums[i][j], &load(&a[256 * i..], 16), &load(&b[16 * j..], SIDE));
                    }
                }
            }
            // SAFETY: as above.
            each().for_each(|(i, j, m, n)| unsafe { *out.add(place(i, j, m, n)) = sums[i][j][m][n] });
        }
    }

    impl<const FORGETS: bool> Whole for Emulated<FORGETS> {
        fn row_words(pairs: usize, row: usize, step: usize) -> usize {
            Amx::row_words(pairs, row, step)
        }
    }

    #[test]
    fn the_check_before_first_use_passes_what_is_right_and_only_that() {
        if !crate::cpu::bf16::available() {
            return;
        }
        // SAFETY: packing wants AVX512-BF16, which is there.
        unsafe {
            assert!(correct::<Emulated<false>>());
            assert!(!correct::<Emulated<true>>());
        }
    }
}

//! Damaged files, ten thousand of each format: an error or a checkpoint, never a panic, and never
//! more memory than a small multiple of the file.

mod weights_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use recast_models::weights::open;
use weights_support::{Gguf, f32_bytes, ramp, safetensors};

/// Counts the bytes in use and remembers the most there ever were.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc_zeroed`'s contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that opening and reading a file of a few kB may take. Buffers and messages included;
/// a lying count would ask for gigabytes.
const BOUND: usize = 1 << 20;

/// A small generator of numbers (splitmix64), so that a failure can be repeated by its case.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const LIES: [u64; 14] = [0, 1, 2, 31, 255, 65_536, 1 << 31, 1 << 32, 1 << 40, 1 << 61, 1 << 62, 1 << 63, u64::MAX - 7, u64::MAX];
const TEXTS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "1e300",
    "0.5",
    "4294967296",
    "4611686018427387904",
    "18446744073709551615",
    "99999999999999999999999",
    "[",
    "\"F64\"",
    "null",
];

/// One to three injuries.
fn injure(numbers: &mut Numbers, bytes: &mut Vec<u8>) {
    for _ in 0..1 + numbers.below(3) {
        let at = numbers.below(bytes.len());
        match numbers.below(9) {
            0 => {
                for _ in 0..1 + numbers.below(4) {
                    let at = numbers.below(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << numbers.below(8);
                    }
                }
            }
            1 => bytes.truncate(at),
            2 | 3 => {
                let lie = numbers.pick(&LIES).to_le_bytes();
                let width = numbers.pick(&[1, 2, 4, 8]);
                bytes.iter_mut().skip(at).zip(&lie[..width]).for_each(|(b, l)| *b = *l);
            }
            4 => {
                let end = (at + 1 + numbers.below(40)).min(bytes.len());
                let piece = bytes[at.min(end)..end].to_vec();
                let to = numbers.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            5 => {
                let end = (at + 1 + numbers.below(40)).min(bytes.len());
                bytes.drain(at.min(end)..end);
            }
            6 => bytes.extend((0..numbers.below(100)).map(|i| i as u8)),
            _ => {
                // A number in the text becomes another; the length before a safetensors header
                // follows, so that the JSON is still reached.
                let digits: Vec<usize> = (8..bytes.len()).filter(|i| bytes[*i].is_ascii_digit()).collect();
                let Some(&start) = digits.get(numbers.below(digits.len())) else {
                    continue;
                };
                let end = (start..bytes.len()).find(|i| !bytes[*i].is_ascii_digit()).unwrap_or(bytes.len());
                let text = numbers.pick(&TEXTS);
                bytes.splice(start..end, text.bytes());
                if !bytes.starts_with(b"GGUF") {
                    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
                    let length = length.wrapping_add(text.len() as u64).wrapping_sub((end - start) as u64);
                    bytes[..8].copy_from_slice(&length.to_le_bytes());
                }
            }
        }
    }
}

/// Opens and reads everything. True if it opened.
fn use_all(path: &Path) -> bool {
    let Ok(checkpoint) = open(path) else {
        return false;
    };
    for info in checkpoint.infos() {
        let values = checkpoint.read_f32(&info.name).expect("what is listed can be read");
        assert_eq!(Some(values.len()), info.elements());
        if let Some((dtype, bytes)) = checkpoint.raw(&info.name) {
            assert_eq!((dtype, Some(bytes.len())), (info.dtype, info.bytes()));
        }
    }
    let _ = checkpoint.read_f32("model.layers.0.w");
    let _ = checkpoint.config();
    let _ = checkpoint.gguf_vocab();
    true
}

fn survive(name: &str, whole: &[u8], seed: u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("config.json"), "{}").expect("writes");
    let path = folder.path().join(name);
    std::fs::write(&path, whole).expect("writes");
    assert!(use_all(&path), "the unharmed file opens");
    let mut opened = 0;
    for case in 0..10_000 {
        let mut bytes = whole.to_vec();
        injure(&mut Numbers(seed + case), &mut bytes);
        // A new file: some file systems wait for the disk when an old one is emptied and written.
        std::fs::remove_file(&path).expect("removes");
        std::fs::write(&path, &bytes).expect("writes");
        let before = IN_USE.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        match std::panic::catch_unwind(|| use_all(&path)) {
            Ok(ok) => opened += usize::from(ok),
            Err(_) => panic!("{name}, case {case}: panicked"),
        }
        let most = MOST.load(Ordering::Relaxed) - before;
        assert!(most < BOUND, "{name}, case {case}: {most} bytes were allocated");
    }
    // Both outcomes must occur often, or the injuries miss the parts that matter.
    assert!((100..9000).contains(&opened), "{name}: {opened} of 10000 opened");
}

/// One test, because the count of allocated bytes is one for the whole process.
#[test]
fn ten_thousand_injuries_of_each_format() {
    // Enough work to start the thread pool, whose memory is not the file's.
    let mut out = vec![0f32; 1 << 18];
    recast_models::weights::gguf::dequantize(recast_models::weights::Dtype::F32, &vec![0; 1 << 20], &mut out)
        .expect("the lengths agree");

    survive(
        "model.safetensors",
        &safetensors(&[
            ("model.embed_tokens.weight", "F32", &[4, 3], f32_bytes(&ramp(12))),
            ("model.norm.weight", "BF16", &[8], vec![1; 16]),
            ("empty", "F16", &[0, 8], vec![]),
            ("ids", "I64", &[2], vec![2; 16]),
        ]),
        1 << 32,
    );

    let mut gguf = Gguf::tiny("llama");
    gguf.vocab();
    gguf.string("llama.rope.scaling.type", "linear");
    gguf.f32("llama.rope.scaling.factor", 2.0);
    gguf.tensors.push(("blk.0.ffn_up.weight".into(), vec![256, 1], 12, vec![3; 144], None));
    gguf.tensors.push(("blk.0.ffn_down.weight".into(), vec![32, 2], 3, vec![5; 40], None));
    survive("model.gguf", &gguf.bytes(), 2 << 32);
}

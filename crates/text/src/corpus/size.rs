//! How much a corpus file holds, told by its name and its first bytes: nothing is unpacked for it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Packed, kind_of};
use crate::error::{Result, TextError};

/// Bytes of the longest header of a zstd frame (RFC 8878, section 3.1.1.1, and the magic number before it).
const FRAME_HEADER: u64 = 18;

/// How large a corpus file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSize {
    /// Bytes on disk.
    pub stored: u64,
    /// Whether it is packed (`.zst`, `.gz`, `.parquet`), so that there is more text than these.
    pub packed: bool,
    /// Bytes that there are at least when it is unpacked. None where a packed file does not say: gzip and Parquet say so at
    /// their ends if at all, and zstd need not.
    pub unpacked: Option<u64>,
}

/// The size of a corpus file.
///
/// # Errors
/// When it cannot be read.
pub fn file_size(path: &Path) -> Result<FileSize> {
    let file = File::open(path).map_err(TextError::io("open", path))?;
    let stored = file.metadata().map_err(TextError::io("open", path))?.len();
    Ok(match kind_of(path) {
        Some((_, Packed::Zstd)) => {
            let mut header = Vec::new();
            file.take(FRAME_HEADER).read_to_end(&mut header).map_err(TextError::io("read", path))?;
            let first = zstd::zstd_safe::get_frame_content_size(&header).ok().flatten();
            // A frame that holds less than the file does is one of many, of which the others are not known.
            FileSize { stored, packed: true, unpacked: first.filter(|&size| size >= stored) }
        }
        Some((_, Packed::Gzip)) | Some(("parquet", _)) => FileSize { stored, packed: true, unpacked: None },
        _ => FileSize { stored, packed: false, unpacked: Some(stored) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_it_unpacks_to_where_its_header_does() {
        let folder = tempfile::tempdir().unwrap();
        let text = b"the cat sat on the mat\n".repeat(100);
        let whole = zstd::bulk::compress(&text, 3).unwrap();
        // As it comes through a pipe: the header is written before the end is known.
        let piped = zstd::stream::encode_all(text.as_slice(), 3).unwrap();
        let (frames, many) = (whole.len(), whole.repeat(100));
        assert!(frames * 100 > text.len(), "a frame holds less than the file");
        let size = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let size = file_size(&path).unwrap();
            assert_eq!(size.stored, bytes.len() as u64, "{name}");
            (size.packed, size.unpacked)
        };
        assert_eq!(size("a.txt", &text), (false, Some(2300)));
        assert_eq!(size("a.jsonl.zst", &whole), (true, Some(2300)));
        assert_eq!(size("piped.jsonl.zst", &piped), (true, None));
        assert_eq!(size("many.jsonl.zst", &many), (true, None));
        assert_eq!(size("no.jsonl.zst", b"plain"), (true, None));
        assert_eq!(size("empty.jsonl.zst", b""), (true, None));
        assert_eq!(size("a.jsonl.gz", b"\x1f\x8b"), (true, None));
        assert_eq!(size("a.parquet", b"PAR1"), (true, None));
        assert!(file_size(&folder.path().join("nowhere.txt")).unwrap_err().to_string().contains("nowhere.txt"));
    }
}

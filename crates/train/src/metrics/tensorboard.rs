//! TensorBoard event files: framed records of two protobuf messages, written by hand because the
//! crates for it are no longer kept.
//!
//! A record is length (u64 LE), masked CRC32C of the length, data, masked CRC32C of the data.

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends scalars to one event file.
pub struct EventWriter(BufWriter<File>);

impl EventWriter {
    /// A new event file in `folder`; runs that are resumed get one more, as TensorBoard expects.
    pub fn create(folder: &Path) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = format!("events.out.tfevents.{}.{}", now.as_secs(), std::process::id());
        let mut writer = Self(BufWriter::new(File::create(folder.join(name))?));
        let mut event = Vec::new();
        double(&mut event, 1, now.as_secs_f64());
        bytes(&mut event, 3, b"brain.Event:2");
        writer.record(&event)?;
        Ok(writer)
    }

    /// One value of the curve `tag`.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f64) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, 5);
        entry.extend_from_slice(&(value as f32).to_le_bytes());
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &entry);
        let mut event = Vec::new();
        double(&mut event, 1, now.as_secs_f64());
        key(&mut event, 2, 0);
        varint(&mut event, step);
        bytes(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        self.0.write_all(&length)?;
        self.0.write_all(&masked(&length).to_le_bytes())?;
        self.0.write_all(data)?;
        self.0.write_all(&masked(data).to_le_bytes())?;
        self.0.flush()
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u64, wire: u64) {
    varint(out, field << 3 | wire);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// CRC32C (Castagnoli), masked as TensorFlow does.
fn masked(data: &[u8]) -> u32 {
    let crc = !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    });
    (crc.rotate_right(15)).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_standard_string() {
        // CRC32C("123456789") = e3069283, unmasked.
        let crc = masked(b"123456789").wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(crc, 0xe306_9283);
    }

    #[test]
    fn varints() {
        let mut out = Vec::new();
        varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }
}

//! A gzip file around compressed data.

use std::io;

use crate::unwind;

/// Quick: a profile is written while a program waits, and read once.
const LEVEL: u8 = 3;

/// Magic, deflate, no flags, no time, no hint, an unknown system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// A gzip file of one member, which is `data`.
pub(super) fn file(data: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressed = Vec::new();
    // Without optimisation the compressor is made on the stack, where it takes more than
    // 256 KiB.
    let is_done = unwind::with_stack_enough(&mut || {
        compressed = miniz_oxide::deflate::compress_to_vec(data, LEVEL);
    });
    if !is_done {
        return Err(io::Error::new(
            io::ErrorKind::OutOfMemory,
            "no stack to compress it on: the thread has little left, and there was no other",
        ));
    }
    // The length modulo 2^32, by the format.
    #[expect(clippy::cast_possible_truncation, reason = "the format asks for it")]
    let length = data.len() as u32;
    let parts: [&[u8]; 4] = [
        &HEAD,
        &compressed,
        &crc32(data).to_le_bytes(),
        &length.to_le_bytes(),
    ];
    Ok(parts.concat())
}

/// The checksum of gzip: the polynomial 0x04c11db7, bits reversed.
fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        crc >> 8 ^ TABLE[usize::from(low ^ byte)]
    })
}

/// The checksum of each byte.
static TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        // Below 256.
        #[expect(clippy::cast_possible_truncation, reason = "it is a byte")]
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ (0xedb8_8320 * (crc & 1));
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::crc32;

    #[test]
    fn the_checksum_is_that_of_gzip() {
        assert_eq!(crc32(b""), 0);
        // The check value that the catalogues of such sums give.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}

//! What the processor does at once: look for a byte among sixteen, and fetch a
//! cache line that is not needed yet.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "asks for instructions that it knows to be there"
    )
)]

/// Begins to bring what is going to be written into the cache.
#[inline]
pub(super) fn fetch<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which changes nothing that a program can see. All processors of this
    // architecture take it, if only to do nothing, but for the very first of one maker's in 2004.
    unsafe {
        core::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}

/// Which of 16 bytes, the lowest first, are `byte`: a bit for each.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn equal(bytes: [u64; 2], byte: u8) -> u32 {
    // SAFETY: all processors of this architecture have SSE2.
    unsafe { by_sse2(bytes, byte) }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use one_by_one as equal;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn by_sse2([low, high]: [u64; 2], byte: u8) -> u32 {
    use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    let bytes = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
    let wanted = _mm_set1_epi8(byte.cast_signed());
    _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, wanted)).cast_unsigned()
}

/// The same where there is no instruction for it.
#[cfg(any(test, not(target_arch = "x86_64")))]
pub(super) fn one_by_one([low, high]: [u64; 2], byte: u8) -> u32 {
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    let place = |(at, one): (usize, &u8)| u32::from(*one == byte) << at;
    bytes.iter().enumerate().map(place).sum()
}

#[cfg(test)]
mod tests {
    use super::{equal, one_by_one};

    /// Bug prevented: the two ways differ, and one of them is never run here.
    #[test]
    fn both_ways_find_the_same() {
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        let mut found = 0;
        for round in 0..20_000_u64 {
            word = word.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(round);
            // Few values, so that many are found.
            let low = word & 0x0301_8003_ff01_0103;
            let high = word.rotate_left(29) & 0x8000_0103_0000_01ff;
            for byte in [0, 1, 2, 3, 0x80, 0xff] {
                let places = equal([low, high], byte);
                assert_eq!(places, one_by_one([low, high], byte));
                found += places.count_ones();
            }
        }
        assert!(found > 100_000);
        let bytes = [0x00ff_0000_0000_0005, 0x0500_0000_0000_00ff];
        assert_eq!((equal(bytes, 5), equal(bytes, 0xff)), (0x8001, 0x0140));
    }
}

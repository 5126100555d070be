//! A hash of numbers that is the same on every platform.

/// A number that depends on all bits of both: the finaliser of `SplitMix64` (Steele, Lea and
/// Flood, 2014).
pub fn mix(left: u64, right: u64) -> u64 {
    let mut bits = left ^ right.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

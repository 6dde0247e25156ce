//! Masking: XOR with a key of four bytes over and over, eight at a time.
//!
//! Invariant: masking twice with the same key gives the bytes back.

/// Bytes done in one step; the compiler makes vector instructions of it.
const STEP_BYTES: usize = 8;

/// Masks or unmasks a whole payload in place.
pub(super) fn apply(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut steps = payload.chunks_exact_mut(STEP_BYTES);
    for step in &mut steps {
        // `chunks_exact_mut` gives exactly eight bytes; without them nothing is to do.
        let Ok(bytes) = <[u8; STEP_BYTES]>::try_from(&*step) else { continue };
        step.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (byte, key) in steps.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

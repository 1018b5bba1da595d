//! Seeded randomness: every run prints its seed, `SLUICE_SEED` repeats it.

use std::sync::OnceLock;

/// The seed of this test process.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = match std::env::var("SLUICE_SEED") {
            Ok(text) => text.parse().expect("SLUICE_SEED is a number"),
            Err(_) => fastrand::u64(0..1 << 53),
        };
        println!("seed: SLUICE_SEED={seed}");
        seed
    })
}

/// A generator for `purpose`, the same for the same seed. Prints the seed into the test's output.
pub fn rng(purpose: &str) -> fastrand::Rng {
    println!("seed of {purpose}: SLUICE_SEED={}", seed());
    let salt = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    fastrand::Rng::with_seed(seed() ^ salt)
}

/// A name nobody else uses: `prefix` and twelve random letters.
pub fn unique(prefix: &str) -> String {
    let tail: String = std::iter::repeat_with(fastrand::lowercase).take(12).collect();
    format!("{prefix}-{tail}")
}

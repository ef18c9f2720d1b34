//! The fuzz targets on seeds, and on seeds that were tampered with: always the same ones, so that a failure comes again.

use postern_tests::fuzz::TARGETS;

/// Inputs for each target.
const INPUTS: usize = 3000;

/// A small generator of numbers (xorshift64*, Vigna 2016): the same at each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % bound.max(1)
    }
}

fn tampered(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        match numbers.below(6) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            2 if !bytes.is_empty() => drop(bytes.remove(at)),
            3 => bytes.insert(at, u8::try_from(numbers.below(256)).unwrap()),
            4 => bytes.splice(at.., other[numbers.below(other.len())..].iter().copied()).for_each(drop),
            _ => {
                let piece = bytes[at..].to_vec();
                bytes.extend(piece);
            }
        }
    }
    bytes
}

#[test]
fn nothing_gets_through_the_fuzz_targets() {
    for (name, target, seeds) in TARGETS {
        let (seeds, mut numbers) = (seeds(), Numbers(0x9E37_79B9_7F4A_7C15));
        for seed in &seeds {
            target(seed);
        }
        for nth in 0..INPUTS {
            let other = &seeds[numbers.below(seeds.len())];
            let input = tampered(&seeds[nth % seeds.len()], other, &mut numbers);
            let outcome = std::panic::catch_unwind(|| target(&input));
            assert!(outcome.is_ok(), "{name} fails on {:?}", String::from_utf8_lossy(&input));
        }
    }
}

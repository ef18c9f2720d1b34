//! Known weak public keys.

/// The modulus lengths that are taken, in bits.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// No sound modulus has a factor as small as this.
const SMALL_FACTORS: u32 = 2000;
/// The primes of the ROCA fingerprint (CVE-2017-15361; Nemec et al., "The Return of Coppersmith's Attack", CCS 2017 §4).
const ROCA_PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

/// Whether a big-endian RSA modulus is of a wrong length, padded, has a small factor, or comes from a broken generator.
pub(crate) fn modulus(n: &[u8]) -> bool {
    let Some(first) = n.first() else { return true };
    let bits = n.len() * 8 - first.leading_zeros() as usize;
    *first == 0 || !MODULUS_BITS.contains(&bits) || has_small_factor(n) || is_roca(n)
}

fn remainder(n: &[u8], divisor: u32) -> u32 {
    n.iter().fold(0, |rest, byte| (rest << 8 | u32::from(*byte)) % divisor)
}

fn has_small_factor(n: &[u8]) -> bool {
    let is_prime =
        |candidate: u32| (2..candidate).take_while(|d| d * d <= candidate).all(|d| !candidate.is_multiple_of(d));
    (2..SMALL_FACTORS).filter(|candidate| is_prime(*candidate)).any(|prime| remainder(n, prime) == 0)
}

/// Primes of the broken generator are powers of 65537 modulo each small prime, and so is their product.
fn is_roca(n: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let rest = remainder(n, *prime);
        let powers = std::iter::successors(Some(1), |power| Some(power * 65_537 % prime));
        powers.take(*prime as usize).any(|power| power == rest)
    })
}

/// 2^255 - 19, little-endian.
const FIELD: [u8; 32] = {
    let mut bytes = [0xFF; 32];
    bytes[0] = 0xED;
    bytes[31] = 0x7F;
    bytes
};

/// The y coordinates of the points of order 1, 2, 4 and 8 on edwards25519, little-endian, without the sign bit: under such a key
/// one signature fits every message.
const SMALL_ORDER: [[u8; 32]; 5] = [
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut minus_one = FIELD;
        minus_one[0] -= 1;
        minus_one
    },
    [0; 32],
    [
        0x26, 0xE8, 0x95, 0x8F, 0xC2, 0xB2, 0x27, 0xB0, 0x45, 0xC3, 0xF4, 0x89, 0xF2, 0xEF, 0x98, 0xF0, 0xD5, 0xDF,
        0xAC, 0x05, 0xD3, 0xC6, 0x33, 0x39, 0xB1, 0x38, 0x02, 0x88, 0x6D, 0x53, 0xFC, 0x05,
    ],
    [
        0xC7, 0x17, 0x6A, 0x70, 0x3D, 0x4D, 0xD8, 0x4F, 0xBA, 0x3C, 0x0B, 0x76, 0x0D, 0x10, 0x67, 0x0F, 0x2A, 0x20,
        0x53, 0xFA, 0x2C, 0x39, 0xCC, 0xC6, 0x4E, 0xC7, 0xFD, 0x77, 0x92, 0xAC, 0x03, 0x7A,
    ],
];

/// Whether an encoded Ed25519 public key (RFC 8032 §5.1.2) is of small order or not in its one canonical form.
pub(crate) fn edwards_point(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7F;
    let is_canonical = y.iter().rev().lt(FIELD.iter().rev());
    !is_canonical || SMALL_ORDER.contains(&y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moduli_of_the_wrong_form_are_weak() {
        // Odd, of the right length, without a factor below 2000: 2^2047 + 0x10F..., found by trial.
        let sound = (0..u8::MAX).find_map(|low| {
            let mut n = vec![0x5A; 256];
            n[0] = 0x80;
            n[255] = low | 1;
            (!has_small_factor(&n)).then_some(n)
        });
        let sound = sound.unwrap();
        assert!(!modulus(&sound));
        assert!(modulus(&[]) && modulus(&sound[..255]) && modulus(&[&[0], sound.as_slice()].concat()));
        let mut even = sound.clone();
        even[255] &= 0xFE;
        assert!(modulus(&even));
        assert!(modulus(&vec![0xFF; 513]));
    }

    #[test]
    fn a_product_of_powers_of_65537_is_known_as_roca() {
        assert!(is_roca(&[1]));
        assert!(is_roca(&65_537_u64.pow(3).to_be_bytes()));
        assert!(!is_roca(&[7]));
    }

    #[test]
    fn small_order_points_and_second_encodings_are_weak() {
        for y in SMALL_ORDER {
            assert!(edwards_point(&y));
            let mut signed = y;
            signed[31] |= 0x80;
            assert!(edwards_point(&signed));
        }
        assert!(edwards_point(&FIELD), "zero, written as p");
        assert!(edwards_point(&[0xFF; 32]));
        assert!(!edwards_point(&[9; 32]));
    }
}

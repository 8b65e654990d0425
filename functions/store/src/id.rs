//! Document ids: 20 bytes (the table's number, random bytes and a checksum) as 32 characters of
//! Crockford's base 32 in lower case. The characters sort like the bytes.

pub(super) const ID_LENGTH: usize = 32;

const NUMBER_BYTES: usize = 3;
const RANDOM_BYTES: usize = 15;
const ALL_BYTES: usize = NUMBER_BYTES + RANDOM_BYTES + 2;
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The value of each digit, indexed by byte; [`NO_DIGIT`] for other bytes.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        digits[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    digits
};
const NO_DIGIT: u8 = 0xFF;

const _: () = assert!(ALL_BYTES * 8 == ID_LENGTH * 5);

/// The exclusive upper bound of table numbers.
pub(super) const MAX_NUMBER: u32 = 1 << (8 * NUMBER_BYTES);

/// The id of a document in the table with this number.
pub(super) fn encode(number: u32, random: u128) -> String {
    let mut bytes = [0; ALL_BYTES];
    bytes[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes()[4 - NUMBER_BYTES..]);
    bytes[NUMBER_BYTES..ALL_BYTES - 2].copy_from_slice(&random.to_be_bytes()[..RANDOM_BYTES]);
    let sum = checksum(&bytes[..ALL_BYTES - 2]);
    bytes[ALL_BYTES - 2..].copy_from_slice(&sum.to_be_bytes());
    let digits = bytes.as_chunks::<5>().0.iter().flat_map(|five| {
        let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        (0..8).rev().map(move |digit| char::from(ALPHABET[(bits >> (5 * digit) & 31) as usize]))
    });
    digits.collect()
}

/// The number of an id's table. The error says why a text is not an id.
pub(super) fn table_number(id: &str) -> Result<u32, String> {
    if id.len() != ID_LENGTH {
        return Err(format!("Invalid ID length {}", id.len()));
    }
    let mut bytes = [0; ALL_BYTES];
    for (five, digits) in
        bytes.as_chunks_mut::<5>().0.iter_mut().zip(id.as_bytes().as_chunks::<8>().0)
    {
        let mut bits = 0_u64;
        for digit in digits {
            let value = DIGITS[usize::from(*digit)];
            if value == NO_DIGIT {
                return Err("Invalid character".to_owned());
            }
            bits = bits << 5 | u64::from(value);
        }
        five.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    let (content, sum) = bytes.split_at(ALL_BYTES - 2);
    if sum != checksum(content).to_be_bytes() {
        return Err("Invalid checksum".to_owned());
    }
    Ok(content[..NUMBER_BYTES].iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// CRC-16/CCITT-FALSE: detects every typing error of up to two adjacent characters.
fn checksum(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |mut sum: u16, byte| {
        sum ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ 0x1021 };
        }
        sum
    })
}

//! AWS event streams (<https://smithy.io/2.0/aws/amazon-eventstream.html>): messages of a prelude (total length, headers' length, CRC-32),
//! headers, a payload, and a CRC-32 over all of it. A message is given out when it is whole and both checksums hold.

/// Largest message, in bytes: the format's own bound for the payload, and headers.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024 + 128 * 1024 + 16;
const PRELUDE_BYTES: usize = 12;
const CHECKSUM_BYTES: usize = 4;
/// The type of headers that are texts; the others are not read.
const TEXT: u8 = 7;

/// Why the bytes are no event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message is larger, or smaller, than any may be.
    #[error("a message of an impossible length")]
    Length,
    /// A checksum does not hold.
    #[error("a message's checksum is wrong")]
    Checksum,
    /// The headers cannot be read.
    #[error("a message's headers are damaged")]
    Headers,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    headers: Vec<(String, String)>,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Message {
    /// A header that is a text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The decoder.
#[derive(Debug, Default)]
pub struct Decoder {
    waiting: Vec<u8>,
}

impl Decoder {
    /// Takes more bytes and gives the messages that are whole with them.
    ///
    /// # Errors
    /// [`Fault`]; the stream is over then.
    pub fn feed(&mut self, bytes: &[u8], mut message: impl FnMut(Message)) -> Result<(), Fault> {
        self.waiting.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) = length(&self.waiting[at..])? {
            let Some(whole) = self.waiting.get(at..at + length) else { break };
            message(read(whole)?);
            at += length;
        }
        self.waiting.drain(..at);
        Ok(())
    }

    /// Whether no part of a message waits for its rest.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_be_bytes)
}

/// The length of the message that begins here, once its prelude has come.
fn length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let (Some(total), Some(headers), Some(checksum)) = (number(bytes, 0), number(bytes, 4), number(bytes, 8)) else {
        return Ok(None);
    };
    if crc32fast::hash(&bytes[..8]) != checksum {
        return Err(Fault::Checksum);
    }
    let size = |number| usize::try_from(number).map_err(|_| Fault::Length);
    let (total, headers) = (size(total)?, size(headers)?);
    let fits = total <= MAX_MESSAGE_BYTES && headers <= total.saturating_sub(PRELUDE_BYTES + CHECKSUM_BYTES);
    if total < PRELUDE_BYTES + CHECKSUM_BYTES || !fits { Err(Fault::Length) } else { Ok(Some(total)) }
}

fn read(whole: &[u8]) -> Result<Message, Fault> {
    let (checked, checksum) = whole.split_at(whole.len() - CHECKSUM_BYTES);
    if number(checksum, 0) != Some(crc32fast::hash(checked)) {
        return Err(Fault::Checksum);
    }
    let headers = number(whole, 4).and_then(|length| usize::try_from(length).ok()).ok_or(Fault::Length)?;
    let rest = checked.get(PRELUDE_BYTES..).ok_or(Fault::Length)?;
    let (headers, payload) = rest.split_at_checked(headers).ok_or(Fault::Length)?;
    Ok(Message { headers: read_headers(headers).ok_or(Fault::Headers)?, payload: payload.to_vec() })
}

fn read_headers(mut bytes: &[u8]) -> Option<Vec<(String, String)>> {
    let mut headers = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        let (kind, rest) = rest.split_first()?;
        let size = match kind {
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            5 | 8 => 8,
            9 => 16,
            6 | &TEXT => {
                let (size, _) = rest.split_first_chunk::<2>()?;
                2 + usize::from(u16::from_be_bytes(*size))
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(size)?;
        if *kind == TEXT {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
            headers.push((text(name)?, text(value.get(2..)?)?));
        }
        bytes = rest;
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            block.push(u8::try_from(name.len()).unwrap());
            block.extend(name.as_bytes());
            block.push(TEXT);
            block.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            block.extend(value.as_bytes());
        }
        let total = u32::try_from(PRELUDE_BYTES + block.len() + payload.len() + CHECKSUM_BYTES).unwrap();
        let mut bytes = total.to_be_bytes().to_vec();
        bytes.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes.extend(block);
        bytes.extend(payload);
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn decoded(parts: &[&[u8]]) -> (Vec<Message>, Result<bool, Fault>) {
        let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
        for part in parts {
            if let Err(fault) = decoder.feed(part, |message| messages.push(message)) {
                return (messages, Err(fault));
            }
        }
        (messages, Ok(decoder.is_empty()))
    }

    #[test]
    fn every_damage_is_noticed_and_no_part_is_taken_for_a_message() {
        let good = message(&[(":event-type", "x")], b"{}");
        let (messages, ended) = decoded(&[&good]);
        assert_eq!(
            (messages[0].header(":event-type"), messages[0].payload.as_slice(), ended),
            (Some("x"), &b"{}"[..], Ok(true))
        );
        for at in 0..good.len() {
            let mut damaged = good.clone();
            damaged[at] ^= 0x10;
            let (messages, ended) = decoded(&[&damaged]);
            assert!(messages.is_empty() && ended != Ok(true), "byte {at}");
            let (messages, ended) = decoded(&[&good[..at]]);
            assert!(messages.is_empty() && ended == Ok(at == 0), "cut at {at}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_kept() {
        for (total, headers) in [(0, 0), (15, 0), (u32::MAX, 0), (20, 5), (16, u32::MAX)] {
            let mut prelude: Vec<u8> = [u32::to_be_bytes(total), u32::to_be_bytes(headers)].concat();
            prelude.extend(crc32fast::hash(&prelude).to_be_bytes());
            assert_eq!(decoded(&[&prelude]).1, Err(Fault::Length), "{total} {headers}");
        }
    }

    proptest! {
        #[test]
        fn messages_do_not_depend_on_how_the_bytes_are_cut(payloads in prop::collection::vec("[a-z]{0,20}", 1..4), cut in 0usize..200) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|payload| message(&[("a", payload)], payload.as_bytes())).collect();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(decoded(&[&bytes]), decoded(&[head, tail]));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decoded(&[&bytes]);
        }
    }
}

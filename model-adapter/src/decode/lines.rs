//! Lines of JSON (NDJSON, <https://github.com/ndjson/ndjson-spec>): a line ends in LF or CRLF, and empty ones are skipped.

use super::sse::{Fault, MAX_EVENT_BYTES};

/// The decoder.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The line that is still coming.
    line: Vec<u8>,
}

impl Decoder {
    /// Takes more bytes and gives the lines that are whole with them.
    ///
    /// # Errors
    /// [`Fault::TooLarge`]; the stream is over then.
    pub fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(Vec<u8>)) -> Result<(), Fault> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if self.line.len() > MAX_EVENT_BYTES {
                return Err(Fault::TooLarge);
            }
            if let Some(whole) = self.finish() {
                line(whole);
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > MAX_EVENT_BYTES { Err(Fault::TooLarge) } else { Ok(()) }
    }

    /// The line that has come without its end.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        let whole = std::mem::take(&mut self.line);
        let blank = whole.iter().all(u8::is_ascii_whitespace);
        (!blank).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut decoder, mut lines) = (Decoder::default(), Vec::new());
        for part in parts {
            decoder.feed(part, |line| lines.push(line)).unwrap();
        }
        lines.extend(decoder.finish());
        lines
    }

    #[test]
    fn lines_are_bounded_and_blank_ones_skipped() {
        assert_eq!(decoded(&[b"{}\r\n\n \r\n[1]\n\n2"]), [b"{}\r".to_vec(), b"[1]".to_vec(), b"2".to_vec()]);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(&vec![b'x'; MAX_EVENT_BYTES + 1], |_| ()), Err(Fault::TooLarge));
    }

    proptest! {
        #[test]
        fn the_lines_do_not_depend_on_how_the_bytes_are_cut(text in "[a\n\r ]{0,40}", cut in 0usize..40) {
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(decoded(&[bytes]), decoded(&[head, tail]));
        }
    }
}

//! Server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>).
//!
//! Lines end in CR, LF or CRLF, mixed and split anywhere; a BOM may come first; comments are skipped. An event is given out
//! at its blank line, or at the end of the stream when that line is missing. UTF-8 is checked per event, never per chunk.

/// Largest event where nobody says otherwise, in bytes.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The last `event` field; empty when there was none.
    pub name: String,
    /// The `data` fields, joined by line feeds.
    pub data: String,
}

/// Why the stream is not one of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An event is larger than the bound.
    TooLarge,
    /// An event is not UTF-8.
    NotText,
}

/// The decoder.
#[derive(Debug)]
pub struct Decoder {
    /// Largest event, in bytes.
    most: usize,
    /// The line that is still coming.
    line: Vec<u8>,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was a CR: a LF now belongs to it.
    after_cr: bool,
    begun: bool,
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

impl Default for Decoder {
    fn default() -> Self {
        Self::with_events_of(MAX_EVENT_BYTES)
    }
}

impl Decoder {
    /// A decoder of events that are at most so large, in bytes.
    #[must_use]
    pub const fn with_events_of(most: usize) -> Self {
        Self {
            most,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            begun: false,
        }
    }

    /// Takes more bytes and gives the events that are whole with them.
    ///
    /// # Errors
    /// [`Fault`]; the stream is over then.
    pub fn feed(&mut self, mut bytes: &[u8], mut event: impl FnMut(Event)) -> Result<(), Fault> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                return self.check_size();
            };
            self.after_cr = bytes[end] == b'\r';
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.check_size()?;
            let line = std::mem::take(&mut self.line);
            if let Some(whole) = self.take_line(&line)? {
                event(whole);
            }
            // The buffer is used again.
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    /// Ends the stream: what has come without its blank line is an event too.
    ///
    /// # Errors
    /// [`Fault::NotText`].
    pub fn finish(&mut self) -> Result<Option<Event>, Fault> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() {
            self.take_line(&line)?;
        }
        self.take_line(b"")
    }

    fn check_size(&self) -> Result<(), Fault> {
        if self.line.len() + self.data.len() > self.most { Err(Fault::TooLarge) } else { Ok(()) }
    }

    fn take_line(&mut self, mut line: &[u8]) -> Result<Option<Event>, Fault> {
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = match memchr::memchr(b':', line) {
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &b""[..]),
        };
        match field {
            // llama.cpp's servers once put an error in the place of data.
            b"data" | b"error" => {
                if field == b"error" {
                    b"error".as_slice().clone_into(&mut self.name);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                self.check_size()?;
            }
            b"event" => value.clone_into(&mut self.name),
            // Comments begin with a colon; id and retry are for reconnecting, which is not done.
            _ => {}
        }
        Ok(None)
    }

    fn dispatch(&mut self) -> Result<Option<Event>, Fault> {
        let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        if !std::mem::take(&mut self.has_data) {
            return Ok(None);
        }
        let text = |bytes| String::from_utf8(bytes).map_err(|_| Fault::NotText);
        Ok(Some(Event { name: text(name)?, data: text(data)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Result<Vec<(String, String)>, Fault> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk, |event| events.push((event.name, event.data)))?;
        }
        events.extend(decoder.finish()?.map(|event| (event.name, event.data)));
        Ok(events)
    }

    fn data(texts: &[&str]) -> Vec<(String, String)> {
        texts.iter().map(|text| (String::new(), (*text).to_owned())).collect()
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let cases: [(&[u8], Vec<(String, String)>); 13] = [
            (b"data: a\n\ndata: b\n\n", data(&["a", "b"])),
            (b"data:a\r\n\r\ndata:b\r\n\r\n", data(&["a", "b"])),
            (b"data: a\r\rdata: b\r\r", data(&["a", "b"])),
            (b"data: a\ndata: b\n\n", data(&["a\nb"])),
            (b"data\n\n", data(&[""])),
            (b"data:  a\n\n", data(&[" a"])),
            (b": comment\n\ndata: a\n\n", data(&["a"])),
            (b"id: 1\nretry: 5\nother: x\ndata: a\n\n", data(&["a"])),
            (b"event: x\n\ndata: a\n\n", data(&["a"])),
            (b"\xEF\xBB\xBFdata: a\n\n", data(&["a"])),
            (b"data: a\n\ndata: last", data(&["a", "last"])),
            (b"event: ping\ndata: {}\n\n", vec![("ping".to_owned(), "{}".to_owned())]),
            (b"error: {}\n\n", vec![("error".to_owned(), "{}".to_owned())]),
        ];
        for (bytes, expected) in cases {
            assert_eq!(decode(&[bytes]), Ok(expected), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let chunk = [b'x'; 64 * 1024];
        let mut decoder = Decoder::default();
        let mut fed = Ok(());
        for _ in 0..17 {
            fed = fed.and_then(|()| decoder.feed(&chunk, |_| {}));
        }
        assert_eq!(fed, Err(Fault::TooLarge));
        let many_lines = b"data: 0123456789\n".repeat(100_000);
        assert_eq!(decode(&[&many_lines]), Err(Fault::TooLarge));
    }

    #[test]
    fn an_event_that_is_not_text_is_refused() {
        assert_eq!(decode(&[b"data: \xFF\n\n"]), Err(Fault::NotText));
        assert_eq!(decode(&[b"data: \xE2\x82", b"\xAC\n\n"]), Ok(data(&["\u{20AC}"])));
    }

    proptest! {
        #[test]
        fn the_cut_does_not_matter(text in "(data: ?|event: |:|é|€|x|\r|\n|\r\n|\u{FEFF}){0,40}", cuts in proptest::collection::vec(0_usize..200, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut <= bytes.len()).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&bytes[from..cut]);
                from = cut;
            }
            chunks.push(&bytes[from..]);
            prop_assert_eq!(decode(&chunks), decode(&[bytes]));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode(&[&bytes]);
        }
    }
}

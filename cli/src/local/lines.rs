//! Bytes of a child's output, cut into lines of bounded length.

/// Longer lines are cut into several.
pub const LINE_BYTES: usize = 8 << 10;

/// Collects bytes until a line is complete.
#[derive(Debug, Default)]
pub struct LineCutter {
    rest: Vec<u8>,
}

impl LineCutter {
    /// Takes bytes and hands out every line that they complete.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.take(&bytes[..end], &mut line);
            self.finish(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.take(bytes, &mut line);
    }

    /// Hands out what is left.
    pub fn finish(&mut self, mut line: impl FnMut(&str)) {
        if !self.rest.is_empty() {
            line(String::from_utf8_lossy(&self.rest).trim_end_matches('\r'));
            self.rest.clear();
        }
    }

    fn take(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&str)) {
        while self.rest.len() + bytes.len() > LINE_BYTES {
            let (now, later) = bytes.split_at(LINE_BYTES - self.rest.len());
            self.rest.extend_from_slice(now);
            self.finish(&mut *line);
            bytes = later;
        }
        self.rest.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut cutter = LineCutter::default();
        for piece in pieces {
            cutter.push(piece, |line| lines.push(line.to_owned()));
        }
        cutter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    // Claim: lines do not depend on how the bytes arrive. Method: one text cut at every place.
    #[test]
    fn cutting_is_independent_of_pieces() {
        let text = b"one\ntwo\r\n\nthree";
        for at in 0..text.len() {
            assert_eq!(cut(&[&text[..at], &text[at..]]), ["one", "two", "three"]);
        }
    }

    // Claim: a line without end takes bounded memory. Method: 3.5 times the bound without an end.
    #[test]
    fn endless_line_is_cut() {
        let lines = cut(&[&vec![b'x'; LINE_BYTES * 7 / 2]]);
        assert_eq!(
            lines.iter().map(String::len).collect::<Vec<_>>(),
            [LINE_BYTES, LINE_BYTES, LINE_BYTES, LINE_BYTES / 2]
        );
    }
}

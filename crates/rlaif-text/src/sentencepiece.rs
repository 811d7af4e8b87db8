//! SentencePiece's model files: as much of their protocol buffers as tokenizers are built from.

/// Algorithm of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Unigram,
    Bpe,
    Other,
}

/// Kind of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    Control,
    UserDefined,
    Other,
}

/// A model file.
#[derive(Debug)]
pub(crate) struct Model {
    /// Pieces with their scores, by id.
    pub(crate) pieces: Vec<(String, f32, PieceKind)>,
    pub(crate) algorithm: Algorithm,
    /// The map of characters that texts go through, if any.
    pub(crate) charsmap: Vec<u8>,
}

impl Model {
    /// Reads a model; the error is a phrase that says what is wrong.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut model =
            Self { pieces: Vec::new(), algorithm: Algorithm::Unigram, charsmap: Vec::new() };
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => model.pieces.push(read_piece(piece)?),
                (2, Wire::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        if let (3, Wire::Number(kind)) = field? {
                            model.algorithm = match kind {
                                1 => Algorithm::Unigram,
                                2 => Algorithm::Bpe,
                                _ => Algorithm::Other,
                            };
                        }
                    }
                }
                (3, Wire::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        if let (2, Wire::Bytes(map)) = field? {
                            model.charsmap = map.to_vec();
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() { Err("it has no pieces") } else { Ok(model) }
    }
}

fn read_piece(bytes: &[u8]) -> Result<(String, f32, PieceKind), &'static str> {
    let (mut text, mut score, mut kind) = (String::new(), 0.0, PieceKind::Other);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(piece)) => {
                text = std::str::from_utf8(piece).map_err(|_| "a piece is not UTF-8")?.to_owned();
            }
            (2, Wire::Fixed(bits)) => score = f32::from_bits(bits),
            (3, Wire::Number(3)) => kind = PieceKind::Control,
            (3, Wire::Number(4)) => kind = PieceKind::UserDefined,
            _ => {}
        }
    }
    Ok((text, score, kind))
}

/// A value as protocol buffers write it.
enum Wire<'a> {
    Number(u64),
    Fixed(u32),
    Bytes(&'a [u8]),
    /// Eight bytes that nothing here has.
    Long,
}

/// The fields of a message, one after another.
struct Fields<'a>(&'a [u8]);

const CUT: &str = "it is cut off, or no SentencePiece model";

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(CUT)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CUT)
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8], &'static str> {
        let count = usize::try_from(count).map_err(|_| CUT)?;
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Wire<'a>), &'static str> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Number(self.varint()?),
            1 => self.bytes(8).map(|_| Wire::Long)?,
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.bytes(length)?)
            }
            5 => {
                let bytes = self.bytes(4)?;
                Wire::Fixed(u32::from_le_bytes(bytes.try_into().map_err(|_| CUT)?))
            }
            _ => return Err(CUT),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_and_nothing_is_read_beyond() {
        assert_eq!(Model::read(b"").unwrap_err(), "it has no pieces");
        // A piece that claims to be longer than the file.
        assert_eq!(Model::read(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]).unwrap_err(), CUT);
        assert_eq!(Model::read(&[0xff; 12]).unwrap_err(), CUT);
        let piece = [0x0a, 0x0a, 0x0a, 0x01, b'a', 0x15, 0, 0, 0x80, 0x3f, 0x18, 0x03];
        let model = Model::read(&piece).unwrap();
        assert_eq!(model.pieces, [("a".to_owned(), 1.0, PieceKind::Control)]);
    }
}

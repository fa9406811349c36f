//! A piece of a volume's content, as it travels from one node to another.
//!
//! Owns: how content is cut into pieces, so that both ends cut it alike; the form of a piece, and its checksum. Never: carries
//! zeros, or takes a text that is not exactly what was sent.
//!
//! Content is looked at in windows of one MiB. A window that holds something is one piece: its blocks of 4 KiB that are not all
//! zeros, in runs. What is not sent is zeros, whether it was allocated at the source or not.
//!
//! ```text
//! crc32c of all that follows (4) | offset (8) | runs (2) | [first block (2) | blocks (2)]… | the blocks, one after the other
//! ```

use crate::error::{Error, Result};

/// What is looked at in one go, in bytes.
pub const WINDOW: usize = 1 << 20;
/// What is sent or not, in bytes.
pub const BLOCK: usize = 4096;
/// Blocks of a window.
const BLOCKS: usize = WINDOW / BLOCK;
/// Of a piece's text before its runs, and of one run.
const HEAD: usize = 14;
const RUN: usize = 4;
/// No piece's text is longer: every other block is sent at most, or all of them.
pub const LONGEST: usize = HEAD + BLOCKS * RUN + WINDOW;

/// What one window of content holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where the window begins.
    offset: u64,
    /// First block and number of blocks, ascending and disjoint.
    runs: Vec<(u16, u16)>,
    /// The blocks of all runs.
    bytes: Vec<u8>,
}

impl Piece {
    /// What the window at `offset` holds; `None` where that is nothing but zeros. The last window of content may be shorter, by
    /// whole blocks.
    pub fn of(offset: u64, window: &[u8]) -> Option<Piece> {
        let (mut runs, mut bytes) = (Vec::<(u16, u16)>::new(), Vec::new());
        for (number, block) in window.chunks(BLOCK).take(BLOCKS).enumerate() {
            if is_zero(block) {
                continue;
            }
            let number = u16::try_from(number).ok()?;
            match runs.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                Some(_) | None => runs.push((number, 1)),
            }
            bytes.extend_from_slice(block);
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        }
        (!runs.is_empty()).then_some(Piece { offset, runs, bytes })
    }

    /// Where the window begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the next window begins.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(WINDOW as u64)
    }

    /// How many bytes of content it carries.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: what carries nothing is no piece.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its runs: where each belongs in the content, and what is there.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.runs.iter().map(move |(first, count)| {
            let (run, more) = rest.split_at(usize::from(*count) * BLOCK);
            rest = more;
            (self.offset + u64::from(*first) * BLOCK as u64, run)
        })
    }

    /// Where the content that it carries ends.
    pub fn reach(&self) -> u64 {
        self.runs().last().map_or(self.offset, |(at, run)| at + run.len() as u64)
    }

    /// Its text.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(HEAD + self.runs.len() * RUN + self.bytes.len());
        text.extend([0; 4]);
        text.extend(self.offset.to_be_bytes());
        text.extend(u16::try_from(self.runs.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (first, count) in &self.runs {
            text.extend(first.to_be_bytes());
            text.extend(count.to_be_bytes());
        }
        text.extend_from_slice(&self.bytes);
        let sum = crc32c::crc32c(&text[4..]);
        text[..4].copy_from_slice(&sum.to_be_bytes());
        text
    }

    /// The piece of a text.
    ///
    /// # Errors
    /// `Corrupt` for anything but a whole piece.
    pub fn decode(text: &[u8]) -> Result<Piece> {
        let damaged = |what: &str| Error::Corrupt(format!("a piece of content is damaged: {what}"));
        let (head, rest) = text.split_at_checked(HEAD).ok_or_else(|| damaged("it is cut off"))?;
        if crc32c::crc32c(&text[4..]).to_be_bytes() != head[..4] {
            return Err(damaged("its checksum is another"));
        }
        let offset = head[4..12].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        if !offset.is_multiple_of(WINDOW as u64) || offset.checked_add(WINDOW as u64).is_none() {
            return Err(damaged("it does not lie where a piece can begin"));
        }
        let count = usize::from(u16::from_be_bytes([head[12], head[13]]));
        let (table, bytes) = rest.split_at_checked(count * RUN).ok_or_else(|| damaged("it is cut off"))?;
        let pair = |run: &[u8]| (u16::from_be_bytes([run[0], run[1]]), u16::from_be_bytes([run[2], run[3]]));
        let runs: Vec<(u16, u16)> = table.chunks_exact(RUN).map(pair).collect();
        let (mut end, mut blocks) = (0, 0);
        for (first, count) in &runs {
            let (first, count) = (usize::from(*first), usize::from(*count));
            if first < end || count == 0 || first + count > BLOCKS {
                return Err(damaged("its runs overlap, or lie outside of it"));
            }
            (end, blocks) = (first + count, blocks + count);
        }
        if runs.is_empty() || bytes.len() != blocks * BLOCK {
            return Err(damaged("it is not as long as it says"));
        }
        Ok(Piece { offset, runs, bytes: bytes.to_vec() })
    }

    /// The digest of all content up to the end of this piece, from that of the content before it; of nothing it is zero.
    pub fn digest(before: u32, text: &[u8]) -> u32 {
        // The text's own checksum covers its offset and all it carries.
        crc32c::crc32c_append(before, text.get(..4).unwrap_or_default())
    }
}

/// Says where it lies and how much it carries; what that is stays the tenant's.
impl std::fmt::Debug for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Piece({}, {} runs, {} bytes)", self.offset, self.runs.len(), self.bytes.len())
    }
}

fn is_zero(block: &[u8]) -> bool {
    let (wide, rest) = block.as_chunks::<16>();
    wide.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(blocks: &[(usize, u8)]) -> Vec<u8> {
        let mut window = vec![0; WINDOW];
        for (block, byte) in blocks {
            window[block * BLOCK + 17] = *byte;
        }
        window
    }

    #[test]
    fn what_a_window_holds_comes_back_and_zeros_do_not_travel() {
        assert!(Piece::of(0, &vec![0; WINDOW]).is_none());
        let window = window(&[(0, 1), (1, 2), (7, 3), (255, 4)]);
        let piece = Piece::of(3 << 20, &window).unwrap();
        assert_eq!((piece.len(), piece.reach()), (4 * BLOCK, 4 << 20));
        let back = Piece::decode(&piece.encode()).unwrap();
        assert_eq!(back, piece);
        let mut content = vec![0; WINDOW];
        for (at, run) in back.runs() {
            let at = usize::try_from(at - (3 << 20)).unwrap();
            content[at..at + run.len()].copy_from_slice(run);
        }
        assert!(content == window);
        let short = Piece::of(0, &window[..2 * BLOCK]).unwrap();
        assert_eq!(short.reach(), 2 * BLOCK as u64);
        let full = Piece::of(0, &vec![1; WINDOW]).unwrap();
        assert!(full.encode().len() <= LONGEST);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let text = Piece::of(0, &window(&[(3, 9)])).unwrap().encode();
        for bit in (0..HEAD * 8 + RUN * 8).chain((HEAD + RUN) * 8..(HEAD + RUN + 64) * 8) {
            let mut bad = text.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Piece::decode(&bad).is_err(), "bit {bit}");
        }
        for len in (0..64).chain([text.len() - 1]) {
            assert!(Piece::decode(&text[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_piece_that_lies_about_its_runs_is_refused() {
        let sealed = |runs: &[(u16, u16)], offset: u64, blocks: usize| {
            Piece { offset, runs: runs.to_vec(), bytes: vec![1; blocks * BLOCK] }.encode()
        };
        assert!(Piece::decode(&sealed(&[(0, 2), (4, 1)], 0, 3)).is_ok());
        for bad in [
            sealed(&[(0, 2), (1, 1)], 0, 3),
            sealed(&[(4, 1), (0, 1)], 0, 2),
            sealed(&[(255, 2)], 0, 2),
            sealed(&[(0, 0)], 0, 0),
            sealed(&[], 0, 0),
            sealed(&[(0, 2)], 0, 1),
            sealed(&[(0, 1)], 4096, 1),
        ] {
            assert!(Piece::decode(&bad).is_err());
        }
    }

    #[test]
    fn a_piece_that_lies_beyond_all_numbers_is_refused() {
        let last = u64::MAX - u64::MAX % WINDOW as u64;
        let sealed = |offset| Piece { offset, runs: vec![(255, 1)], bytes: vec![1; BLOCK] }.encode();
        let refused = Piece::decode(&sealed(last)).unwrap_err().to_string();
        assert!(refused.contains("where a piece can begin"), "{refused}");
        let before = Piece::decode(&sealed(last - WINDOW as u64)).unwrap();
        assert_eq!((before.end(), before.reach()), (last, last));
    }

    #[test]
    fn a_digest_tells_order_and_place() {
        let (one, other) = (window(&[(0, 1)]), window(&[(0, 2)]));
        let text = |at, window: &[u8]| Piece::of(at, window).unwrap().encode();
        let both = |a: &[u8], b: &[u8]| Piece::digest(Piece::digest(0, a), b);
        let right = both(&text(0, &one), &text(1 << 20, &other));
        assert_ne!(right, both(&text(0, &other), &text(1 << 20, &one)));
        assert_ne!(right, both(&text(0, &one), &text(2 << 20, &other)));
    }
}

//! TFRecord framing: length (u64), masked CRC-32C of it, data, masked CRC-32C of the data.

use protobuf::Message;
use tensorboard_proto::event::Event;
use tensorboard_rs::masked_crc32c::masked_crc32c;
use tensorboard_rs::record_writer::RecordWriter;

const HEADER_BYTES: usize = 12;
const FOOTER_BYTES: usize = 4;

/// Encodes `event` as a record.
pub(super) fn encode(event: &Event) -> Vec<u8> {
    let mut record = Vec::new();
    RecordWriter::new(&mut record)
        .write(&super::events::bytes(event))
        .expect("memory takes all bytes");
    record
}

/// Iterates over the intact records at the beginning of a file: each one's bytes and its event.
///
/// Ends at the first torn or damaged record, since the start of the next one is unknown.
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    pub(super) fn of(file: &'a [u8]) -> Self {
        Self { rest: file }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (&'a [u8], Event);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_first_chunk::<8>()?;
        let (length_crc, rest) = rest.split_first_chunk::<4>()?;
        if masked_crc32c(length) != u32::from_le_bytes(*length_crc) {
            return None;
        }
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (data, rest) = rest.split_at_checked(length)?;
        let (data_crc, rest) = rest.split_first_chunk::<FOOTER_BYTES>()?;
        if masked_crc32c(data) != u32::from_le_bytes(*data_crc) {
            return None;
        }
        let event = Event::parse_from_bytes(data).ok()?;
        let record = &self.rest[..HEADER_BYTES + length + FOOTER_BYTES];
        self.rest = rest;
        Some((record, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensorboard::events;

    #[test]
    fn checksums_agree_with_the_rfc() {
        // RFC 3720, B.4: 32 bytes of zeros give CRC-32C 8a9136aa; masked as TFRecord defines it.
        let crc: u32 = 0x8a91_36aa;
        assert_eq!(masked_crc32c(&[0; 32]), crc.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_record_is_read_back() {
        let record = encode(&events::scalar("train/loss", 7, 0.5));
        let (bytes, event) = Records::of(&record).next().unwrap();
        assert_eq!(bytes, record);
        assert_eq!(event.get_step(), 7);
        assert_eq!(event.get_summary().get_value()[0].get_tag(), "train/loss");
        assert_eq!(event.get_summary().get_value()[0].get_simple_value(), 0.5);
    }

    #[test]
    fn reading_ends_at_a_torn_or_damaged_record() {
        let one = encode(&events::scalar("a", 1, 1.0));
        let two = [one.clone(), one.clone()].concat();
        for cut in 0..one.len() {
            assert_eq!(Records::of(&two[..one.len() + cut]).count(), 1, "cut after {cut} bytes");
        }
        for bit in 0..8 * one.len() {
            let mut damaged = two.clone();
            damaged[one.len() + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Records::of(&damaged).count(), 1, "bit {bit}");
        }
    }
}

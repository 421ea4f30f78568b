//! Layout of one record: `crc: u32` little-endian over (key, payload), then the payload.

use prost::Message;

const CRC_BYTES: usize = 4;

/// Frames a payload. `key` is where it will lie: a record in another's place is found out.
pub(super) fn frame(key: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(CRC_BYTES + payload.len());
    record.extend_from_slice(&checksum(key, payload).to_le_bytes());
    record.extend_from_slice(payload);
    record
}

/// Checks and unwraps a record.
pub(super) fn unframe(key: u64, record: &[u8]) -> Result<&[u8], String> {
    let Some((crc, payload)) = record.split_first_chunk::<CRC_BYTES>() else {
        return Err(format!(
            "record {key} has {} bytes, expected at least {CRC_BYTES}",
            record.len()
        ));
    };
    let (expected, got) = (u32::from_le_bytes(*crc), checksum(key, payload));
    if expected == got {
        Ok(payload)
    } else {
        Err(format!(
            "record {key} ({} bytes): CRC {got:08x}, expected {expected:08x}",
            payload.len()
        ))
    }
}

/// Encodes and frames one of Raft's messages.
pub(super) fn frame_message(key: u64, message: &impl Message) -> Vec<u8> {
    frame(key, &message.encode_to_vec())
}

/// Checks, unwraps and decodes one of Raft's messages.
pub(super) fn unframe_message<M: Message + Default>(key: u64, record: &[u8]) -> Result<M, String> {
    M::decode(unframe(key, record)?).map_err(|e| format!("record {key}: {e}"))
}

fn checksum(key: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&key.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    // Claim: a record is accepted only in its own place and with all its bits as written.
    // Method: flip every single bit of a framed record, and read it under another key.
    #[test]
    fn every_flipped_bit_is_found() {
        let record = frame(7, b"payload");
        assert_eq!(unframe(7, &record), Ok(&b"payload"[..]));
        assert!(unframe(8, &record).is_err());
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(unframe(7, &damaged).is_err(), "bit {bit}");
        }
        assert!(unframe(7, &record[..3]).is_err());
    }
}

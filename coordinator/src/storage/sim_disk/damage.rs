//! Disks that lie about what they hold: bits that flip, writes that go astray.

use super::{Contents, SECTOR_BYTES, Sector, SimDisk, SplitMix, ZEROS};

/// Where a bit was flipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The file.
    pub name: String,
    /// Its byte.
    pub offset: u64,
    /// The byte's bit.
    pub bit: u32,
}

impl SimDisk {
    /// Flips one bit of what is on the disk and not about to be written over, in a sector that
    /// holds anything but zeros; `None` if there is none. `seed` chooses.
    pub fn flip_bit(&self, seed: u64) -> Option<Flip> {
        let mut random = SplitMix(seed);
        let mut flip = {
            let state = self.state();
            let sectors: Vec<(&String, u64)> = state
                .names
                .iter()
                .filter_map(|(name, file)| Some((name, state.files.get(file)?)))
                .flat_map(|(name, file)| file.live_sectors().map(move |sector| (name, sector)))
                .collect();
            let (name, sector) = sectors.get(random.below(sectors.len() as u64) as usize)?;
            Flip {
                name: (*name).clone(),
                offset: sector * SECTOR_BYTES as u64,
                bit: random.below(8) as u32,
            }
        };
        let end = self.length(&flip.name)?;
        flip.offset += random.below((end - flip.offset).min(SECTOR_BYTES as u64));
        self.flip(&flip);
        Some(flip)
    }

    /// A write has gone astray: what a sector of the disk holds is also where another one was, in the
    /// same file or in another. Gives the file and the sector that are lost; `None` if there are no two
    /// that differ. `seed` chooses.
    pub fn misdirect(&self, seed: u64) -> Option<(String, u64)> {
        let mut random = SplitMix(seed);
        let mut state = self.state();
        let live: Vec<(String, u64, u64)> = state
            .names
            .iter()
            .filter_map(|(name, &file)| Some((name, file, state.files.get(&file)?)))
            .flat_map(|(name, file, contents)| {
                let sectors = contents.live_sectors();
                sectors.map(move |sector| (name.clone(), file, sector))
            })
            .collect();
        let source = live.get(random.below(live.len() as u64) as usize)?;
        let written = state.files.get(&source.1)?.sector(source.2)?;
        // The first that differs from it, from a random one on.
        let begin = random.below(live.len() as u64) as usize;
        for (name, file, sector) in live.iter().cycle().skip(begin).take(live.len()) {
            let contents = state.files.get_mut(file)?;
            if contents.sector(*sector)? != written && contents.put(*sector, &written) {
                return Some((name.clone(), *sector));
            }
        }
        None
    }

    /// Flips that bit; one behind the end of the file, or in no file, is none.
    pub fn flip(&self, flip: &Flip) {
        let mut state = self.state();
        let Some(file) = state.names.get(&flip.name).copied() else {
            return;
        };
        if let Some(file) = state.files.get_mut(&file)
            && flip.offset < file.len
            && let Some(byte) = file.bytes.get_mut(flip.offset as usize)
        {
            *byte ^= 1 << (flip.bit % 8);
        }
    }
}

impl Contents {
    fn sector(&self, sector: u64) -> Option<Sector> {
        let begin = sector as usize * SECTOR_BYTES;
        self.bytes.get(begin..begin + SECTOR_BYTES)?.try_into().ok()
    }

    /// Writes over a sector that lies wholly before the end.
    fn put(&mut self, sector: u64, with: &Sector) -> bool {
        let begin = sector as usize * SECTOR_BYTES;
        let is_whole = (begin + SECTOR_BYTES) as u64 <= self.len;
        match self.bytes.get_mut(begin..begin + SECTOR_BYTES) {
            Some(bytes) if is_whole => {
                bytes.copy_from_slice(with);
                true
            }
            _ => false,
        }
    }

    /// Sectors with anything but zeros that are durable as they are.
    fn live_sectors(&self) -> impl Iterator<Item = u64> {
        self.bytes
            .chunks(SECTOR_BYTES)
            .zip(0u64..)
            .filter(|(bytes, sector)| *bytes != ZEROS && !self.unsynced.contains_key(sector))
            .map(|(_, sector)| sector)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bytes, durable, open};
    use super::*;

    // Claim: a write that went astray is a copy of one durable sector in the place of another, and nothing
    // else; where all are alike, there is none.
    // Method: a file of three durable sectors and one that is not.
    #[test]
    fn misdirected_writes() {
        let mut content = [1; 3 * SECTOR_BYTES];
        content[SECTOR_BYTES..2 * SECTOR_BYTES].fill(2);
        content[2 * SECTOR_BYTES..].fill(3);
        let disk = durable("a", &content);
        open(&disk, "a").write_at(1536, &[4; SECTOR_BYTES]).unwrap();
        for seed in 0..20 {
            let disk = disk.fork();
            let (name, lost) = disk.misdirect(seed).unwrap();
            let found = bytes(&disk, &name);
            for (sector, place) in found.chunks(SECTOR_BYTES).zip(0u64..) {
                let (was, is) = (place as u8 + 1, sector[0]);
                assert_eq!(sector, [is; SECTOR_BYTES]);
                assert_eq!(is != was, place == lost);
                assert!((1..=3).contains(&is) || place == 3);
            }
        }
        assert_eq!(durable("a", &[1; 2 * SECTOR_BYTES]).misdirect(1), None);
    }

    // Claim: a flipped bit is one bit, of a byte that is durable.
    // Method: flip in a file with one durable and one unsynced sector.
    #[test]
    fn flips() {
        let disk = durable("a", &[1; SECTOR_BYTES]);
        let whole = vec![1; 2 * SECTOR_BYTES];
        open(&disk, "a").write_at(512, &whole[512..]).unwrap();
        for seed in 0..20 {
            let disk = disk.fork();
            let flip = disk.flip_bit(seed).unwrap();
            assert!(flip.offset < 512);
            let mut damaged = whole.clone();
            damaged[flip.offset as usize] ^= 1 << flip.bit;
            assert_eq!(bytes(&disk, "a"), damaged);
        }
        assert_eq!(SimDisk::new().flip_bit(1), None);
    }
}

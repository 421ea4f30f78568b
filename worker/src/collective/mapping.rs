//! The shared mapping itself; the only unsafe code of the collectives.
//!
//! A memfd is mapped twice: its header as atomic words that threads share ([`Header`]), and its
//! floats, which only the owner of [`Area`] touches in this process. Between processes the barrier
//! keeps order: see the module [`super::shm`] for who may touch which floats when.
#![expect(
    unsafe_code,
    reason = "memory shared between processes is reached through pointers"
)]

use super::CollectiveError;
use super::layout::Layout;
use evoring_jobs::tree::tree_sum;
use memmap2::{MmapOptions, MmapRaw};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicU32;

/// The words in front.
#[derive(Debug)]
pub struct Header {
    map: MmapRaw,
    words: usize,
}

impl Header {
    /// Maps the header of a file that has `layout.bytes()` bytes and can no more shrink.
    pub fn map(file: impl AsFd, layout: &Layout) -> Result<Self, CollectiveError> {
        let bytes = layout.header_bytes();
        let raw = file.as_fd().as_raw_fd();
        let map = MmapOptions::new()
            .len(bytes)
            .map_raw(raw)
            .map_err(CollectiveError::io("map the gang's header"))?;
        Ok(Self {
            map,
            words: bytes / 4,
        })
    }

    /// One word.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.words, "word {index} of {}", self.words);
        // SAFETY: within the mapping (asserted above), aligned (a mapping begins on a page), alive
        // as long as `self`, valid for any bits, and reached by nobody but through atomics.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().cast::<u32>().add(index)) }
    }
}

/// The floats behind the header.
#[derive(Debug)]
pub struct Area {
    map: MmapRaw,
    layout: Layout,
}

impl Area {
    /// Maps the floats of a file that has `layout.bytes()` bytes and can no more shrink.
    pub fn map(file: impl AsFd, layout: &Layout) -> Result<Self, CollectiveError> {
        let raw = file.as_fd().as_raw_fd();
        let map = MmapOptions::new()
            .offset(layout.header_bytes() as u64)
            .len(4 * layout.floats())
            .map_raw(raw)
            .map_err(CollectiveError::io("map the gang's buffers"))?;
        Ok(Self {
            map,
            layout: *layout,
        })
    }

    /// Pointer to `floats` of the area.
    ///
    /// # Panics
    /// If they are not all inside.
    fn pointer(&self, floats: &Range<usize>) -> *mut f32 {
        let all = self.layout.floats();
        assert!(
            floats.start <= floats.end && floats.end <= all,
            "floats {floats:?} of {all}"
        );
        // SAFETY: the offset is within the mapping, as asserted.
        unsafe { self.map.as_mut_ptr().cast::<f32>().add(floats.start) }
    }

    fn shard_floats(&self, shard: u32) -> Range<usize> {
        assert!(
            shard < self.layout.shards,
            "shard {shard} of {}",
            self.layout.shards
        );
        let start = shard as usize * self.layout.stride();
        start..start + self.layout.length
    }

    fn result_floats(&self, elements: &Range<usize>) -> Range<usize> {
        let (start, floats) = (
            self.layout.stride() * self.layout.shards as usize,
            self.layout.result_floats(),
        );
        assert!(
            elements.end <= floats,
            "elements {elements:?} of a result area of {floats}"
        );
        start + elements.start..start + elements.end
    }

    /// Buffer of one shard, to be written by the rank that holds it outside of a sum.
    pub fn shard_mut(&mut self, shard: u32) -> &mut [f32] {
        let floats = self.shard_floats(shard);
        // SAFETY: within the mapping, aligned, valid for any bits. `&mut self` keeps this process
        // from reaching it twice; other ranks read it only between the barriers of a sum.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(&floats), floats.len()) }
    }

    /// Elements of the result area, to be read when nobody writes them.
    pub fn result(&self, elements: Range<usize>) -> &[f32] {
        let floats = self.result_floats(&elements);
        // SAFETY: within the mapping, aligned, valid for any bits; other ranks write the result
        // area only after a barrier that this rank passes with `&mut self`, so not meanwhile.
        unsafe { std::slice::from_raw_parts(self.pointer(&floats), floats.len()) }
    }

    /// Elements of the result area that this rank writes in this phase.
    pub fn result_mut(&mut self, elements: Range<usize>) -> &mut [f32] {
        let floats = self.result_floats(&elements);
        // SAFETY: as in `result`; in each phase a rank writes elements that no other touches.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(&floats), floats.len()) }
    }

    /// Sums `elements` of all shards by the fixed tree into the result area.
    pub fn sum(&mut self, elements: Range<usize>) {
        let part = |shard: u32| {
            let start = self.shard_floats(shard).start;
            let floats = start + elements.start..start + elements.end;
            // SAFETY: within the mapping, aligned, valid for any bits; between the two barriers of
            // a sum nobody writes shards.
            unsafe { std::slice::from_raw_parts(self.pointer(&floats), floats.len()) }
        };
        let parts: Vec<&[f32]> = (0..self.layout.shards).map(part).collect();
        let floats = self.result_floats(&elements);
        // SAFETY: as in `result_mut`; result area and shards do not overlap.
        let out = unsafe { std::slice::from_raw_parts_mut(self.pointer(&floats), floats.len()) };
        tree_sum(&parts, 0..out.len(), out);
    }
}

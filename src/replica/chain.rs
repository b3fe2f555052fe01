//! One tenant's chain, as far as something of it waits.

use std::collections::BTreeMap;

use super::entry::{BaseRef, Head};
use crate::{
    clock::Millis,
    sqlite::{
        PAGE_SIZE,
        frames::{Frames, Position},
    },
};

/// Page images by their numbers.
pub type Images = BTreeMap<u32, Vec<u8>>;

/// The page size of every database that this program makes.
#[expect(clippy::cast_possible_truncation, reason = "a constant that fits")]
const DEFAULT_PAGE_SIZE: u32 = PAGE_SIZE as u32;

/// One tenant's chain.
pub struct Chain {
    /// Where it is in the bucket.
    pub head: Head,
    /// Where in its WAL reading has got to.
    pub frames: Frames,
    /// Pages that have changed since.
    pub images: Images,
    /// The database's size in pages, after the last commit that was read.
    pub size_pages: u32,
    /// The size of its pages.
    pub page_size: u32,
    /// The images are the whole database.
    pub is_whole: bool,
    /// A base that is in the bucket and has no entry yet.
    pub base: Option<BaseRef>,
    /// Nothing is shipped before the base of this epoch is there.
    pub awaits_base: bool,
    /// When the newest of what waits was flushed.
    pub at: Millis,
}

impl Chain {
    /// Whether something of it is to be shipped.
    pub fn is_dirty(&self) -> bool {
        !self.awaits_base && (!self.images.is_empty() || self.base.is_some())
    }

    /// The images that wait, in bytes.
    pub fn bytes(&self) -> usize {
        self.images.len() * self.page_size as usize
    }
}

/// What of one tenant goes into one batch.
pub struct Item {
    /// The tenant's name in the bucket.
    pub tenant: String,
    /// The head before it.
    pub head: Head,
    /// Pages that changed.
    pub images: Images,
    /// The database's size in pages.
    pub size_pages: u32,
    /// The size of its pages.
    pub page_size: u32,
    /// The images are the whole database.
    pub is_whole: bool,
    /// A base to be entered after the pages.
    pub base: Option<BaseRef>,
    /// Why the chain ends after that.
    pub end: Option<&'static str>,
    /// Where in the WAL reading has got to.
    pub position: Option<Position>,
    /// When the newest of it was flushed.
    pub at: Millis,
}

/// All that waits of a chain.
pub fn item(tenant: &str, chain: Chain, end: Option<&'static str>) -> Item {
    Item {
        tenant: tenant.to_owned(),
        position: chain.frames.position(),
        at: chain.at,
        head: chain.head,
        images: chain.images,
        size_pages: chain.size_pages,
        page_size: chain.page_size,
        is_whole: chain.is_whole,
        base: chain.base,
        end,
    }
}

/// The chain of a tenant of which the bucket has everything up to this head.
pub fn going_on(head: Head) -> Chain {
    let page_size = head.position.map_or(DEFAULT_PAGE_SIZE, |position| position.page_size);
    Chain {
        frames: head.position.map_or_else(|| Frames::joining(page_size), Frames::at),
        images: Images::new(),
        size_pages: head.size_pages,
        page_size,
        is_whole: false,
        base: None,
        awaits_base: false,
        at: head.time,
        head,
    }
}

/// The chain of a tenant whose database was created with this content; none if that is no database.
pub fn created(image: &[u8], epoch: u64, at: Millis) -> Option<Chain> {
    let page_size = page_size(image)?;
    let pages = image.chunks_exact(page_size as usize);
    let images: Images = (1..).zip(pages).map(|(number, page)| (number, page.to_vec())).collect();
    let size_pages = u32::try_from(images.len()).ok()?;
    let head = Head { epoch, ..Head::default() };
    let chain = Chain { images, size_pages, page_size, is_whole: true, at, ..going_on(head) };
    Some(Chain { frames: Frames::joining(page_size), ..chain })
}

/// The page size in the header of a database (<https://sqlite.org/fileformat2.html#page_size>).
fn page_size(image: &[u8]) -> Option<u32> {
    let size = u16::from_be_bytes([*image.get(16)?, *image.get(17)?]);
    let size = if size == 1 { 65_536 } else { u32::from(size) };
    (size.is_power_of_two() && size >= 512).then_some(size)
}

//! A batch as it goes to the bucket: entries, heads, and what is too long for an entry. Pure.

use bytes::Bytes;

use super::{
    chain::Item,
    entry::{Body, Entry, Head, Pages},
    format::{Place, entry_key, head_key},
    pending::Batch,
    queries::BaseRow,
    seal::Seal,
};
use crate::{error::Result, log::Seq};

/// What is written together.
pub struct Encoded {
    /// Everything of the shard up to this record and its group is in it, or before it.
    pub through: (Seq, u64),
    /// Objects that are to be there before.
    pub objects: Vec<(String, Bytes)>,
    /// Keys and values.
    pub puts: Vec<(String, Bytes)>,
    /// The new heads of the chains that go on or have ended.
    pub heads: Vec<(String, Head)>,
    /// Bases that these entries name or are.
    pub bases: Vec<(String, BaseRow)>,
}

impl Encoded {
    /// The keys and values together, in bytes.
    pub fn bytes(&self) -> usize {
        self.puts.iter().map(|(_, value)| value.len()).sum()
    }
}

/// Encodes a batch.
///
/// # Errors
/// It cannot be sealed.
pub fn encode(batch: Batch, seal: &Seal) -> Result<Encoded> {
    let mut encoded = Encoded {
        through: (batch.seq, batch.group),
        objects: Vec::new(),
        puts: Vec::with_capacity(batch.items.len() * 2),
        heads: Vec::with_capacity(batch.items.len()),
        bases: Vec::new(),
    };
    for item in batch.items {
        encoded.add(item, seal)?;
    }
    Ok(encoded)
}

impl Encoded {
    fn add(&mut self, item: Item, seal: &Seal) -> Result<()> {
        let Item { tenant, mut head, images, size_pages, page_size, is_whole, base, end, position, at } = item;
        // The clock may have been set back.
        let time = at.max(head.time);
        let mut bodies = Vec::new();
        if !images.is_empty() {
            let pages = Pages::from(images);
            bodies.push(if is_whole { Body::Whole(pages) } else { Body::Pages(pages) });
        }
        bodies.extend(base.map(Body::Base));
        bodies.extend(end.filter(|_| head.seq > 0 || !bodies.is_empty()).map(|why| Body::End(why.to_owned())));
        if bodies.is_empty() {
            return Ok(());
        }
        for body in bodies {
            let place = Place { tenant: &tenant, epoch: head.epoch, seq: head.seq + 1 };
            let (is_whole, is_end) = (matches!(body, Body::Whole(_)), matches!(body, Body::End(_)));
            let base = match &body {
                Body::Base(base) => Some((base.after, Some(base.object.clone()))),
                Body::Whole(_) => Some((place.seq, None)),
                Body::Pages(_) | Body::End(_) => None,
            };
            let entry = Entry { previous: head.hash, time, page_size, size_pages, body };
            let stored = entry.encode(&place, seal)?;
            let length = stored.value.len() + stored.big.as_ref().map_or(0, |(_, bytes)| bytes.len());
            self.objects.extend(stored.big);
            self.puts.push((entry_key(&tenant, place.epoch, place.seq), stored.value));
            head = Head {
                seq: place.seq,
                hash: stored.hash,
                time,
                size_pages,
                ended: is_end,
                tail_bytes: if base.is_some() { 0 } else { head.tail_bytes + length as u64 },
                base_seq: if base.is_some() { place.seq } else { head.base_seq },
                base_time: if base.is_some() { time } else { head.base_time },
                ..head
            };
            if let Some((after, object)) = base {
                let row = BaseRow { epoch: head.epoch, seq: head.seq, after, time, object };
                self.bases.push((tenant.clone(), row));
            }
            debug_assert!(!is_whole || head.base_seq == head.seq);
        }
        head.position = position;
        // The last one of a tenant's is the head: an ended chain comes before the one that has begun since.
        self.puts.push((head_key(&tenant), head.encode().into()));
        self.heads.push((tenant, head));
        Ok(())
    }
}

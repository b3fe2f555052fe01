use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sqlite::frames::Position;

const PLACE: Place<'static> = Place { tenant: "ada", epoch: 7, seq: 3 };
const OTHER: Place<'static> = Place { tenant: "ada", epoch: 7, seq: 4 };

fn key() -> Seal {
    Seal::from_key_file(&"01".repeat(32)).unwrap()
}

fn read(place: &Place<'_>, encoded: &Encoded, seal: &Seal) -> Result<Entry> {
    Stored::parse(place, &encoded.value)?.open(encoded.big.clone().map(|(_, content)| content), seal)
}

fn bodies(page_size: u32) -> impl Strategy<Value = (u32, Body)> {
    let image = move || {
        prop_oneof![
            any::<u8>().prop_map(move |byte| Bytes::from(vec![byte; page_size as usize])),
            proptest::collection::vec(any::<u8>(), page_size as usize).prop_map(Bytes::from),
        ]
    };
    prop_oneof![
        proptest::collection::btree_map(1_u32..1000, image(), 0..5).prop_map(|pages| (1000, Body::Pages(Pages(pages)))),
        proptest::collection::vec(image(), 0..5).prop_map(|images| {
            let pages: BTreeMap<u32, Bytes> = (1..).zip(images).collect();
            (u32::try_from(pages.len()).unwrap(), Body::Whole(Pages(pages)))
        }),
        ("[a-z/.]{0,80}", any::<u64>(), any::<[u8; 32]>(), any::<u64>())
            .prop_map(|(object, bytes, sha256, after)| { (9, Body::Base(BaseRef { object, bytes, sha256, after })) }),
        ".{0,20}".prop_map(|why| (0, Body::End(why))),
    ]
}

fn entries() -> impl Strategy<Value = Entry> {
    let sizes = prop_oneof![Just(512_u32), Just(1024), Just(4096)];
    (sizes.prop_flat_map(|size| (Just(size), bodies(size))), any::<[u8; 32]>(), any::<Millis>()).prop_map(
        |((page_size, (size_pages, body)), previous, time)| Entry { previous, time, page_size, size_pages, body },
    )
}

fn heads() -> impl Strategy<Value = Head> {
    let position = (any::<u64>(), any::<u64>(), any::<[u32; 2]>(), any::<u32>(), any::<bool>()).prop_map(
        |(salts, end, checksum, page_size, big_endian)| Position { salts, end, checksum, page_size, big_endian },
    );
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>());
    let rest = (any::<[u8; 32]>(), any::<Millis>(), any::<Millis>(), any::<bool>());
    (numbers, rest, proptest::option::of(position)).prop_map(|(numbers, rest, position)| {
        let (epoch, seq, size_pages, tail_bytes, base_seq) = numbers;
        let (hash, time, base_time, ended) = rest;
        Head { epoch, seq, hash, time, position, size_pages, tail_bytes, base_seq, base_time, ended }
    })
}

proptest! {
    #[test]
    fn an_entry_is_read_as_it_was_written_and_not_with_a_bit_changed_or_in_another_place(
        entry in entries(), sealed in any::<bool>(), flip in any::<prop::sample::Index>(),
    ) {
        let seal = if sealed { key() } else { Seal::none() };
        let encoded = entry.encode(&PLACE, &seal).unwrap();
        let stored = Stored::parse(&PLACE, &encoded.value).unwrap();
        prop_assert_eq!((stored.hash, stored.previous, stored.time), (encoded.hash, entry.previous, entry.time));
        prop_assert_eq!((stored.page_size, stored.size_pages), (entry.page_size, entry.size_pages));
        prop_assert_eq!((stored.bytes(), stored.big.as_ref()), (encoded.bytes(), None));
        prop_assert_eq!(&stored.open(None, &seal).unwrap(), &entry);
        // What has a key reads what was written before there was one.
        prop_assert_eq!(stored.open(None, &key()).unwrap(), entry);
        prop_assert!(!sealed || stored.open(None, &Seal::none()).is_err());
        prop_assert!(Stored::parse(&OTHER, &encoded.value).is_err());

        let mut value = encoded.value.to_vec();
        let bit = flip.index(value.len() * 8);
        value[bit / 8] ^= 1 << (bit % 8);
        let changed = Encoded { value: value.into(), ..encoded.clone() };
        prop_assert!(read(&PLACE, &changed, &seal).is_err());
        let cut = encoded.value.slice(..flip.index(encoded.value.len()));
        prop_assert!(Stored::parse(&PLACE, &cut).is_err());
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_not_with_a_bit_changed(
        head in heads(), flip in any::<prop::sample::Index>(),
    ) {
        let mut bytes = head.encode();
        prop_assert_eq!(Head::decode(&bytes).unwrap(), head);
        let bit = flip.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Head::decode(&bytes).is_err());
        prop_assert!(Head::decode(&bytes[..flip.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_with_a_right_hash_are_read_or_refused(
        mut header in proptest::collection::vec(any::<u8>(), HEADER), kind in 0_u8..6, pages in 0_u32..4,
        payload in proptest::collection::vec(any::<u8>(), 0..300), is_big in any::<bool>(),
    ) {
        header[..8].copy_from_slice(&[b'C', b'B', b'E', b'N', VERSION, kind, 0, u8::from(is_big)]);
        header[16..28].copy_from_slice(&[0, 2, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        header[24..28].copy_from_slice(&pages.to_le_bytes());
        header[60..68].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[68..100].copy_from_slice(&Sha256::digest(&payload));
        let own = hash(&PLACE.key(), header[..].try_into().unwrap());
        header[100..].copy_from_slice(&own);
        let (value, big) = if is_big { (header, Some(payload.into())) } else { ([header, payload].concat(), None) };
        if let Ok(stored) = Stored::parse(&PLACE, &value.into()) {
            let _ = stored.open(big, &Seal::none());
        }
    }
}

/// Bytes that no compression makes shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

#[test]
fn a_long_payload_is_an_object_of_its_own() {
    for (count, seal) in [(80_u32, key()), (160, Seal::none())] {
        let images = noise(count as usize * 65536);
        let pages = (1..).zip(images.chunks(65536).map(Bytes::copy_from_slice)).collect();
        let entry =
            Entry { previous: [1; 32], time: 5, page_size: 65536, size_pages: count, body: Body::Whole(Pages(pages)) };
        let encoded = entry.encode(&PLACE, &seal).unwrap();
        assert_eq!(encoded.value.len(), HEADER);
        let stored = Stored::parse(&PLACE, &encoded.value).unwrap();
        let (path, content) = encoded.big.clone().unwrap();
        assert_eq!((stored.big.as_deref(), stored.bytes()), (Some(&*path), encoded.bytes()));
        assert_eq!(stored.open(Some(content.clone()), &seal).unwrap(), entry);
        assert_eq!(stored.open(None, &seal).unwrap_err().kind(), ErrorKind::Damaged);
        let mut changed = content.to_vec();
        changed[1000] ^= 1;
        assert_eq!(stored.open(Some(changed.into()), &seal).unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(stored.open(Some(content.slice(1..)), &seal).unwrap_err().kind(), ErrorKind::Damaged);
    }
}

#[test]
fn pages_beyond_the_end_are_left_out_and_wrong_ones_refused() {
    let image = Bytes::from(vec![1; 512]);
    let pages = |numbers: &[u32], image: &Bytes| Pages(numbers.iter().map(|number| (*number, image.clone())).collect());
    let entry = |body| Entry { previous: [0; 32], time: 5, page_size: 512, size_pages: 2, body };

    let shrunk = entry(Body::Pages(pages(&[2, 3], &image)));
    let read = read(&PLACE, &shrunk.encode(&PLACE, &Seal::none()).unwrap(), &Seal::none()).unwrap();
    assert_eq!(read.body, Body::Pages(pages(&[2], &image)));

    let wrong = [
        entry(Body::Pages(pages(&[0], &image))),
        entry(Body::Pages(pages(&[1], &image.slice(1..)))),
        entry(Body::Whole(pages(&[1], &image))),
        Entry { page_size: 500, ..entry(Body::Pages(Pages::default())) },
    ];
    for entry in wrong {
        assert_eq!(entry.encode(&PLACE, &Seal::none()).unwrap_err().kind(), ErrorKind::Internal);
    }
}

#[test]
fn a_later_version_is_told_from_damage() {
    let entry = Entry { previous: [0; 32], time: 5, page_size: 512, size_pages: 0, body: Body::End("deleted".into()) };
    let mut value = entry.encode(&PLACE, &Seal::none()).unwrap().value.to_vec();
    value[4] = 2;
    assert_eq!(Stored::parse(&PLACE, &value.into()).unwrap_err().kind(), ErrorKind::Config);
    let mut head = Head::default().encode();
    head[4] = 2;
    assert_eq!(Head::decode(&head).unwrap_err().kind(), ErrorKind::Config);
}

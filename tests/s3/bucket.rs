//! The objects of a bucket, in memory.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    time::SystemTime,
};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The least length of a part that is not the last.
const LEAST_PART: usize = 5 << 20;

pub type Metadata = HashMap<String, String>;

#[derive(Debug, Clone)]
pub struct Object {
    pub content: Bytes,
    /// Of the content, as S3 has it.
    pub tag: String,
    pub written: SystemTime,
    pub metadata: Option<Metadata>,
}

/// What must be so for a write to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    Always,
    /// No object of this key is there.
    Absent,
    /// One is there.
    Present,
    /// One is there, and it is this version.
    Tag(String),
}

/// Why something was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    NoKey,
    NoUpload,
    Precondition,
    /// A part that is named is not there, or another.
    Part,
    PartOrder,
    PartTooSmall,
}

/// An upload in parts that was begun.
#[derive(Debug, Clone)]
struct Upload {
    key: String,
    metadata: Option<Metadata>,
    parts: BTreeMap<i32, (Bytes, String)>,
}

/// What is asked of a list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ask<'a> {
    pub prefix: &'a str,
    pub delimiter: Option<&'a str>,
    /// Keys after this one.
    pub after: &'a str,
    /// Where the page before has ended.
    pub token: &'a str,
    pub most: usize,
}

/// One page of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub objects: Vec<(String, Object)>,
    pub folders: Vec<String>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

#[derive(Debug, Default)]
pub struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// The versions that ended uploads have made: to end one again gives the same answer.
    ended: BTreeMap<String, String>,
    begun: u64,
}

pub fn tag_of(content: &[u8]) -> String {
    hex::encode(&Sha256::digest(content)[..16])
}

impl Bucket {
    pub fn get(&self, key: &str) -> Option<&Object> {
        self.objects.get(key)
    }

    /// Writes an object if the condition holds; gives its version.
    pub fn put(
        &mut self,
        key: &str,
        content: Bytes,
        metadata: Option<Metadata>,
        condition: &Condition,
    ) -> Result<String, Refused> {
        let tag = tag_of(&content);
        self.write(key, content, tag, metadata, condition)
    }

    fn write(
        &mut self,
        key: &str,
        content: Bytes,
        tag: String,
        metadata: Option<Metadata>,
        condition: &Condition,
    ) -> Result<String, Refused> {
        match (condition, self.objects.get(key)) {
            (Condition::Always, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => {}
            (Condition::Tag(tag), Some(there)) if *tag == there.tag => {}
            (Condition::Tag(_) | Condition::Present, None) => return Err(Refused::NoKey),
            (Condition::Tag(_) | Condition::Absent, Some(_)) => return Err(Refused::Precondition),
        }
        let object = Object { content, tag: tag.clone(), written: SystemTime::now(), metadata };
        self.objects.insert(key.to_owned(), object);
        Ok(tag)
    }

    pub fn delete(&mut self, key: &str) -> Option<Object> {
        self.objects.remove(key)
    }

    pub fn list(&self, ask: &Ask<'_>) -> Page {
        let mut page = Page::default();
        let mut last = "";
        let from = self.objects.range::<str, _>((Bound::Included(ask.prefix), Bound::Unbounded));
        for (key, object) in from.take_while(|(key, _)| key.starts_with(ask.prefix)) {
            if key.as_str() <= ask.after {
                continue;
            }
            let folder = ask.delimiter.filter(|delimiter| !delimiter.is_empty()).and_then(|delimiter| {
                let at = key[ask.prefix.len()..].find(delimiter)?;
                Some(&key[..ask.prefix.len() + at + delimiter.len()])
            });
            let item = folder.unwrap_or(key);
            if item <= ask.token || item == last {
                continue;
            }
            if page.objects.len() + page.folders.len() == ask.most {
                page.next = Some(last.to_owned());
                break;
            }
            match folder {
                Some(folder) => page.folders.push(folder.to_owned()),
                None => page.objects.push((key.clone(), object.clone())),
            }
            last = item;
        }
        page
    }

    pub fn begin_upload(&mut self, key: &str, metadata: Option<Metadata>) -> String {
        self.begun += 1;
        let id = format!("upload-{}", self.begun);
        self.uploads.insert(id.clone(), Upload { key: key.to_owned(), metadata, parts: BTreeMap::new() });
        id
    }

    pub fn put_part(&mut self, key: &str, id: &str, number: i32, content: Bytes) -> Result<String, Refused> {
        let upload = self.uploads.get_mut(id).filter(|upload| upload.key == key).ok_or(Refused::NoUpload)?;
        let tag = tag_of(&content);
        upload.parts.insert(number, (content, tag.clone()));
        Ok(tag)
    }

    /// Makes an object of parts, each named by its number and its version.
    pub fn end_upload(
        &mut self,
        key: &str,
        id: &str,
        parts: &[(i32, String)],
        condition: &Condition,
    ) -> Result<String, Refused> {
        if let Some(tag) = self.ended.get(id) {
            return Ok(tag.clone());
        }
        let upload = self.uploads.get(id).filter(|upload| upload.key == key).ok_or(Refused::NoUpload)?;
        if parts.is_empty() || !parts.is_sorted_by(|(one, _), (other, _)| one < other) {
            return Err(Refused::PartOrder);
        }
        let mut content = Vec::new();
        for (nth, (number, tag)) in parts.iter().enumerate() {
            let (part, found) = upload.parts.get(number).ok_or(Refused::Part)?;
            if found != tag {
                return Err(Refused::Part);
            }
            if nth + 1 < parts.len() && part.len() < LEAST_PART {
                return Err(Refused::PartTooSmall);
            }
            content.extend_from_slice(part);
        }
        let metadata = upload.metadata.clone();
        let tag = format!("{}-{}", tag_of(&content), parts.len());
        let tag = self.write(key, content.into(), tag, metadata, condition)?;
        self.uploads.remove(id);
        self.ended.insert(id.to_owned(), tag.clone());
        Ok(tag)
    }

    pub fn abort_upload(&mut self, id: &str) -> Result<(), Refused> {
        self.uploads.remove(id).map(drop).ok_or(Refused::NoUpload)
    }

    /// How many uploads were begun and not ended.
    pub fn uploads(&self) -> usize {
        self.uploads.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.objects.keys()
    }

    /// All objects, as they are now.
    pub fn snapshot(&self) -> BTreeMap<String, Object> {
        self.objects.clone()
    }

    /// Makes the bucket what it was.
    pub fn put_back(&mut self, objects: BTreeMap<String, Object>) {
        self.objects = objects;
    }

    /// Flips a bit of an object, as a disk does that lies: its version stays. False if it has no such byte.
    pub fn flip(&mut self, key: &str, at: usize) -> bool {
        let Some(object) = self.objects.get_mut(key).filter(|object| at < object.content.len()) else { return false };
        let mut content = object.content.to_vec();
        content[at] ^= 0x10;
        object.content = content.into();
        true
    }
}

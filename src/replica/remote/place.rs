//! URLs of places for copies.

use object_store::path::Path;

use crate::error::{Error, Result};

/// Who keeps the copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// S3 or what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
    /// A folder of this machine.
    Folder,
    /// This process, for tests.
    Memory,
}

/// Where copies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Who keeps them.
    pub service: Service,
    /// The bucket or container; the path of the folder; the name in memory.
    pub bucket: String,
    /// What the paths in the bucket begin with.
    pub prefix: Path,
}

const FORMS: &str =
    "write it as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///path/of/a/folder";

impl Place {
    /// Reads a URL.
    ///
    /// # Errors
    /// Does not show what may be a password in the URL.
    pub fn parse(url: &str) -> Result<Self> {
        let Some((scheme, rest)) = url.trim().split_once("://") else {
            // What has an @ may have a password before it.
            return Err(Error::config(match url.contains('@') {
                true => format!("the place for copies is no URL: {FORMS}"),
                false => format!("the place for copies {url:?} is no URL: {FORMS}"),
            }));
        };
        let service = match scheme.to_ascii_lowercase().as_str() {
            "s3" => Service::S3,
            "gs" => Service::Google,
            "az" => Service::Azure,
            "file" => Service::Folder,
            "memory" => Service::Memory,
            _ => return Err(Error::config(format!("the place for copies is of an unknown kind: {FORMS}"))),
        };
        if service != Service::Folder && rest.contains(['?', '#']) {
            return Err(Error::config("the URL of the place for copies: leave out what begins with ? or #"));
        }
        match service {
            Service::Folder => folder(rest),
            // With three slashes, as a URL without a host.
            Service::Memory => in_bucket(service, rest.strip_prefix('/').unwrap_or(rest)),
            _ => in_bucket(service, rest),
        }
    }

    /// The URL, without anything that is secret.
    pub fn url(&self) -> String {
        let scheme = match self.service {
            Service::S3 => "s3://",
            Service::Google => "gs://",
            Service::Azure => "az://",
            Service::Folder => "file://",
            Service::Memory => "memory:///",
        };
        match self.prefix.is_root() {
            true => format!("{scheme}{}", self.bucket),
            false => format!("{scheme}{}/{}", self.bucket, self.prefix),
        }
    }
}

fn in_bucket(service: Service, rest: &str) -> Result<Place> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    // A secret key may have a slash before its @.
    if bucket.contains([':', '@']) || (rest.contains('@') && rest.contains(':')) {
        return Err(Error::config(
            "the URL of the place for copies has a name or a password in it: leave them out, and set \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS, or \
             AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        ));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(legal) {
        return Err(Error::config(format!(
            "the URL of the place for copies has no bucket, or one that no store has: {FORMS}"
        )));
    }
    let prefix = Path::parse(prefix).map_err(|e| {
        Error::config("the prefix in the URL of the place for copies: names with single slashes between them")
            .with_source(e)
    })?;
    Ok(Place { service, bucket: bucket.to_owned(), prefix })
}

fn folder(rest: &str) -> Result<Place> {
    let path = rest.trim_end_matches('/');
    if !rest.starts_with('/') || path.is_empty() || path.split('/').any(|part| part == "." || part == "..") {
        return Err(Error::config(
            "a folder for copies is written with its whole path, and without . and ..: file:///path/of/a/folder",
        ));
    }
    Ok(Place { service: Service::Folder, bucket: path.to_owned(), prefix: Path::ROOT })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_bucket_and_a_prefix() {
        for (url, service, bucket, prefix) in [
            ("s3://bucket", Service::S3, "bucket", ""),
            ("s3://bucket/", Service::S3, "bucket", ""),
            ("S3://my.bucket/a/b/", Service::S3, "my.bucket", "a/b"),
            ("gs://bucket/a", Service::Google, "bucket", "a"),
            ("az://container/a", Service::Azure, "container", "a"),
            ("file:///other/disk/", Service::Folder, "/other/disk", ""),
            ("memory:///name/a", Service::Memory, "name", "a"),
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!((place.service, &*place.bucket, place.prefix.as_ref()), (service, bucket, prefix), "{url}");
            assert_eq!(Place::parse(&place.url()).unwrap(), place, "{url}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_without_its_password() {
        for url in [
            "",
            "bucket",
            "hunter2@bucket",
            "ftp://hunter2@host",
            "s3://",
            "s3:///prefix",
            "s3://key:hunter2@bucket/prefix",
            "s3://key:hun/ter2@bucket/prefix",
            "s3://hunter2@bucket",
            "s3://bucket/prefix?secret=hunter2",
            "s3://bucket/prefix#hunter2",
            "s3://bucket/a//b",
            "s3://bucket/../b",
            "s3://buc ket",
            "file://relative/path",
            "file://",
            "file:///",
            "file:///a/../b",
        ] {
            let error = Place::parse(url).unwrap_err();
            assert_eq!(error.kind(), crate::error::ErrorKind::Config, "{url}");
            assert!(!error.to_string().contains("ter2"), "{url}: {error}");
        }
    }
}

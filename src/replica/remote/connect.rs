//! Makes the client for a place for copies.

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path as FilePath, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, Error as StoreError, HeaderValue, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut},
    azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    prefix::PrefixStore,
};

use super::{
    explain::PLAIN_HTTP,
    faulty::Faulty,
    place::{Place, Service},
};
use crate::error::{Error, Result};

/// How long a connection may take to be there.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a request may take, with its body.
const REQUEST: Duration = Duration::from_secs(30);

/// How long a failed request is tried again. What is above tries for longer, and can say meanwhile that the bucket is
/// away.
const RETRY: Duration = Duration::from_secs(10);

/// The client, for paths below the prefix. `variables` are those of the environment that name credentials.
pub fn connect(place: &Place, variables: &[(String, String)]) -> Result<Arc<dyn ObjectStore>> {
    let store: Arc<dyn ObjectStore> = match place.service {
        Service::S3 => s3(&place.bucket, variables)?,
        Service::Google => {
            let empty = GoogleCloudStorageBuilder::new().with_client_options(client()).with_retry(retry());
            let configured = known(variables, &["google_", "service_account"]).fold(empty, |builder, (key, value)| {
                match key.parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                }
            });
            let built = configured.with_bucket_name(&place.bucket).build();
            Arc::new(built.map_err(|e| unusable("GOOGLE_APPLICATION_CREDENTIALS and other GOOGLE_… variables", e))?)
        }
        Service::Azure => {
            let empty = MicrosoftAzureBuilder::new().with_client_options(client()).with_retry(retry());
            let configured = known(variables, &["azure_", "identity_endpoint"]).fold(empty, |builder, (key, value)| {
                match key.parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                }
            });
            let built = configured.with_container_name(&place.bucket).build();
            Arc::new(built.map_err(|e| {
                unusable("AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY and other AZURE_… variables", e)
            })?)
        }
        Service::Folder => folder(&place.bucket)?,
        Service::Memory => Faulty::named(&place.bucket),
    };
    Ok(match place.prefix.is_root() {
        true => store,
        false => Arc::new(PrefixStore::new(store, place.prefix.clone())),
    })
}

fn s3(bucket: &str, variables: &[(String, String)]) -> Result<Arc<dyn ObjectStore>> {
    let empty = AmazonS3Builder::new().with_client_options(client()).with_retry(retry());
    let configured = known(variables, &["aws_"]).fold(empty, |builder, (key, value)| match key.parse() {
        Ok(key) => builder.with_config(key, value),
        Err(_) => builder,
    });
    let value = |key: AmazonS3ConfigKey| configured.get_config_value(&key);
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    let http = value(AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)).unwrap_or_default();
    let allowed = ["1", "true", "on", "yes", "y"].contains(&&*http.trim().to_ascii_lowercase());
    if !allowed && endpoint.is_some_and(|url| url.trim().to_ascii_lowercase().starts_with("http://")) {
        return Err(Error::config(PLAIN_HTTP));
    }
    // Whatever the environment says: without it two servers could overwrite each other.
    let built = configured.with_conditional_put(S3ConditionalPut::ETagMatch).with_bucket_name(bucket).build();
    let named = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and other AWS_… variables";
    Ok(Arc::new(built.map_err(|e| unusable(named, e))?))
}

/// The variables that begin in one of these ways, with their names in small letters as the builders know them. An empty
/// one is not set.
fn known<'v>(variables: &'v [(String, String)], begin: &'v [&'v str]) -> impl Iterator<Item = (String, &'v str)> {
    variables
        .iter()
        .filter(|(_, value)| !value.trim().is_empty())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .filter(move |(name, _)| begin.iter().any(|begin| name.starts_with(begin)))
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT)
        .with_timeout(REQUEST)
        .with_user_agent(HeaderValue::from_static(concat!("cubby/", env!("CARGO_PKG_VERSION"))))
}

fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 10, retry_timeout: RETRY }
}

fn unusable(names: &str, error: StoreError) -> Error {
    Error::config(format!("the settings for the place for copies cannot be used: check {names}")).with_source(error)
}

fn folder(path: &str) -> Result<Arc<dyn ObjectStore>> {
    let wrong = |what: &str| Error::config(format!("the folder for copies {path:?} {what}"));
    match DirBuilder::new().mode(0o700).create(FilePath::new(path)) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !FilePath::new(path).is_dir() {
                return Err(wrong("is a file: name a folder"));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(wrong("has no folder above it: check that its disk is mounted, or make it").with_source(e));
        }
        Err(e) => return Err(wrong("cannot be made: check the permissions of the one above it").with_source(e)),
    }
    let store = LocalFileSystem::new_with_prefix(path)
        .map_err(|e| wrong("cannot be read: check its owner and permissions").with_source(e))?;
    // A bucket keeps what it has acknowledged, and has no empty folders.
    Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, variables: &[(&str, &str)]) -> Result<Arc<dyn ObjectStore>> {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        connect(&Place::parse(url).unwrap(), &variables)
    }

    #[test]
    fn credentials_come_from_the_variables() {
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_REGION", "eu-north-1")];
        let store = open("s3://bucket/prefix", &keys).unwrap();
        assert!(!format!("{store:?}").contains("hunter2"));
        // An empty one is not set.
        assert!(open("s3://bucket", &[&keys[..], &[("AWS_ENDPOINT_URL", "")]].concat()).is_ok());
        let half = open("s3://bucket", &keys[..1]).unwrap_err();
        assert!(half.message().contains("AWS_SECRET_ACCESS_KEY"), "{half}");
        let account = [("AZURE_STORAGE_ACCOUNT_NAME", "a"), ("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVy")];
        assert!(open("az://container/prefix", &account).is_ok());
        assert!(open("az://container/prefix", &[]).is_err());
    }

    #[test]
    fn plain_http_must_be_allowed() {
        let endpoint = ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000");
        let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), endpoint];
        assert!(open("s3://bucket", &keys).unwrap_err().message().contains("AWS_ALLOW_HTTP"));
        let special = [("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9000")];
        assert!(open("s3://bucket", &special).unwrap_err().message().contains("AWS_ALLOW_HTTP"));
        assert!(open("s3://bucket", &[&keys[..], &[("AWS_ALLOW_HTTP", "true")]].concat()).is_ok());
    }

    #[test]
    fn a_folder_is_made_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("copies");
        let url = format!("file://{}", path.display());
        assert!(open(&url, &[]).is_ok() && open(&url, &[]).is_ok());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let error = open(&format!("{url}/not/there"), &[]).unwrap_err();
        assert!(error.message().contains("mounted"), "{error}");
        std::fs::write(path.join("file"), "").unwrap();
        assert!(open(&format!("{url}/file"), &[]).unwrap_err().message().contains("is a file"));
    }
}

//! What S3's clients ask, answered from the bucket.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use s3s::{
    Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CommonPrefix, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource,
        CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput,
        DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETag, ETagCondition, GetObjectInput, GetObjectOutput,
        HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output, Object as Listed, PutObjectInput,
        PutObjectOutput, StreamingBlob, Timestamp, UploadPartInput, UploadPartOutput,
    },
};

use super::{
    BUCKET, Shared,
    bucket::{Ask, Condition, Object, Refused},
};

pub struct Operations(pub Arc<Shared>);

/// The longest body that is read.
const LONGEST: usize = 1 << 30;

/// The most keys of a page.
const PAGE: usize = 1000;

/// What `#[async_trait]` makes of each.
macro_rules! operations {
    ($($name:ident($input:ty) -> $output:ty;)*) => {
        impl S3 for Operations {
            $(fn $name<'life0, 'async_trait>(
                &'life0 self,
                request: S3Request<$input>,
            ) -> Pin<Box<dyn Future<Output = S3Result<S3Response<$output>>> + Send + 'async_trait>>
            where
                'life0: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(async move { self.0.$name(request.input).await.map(S3Response::new) })
            })*
        }
    };
}

operations! {
    get_object(GetObjectInput) -> GetObjectOutput;
    head_object(HeadObjectInput) -> HeadObjectOutput;
    put_object(PutObjectInput) -> PutObjectOutput;
    copy_object(CopyObjectInput) -> CopyObjectOutput;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput;
    upload_part(UploadPartInput) -> UploadPartOutput;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput;
}

fn refused(why: Refused) -> S3Error {
    S3Error::new(match why {
        Refused::NoKey => S3ErrorCode::NoSuchKey,
        Refused::NoUpload => S3ErrorCode::NoSuchUpload,
        Refused::Precondition => S3ErrorCode::PreconditionFailed,
        Refused::Part => S3ErrorCode::InvalidPart,
        Refused::PartOrder => S3ErrorCode::InvalidPartOrder,
        Refused::PartTooSmall => S3ErrorCode::EntityTooSmall,
    })
}

fn is_ours(bucket: &str) -> S3Result<()> {
    match bucket == BUCKET {
        true => Ok(()),
        false => Err(S3Error::with_message(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist")),
    }
}

async fn read(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(blob) = body else { return Ok(Bytes::new()) };
    let mut body = Body::from(blob);
    let all = body.store_all_limited(LONGEST).await;
    all.map_err(|error| S3Error::with_source(S3ErrorCode::IncompleteBody, error))
}

/// Whether a version is the one that a condition names.
fn is_named(condition: &ETagCondition, tag: &str) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(named) => named.value() == tag,
    }
}

impl Shared {
    /// What a write's headers ask for, as far as this server honours it.
    fn condition(&self, matches: Option<&ETagCondition>, none_match: Option<&ETagCondition>) -> Condition {
        let ignores = self.ignores();
        match (matches.filter(|_| !ignores.matches), none_match.filter(|_| !ignores.none_match)) {
            (_, Some(ETagCondition::Any)) => Condition::Absent,
            (Some(ETagCondition::Any), _) => Condition::Present,
            (Some(ETagCondition::ETag(tag)), _) => Condition::Tag(tag.value().to_owned()),
            _ => Condition::Always,
        }
    }

    /// An object that is read, if the conditions hold.
    fn find(&self, key: &str, matches: Option<&ETagCondition>, none_match: Option<&ETagCondition>) -> S3Result<Object> {
        let bucket = self.bucket();
        let object = bucket.get(key).ok_or_else(|| S3Error::new(S3ErrorCode::NoSuchKey))?;
        if matches.is_some_and(|condition| !is_named(condition, &object.tag)) {
            return Err(S3Error::new(S3ErrorCode::PreconditionFailed));
        }
        if none_match.is_some_and(|condition| is_named(condition, &object.tag)) {
            return Err(S3Error::new(S3ErrorCode::NotModified));
        }
        Ok(object.clone())
    }

    async fn get_object(&self, input: GetObjectInput) -> S3Result<GetObjectOutput> {
        is_ours(&input.bucket)?;
        let object = self.find(&input.key, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let all = object.content.len();
        let (content, content_range) = match &input.range {
            None => (object.content, None),
            Some(range) => {
                let part = range.check(all as u64)?;
                let named = format!("bytes {}-{}/{all}", part.start, part.end - 1);
                (object.content.slice(part.start as usize..part.end as usize), Some(named))
            }
        };
        Ok(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(content.len() as i64),
            content_range,
            body: Some(StreamingBlob::from(Body::from(content))),
            e_tag: Some(ETag::Strong(object.tag)),
            last_modified: Some(Timestamp::from(object.written)),
            metadata: object.metadata,
            ..GetObjectOutput::default()
        })
    }

    async fn head_object(&self, input: HeadObjectInput) -> S3Result<HeadObjectOutput> {
        is_ours(&input.bucket)?;
        let object = self.find(&input.key, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        Ok(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(object.content.len() as i64),
            e_tag: Some(ETag::Strong(object.tag)),
            last_modified: Some(Timestamp::from(object.written)),
            metadata: object.metadata,
            ..HeadObjectOutput::default()
        })
    }

    async fn put_object(&self, input: PutObjectInput) -> S3Result<PutObjectOutput> {
        is_ours(&input.bucket)?;
        let condition = self.condition(input.if_match.as_ref(), input.if_none_match.as_ref());
        let content = read(input.body).await?;
        let tag = self.bucket().put(&input.key, content, input.metadata, &condition).map_err(refused)?;
        Ok(PutObjectOutput { e_tag: Some(ETag::Strong(tag)), ..PutObjectOutput::default() })
    }

    async fn copy_object(&self, input: CopyObjectInput) -> S3Result<CopyObjectOutput> {
        is_ours(&input.bucket)?;
        let CopySource::Bucket { bucket, key, .. } = &input.copy_source else {
            return Err(S3Error::new(S3ErrorCode::NotImplemented));
        };
        is_ours(bucket)?;
        let (matches, none_match) = (input.copy_source_if_match.as_ref(), input.copy_source_if_none_match.as_ref());
        let from = self.find(key, matches, none_match)?;
        let put = self.bucket().put(&input.key, from.content, from.metadata, &Condition::Always);
        let tag = put.map_err(refused)?;
        let copied = CopyObjectResult {
            e_tag: Some(ETag::Strong(tag)),
            last_modified: Some(Timestamp::from(std::time::SystemTime::now())),
            ..CopyObjectResult::default()
        };
        Ok(CopyObjectOutput { copy_object_result: Some(copied), ..CopyObjectOutput::default() })
    }

    async fn delete_object(&self, input: DeleteObjectInput) -> S3Result<DeleteObjectOutput> {
        is_ours(&input.bucket)?;
        self.bucket().delete(&input.key);
        Ok(DeleteObjectOutput::default())
    }

    async fn delete_objects(&self, input: DeleteObjectsInput) -> S3Result<DeleteObjectsOutput> {
        is_ours(&input.bucket)?;
        let mut bucket = self.bucket();
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            bucket.delete(&object.key);
            deleted.push(DeletedObject { key: Some(object.key), ..DeletedObject::default() });
        }
        Ok(DeleteObjectsOutput { deleted: Some(deleted), ..DeleteObjectsOutput::default() })
    }

    async fn list_objects_v2(&self, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        is_ours(&input.bucket)?;
        let asked = input.max_keys.and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE);
        let most = asked.min(self.page());
        let page = self.bucket().list(&Ask {
            prefix: input.prefix.as_deref().unwrap_or(""),
            delimiter: input.delimiter.as_deref(),
            after: input.start_after.as_deref().unwrap_or(""),
            token: input.continuation_token.as_deref().unwrap_or(""),
            most,
        });
        let count = page.objects.len() + page.folders.len();
        let contents = page.objects.into_iter().map(|(key, object)| Listed {
            key: Some(key),
            size: Some(object.content.len() as i64),
            e_tag: Some(ETag::Strong(object.tag)),
            last_modified: Some(Timestamp::from(object.written)),
            ..Listed::default()
        });
        let folders = page.folders.into_iter().map(|folder| CommonPrefix { prefix: Some(folder) });
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: Some(most as i32),
            key_count: Some(count as i32),
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next,
            contents: Some(contents.collect()),
            common_prefixes: Some(folders.collect()),
            ..ListObjectsV2Output::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        input: CreateMultipartUploadInput,
    ) -> S3Result<CreateMultipartUploadOutput> {
        is_ours(&input.bucket)?;
        let id = self.bucket().begin_upload(&input.key, input.metadata);
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    async fn upload_part(&self, input: UploadPartInput) -> S3Result<UploadPartOutput> {
        is_ours(&input.bucket)?;
        let content = read(input.body).await?;
        let put = self.bucket().put_part(&input.key, &input.upload_id, input.part_number, content);
        let tag = put.map_err(refused)?;
        Ok(UploadPartOutput { e_tag: Some(ETag::Strong(tag)), ..UploadPartOutput::default() })
    }

    async fn complete_multipart_upload(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        is_ours(&input.bucket)?;
        let condition = self.condition(input.if_match.as_ref(), input.if_none_match.as_ref());
        let named = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts: Vec<(i32, String)> =
            named.into_iter().filter_map(|part| Some((part.part_number?, part.e_tag?.into_value()))).collect();
        let ended = self.bucket().end_upload(&input.key, &input.upload_id, &parts, &condition);
        let tag = ended.map_err(refused)?;
        Ok(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(ETag::Strong(tag)),
            ..CompleteMultipartUploadOutput::default()
        })
    }

    async fn abort_multipart_upload(&self, input: AbortMultipartUploadInput) -> S3Result<AbortMultipartUploadOutput> {
        is_ours(&input.bucket)?;
        self.bucket().abort_upload(&input.upload_id).map_err(refused)?;
        Ok(AbortMultipartUploadOutput::default())
    }
}

//! The S3 operations of the store.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http_body_util::BodyExt;
use s3s::checksum::ChecksumHasher;
use s3s::dto::*;
use s3s::{
    Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, TrailingHeaders, s3_error,
};

use super::listing::{Page, PageAsked};
use super::{DAY_S, Entry, Store, StoredObject, length};

/// The parts of a response to GET or HEAD that describe the object.
macro_rules! described {
    ($output:ident, $entry:expr) => {
        $output {
            content_type: $entry.object.content_type.clone(),
            content_encoding: $entry.object.content_encoding.clone(),
            metadata: Some($entry.object.metadata.clone().into_iter().collect()),
            e_tag: Some($entry.e_tag.clone()),
            last_modified: Some($entry.last_modified.clone()),
            version_id: $entry.version_id.clone(),
            object_lock_mode: $entry
                .retention
                .as_ref()
                .map(|(mode, _)| ObjectLockMode::from_static(mode.name())),
            object_lock_retain_until_date: $entry
                .retention
                .as_ref()
                .map(|(_, until)| until.clone()),
            ..Default::default()
        }
    };
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let S3Request { mut input, trailing_headers, .. } = request;
        self.check_bucket(&input.bucket)?;
        refuse_unsupported(&input)?;
        let bytes = match input.body.take() {
            // Reading to the end also checks the payload's hash against the signature.
            Some(body) => Body::from(body)
                .collect()
                .await
                .map_err(|error| S3Error::with_source(S3ErrorCode::BadDigest, error))?
                .to_bytes(),
            None => Bytes::new(),
        };
        if !self.0.ignore_checksums.load(Ordering::Relaxed) {
            check_checksums(&mut input, &bytes, trailing_headers)?;
        }
        let mut entry = Entry::new(StoredObject {
            bytes,
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            content_type: input.content_type,
            content_encoding: input.content_encoding,
        });
        if self.0.versioned.load(Ordering::Relaxed) {
            entry.version_id =
                Some(format!("v{}", self.0.versions.fetch_add(1, Ordering::Relaxed)));
            let (mode, days) = (self.retention(), self.0.retention_days.load(Ordering::Relaxed));
            entry.retention = mode.map(|mode| (mode, self.in_seconds(u64::from(days) * DAY_S)));
        }
        let output = PutObjectOutput {
            e_tag: Some(entry.e_tag.clone()),
            version_id: entry.version_id.clone(),
            ..Default::default()
        };

        let if_none_match =
            input.if_none_match.filter(|_| !self.0.ignore_if_none_match.load(Ordering::Relaxed));
        let holds = |existing: Option<&Entry>| {
            let existing = existing.map(|entry| &entry.e_tag);
            !if_none_match.is_some_and(|condition| matches(&condition, existing))
                && input.if_match.is_none_or(|condition| matches(&condition, existing))
        };
        if self.write(input.key, entry, holds).is_none() {
            return Err(s3_error!(
                PreconditionFailed,
                "at least one of the preconditions did not hold"
            ));
        }
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(s3_error!(NotImplemented, "conditional reads are not supported"));
        }
        let entries = self.entries();
        let entry = entries.get(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        let (bytes, content_range) = match input.range {
            None => (entry.object.bytes.clone(), None),
            Some(range) => {
                let range = range.check(entry.object.bytes.len() as u64)?;
                let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, entry.size());
                // The range lies within a buffer in memory, so both ends fit.
                (entry.object.bytes.slice(range.start as usize..range.end as usize), Some(shown))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(length(&bytes)),
            content_range,
            body: Some(Body::from(bytes).into()),
            ..described!(GetObjectOutput, entry)
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.range.is_some() || input.if_match.is_some() || input.if_none_match.is_some() {
            return Err(s3_error!(
                NotImplemented,
                "conditions and ranges on HEAD are not supported"
            ));
        }
        let entries = self.entries();
        let entry = entries.get(&input.key).ok_or_else(|| s3_error!(NoSuchKey))?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(entry.size()),
            ..described!(HeadObjectOutput, entry)
        }))
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let is_versioned = self.0.versioned.load(Ordering::Relaxed);
        let enabled = BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED);
        let status = is_versioned.then_some(enabled);
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    async fn get_object_lock_configuration(
        &self,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let mode = self.retention().ok_or_else(|| {
            s3_error!(ObjectLockConfigurationNotFoundError, "the bucket has no Object Lock")
        })?;
        let days = self.0.retention_days.load(Ordering::Relaxed);
        let default_retention = Some(DefaultRetention {
            days: i32::try_from(days).ok(),
            mode: Some(ObjectLockRetentionMode::from_static(mode.name())),
            years: None,
        });
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(ObjectLockConfiguration {
                object_lock_enabled: Some(ObjectLockEnabled::from_static(
                    ObjectLockEnabled::ENABLED,
                )),
                rule: Some(ObjectLockRule { default_retention }),
            }),
        }))
    }

    async fn get_bucket_lifecycle_configuration(
        &self,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let rules = self.0.lifecycle.lock().expect("no panic under this lock").clone();
        let rules = rules.ok_or_else(|| {
            s3_error!(NoSuchLifecycleConfiguration, "the bucket has no lifecycle configuration")
        })?;
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
            rules: Some(rules),
            ..Default::default()
        }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.check_bucket(&request.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.check_bucket(&request.input.bucket)?;
        self.remove(&request.input.key, request.input.version_id.as_deref())?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.check_bucket(&request.input.bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for ObjectIdentifier { key, version_id, .. } in request.input.delete.objects {
            let allowed = self.0.policies.allow_delete(self.0.bucket, &key, version_id.is_some());
            let removed = if allowed {
                self.remove(&key, version_id.as_deref())
            } else {
                Err(s3_error!(AccessDenied))
            };
            match removed {
                Ok(()) => deleted.push(DeletedObject { key: Some(key), ..Default::default() }),
                Err(error) => {
                    let code = Some(error.code().as_str().to_owned());
                    let message = error.message().map(ToOwned::to_owned).or_else(|| code.clone());
                    errors.push(Error { code, key: Some(key), message, version_id });
                }
            }
        }
        let errors = Some(errors).filter(|errors| !errors.is_empty());
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: Some(deleted),
            errors,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        self.check_bucket(&input.bucket)?;
        if input.encoding_type.is_some() {
            return Err(s3_error!(NotImplemented, "encoding of listed keys is not supported"));
        }
        let asked = PageAsked {
            prefix: input.prefix.as_deref().unwrap_or_default(),
            delimiter: input.delimiter.as_deref(),
            token: input.continuation_token.as_deref(),
            start_after: input.start_after.as_deref(),
            max_keys: input.max_keys.and_then(|n| usize::try_from(n).ok()),
        };
        let Page { keys, folders, max_keys, next } = self.page(&asked);
        let count = keys.len() + folders.len();
        let contents = keys.into_iter().map(|listed| Object {
            key: Some(listed.key),
            size: Some(listed.size),
            e_tag: Some(listed.e_tag),
            last_modified: Some(listed.last_modified),
            ..Default::default()
        });
        let common_prefixes =
            folders.into_iter().map(|folder| CommonPrefix { prefix: Some(folder) }).collect();
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(count).ok(),
            max_keys: i32::try_from(max_keys).ok(),
            is_truncated: Some(next.is_some()),
            next_continuation_token: next,
            contents: Some(contents.collect()),
            common_prefixes: Some(common_prefixes),
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            continuation_token: input.continuation_token,
            start_after: input.start_after,
            ..Default::default()
        }))
    }
}

fn matches(condition: &ETagCondition, existing: Option<&ETag>) -> bool {
    existing.is_some_and(|e_tag| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.strong_cmp(e_tag),
    })
}

/// Rejects input that a real store would store or check but this one does not. Ignoring it would
/// let a test pass that fails with a real store.
fn refuse_unsupported(input: &PutObjectInput) -> S3Result {
    if input.object_lock_mode.is_some()
        || input.object_lock_retain_until_date.is_some()
        || input.object_lock_legal_hold_status.is_some()
    {
        return Err(s3_error!(
            InvalidRequest,
            "the bucket is missing an Object Lock configuration"
        ));
    }
    if input.content_md5.is_some()
        || input.cache_control.is_some()
        || input.content_disposition.is_some()
        || input.content_language.is_some()
        || input.expires.is_some()
    {
        return Err(s3_error!(
            NotImplemented,
            "the test server does not support one of the request's headers"
        ));
    }
    Ok(())
}

/// Compares the body with the checksums in the headers, or in the trailers of a chunked upload.
fn check_checksums(
    input: &mut PutObjectInput,
    bytes: &[u8],
    trailers: Option<TrailingHeaders>,
) -> S3Result {
    let trailers = trailers.and_then(|trailers| trailers.take()).unwrap_or_default();
    let claim = |header: &mut Option<String>, name: &str| {
        header.take().or_else(|| Some(trailers.get(name)?.to_str().ok()?.to_owned()))
    };
    let claimed = Checksum {
        checksum_crc32: claim(&mut input.checksum_crc32, "x-amz-checksum-crc32"),
        checksum_crc32c: claim(&mut input.checksum_crc32c, "x-amz-checksum-crc32c"),
        checksum_crc64nvme: claim(&mut input.checksum_crc64nvme, "x-amz-checksum-crc64nvme"),
        checksum_sha1: claim(&mut input.checksum_sha1, "x-amz-checksum-sha1"),
        checksum_sha256: claim(&mut input.checksum_sha256, "x-amz-checksum-sha256"),
        checksum_type: None,
    };
    let mut hasher = ChecksumHasher {
        crc32: claimed.checksum_crc32.as_ref().map(|_| Default::default()),
        crc32c: claimed.checksum_crc32c.as_ref().map(|_| Default::default()),
        crc64nvme: claimed.checksum_crc64nvme.as_ref().map(|_| Default::default()),
        sha1: claimed.checksum_sha1.as_ref().map(|_| Default::default()),
        sha256: claimed.checksum_sha256.as_ref().map(|_| Default::default()),
    };
    hasher.update(bytes);
    if hasher.finalize() != claimed {
        return Err(s3_error!(BadDigest, "the body does not match its checksum"));
    }
    Ok(())
}

//! Compares the statistics of a column with its values.

use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::statistics::Statistics;

use super::group::{Data, Values};

/// Checks the bounds of a column and the sizes of its values. From the bounds, query engines decide
/// which row groups to skip, and answer queries for the least and the greatest value.
pub(super) fn check_bounds(
    column: &ColumnChunkMetaData,
    values: &Values,
) -> Result<(), ParquetError> {
    let wrong =
        || ParquetError::General(format!("the bounds of {} are not its own", column.column_path()));
    let has_index = column.bloom_filter_offset().is_some()
        || column.column_index_offset().is_some()
        || column.offset_index_offset().is_some();
    if has_index || column.file_path().is_some() {
        let what = "it has an index that audit compact does not write";
        return Err(ParquetError::General(what.to_owned()));
    }
    let nulls = values.levels.iter().filter(|level| **level == 0).count();
    let levels = [nulls as i64, (values.levels.len() - nulls) as i64];
    let bytes = match &values.data {
        Data::Texts(texts) => Some(texts.iter().map(ByteArray::len).sum::<usize>() as i64),
        Data::Integers(_) | Data::Booleans(_) => None,
    };
    let has_other_sizes =
        column.unencoded_byte_array_data_bytes().is_some_and(|said| Some(said) != bytes)
            || column.definition_level_histogram().is_some_and(|said| said.values() != levels);
    if has_other_sizes {
        return Err(wrong());
    }
    let Some(bounds) = column.statistics() else { return Ok(()) };
    if bounds.null_count_opt().is_some_and(|count| count != nulls as u64)
        || bounds.distinct_count_opt().is_some()
    {
        return Err(wrong());
    }
    if are_of(bounds, &values.data) { Ok(()) } else { Err(wrong()) }
}

/// Whether the bounds are the least and the greatest value. Only bounds of long texts may be
/// shortened, and are then marked as inexact.
fn are_of(bounds: &Statistics, data: &Data) -> bool {
    let (min, max) = (bounds.min_bytes_opt(), bounds.max_bytes_opt());
    match data {
        Data::Texts(texts) => {
            let texts = || texts.iter().map(ByteArray::data);
            let holds = |said: &[u8],
                         found: Option<&[u8]>,
                         is_exact: bool,
                         is_beyond: fn(&[u8], &[u8]) -> bool| {
                found.is_some_and(|found| said == found || !is_exact && is_beyond(said, found))
            };
            min.is_none_or(|min| {
                holds(min, texts().min(), bounds.min_is_exact(), |said, found| said <= found)
            }) && max.is_none_or(|max| {
                holds(max, texts().max(), bounds.max_is_exact(), |said, found| said >= found)
            })
        }
        Data::Integers(integers) => {
            let is =
                |said: &[u8], found: Option<&i64>| found.is_some_and(|n| n.to_le_bytes() == *said);
            min.is_none_or(|min| is(min, integers.iter().min()))
                && max.is_none_or(|max| is(max, integers.iter().max()))
        }
        Data::Booleans(booleans) => {
            let is =
                |said: &[u8], found: Option<&bool>| found.is_some_and(|b| [u8::from(*b)] == *said);
            min.is_none_or(|min| is(min, booleans.iter().min()))
                && max.is_none_or(|max| is(max, booleans.iter().max()))
        }
    }
}

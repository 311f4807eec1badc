//! Messages whose parts travel as they were stored.

use bytes::Bytes;

/// `ReadEventsResponse` with the batch as its bytes: a length-delimited field looks the same on the
/// wire whether it is a message or bytes, so nobody on the way parses a stored batch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ReadEventsResponse {
    /// An encoded [`crate::wire::EventBatch`]; absent in a sign of life.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub batch: Option<Bytes>,
    /// Where to resume to get what follows this message.
    #[prost(string, tag = "2")]
    pub cursor: String,
    /// The offset that the next event of the log will get.
    #[prost(uint64, tag = "3")]
    pub head_offset: u64,
    /// The time of the newest event of the log.
    #[prost(message, optional, tag = "4")]
    pub head_time: Option<prost_types::Timestamp>,
    /// A stable identity of the log.
    #[prost(string, tag = "5")]
    pub log_id: String,
}

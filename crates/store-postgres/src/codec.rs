//! Between columns and types.

use molecule_domain::Timestamp;
use time::OffsetDateTime;

/// A moment from its column.
pub(crate) fn moment(at: OffsetDateTime) -> Timestamp {
    let micros = at.unix_timestamp_nanos() / 1000;
    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

/// A moment for its column.
pub(crate) fn column(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.micros()) * 1000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_come_back_to_the_microsecond() {
        for micros in [0, 1, 1_700_000_000_123_456, -5] {
            let at = Timestamp::from_micros(micros);
            assert_eq!(moment(column(at)), at);
        }
    }
}

//! What is wrong with the provider for a while.

/// What is wrong with the provider for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weather {
    /// No call gets an answer, and none has an effect.
    Away,
    /// The same, but calls hang until whoever asks gives up.
    Hangs,
    /// Calls take up to their whole limit.
    Slow,
    /// There is no room for launches.
    Full,
    /// The account's own limit is reached.
    Quota,
    /// A launch seems lost, and takes effect later.
    Late,
    /// A launch makes its instance, does not start it, and seems lost.
    Half,
    /// Launches are refused.
    Refuses,
    /// Images can't be had.
    NoImage,
    /// Networks can't be had.
    NoNetwork,
    /// A stranger's is in the way of every name.
    Taken,
    /// Images take their time.
    Preparing,
    /// Instances take longer to boot than anybody waits.
    SlowBoot,
    /// Instances take minutes to stop.
    SlowStop,
    /// Lists show what is there later than promised.
    ShowsLate,
    /// A repeated launch makes a second machine of one launch.
    Doubles,
    /// What starts ends by itself soon.
    CrashLoop,
    /// What starts can't be prepared by its init, and ends.
    InitFails,
}

impl Weather {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Away,
        Self::Hangs,
        Self::Slow,
        Self::Full,
        Self::Quota,
        Self::Late,
        Self::Half,
        Self::Refuses,
        Self::NoImage,
        Self::NoNetwork,
        Self::Taken,
        Self::Preparing,
        Self::SlowBoot,
        Self::SlowStop,
        Self::ShowsLate,
        Self::Doubles,
        Self::CrashLoop,
        Self::InitFails,
    ];

    /// Its name, for tables and explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Hangs => "hangs",
            Self::Slow => "slow",
            Self::Full => "full",
            Self::Quota => "quota",
            Self::Late => "late",
            Self::Half => "half",
            Self::Refuses => "refuses",
            Self::NoImage => "no image",
            Self::NoNetwork => "no network",
            Self::Taken => "name taken",
            Self::Preparing => "preparing",
            Self::SlowBoot => "slow boot",
            Self::SlowStop => "slow stop",
            Self::ShowsLate => "shows late",
            Self::Doubles => "doubles",
            Self::CrashLoop => "crash loop",
            Self::InitFails => "init fails",
        }
    }
}

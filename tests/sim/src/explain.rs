//! Which troubles may end in FAILED, by the reason of the failure, and how long after their end.

use std::time::Duration;

use molecule_domain::lifecycle::Reason;

/// The kinds of trouble that may end in FAILED for a reason.
pub(crate) fn explains(reason: Reason) -> &'static [&'static str] {
    match reason {
        Reason::ImageUnavailable => &["no image"],
        Reason::NetworkUnavailable => &["no network"],
        // a stray of the same generation may come to be listed after it failed for something else; what a restored database
        // does not know stays in the way until an operator has ended the alarm; a clock that is set forward ends its time
        Reason::NameTaken => {
            &["clock", "name taken", "shows late", "late", "doubles", "replica frozen", "restored"]
        }
        Reason::LaunchRefused => &["refuses"],
        Reason::LaunchTimeout => &[
            "clock",
            "away",
            "hangs",
            "slow",
            "late",
            "half",
            "preparing",
            "replica frozen",
            "replica down",
            "shows late",
            "doubles",
            "slow boot",
            "full",
        ],
        Reason::BackendUnreachable => &["clock", "away", "hangs", "slow", "replica frozen", "replica down"],
        Reason::BootTimeout => {
            &["clock", "slow boot", "replica frozen", "replica down", "away", "hangs", "slow"]
        }
        Reason::StopTimeout => {
            &["clock", "slow stop", "slow", "hangs", "away", "replica frozen", "replica down"]
        }
        // a launch that comes to two machines is taken away whole, however often that happens
        Reason::CrashLoop => &["crash loop", "init fails", "crash", "vanish", "shows late", "doubles"],
        Reason::InitFailed => &["init fails"],
        Reason::AgentNotConnected => {
            // what ends or vanishes without a hint is found by the next sweep only
            &[
                "clock",
                "silent",
                "tenant down",
                "replica frozen",
                "cut",
                "crash",
                "vanish",
                "crash loop",
                "init fails",
                "slow boot",
                "restored unheard",
            ]
        }
        // a restore may bring back a launch that had found no room long before
        Reason::NoCapacity => &["full", "restored"],
        Reason::ProviderQuota => &["quota", "restored"],
        Reason::AgentSilent
        | Reason::AgentErrors
        | Reason::Restarting
        | Reason::OrganizationSuspended
        | Reason::UnknownLaunch
        | Reason::Recovered => &[],
    }
}

/// What keeps anybody from looking at the provider: what has ended, or what a restored database shows as it was, counts as up
/// until then, and no agent of it connects meanwhile.
pub(crate) const UNSEEN: [&str; 4] = ["away", "hangs", "slow", "replica down"];

/// How long after its end a trouble may still end in FAILED for a reason: the longest deadline that ends so, and what passes
/// until somebody looks.
pub(crate) fn reach(reason: Reason) -> Duration {
    let minutes = match reason {
        Reason::LaunchRefused => 2,
        Reason::NoCapacity
        | Reason::ProviderQuota
        | Reason::ImageUnavailable
        | Reason::NetworkUnavailable => 5,
        Reason::AgentNotConnected | Reason::StopTimeout => 10,
        Reason::LaunchTimeout | Reason::BackendUnreachable => 12,
        // from when a replica began, and until its next look
        Reason::BootTimeout => 17,
        Reason::NameTaken => 20,
        _ => 25,
    };
    Duration::from_secs(minutes * 60)
}

//! Every id has a type of its own, so that one can't stand where another is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, ascending in time (`UUIDv7`).
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with these bits.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bits of this id.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

uuid_id! {
    /// A workspace, for all of its generations.
    WorkspaceId
}
uuid_id! {
    /// A customer's organisation. A self-hosted tenant has the one that is [`OrganizationId::SELF_HOSTED`].
    OrganizationId
}
uuid_id! {
    /// One installation of a service over one store: the owner of what it launches. Two installations on one
    /// daemon or account tell their resources apart by it.
    InstallationId
}
uuid_id! {
    /// What one workspace is charged for, from admission to confirmed absence.
    ChargeId
}
uuid_id! {
    /// A token of an organisation's.
    TokenId
}
uuid_id! {
    /// Who holds a lease on a record: one running engine.
    LeaseOwner
}

uuid_id! {
    /// One start of a service over its database.
    IncarnationId
}

uuid_id! {
    /// Several wishes that may be told to the provider as one.
    GroupId
}

impl OrganizationId {
    /// The one organisation of a self-hosted tenant.
    pub const SELF_HOSTED: Self = Self(Uuid::nil());
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($repr:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Counts the instances of a workspace. The first is 1.
    Generation(u32)
}
number! {
    /// Counts the launches of one generation. The first is 1.
    AttemptNumber(u32)
}
number! {
    /// Numbers all launches of one store; never behind the clock (microseconds since 1970), so that a store that was
    /// put back to an earlier state gives no number out twice. Every resource carries the number of its launch, and each
    /// store knows which numbers it gave out.
    LaunchSeq(i64)
}
number! {
    /// Counts the changes within one organisation, in the order of their commits.
    Revision(i64)
}
number! {
    /// Counts what a tenant asked of one workspace: the key that makes a forwarded request repeatable.
    IntentNumber(i64)
}

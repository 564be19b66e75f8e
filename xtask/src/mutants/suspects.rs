//! Mutations that a reader expected no test to catch: each text must be found exactly once in its file, so that a rename can't
//! silence one.

use anyhow::bail;

use super::PACKAGES;

/// A mutation of one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspect {
    /// What goes wrong with it.
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    pub(super) text: &'static str,
    pub(super) with: &'static str,
    pub(super) judge: Judge,
}

/// Which tests must catch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Judge {
    /// Those of the pure crates, and simulated lives.
    Pure,
    /// Those of the SQLite store.
    Sqlite,
    /// Those of the PostgreSQL store.
    Postgres,
}

impl Judge {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

impl Suspect {
    /// The package that it is in, where that is one of those that are mutated.
    pub(super) fn package(&self) -> Option<String> {
        let folder = self.file.strip_prefix("crates/")?.split('/').next()?;
        let package = format!("molecule-{folder}");
        PACKAGES.contains(&package.as_str()).then_some(package)
    }

    /// Whether it is planted by itself, and not together with all mutants.
    pub(super) fn is_alone(&self) -> bool {
        self.judge != Judge::Pure || self.package().is_none()
    }

    /// The name that its results have.
    pub(super) fn full_name(&self) -> String {
        format!("{}: {}", self.file, self.name)
    }

    /// A source with the mutation in it.
    pub(super) fn applied(&self, source: &str) -> anyhow::Result<String> {
        let place = self.place(source)?;
        Ok([&source[..place], self.with, &source[place + self.text.len()..]].concat())
    }

    /// Where the text begins in its file, which must hold it once.
    pub(super) fn place(&self, source: &str) -> anyhow::Result<usize> {
        let mut places = source.match_indices(self.text).map(|(place, _)| place);
        match (places.next(), places.count()) {
            (Some(place), 0) => Ok(place),
            (first, more) => {
                let count = usize::from(first.is_some()) + more;
                bail!("{:?} is {count} times in {}, not once: {}", self.text, self.file, self.name)
            }
        }
    }
}

const fn pure(name: &'static str, file: &'static str, text: &'static str, with: &'static str) -> Suspect {
    Suspect { name, file, text, with, judge: Judge::Pure }
}

const fn postgres(name: &'static str, file: &'static str, text: &'static str, with: &'static str) -> Suspect {
    Suspect { name, file, text, with, judge: Judge::Postgres }
}

const fn sqlite(name: &'static str, file: &'static str, text: &'static str, with: &'static str) -> Suspect {
    Suspect { name, file, text, with, judge: Judge::Sqlite }
}

const PLAN: &str = "crates/provisioner/src/reconciler/plan.rs";
const OUTCOME: &str = "crates/provisioner/src/outcome.rs";
const COMPARISON: &str = "crates/provisioner/src/reconciler/comparison.rs";
const ORPHANS: &str = "crates/provisioner/src/reconciler/orphans.rs";
const SWEEPER: &str = "crates/provisioner/src/reconciler/sweeper.rs";
const EXECUTE: &str = "crates/provisioner/src/reconciler/execute.rs";
const EFFECTS: &str = "crates/provisioner/src/reconciler/effects.rs";
const ADMISSION: &str = "crates/provisioner/src/admission.rs";
const WATCH: &str = "crates/provisioner/src/watch.rs";
const ERROR: &str = "crates/domain/src/error.rs";
const MEMORY: &str = "crates/provisioner/src/store/memory/mod.rs";
const AGGREGATE: &str = "crates/workspace/src/aggregate.rs";
const AGENT: &str = "crates/workspace/src/agent.rs";
const MIRROR: &str = "crates/workspace/src/mirror.rs";
const OUTBOX: &str = "crates/workspace/src/outbox.rs";
const VERDICT: &str = "crates/workspace/src/agreement/verdict.rs";
const MEETINGS: &str = "crates/workspace/src/agreement/meetings.rs";
const WISH: &str = "crates/workspace/src/wish.rs";
const QUEUE: &str = "crates/tenant/src/outbox/queue.rs";
const UNDO: &str = "crates/workspace/src/undo.rs";
const POSTGRES: &str = "crates/store-postgres/src/engine/mod.rs";
const WRITE: &str = "crates/store-postgres/src/engine/write.rs";
const SQLITE: &str = "crates/store-sqlite/src/lib.rs";

/// All of them.
pub(super) const ALL: &[Suspect] = &[
    pure(
        "silence frees quota and ends the segment",
        PLAN,
        "return self.give_up(\n                Reason::BackendUnreachable,\n                \
         format!(\"the provider did not answer in time: {cause}. Restart the workspace once it does\"),\n",
        "return self.give_up_with(\n                Reason::BackendUnreachable,\n                \
         format!(\"the provider did not answer in time: {cause}. Restart the workspace once it does\"),\n                \
         Outcome { fact: Some(Fact::Down(self.now)), ..self.outcome() },\n",
    ),
    pure(
        "a segment opens when it is stored, not when it was seen",
        OUTCOME,
        "effects.open_segment = Some(at);",
        "effects.open_segment = Some(now);",
    ),
    pure(
        "a segment closes when that is stored, not when it was seen",
        OUTCOME,
        "effects.close_segment = Some(at.max(since));",
        "effects.close_segment = Some(now);",
    ),
    pure(
        "the time after a crash is billed",
        EXECUTE,
        "attempt: Some(AttemptState::Confirmed),\n            fact: Some(Fact::Down(sighting.at())),",
        "attempt: Some(AttemptState::Confirmed),\n            fact: None,",
    ),
    pure(
        "a call may outlive its lease",
        EFFECTS,
        "if self.clock.now() + limit >= lease.until {",
        "if false {",
    ),
    postgres(
        "starts that race pass the cap",
        POSTGRES,
        "let found = account_locked(&mut tx, organization, now).await?;\n            let (account, terms) = found.ok_or_else(|| organization_not_found(organization))?;\n            if request.intent",
        "let found = account_locked(&mut *self.0.begin().await?, organization, now).await?;\n            let (account, terms) = found.ok_or_else(|| organization_not_found(organization))?;\n            if request.intent",
    ),
    postgres(
        "a commit loses a change beside it",
        POSTGRES,
        "match find_locked(db, lease.workspace).await? {",
        "match find(db, lease.workspace).await? {",
    ),
    pure(
        "the token goes with a confirmed launch",
        OUTCOME,
        "if record.phase == Phase::Gone {\n        record.sealed_token",
        "if outcome.attempt == Some(AttemptState::Confirmed) {\n        record.sealed_token",
    ),
    pure(
        "a volume of an unknown launch raises no alarm",
        ORPHANS,
        "let mut all: Vec<_> = instances.chain(resources).collect();",
        "let mut all: Vec<_> = instances.chain(resources.take(0)).collect();",
    ),
    pure(
        "volumes have no grace",
        COMPARISON,
        ".filter(|one| now.since(seen_since(one)) >= policy.orphan_grace);",
        ".filter(|one| now.since(seen_since(one)) >= std::time::Duration::ZERO);",
    ),
    pure(
        "a pass removes twice what it may",
        COMPARISON,
        "workspaces.truncate(budget - instances.len());",
        "workspaces.truncate(budget);",
    ),
    pure(
        "the store is read before the provider",
        SWEEPER,
        "        let snapshot = executor.look().await;\n        let Ok(sightings) = snapshot.sightings() else { return Ok(Comparison::default()) };\n        let sightings: Vec<Sighting> = sightings.collect();\n        let resources = resources(executor).await;\n        let expected = executor.store.expectations(kind).await?;",
        "        let expected = executor.store.expectations(kind).await?;\n        let snapshot = executor.look().await;\n        let Ok(sightings) = snapshot.sightings() else { return Ok(Comparison::default()) };\n        let sightings: Vec<Sighting> = sightings.collect();\n        let resources = resources(executor).await;",
    ),
    pure(
        "what does not stop is never removed for its replacement",
        PLAN,
        "let patient = self.record.phase != Phase::Stopping || !self.overdue(patience);",
        "let patient = true;",
    ),
    pure(
        "a stop has no deadline",
        PLAN,
        "if self.record.phase == Phase::Stopping && self.overdue(self.policy.stop_deadline) {",
        "if false {",
    ),
    pure(
        "a boot has no deadline",
        PLAN,
        "if matches!(self.record.phase, Phase::Booting | Phase::Stopping) && self.start_is_overdue() {",
        "if self.record.phase == Phase::Stopping && self.start_is_overdue() {",
    ),
    pure(
        "the budget of restarts is never renewed",
        PLAN,
        "Some(up) if now.since(up) >= policy.stable_after => 0,",
        "Some(up) if now.since(up) >= policy.stable_after => record.restarts,",
    ),
    pure(
        "what comes between a read and a subscription is missed",
        WATCH,
        "self.live = Some(self.feed.subscribe(self.organization, self.at));\n                    continue;",
        "self.live = Some(self.feed.subscribe(self.organization, self.at));\n                    self.behind = false;\n                    continue;",
    ),
    pure("an answer forgets newer wishes", AGGREGATE, "self.outbox.drain(..=place);", "self.outbox.clear();"),
    pure(
        "a refusal takes back the generation of a newer wish",
        UNDO,
        "if self.record.generation == entry.generation {",
        "if self.record.generation >= entry.generation {",
    ),
    pure(
        "what the stream tells overwrites what was just asked for",
        MIRROR,
        ".find(|entry| entry.number > instance.intent)",
        ".find(|entry| entry.number > instance.intent && false)",
    ),
    pure(
        "a wish overwrites one that may have been heard",
        OUTBOX,
        "if begun || has_cause(last)",
        "if has_cause(last)",
    ),
    pure(
        "a refusal takes a stop or a deletion back",
        WISH,
        "!matches!(self, Self::Stop(_) | Self::Delete)",
        "!matches!(self, Self::Stop(_) if false)",
    ),
    pure(
        "an expired token takes a wish back",
        ERROR,
        "                | Self::WorkspaceDeleted\n",
        "                | Self::WorkspaceDeleted\n                | Self::Unauthenticated\n",
    ),
    pure(
        "a wish is told twice at once",
        QUEUE,
        "Some(Place { due: None, again, .. }) => *again = true,",
        "Some(Place { due: None, again, .. }) => {\n                *again = true;\n                self.schedule.insert((now, workspace));\n            }",
    ),
    pure(
        "a creation that is refused vanishes unseen",
        UNDO,
        "refusal.message), now, effects);\n            return;",
        "refusal.message), now, effects);\n            effects.visible = false;\n            return;",
    ),
    pure(
        "a restored tenant is not noticed",
        MEETINGS,
        "news.filter(|one| is_behind(&self.held, current, one))",
        "news.filter(|one| is_behind(&self.held, current, one) && false)",
    ),
    pure(
        "wishes after the backup are forgotten",
        VERDICT,
        "if has.intent > held.intent || has.generation > held.generation",
        "if has.generation > held.generation",
    ),
    pure(
        "another of an id that was refused is deleted after a restore",
        VERDICT,
        "if held.refused && has.intent > held.intent && !has.deleting",
        "if held.refused && has.intent > held.intent && !has.deleting && false",
    ),
    pure(
        "the old generation's agent is judged after a restart",
        AGENT,
        "|| record.generation != record.instance_generation\n",
        "|| false\n",
    ),
    pure(
        "a relaunch discards the session again",
        OUTCOME,
        "if state == AttemptState::Confirmed && !before.is_being_replaced() {",
        "if false {",
    ),
    // PostgreSQL takes the greater of the next number and the clock, which is given as this parameter
    postgres(
        "revisions fall behind those of before a restore, on PostgreSQL",
        WRITE,
        "        i64::from(beside.segment_generation),\n        now.micros(),",
        "        i64::from(beside.segment_generation),\n        0_i64,",
    ),
    postgres(
        "the first revision of a workspace falls behind those of before a restore",
        WRITE,
        "        event.message,\n        now.micros(),",
        "        event.message,\n        0_i64,",
    ),
    sqlite(
        "what an earlier process held waits for the end of its lease",
        SQLITE,
        "            sqlx::query!(\n                \"UPDATE instances SET lease_owner = NULL, lease_until = 0, due_at = 0 WHERE lease_owner IS NOT NULL\",\n            ),\n",
        "",
    ),
    pure(
        "revisions fall behind those of before a restore",
        MEMORY,
        "*revision = Revision((revision.0 + 1).max(now.micros()));",
        "*revision = Revision(revision.0 + 1 + now.micros() * 0);",
    ),
    pure(
        "a call that has ended is sure, whatever an earlier one may do",
        OUTCOME,
        "attempt.call_until = ended.max(attempt.unsure_until);",
        "attempt.call_until = ended;",
    ),
    pure(
        "what is being deleted can be started",
        ADMISSION,
        "if before.desired == Desired::Deleted || before.phase == Phase::Gone {",
        "if before.desired == Desired::Deleted && before.phase == Phase::Gone {",
    ),
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn each_text_is_once_in_its_file() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let places =
            ALL.iter().map(|suspect| suspect.place(&fs::read_to_string(repository.join(suspect.file))?));
        let errors: Vec<_> = places.filter_map(Result::err).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}", errors.join("\n"));
    }
}

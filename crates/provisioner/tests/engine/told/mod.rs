//! What the engine tells of a workspace, second by second: the phase, why, for people, and when it looks again; and the
//! events beside it.

mod ends;
mod launches;

use std::fmt::Write as _;

use molecule_domain::Clock;
use molecule_domain::id::WorkspaceId;
use molecule_provisioner::model::InstanceRecord;
use molecule_provisioner::store::Store;
use uuid::Uuid;

use crate::world::{ORG, Op, World};

/// The place of its back-off within the spread comes from the id.
const W: WorkspaceId = WorkspaceId::from_uuid(Uuid::from_u128(1));

/// One workspace, and what was told of it up to now.
struct Told {
    world: World,
    began: molecule_domain::Timestamp,
    last: String,
    events: i64,
    text: String,
}

impl Told {
    fn new() -> Self {
        let world = World::new();
        let began = world.clock.now();
        Self { world, began, last: String::new(), events: 0, text: String::new() }
    }

    /// Of a workspace that runs.
    async fn of_one_that_runs() -> Self {
        let mut told = Self::new();
        told.world.ask(W, Op::Create).await;
        told.pass(5).await;
        told.text.clear();
        told.began = told.world.clock.now();
        told
    }

    async fn ask(&mut self, op: Op) {
        writeln!(self.text, "{op:?}").unwrap();
        self.world.ask(W, op).await;
        self.look().await;
    }

    /// So many seconds pass.
    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.world.tick().await;
            self.look().await;
        }
    }

    /// Writes down what is new.
    async fn look(&mut self) {
        let now = self.world.clock.now().since(self.began).as_secs();
        let Some(record) = self.world.record(W).await else { return };
        let line = self.line(&record);
        if line != self.last {
            writeln!(self.text, "{now:>4} {line}").unwrap();
            self.last = line;
        }
        for event in self.world.store.events_after(ORG, self.events, 100).await.unwrap() {
            self.events = event.id;
            let detail = event.detail;
            let (kind, actor, generation) = (&detail.kind, detail.actor.as_str(), detail.generation);
            write!(self.text, "     * {kind} by {actor} of {generation}: {}", detail.message).unwrap();
            if let Some(reason) = detail.reason {
                write!(self.text, " ({reason})").unwrap();
            }
            if let Some(code) = detail.exit_code {
                write!(self.text, " exit {code}, {:?}", detail.log_tail).unwrap();
            }
            self.text.push('\n');
        }
    }

    fn line(&self, record: &InstanceRecord) -> String {
        let mut line = record.phase.to_string();
        if let Some(reason) = record.reason {
            write!(line, " {reason}").unwrap();
        }
        write!(line, " {:?} r{} f{}", record.message, record.restarts, record.failures).unwrap();
        match record.due_at {
            Some(due) => write!(line, " due {:.3}", due.since(self.began).as_secs_f64()).unwrap(),
            None => line.push_str(" rests"),
        }
        line
    }

    fn is(&self, expected: &str) {
        println!("{}", self.text);
        assert_eq!(self.text.trim_end(), expected.trim_matches('\n'));
    }
}

#[tokio::test]
async fn a_plain_life() {
    let mut told = Told::new();
    for op in [Op::Create, Op::Stop, Op::Start, Op::Restart, Op::ChangeSpec, Op::Delete] {
        told.ask(op).await;
        told.pass(8).await;
    }
    told.is(r#"
Create
   0 ADMITTED "admitted" r0 f0 due 0.000
     * admitted by client of 1: admitted
   1 UP "up" r0 f0 rests
     * launched by engine of 1: launched
     * up by engine of 1: up
Stop
   8 UP "being stopped" r0 f0 due 8.000
     * stop_requested by client of 1: stop asked for
   9 STOPPED "stopped" r0 f0 rests
     * stopped by engine of 1: stopped
Start
  16 ADMITTED "start asked for" r0 f0 due 16.000
     * start_requested by client of 1: start asked for
  17 UP "up" r0 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
Restart
  24 STOPPING "being replaced by generation 2" r0 f0 due 24.000
     * replace_requested by client of 2: a new generation was asked for
  25 STOPPING "being replaced by generation 2" r0 f0 due 25.000
  26 BOOTING "booting" r0 f0 due 26.000
     * replaced by engine of 1: the old generation is gone
     * launched by engine of 2: launched
  27 BOOTING "booting" r0 f0 due 28.000
  28 UP "up" r0 f0 rests
     * up by engine of 2: up
ChangeSpec
  32 STOPPING "being replaced by generation 3" r0 f0 due 32.000
     * replace_requested by client of 3: a new generation was asked for
  33 STOPPING "being replaced by generation 3" r0 f0 due 33.000
  34 BOOTING "booting" r0 f0 due 34.000
     * replaced by engine of 2: the old generation is gone
     * launched by engine of 3: launched
  35 BOOTING "booting" r0 f0 due 36.000
  36 UP "up" r0 f0 rests
     * up by engine of 3: up
Delete
  40 UP "being deleted" r0 f0 due 40.000
     * delete_requested by client of 3: deletion asked for
  41 GONE "deleted" r0 f0 rests
     * deleted by engine of 3: everything of it is gone
"#);
}

//! Ends, wanted and unwanted.

use std::time::Duration;

use molecule_domain::Clock;
use molecule_domain::lifecycle::{Phase, Reason};
use molecule_provisioner::backend::memory::Trouble;
use molecule_provisioner::store::Store;

use super::{Told, W};
use crate::world::Op;

#[tokio::test]
async fn a_runtime_that_ends() {
    let mut told = Told::of_one_that_runs().await;
    for _ in 0..6 {
        told.ask(Op::Crash).await;
        told.world.store.wake(&[W], told.world.clock.now()).await.unwrap();
        told.pass(70).await;
    }
    told.ask(Op::Restart).await;
    told.pass(5).await;
    told.is(
        r#"
Crash
   1 LAUNCHING RESTARTING "the runtime ended with exit code 1; starting it again (1 of 5)" r1 f0 due 1.610
     * exited by engine of 1: the runtime ended with exit code 1 (RESTARTING) exit 1, "the last line\n"
   2 UP "up" r1 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
Crash
  71 LAUNCHING RESTARTING "the runtime ended with exit code 1; starting it again (2 of 5)" r2 f0 due 72.028
     * exited by engine of 1: the runtime ended with exit code 1 (RESTARTING) exit 1, "the last line\n"
  73 UP "up" r2 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
Crash
 141 LAUNCHING RESTARTING "the runtime ended with exit code 1; starting it again (3 of 5)" r3 f0 due 143.296
     * exited by engine of 1: the runtime ended with exit code 1 (RESTARTING) exit 1, "the last line\n"
 144 UP "up" r3 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
Crash
 211 LAUNCHING RESTARTING "the runtime ended with exit code 1; starting it again (4 of 5)" r4 f0 due 215.387
     * exited by engine of 1: the runtime ended with exit code 1 (RESTARTING) exit 1, "the last line\n"
 216 UP "up" r4 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
Crash
 281 LAUNCHING RESTARTING "the runtime ended with exit code 1; starting it again (5 of 5)" r5 f0 due 289.863
     * exited by engine of 1: the runtime ended with exit code 1 (RESTARTING) exit 1, "the last line\n"
 290 UP "up" r5 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
Crash
 351 FAILED CRASH_LOOP "the runtime ended with exit code 1, 6 times in a row; its last output is in the events" r6 f0 rests
     * failed by engine of 1: the runtime ended with exit code 1, 6 times in a row; its last output is in the events (CRASH_LOOP) exit 1, "the last line\n"
Restart
 420 STOPPING "being replaced by generation 2" r6 f0 due 420.000
     * replace_requested by client of 2: a new generation was asked for
 421 ADMITTED "admitted" r0 f0 due 421.000
     * replaced by engine of 1: the old generation is gone
 422 BOOTING "booting" r0 f0 due 423.000
     * launched by engine of 2: launched
 423 UP "up" r0 f0 rests
     * up by engine of 2: up
"#,
    );
}

#[tokio::test]
async fn a_runtime_that_ends_once_in_a_while_is_not_given_up() {
    let mut told = Told::of_one_that_runs().await;
    for _ in 0..2 {
        told.ask(Op::Crash).await;
        told.world.store.wake(&[W], told.world.clock.now()).await.unwrap();
        told.pass(700).await;
    }
    told.is(r#"
Crash
   1 LAUNCHING RESTARTING "the runtime ended with exit code 1; starting it again (1 of 5)" r1 f0 due 1.610
     * exited by engine of 1: the runtime ended with exit code 1 (RESTARTING) exit 1, "the last line\n"
   2 UP "up" r1 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
Crash
 701 LAUNCHING RESTARTING "the runtime ended with exit code 1; starting it again (1 of 5)" r1 f0 due 701.610
     * exited by engine of 1: the runtime ended with exit code 1 (RESTARTING) exit 1, "the last line\n"
 702 UP "up" r1 f0 rests
     * started by engine of 1: started
     * up by engine of 1: up
"#);
}

#[tokio::test]
async fn what_vanishes_is_launched_anew() {
    let mut told = Told::of_one_that_runs().await;
    told.ask(Op::Vanish).await;
    told.world.sweep().await;
    told.pass(10).await;
    told.is(r#"
Vanish
   1 LAUNCHING RESTARTING "its instance is gone; launching another" r1 f0 due 1.610
     * vanished by engine of 1: the provider no longer has its instance (RESTARTING)
   2 UP "up" r1 f0 rests
     * launched by engine of 1: launched
     * up by engine of 1: up
"#);
}

#[tokio::test]
async fn a_stop_that_takes_too_long() {
    let mut told = Told::of_one_that_runs().await;
    told.world.host.set_slow(Some(Duration::from_secs(400)));
    told.ask(Op::Stop).await;
    told.pass(500).await;
    told.is(r#"
Stop
   0 UP "being stopped" r0 f0 due 0.000
     * stop_requested by client of 1: stop asked for
   1 STOPPING "being stopped" r0 f0 due 4.000
   4 STOPPING "being stopped" r0 f1 due 19.000
  19 STOPPING "being stopped" r0 f2 due 94.000
  94 STOPPING "being stopped" r0 f3 due 169.000
 169 STOPPING "being stopped" r0 f4 due 181.001
 182 FAILED STOP_TIMEOUT "it did not stop in time; stopping goes on" r0 f1 due 197.000
     * failed by engine of 1: it did not stop in time; stopping goes on (STOP_TIMEOUT)
 197 FAILED STOP_TIMEOUT "it did not stop in time; stopping goes on" r0 f2 due 272.000
 272 FAILED STOP_TIMEOUT "it did not stop in time; stopping goes on" r0 f3 due 347.000
 347 FAILED STOP_TIMEOUT "it did not stop in time; stopping goes on" r0 f4 due 362.001
 363 FAILED STOP_TIMEOUT "it did not stop in time; stopping goes on" r0 f5 due 438.000
 438 FAILED STOP_TIMEOUT "it did not stop in time; stopping goes on" r0 f0 rests
"#);
}

#[tokio::test]
async fn what_cannot_be_removed() {
    let mut told = Told::of_one_that_runs().await;
    let record = told.world.record(W).await.unwrap();
    told.world.host.stick(record.instance());
    told.ask(Op::Restart).await;
    told.pass(10).await;
    told.ask(Op::Delete).await;
    told.pass(5).await;
    told.is(r#"
Restart
   0 STOPPING "being replaced by generation 2" r0 f0 due 0.000
     * replace_requested by client of 2: a new generation was asked for
   1 STOPPING "being replaced by generation 2" r0 f1 due 1.610
   2 STOPPING "waiting for the provider: it can't be removed now" r0 f2 due 3.028
   4 STOPPING "waiting for the provider: it can't be removed now" r0 f3 due 6.296
   7 STOPPING "waiting for the provider: it can't be removed now" r0 f4 due 11.387
Delete
  10 STOPPING "being deleted" r0 f0 due 10.000
     * delete_requested by client of 1: deletion asked for
  11 STOPPING "being deleted" r0 f1 due 11.610
  12 STOPPING "waiting for the provider: it can't be removed now" r0 f2 due 13.028
  14 STOPPING "waiting for the provider: it can't be removed now" r0 f3 due 16.296
"#);
}

#[tokio::test]
async fn what_cannot_be_purged() {
    let mut told = Told::of_one_that_runs().await;
    told.world.host.set(Trouble::Unpurgeable, true);
    told.ask(Op::Delete).await;
    told.pass(10).await;
    told.world.host.clear();
    told.pass(10).await;
    told.is(r#"
Delete
   0 UP "being deleted" r0 f0 due 0.000
     * delete_requested by client of 1: deletion asked for
   1 STOPPING "being taken away" r0 f1 due 1.610
   2 STOPPING "waiting for the provider: its volumes are in use" r0 f2 due 3.028
   4 STOPPING "waiting for the provider: its volumes are in use" r0 f3 due 6.296
   7 STOPPING "waiting for the provider: its volumes are in use" r0 f4 due 11.387
  12 GONE "deleted" r0 f0 rests
     * deleted by engine of 1: everything of it is gone
"#);
}

#[tokio::test]
async fn a_suspension_says_why_until_it_is_started_again() {
    for before in [&[][..], &[Op::Restart], &[Op::ProviderAway], &[Op::Restart, Op::ProviderAway]] {
        let mut told = Told::of_one_that_runs().await;
        for op in before.iter().chain(&[Op::Suspend]) {
            told.ask(*op).await;
        }
        for _ in 0..30 {
            let record = told.world.record(W).await.unwrap();
            assert_eq!(record.reason, Some(Reason::OrganizationSuspended), "{before:?}: {}", told.text);
            if told.world.clock.now().since(told.began).as_secs() == 5 {
                told.ask(Op::ProviderBack).await;
            }
            told.pass(1).await;
        }
        let record = told.world.record(W).await.unwrap();
        assert_eq!((record.phase, record.is_being_replaced()), (Phase::Stopped, false), "{}", told.text);
    }
}

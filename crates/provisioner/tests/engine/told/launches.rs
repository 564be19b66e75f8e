//! Launches that something is in the way of.

use std::sync::Arc;

use molecule_domain::Clock;
use molecule_domain::seal::Sealer;
use molecule_provisioner::backend::memory::MISSING_IMAGE;
use molecule_provisioner::samples;
use molecule_provisioner::store::Store;

use super::{Told, W};
use crate::world::Op;

#[tokio::test]
async fn a_provider_that_is_away() {
    let mut told = Told::new();
    told.ask(Op::ProviderAway).await;
    told.ask(Op::Create).await;
    told.pass(10).await;
    told.ask(Op::ProviderBack).await;
    told.pass(10).await;
    told.ask(Op::ProviderAway).await;
    told.ask(Op::Stop).await;
    told.pass(6).await;
    told.ask(Op::ProviderBack).await;
    told.pass(12).await;
    told.is(r#"
ProviderAway
Create
   0 ADMITTED "admitted" r0 f0 due 0.000
     * admitted by client of 1: admitted
   1 ADMITTED "admitted" r0 f1 due 1.610
   2 ADMITTED BACKEND_UNREACHABLE "waiting for the provider: the provider is away" r0 f2 due 3.028
   4 ADMITTED BACKEND_UNREACHABLE "waiting for the provider: the provider is away" r0 f3 due 6.296
   7 ADMITTED BACKEND_UNREACHABLE "waiting for the provider: the provider is away" r0 f4 due 11.387
ProviderBack
  12 UP "up" r0 f0 rests
     * launched by engine of 1: launched
     * up by engine of 1: up
ProviderAway
Stop
  20 UP "being stopped" r0 f0 due 20.000
     * stop_requested by client of 1: stop asked for
  21 UP "being stopped" r0 f1 due 21.610
  22 UP BACKEND_UNREACHABLE "waiting for the provider: the provider is away" r0 f2 due 23.028
  24 UP BACKEND_UNREACHABLE "waiting for the provider: the provider is away" r0 f3 due 26.296
ProviderBack
  27 STOPPED "stopped" r0 f0 rests
     * stopped by engine of 1: stopped
"#);
}

#[tokio::test]
async fn a_provider_that_stays_away() {
    let mut told = Told::new();
    told.ask(Op::ProviderAway).await;
    told.ask(Op::Create).await;
    told.pass(30 * 60).await;
    told.text.clear();
    told.pass(3 * 60).await;
    told.is(
        r#"
1861 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f1 due 1861.610
     * failed by engine of 1: the provider did not answer in time: the provider is away. Restart the workspace once it does (BACKEND_UNREACHABLE)
1862 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f2 due 1863.028
1864 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f3 due 1866.296
1867 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f4 due 1871.387
1872 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f5 due 1880.863
1881 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f6 due 1898.559
1899 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f7 due 1936.919
1937 FAILED BACKEND_UNREACHABLE "the provider did not answer in time: the provider is away. Restart the workspace once it does" r0 f8 due 2007.235
"#,
    );
}

#[tokio::test]
async fn no_room() {
    let mut told = Told::new();
    told.ask(Op::NoRoom).await;
    told.ask(Op::Create).await;
    told.pass(100).await;
    told.ask(Op::ProviderBack).await;
    told.pass(60).await;
    told.is(r#"
NoRoom
Create
   0 ADMITTED "admitted" r0 f0 due 0.000
     * admitted by client of 1: admitted
   1 LAUNCHING NO_CAPACITY "there is no room for it" r0 f1 due 1.610
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
   2 LAUNCHING NO_CAPACITY "there is no room for it" r0 f2 due 3.028
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
   4 LAUNCHING NO_CAPACITY "there is no room for it" r0 f3 due 6.296
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
   7 LAUNCHING NO_CAPACITY "there is no room for it" r0 f4 due 11.387
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
  12 LAUNCHING NO_CAPACITY "there is no room for it" r0 f5 due 20.863
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
  21 LAUNCHING NO_CAPACITY "there is no room for it" r0 f6 due 38.559
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
  39 LAUNCHING NO_CAPACITY "there is no room for it" r0 f7 due 76.919
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
  77 LAUNCHING NO_CAPACITY "there is no room for it" r0 f8 due 147.235
     * no_room by engine of 1: there is no room for it (NO_CAPACITY)
ProviderBack
 148 UP "up" r0 f0 rests
     * launched by engine of 1: launched
     * up by engine of 1: up
"#);
}

#[tokio::test]
async fn an_image_that_is_not_there() {
    let mut told = Told::new();
    let mut request = samples::provision(W);
    request.spec.image = MISSING_IMAGE.to_owned();
    told.world.store.provision(&request, told.world.clock.now()).await.unwrap();
    told.pass(5).await;
    told.ask(Op::Delete).await;
    told.pass(5).await;
    told.is(r#"
   1 FAILED IMAGE_UNAVAILABLE "there is no image \"missing\"" r0 f0 rests
     * admitted by client of 1: admitted
     * failed by engine of 1: there is no image "missing" (IMAGE_UNAVAILABLE)
Delete
   5 FAILED "being deleted" r0 f0 due 5.000
     * delete_requested by client of 1: deletion asked for
   6 GONE "deleted" r0 f0 rests
     * deleted by engine of 1: everything of it is gone
"#);
}

#[tokio::test]
async fn a_launch_that_comes_late() {
    let mut told = Told::new();
    told.ask(Op::LaunchesLate).await;
    told.ask(Op::Create).await;
    told.pass(28).await;
    told.ask(Op::Stop).await;
    told.pass(100).await;
    told.is(r#"
LaunchesLate
Create
   0 ADMITTED "admitted" r0 f0 due 0.000
     * admitted by client of 1: admitted
   1 LAUNCHING "launching" r0 f1 due 1.610
   2 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f2 due 3.028
   4 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f3 due 6.296
   7 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f4 due 11.387
  12 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f5 due 20.863
  21 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f6 due 38.559
Stop
  28 LAUNCHING "being stopped" r0 f0 due 28.000
     * stop_requested by client of 1: stop asked for
  29 LAUNCHING "being stopped" r0 f0 due 30.000
  30 LAUNCHING "being stopped" r0 f0 due 31.000
  31 STOPPED "stopped" r0 f0 rests
     * stopped by engine of 1: stopped
"#);
}

#[tokio::test]
async fn a_launch_that_is_half_done() {
    let mut told = Told::new();
    told.ask(Op::LaunchesHalf).await;
    told.ask(Op::Create).await;
    told.pass(330).await;
    told.ask(Op::ProviderBack).await;
    told.ask(Op::Restart).await;
    told.pass(20).await;
    told.is(r#"
LaunchesHalf
Create
   0 ADMITTED "admitted" r0 f0 due 0.000
     * admitted by client of 1: admitted
   1 LAUNCHING "launching" r0 f1 due 1.610
   2 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f2 due 3.028
   4 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f3 due 6.296
   7 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f4 due 11.387
  12 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f5 due 20.863
  21 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f6 due 38.559
  39 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f7 due 76.919
  77 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f8 due 147.235
 148 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f9 due 217.278
 218 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f10 due 282.744
 283 LAUNCHING BACKEND_UNREACHABLE "waiting for the provider: the launch seems lost" r0 f11 due 343.500
ProviderBack
Restart
 330 LAUNCHING "being replaced by generation 2" r0 f0 due 330.000
     * replace_requested by client of 2: a new generation was asked for
 331 STOPPING "being taken away" r0 f0 due 332.000
 332 STOPPING "being taken away" r0 f0 due 333.000
 333 STOPPING "being taken away" r0 f0 due 334.000
 334 STOPPING "being taken away" r0 f0 due 335.000
 335 STOPPING "being taken away" r0 f0 due 336.000
 336 STOPPING "being taken away" r0 f0 due 337.000
 337 STOPPING "being taken away" r0 f0 due 338.000
 338 STOPPING "being taken away" r0 f0 due 339.000
 339 STOPPING "being taken away" r0 f0 due 340.000
 340 STOPPING "being taken away" r0 f0 due 341.000
 341 STOPPING "being taken away" r0 f0 due 342.000
 342 STOPPING "being taken away" r0 f0 due 343.000
 343 STOPPING "being taken away" r0 f0 due 343.001
 344 BOOTING "booting" r0 f0 due 344.000
     * replaced by engine of 1: the old generation is gone
     * launched by engine of 2: launched
 345 BOOTING "booting" r0 f0 due 346.000
 346 UP "up" r0 f0 rests
     * up by engine of 2: up
"#);
}

#[tokio::test]
async fn a_stranger_has_the_name() {
    let mut told = Told::new();
    told.ask(Op::Create).await;
    let record = told.world.record(W).await.unwrap();
    told.world.host.occupy(record.instance(), &*told.world.clock);
    told.pass(5).await;
    told.is(r#"
Create
   0 ADMITTED "admitted" r0 f0 due 0.000
     * admitted by client of 1: admitted
   1 FAILED NAME_TAKEN "something of a stranger's has its name" r0 f0 due 1.001
     * failed by engine of 1: something of a stranger's has its name (NAME_TAKEN)
   2 FAILED NAME_TAKEN "something of a stranger's has its name" r0 f0 rests
"#);
}

/// Seals, and opens nothing.
struct AnotherKey;

impl Sealer for AnotherKey {
    fn seal(&self, plain: &[u8], _context: &str) -> Vec<u8> {
        plain.to_vec()
    }

    fn open(&self, _sealed: &[u8], _context: &str) -> Option<Vec<u8>> {
        None
    }
}

#[tokio::test]
async fn a_token_that_another_key_has_sealed() {
    let mut told = Told::new();
    told.world.executor.sealer = Arc::new(AnotherKey);
    told.ask(Op::Create).await;
    told.pass(5).await;
    told.is(
        r#"
Create
   0 ADMITTED "admitted" r0 f0 due 0.000
     * admitted by client of 1: admitted
   1 FAILED LAUNCH_REFUSED "its bootstrap token can't be unsealed: the key is not the one it was sealed with. Restore the key file, or restart the workspace" r0 f0 due 1.001
     * failed by engine of 1: its bootstrap token can't be unsealed: the key is not the one it was sealed with. Restore the key file, or restart the workspace (LAUNCH_REFUSED)
   2 FAILED LAUNCH_REFUSED "its bootstrap token can't be unsealed: the key is not the one it was sealed with. Restore the key file, or restart the workspace" r0 f0 rests
"#,
    );
}

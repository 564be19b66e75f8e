//! Tests are tested: bugs are planted, and tests must catch them.

mod all;
mod constant;
mod judge;
mod list;
mod planted;
mod results;
mod state;
mod suites;
mod summary;
mod suspects;
mod switch;
mod tree;
mod viable;

use std::process::Command;
use std::sync::atomic::AtomicBool;

pub(crate) use self::all::run as all;
pub(crate) use self::planted::run as suspects;
pub(crate) use self::summary::report;

/// The crates whose every operator is mutated.
const PACKAGES: [&str; 3] = ["molecule-domain", "molecule-workspace", "molecule-provisioner"];
/// The crates whose tests judge.
const JUDGES: &str =
    "molecule-domain,molecule-workspace,molecule-provisioner,molecule-tenant,molecule-contracts,molecule-sim";
/// Simulated lives for each mutant, from the first seed on: half a minute on two cores.
const LIVES: &str = "400";

/// Whether Ctrl-C was pressed: tests that it has ended have caught nothing.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes chance out of the tests that judge: the random lives of properties and of the simulation are the same each time,
/// whatever the environment of a person says.
fn determined(command: &mut Command) -> &mut Command {
    for name in ["MOLECULE_SIM_SEED", "PROPTEST_CASES", "PROPTEST_RNG_ALGORITHM", "SOAK_CASES"] {
        command.env_remove(name);
    }
    command.env("MOLECULE_SIM_LIVES", LIVES).env("PROPTEST_RNG_SEED", "1")
}

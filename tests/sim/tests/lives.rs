//! Many lives, each under a seed of its own: `MOLECULE_SIM_LIVES` of them, from `MOLECULE_SIM_SEED` on. With
//! `MOLECULE_SIM_STOP=1` the first that breaks a rule is the last.

use molecule_sim::cells;
use molecule_sim::life::{FAULTS, WISHES, lead};
use molecule_sim::run::run;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn smooth_lives_go_as_wished() {
    for seed in 0..number("MOLECULE_SIM_SMOOTH", 20) {
        let began = std::time::Instant::now();
        let lived = lead(seed, true, false);
        if lived.broke_a_rule() {
            println!("{}", lived.words);
            panic!("seed {seed}: {:#?}", lived.violations);
        }
        println!(
            "{seed} {:x} {:?} {:?} {:?}",
            lived.hash,
            began.elapsed(),
            lived.coverage.figures,
            lived.coverage.ends
        );
    }
}

/// Those from `MOLECULE_SIM_SEED` on, `MOLECULE_SIM_TWICE` of them.
#[test]
fn a_seed_tells_the_same_story_twice() {
    let first = number("MOLECULE_SIM_SEED", 1);
    for seed in (first..first + number("MOLECULE_SIM_TWICE", 200)).chain([702, 1_000_003]) {
        let (first, second) = (lead(seed, true, true), lead(seed, true, true));
        assert!(!first.words.is_empty());
        let mut lines = first.words.lines().zip(second.words.lines());
        if let Some(at) = lines.position(|(one, other)| one != other) {
            let part = |words: &str| {
                words.lines().skip(at.saturating_sub(20)).take(25).collect::<Vec<_>>().join("\n")
            };
            panic!(
                "seed {seed} tells this:\n{}\nand then that:\n{}",
                part(&first.words),
                part(&second.words)
            );
        }
        // the number stands for the words, and does not depend on whether they are kept
        assert_eq!([first.hash, second.hash], [lead(seed, false, true).hash; 2], "seed {seed}");
    }
    assert_ne!(lead(1, false, true).hash, lead(2, false, true).hash);
}

#[test]
fn every_life_comes_to_what_was_wished() {
    let stops = number("MOLECULE_SIM_STOP", 0) == 1;
    let run = run(number("MOLECULE_SIM_SEED", 1), number("MOLECULE_SIM_LIVES", 20_000), stops);
    run.print();
    let (empty, filled) = (cells::empty(&run.coverage, run.lives), cells::filled(&run.coverage));
    if run.lives < cells::WHOLE_RUN {
        println!("{} lives are too few to fill every cell, {} do: told only", run.lives, cells::WHOLE_RUN);
    }
    for cell in empty.iter().chain(&filled) {
        println!("{cell}");
    }
    if !run.broken.is_empty() {
        run.print_broken();
        panic!("{} of {} lives broke a rule", run.broken.len(), run.lives);
    }
    assert!(run.fewest_wishes >= WISHES, "a life had {} stored wishes", run.fewest_wishes);
    assert!(run.fewest_faults >= FAULTS, "a life had {} faults", run.fewest_faults);
    assert!(filled.is_empty(), "{} cells must stay empty and did not", filled.len());
    assert!(run.lives < cells::WHOLE_RUN || empty.is_empty(), "{} cells stayed empty", empty.len());
}

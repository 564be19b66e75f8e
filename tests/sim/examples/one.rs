//! Leads lives from a seed on, and says what became of each: `one SEED LIVES`, with a third argument the stories too. With
//! `LIVES until` it ends at the first that breaks a rule.

use molecule_sim::coverage::Coverage;
use molecule_sim::life::lead;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| arguments.get(place).and_then(|text| text.parse().ok()).unwrap_or(1);
    let (first, lives) = (number(0), number(1));
    let until = arguments.get(2).is_some_and(|word| word == "until");
    let told = arguments.len() > 2 && !until;
    let mut all = Coverage::default();
    for seed in first..first + lives {
        let began = std::time::Instant::now();
        let lived = lead(seed, told, true);
        all.add(&lived.coverage);
        let broken = lived.violations.len();
        if until && broken > 0 {
            println!("found after {} lives: {:?}", seed - first + 1, lived.violations.first());
            return;
        }
        if !until {
            println!("{seed} {:x} {:?} {broken}", lived.hash, began.elapsed());
            lived.violations.iter().for_each(|violation| println!("   {violation}"));
        }
        if told {
            println!("{}", lived.words);
        }
    }
    println!("nothing unknown in {lives} lives; figures {:?}; steps {:?}", all.figures, all.steps);
}

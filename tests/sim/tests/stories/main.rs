//! Stories that must end well, told step by step without chance. Each says what it showed at the revision before the
//! outbox, in which a tenant kept one wish per workspace and overwrote it.

mod agents;
mod engine;
mod outbox;
mod refusals;
mod restores;
mod story;

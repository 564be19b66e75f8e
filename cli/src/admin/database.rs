//! `molecule admin database`: a control plane's database that was moved or copied.

use std::io::{BufRead, IsTerminal, Write};

use molecule_proto::controlplane::v1 as wire;

use super::arguments::Database;
use super::{Operator, Result, show};
use crate::Format;
use crate::failure::{Failure, changed};

const QUESTION: &str = "Adopt it only if nothing serves the one that it was put into use as: both would launch for the \
                        same workspaces. Has it moved here, and is it the one in charge? [y/N] ";

pub(super) async fn run(client: &mut Operator, what: Database, format: Format) -> Result<()> {
    let found = client.get_database_identity(wire::GetDatabaseIdentityRequest {}).await?.into_inner();
    let Database::Adopt { yes } = what else {
        show::database(&found, format);
        return Ok(());
    };
    // what is adopted is what was shown
    eprintln!("{}", show::identities(&found));
    if found.adopted {
        eprintln!("in use already: there is nothing to adopt");
        show_after(client, format).await?;
        return Ok(());
    }
    if !yes {
        let terminal = std::io::stdin().is_terminal();
        confirm(terminal, &mut std::io::stdin().lock(), &mut std::io::stderr())?;
    }
    changed(client.adopt_database(wire::AdoptDatabaseRequest { actual: found.actual }).await)?;
    eprintln!("adopted; every replica begins to launch within a few seconds");
    show_after(client, format).await
}

async fn show_after(client: &mut Operator, format: Format) -> Result<()> {
    let found = client.get_database_identity(wire::GetDatabaseIdentityRequest {}).await?.into_inner();
    show::database(&found, format);
    Ok(())
}

fn confirm(terminal: bool, input: &mut impl BufRead, output: &mut impl Write) -> Result<()> {
    if !terminal {
        return Err(Failure::Usage("there is nobody to ask: say --yes to adopt it".to_owned()));
    }
    let failed = |error: std::io::Error| Failure::Other(error.to_string());
    write!(output, "{QUESTION}").and_then(|()| output.flush()).map_err(failed)?;
    let mut answer = String::new();
    input.read_line(&mut answer).map_err(failed)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::Other("not adopted".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_adopts_and_a_program_must_say_it_beforehand() {
        let answered = |terminal, answer: &str| {
            let mut asked = Vec::new();
            let confirmed = confirm(terminal, &mut answer.as_bytes(), &mut asked);
            (confirmed.is_ok(), String::from_utf8(asked).unwrap())
        };
        for yes in ["y\n", "yes\n", "Y\n"] {
            let (confirmed, asked) = answered(true, yes);
            assert!(confirmed && asked.contains("[y/N]"), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "no\n", "yes please\n"] {
            assert!(!answered(true, no).0, "{no:?}");
        }
        assert_eq!(answered(false, "y\n"), (false, String::new()));
    }
}

//! The help texts, made from what `argh` knows of the commands.

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::normalize::is_bare_word;

/// The text for one command, or the overview, which fits a screen of 24 lines by 80 columns.
pub(super) fn text(info: &CommandInfoWithArgs, command: Option<&str>) -> String {
    match command.and_then(|name| info.commands.iter().find(|c| c.name == name)) {
        Some(found) => command_help(found.name, &found.command, info.flags),
        None => overview(info),
    }
}

fn overview(info: &CommandInfoWithArgs) -> String {
    let commands = info.commands.iter().map(|c| (c.name.to_string(), c.command.description)).collect();
    format!(
        "{}\nusage: litestream [OPTIONS] COMMAND [ARGUMENTS]\n\n{}\n{}\n\
         litestream COMMAND -h explains a command; see also litestream(1)\n",
        info.description.trim_end(),
        table(commands),
        table(options(info.flags))
    )
}

fn command_help(name: &str, command: &CommandInfoWithArgs, globals: &[FlagInfo<'_>]) -> String {
    let words = command.positionals.iter().map(|p| positional_usage(p.name));
    let usage = ["usage: litestream", name, "[OPTIONS]"].into_iter().chain(words).collect::<Vec<_>>().join(" ");
    let arguments: String = command.positionals.iter().map(|p| format!("  {}: {}\n", p.name, p.description)).collect();
    let gap = if arguments.is_empty() { "" } else { "\n" };
    let options = options(command.flags).into_iter().chain(options(globals)).collect();
    let description = command.description.trim_end();
    format!("litestream {name}: {description}\n\n{usage}\n{arguments}{gap}{}", table(options))
}

/// `replicate` takes both of its words or none.
fn positional_usage(name: &str) -> &str {
    if name == "DB_PATH REPLICA_URL" { "[DB_PATH REPLICA_URL]" } else { name }
}

fn options<'a>(flags: &[FlagInfo<'a>]) -> Vec<(String, &'a str)> {
    let own = flags.iter().filter(|flag| is_bare_word(flag.long) != "help");
    own.map(|flag| match flag.kind {
        FlagInfoKind::Option { arg_name } => (format!("-{} {arg_name}", is_bare_word(flag.long)), flag.description),
        FlagInfoKind::Switch => (format!("-{}", is_bare_word(flag.long)), flag.description),
    })
    .collect()
}

/// Names and descriptions in two columns.
fn table(rows: Vec<(String, &str)>) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, description)| format!("  {name:<width$}  {}\n", description.trim_end())).collect()
}

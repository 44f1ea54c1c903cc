//! The chapter says what the program does: its command lines parse, and the options that it names exist.

use std::path::Path;

use backstitch_server::options::Options;
use clap::{CommandFactory, Parser};

#[test]
fn command_lines_and_options_are_the_program_s() {
    let chapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/server.md");
    let text = std::fs::read_to_string(chapter).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("backstitch-server "));
    for line in lines.clone() {
        if let Err(error) = Options::try_parse_from(line.split_whitespace()) {
            panic!("{line}: {error}");
        }
    }
    assert!(lines.count() > 0);
    let program = Options::command();
    let options: Vec<_> = program
        .get_arguments()
        .filter_map(|it| it.get_long())
        .collect();
    let words = text.split(['`', ' ', '\n']);
    let named = words.filter_map(|word| word.strip_prefix("--"));
    let is_name = |name: &&str| name.starts_with(|c: char| c.is_ascii_lowercase());
    let named: Vec<&str> = named.filter(is_name).collect();
    // Of cargo and curl.
    let foreign = ["path", "data-binary", "help"];
    for name in &named {
        assert!(options.contains(name) || foreign.contains(name), "--{name}");
    }
    assert!(named.len() > 15);
    // Every option has a variable, by its name.
    for argument in program.get_arguments().filter(|it| it.get_long().is_some()) {
        let name = argument
            .get_long()
            .unwrap()
            .to_uppercase()
            .replace('-', "_");
        let variable = argument
            .get_env()
            .unwrap_or_else(|| panic!("--{name} has no variable"));
        assert_eq!(
            variable.to_str(),
            Some(&*format!("BACKSTITCH_SERVER_{name}"))
        );
    }
}

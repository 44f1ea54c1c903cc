//! The documentation says what the program does: its command lines parse, the commands and options that it
//! names exist, and its table of operators is the importer's.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use backstitch::classifier::onnx::OPERATORS;
use backstitch::cli::Cli;
use clap::{CommandFactory, Parser};

/// Options of other programs that the text names.
const FOREIGN_OPTIONS: [&str; 6] = [
    "--bench",
    "--features",
    "--lib",
    "--no-default-features",
    "--path",
    "--test",
];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page's path and text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> = ["README", "CONTRIBUTING", "CHANGELOG", "SECURITY"]
        .map(|name| repository().join(name).with_extension("md"))
        .to_vec();
    let book = repository().join("docs").read_dir().unwrap();
    let book = book.map(|entry| entry.unwrap().path());
    paths.extend(book.filter(|path| path.extension().is_some_and(|it| it == "md")));
    paths
        .into_iter()
        .map(|path| {
            let text = read_to_string(&path).unwrap();
            (path, text)
        })
        .collect()
}

/// The fenced code blocks of a page whose language is `language`.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fenced = page.split("\n```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .collect()
}

/// The pieces of inline code of a page.
fn inline_codes(page: &str) -> impl Iterator<Item = &str> {
    let prose = page.split("\n```").step_by(2);
    prose.flat_map(|prose| prose.split('`').skip(1).step_by(2))
}

/// The program's command lines in a shell script. A variable stands for 0, and there are no quotes.
fn command_lines(script: &str) -> Vec<String> {
    let joined = script.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.starts_with('#'));
    let lines = lines.filter_map(|line| line.split(" #").next());
    let commands = lines.flat_map(|line| line.split(" | ")).map(str::trim);
    let of_the_program = commands.filter_map(|command| match command.split_once(" -- ") {
        Some((cargo, arguments))
            if cargo.starts_with("cargo run") && !cargo.contains("example") =>
        {
            Some(format!("backstitch {arguments}"))
        }
        _ => command
            .starts_with("backstitch ")
            .then(|| command.to_owned()),
    });
    of_the_program
        .map(|command| without_variables(&command))
        .collect()
}

fn without_variables(command: &str) -> String {
    let mut pieces = command.split('$');
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
        text.push('0');
        text.push_str(rest);
    }
    text
}

#[test]
fn command_lines_are_found() {
    let script = "#!/bin/bash\nls | backstitch purify - \\\n  -o out-$N/x | head # all\nbackstitch devices\n\
                  cargo run --release -- bench\ncargo run --example record -- x\n";
    assert_eq!(
        command_lines(script),
        [
            "backstitch purify -    -o out-0/x",
            "backstitch devices",
            "backstitch bench"
        ]
    );
    let page = "a `b`\n```sh\nc\n```\n`d e`\n\n```text\nf\n```\n";
    assert_eq!(blocks(page, "sh"), ["c"]);
    assert_eq!(inline_codes(page).collect::<Vec<_>>(), ["b", "d e"]);
}

#[test]
fn every_command_line_parses() {
    let mut count = 0;
    for (path, text) in pages() {
        for command in blocks(&text, "sh").into_iter().flat_map(command_lines) {
            if let Err(error) = Cli::try_parse_from(command.split_whitespace()) {
                panic!("{}: {command}: {error}", path.display());
            }
            count += 1;
        }
    }
    assert!(count >= 25, "only {count} command lines are found");
}

#[test]
fn every_command_and_option_that_the_text_names_exists() {
    let program = Cli::command();
    let commands: BTreeSet<&str> = program.get_subcommands().map(|it| it.get_name()).collect();
    let mut options: BTreeSet<String> = ["--help", "--version"].map(String::from).into();
    options.extend(FOREIGN_OPTIONS.map(String::from));
    for command in program.get_subcommands().chain([&program]) {
        let names = command.get_arguments().filter_map(|it| it.get_long());
        options.extend(names.map(|name| format!("--{name}")));
    }
    let mut count = 0;
    for (path, text) in pages() {
        // The service's options are its own tests'.
        if path.ends_with("docs/server.md") {
            continue;
        }
        for code in inline_codes(&text) {
            let mut words = code.split_whitespace();
            if words.next() == Some("backstitch")
                && let Some(name) = words.next()
                && name.starts_with(|c: char| c.is_ascii_lowercase())
            {
                assert!(commands.contains(name), "{}: {code}", path.display());
            }
            let is_option = |word: &&str| word.starts_with("--") && *word != "--";
            for word in code.split_whitespace().filter(is_option) {
                assert!(options.contains(word), "{}: {code}", path.display());
                count += 1;
            }
        }
    }
    assert!(count >= 60, "only {count} options are found");
}

#[test]
fn the_table_of_operators_is_the_importer_s() {
    let page = read_to_string(repository().join("docs/operators.md")).unwrap();
    let table = page
        .split_once("<!-- operators -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- end of operators -->"))
        .map(|(table, _)| table);
    let mut want = "| operator | supported |\n| --- | --- |\n".to_owned();
    for operator in OPERATORS {
        let supported = match operator.limits {
            "" => "all",
            limits => limits,
        };
        want += &format!("| {} | {supported} |\n", operator.name);
    }
    assert_eq!(
        table,
        Some(want.as_str()),
        "put this between the marks of docs/operators.md:\n{want}"
    );
}

//! The defense that an attack goes through, and how.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use super::defense::DefenseArgs;
use crate::attack::Name;
use crate::attack::adaptive::{Adaptive, Rule, Seeds};
use crate::error::{Error, Result};

#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Attack through the defense")]
pub struct ThroughArgs {
    /// Attack classifier and defense together, along this gradient. Everything from here on describes
    /// the defense, and is as in purify
    #[arg(long, value_enum, value_name = "GRADIENT")]
    pub through: Option<Rule>,
    /// Purifications of different seeds over which each gradient is averaged [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub draws: Option<u32>,
    /// Whether these purifications have the defense's own seed or others [default: fixed]
    #[arg(long, value_enum)]
    pub attacker_seeds: Option<Seeds>,
    #[command(flatten)]
    pub defense: Behind,
}

impl ThroughArgs {
    /// How `method` gets through the defense; `None` where it attacks the classifier alone.
    ///
    /// # Errors
    /// An option that has no use here.
    pub fn adaptive(&self, method: Name) -> Result<Option<Adaptive>> {
        let given = [
            ("draws", self.draws.is_some()),
            ("attacker-seeds", self.attacker_seeds.is_some()),
        ];
        let of_gradients = given.into_iter().find(|(_, given)| *given);
        let Some(rule) = self.through else {
            let option = of_gradients.map(|(option, _)| option);
            let defense = self.defense.given.first().map(|option| option.as_str());
            return match option.or(defense) {
                None => Ok(None),
                Some(option) => Err(Error::invalid(format!(
                    "an attack on the classifier alone has no use for --{option}; give --through to attack it \
                     behind the defense"
                ))),
            };
        };
        let refused = match (rule, method.follows_gradients(), of_gradients) {
            (Rule::Queries, true, _) => {
                format!(
                    "{method} follows gradients; give --through identity, trajectory, decision or ways"
                )
            }
            (Rule::Identity | Rule::Trajectory | Rule::Decision | Rule::Ways, false, _) => {
                format!("{method} follows no gradients; give --through queries")
            }
            (Rule::Queries, false, Some((option, _))) => {
                format!(
                    "--through queries has no use for --{option}: the defense is asked as it is"
                )
            }
            _ => {
                return Ok(Some(Adaptive {
                    rule,
                    draws: self.draws.unwrap_or(1),
                    seeds: self.attacker_seeds.unwrap_or_default(),
                }));
            }
        };
        Err(Error::invalid(refused))
    }
}

/// The defense's options beside those of an attack: where both have one of a name, the defense's begins
/// with `defense-`.
#[derive(Clone, Debug)]
pub struct Behind {
    pub options: DefenseArgs,
    /// Which of them the command line has.
    given: Vec<String>,
}

/// What both have, and what the defense's is called here.
const SHARED: [(&str, &str); 3] = [
    ("restarts", "defense-restarts"),
    ("seed", "defense-seed"),
    ("learning_rate", "defense-learning-rate"),
];

fn renamed(command: Command) -> Command {
    let rename = |command: Command, (id, long)| command.mut_arg(id, |arg: Arg| arg.long(long));
    SHARED.into_iter().fold(command, rename)
}

impl Args for Behind {
    fn augment_args(command: Command) -> Command {
        renamed(DefenseArgs::augment_args(command))
    }

    fn augment_args_for_update(command: Command) -> Command {
        renamed(DefenseArgs::augment_args_for_update(command))
    }
}

impl FromArgMatches for Behind {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let all = Behind::augment_args(Command::new(""));
        let given = all.get_arguments().filter(|arg| {
            matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        });
        Ok(Behind {
            options: DefenseArgs::from_arg_matches(matches)?,
            given: given
                .filter_map(|arg| arg.get_long().map(str::to_owned))
                .collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Behind::from_arg_matches(matches)?;
        Ok(())
    }
}

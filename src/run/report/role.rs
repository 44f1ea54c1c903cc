//! The role of a class for a picture, by which trajectories are colored.

/// The role of a class for a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The true label, even if it is the input label or the recovered label too.
    True,
    /// The input label.
    Input,
    /// The recovered label.
    Recovered,
    /// Any other label.
    Other,
}

impl Role {
    /// All roles, in the order of a legend.
    pub const ALL: [Role; 4] = [Role::True, Role::Input, Role::Recovered, Role::Other];

    /// The role's letter in a strip.
    pub fn letter(self) -> char {
        match self {
            Role::True => 't',
            Role::Input => 'i',
            Role::Recovered => 'r',
            Role::Other => 'o',
        }
    }
}

/// The labels that determine the roles of classes.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// The true label, if it is known.
    pub truth: Option<usize>,
    /// The input label.
    pub input: usize,
    /// The recovered label, if there is one.
    pub recovered: Option<usize>,
}

impl Labels {
    /// A class's role.
    pub fn role(&self, class: usize) -> Role {
        if self.truth == Some(class) {
            Role::True
        } else if self.input == class {
            Role::Input
        } else if self.recovered == Some(class) {
            Role::Recovered
        } else {
            Role::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_true_label_comes_first() {
        let labels = Labels {
            truth: Some(3),
            input: 5,
            recovered: Some(3),
        };
        let roles = [3, 5, 7].map(|class| labels.role(class));
        assert_eq!(roles, [Role::True, Role::Input, Role::Other]);
        let clean = Labels {
            truth: Some(5),
            ..labels
        };
        let roles = [3, 5].map(|class| clean.role(class));
        assert_eq!(roles, [Role::Recovered, Role::True]);
        let unknown = Labels {
            truth: None,
            ..labels
        };
        let letters: String = (3..7).map(|c| unknown.role(c).letter()).collect();
        assert_eq!(letters, "roio");
    }
}

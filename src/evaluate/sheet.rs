//! An evaluation as tables of text, for Markdown and HTML alike.

use super::case::fraction;
use super::flags::State;
use super::plot;
use super::row::{BACKSTITCH, NONE};
use super::sizes::Breaking;
use super::statistics::Proportion;
use super::summary::{AttackSummary, Evaluation, STATIC};

/// An evaluation's report, independent of its format.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub title: String,
    /// Paragraphs before the tables.
    pub lead: Vec<String>,
    pub sheets: Vec<Sheet>,
    /// Everything that the results depend on, as JSON.
    pub configuration: String,
}

/// A table.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub title: &'static str,
    pub note: String,
    /// A plot of the numbers, as SVG.
    pub figure: Option<String>,
    pub head: Vec<String>,
    pub rows: Vec<Vec<Entry>>,
}

/// A cell of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Entry {
    pub text: String,
    /// The number that the column is sorted by; `None` to sort by text.
    pub number: Option<f64>,
}

impl Entry {
    fn text(text: impl Into<String>) -> Entry {
        Entry {
            text: text.into(),
            number: None,
        }
    }

    fn number(number: Option<f64>, digits: usize) -> Entry {
        Entry {
            text: number.map_or("–".into(), |x| format!("{x:.digits$}")),
            number,
        }
    }

    /// `93 (85–97)`: percent and the interval's ends.
    fn percent(proportion: Proportion) -> Entry {
        let Proportion {
            share, low, high, ..
        } = proportion;
        let text = match (share, low, high) {
            (Some(share), Some(low), Some(high)) => format!(
                "{:.0} ({:.0}–{:.0})",
                100.0 * share,
                100.0 * low,
                100.0 * high
            ),
            _ => "–".into(),
        };
        Entry {
            text,
            number: share,
        }
    }
}

/// The tables of an evaluation.
pub(super) fn document(evaluation: &Evaluation) -> Document {
    let configuration = serde_json::to_string_pretty(&evaluation.configuration);
    Document {
        title: "backstitch evaluate".into(),
        lead: lead(evaluation),
        sheets: vec![
            worst_cases(evaluation),
            accuracy(evaluation),
            harm(evaluation),
            curves(evaluation),
            breaking(evaluation),
            of_fooled(evaluation),
            quality(evaluation),
            detection(evaluation),
            flags(evaluation),
            defenses(evaluation),
            attacks(evaluation),
        ],
        configuration: configuration.unwrap_or_default(),
    }
}

fn lead(evaluation: &Evaluation) -> Vec<String> {
    let pictures = &evaluation.pictures;
    let mut lead = worst(evaluation);
    lead.push(format!(
        "{} pictures count: those that the classifier labels correctly when clean. Of {} seen, {} are excluded \
         because the classifier mislabels them, {} because they have no true label; {} failed.",
        pictures.counted,
        pictures.seen,
        pictures.wrong_when_clean,
        pictures.without_label,
        pictures.failed
    ));
    if evaluation.state != "done" {
        lead.push(
            "This evaluation was interrupted: the numbers are of the pictures so far.".into(),
        );
    }
    if pictures.without_clean > 0 {
        lead.push(format!(
            "Of {} pictures only attacked versions are known: it is taken on trust that the classifier labels \
             them correctly when clean.",
            pictures.without_clean
        ));
    }
    lead.push(format!(
        "Rows marked “static” are attacks on the classifier alone; for every defense: {STATIC}."
    ));
    if !evaluation.attacks.iter().any(|a| a.case.is_adaptive()) {
        lead.push(
            "No attack here knows the defense. Use the suite adaptive before you rely on these numbers.".into(),
        );
    }
    let raised: Vec<&str> = evaluation
        .flags
        .iter()
        .filter(|flag| flag.is_raised())
        .map(|flag| flag.title)
        .collect();
    lead.push(match raised.is_empty() {
        true => "No flag is raised.".into(),
        false => format!("Flags raised: {}.", raised.join("; ")),
    });
    lead
}

/// The worst numbers, with and without the defense.
fn worst(evaluation: &Evaluation) -> Vec<String> {
    let mut lead = Vec::new();
    let [without, with] = [NONE, BACKSTITCH].map(|defense| evaluation.worst(defense));
    if let (Some(without), Some(with)) = (without, with) {
        lead.push(format!(
            "Worst case of every attack: {} of {} pictures stay right with backstitch, {} of {} without a defense.",
            with.count, with.of, without.count, without.of
        ));
    }
    let find = |defense| evaluation.breaking.iter().find(|of| of.defense == defense);
    if let (Some(without), Some(with)) = (find(NONE), find(BACKSTITCH)) {
        let times = match with.ratio {
            Some(_) => format!(": {} times", ratio(with)),
            None => String::new(),
        };
        lead.push(format!(
            "The median picture breaks at an L∞ size of {} with backstitch, and of {} without a defense{times}.",
            median(with),
            median(without)
        ));
    }
    lead
}

/// The kind of a row's attack, in one or two words.
fn kind(attack: &AttackSummary) -> &'static str {
    match (attack.case.is_attack(), attack.case.is_adaptive()) {
        (false, _) => "no attack",
        _ if attack.case.is_given() => "given",
        (_, true) => "adaptive",
        (_, false) => "static",
    }
}

fn names(evaluation: &Evaluation) -> impl Iterator<Item = String> + '_ {
    evaluation.defenses.iter().map(|d| d.row.name.clone())
}

/// A table's head: `first`, then the defenses' names.
fn head(first: &[&str], evaluation: &Evaluation) -> Vec<String> {
    let first = first.iter().map(|name| (*name).to_owned());
    first.chain(names(evaluation)).collect()
}

fn accuracy(evaluation: &Evaluation) -> Sheet {
    let row = |attack: &AttackSummary| {
        let mut row = vec![
            Entry::text(&attack.case.title),
            Entry::text(kind(attack)),
            Entry::number(Some(attack.pictures as f64), 0),
        ];
        row.extend(attack.defenses.iter().map(|d| Entry::percent(d.right)));
        row
    };
    Sheet {
        title: "Accuracy",
        note: "Percent of the pictures with the true label, with the 95% interval (Wilson 1927)."
            .into(),
        figure: None,
        head: head(&["attack", "kind", "pictures"], evaluation),
        rows: evaluation.attacks.iter().map(row).collect(),
    }
}

fn of_fooled(evaluation: &Evaluation) -> Sheet {
    let row = |attack: &AttackSummary| {
        let mut row = vec![
            Entry::text(&attack.case.title),
            Entry::text(kind(attack)),
            Entry::number(Some(attack.fooled.count as f64), 0),
        ];
        let defended = attack.defenses.iter();
        row.extend(defended.map(|d| Entry::percent(d.right_of_fooled)));
        row
    };
    let attacks = evaluation.attacks.iter().filter(|a| a.fooled.count > 0);
    Sheet {
        title: "Accuracy on the fooled pictures",
        note: "Percent with the true label, of the pictures that fool the classifier without a defense.".into(),
        figure: None,
        head: head(&["attack", "kind", "fooled"], evaluation),
        rows: attacks.map(row).collect(),
    }
}

fn worst_cases(evaluation: &Evaluation) -> Sheet {
    let rows = evaluation.worst_cases.iter().map(|worst| {
        let mut row = vec![
            Entry::text(&worst.title),
            Entry::number(Some(worst.attacks.len() as f64), 0),
        ];
        row.extend(names(evaluation).map(|name| {
            let right = worst.right.get(&name).copied().unwrap_or_default();
            Entry::percent(right)
        }));
        row
    });
    Sheet {
        title: "Worst case",
        note: "Percent of the pictures with the true label when clean and under each of the attacks, with the 95% \
               interval (Wilson 1927). The worst number comes first."
            .into(),
        figure: None,
        head: head(&["attacks", "number"], evaluation),
        rows: rows.collect(),
    }
}

fn harm(evaluation: &Evaluation) -> Sheet {
    let row = |attack: &AttackSummary| {
        let find = |defense| attack.defenses.iter().find(|d| d.defense == defense);
        let (none, ours) = (find(NONE)?, find(BACKSTITCH)?);
        let counts = [
            ours.right.of,
            none.right.count,
            ours.right.count,
            ours.help,
            ours.harm,
        ];
        let mut row = vec![Entry::text(&attack.case.title), Entry::text(kind(attack))];
        row.extend(counts.map(|count| Entry::number(Some(count as f64), 0)));
        Some(row)
    };
    Sheet {
        title: "Help and harm",
        note: "Pictures that backstitch helps (wrong without a defense, right with it) and harms (the reverse). For \
               clean pictures, harm is the price of having the defense."
            .into(),
        figure: None,
        head: ["attack", "kind", "pictures", "right without", "right with", "help", "harm"]
            .map(str::to_owned)
            .to_vec(),
        rows: evaluation.attacks.iter().filter_map(row).collect(),
    }
}

fn curves(evaluation: &Evaluation) -> Sheet {
    let points = || evaluation.curves.iter().flat_map(|curve| &curve.points);
    let mut sizes: Vec<f32> = points().map(|point| point.eps).collect();
    sizes.sort_by(f32::total_cmp);
    sizes.dedup();
    let mut rows = Vec::new();
    for curve in &evaluation.curves {
        for defense in [NONE, BACKSTITCH] {
            let mut row = vec![Entry::text(&curve.title), Entry::text(defense)];
            row.extend(sizes.iter().map(|eps| {
                let point = curve.points.iter().find(|point| point.eps == *eps);
                let right = point.and_then(|point| point.right.get(defense).copied());
                Entry::percent(right.unwrap_or_default())
            }));
            rows.push(row);
        }
    }
    let mut head = vec!["attack".to_owned(), "defense".to_owned()];
    head.extend(sizes.iter().map(|&eps| match eps > 0.0 {
        true => fraction(eps),
        false => "clean".into(),
    }));
    Sheet {
        title: "Accuracy against ε",
        note: "Percent of the pictures with the true label, with the 95% interval, by the attack's L∞ size ε. In the \
               worst case a picture is right when clean and under every attack of up to this size."
            .into(),
        figure: plot::svg(&evaluation.curves),
        head,
        rows,
    }
}

/// `8/255`, or `at least 8/255`.
fn median(breaking: &Breaking) -> String {
    let least = if breaking.at_least { "at least " } else { "" };
    format!("{least}{}", fraction(breaking.median_eps))
}

/// `4`, `at least 4`, or a dash.
fn ratio(breaking: &Breaking) -> String {
    let least = if breaking.at_least { "at least " } else { "" };
    let text = |ratio| format!("{least}{}", (f32::round(ratio * 100.0)) / 100.0);
    breaking.ratio.map_or("–".into(), text)
}

fn breaking(evaluation: &Evaluation) -> Sheet {
    let rows = evaluation.breaking.iter().map(|breaking| {
        vec![
            Entry::text(&breaking.defense),
            Entry::number(Some(breaking.pictures as f64), 0),
            Entry {
                text: median(breaking),
                number: Some(f64::from(breaking.median_eps)),
            },
            Entry {
                text: ratio(breaking),
                number: breaking.ratio.map(f64::from),
            },
        ]
    });
    Sheet {
        title: "The size that breaks the median picture",
        note: "The smallest L∞ size ε, of those that were run, at which at least half of the pictures are wrong when \
               clean or under an attack of up to this size; and how many times that without a defense it is. “At \
               least”: the largest size breaks fewer than half."
            .into(),
        figure: None,
        head: ["defense", "pictures", "median ε", "times no defense"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    }
}

fn quality(evaluation: &Evaluation) -> Sheet {
    let row = |attack: &AttackSummary| {
        let mut row = vec![Entry::text(&attack.case.title)];
        row.extend(attack.defenses.iter().map(|defended| {
            let [psnr, ssim] = [(defended.psnr, 1), (defended.ssim, 3)]
                .map(|(number, digits)| Entry::number(number, digits).text);
            Entry {
                text: format!("{psnr} / {ssim}"),
                number: defended.psnr,
            }
        }));
        row
    };
    Sheet {
        title: "Likeness to the clean picture",
        note: "Mean PSNR in dB and SSIM of the output against the clean picture. Outputs that are equal to \
               it have no PSNR and are left out of its mean."
            .into(),
        figure: None,
        head: head(&["attack"], evaluation),
        rows: evaluation.attacks.iter().map(row).collect(),
    }
}

fn detection(evaluation: &Evaluation) -> Sheet {
    let detection = &evaluation.detection;
    let rows = detection.attacks.iter().map(|detected| {
        vec![
            Entry::text(&detected.attack),
            Entry::number(detected.area, 3),
            Entry::number(detected.area_of_fooled, 3),
            Entry::percent(detected.detected),
            Entry::percent(detected.detected_of_fooled),
        ]
    });
    Sheet {
        title: "Detection",
        note: format!(
            "ROC area of backstitch's score, attacked against clean pictures, and percent with the verdict \
             adversarial. Clean pictures with that verdict (false alarms): {} of {}; undecided: {}.",
            detection.false_alarms.count, detection.false_alarms.of, detection.undecided.count
        ),
        figure: None,
        head: ["attack", "area", "area, fooled", "found", "found, fooled"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    }
}

fn flags(evaluation: &Evaluation) -> Sheet {
    let mut rows = Vec::new();
    for flag in &evaluation.flags {
        let state = match flag.state {
            State::Raised => "RAISED",
            State::NotRaised => "not raised",
            State::NotChecked => "not checked",
        };
        let first = [Entry::text(flag.title), Entry::text(state)];
        if flag.is_raised() {
            for finding in &flag.findings {
                let mut row = first.to_vec();
                row.extend([Entry::text(&finding.text), Entry::text(flag.reason)]);
                rows.push(row);
            }
            continue;
        }
        let found = match flag.state {
            State::NotChecked => format!("needs {}", flag.needs),
            _ => format!("{} comparisons", flag.findings.len()),
        };
        let mut row = first.to_vec();
        row.extend([Entry::text(found), Entry::text(flag.reason)]);
        rows.push(row);
    }
    Sheet {
        title: "Flags",
        note: "Signs of masked gradients and of attacks that are too weak (Athalye et al. 2018, Carlini et al. \
               2019)."
            .into(),
        figure: None,
        head: ["flag", "state", "numbers", "why it is a bad sign"]
            .map(str::to_owned)
            .to_vec(),
        rows,
    }
}

fn defenses(evaluation: &Evaluation) -> Sheet {
    let rows = evaluation.defenses.iter().map(|defense| {
        vec![
            Entry::text(&defense.row.name),
            Entry::text(defense.row.description),
            Entry::number(defense.seconds, 4),
        ]
    });
    Sheet {
        title: "Defenses",
        note: format!(
            "Seconds for a picture on {}, without classifying the output; none for a part of backstitch's run.",
            evaluation.device
        ),
        figure: None,
        head: ["defense", "what it is", "seconds"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    }
}

fn attacks(evaluation: &Evaluation) -> Sheet {
    let rows = evaluation.attacks.iter().map(|attack| {
        let parameters = serde_json::to_value(&attack.case.kind).unwrap_or_default();
        vec![
            Entry::text(&attack.case.name),
            Entry::text(attack.statement),
            Entry::number(attack.mean_linf.map(|x| 255.0 * x), 2),
            Entry::number(attack.mean_l2, 3),
            Entry::number(attack.seconds, 3),
            Entry::text(parameters.to_string()),
        ]
    });
    Sheet {
        title: "Attacks",
        note: "Mean of the largest change of a value (of 255), mean Euclidean length of the change for values \
               from 0 to 1, mean seconds a picture, parameters."
            .into(),
        figure: None,
        head: ["attack", "how to read it", "L∞", "L2", "seconds", "parameters"]
            .map(str::to_owned)
            .to_vec(),
        rows: rows.collect(),
    }
}

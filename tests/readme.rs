//! The README says what the program does.

use backstitch::classifier::onnx::OPERATORS;

#[test]
fn the_list_of_operators_is_the_table_s() {
    let readme = include_str!("../README.md");
    let list = readme
        .split_once("<!-- operators -->")
        .and_then(|(_, rest)| rest.split_once("<!-- end of operators -->"))
        .map(|(list, _)| list.trim());
    let rows: Vec<String> = OPERATORS
        .iter()
        .map(|operator| match operator.limits {
            "" => operator.name.to_owned(),
            limits => format!("{} ({limits})", operator.name),
        })
        .collect();
    let want = format!("{}.", rows.join(", "));
    assert_eq!(
        list,
        Some(want.as_str()),
        "put this between the marks:\n{want}"
    );
}

//! Bodies of nodes: the main graph's and, in place of single nodes, those of the file's own functions and
//! of the branch that an `If` takes.
//!
//! A branch sees every name of the body that it is in, a function its inputs only.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::builder::{Arguments, Builder, Call, Item, resolve};
use super::proto;
use super::table;
use super::{OPSETS, shortened};

/// Bodies inside one another. A function that calls itself ends here.
const MAX_DEPTH: usize = 64;
/// Sum of [`cost`] over all bodies, one that is entered twice counted twice: many times what the largest
/// exports hold.
const MAX_COST: usize = 1 << 22;
/// Longest names in messages, of each body around a node.
const MAX_PREFIX: usize = 100;

/// What a name stands for.
#[derive(Clone, Debug)]
pub(super) enum Known {
    Item(Item),
    /// An optional input of a function, left out.
    Absent,
    /// What makes it was refused, so there is no telling.
    Refused,
}

/// The names that a body's nodes may take.
pub(super) type Names<'a> = HashMap<&'a str, Known>;

/// Nodes, and the names that they are to make.
pub(super) struct Body<'a> {
    pub nodes: &'a [proto::Node],
    pub outputs: Vec<&'a str>,
}

/// What holds for all nodes of a body.
pub(super) struct Context<'a> {
    pub opset: i64,
    /// Values of the attributes that refer to the function's caller.
    arguments: Arguments<'a>,
    /// Names of the nodes that the body replaces.
    prefix: String,
    depth: usize,
}

impl Context<'_> {
    /// The main graph's.
    pub(super) fn new(opset: i64) -> Self {
        Context {
            opset,
            arguments: Arguments::new(),
            prefix: String::new(),
            depth: 0,
        }
    }

    fn inside(&self, node: &proto::Node) -> Result<(String, usize), String> {
        if self.depth == MAX_DEPTH {
            return Err("functions and branches are too deep in one another".into());
        }
        let name = shortened(label(node), MAX_PREFIX);
        let prefix = shortened(&format!("{}{name}/", self.prefix), MAX_PREFIX);
        Ok((prefix, self.depth + 1))
    }
}

/// Translates bodies into one graph.
pub(super) struct Translator<'a> {
    pub builder: Builder,
    /// By domain, name and overload.
    functions: HashMap<[&'a str; 3], &'a proto::Function>,
    /// Nodes that cannot be run, each with the reason.
    pub refused: Vec<String>,
    /// What the bodies to come may cost.
    left: usize,
}

/// The version of the standard operators among some sets.
pub(super) fn standard_opset(sets: &[proto::OperatorSet]) -> Option<i64> {
    let found = sets.iter().find(|set| domain(&set.domain).is_empty());
    found.map(|set| set.version)
}

/// A domain's name, the standard one's empty.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

impl<'a> Translator<'a> {
    pub(super) fn new(builder: Builder, functions: &'a [proto::Function]) -> Self {
        let functions = functions
            .iter()
            .map(|f| ([domain(&f.domain), &*f.name, &*f.overload], f))
            .collect();
        Translator {
            builder,
            functions,
            refused: Vec::new(),
            left: MAX_COST,
        }
    }

    /// Translates what the body's outputs depend on; adds to `names` what its nodes make.
    ///
    /// # Errors
    /// The nodes are no graph. A node that cannot be run is no error, but in [`Self::refused`].
    pub(super) fn body(
        &mut self,
        body: &Body<'a>,
        names: &mut Names<'a>,
        context: &Context<'a>,
    ) -> Result<(), String> {
        let cost = cost(body.nodes);
        self.left = (self.left.checked_sub(cost)).ok_or(
            "holds more nodes than any classifier, those of functions counted at each call",
        )?;
        let used: HashSet<&str> = (body.nodes.iter().flat_map(taken))
            .chain(body.outputs.iter().copied())
            .collect();
        for index in sorted(body, names)? {
            let node = &body.nodes[index];
            let mut outputs = match self.node(node, names, context, &used) {
                Ok(outputs) => outputs.into_iter(),
                Err(reason) => {
                    self.refuse(node, &reason, context);
                    Vec::new().into_iter()
                }
            };
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                names.insert(name, outputs.next().unwrap_or(Known::Refused));
            }
        }
        Ok(())
    }

    fn refuse(&mut self, node: &proto::Node, reason: &str, context: &Context<'_>) {
        let name = shortened(label(node), 300);
        let op = match domain(&node.domain) {
            "" => shortened(&node.op_type, 300),
            domain => shortened(&format!("{domain}::{}", node.op_type), 300),
        };
        let reason = shortened(reason, 300);
        self.refused
            .push(format!("{}{name} ({op}): {reason}", context.prefix));
    }

    /// What a node makes; nothing where one of its inputs could not be made.
    fn node(
        &mut self,
        node: &'a proto::Node,
        names: &Names<'a>,
        context: &Context<'a>,
        used: &HashSet<&str>,
    ) -> Result<Vec<Known>, String> {
        let domain = domain(&node.domain);
        let key = [domain, &*node.op_type, &*node.overload];
        if let Some(&function) = self.functions.get(&key) {
            return match inputs(node, names) {
                Some(inputs) => self.call(function, node, inputs, context),
                None => Ok(Vec::new()),
            };
        }
        let operator = table::operator(domain, &node.op_type).ok_or("is not supported")?;
        let Some(inputs) = inputs(node, names) else {
            return Ok(Vec::new());
        };
        let name = format!("{}{}", context.prefix, label(node));
        let arguments = &context.arguments;
        let mut call = Call::new(
            &mut self.builder,
            node,
            &name,
            context.opset,
            arguments,
            inputs,
        );
        let outputs = (operator.translate)(&mut call)?;
        if let Some(name) = call.branch {
            let own = node.attribute.iter().find(|a| a.name == name);
            let graph = own.and_then(|a| resolve(a, arguments)?.g.as_deref());
            let graph = graph.ok_or_else(|| format!("its {name} is missing"))?;
            return self.branch(graph, node, names, context);
        }
        call.check(&outputs, used)?;
        Ok(outputs.into_iter().map(Known::Item).collect())
    }

    /// The outputs of a function's body for these inputs.
    fn call(
        &mut self,
        function: &'a proto::Function,
        node: &'a proto::Node,
        inputs: Vec<Option<Item>>,
        context: &Context<'a>,
    ) -> Result<Vec<Known>, String> {
        let (prefix, depth) = context.inside(node)?;
        if inputs.len() > function.input.len() {
            return Err(format!(
                "it has {} inputs, and its function {}",
                inputs.len(),
                function.input.len()
            ));
        }
        let mut names = Names::new();
        let mut given = inputs.into_iter();
        for name in &function.input {
            let known = given.next().flatten().map_or(Known::Absent, Known::Item);
            if names.insert(name, known).is_some() {
                return Err(format!("its function has the input \"{name}\" twice"));
            }
        }
        let defaults = function.attribute_proto.iter().map(|a| (&*a.name, a));
        let mut arguments: Arguments<'a> = defaults.collect();
        for attribute in &node.attribute {
            let name = &*attribute.name;
            if !arguments.contains_key(name) && !function.attribute.iter().any(|a| a == name) {
                return Err(format!("attribute {name} is not one of its function's"));
            }
            if let Some(value) = resolve(attribute, &context.arguments) {
                arguments.insert(name, value);
            }
        }
        let opset = standard_opset(&function.opset_import).unwrap_or(context.opset);
        if !OPSETS.contains(&opset) {
            return Err(format!("its function has opset {opset}"));
        }
        let context = Context {
            opset,
            arguments,
            prefix,
            depth,
        };
        let body = Body {
            nodes: &function.node,
            outputs: function.output.iter().map(String::as_str).collect(),
        };
        let metered = std::mem::replace(&mut self.builder.metered, true);
        let done = self.body(&body, &mut names, &context);
        self.builder.metered = metered;
        done?;
        results(&body.outputs, &names)
    }

    /// The outputs of an `If`'s branch.
    fn branch(
        &mut self,
        graph: &'a proto::Graph,
        node: &'a proto::Node,
        outer: &Names<'a>,
        context: &Context<'a>,
    ) -> Result<Vec<Known>, String> {
        let (prefix, depth) = context.inside(node)?;
        let mut names: Names<'a> = (captured(graph).into_iter())
            .filter_map(|name| Some((name, outer.get(name)?.clone())))
            .collect();
        for tensor in &graph.initializer {
            let constant = self.builder.decode(tensor)?;
            names.insert(&tensor.name, Known::Item(Item::Constant(constant)));
        }
        let context = Context {
            opset: context.opset,
            arguments: context.arguments.clone(),
            prefix,
            depth,
        };
        let body = Body {
            nodes: &graph.node,
            outputs: graph.output.iter().map(|output| &*output.name).collect(),
        };
        self.body(&body, &mut names, &context)?;
        results(&body.outputs, &names)
    }
}

/// What these names stand for.
fn results(outputs: &[&str], names: &Names<'_>) -> Result<Vec<Known>, String> {
    (outputs.iter())
        .map(|name| match names.get(name) {
            Some(Known::Absent) | None => Err(format!("its \"{name}\" is defined by nothing")),
            Some(known) => Ok(known.clone()),
        })
        .collect()
}

/// What messages call a node.
fn label(node: &proto::Node) -> &str {
    match (node.name.as_str(), node.output.first()) {
        ("", Some(output)) => output,
        (name, _) => name,
    }
}

/// A node's inputs; `None` where one of them could not be made.
fn inputs(node: &proto::Node, names: &Names<'_>) -> Option<Vec<Option<Item>>> {
    (node.input.iter())
        .map(|name| match (name.as_str(), names.get(name.as_str())) {
            ("", _) | (_, Some(Known::Absent)) => Some(None),
            (_, Some(Known::Item(item))) => Some(Some(item.clone())),
            (_, Some(Known::Refused) | None) => None,
        })
        .collect()
}

/// The graphs in a node's attributes.
fn graphs(node: &proto::Node) -> impl Iterator<Item = &proto::Graph> {
    node.attribute.iter().filter_map(|a| a.g.as_deref())
}

/// The names that a node takes, those that the graphs in it take from outside among them.
fn taken(node: &proto::Node) -> Vec<&str> {
    let own = node.input.iter().map(String::as_str);
    let mut names: Vec<&str> = own.filter(|name| !name.is_empty()).collect();
    names.extend(graphs(node).flat_map(captured));
    names
}

/// The names that a graph takes from outside.
fn captured(graph: &proto::Graph) -> HashSet<&str> {
    let outputs = graph.output.iter().map(|output| output.name.as_str());
    let mut names: HashSet<&str> = graph.node.iter().flat_map(taken).chain(outputs).collect();
    for made in graph.node.iter().flat_map(|node| &node.output) {
        names.remove(made.as_str());
    }
    for tensor in &graph.initializer {
        names.remove(tensor.name.as_str());
    }
    names
}

/// About how long nodes take to look at: their number, and that of everything in them.
fn cost(nodes: &[proto::Node]) -> usize {
    let name = |name: &String| 1 + name.len() / 64;
    let one = |node: &proto::Node| -> usize {
        let names: usize = node.input.iter().chain(&node.output).map(name).sum();
        let inside = |graph: &proto::Graph| cost(&graph.node) + graph.initializer.len();
        1 + names + node.attribute.len() + graphs(node).map(inside).sum::<usize>()
    };
    nodes.iter().map(one).sum()
}

/// The nodes that the outputs depend on, in an order in which inputs come before their use; the file's own
/// where it is one.
fn sorted(body: &Body<'_>, names: &Names<'_>) -> Result<Vec<usize>, String> {
    let nodes = body.nodes;
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            if names.contains_key(name.as_str()) || producers.insert(name, index).is_some() {
                return Err(format!("defines the tensor \"{name}\" twice"));
            }
        }
    }
    let taken: Vec<Vec<&str>> = nodes.iter().map(taken).collect();
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut missing = vec![0usize; nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for &name in &taken[index] {
            match producers.get(name) {
                Some(&producer) => {
                    users[producer].push(index);
                    missing[index] += 1;
                }
                None if names.contains_key(name) => {}
                None => {
                    return Err(format!(
                        "node {} ({}) takes \"{name}\", which nothing defines",
                        label(node),
                        node.op_type
                    ));
                }
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..missing.len()).filter(|&i| missing[i] == 0).collect();
    let mut order = Vec::new();
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &user in &users[index] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.insert(user);
            }
        }
    }
    if let Some(index) = missing.iter().position(|&count| count > 0) {
        return Err(format!(
            "is cyclic: node {} depends on itself",
            label(&nodes[index])
        ));
    }
    let mut needed: HashSet<&str> = body.outputs.iter().copied().collect();
    order.reverse();
    order.retain(|&index| {
        let made = &nodes[index].output;
        let used = made.iter().any(|name| needed.contains(name.as_str()));
        if used {
            needed.extend(&taken[index]);
        }
        used
    });
    order.reverse();
    Ok(order)
}

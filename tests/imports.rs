//! The order of the modules: an import goes down, and circles are small. And no two types of the
//! library have one name.
//!
//! Reads the `use` lines and the `crate::` paths of every file of the library, tests and
//! documentation left out. A module that is named in [`LAYERS`] may import from its own layer and
//! from lower ones.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Parts of the crate, the lowest first. A module belongs to the longest path that it begins with.
const LAYERS: [&[&str]; 14] = [
    &["block", "checksum", "error", "order", "stats"],
    &["callback", "io", "spread", "sync"],
    &["mvcc::batch", "mvcc::turn"],
    &["backend", "durability", "ticket", "transaction"],
    &["mvcc"],
    &["local::options", "local::poison", "local::stall", "local::wake"],
    &["local::format"],
    &["local::read"],
    &["local::space"],
    &["local::commit"],
    &["local::maintenance"],
    &["local::recovery"],
    &["local::offline"],
    &["local", "memory"],
];

/// The most files that import each other in a circle.
const CIRCLE_LEN_MAX: usize = 3;

/// What each module imports from others, by module path.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// The module path of a file below `src`, empty for the crate's root.
fn module_of(path: &Path) -> String {
    let mut parts: Vec<String> = path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts.join("::")
}

/// The text of every file of the library, by module path.
fn sources(dir: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).expect("the sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "bin" && name != "tests" {
                sources(&path, root, found);
            }
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = fs::read_to_string(&path).expect("a source");
            found.insert(module_of(path.strip_prefix(root).expect("below it")), product_of(&text));
        }
    }
}

/// A source without comments, unit tests, and imports for the documentation.
fn product_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut product = String::new();
    let mut is_left_out = false;
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        if code.trim().starts_with("#[cfg(doc)]") || code.trim().starts_with("#[cfg(test)]") {
            is_left_out = true;
        } else if is_left_out {
            is_left_out = !code.contains(';');
        } else {
            product.push_str(code);
            product.push('\n');
        }
    }
    product
}

/// Every path that a `use` names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str, prefix: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        paths.push(format!("{prefix}{path}"));
        return;
    };
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut from) = (0, 0);
    for (at, byte) in inner.bytes().chain([b',']).enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                let part = &inner[from..at];
                if !part.trim().is_empty() {
                    expand(part, &format!("{prefix}{head}"), paths);
                }
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// All paths that a module's source names, from the crate's root on.
fn paths_of(module: &str, source: &str) -> Vec<String> {
    let mut named = Vec::new();
    for (at, _) in source.match_indices("use ") {
        let tree = source[at + 4..].split(';').next().unwrap_or_default();
        expand(&tree.replace('\n', " "), "", &mut named);
    }
    for (at, _) in source.match_indices("crate::") {
        let rest = &source[at..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        named.push(rest[..end.unwrap_or(rest.len())].to_string());
    }
    let above = |levels: usize| {
        let parts: Vec<&str> = module.split("::").collect();
        parts[..parts.len().saturating_sub(levels)].join("::")
    };
    let absolute = |path: String| {
        let supers = path.matches("super::").count();
        let rest = path.trim_start_matches("super::").trim_start_matches("self::").to_string();
        match path.split("::").next() {
            Some("crate") => Some(path.trim_start_matches("crate::").to_string()),
            Some("super") => Some(format!("{}::{rest}", above(supers))),
            Some("self") => Some(format!("{module}::{rest}")),
            _ => None,
        }
    };
    named.into_iter().filter_map(absolute).collect()
}

/// The module that a path leads into: its longest beginning that is one.
fn target<'a>(path: &'a str, modules: &BTreeMap<String, String>) -> Option<&'a str> {
    let mut path = path;
    while !modules.contains_key(path) {
        path = path.rsplit_once("::")?.0;
    }
    Some(path)
}

fn graph() -> Graph {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    sources(&root, &root, &mut modules);
    let mut graph = Graph::new();
    for (module, source) in &modules {
        let paths = paths_of(module, source);
        let targets = paths.iter().filter_map(|path| target(path, &modules));
        let others = targets.filter(|other| other != module && !other.is_empty());
        graph.insert(module.clone(), others.map(str::to_string).collect());
    }
    graph
}

/// The layer of a module, if it is in one.
fn layer_of(module: &str) -> Option<usize> {
    let is_in = |part: &str| module == part || module.starts_with(&format!("{part}::"));
    let parts =
        LAYERS.iter().enumerate().flat_map(|(at, layer)| layer.iter().map(move |p| (at, p)));
    parts.filter(|(_, part)| is_in(part)).max_by_key(|(_, part)| part.len()).map(|(at, _)| at)
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_string()]);
    while let Some(module) = next.pop() {
        for other in graph.get(&module).into_iter().flatten() {
            if seen.insert(other.clone()) {
                next.push(other.clone());
            }
        }
    }
    seen
}

#[test]
fn imports_go_down() {
    let graph = graph();
    let mut against = Vec::new();
    for (module, others) in &graph {
        for other in others {
            if let (Some(from), Some(to)) = (layer_of(module), layer_of(other))
                && to > from
            {
                against.push(format!("{module} imports from {other}, which is above it"));
            }
        }
    }
    assert!(against.is_empty(), "{}", against.join("\n"));
    assert!(graph.len() > 100, "{} modules", graph.len());
}

#[test]
fn circles_of_imports_are_small() {
    let graph = graph();
    let reach: BTreeMap<&str, BTreeSet<String>> =
        graph.keys().map(|module| (module.as_str(), reachable(&graph, module))).collect();
    for (module, others) in &reach {
        let circle: Vec<&String> =
            others.iter().filter(|other| reach[other.as_str()].contains(*module)).collect();
        assert!(circle.len() <= CIRCLE_LEN_MAX, "these import each other: {circle:?}");
    }
}

/// The names of the types that a source defines.
fn types_of(source: &str) -> Vec<&str> {
    let mut types = Vec::new();
    for line in source.lines() {
        let code = match line.trim_start().strip_prefix("pub") {
            Some(rest) => rest.split_once(' ').map_or("", |(_, code)| code),
            None => line,
        };
        // A type inside of a trait is indented, and no type of its own.
        let kinds = ["struct ", "enum ", "trait ", "type "];
        let named = kinds.iter().find_map(|kind| code.strip_prefix(kind));
        types.extend(named.and_then(|rest| rest.split(|c: char| !c.is_alphanumeric()).next()));
    }
    types
}

#[test]
fn every_type_has_a_name_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    sources(&root, &root, &mut modules);
    // The simulated disk and the kit are products of their own.
    let is_left_out = |module: &str| module.starts_with("testkit") || module.starts_with("io::sim");
    let mut homes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (module, source) in modules.iter().filter(|(module, _)| !is_left_out(module)) {
        for name in types_of(source) {
            homes.entry(name).or_default().push(module);
        }
    }
    let double: Vec<_> = homes.iter().filter(|(_, homes)| homes.len() > 1).collect();
    assert!(double.is_empty(), "{double:?}");
    assert!(homes.len() > 200, "{} types", homes.len());
}

//! The house rules that the compiler cannot check.
//!
//! Each rule is a function from a file to its findings, which name the place and the fix, and one
//! test that runs it over the tree. The module at the end feeds each rule a breach and a near miss,
//! so that a rule that has stopped firing, or fires at the innocent, fails too.

use std::{fs, path::Path};

use proc_macro2::{Delimiter, Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// The rooms of each floor, lowest first, as drawn on the architecture page in `src/lib.rs`.
const FLOORS: [&[&str]; 7] = [
    &["base"],
    &["domain", "error", "wire"],
    &["store"],
    &["engine"],
    &["api", "handler", "delivery"],
    &["server", "config"],
    &["cli", "library"],
];

/// The views along one floor that are allowed, as (from, to).
const SIDEWAYS: [(&str, &str); 2] = [("domain", "error"), ("error", "domain")];

/// What only some may see, as (what, by whom). Both are prefixes of module paths.
const VISITORS: [(&str, &[&str]); 4] = [
    ("wire", &["wire", "api", "cli", "handler::grpc"]),
    ("config", &["config", "server", "cli", "library"]),
    ("store::embedded", &["store"]),
    ("store", &["store", "engine", "server", "cli"]),
];

/// Words that mean something else here, or nothing, and what to say instead.
const WORDS: [(&str, &str); 8] = [
    ("ack", "settle"),
    ("callback", "handler"),
    ("job", "batch or item"),
    ("manager", "what it holds"),
    ("processor", "handler"),
    ("requeue", "redrive"),
    ("runner", "worker"),
    ("stats", "tally"),
];

/// Module names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 7] = ["common", "core", "helpers", "imp", "types", "util", "utils"];

/// Lines a source file may have, the `mod tests` at its end apart.
const LINES_MAX: usize = 500;

/// Lines a file of tests may have: more, because a suite reads well from top to bottom.
const TEST_LINES_MAX: usize = 900;

// The marks are spelled in halves, or this file would find itself.
const FIX_MARK: &str = concat!("FIX", "ME");
const TO_DO_MARK: &str = concat!("TO", "DO");
const IGNORE_MARK: &str = concat!("#[", "ignore");

const CODE: [&str; 5] = ["build.rs", "src", "tests", "benches", "examples"];
const PROTO: &str = "proto/sooner/v1";
const PATH_ROOTS: [&str; 4] = ["crate", "self", "super", "sooner"];

/// A file, its path counted from the root of the repository.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let (path, text) = (path.to_owned(), text.to_owned());
        Self { path, text }
    }

    fn syntax(&self) -> syn::File {
        syn::parse_file(&self.text).unwrap_or_else(|error| panic!("{}: {error}", self.path))
    }

    /// The module path of a file in `src`: `["engine", "pool"]`, and nothing for the crate's roots.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/");
        let parts = path.trim_end_matches(".rs").split('/');
        let named = parts.filter(|part| !["lib", "main", "mod"].contains(part));
        named.map(str::to_owned).collect()
    }

    fn finding(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Reads every file of Rust or proto at or under a root.
fn sources(root: &str) -> Vec<Source> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let kind = full.extension().unwrap_or_default();
    if full.is_dir() {
        let entries = fs::read_dir(&full).expect("a directory can be listed");
        let names = entries.map(|it| it.expect("an entry can be read").file_name());
        let nested = names.map(|name| sources(&format!("{root}/{}", name.display())));
        nested.flatten().collect()
    } else if full.exists() && (kind == "rs" || kind == "proto") {
        let text = fs::read_to_string(&full).expect("source is UTF-8");
        vec![Source::new(root, &text)]
    } else {
        Vec::new()
    }
}

/// Runs a rule over all files under some roots and fails with everything that it found.
fn enforce<F: IntoIterator<Item = String>>(roots: &[&str], rule: impl Fn(&Source) -> F) {
    let files: Vec<Source> = roots.iter().flat_map(|root| sources(root)).collect();
    assert!(!files.is_empty(), "{roots:?}: nothing to look at");
    let findings: Vec<String> = files.iter().flat_map(rule).collect();
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn imports_point_only_down_the_floors() {
    enforce(&["src"], views_out_of_bounds);
}

fn views_out_of_bounds(source: &Source) -> Vec<String> {
    // Tokens, not syntax: inside `select!` and its like there is no syntax tree to visit.
    let tokens: TokenStream = source.text.parse().expect("brackets are balanced");
    let judge = |(at, path): (usize, String)| Some(source.finding(at, &judge_view(source, &path)?));
    let paths = rooted_paths(tokens, &source.module());
    paths.into_iter().filter_map(judge).collect()
}

/// Every path that starts at a root, with its line, resolved to start with a room or `sooner`.
fn rooted_paths(tokens: TokenStream, module: &[String]) -> Vec<(usize, String)> {
    let trees: Vec<TokenTree> = tokens.into_iter().collect();
    let mut found = Vec::new();
    for (at, tree) in trees.iter().enumerate() {
        let before = &trees[..at];
        if let [TokenTree::Ident(root), one, two, ..] = &trees[at..]
            && PATH_ROOTS.iter().any(|it| root == it)
            && (is_punct(one, ':') && is_punct(two, ':'))
            && !matches!(before, [.., one, two] if is_punct(one, ':') && is_punct(two, ':'))
        {
            let start = if root == "sooner" { &[] } else { module };
            let paths = expand_path(&trees[at..], start.to_vec()).into_iter();
            found.extend(paths.map(|path| (root.span().start().line, path)));
        }
        if let TokenTree::Group(group) = tree {
            // `super` counts from the innermost module, so an inline one is a step deeper.
            let mut inner = module.to_vec();
            if let [.., TokenTree::Ident(word), TokenTree::Ident(name)] = before
                && word == "mod"
            {
                inner.push(name.to_string());
            }
            found.extend(rooted_paths(group.stream(), &inner));
        }
    }
    found
}

/// Follows a path through its segments, and into each branch of the `{…}` of a use tree.
fn expand_path(trees: &[TokenTree], mut path: Vec<String>) -> Vec<String> {
    match trees {
        [TokenTree::Ident(segment), rest @ ..] => {
            match segment.to_string().as_str() {
                "crate" => path.clear(),
                "self" => {}
                "super" => drop(path.pop()),
                name => path.push(name.to_owned()),
            }
            match rest {
                [one, two, rest @ ..] if is_punct(one, ':') && is_punct(two, ':') => {
                    expand_path(rest, path)
                }
                _ => vec![path.join("::")],
            }
        }
        [TokenTree::Group(group), ..] if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            let branches = inner.split(|tree| is_punct(tree, ','));
            let expand = |branch| expand_path(branch, path.clone());
            branches.flat_map(expand).collect()
        }
        // A list may end with a comma, and then with nothing after it.
        [] => Vec::new(),
        [star, ..] if is_punct(star, '*') => vec![format!("{}::*", path.join("::"))],
        _ => vec![path.join("::")],
    }
}

fn is_punct(tree: &TokenTree, mark: char) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == mark)
}

/// What is wrong when this file sees this path, if anything is.
fn judge_view(source: &Source, target: &str) -> Option<String> {
    let (room, inside) = target.split_once("::").unwrap_or((target, ""));
    if room == "sooner" {
        let allowed = source.path == "src/main.rs" && inside.split("::").next() == Some("cli");
        let fix = "write `crate::`; only main.rs may say `sooner`, and only `sooner::cli`";
        return (!allowed).then(|| format!("sees `{target}`. Fix: {fix}"));
    }
    let module = source.module();
    // The crate's roots stand in no room and see all.
    let own = module.first()?.as_str();
    let floor = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let (Some(from), Some(to)) = (floor(own), floor(room)) else {
        let fix = "name the room, or draw a new one in FLOORS and on the architecture page";
        return Some(format!("`{own}` or `{target}` is in no room. Fix: {fix}"));
    };
    let module = module.join("::");
    let allowed = match VISITORS.iter().find(|(what, _)| target.starts_with(what)) {
        Some((_, visitors)) => visitors.iter().any(|visitor| module.starts_with(visitor)),
        None => to < from || own == room || SIDEWAYS.contains(&(own, room)),
    };
    let fix = "move what both need down a floor, or let a higher floor pass it in";
    (!allowed).then(|| format!("`{module}` may not see `{target}`. Fix: {fix}"))
}

#[test]
fn files_stay_under_their_ceiling() {
    enforce(&["src", "tests"], too_long);
}

fn too_long(source: &Source) -> Option<String> {
    let is_test = |part| ["tests", "tests.rs", "conformance.rs"].contains(&part);
    let of_tests = source.path.split('/').any(is_test);
    let ceiling = if of_tests { TEST_LINES_MAX } else { LINES_MAX };
    let lines = lines_before_tests(source);
    let fix = "find the second noun in the file and give it a file of its own";
    let what = format!("over the ceiling of {ceiling} lines. Fix: {fix}");
    (lines > ceiling).then(|| source.finding(lines, &what))
}

/// The length of a file without the `#[cfg(test)] mod tests { … }` at its end.
fn lines_before_tests(source: &Source) -> usize {
    if let Some(syn::Item::Mod(last)) = source.syntax().items.last()
        && (last.ident == "tests" && last.content.is_some())
        && last.attrs.iter().any(|it| it.path().is_ident("cfg"))
    {
        return last.attrs[0].pound_token.spans[0].start().line - 1;
    }
    source.text.lines().count()
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    enforce(&CODE, no_opening_line);
}

fn no_opening_line(source: &Source) -> Option<String> {
    let what = "no `//!` line. Fix: open the file with a sentence that says what it is for";
    (!source.text.starts_with("//!")).then(|| source.finding(1, what))
}

#[test]
fn nothing_is_left_unfinished_and_no_test_is_switched_off() {
    enforce(&CODE, unfinished_marks);
    enforce(&[PROTO], unfinished_marks);
}

fn unfinished_marks(source: &Source) -> Vec<String> {
    let lacks_issue = |rest: &str| !rest.starts_with("(#");
    let judge = |(at, line): (usize, &str)| {
        let what = if line.contains(FIX_MARK) {
            "a fault left in. Fix: mend it now, or open an issue and name its number"
        } else if line.split(TO_DO_MARK).skip(1).any(lacks_issue) {
            "work without an issue. Fix: open one and write its number right behind, as in (#12)"
        } else if line.contains(IGNORE_MARK) {
            "a test that never runs. Fix: make it run everywhere, or delete it"
        } else {
            return None;
        };
        Some(source.finding(at + 1, what))
    };
    source.text.lines().enumerate().filter_map(judge).collect()
}

#[test]
fn every_limit_states_its_reason() {
    enforce(&["src/base/limits.rs"], bare_limits);
}

fn bare_limits(source: &Source) -> Vec<String> {
    let judge = |item: &syn::Item| {
        let syn::Item::Const(limit) = item else {
            return None;
        };
        let private = matches!(limit.vis, syn::Visibility::Inherited);
        let documented = limit.attrs.iter().any(|it| it.path().is_ident("doc"));
        let what = format!("`{}` is bare. Fix: say what it bounds and why", limit.ident);
        let line = limit.ident.span().start().line;
        (!private && !documented).then(|| source.finding(line, &what))
    };
    source.syntax().items.iter().filter_map(judge).collect()
}

#[test]
fn every_rpc_has_a_story() {
    let mut stories = sources("tests/it");
    // What only the harness calls is not yet tested.
    stories.retain(|story| !story.path.starts_with("tests/it/harness"));
    enforce(&[PROTO], |proto| untold_rpcs(proto, &stories));
}

fn untold_rpcs(proto: &Source, stories: &[Source]) -> Vec<String> {
    let told = |rpc: &String| stories.iter().any(|story| mentions(&story.text, rpc));
    let untold = rpcs(proto).into_iter().filter(|rpc| !told(rpc));
    let what = |rpc| format!("`{rpc}` has no story. Fix: tell one in tests/it");
    untold.map(what).collect()
}

/// The names of a file's RPCs as the code spells them: `submit_batch`.
fn rpcs(proto: &Source) -> Vec<String> {
    let name = |line: &str| {
        let (name, _) = line.trim_start().strip_prefix("rpc ")?.split_once('(')?;
        Some(snake_case(name))
    };
    proto.text.lines().filter_map(name).collect()
}

/// Whether a name occurs in whole words; `watch_batch_resumes` mentions `watch_batch`.
fn mentions(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let opens = !text[..at].ends_with(char::is_alphanumeric);
        opens && !text[at + name.len()..].starts_with(char::is_alphanumeric)
    })
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.trim().chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[test]
fn names_keep_to_the_vocabulary() {
    let rpcs: Vec<String> = sources(PROTO).iter().flat_map(rpcs).collect();
    let rule = |source: &Source| names_off_the_vocabulary(source, &rpcs);
    enforce(&["src", "tests"], rule);
}

fn names_off_the_vocabulary(source: &Source, rpcs: &[String]) -> Vec<String> {
    let file = source.syntax();
    let mut names = Names(Vec::new());
    names.visit_file(&file);
    // The names in `wire` come from the proto, and that of a test is a sentence.
    let free = source.path.starts_with("src/wire/") || source.path.starts_with("tests/");
    let judge = |(name, of_module): &(&Ident, bool)| {
        let snake = snake_case(&name.to_string());
        let words: Vec<&str> = snake.split('_').collect();
        let says = |bad: &str| words.contains(&bad) || words.contains(&&*format!("{bad}s"));
        let bad_word = WORDS.iter().find(|(bad, _)| !free && says(bad));
        // An RPC lends its name to the functions that serve it, and some are called Get….
        let of_rpc = rpcs.iter().any(|rpc| snake.starts_with(rpc));
        let what = if let Some((bad, good)) = bad_word {
            format!("`{name}` says {bad}. Fix: say {good}")
        } else if *of_module && EMPTY_NAMES.contains(&snake.as_str()) {
            format!("`mod {name}` says nothing. Fix: name it after the noun inside")
        } else if !free && !of_module && !of_rpc && words[0] == "get" {
            format!("`{name}` says get. Fix: drop the prefix")
        } else {
            return None;
        };
        Some(source.finding(name.span().start().line, &what))
    };
    names.0.iter().filter_map(judge).collect()
}

/// The names that a file gives to types, functions and modules, and whether each is a module's.
struct Names<'ast>(Vec<(&'ast Ident, bool)>);

impl<'ast> Visit<'ast> for Names<'ast> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other item is a noun")]
    fn visit_item(&mut self, item: &'ast syn::Item) {
        match item {
            syn::Item::Struct(it) => self.0.push((&it.ident, false)),
            syn::Item::Enum(it) => self.0.push((&it.ident, false)),
            syn::Item::Trait(it) => self.0.push((&it.ident, false)),
            syn::Item::Type(it) => self.0.push((&it.ident, false)),
            syn::Item::Mod(it) => self.0.push((&it.ident, true)),
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.0.push((&signature.ident, false));
    }

    fn visit_item_impl(&mut self, block: &'ast syn::ItemImpl) {
        // Whoever implements a trait did not choose the names in it.
        if block.trait_.is_none() {
            visit::visit_item_impl(self, block);
        }
    }
}

/// The rules under test: what each must find, and what it must leave alone.
mod rules {
    use super::*;

    fn case(line: &str) -> Source {
        let (path, text) = line.split_once(": ").expect("a case is `path: text`");
        Source::new(path, text)
    }

    #[test]
    fn paths_are_found_wherever_they_are_written() {
        let text = "use crate::{api::{self, A}, a::*,}; pub(crate) type T = sooner::cli::C;
            mod tests { use super::super::super::store::S; use self::super::P; }
            fn f(&self, a: crate::b::A) { select! { _ = x => crate::error::E } } use crate::*;";
        let module = ["engine".to_owned(), "pool".to_owned()];
        let found = rooted_paths(text.parse().expect("it parses"), &module);
        let found: Vec<String> = found.into_iter().map(|(_, path)| path).collect();
        let expected = "api api::A a::* sooner::cli::C store::S engine::pool::P b::A error::E ::*";
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn each_room_sees_what_it_may_and_no_more() {
        for line in [
            "src/lib.rs: cli store::Store | sooner::cli",
            "src/main.rs: sooner::cli::run | sooner::engine",
            "src/base/clock.rs: base::limits | error::Error",
            "src/domain/item.rs: error::Error base::limits | store::Store wire::Item",
            "src/store/reader.rs: store::embedded::Reader domain::Item | engine::Engine",
            "src/engine/pool.rs: store::Store | store::embedded api config Error ::*",
            "src/api/http/sse.rs: engine wire::Item | store handler delivery server",
            "src/handler/echo.rs: engine::Handler | wire::Item api",
            "src/handler/grpc_stream.rs: wire::Item | store",
            "src/config.rs: domain::Item | server",
            "src/server/drain.rs: api config delivery store | wire::Item cli",
        ] {
            let source = case(line);
            let (open, shut) = source.text.split_once('|').expect("both sides are given");
            let is_shut = |target: &&str| judge_view(&source, target).is_some();
            let is_open = |target: &&str| !is_shut(target);
            assert_eq!(open.split_whitespace().find(is_shut), None, "{line}");
            assert_eq!(shut.split_whitespace().find(is_open), None, "{line}");
        }
        let source = case("src/config.rs: //! Config.\nuse crate::cli;");
        assert!(views_out_of_bounds(&source)[0].starts_with("src/config.rs:2: "));
    }

    #[test]
    fn long_files_are_found_and_only_closing_tests_are_free() {
        let code = "fn f() {}\n".repeat(500);
        let tests = "#[cfg(test)]\nmod tests {\n\n}\n";
        let is_long = |path, text: String| too_long(&Source::new(path, &text)).is_some();
        assert!(!is_long("src/a.rs", format!("{code}{tests}")));
        assert!(is_long("src/a.rs", format!("{code}type A = u8;\n{tests}")));
        assert!(is_long("src/a.rs", format!("{tests}{code}")));
        assert!(is_long("src/store/conformance.rs", code.repeat(2)));
        assert!(!is_long("tests/it/submit.rs", format!("{code}{tests}")));
    }

    #[test]
    fn missing_openings_and_unfinished_marks_are_found() {
        assert!(no_opening_line(&case("src/a.rs: // A.\n//! B.")).is_some());
        assert!(no_opening_line(&case("src/a.rs: //! A.")).is_none());
        let marks = |line: String| unfinished_marks(&Source::new("a.rs", &line)).len();
        assert_eq!(marks(format!("// {FIX_MARK}(#1): later")), 1);
        assert_eq!(marks(format!("// {TO_DO_MARK}: later")), 1);
        assert_eq!(marks(format!("// {TO_DO_MARK}(#12): later")), 0);
        assert_eq!(marks(format!("{IGNORE_MARK} = \"slow\"]")), 1);
    }

    #[test]
    fn bare_limits_and_untold_rpcs_are_found() {
        let limits = "limits.rs: /// Why.\npub const A: u8 = 1;\npub const B: u8 = 2;";
        let found = bare_limits(&case(limits)).join("");
        assert!(found.starts_with("limits.rs:3: `B`"), "{found}");
        let proto = case("a.proto: rpc GetItem(A) returns (B);\n  rpc ListItems (A)");
        let story = case("tests/it/a.rs: fn forget_item() {} fn list_items_in_pages() {}");
        let found = untold_rpcs(&proto, &[story]).join("");
        assert!(found.starts_with("`get_item`"), "{found}");
    }

    #[test]
    fn names_off_the_vocabulary_are_found() {
        let rpcs = ["get_item".to_owned()];
        for (count, line) in [
            (2, "src/a.rs: struct JobSpec; enum Callbacks {}"),
            (2, "src/a.rs: trait Manager {} impl A { fn ack() {} }"),
            (2, "src/a.rs: fn get_size() {} mod utils {}"),
            (0, "src/a.rs: struct Jobless; fn get_item_page() {}"),
            (0, "src/a.rs: impl Foreign for A { fn get_size() {} }"),
            (1, "tests/a.rs: fn lost_ack_is_harmless() {} mod common;"),
        ] {
            let found = names_off_the_vocabulary(&case(line), &rpcs);
            assert_eq!(found.len(), count, "{line}: {found:?}");
        }
    }
}

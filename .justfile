# Short names for what a contributor does often. Plain cargo always works: each recipe is one or two
# commands that can be typed by hand.

# Lists the recipes.
default:
    @just --list --unsorted

# What a pull request must pass. CI also looks at the wire contract, the dependencies and README.
ready:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
    cargo test --locked

# Runs the tests whose names contain the filter, or all of them.
test *FILTER:
    cargo test --locked {{ FILTER }}

# Checks the house rules alone; it takes seconds.
tidy:
    cargo test --locked --test tidy

# Runs the program with a release build: `just run serve`.
run *ARGS:
    cargo run --locked --release -- {{ ARGS }}

# Answers the questions that the benches state.
bench *FILTER:
    cargo bench --locked {{ FILTER }}

# Opens the architecture page, private items included.
doc:
    cargo doc --locked --no-deps --document-private-items --open

# Judges licences, bans and sources of all dependencies.
deny:
    cargo deny --locked --config .deny.toml check licenses bans sources

# Lints and formats the wire contract.
proto:
    buf lint
    buf format --write

# Everything that CI does, tools installed and all.
ci:
    .ci/run

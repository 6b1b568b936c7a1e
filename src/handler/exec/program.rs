//! What is run: found once, when the handler is made, and turned into a command for each attempt.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Access, access};
use tokio::process::Command;

use super::{Environment, environment};
use crate::domain::attempt::{ItemError, Reason};
use crate::engine::Attempt;

/// The argument that stands for the input.
const PLACEHOLDER: &str = "{}";

/// Where programs are looked up if the environment does not say.
const PATH_DEFAULT: &str = "/usr/bin:/bin";

/// A program that exists, with its arguments and all of its environment but the item's part.
pub(super) struct Program {
    path: PathBuf,
    argv: Vec<String>,
    environment: BTreeMap<OsString, OsString>,
}

impl Program {
    /// Looks the program up and checks that it can be run. The error is one line for the user.
    pub(super) fn find(argv: &[String], wanted: &Environment) -> Result<Self, String> {
        let name = argv.first().filter(|name| !name.is_empty());
        let name = name.ok_or("handler command is empty")?;
        if name == PLACEHOLDER {
            return Err(format!(
                "handler command must not be the placeholder {PLACEHOLDER}"
            ));
        }
        if let Some(wrong) = argv.iter().find(|argument| argument.contains('\0')) {
            return Err(format!("handler command holds NUL in {wrong:?}"));
        }
        let environment = environment::base(wanted)?;
        let path = if name.contains('/') {
            at(name)?
        } else {
            let dirs = environment
                .get(OsStr::new("PATH"))
                .map_or(PATH_DEFAULT.as_ref(), AsRef::as_ref);
            let found = in_path(name, dirs);
            found.ok_or_else(|| format!("handler command {name:?} is not in PATH"))?
        };
        Ok(Self {
            path,
            argv: argv.to_vec(),
            environment,
        })
    }

    /// Whether the input is an argument instead of stdin.
    pub(super) fn takes_input_as_argument(&self) -> bool {
        self.argv
            .iter()
            .skip(1)
            .any(|argument| argument == PLACEHOLDER)
    }

    /// The program's name as it was given.
    pub(super) fn name(&self) -> &str {
        &self.argv[0]
    }

    /// The command for one attempt, in a process group of its own.
    pub(super) fn command(&self, attempt: &Attempt) -> Result<Command, ItemError> {
        let by_argument = self.takes_input_as_argument();
        let (stdin, input) = if by_argument {
            (Stdio::null(), argument(attempt)?)
        } else {
            (Stdio::piped(), PLACEHOLDER)
        };
        let filled = |it| if it == PLACEHOLDER { input } else { it };
        // A path with a slash: otherwise std would look through PATH again, and fork to do so.
        let mut command = Command::new(&self.path);
        command
            .arg0(self.name())
            .args(self.argv[1..].iter().map(|it| filled(it)))
            .env_clear()
            .envs(&self.environment)
            .envs(environment::of_item(attempt)?)
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }
}

/// The input in the form of an argument.
fn argument(attempt: &Attempt) -> Result<&str, ItemError> {
    let refuse = |why| ItemError::of(Reason::INPUT_NOT_TEXT, why);
    let text = attempt.spec.input.as_text();
    let text = text.ok_or_else(|| refuse("the input is not text, as an argument must be"))?;
    if text.contains('\0') {
        return Err(refuse("the input holds NUL, which an argument cannot"));
    }
    Ok(text)
}

fn at(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    match path.metadata() {
        Err(error) => Err(format!("handler command {name:?}: {error}")),
        Ok(metadata) if !metadata.is_file() => {
            Err(format!("handler command {name:?} is not a file"))
        }
        Ok(_) if !is_executable(path) => Err(format!("handler command {name:?} is not executable")),
        Ok(_) => Ok(path.to_owned()),
    }
}

fn in_path(name: &str, dirs: &OsStr) -> Option<PathBuf> {
    places(name, dirs).find(|place| place.is_file() && is_executable(place))
}

/// Where a program of this name may be. Each place has a slash in it.
fn places(name: &str, dirs: &OsStr) -> impl Iterator<Item = PathBuf> {
    // An empty entry is the working directory, by an old custom.
    std::env::split_paths(dirs).map(move |dir| Path::new(".").join(dir).join(name))
}

fn is_executable(path: &Path) -> bool {
    access(path, Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn find(argv: &[&str]) -> Result<Program, String> {
        let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
        Program::find(&argv, &Environment::Inherit)
    }

    #[test]
    fn a_command_that_cannot_run_is_refused_in_one_clear_line() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        fs::write(&plain, "text").unwrap();
        let (dir, plain) = (dir.path().to_str().unwrap(), plain.to_str().unwrap());
        let missing = format!("{dir}/missing");
        for (argv, expected) in [
            (
                &["nosuch"][..],
                r#"handler command "nosuch" is not in PATH"#.to_owned(),
            ),
            (&[], "handler command is empty".to_owned()),
            (&["", "x"], "handler command is empty".to_owned()),
            (
                &["{}", "x"],
                "handler command must not be the placeholder {}".to_owned(),
            ),
            (
                &["cat", "a\0b"],
                r#"handler command holds NUL in "a\0b""#.to_owned(),
            ),
            (&[dir], format!("handler command {dir:?} is not a file")),
            (
                &[plain],
                format!("handler command {plain:?} is not executable"),
            ),
            (
                &[&missing],
                format!("handler command {missing:?}: No such file or directory (os error 2)"),
            ),
        ] {
            assert_eq!(find(argv).err(), Some(expected));
        }
    }

    #[test]
    fn a_bare_name_is_looked_up_in_the_path_that_the_program_will_see() {
        let dir = tempfile::tempdir().unwrap();
        let tool = dir.path().join("tool");
        fs::write(&tool, "").unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("/nonexistent:{}", dir.path().display());
        let set = BTreeMap::from([("PATH".to_owned(), path)]);
        let found = Program::find(
            &["tool".to_owned()],
            &Environment::Clean {
                pass: Vec::new(),
                set,
            },
        );
        assert_eq!(found.ok().map(|it| it.path), Some(tool));
        assert!(find(&["tool"]).is_err());
    }

    #[test]
    fn an_empty_entry_of_the_path_is_the_working_directory() {
        let places: Vec<PathBuf> = places("tool", "/bin::x".as_ref()).collect();
        assert_eq!(
            places,
            ["/bin/tool", "./tool", "./x/tool"].map(PathBuf::from)
        );
    }
}

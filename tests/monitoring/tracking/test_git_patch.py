"""The recorded patch recreates the code on a fresh checkout, under any
settings of git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectral_exp.core import git
from spectral_exp.core.redact import REDACTED
from spectral_exp.monitoring.tracking import environment, git_patch

HOSTILE = """
[user]
    name = someone
    email = someone@example.org
[diff]
    noprefix = true
    mnemonicPrefix = true
    external = false
    context = 0
    interHunkContext = 9
    renames = copies
    relative = true
    suppressBlankEmpty = true
    orderFile = order
    colorMoved = zebra
    wsErrorHighlight = all
    ignoreSubmodules = none
    algorithm = patience
    submodule = log
[diff "shown"]
    textconv = wc
    command = false
[color]
    ui = always
    diff = always
[core]
    quotePath = false
    pager = false
    abbrev = 4
    whitespace = trailing-space,cr-at-eol
    safecrlf = warn
[pager]
    diff = false
[status]
    showUntrackedFiles = no
    relativePaths = true
    branch = true
[apply]
    whitespace = fix
    ignoreWhitespace = change
[alias]
    diff = status
"""


def git_in(root: Path, *arguments: str, config: Path | None = None) -> bytes:
    """Run git as its user does, with a configuration of the user's own."""
    environ = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": str(config or os.devnull),
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, env=environ, capture_output=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed file."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "code.py").write_text("one = 1\n")
    git_in(root, "init", "-q")
    git_in(root, "add", ".")
    git_in(root, "commit", "-qm", "first")
    return root


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's configuration that changes all that `git diff` prints."""
    config = tmp_path / "gitconfig"
    config.write_text(HOSTILE)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    return config


def tree(root: Path) -> dict[str, tuple[str, bytes]]:
    """Kind and content of the files in `root`."""
    found = {}
    for path in sorted(root.rglob("*")):
        if ".git" in path.parts or (path.is_dir() and not path.is_symlink()):
            continue
        name = path.relative_to(root).as_posix()
        kind = "link" if path.is_symlink() else "program" if os.access(path, os.X_OK) else "file"
        found[name] = (kind, str(path.readlink()).encode() if kind == "link" else path.read_bytes())
    return found


# --- any repository -------------------------------------------------------------------------------

NAMES = [
    "a.py", "b.py", "folder/c.py", "folder/deep/d e.py", "ü é.py", 'quo"te\\s.py', "tab\tline\nbreak.py",
    "data.bin", "settings.yaml", " leading.toml", "-dash.py", "*.py", "odd [x].json", "b/a/b.py",
]  # fmt: skip
CONTENTS = st.one_of(
    st.lists(
        st.sampled_from(
            [b"x = 1", b"", b"  y", b"diff --git a/a b/a", b"-- ", b"\xff\xfe", b"z \t"]
        )
    ).map(b"\n".join),
    st.lists(st.sampled_from([b"one", b"two", b""]), min_size=1).map(b"\r\n".join),
    st.lists(st.integers(0, 60), min_size=20).map(
        lambda ns: b"".join(b"line %d\n" % n for n in ns)
    ),
    st.binary(max_size=300),
    st.just(b"a\0b\0" * 40),
)
LENIENT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
FILES = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(st.sampled_from(["file", "program", "link"]), CONTENTS),
    max_size=7,
)


def write(root: Path, files: dict[str, tuple[str, bytes]]) -> None:
    for name, (kind, content) in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to(f"target-{len(content) % 7}")
        else:
            path.write_bytes(content)
            path.chmod(0o755 if kind == "program" else 0o644)


def clear(root: Path) -> None:
    for path in sorted(root.rglob("*"), reverse=True):
        if ".git" not in path.relative_to(root).parts:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def is_new_source(kind: str, content: bytes, name: str) -> bool:
    return not name.endswith(".bin") and (kind == "link" or b"\0" not in content)


@settings(max_examples=6, deadline=None, suppress_health_check=LENIENT)
@given(before=FILES, after=FILES, staged=st.booleans(), attributes=st.booleans())
def test_the_patch_makes_the_commit_the_working_tree(
    hostile: Path,
    before: dict[str, tuple[str, bytes]],
    after: dict[str, tuple[str, bytes]],
    staged: bool,
    attributes: bool,
) -> None:
    check_patch(before, after, staged, attributes)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=LENIENT)
@given(
    before=FILES,
    after=FILES,
    staged=st.booleans(),
    attributes=st.booleans(),
    autocrlf=st.sampled_from(["false", "true", "input"]),
)
def test_the_patch_of_many_repositories(
    hostile: Path,
    before: dict[str, tuple[str, bytes]],
    after: dict[str, tuple[str, bytes]],
    staged: bool,
    attributes: bool,
    autocrlf: str,
) -> None:
    hostile.write_text(f"{HOSTILE}\n[core]\n    autocrlf = {autocrlf}\n")
    check_patch(before, after, staged, attributes, hostile if autocrlf != "false" else None)


def check_patch(
    before: dict[str, tuple[str, bytes]],
    after: dict[str, tuple[str, bytes]],
    staged: bool,
    attributes: bool,
    config: Path | None = None,
) -> None:
    """Compare files byte by byte, or without the ends of lines if `config` lets git change them."""
    with TemporaryDirectory() as folder:
        root, fresh = Path(folder) / "root", Path(folder) / "fresh"
        root.mkdir()
        git_in(root, "init", "-q")
        if attributes:
            before = before | {
                ".gitattributes": ("file", b"*.py diff=shown\n*.json -diff\n*.toml binary\n")
            }
            after = after | {".gitattributes": before[".gitattributes"]}
        write(root, before)
        git_in(root, "add", "-A")
        git_in(root, "commit", "-qm", "first", "--allow-empty")
        clear(root)
        write(root, after)
        if staged:
            git_in(root, "add", "-A")
        index = (root / ".git/index").read_bytes()

        facts, patch = environment.git_facts(root)

        assert (root / ".git/index").read_bytes() == index
        assert (facts["diff_missing"], facts["diff_redacted"]) == ([], [])
        known = before.keys() | (after.keys() if staged else set())
        expected = {
            n: f for n, f in tree(root).items() if n in known or is_new_source(*after[n], n)
        }
        git_in(
            Path(folder),
            "clone",
            "-q",
            "--no-local",
            *git.EXACT_LINES,
            str(root),
            str(fresh),
            config=config,
        )
        if patch:
            (Path(folder) / "patch").write_bytes(patch)
            assert git.apply_patch(Path(folder) / "patch", fresh) is None
        if config is None:
            assert facts["dirty"] == (expected != tree_of(before))
            assert tree(fresh) == expected
        else:
            assert with_plain_ends(tree(fresh)) == with_plain_ends(expected)


def with_plain_ends(files: dict[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    return {
        name: (kind, content.replace(b"\r\n", b"\n")) for name, (kind, content) in files.items()
    }


def tree_of(files: dict[str, tuple[str, bytes]]) -> dict[str, tuple[str, bytes]]:
    """As `tree`, with the files that `write` writes."""
    return {
        name: (kind, f"target-{len(content) % 7}".encode() if kind == "link" else content)
        for name, (kind, content) in files.items()
    }


# --- what the patch holds -------------------------------------------------------------------------


def test_new_sources_are_in_the_patch_and_other_files_are_named(repository: Path) -> None:
    written = {
        "model.py": "x = 1\n", "conf/run.yaml": "a: 1\n", "data.csv": "1,2\n", ".env": "A=b\n",
        "secrets.yaml": "a: b\n",
        "server.key": "k\n", ".hydra/overrides.yaml": "- a\n", "outputs/run/config.json": "{}\n",
        "outputs/run/checkpoints/checkpoint_step_1.pt": "x\n", ".venv/lib/x.py": "x = 1\n", "ignored.py": "x\n",
        ".gitignore": "ignored.py\n",
    }  # fmt: skip
    for name, text in written.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    facts, patch = environment.git_facts(repository)
    assert sorted(git_patch._split(patch)) == ["conf/run.yaml", "model.py"]
    assert facts["dirty"]
    assert {"data.csv", ".env", "secrets.yaml", "server.key"} <= set(facts["untracked"])
    assert not {"model.py", "ignored.py"} & set(facts["untracked"])
    assert not facts["diff_truncated"]


def test_a_patch_without_room_lacks_whole_files_and_names_them(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_patch, "MAX_PATCH_BYTES", 1000)
    (repository / "code.py").write_text("a line of text\n" * 1000)
    (repository / "a.py").write_text("a = 1\n")
    (repository / "z.py").write_text("z = 1\n")
    facts, patch = environment.git_facts(repository)
    assert facts["diff_truncated"]
    assert facts["diff_missing"] == ["code.py (too large)"]
    assert list(git_patch._split(patch)) == ["a.py", "z.py"]


def test_a_large_change_is_complete(repository: Path) -> None:
    (repository / "code.py").write_text("".join(f"x = {i}\n" for i in range(120_000)))
    facts, patch = environment.git_facts(repository)
    assert len(patch) > 1_000_000
    assert facts["diff_missing"] == []


def test_files_too_large_for_a_patch_are_named(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "weights.bin").write_bytes(b"\0" * 100)
    git_in(repository, "add", ".")
    git_in(repository, "commit", "-qm", "second")
    monkeypatch.setattr(git_patch, "MAX_BINARY_BYTES", 1000)
    monkeypatch.setattr(git_patch, "MAX_SOURCE_BYTES", 1000)
    (repository / "weights.bin").write_bytes(os.urandom(2000))
    (repository / "big.py").write_text("#" * 2000)
    facts, patch = environment.git_facts(repository)
    assert sorted(facts["diff_missing"]) == ["big.py (too large)", "weights.bin (too large)"]
    assert patch == b""


# --- secrets --------------------------------------------------------------------------------------


def test_secrets_leave_the_patch_and_mark_it(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "abcdefgh12345")
    (repository / "code.py").write_text(
        'one = 1\nclient(api_key="Zq81hunter2x")\ntoken = tokenizer.next()\npad_token ='
        ' "<pad>"\ntoken = args.token\nkey = "abcdefgh12345"\nhub ='
        ' "ghp_0123456789abcdefghij0123456789abcdef"\n'
    )
    (repository / "clean.py").write_text("password = getpass()\nfor token in tokens: pass\n")
    (repository / "run.yaml").write_text("hub:\n  password: Zq81 hunter2x\nseed: 1\n")
    (repository / "pem.yaml").write_text("k: |\n  -----BEGIN PRIVATE KEY-----\n  Zq81hunter2x\n")
    facts, patch = environment.git_facts(repository)
    for secret in (b"abcdefgh12345", b"hunter2x", b"ghp_"):
        assert secret not in patch
    assert facts["diff_redacted"] == ["code.py", "run.yaml"]
    assert facts["diff_missing"] == ["pem.yaml (holds secrets)"]
    fresh = repository.parent / "fresh"
    git_in(repository, "clone", "-q", str(repository), str(fresh))
    (repository.parent / "patch").write_bytes(patch)
    assert git.apply_patch(repository.parent / "patch", fresh) is None
    assert (fresh / "clean.py").read_text() == (repository / "clean.py").read_text()
    assert (fresh / "run.yaml").read_text() == f"hub:\n  password: {REDACTED}\nseed: 1\n"
    lines = (fresh / "code.py").read_text().splitlines()
    assert lines[1:5] == [
        f'client(api_key="{REDACTED}")', "token = tokenizer.next()", 'pad_token = "<pad>"', "token = args.token",
    ]  # fmt: skip


def test_tracked_secret_files_and_binaries_with_secrets_stay_out(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "abcdefgh12345")
    for name in (".env", "blob.bin"):
        (repository / name).write_bytes(b"\0")
    git_in(repository, "add", "-A")
    git_in(repository, "commit", "-qm", "second")
    (repository / ".env").write_text("A=1\n")
    (repository / "blob.bin").write_bytes(b"\0abcdefgh12345")
    facts, patch = environment.git_facts(repository)
    assert sorted(facts["diff_missing"]) == [".env (may hold secrets)", "blob.bin (holds secrets)"]
    assert patch == b""


# --- programs and folders that are not asked for --------------------------------------------------


def test_nothing_that_a_repository_names_is_run(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = repository.parent / "ran"
    program = repository.parent / "program"
    program.write_text(f"#!/bin/sh\necho $0 $* >> {trace}\n")
    program.chmod(0o755)
    settings_ = {
        "core.fsmonitor": program, "core.pager": program, "pager.diff": program, "diff.external": program,
        "diff.shown.command": program, "diff.shown.textconv": program, "core.hooksPath": repository / "hooks",
        "alias.status": f"!{program}", "core.sshCommand": program, "core.editor": program,
    }  # fmt: skip
    for name, value in settings_.items():
        git_in(repository, "config", name, str(value))
    (repository / "hooks").mkdir()
    for hook in (
        "post-index-change",
        "post-checkout",
        "reference-transaction",
        "fsmonitor-watchman",
    ):
        (repository / "hooks" / hook).symlink_to(program)
    (repository / ".gitattributes").write_text("*.py diff=shown\n")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(program))
    monkeypatch.setenv("GIT_PAGER", str(program))
    (repository / "code.py").write_text("two = 2\n")
    facts, patch = environment.git_facts(repository)
    assert b"+two = 2" in patch
    assert facts["diff_missing"] == []
    assert not trace.exists()


def test_variables_of_another_repository_do_not_mislead(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git_in(other, "init", "-q")
    git_in(other, "commit", "-qm", "other", "--allow-empty")
    commit = git_in(repository, "rev-parse", "HEAD").decode().strip()
    for name, value in {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / "i",
    }.items():
        monkeypatch.setenv(name, str(value))
    facts, _ = environment.git_facts(repository)
    assert (facts["hash"], facts["repository"]) == (commit, str(repository))


def remove_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(root / "nothing"))


def give_away(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    monkeypatch.setenv("HOME", str(root / "nobody"))
    monkeypatch.delenv("SUDO_UID", raising=False)
    for path in (root, root / ".git"):
        os.chown(path, 12345, 12345)


def forget_commits(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_in(root, "update-ref", "-d", "HEAD")


def forget_repository(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git").rename(root / "git")


def damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git/config").write_text("[core\n")


def slow_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "bin").mkdir()
    (root / "bin/git").write_text("#!/bin/sh\nexec sleep 60\n")
    (root / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(git, "TIMEOUT_S", 0.05)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (remove_git, "git is not installed"),
        (
            give_away,
            "belongs to another user; allow it with git config --global --add safe.directory ",
        ),
        (forget_commits, "the repository has no commit yet"),
        (forget_repository, "is in no git repository"),
        (damage, "git failed: fatal: bad config line 1 in file"),
        (slow_git, "git did not answer within 0.05 s"),
    ],
)
def test_why_a_commit_is_unknown(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
    reason: str,
) -> None:
    spoil(repository, monkeypatch)
    facts, patch = environment.git_facts(repository)
    assert reason in facts["problem"]
    assert (facts["hash"], patch) == (None, b"")


def test_a_removed_folder_is_no_error(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "gone").mkdir()
    monkeypatch.chdir(repository / "gone")
    (repository / "gone").rmdir()
    facts, _ = environment.git_facts(git.working_directory())
    assert "Unable to read current working directory" in facts["problem"]

"""A recorded patch changes plain files of the code that it belongs to, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from spectral_exp.verification.patch import apply_patch, is_inside

NEW = (
    "diff --git a/{name} b/{name}\nnew file mode {mode}\nindex 0000000..e69de29\n"
    "--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with one file and one link."""
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "a.py").write_text("old\n")
    (folder / "link").symlink_to("a.py")
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)
    return folder


def state(folder: Path) -> dict[str, str]:
    """What lies in and beside the checkout, but git's own files."""
    files = [f for f in folder.parent.rglob("*") if f.is_symlink() or f.is_file()]
    return {
        str(f): str(f.readlink()) if f.is_symlink() else f.read_text()
        for f in files
        if ".git/" not in f"{f}"
    }


def test_a_sound_patch_is_applied(tree: Path) -> None:
    (tree / "a.py").write_text("new\n")
    patch = subprocess.run(["git", "-C", str(tree), "diff"], check=True, capture_output=True).stdout
    subprocess.run(["git", "-C", str(tree), "checkout", "-q", "."], check=True)
    patch += NEW.format(name="sub/b.py", mode=100644).encode()
    assert apply_patch(patch, tree, tree.parent / "draft") is None
    assert (tree / "a.py").read_text() == "new\n"
    assert (tree / "sub/b.py").read_text() == "x\n"


LINK = (
    "diff --git a/link b/link\nindex 8baef1b..e69de29 120000\n--- a/link\n+++ b/link\n@@ -1 +1 @@\n"
    "-a.py\n\\ No newline at end of file\n+/etc/passwd\n\\ No newline at end of file\n"
)
HOSTILE = {
    "above": NEW.format(name="../b.py", mode=100644),
    "absolute": NEW.format(name="/tmp/b.py", mode=100644),
    "hook": NEW.format(name=".git/hooks/post-checkout", mode=100755),
    "hook of a folder": NEW.format(name="sub/.GIT/config", mode=100644),
    "symbolic link": NEW.format(name="b", mode=120000),
    "submodule": NEW.format(name="b", mode=160000),
    "into a link": NEW.format(name="link/b.py", mode=100644),
    "target of a link": LINK,
    "file to link": "diff --git a/a.py b/a.py\nold mode 100644\nnew mode 120000\n",
    "rename": (
        "diff --git a/a.py b/../a.py\nsimilarity index 100%\nrename from a.py\nrename to ../a.py\n"
    ),
    "drive": NEW.format(name="C:b.py", mode=100644),
    "backslash": NEW.format(name="sub\\..\\b.py", mode=100644),
    "no patch": "hello\n",
    "binary garbage": "diff --git a/b b/b\nnew file mode 100644\nGIT binary patch\nliteral 99\nx\n",
    "half": NEW.format(name="b", mode=100644)[:-3],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_patch_that_leads_out_is_refused_and_changes_nothing(name: str, tree: Path) -> None:
    before = state(tree)
    draft = tree.parent / "draft"
    assert apply_patch(HOSTILE[name].encode(), tree, draft)
    draft.unlink(missing_ok=True)
    assert state(tree) == before
    assert not (tree / ".git/hooks/post-checkout").exists()


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        *(
            ("a.py", True),
            ("a/b.py", True),
            (".github/x", True),
            ("a.git", True),
            ("", False),
            ("..", False),
        ),
        *(
            ("a/../b", False),
            ("/a", False),
            (".git/x", False),
            ("a/.Git/x", False),
            (".git./x", False),
        ),
        *(("C:x", False), ("a\\b", False), ("a\0b", False), ("GIT~1/x", False)),
    ],
)
def test_names_inside(name: str, inside: bool) -> None:
    assert is_inside(name) is inside

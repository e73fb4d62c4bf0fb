from __future__ import annotations

import functools
import hashlib
import http.server
import os
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_exp.core.errors import SettingError, UserError
from spectral_exp.data import PythonStdlib, Shakespeare, TextFile
from spectral_exp.data.corpus import drop_repeated_passages


@given(text=st.text(min_size=1), val_fraction=st.floats(0.01, 0.99))
def test_split_shares_nothing_and_cuts_no_character(text: str, val_fraction: float) -> None:
    data = text.encode()
    train, val = TextFile("x", val_fraction=val_fraction).split(data).values()
    assert train + val == data
    assert train.decode() + val.decode() == text
    cut = int(len(data) * (1 - val_fraction))
    assert cut - 3 <= len(train) <= cut


@pytest.mark.parametrize("n", [1, 9, 10, 11, 1115394, 123457])
def test_split_of_ascii_is_nanogpts(n: int) -> None:
    train, val = TextFile("x").split(b"a" * n).values()
    assert (len(train), len(val)) == (int(n * 0.9), n - int(n * 0.9))


@given(
    text=st.text(min_size=1),
    val_fraction=st.floats(0.01, 0.5),
    test_fraction=st.floats(0.01, 0.49),
)
def test_a_test_text_leaves_validation_as_it_is(
    text: str, val_fraction: float, test_fraction: float
) -> None:
    data = text.encode()
    without = TextFile("x", val_fraction=val_fraction).split(data)
    parts = TextFile("x", val_fraction=val_fraction, test_fraction=test_fraction).split(data)
    assert parts["val"] == without["val"]
    assert parts["train"] + parts["test"] == without["train"]
    assert parts["train"].decode() + parts["test"].decode() == without["train"].decode()
    assert abs(len(parts["test"]) - test_fraction * len(data)) <= 4


@pytest.mark.parametrize("test_fraction", [-0.1, 0.9, 1, float("nan")])
def test_test_fraction_must_leave_training_text(test_fraction: float) -> None:
    with pytest.raises(SettingError, match=r"test_fraction=.* must be >= 0 and < 0.9"):
        PythonStdlib(test_fraction=test_fraction)


def windows(text: bytes, size: int = 200) -> set[bytes]:
    return {text[i : i + size] for i in range(len(text) - size + 1)}


def test_a_passage_of_an_earlier_file_is_left_out_once() -> None:
    licence = b"".join(b"# line %d of a licence that many files begin with\n" % i for i in range(9))
    own = [
        b"".join(
            b"def function_%d_%d(argument):\n    return argument + %d\n" % (i, j, j)
            for j in range(9)
        )
        for i in range(2)
    ]
    kept = drop_repeated_passages([licence + own[0], own[1] + licence, licence + own[0]])
    assert kept == [licence + own[0], own[1], b""]
    short = [b"x = 1\n" * 3, b"x = 1\n" * 3, b"    return None\n\n\n\n", b"    return None\n\n\n\n"]
    assert drop_repeated_passages(short) == short, "too little to be a copy"


def test_the_library_without_repeats_shares_no_long_window() -> None:
    corpus = PythonStdlib(drop_repeats=True)
    whole = PythonStdlib().read(Path("unused"))
    text = corpus.read(Path("unused"))
    assert 0.9 * len(whole) < len(text) < len(whole)
    text = text[: len(text) // 8]
    parts = TextFile("x").split(text)
    shared = windows(parts["val"]) & windows(parts["train"])
    assert len(shared) <= 0.001 * len(parts["val"])
    assert corpus.stamp(Path("unused")) != PythonStdlib().stamp(Path("unused"))


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_val_fraction_must_leave_both_parts(val_fraction: float) -> None:
    with pytest.raises(SettingError, match=r"val_fraction=.* must be between 0 and 1"):
        PythonStdlib(val_fraction=val_fraction)


def test_a_file_is_read_byte_by_byte(tmp_path: Path) -> None:
    data = "\ufeffa\r\nb\rc\u2028 \x00 äß€😀".encode()
    (tmp_path / "t").write_bytes(data)
    assert TextFile(str(tmp_path / "t")).read(tmp_path) == data


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    files = {
        "b.txt": "B",
        "a/z.txt": "Z\n",
        "a/é.md": "E\n\n",
        ".hidden": "no",
        ".git/x.txt": "no",
        "empty.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "nowhere")
    assert TextFile(str(tmp_path)).read(tmp_path) == b"Z\nE\n\nB\n"
    assert TextFile(str(tmp_path), pattern="*.txt").read(tmp_path) == b"Z\nB\n"


def test_the_stamp_changes_with_the_text_and_only_with_it(tmp_path: Path) -> None:
    file = tmp_path / "t"
    file.write_text("one")
    corpus = TextFile(str(file))
    before = corpus.stamp(tmp_path)
    assert corpus.stamp(tmp_path) == before
    replacement = tmp_path / "r"
    replacement.write_text("two")
    os.utime(
        replacement, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns)
    )  # same size, same time
    replacement.replace(file)
    assert corpus.stamp(tmp_path) != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"path=.*missing must be an existing file or folder; looked for /"),
        ("empty", r"path=.*empty must be a text that is not empty"),
        ("pipe", r"path=.*pipe must be a regular file or a folder"),
        ("empty_folder", r"path=.*empty_folder must be a folder with files named '\*'"),
        (
            "latin1",
            r"latin1 must be UTF-8 text, but the byte 0xe9 at offset 7 is not .*; convert it",
        ),
        ("mixed", r"mixed/b must be UTF-8 text, but the byte 0xff at offset 0 "),
        ("", r"path='' must be the name of a text file or folder"),
    ],
)
def test_unusable_text_is_reported_in_one_line(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "latin1").write_bytes("0123 \u20ac".encode()[:5] + b"ab\xe9cd")
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a").write_text("fine")
    (tmp_path / "mixed" / "b").write_bytes(b"\xff\xfea\x00")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingError, match=message) as caught:
        TextFile(str(tmp_path / name) if name else "").read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/environ").is_file(), reason="there is no /proc")
def test_files_of_the_kernel_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self/environ")
    for path in ("/proc/self/environ", str(tmp_path / "link")):
        with pytest.raises(
            SettingError, match="must be a text, not a part of the system's own files"
        ):
            TextFile(path).read(tmp_path)


def test_the_standard_library_is_real_source_without_tests_and_generated_files(
    tmp_path: Path,
) -> None:
    corpus = PythonStdlib()
    text = corpus.read(tmp_path)
    assert text == PythonStdlib().read(tmp_path)
    assert 4_000_000 < len(text) < 40_000_000
    root = Path(sysconfig.get_path("stdlib"))
    whole = text.decode("utf-8")
    for name in ("argparse.py", "json/decoder.py"):
        assert (root / name).read_text("utf-8") in whole
    for name in ("token.py", "keyword.py", "pydoc_data/topics.py", "encodings/cp1252.py"):
        assert (root / name).read_text("utf-8") not in whole
    folders = {
        folder
        for name in corpus.stamp(tmp_path)
        if isinstance(name, str)
        for folder in Path(name).parts
    }
    inside = folders - set(root.parts)
    assert (
        not {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"} & inside
    )


def library(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode("latin1"))
    return root


def test_library_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "kept.py": "kept = 1",
        "package/also.py": "# source generated by hand\n",
        "package/copy.py": "kept = 1",
        "package/empty.py": "",
        "package/latin.py": "# \xe9\n",
        "package/note.txt": "text",
        "package/tests/case.py": "test",
        "test/case.py": "test",
        "site-packages/other.py": "other",
        "made.py": "# This file is generated by a script.\n",
        "encodings/cp1.py": '""" Codec cp1 generated from \'X\' with gencodec.py."""\n',
        "_sysconfigdata_x.py": "build = {}",
        "config-3.11-x/python-config.py": "x = 1",
    }
    root = library(tmp_path / "lib", files)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(root))
    names = sorted(
        ["kept.py", "package/also.py", "package/copy.py"],
        key=lambda n: hashlib.sha256(n.encode()).digest(),
    )
    first_copy = next(name for name in names if name != "package/also.py")
    expected = "".join(
        files[n].rstrip("\n") + "\n" for n in names if n in (first_copy, "package/also.py")
    )
    assert PythonStdlib().read(tmp_path).decode() == expected


@pytest.mark.parametrize("kind", ["missing", "stripped", "zip"])
def test_an_interpreter_without_sources_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "stripped").mkdir()
    (tmp_path / "stripped" / "os.pyc").write_bytes(b"\0")
    (tmp_path / "zip").write_bytes(b"PK")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / kind))
    corpus = PythonStdlib()
    assert corpus.stamp(tmp_path)
    with pytest.raises(
        UserError, match=r"came without the sources .* data=text_file data.path=FILE"
    ):
        corpus.read(tmp_path)


PLAY = ("First Citizen:\nBefore we proceed any further, hear me speak.\n" * 50).encode()


class Play(Shakespeare):
    """The same corpus with a text short enough to stand here."""

    sha256 = hashlib.sha256(PLAY).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, with the folder it serves."""
    monkeypatch.setenv("no_proxy", "*")
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any, **kwargs: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    ) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/input.txt", folder
        running.shutdown()
        thread.join()


def test_shakespeare_is_downloaded_once(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    (folder / "input.txt").write_bytes(PLAY)
    assert Play(url=url).read(tmp_path) == PLAY
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["tinyshakespeare.txt"]
    (folder / "input.txt").unlink()
    assert Play(url=url).read(tmp_path) == PLAY


def test_a_torn_download_is_fetched_again(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    (folder / "input.txt").write_bytes(PLAY)
    Play(url=url).read(tmp_path)
    os.truncate(tmp_path / "downloads" / "tinyshakespeare.txt", 100)
    assert Play(url=url).read(tmp_path) == PLAY


def test_a_wrong_download_is_refused(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    (folder / "input.txt").write_bytes(PLAY[:-1] + b"!")
    with pytest.raises(
        UserError,
        match=rf"sent {len(PLAY)} bytes with sha256 [0-9a-f]{{64}}, not the expected file",
    ):
        Play(url=url).read(tmp_path)
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("reason", ["404", "refused", "no file", "not a url"])
def test_without_the_server_the_error_names_the_place_of_the_file(
    server: tuple[str, Path], tmp_path: Path, reason: str
) -> None:
    url = {
        "404": server[0],
        "refused": "http://127.0.0.1:9/input.txt",
        "no file": (tmp_path / "nowhere").as_uri(),
        "not a url": "input.txt",
    }[reason]
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        Play(url=url, timeout_s=5).read(tmp_path)
    place = tmp_path / "downloads" / "tinyshakespeare.txt"
    assert f"copy it to {place} (sha256 {Play.sha256})" in str(caught.value)
    place.parent.mkdir()
    place.write_bytes(PLAY)
    assert Play(url=url).read(tmp_path) == PLAY


def test_shakespeare_is_the_known_text() -> None:
    assert Shakespeare.sha256 == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    with pytest.raises(SettingError, match=r"timeout_s=0 must be > 0"):
        Shakespeare(timeout_s=0)

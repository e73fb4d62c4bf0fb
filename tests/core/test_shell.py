"""Words of printed commands, read back by a real shell."""

from __future__ import annotations

import os
import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.shell import shell_command, shell_word

NAMES = st.lists(
    st.binary(max_size=12).filter(lambda name: b"\0" not in name), min_size=1, max_size=40
)


@settings(max_examples=25, deadline=None)
@given(NAMES)
def test_a_shell_reads_every_file_name_back(names: list[bytes]) -> None:
    command = shell_command(["printf", "%s\\0", *map(os.fsdecode, names)])
    assert command.isprintable()
    printed = subprocess.run(["bash", "-c", command], capture_output=True, check=True).stdout
    assert printed == b"".join(name + b"\0" for name in names)


def test_plain_words_stay_as_they_are() -> None:
    assert shell_word("outputs/wave_1") == "outputs/wave_1"
    assert shell_word("it's") == """'it'"'"'s'"""
    assert shell_word(os.fsdecode(b"r\xff'a\\\n")) == r"$'r\xff\'a\\\x0a'"

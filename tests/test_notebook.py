"""The cells of the example notebooks run in order and print the stored outputs."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from typing import Any

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "examples"


def run_cell(source: str, namespace: dict[str, Any]) -> str:
    """Run a cell and return its output and, if its last line is an expression, the value."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "notebook", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "notebook", "eval"), namespace)
            if value is not None:
                print(repr(value))
    return printed.getvalue()


def stored_text(cell: dict[str, Any]) -> str:
    """Return the text that the notebook shows below a cell."""
    texts = []
    for output in cell["outputs"]:
        assert output["output_type"] in {"stream", "execute_result", "display_data"}, output
        if output["output_type"] == "stream":
            assert output["name"] == "stdout"
            texts.append("".join(output["text"]))
        elif output["output_type"] == "execute_result":
            texts.append("".join(output["data"]["text/plain"]) + "\n")
    return "".join(texts)


@pytest.mark.parametrize(
    "name", ["own_loop.ipynb", pytest.param("runs.ipynb", marks=pytest.mark.slow)]
)
def test_the_cells_print_the_recorded_outputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(ROOT)
    plt.switch_backend("agg")
    content = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells, start=1):
        assert cell["execution_count"] == number, "run the whole notebook, then save it"
        assert run_cell("".join(cell["source"]), namespace) == stored_text(cell)
        figures = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert len(plt.get_fignums()) == len(figures)
        plt.close("all")

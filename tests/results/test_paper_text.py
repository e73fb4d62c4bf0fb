"""The parts of papers: formulas, prose, notes, numbering, and special characters in each format."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectral_exp.core.errors import UserError
from spectral_exp.results.document import formulas
from spectral_exp.results.document.bibliography import WORKS, bibtex
from spectral_exp.results.document.html import html
from spectral_exp.results.document.latex import escape_latex, latex
from spectral_exp.results.document.markdown import markdown
from spectral_exp.results.document.model import (
    Appendix,
    Cite,
    Code,
    Document,
    Emphasis,
    Equation,
    Heading,
    Listing,
    Math,
    Number,
    Paragraph,
    Ref,
    References,
    Source,
    Strong,
    Table,
    Verbatim,
    plain_text,
)
from spectral_exp.results.document.numbering import number_document, number_entries
from spectral_exp.results.document.prose import blocks, prose
from spectral_exp.results.document.trace import spans
from spectral_exp.results.document.typst import typst_source
from spectral_exp.results.paper.notes import sections

AWKWARD = r"""\ { } $ & # _ % ~ ^ < > | " ' ` * [ ] @ = + - / // . 1. )( ;"""


def document(*body: object, words: str = "words") -> Document:
    return Document("A title", ("An Author",), (Paragraph((words,)),), body)  # type: ignore[arg-type]


def number(shown: str = "2.5", value: float = 2.5) -> Number:
    return Number(shown, value, Source("val_bpb", ("run",), "final"))


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tex", "typst"),
    [
        (r"\frac{a}{b}", "frac(a, b)"),
        (r"x_{ij}^2", "x_(i j)^(2)"),
        (r"\mathrm{LN}(x)", r'upright("LN")\( x \)'),
        (r"\operatorname{softmax}_j", 'op("softmax")_(j)'),
        (r"A'_{w}", "A'_(w)"),
        (r"\left(\sqrt{\hat{v}}\right)", r"lr(\( sqrt(hat(v)) \))"),
    ],
)
def test_latex_becomes_typst(tex: str, typst: str) -> None:
    assert formulas.to_typst(tex) == typst


@pytest.mark.parametrize(
    ("tex", "message"),
    [
        (r"\alhpa", r"\\alhpa, which is not known; did you mean alpha\?"),
        (r"\frac{a", "open brace"),
        (r"a}", "closing brace too many"),
        (r"x_", "ends too early"),
        (r"\mathrm LN", "braces around a word"),
    ],
)
def test_a_formula_that_is_not_understood_is_an_error(tex: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        formulas.to_typst(tex)


def test_all_commands_compile_in_typst_and_mathml() -> None:
    typst = pytest.importorskip("typst")
    converter = pytest.importorskip("latex2mathml.converter")
    arguments = {"frac": "{a}{b}", "left": "( x \\right)", "right": None}
    whole = []
    for name in formulas.commands():
        one_argument = name in formulas._WRAPPERS or name in formulas._WORDS
        after = arguments.get(name, "{a}" if one_argument else " ")
        opening = {"lvert": "rvert", "lVert": "rVert"}
        if after is None or name in opening.values():
            continue
        whole.append(f"\\{name}{after}" + (f"x \\{opening[name]}" if name in opening else ""))
    tex = " ".join(whole)
    typst.compile(f"${formulas.to_typst(tex)}$".encode(), format="pdf", ignore_system_fonts=True)
    mathml = converter.convert(tex)
    assert "\\" not in re.sub("&#x0005C;", "\\\\", mathml).replace("&", ""), (
        "a command that MathML does not know"
    )


# --- prose and notes ------------------------------------------------------------------------------


def test_prose_becomes_its_pieces_and_placeholders_become_values() -> None:
    value = number()
    text = prose("A `b` *c* **d {{x}}** $e_{f}$ [@holm1979; @su2021] [#tab:a].", x=value)
    assert text == (
        "A ",
        Code("b"),
        " ",
        Emphasis(("c",)),
        " ",
        Strong(("d ", value)),
        " ",
        Math("e_{f}"),
        " ",
        Cite(("holm1979", "su2021")),
        " ",
        Ref("tab:a"),
        ".",
    )


def test_a_placeholder_without_a_value_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(
        UserError, match=r"\{\{mean clasic\}\} names no measured value; did you mean mean classic\?"
    ):
        blocks("The mean is {{mean clasic}}.", {"mean classic": number(), "n classic": number()})


def test_an_equation_with_a_key_has_a_number() -> None:
    assert blocks("$$ a\n= b $$ {#eq:own}", {}) == (Equation("a = b", "eq:own"),)


def test_snake_case_and_lone_stars_are_no_emphasis() -> None:
    assert prose("wave_rgd_qfe, 2 * 3 * 4 and a*b*c") == ("wave_rgd_qfe, 2 * 3 * 4 and a*b*c",)


def test_blocks_of_notes() -> None:
    found = blocks(
        "One\nline.\n\n- first\n  goes on\n- second\n\n### Head\n```\ncode_x\n```\n$$ a = b $$", {}
    )
    assert found == (
        Paragraph(("One line.",)),
        Listing((("first goes on",), ("second",))),
        Heading("Head", 2),
        Verbatim("code_x"),
        Paragraph((Math("a = b", display=True),)),
    )


@pytest.mark.parametrize("text", ["| a | b |", "![x](y.png)", "<div>", "```\nopen", "$$ open"])
def test_unsupported_syntax_in_notes_is_an_error(text: str) -> None:
    with pytest.raises(UserError):
        blocks(text, {})


def test_notes_by_place() -> None:
    source_ = "\n## Introduction\nText.\n```\n## not a heading\n```\n## related  work\nMore."
    assert sections(source_) == {
        "introduction": "Text.\n```\n## not a heading\n```",
        "related work": "More.",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "## dicussion\nx",
            (
                "line 1 of the notes: '## dicussion' names no place of the paper; did you mean"
                " discussion"
            ),
        ),
        ("x\n## discussion", "line 1 of the notes stands before the first"),
        ("## method\n## method", "is there already"),
    ],
)
def test_mistakes_in_notes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sections(text)


# --- numbering ------------------------------------------------------------------------------------


def test_everything_gets_its_number_and_numbers_their_places() -> None:
    table = Table("tab:a", ("c",), (("name",), ("mean",)), (((Code("wave"),), (number(),)),), "lr")
    body = (
        Heading("One"),
        Heading("Sub", 2),
        table,
        Equation("a", "eq:a"),
        Appendix(),
        Heading("Last"),
    )
    found, entries = number_entries(document(*body, Paragraph((number("7", 7),))))
    assert number_document(found).labels == {"tab:a": "Table 1", "eq:a": "Equation 1"}
    assert list(number_document(found).sections.values()) == ["1", "1.1", "A"]
    assert [(entry.number.id, entry.where) for entry in entries] == [
        ("n1", "Table 1, wave: mean"),
        ("n2", "Section A (Last)"),
    ]


def test_a_reference_to_nothing_and_a_key_used_twice_are_found() -> None:
    with pytest.raises(UserError, match=r"\[#tab:none\] refers to nothing"):
        number_document(document(Paragraph((Ref("tab:none"),))))
    with pytest.raises(UserError, match="key eq:a is used twice"):
        number_document(document(Equation("a", "eq:a"), Equation("b", "eq:a")))


@settings(max_examples=30)
@given(st.sets(st.integers(1, 60)))
def test_spans_name_exactly_the_numbers(numbers: set[int]) -> None:
    listed: set[int] = set()
    for part in filter(None, spans(numbers).split(", ")):
        first, _, last = part.partition("\u2013")
        listed |= set(range(int(first), int(last or first) + 1))
    assert listed == numbers


# --- formats --------------------------------------------------------------------------------------


def awkward() -> Document:
    text = (AWKWARD, Code(AWKWARD), Strong((AWKWARD,)), Math("a_{b} < c"), Cite(("holm1979",)))
    table = Table("tab:a", text, ((AWKWARD,), ("n",)), ((text, (number(),)),), "lr", notes=(text,))
    body = (
        Heading(AWKWARD),
        Paragraph(text),
        Listing((text,)),
        Verbatim(AWKWARD),
        table,
        References(),
    )
    return number_entries(document(*body, words=AWKWARD))[0]


def test_html_is_well_formed_whatever_the_words_are() -> None:
    pytest.importorskip("latex2mathml")
    page = html(awkward(), {})
    body = page[page.index("<body>") : page.index("</html>")].replace(
        "class=aside", 'class="aside"'
    )
    words = "".join(ET.fromstring(body).itertext())
    assert words.count(AWKWARD) == 19
    assert "<script" not in page


def test_latex_is_balanced_whatever_the_words_are() -> None:
    check_latex(latex(awkward()))


def test_typst_compiles_whatever_the_words_are() -> None:
    typst = pytest.importorskip("typst")
    main = typst_source(awkward(), {})
    pages = typst.compile(main.encode(), format="pdf", ignore_system_fonts=True)
    assert pages.startswith(b"%PDF")


def test_markdown_escapes_markup_characters() -> None:
    page = markdown(document(Paragraph(("a_b_c *d* [e](f) <g> | $h$",))))
    assert r"a\_b\_c \*d\* \[e\](f) \<g\> \| \$h\$" in page


@settings(max_examples=50)
@given(st.text())
def test_no_text_reaches_latex_as_a_command(text: str) -> None:
    rest = re.sub(
        r"\\text[a-z]+\{\}|\\ldots\{\}|\\[{}$&#_%,]|\$\\?[a-zA-Z-]+\$", "", escape_latex(text)
    )
    assert not set(rest) & set("\\{}$&#_%^"), rest


def test_the_bibliography_is_plain_ascii_and_balanced() -> None:
    text = bibtex(tuple(WORKS))
    assert text.isascii()
    assert text.count("{") == text.count("}")
    assert text.count("\n@") + 1 == len(WORKS)


def test_plain_words_of_a_text() -> None:
    assert plain_text(("a", Code("b"), Strong((number("1"),)), Math("x"))) == "ab1x"


def check_latex(text: str) -> None:
    """Fail on text that LaTeX cannot typeset: unbalanced braces or environments, special characters
    outside formulas."""
    body = text[text.index(r"\begin{document}") :]
    body = re.sub(r"\\begin\{verbatim\}.*?\\end\{verbatim\}", "", body, flags=re.DOTALL)
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert not stack
    bare = re.sub(r"\\[\\{}$&#_%^~]", "", body)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    for environment in ("equation",):
        bare = re.sub(
            rf"\\begin{{{environment}}}.*?\\end{{{environment}}}", "", bare, flags=re.DOTALL
        )
    bare = re.sub(r"\$[^$]*\$|\\\[.*?\\\]", "", bare, flags=re.DOTALL)
    bare = re.sub(r"\\(?:label|ref|includegraphics|cite|href)(?:\[[^]]*\])?\{[^}]*\}", "", bare)
    assert not re.search(r"[_^#]", bare), re.search(r".{40}[_^#].{20}", bare)

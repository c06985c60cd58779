"""The documents say what is: links resolve, commands and targets exist, nothing names a machine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples", "benchmarks", "results", "edge_vit", "tests", ".ci")
KINDS = {".md", ".py", ".toml", ".txt", ".yaml", ".html", ".json", ".csv"}
TEXTS = [
    path
    for path in [*ROOT.glob("*"), *(p for name in FOLDERS for p in (ROOT / name).rglob("*"))]
    if path.is_file() and (path.suffix in KINDS or path.name in {"Makefile", "run", "LICENSE"})
]
DOCUMENTS = [path for path in TEXTS if path.suffix == ".md"]
every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=[path.relative_to(ROOT).as_posix() for path in DOCUMENTS]
)

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# The brackets keep this file from finding itself.
_LEAK = re.compile(
    r"/(?:[r]oot|[w]ork|[h]ome|[U]sers)/|index[-]url|//[^ \"]*/[s]imple|pypi[.]org|python[h]osted"
)


def code_lines(text: str) -> list[str]:
    """Return the command lines of `text`: fenced ones, joined over ``\\``, and code spans."""
    fenced = "\n".join(_FENCE.findall(text)).replace("\\\n", " ").splitlines()
    return [
        line.strip().removeprefix("$ ") for line in [*fenced, *_SPAN.findall(_FENCE.sub("", text))]
    ]


def commands(text: str, program: str) -> list[list[str]]:
    """Return the arguments of every call of `program` in `text`, comments and pipes cut off."""
    lines = [line for line in code_lines(text) if line.split(" ")[0] == program]
    words = [shlex.split(re.split(r" (?:\||&&|>) ", line)[0], comments=True)[1:] for line in lines]
    return [arguments for arguments in words if arguments]


def slug(heading: str) -> str:
    """Return the anchor of a heading as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(path: Path) -> list[str]:
    """Return the relative links of the document at `path` that lead nowhere."""
    broken = []
    for link in _LINK.findall(_FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists():
            broken.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", target.read_text()), re.MULTILINE)
            broken += [] if anchor in map(slug, headings) else [link]
    return broken


def check_command(arguments: list[str]) -> None:
    """Parse `arguments` as ``edgevit`` would, without running anything or looking for files.

    Raises:
        click.UsageError: there is no such command or option, or a value is not one of the choices.
    """
    import edge_vit.cli

    (group,) = (value for value in vars(edge_vit.cli).values() if isinstance(value, click.Group))
    context = click.Context(group, info_name="edgevit", **group.context_settings)
    while isinstance(group, click.Group):
        rest = _parse(group, context, arguments)
        if not rest:
            return
        name, command, arguments = group.resolve_command(context, rest)
        assert command is not None
        context = click.Context(command, info_name=name, parent=context)
        group = command
    _parse(group, context, arguments)


def _parse(command: click.Command, context: click.Context, arguments: list[str]) -> list[str]:
    """Return what is left of `arguments` for a subcommand."""
    options, rest, _ = command.make_parser(context).parse_args(list(arguments))
    for parameter in command.get_params(context):
        value = options.get(parameter.name)
        if isinstance(value, str) and not isinstance(parameter.type, click.Path | click.File):
            parameter.type.convert(value, parameter, context)
    if rest and not isinstance(command, click.Group):
        raise click.UsageError(f"{context.command_path}: unexpected {' '.join(rest)}")
    return rest


def make_targets() -> set[str]:
    """Return the targets of the Makefile that are there to be typed."""
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_documents_are_there():
    names = {path.relative_to(ROOT).as_posix() for path in DOCUMENTS}
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/design.md"} <= names


@pytest.mark.parametrize(
    "path", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=lambda path: path.stem
)
def test_files_that_are_named_exist(path):
    named = re.findall(
        r"`((?:edge_vit|tests|benchmarks|examples|docs)/[\w./-]+)`", path.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@every_document
def test_relative_links_resolve(path):
    assert not broken_links(path)


@every_document
def test_commands_and_their_options_exist(path):
    wrong = []
    for arguments in commands(path.read_text(), "edgevit"):
        try:
            check_command(arguments)
        except click.UsageError as error:
            wrong.append(f"edgevit {' '.join(arguments)}: {error.message}")
    assert not wrong


@every_document
def test_make_targets_exist(path):
    named = {
        word
        for arguments in commands(path.read_text(), "make")
        for word in arguments
        if re.fullmatch(r"[a-z][a-z0-9-]*", word)
    }
    assert named <= make_targets()


def test_readme_shows_commands():
    assert len(commands((ROOT / "README.md").read_text(), "edgevit")) >= 5


def test_every_target_says_what_it_is_for():
    text = (ROOT / "Makefile").read_text()
    described = set(re.findall(r"^([a-z][a-z0-9-]*):.*## \S", text, re.MULTILINE))
    assert described == make_targets()
    assert set(re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)[0].split()) == described


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    assert not [path.name for path in folder.glob("[0-9]*.md") if f"({path.name})" not in index]


def test_names_no_machine_and_no_registry():
    assert not [
        f"{path.relative_to(ROOT)}: {line}"
        for path in TEXTS
        for line in path.read_text().splitlines()
        if _LEAK.search(line)
    ]


@pytest.mark.parametrize(
    "line",
    [
        "edgevit deploy timm:vit_tiny_patch16_224 -o vit.edgevit",
        "edgevit run cats.edgevit cat.jpg --tpo 5",
        "edgevit run cats.edgevit cat.jpg --top five",
        "edgevit run cats.edgevit cat.jpg --precision int4",
    ],
    ids=["command", "option", "number", "choice"],
)
def test_a_wrong_command_would_be_noticed(line):
    ((arguments),) = commands(f"```\n{line}\n```\n", "edgevit")
    with pytest.raises(click.UsageError):
        check_command(arguments)


@pytest.mark.parametrize("link", ["missing.md", "README.md#no-such-heading"])
def test_a_broken_link_would_be_noticed(tmp_path, link):
    (tmp_path / "README.md").write_text(f"# Title\n\n[text]({link}) [good](README.md#title)\n")
    assert broken_links(tmp_path / "README.md") == [link]


@pytest.mark.parametrize(
    "parts",
    [("", "root", "data"), ("https:", "", "example.org", "simple")],
    ids=["path", "registry"],
)
def test_a_leak_would_be_noticed(parts):
    assert _LEAK.search("/".join(parts))

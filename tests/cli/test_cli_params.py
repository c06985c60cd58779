"""Options written as help shows them, and values that a function reads."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from edge_vit.cli.params import POSITIVE, Names, Parsed, numbers, option
from edge_vit.errors import SpecError
from edge_vit.runtime.backends import BACKENDS


def seen(decorate, *arguments):
    """What a command with the option is called with, or what it prints instead."""
    values = {}
    command = click.command("c")(decorate(lambda **given: values.update(given)))
    result = CliRunner().invoke(command, arguments)
    return values if result.exit_code == 0 and values else result.output


@pytest.mark.parametrize(
    ("decorate", "arguments", "expected"),
    [
        (option("-o, --output FILE", "Where."), ["-o", "a"], {"output": "a"}),
        (option("--size N|H,W", "Size.", name="sides"), ["--size", "3,4"], {"sides": "3,4"}),
        (option("--batch-size, --batch N", "How many.", POSITIVE, 2), [], {"batch_size": 2}),
        (option("--force", "Replace it."), ["--force"], {"force": True}),
        (option("--force", "Replace it."), [], {"force": False}),
        (option("--keep/--drop", "Keep it.", default=True), ["--drop"], {"keep": False}),
        (option("--how", "How.", ("fast", "exact"), "fast"), ["--how", "exact"], {"how": "exact"}),
        (option("--of N", "Some.", multiple=True), ["--of", "1", "--of", "2"], {"of": (1, 2)}),
    ],
)
def test_an_option_is_what_its_form_says(decorate, arguments, expected):
    assert seen(decorate, *arguments) == expected


def test_help_shows_the_form_and_the_default_but_not_that_of_a_pair():
    assert "-n, --count N  How many.  [default: 3; x>=1]" in seen(
        option("-n, --count N", "How many.", POSITIVE, 3), "--help"
    )
    assert "default" not in seen(option("--keep/--drop", "Keep it.", default=True), "--help")


def even(text):
    if int(text) % 2:
        raise SpecError(f"{text} is odd")
    return int(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", {"n": 4}),
        ("3", "Invalid value for '--n': 3 is odd"),
        ("four", "Invalid value for '--n': 'four' is not of the form EVEN"),
    ],
)
def test_a_value_is_read_by_its_function_or_refused_in_its_words(text, expected):
    found = seen(option("--n EVEN", "Even.", Parsed("EVEN", even)), "--n", text)
    assert found == expected or expected in found


@pytest.mark.parametrize("text", ["1", "1,2,3", "1,x", ""])
def test_numbers_are_as_many_as_were_asked_for(text):
    found = seen(option("--of H,W", "Sides.", numbers("H,W", int, (2,))), "--of", text)
    assert "is not of the form H,W" in found


@pytest.mark.parametrize(
    ("form", "text", "wanted"),
    [("--memory MIB", "0", "x>=1"), ("--most MS", "-1", "x>=0"), ("--lr RATE", "0", "x>0")],
)
def test_a_number_is_held_to_what_its_placeholder_stands_for(form, text, wanted):
    assert f"is not in the range {wanted}" in seen(option(form, "How much."), form.split()[0], text)


@pytest.mark.parametrize(
    ("begun", "names"),
    [("", ["auto", "ort", "openvino", "trt", "rtx"]), ("o", ["ort", "openvino"]), ("x", [])],
)
def test_a_shell_completes_the_names_of_a_registry(begun, names):
    command = click.Command("c", params=[click.Option(["--of"], type=Names(BACKENDS, "auto"))])
    found = ShellComplete(command, {}, "c", "_C_COMPLETE").get_completions(["--of"], begun)
    assert [each.value for each in found] == names

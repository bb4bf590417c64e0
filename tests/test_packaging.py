"""The tested versions lie in the ranges that the package allows, and each line says why."""

import tomllib

from notebook_files import ROOT
from packaging.requirements import Requirement

PINS = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_each_pin_is_exact_and_says_why_and_the_project_comes_last() -> None:
    assert PINS[-1] == "-e ."
    for line in PINS[1:-1]:
        text, _, reason = line.partition("#")
        assert [specifier.operator for specifier in Requirement(text.strip()).specifier] == ["=="]
        assert len(reason.strip()) > 10, f"{line} does not say why"


def test_every_range_holds_the_tested_version() -> None:
    pinned = {}
    for line in PINS[1:-1]:
        requirement = Requirement(line.partition("#")[0].strip())
        pinned[requirement.name] = next(iter(requirement.specifier)).version
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["course"], *extras["test"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name]), text


def test_what_the_wheel_takes_along_is_in_the_repository() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    taken = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, place in taken.items():
        assert (ROOT / source).exists(), f"{source} is not there, so nothing can be installed"
        assert place == f"gptlib/{source}"

"""The doctor finds what is wrong with a machine, which the tests only pretend is wrong."""

import importlib.metadata
import json
import re
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from gptlib.extras import datasets, device, doctor
from gptlib.extras.doctor import Finding, examine, report, short_report

TOPICS = ["python", "packages", "kernel", "data", "device", "disk", "memory"]


def of(topic: str) -> list[Finding]:
    return [finding for finding in examine() if finding.topic == topic]


def the(topic: str, status: str) -> Finding:
    """The only finding of a topic with a status."""
    found = [finding for finding in of(topic) if finding.status == status]
    assert len(found) == 1, found
    return found[0]


def test_every_topic_is_examined_in_order() -> None:
    findings = examine()
    assert list(dict.fromkeys(finding.topic for finding in findings)) == TOPICS
    with pytest.raises(FrozenInstanceError):
        findings[0].what = ""  # type: ignore[misc]


def test_whatever_is_not_ok_comes_with_a_remedy_and_what_is_ok_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPTLIB_DEVICE", "abacus")
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", str(tmp_path / "none"))
    findings = examine()
    assert {finding.status for finding in findings} == {"ok", "note", "problem"}
    for finding in findings:
        assert bool(finding.remedy) == (finding.status != "ok"), finding


def test_nothing_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, socket_disabled: None
) -> None:
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", "http://127.0.0.1:9")
    examine()
    assert not list(tmp_path.iterdir())


# Each topic, well and ill


def test_this_python_is_named() -> None:
    assert sys.executable in the("python", "ok").what


def test_a_python_that_is_too_old_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 1, "final", 0))
    finding = the("python", "problem")
    assert finding.what.startswith("3.8.1 at ")
    assert "the course needs >=3.11" in finding.what
    assert "install Python >=3.11" in finding.remedy


def test_an_uninstalled_gptlib_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", missing)
    assert "gptlib is not installed" in the("python", "note").what


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Pretend that requirements.txt says something else."""
    monkeypatch.setattr(doctor, "_COURSE", tmp_path)

    def write(text: str) -> None:
        (tmp_path / "requirements.txt").write_text(text)

    return write


def test_packages_as_tested_are_counted(wanted: Callable[[str], None]) -> None:
    installed = importlib.metadata.version("pooch")
    wanted(
        f"# comment\n\npooch=={installed}  # downloads\npsutil>=1 --hash=sha256:00\n"
        "nothing==1; python_version < '3'\n--extra-index-url https://example.org\n-e .\n"
    )
    assert [finding.what for finding in of("packages")] == ["2 packages as in requirements.txt"]


def test_a_build_tag_of_torch_is_no_difference(
    wanted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.13.0+cpu")
    wanted("torch==2.13.0")
    assert the("packages", "ok").what == "1 package as in requirements.txt"


def test_a_missing_package_is_a_problem(wanted: Callable[[str], None]) -> None:
    wanted("no-such-package-of-ours==1.0\n")
    finding = the("packages", "problem")
    assert finding.what == "no-such-package-of-ours is not installed"
    assert "pip install -r requirements.txt" in finding.remedy


def test_another_version_than_the_tested_one_is_noted(wanted: Callable[[str], None]) -> None:
    wanted("pooch==0.1\n")
    finding = the("packages", "note")
    assert finding.what == f"pooch is {importlib.metadata.version('pooch')}, tested with ==0.1"
    assert 'pip install "pooch==0.1"' in finding.remedy


def test_outside_a_checkout_the_ranges_of_the_package_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_COURSE", tmp_path)
    asked = ["pooch>=99; extra == 'course'", "psutil>=1", "absent>1; extra == 'test'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    assert "tested with >=99" in the("packages", "note").what
    assert the("packages", "ok").what == "1 package as in what gptlib asks for"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Install a kernel 'python3' that starts a given program, before all others."""

    def install(program: str) -> None:
        folder = tmp_path / "kernels" / "python3"
        folder.mkdir(parents=True)
        content = {"argv": [program, "-m", "ipykernel"], "display_name": "P", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(content))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
        monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))

    return install


@pytest.mark.parametrize("program", [sys.executable, "python"])
def test_a_kernel_of_this_environment_is_ok(kernel: Callable[[str], None], program: str) -> None:
    kernel(program)
    assert the("kernel", "ok").what == "kernel 'python3' runs in this environment"


def test_a_kernel_of_another_environment_is_a_problem(
    kernel: Callable[[str], None], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "bin" / "python"
    other.parent.mkdir(parents=True)
    other.touch()
    kernel(str(other))
    finding = the("kernel", "problem")
    assert f"starts {other}, not the Python of this environment" in finding.what
    assert "python -m ipykernel install --sys-prefix --name python3" in finding.remedy


def test_a_kernel_whose_python_is_gone_is_a_problem(
    kernel: Callable[[str], None], tmp_path: Path
) -> None:
    kernel(str(tmp_path / "gone" / "python"))
    assert "which is not there" in the("kernel", "problem").what


def test_a_missing_kernel_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def missing(self: object, name: str) -> None:
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", missing)
    assert "no notebook can run" in the("kernel", "problem").what


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("GPTLIB_DATA", str(tmp_path))
    monkeypatch.delenv("GPTLIB_DATA_MIRROR", raising=False)
    return tmp_path


NEEDED = [record for record in datasets.DATA_SETS.values() if record.in_chapters]


def test_files_to_be_fetched_are_noted_with_their_sizes(data: Path) -> None:
    notes = [finding for finding in of("data") if finding.status == "note"]
    assert [finding.remedy.split(": ")[1].split(" are")[0] for finding in notes] == [
        f"{record.size / 1e6:.1f} MB of {record.file}" for record in NEEDED
    ]
    assert notes[0].remedy.startswith("nothing, if you are online: 3.4 MB of war-and-peace.txt")


def test_a_wrong_data_file_is_a_problem_and_stays(data: Path) -> None:
    (data / "SMSSpamCollection").write_text("mine")
    finding = the("data", "problem")
    assert "SMSSpamCollection is not the expected file" in finding.what
    assert "rename SMSSpamCollection" in finding.remedy
    assert (data / "SMSSpamCollection").read_text() == "mine"


@pytest.mark.parametrize(("state", "what"), [("ready", "is here"), ("mirror", "is in the mirror")])
def test_data_at_hand_is_ok(
    data: Path, monkeypatch: pytest.MonkeyPatch, state: str, what: str
) -> None:
    monkeypatch.setattr(datasets, "state", lambda name: state)
    said = [finding.what for finding in of("data") if finding.status == "ok"]
    assert f"SMSSpamCollection {what}, sha256 right" in said
    assert len(said) == len(doctor.BUNDLED) + len(NEEDED)


def test_a_missing_file_of_the_course_is_a_problem(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "BUNDLED", {"absent.txt": ""})
    assert the("data", "problem").what.startswith("absent.txt, which travels with the course")


def test_a_damaged_file_of_the_course_is_a_problem(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "BUNDLED", {"gpt2.tiktoken": "0" * 64})
    finding = the("data", "problem")
    assert "gpt2.tiktoken is damaged" in finding.what
    assert finding.remedy == "restore gpt2.tiktoken: git checkout data"


def test_a_mirror_that_is_not_there_is_noted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", "/no/such/folder")
    assert any("'/no/such/folder', which is no folder" in finding.what for finding in of("data"))


def test_a_data_folder_that_cannot_be_written_is_noted(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    notes = [finding for finding in of("data") if "cannot be written to" in finding.what]
    assert [finding.remedy for finding in notes] == ["set GPTLIB_DATA to a folder you may write to"]


def test_the_device_and_its_difference_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTLIB_DEVICE", "cpu")
    assert the("device", "ok").what == "cpu; differs from the CPU's numbers by 0 at most"


@pytest.mark.parametrize("difference", [0.02, float("inf")])
def test_a_device_that_computes_wrongly_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    monkeypatch.setattr(device, "agrees_with_cpu", lambda device: difference)
    finding = the("device", "problem")
    assert f"by {difference:g} at most; 0.001 is allowed" in finding.what
    assert "GPTLIB_DEVICE=cpu" in finding.remedy


def test_a_wrong_device_setting_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTLIB_DEVICE", "abacus")
    finding = the("device", "problem")
    assert "GPTLIB_DEVICE is 'abacus'" in finding.what
    assert finding.remedy == "unset GPTLIB_DEVICE, or set it to cpu"


@pytest.mark.parametrize(("free", "status"), [(2.5e9, "ok"), (0.4e9, "problem")])
def test_free_disk_is_measured_where_data_is_kept(
    data: Path, monkeypatch: pytest.MonkeyPatch, free: float, status: str
) -> None:
    monkeypatch.setenv("GPTLIB_DATA", str(data / "not" / "yet"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=int(free)))
    assert the("disk", status).what == f"{free / 1e9:.1f} GB free at {data}"


@pytest.mark.parametrize(("free", "status"), [(6e9, "ok"), (1.5e9, "note"), (0.4e9, "problem")])
def test_free_memory_is_measured(monkeypatch: pytest.MonkeyPatch, free: float, status: str) -> None:
    memory = SimpleNamespace(available=int(free), total=8_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert the("memory", status).what == f"{free / 1e9:.1f} GB free of 8.0 GB"


@pytest.mark.parametrize("module", ["packaging.specifiers", "psutil", "jupyter_client.kernelspec"])
def test_the_doctor_works_without_the_packages_it_likes_to_use(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    finding = next(each for each in examine() if "cannot be examined" in each.what)
    assert finding.status == "problem"
    assert module in finding.what
    assert "pip install -r requirements.txt" in finding.remedy


def test_a_broken_package_does_not_silence_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(device, "best_device", broken)
    finding = the("device", "problem")
    assert "OSError: libcudart" in finding.what
    assert "--force-reinstall" in finding.remedy


# What is said


FINDINGS = [
    Finding("python", "ok", "3.11.7 at /here"),
    Finding("data", "note", "a file " + "with a long name " * 8, "wait " * 20),
    Finding("disk", "problem", "0.1 GB free", "free 2 GB"),
]


def test_the_report_is_a_table_with_remedies_beneath_and_a_sum() -> None:
    lines = report(FINDINGS).splitlines()
    assert lines[0] == "python    ok       3.11.7 at /here"
    assert lines[1].startswith("data      note     a file with a long name")
    assert lines[-4:-1] == ["disk      problem  0.1 GB free", " " * 19 + "-> free 2 GB", ""]
    assert lines[-1] == "1 problem to solve; see the arrows. 1 note."
    assert max(map(len, lines)) <= 88
    assert not any(line.endswith(" ") for line in lines)


def test_the_report_of_a_healthy_machine_says_so() -> None:
    assert report(FINDINGS[:1]).endswith("\n\nNo problem found: the course will run.")


def test_the_report_has_neither_colours_nor_characters_beyond_ascii() -> None:
    text = report(examine())
    assert text.isascii()
    assert "\x1b" not in text


def test_the_short_report_of_a_healthy_machine_is_the_same_everywhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    healthy = [Finding(topic, "ok", "at /some/place, 3.14") for topic in TOPICS]
    monkeypatch.setattr(doctor, "examine", lambda: healthy)
    expected = [f"{topic:<9} ok" for topic in TOPICS]
    assert short_report().splitlines() == [*expected, "For details: python -m gptlib doctor"]


def test_the_short_report_says_the_worst_of_a_topic_and_what_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ill = [Finding("disk", "note", "x", "wait"), Finding("disk", "problem", "y", "free 2 GB")]
    monkeypatch.setattr(doctor, "examine", lambda: [*ill, Finding("disk", "ok", "z")])
    lines = short_report().splitlines()
    assert lines[5:8] == ["disk      problem", " " * 10 + "-> wait", " " * 10 + "-> free 2 GB"]


def test_the_short_report_of_an_ill_machine_names_no_folder(
    monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    monkeypatch.setenv("GPTLIB_DATA_MIRROR", str(data / "none"))
    (data / "war-and-peace.txt").write_text("mine")
    text = short_report()
    assert "rename war-and-peace.txt" in text
    assert not re.search(r"(^|\s|')/\w", text)
    assert str(Path.home()) not in text.replace("python -m", "")

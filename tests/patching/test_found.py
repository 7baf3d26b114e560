"""Where patches are found: what is read here is what `importlib.metadata` finds."""

import os
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from conditions import LONG
from threadsafe_timeout_patches import DECLARED

from threadsafe_timeout._environment.distributions import GROUP, find_patches, version_of

OURS = "[console_scripts]\nx = y:z\n\n[threadsafe_timeout.patches]\n# a comment\n{name} = {name}_patch\n spaced  =  some.module:attribute \n\n[other]\n{name}2 = no\n"


def distribution(site, folder, name, text=None):
    info = site / folder
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(OURS.format(name=name) if text is None else text)


def found_by_importlib():
    return sorted((entry.name, entry.value) for entry in metadata.entry_points(group=GROUP))


def versions(*names):
    """What both say of each, where they agree."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
        assert version_of(name) == found[name], name
    return list(found.values())


def names():
    return {patch.name for patch in find_patches()}


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def test_in_folders(site, tmp_path, monkeypatch):
    distribution(site, "first-1.0.dist-info", "first")
    distribution(site, "Some.body_s-1.0.dist-info", "some_body_s")
    distribution(site, "old-1.0-py3.egg-info", "old")
    distribution(site, "none-1.0.dist-info", "none", "[other]\nnone = none_patch\n")
    distribution(site, "empty-1.0.dist-info", "empty", "")
    (site / "no_entries-1.0.dist-info").mkdir()
    (site / "a_file-1.0.egg-info").write_text("Metadata-Version: 2.1\nName: a-file\n")
    second = tmp_path / "second"
    distribution(second, "first-2.0.dist-info", "hidden")  # the first one of that name is the one that is imported
    distribution(second, "last-2.0.dist-info", "last")
    monkeypatch.setattr(sys, "path", [*sys.path, str(second), str(tmp_path / "not there"), str(site)])
    assert sorted(find_patches()) == found_by_importlib()
    assert names() >= {"first", "some_body_s", "old", "last", "spaced", "time", "openai"}
    assert not names() & {"hidden", "none", "first2"}
    assert versions("first", "Some.body-s", "some_body_s", "old", "not-there") == ["1.0", "1.0", "1.0", "1.0", None]
    value, = [patch.value for patch in find_patches() if patch.name == "first"]
    assert value == "first_patch"


def test_in_the_working_folder(tmp_path, monkeypatch):
    distribution(tmp_path, "here-1.0.dist-info", "here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert sorted(find_patches()) == found_by_importlib()
    assert "here" in names()


@pytest.mark.parametrize("name", ["library.zip", "zipped-1.0.egg"])
def test_in_an_archive(tmp_path, monkeypatch, name):
    folder = "EGG-INFO" if name.endswith("egg") else "zipped-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr(f"{folder}/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1.0\n")
        archive.writestr(f"{folder}/entry_points.txt", OURS.format(name="zipped"))
    monkeypatch.syspath_prepend(str(tmp_path / name))
    assert sorted(find_patches()) == found_by_importlib()
    assert "zipped" in names()
    assert versions("zipped", "not-there") == ["1.0", None]


def test_by_another_tools_finder(tmp_path, monkeypatch):
    distribution(tmp_path, "elsewhere-1.0.dist-info", "elsewhere")

    class Finder(metadata.DistributionFinder):
        def find_spec(self, *args):
            return None

        def find_distributions(self, context=metadata.DistributionFinder.Context()):  # noqa: B008
            return [metadata.PathDistribution(tmp_path / "elsewhere-1.0.dist-info")]

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert "elsewhere" in names()
    assert versions("elsewhere") == ["1.0"]
    assert sorted(find_patches()) == found_by_importlib()


def test_the_versions_of_what_the_patches_are_for_are_the_installed_ones():
    wanted = {name for patch in DECLARED.values() for name in patch.get("SUPPORTED", ())}
    assert [version for version in versions(*wanted, "wrapt", "pytest") if version is not None]


def test_the_version_of_an_old_distribution(site):
    (site / "single-3.1.egg-info").write_text("Metadata-Version: 1.0\nName: single\nVersion: 3.1\n")
    info = site / "folder-3.2.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Metadata-Version: 1.0\nName: folder\nVersion: 3.2\nDescription: x\n\nVersion: 9\n")
    (site / "hole-3.3.dist-info").mkdir()
    assert versions("single", "folder") == ["3.1", "3.2"]
    assert version_of("hole") is None


def cannot_be_read(site):
    distribution(site, "broken-1.0.dist-info", "broken")
    for name in ("METADATA", "entry_points.txt"):
        (site / "broken-1.0.dist-info" / name).write_bytes(b"[threadsafe_timeout.patches]\n\xff = \xff\n")


def test_what_cannot_be_read_is_passed_over(site):
    cannot_be_read(site)
    distribution(site, "whole-1.0.dist-info", "whole")
    assert "whole" in names()


def test_nor_does_it_hide_others_where_importlib_is_asked(site, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, type("Finder", (metadata.MetadataPathFinder,), {})()])
    cannot_be_read(site)
    (site / "hole-3.3.dist-info").mkdir()
    distribution(site, "whole-1.0.dist-info", "whole")
    assert names() >= {"whole", "openai"}
    assert [version_of(name) for name in ("whole", "hole", "not-there")] == ["1.0", None, None]


@pytest.mark.parametrize("words", [["--version"], ["doctor"], ["run", "program.py"], ["checkpoint", "--help"]])
def test_a_command_runs_beside_it(site, words):
    cannot_be_read(site)
    (site / "program.py").write_text("print('it runs')")
    command = [sys.executable, "-m", "threadsafe_timeout", *words]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=site, env=environment, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.stderr == ""
    assert done.stdout  # the doctor may find that other libraries (pydantic) cannot be imported beside it


def test_the_backports_finder_looks_in_the_same_places(site, monkeypatch):
    """It puts itself in the place of the standard one, in every program that imports OpenTelemetry or, on 3.11, Dask."""
    backport = type("MetadataPathFinder", (metadata.MetadataPathFinder,), {"__module__": "importlib_metadata"})
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, backport()])
    monkeypatch.setattr(metadata, "distributions", None)  # it is not asked
    distribution(site, "whole-1.0.dist-info", "whole")
    assert names() >= {"whole", "openai"}
    assert version_of("whole") == "1.0"

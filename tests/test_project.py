"""The project around the code: packaging, documents, configuration."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import hatchling.build
import pytest
import typer
import yaml

import ganvas
from ganvas import cli
from ganvas.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
HEAVY = ("torch", "pyarrow", "lightning_fabric", "tensorboard", "transformers", "PIL", "pydantic")


def snippets(language: str) -> list[str]:
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        found += re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found


def shell_lines() -> list[list[str]]:
    lines = (shlex.split(line, comments=True) for text in snippets("sh") for line in text.splitlines())
    return [line for line in lines if line]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_ganvas_loads_nothing_heavy() -> None:
    loaded = run_python("import ganvas, sys; print(*sorted({name.split('.')[0] for name in sys.modules}))")
    assert not set(HEAVY) & set(loaded.split())


def test_importing_ganvas_takes_less_than_a_second() -> None:
    def seconds() -> float:
        began = time.perf_counter()
        run_python("import ganvas")
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) < 1


def test_sheets_and_galleries_need_no_torch() -> None:
    assert run_python("import sys, ganvas.gallery; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize("name", [name for name in ganvas.__all__ if not name.startswith("_")])
def test_every_public_name_stays_what_it_is_after_everything_is_imported(name: str) -> None:
    use = "import ganvas, ganvas.demo; ganvas.recipe.load_recipe('gan-int-cls-emoji-demo')"
    assert run_python(f"{use}; print(callable(ganvas.{name}))") == "True"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'trian'"):
        _ = ganvas.trian


def test_every_place_states_the_same_version() -> None:
    (declared,) = re.findall(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"]
    assert ganvas.__version__ == declared == cited


def test_every_core_dependency_gives_its_reason() -> None:
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)
    lines = block.splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r'\s+"[a-z-]+>=[\d.]+",\s+# \w.+', line)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_every_source_file_is_valid_for_the_oldest_python(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "src").as_posix())
def test_no_source_file_reads_a_pickle(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {"pickle", "dill", "joblib"} & {alias.name for alias in node.names}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle=True" not in ast.unparse(node)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel, built from a copy of what a wheel is made of."""
    copy = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy)
    before = Path.cwd()
    os.chdir(copy)  # a build backend works in the current directory
    try:
        name = hatchling.build.build_wheel(str(copy))
    finally:
        os.chdir(before)
    return zipfile.ZipFile(copy / name).namelist()


def test_the_wheel_holds_every_file_of_the_package(wheel: list[str]) -> None:
    package = ROOT / "src" / "ganvas"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(ROOT / "src").as_posix() for path in files} <= set(wheel)
    model = [f"models/emoji-default/{name}" for name in ("config.json", "model.safetensors", "README.md")]
    for name in ("py.typed", "assets/gallery.html", *model):
        assert f"ganvas/{name}" in wheel
    assert any(name.startswith("ganvas/recipes/") and name.endswith(".yaml") for name in wheel)


def test_the_wheel_brings_the_licence_and_nothing_of_the_workshop(wheel: list[str]) -> None:
    assert {"LICENSE", "NOTICE"} <= {name.rsplit("/", 1)[-1] for name in wheel}
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"ganvas"}


def test_the_documents_show_shell_python_and_recipes() -> None:
    assert all(snippets(language) for language in ("sh", "python", "yaml"))


@pytest.mark.parametrize("words", [w for w in shell_lines() if w[0] == "ganvas"], ids=shlex.join)
def test_every_ganvas_command_in_the_documents_is_understood(words: list[str]) -> None:
    command, arguments = typer.main.get_command(cli.app), words[1:]
    context = command.make_context("ganvas", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, arguments)
        context = command.make_context(name, list(arguments), parent=context)
    assert context.params


@pytest.mark.parametrize("words", [w for w in shell_lines() if w[0] == "make"], ids=shlex.join)
def test_every_make_target_in_the_documents_exists(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE)


def test_the_documents_name_no_other_programs() -> None:
    assert {words[0] for words in shell_lines()} == {"ganvas", "make", "pip", ".venv/bin/pre-commit"}


@pytest.mark.parametrize("text", snippets("python"))
def test_the_python_in_the_documents_calls_what_there_is(text: str) -> None:
    from ganvas.pipeline import Model

    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ganvas":
            assert node.attr in ganvas.__all__
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "model.generate":
            names = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(Model.generate).bind(None, *node.args, **names)


@pytest.mark.parametrize("text", snippets("yaml"))
def test_every_recipe_in_the_documents_is_valid(tmp_path: Path, text: str) -> None:
    path = tmp_path / "my-recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_recipe(path).about == yaml.safe_load(text)["about"]


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_documents_link_only_to_files_that_are_there(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target


def make_venv(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tools" / "make_venv.sh"
    return subprocess.run(
        ["/bin/sh", str(script), *arguments], capture_output=True, text=True, env={"PATH": path}, check=False
    )


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="the Makefile needs a POSIX shell")
@pytest.mark.parametrize(
    ("pythons", "says"),
    [
        ({}, "no Python found"),
        ({"python3": "exit 127"}, "no Python found"),
        ({"python3": 'case "$2" in *print*) echo 3.9;; *) exit 1;; esac'}, "python3 is Python 3.9"),
        ({"python3": 'case "$2" in *"import venv"*) exit 1;; *print*) echo 3.12;; esac'}, "no venv module"),
        ({"python3": 'case "$2" in *ensurepip*) exit 1;; *print*) echo 3.12;; esac'}, "no pip for new"),
    ],
)
def test_one_line_says_which_part_of_python_is_missing(
    tmp_path: Path, pythons: dict[str, str], says: str
) -> None:
    for name, text in pythons.items():
        program(tmp_path, name, text)
    done = make_venv(str(tmp_path / "venv"), "", path=str(tmp_path))
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "venv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the Makefile needs a POSIX shell")
def test_the_first_python_that_will_do_makes_the_environment(tmp_path: Path) -> None:
    program(tmp_path, "python3.13", "exit 127")
    program(tmp_path, "python3.12", 'case "$2" in *print*) echo 3.12;; esac\necho "$@" >> "$0.calls"')
    program(tmp_path, "python3", 'echo "$@" >> "$0.calls"')
    done = make_venv(str(tmp_path / "venv"), "", path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"-m venv --clear {tmp_path / 'venv'}" in (tmp_path / "python3.12.calls").read_text()
    assert not (tmp_path / "python3.calls").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="the Makefile needs a POSIX shell")
def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.tex").write_text("years of work")
    program(tmp_path, "python3", 'case "$2" in *print*) echo 3.12;; esac')
    path = f"{tmp_path}{os.pathsep}{os.defpath}"  # the shell script also needs 'ls'
    done = make_venv(str(tmp_path / "venv"), "python3", path=path)
    assert done.returncode == 1
    assert "no virtual environment" in done.stderr
    assert (tmp_path / "venv" / "thesis.tex").read_text() == "years of work"

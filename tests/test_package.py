"""The package: light to import, documented with examples that run."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import irouter
from irouter import _core

ROOT = Path(__file__).parents[1]

OF_TORCH = {"irouter.prediction.encoder_network", "irouter.training.double_dqn"}
"""Modules that cannot be imported in every environment, without examples."""


def test_importing_irouter_imports_nothing_of_the_extras() -> None:
    heavy = (
        "{'aiohttp', 'cma', 'gymnasium', 'jsonschema', 'onnxruntime', 'plotly', 'polars', 'ray', 'rich', 'scipy', "
        "'sklearn', 'tokenizers', 'torch', 'transformers', 'typer'}"
    )
    program = f"import irouter, irouter.prediction, sys; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)  # noqa: S603
    assert done.stdout == "[]\n"


def test_the_version_is_that_of_the_workspace() -> None:
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    assert f'version = "{irouter.__version__}"' in manifest


def test_the_tests_run_on_the_optimised_build() -> None:
    assert _core.BUILD_PROFILE == "release"


def test_the_examples_in_docstrings_hold() -> None:
    attempted = 0
    for module in pkgutil.walk_packages(irouter.__path__, "irouter."):
        # Modules of `integrations` need their hosts, which are tested in environments of their own.
        elsewhere = module.name in OF_TORCH or module.name.startswith("irouter.integrations.")
        if elsewhere or module.name.endswith("__main__"):
            continue
        failed, tried = doctest.testmod(importlib.import_module(module.name))
        assert failed == 0, module.name
        attempted += tried
    assert attempted >= 4


def test_the_example_of_the_readme_runs() -> None:
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own documentation

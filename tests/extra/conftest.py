"""The same running demo as the acceptance tests have."""

import importlib.util
import pathlib
import sys

_path = pathlib.Path(__file__).resolve().parents[1] / "acceptance" / "conftest.py"
_spec = importlib.util.spec_from_file_location("acceptance_conftest", _path)
_module = importlib.util.module_from_spec(_spec)
sys.modules["acceptance_conftest"] = _module
_spec.loader.exec_module(_module)

stack = _module.stack

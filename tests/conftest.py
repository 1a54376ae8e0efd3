"""Shared by all tests: shapes are checked on every call, hypothesis is repeatable and has no deadlines."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("lmms_kvtp", "beartype.beartype")
settings.register_profile("default", deadline=None, derandomize=True, print_blob=False, max_examples=50)
settings.load_profile("default")

import pytest


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    """The small videos of these tests are several chunks, too."""
    monkeypatch.setattr("lmms_kvtp.pruners.parts.packing.TOKENS_AT_ONCE", 60)

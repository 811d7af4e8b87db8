import os

if os.environ.get("FAKE_PIP") == "missing":
    raise ImportError("No module named pip")

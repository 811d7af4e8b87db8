"""Reads wheels: `metadata WHEEL`, or `unpack WHEEL FOLDER PATTERN...`.

`unpack` compares each file with the hash that the wheel records for it, and prints the bytes
written so far and in all. Exit code 65: the wheel is damaged.
"""

import base64
import csv
import fnmatch
import hashlib
import io
import os
import sys
import zipfile
import zlib


def member(wheel, name):
    found = [n for n in wheel.namelist() if n.count("/") == 1 and n.endswith(".dist-info/" + name)]
    if len(found) != 1:
        raise zipfile.BadZipFile(f"{len(found)} files named {name}")
    return wheel.read(found[0]).decode()


def unpack(wheel, folder, patterns):
    hashes = {row[0]: row[1] for row in csv.reader(io.StringIO(member(wheel, "RECORD"))) if row}
    kept = [
        info
        for info in wheel.infolist()
        if not info.is_dir() and any(fnmatch.fnmatchcase(info.filename, p) for p in patterns)
    ]
    total = sum(info.file_size for info in kept)
    written = 0
    for info in kept:
        name = info.filename
        if name.startswith("/") or ".." in name.split("/"):
            raise zipfile.BadZipFile(f"{name} leads out of the folder")
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        digest = hashlib.sha256()
        with wheel.open(info) as source, open(path, "wb") as target:
            while block := source.read(1 << 20):
                digest.update(block)
                target.write(block)
                written += len(block)
                # Fails, and ends this, when nobody reads any more.
                print(written, total, flush=True)
        found = base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
        if hashes.get(name) != "sha256=" + found:
            raise zipfile.BadZipFile(f"{name} is not what the wheel's RECORD says")


try:
    with zipfile.ZipFile(sys.argv[2]) as opened:
        if sys.argv[1] == "metadata":
            print(member(opened, "METADATA"))
        else:
            unpack(opened, sys.argv[3], sys.argv[4:])
except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
    print(error, file=sys.stderr)
    sys.exit(65)
except OSError as error:
    sys.exit(f"{error}")

"""Stands in for pip: `download` makes tiny wheels with the layout of the real ones.

FAKE_PIP says how it fails; FAKE_PIP_LOG is a file that gets a line for each wheel.
"""

import base64
import hashlib
import os
import sys
import time
import zipfile

MODE = os.environ.get("FAKE_PIP", "")
VERSION_H = """#define TORCH_VERSION_MAJOR 2
#define TORCH_VERSION_MINOR {minor}
#define TORCH_VERSION_PATCH 0
"""
TORCH_FILES = {
    "torch/__init__.py": "",
    "torch/include/torch/headeronly/version.h": VERSION_H.format(
        minor=10 if MODE == "other version" else 11
    ),
    "torch/lib/libtorch.so": "torch",
    "torch/lib/libtorch_cpu.so": "cpu" * 1000,
    "torch/lib/libc10.so": "c10",
    "torch/lib/libgomp.so.1": "gomp",
    "torch/lib/libtorch_cuda.so": "cuda",
    "torch/lib/libtorch_python.so": "python",
}
WHEELS = {
    "torch": (
        TORCH_FILES,
        [
            "filelock",
            'cuda-toolkit[cublas,cudart,cupti]==13.0.2; platform_system == "Linux"',
            'nvidia-cudnn-cu13==9.19.0.56; platform_system == "Linux"',
        ],
    ),
    "cuda-toolkit": (
        {},
        [
            "nvidia-cublas==13.1.0.3.*; (sys_platform == 'linux') and extra == 'all'",
            "nvidia-cublas==13.1.0.3.*; (sys_platform == 'linux') and extra == 'cublas'",
            "nvidia-cuda-runtime==13.0.96.*; (sys_platform == 'linux') and extra == 'cudart'",
            "nvidia-cuda-cupti==13.0.85.*; (sys_platform == 'linux') and extra == 'cupti'",
        ],
    ),
    "nvidia-cuda-runtime": ({"nvidia/cu13/lib/libcudart.so.13": "cudart"}, []),
    "nvidia-cuda-cupti": (
        {"nvidia/cu13/lib/libcupti.so.13": "cupti", "nvidia/cu13/lib/libnvperf_host.so": "x"},
        [],
    ),
    "nvidia-cublas": ({"nvidia/cu13/lib/libcublas.so.13": "cublas"}, []),
    "nvidia-cudnn-cu13": ({"nvidia/cudnn/lib/libcudnn.so.9": "cudnn"}, []),
}


def hash_of(text):
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def make_wheel(folder, requirement):
    name, version = requirement.split("==")
    version = version.removesuffix(".*")
    files, needs = WHEELS[name]
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [f"Name: {name}"] + ["Requires-Dist: " + need for need in needs]
    files = files | {f"{info}/METADATA": "\n".join(lines) + "\n"}
    path = os.path.join(folder, f"{info[:-10]}-py3-none-manylinux_2_28_x86_64.whl")
    # As pip does it: first elsewhere, then where it was asked for.
    temporary = os.path.join(os.environ["TMPDIR"], os.path.basename(path))
    with zipfile.ZipFile(temporary, "w") as wheel:
        record = ""
        for file, text in files.items():
            if MODE == "damaged" and file.endswith("libtorch_cpu.so"):
                wheel.writestr(file, text.replace("c", "d"))
            else:
                wheel.writestr(file, text)
            record += f"{file},{hash_of(text)},{len(text)}\n"
        wheel.writestr(f"{info}/RECORD", record)
    os.rename(temporary, path)


def log(line):
    # One write, so that the lines of two processes do not mix.
    handle = os.open(os.environ["FAKE_PIP_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (line + "\n").encode())
    os.close(handle)


def main(args):
    assert args[0] == "download", args
    folder = args[args.index("--dest") + 1]
    wanted = [arg for arg in args if "==" in arg]
    print("Collecting", wanted[0])
    if MODE == "network":
        print("WARNING: Retrying (Retry(total=0)) after connection broken", file=sys.stderr)
        print("ERROR: No matching distribution found for", wanted[0], file=sys.stderr)
        return 1
    if MODE == "version":
        print("ERROR: No matching distribution found for", wanted[0], file=sys.stderr)
        return 1
    if MODE == "disk":
        print("ERROR: [Errno 28] No space left on device", file=sys.stderr)
        return 1
    if MODE == "crash":
        print("ERROR: unknown option", file=sys.stderr)
        return 2
    if MODE == "nothing":
        return 0
    if MODE == "hang after torch" and not wanted[0].startswith("torch=="):
        log(f"hangs {os.getpid()}")
        time.sleep(600)
    if MODE == "slow":
        time.sleep(0.3)
    for requirement in wanted:
        make_wheel(folder, requirement)
        log(requirement)
    return 0


sys.exit(main(sys.argv[1:]))

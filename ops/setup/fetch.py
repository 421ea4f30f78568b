#!/usr/bin/env python3
"""Fetches libtorch and the Fashion-MNIST files into the cache and links them into the checkout.

Called by setup.sh, which holds the lock on the cache and has checked the tools.
Everything is downloaded into `<cache>/tmp`, compared with SHA256SUMS, unpacked
there and renamed into place, so that an interruption leaves either the old
state or the new one. Needs the standard library only.
"""

import argparse
import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

TORCH_VERSION = "2.13.0"  # what torch-sys 0.26 asks for
# libtorch_cpu of this wheel is linked against these two, GPU or not.
CUDA_WHEELS = {
    "nvidia-cuda-runtime": "13.0.96",
    "nvidia-cuda-cupti": "13.0.85",
}
# Wheels, unpacked copy and room to spare.
FREE_BYTES = 1_300_000_000
# Any glibc from 2.28 on can load wheels made for an older one.
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_25_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
LIBRARIES = ["libtorch_cpu.so", "libc10.so", "libgomp.so.1"]
CUDA_LIBRARIES = ["libcudart.so.13", "libcupti.so.13"]
FASHION_PACKAGE = "dataset-fashion-mnist"
FASHION_FILES = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
]
MANIFEST = "evoring-manifest"


class SetupError(Exception):
    """What failed, then what to do about it, one line each."""


def say(text):
    print(f"setup: {text}", flush=True)


def read_pins(path):
    pins = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            digest, name = line.split(maxsplit=1)
            pins[name] = digest
    return pins


def sha256(stream):
    state = hashlib.sha256()
    while True:
        block = stream.read(1 << 20)
        if not block:
            return state.hexdigest()
        state.update(block)


def check_digest(path, pins):
    with open(path, "rb") as file:
        got = sha256(file)
    expected = pins.get(path.name)
    if expected != got:
        raise SetupError(
            f"{path.name} is not the file this release was made for",
            f"sha256 expected {expected or '(no such name in ops/setup/SHA256SUMS)'}",
            f"sha256 got      {got}",
            "The download was damaged or the package index serves another file. Run `make setup` again;",
            "if it stays, tell whoever runs your package index.",
        )


def run(command, what, hints, cwd=None):
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        tail = [line for line in done.stdout.splitlines() if line.strip()][-4:]
        raise SetupError(f"{what} failed (exit status {done.returncode}); the end of its output:", *tail, *hints)


# --- libtorch -----------------------------------------------------------------


def pip_command():
    """How pip is called here: as a module, or as a program of its own."""
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        try:
            if subprocess.run([*command, "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
                return command
        except FileNotFoundError:
            pass
    raise SetupError("pip is missing", "Install it; on Debian or Ubuntu: sudo apt-get install python3-pip")


def pip_download(pip, requirements, folder):
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [*pip, "download", "--quiet", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--python-version", "3.11", *platforms, "--dest", str(folder), *requirements]
    run(
        command,
        f"pip download {' '.join(requirements)}",
        [
            "pip 20.3 or newer is needed (python3 -m pip install --upgrade pip), and access to a package index.",
            "Without a network: put the wheels named in ops/setup/SHA256SUMS into a folder and set PIP_FIND_LINKS to it.",
        ],
    )


def unpack_member(archive, member, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def unpack_torch(wheel, layout):
    """The CPU libraries and the headers; CUDA kernels and Python modules stay behind."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("torch/include/") and not name.endswith("/"):
                unpack_member(archive, name, layout / name[len("torch/") :])
            elif name.startswith("torch/lib/") and name[len("torch/lib/") :] in LIBRARIES:
                unpack_member(archive, name, layout / name[len("torch/") :])
            elif name.endswith(".dist-info/licenses/LICENSE") or name.endswith(".dist-info/LICENSE"):
                unpack_member(archive, name, layout / "licenses" / "torch")


def unpack_cuda(wheel, layout):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            base = name.rsplit("/", 1)[-1]
            if base in CUDA_LIBRARIES:
                unpack_member(archive, name, layout / "lib" / base)
            elif ".dist-info/" in name and base.lower().startswith("license"):
                unpack_member(archive, name, layout / "licenses" / wheel.name.split("-")[0])


def link_stand_ins(layout):
    """An empty libtorch.so (the real one pulls in CUDA) and the linker's name for libgomp."""
    compiler = os.environ.get("CXX") or next(c for c in ("c++", "g++") if shutil.which(c))
    target = layout / "lib" / "libtorch.so"
    command = [compiler, "-shared", "-nostdlib", "-Wl,-soname,libtorch.so", "-x", "c++", os.devnull, "-o", str(target)]
    run(command, "linking an empty libtorch.so", ["Is the C++ compiler complete (headers and linker)?"])
    os.symlink("libgomp.so.1", layout / "lib" / "libgomp.so")


def write_manifest(layout):
    files = sorted(p for p in layout.rglob("*") if p.is_file() and p.name != MANIFEST)
    lines = [f"{p.stat().st_size} {p.relative_to(layout)}\n" for p in files]
    (layout / MANIFEST).write_text("".join(lines))


def layout_is_whole(layout):
    try:
        lines = (layout / MANIFEST).read_text().splitlines()
        sizes = [line.split(" ", 1) for line in lines]
        return bool(sizes) and all(os.stat(layout / name).st_size == int(size) for size, name in sizes)
    except (OSError, ValueError):
        return False


def replace_folder(new, target, scratch):
    if os.path.lexists(target):
        os.rename(target, scratch / "replaced")
    os.rename(new, target)


def fetch_libtorch(cache, scratch, pins):
    """Returns the libtorch folder and whether anything had to be done."""
    target = cache / f"libtorch-{TORCH_VERSION}-cpu"
    if layout_is_whole(target):
        return target, False
    pip = pip_command()
    free = shutil.disk_usage(cache).free
    if free < FREE_BYTES:
        raise SetupError(
            f"{cache} has {free // 1_000_000} MB free; libtorch needs {FREE_BYTES // 1_000_000} MB while it is unpacked",
            "Make room, or set EVORING_CACHE to a folder on a larger disk.",
        )
    began = time.monotonic()
    say(f"downloading libtorch {TORCH_VERSION} (530 MB, from the Python package index)")
    wheels = scratch / "wheels"
    pip_download(pip, [f"torch=={TORCH_VERSION}"], wheels)
    pip_download(pip, [f"{name}=={version}" for name, version in CUDA_WHEELS.items()], wheels)
    say(f"checking and unpacking libtorch (download took {time.monotonic() - began:.0f} s)")
    began = time.monotonic()
    layout = scratch / "libtorch"
    for wheel in sorted(wheels.iterdir()):
        check_digest(wheel, pins)
        (unpack_torch if wheel.name.startswith("torch-") else unpack_cuda)(wheel, layout)
        wheel.unlink()
    absent = [name for name in LIBRARIES + CUDA_LIBRARIES if not (layout / "lib" / name).exists()]
    if absent:
        raise SetupError(f"the wheels held no {', '.join(absent)}", "This is a bug in ops/setup/fetch.py.")
    link_stand_ins(layout)
    (layout / "build-version").write_text(f"{TORCH_VERSION}+cpu\n")
    write_manifest(layout)
    replace_folder(layout, target, scratch)
    say(f"libtorch is in place ({time.monotonic() - began:.0f} s)")
    return target, True


# --- Fashion-MNIST ------------------------------------------------------------


def image_file_is_right(path, pins):
    """Whether the file is the Debian package's, or holds the same images compressed differently."""
    try:
        with open(path, "rb") as file:
            if sha256(file) == pins[path.name]:
                return True
        with gzip.open(path, "rb") as file:
            return sha256(file) == pins[path.name[: -len(".gz")]]
    except (OSError, EOFError, gzip.zlib.error):
        return False


def wrong_files(folder, pins):
    return [name for name in FASHION_FILES if not image_file_is_right(folder / name, pins)]


def by_hand(target, pins):
    """What to do where apt cannot help."""
    return [
        f"Put these four files into {target} and run `make setup` again:",
        *(f"  {pins[name[: -len('.gz')]]}  {name} (sha256 of its unpacked content)" for name in FASHION_FILES),
        f"They are in the Debian package {FASHION_PACKAGE} and in the data/fashion folder of the",
        "zalandoresearch/fashion-mnist repository on GitHub.",
    ]


def apt_download(scratch, target, pins):
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SetupError("Fashion-MNIST is missing and this system has no apt-get to fetch it with", *by_hand(target, pins))
    folder = scratch / "deb"
    folder.mkdir()
    command = ["apt-get", "-q", "download", FASHION_PACKAGE]
    root = os.geteuid() == 0
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if done.returncode != 0 and root and os.environ.get("EVORING_APT_FRESH") != "yes":
        say("reading the Debian package lists (apt-get update)")
        run(["apt-get", "-q", "update"], "apt-get update", by_hand(target, pins))
    if done.returncode != 0:
        hint = [] if root else ["The package lists may be missing or old: sudo apt-get update"]
        run(command, " ".join(command), hint + by_hand(target, pins), cwd=folder)
    packages = list(folder.glob("*.deb"))
    if len(packages) != 1:
        raise SetupError(f"apt-get download left {len(packages)} packages instead of one", *by_hand(target, pins))
    # Another release may carry another build of it; then the four files decide.
    if packages[0].name in pins:
        check_digest(packages[0], pins)
    run(["dpkg-deb", "-x", str(packages[0]), str(folder)], "dpkg-deb -x", by_hand(target, pins))
    return folder / "usr" / "share"


def fetch_fashion(cache, scratch, pins):
    target = cache / "data" / "fashion-mnist"
    if not wrong_files(target, pins):
        return False
    began = time.monotonic()
    say("downloading Fashion-MNIST (31 MB, from the Debian archive)")
    share = apt_download(scratch, target, pins)
    source = share / "datasets" / "fashion-mnist"
    wrong = wrong_files(source, pins)
    if wrong:
        raise SetupError(f"package {FASHION_PACKAGE} holds another {', '.join(wrong)} than expected", *by_hand(target, pins))
    shutil.copy(share / "doc" / FASHION_PACKAGE / "copyright", source / "copyright")
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(source, target, scratch)
    say(f"Fashion-MNIST is in place ({time.monotonic() - began:.0f} s)")
    return True


# --- links --------------------------------------------------------------------


def link(root, name, target):
    """Points `<root>/<name>` to `target`; something a person put there is left alone."""
    path = root / name
    if path.is_symlink():
        if os.readlink(path) == str(target):
            return False
    elif path.exists():
        say(f"{name} is not a link; left as it is")
        return False
    fresh = root / f"{name}.{os.getpid()}"
    os.symlink(target, fresh)
    os.replace(fresh, path)
    return True


def sync_from(arguments):
    cache, root = Path(arguments.cache), Path(arguments.root)
    pins = read_pins(root / "ops" / "setup" / "SHA256SUMS")
    tmp = cache / "tmp"
    # The lock is ours, so whatever lies here was left by a set-up that died.
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    scratch = Path(tempfile.mkdtemp(dir=tmp))
    os.chmod(scratch, 0o755)  # apt downloads as its own user
    try:
        libtorch, changed = fetch_libtorch(cache, scratch, pins)
        # Linked before the data arrives: building needs no data.
        changed |= link(root, ".libtorch", libtorch)
        (cache / "data").mkdir(exist_ok=True)
        changed |= link(root, ".evoring-data", cache / "data")
        changed |= fetch_fashion(cache, scratch, pins)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    if changed:
        say("done")
    else:
        say(f"nothing to do; libtorch {TORCH_VERSION} and Fashion-MNIST are in {cache}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="the checkout")
    parser.add_argument("--cache", required=True, help="the cache folder, absolute")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sync_from(arguments)
    except SetupError as error:
        first, *rest = error.args
        print(f"setup: error: {first}", file=sys.stderr)
        for line in rest:
            print(f"setup:        {line}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"setup: error: {error}", file=sys.stderr)
        print("setup:        Is the disk full, or the cache folder not yours? EVORING_CACHE names another.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Say where the repository is published: python -m tools.address https://github.com/<owner>/<name>.

The address goes into pyproject.toml, CITATION.cff, the lessons and the README, which then link to
Binder and Google Colab.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

from s4bt.files import ROOT, UserError, atomic_path

LESSONS = "notebooks/lessons"
FIRST = f"{LESSONS}/00_start_here.ipynb"
GITHUB = re.compile(r"https://github\.com/\w[\w.-]*/\w[\w.-]*")


def written_address() -> str:
    """What `write_address` wrote into pyproject.toml, or nothing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project.get("urls", {}).get("Repository", "")


def repository() -> str:
    """Address of the public repository: `written_address`, else the origin of this clone.

    Empty if neither is on GitHub, or there is no git.
    """
    known = written_address()
    if not known and shutil.which("git"):
        command = ["git", "config", "--get", "remote.origin.url"]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        known = re.sub(r"^(ssh://)?git@github\.com[:/]", "https://github.com/", told.stdout.strip())
    known = known.removesuffix("/").removesuffix(".git")
    return known if GITHUB.fullmatch(known) else ""


def launch_text() -> str:
    """The README's sentence of links that open the lessons on Binder and Colab."""
    address = written_address()
    if not address:
        return (
            "Whoever publishes this repository says once where, with `python -m tools.address "
            "<address>`;\nthe README, the site and the lessons then link to Binder and Google "
            "Colab."
        )
    name = address.removeprefix("https://github.com/")
    binder = f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{FIRST}"
    colab = f"https://colab.research.google.com/github/{name}/blob/main/{FIRST}"
    return (
        f"With nothing to install: [all lessons on Binder]({binder}),\n"
        f"or [the first one on Google Colab]({colab})."
    )


def write_address(address: str) -> None:
    """Write the address everywhere.

    Raises UserError if it is not one of a repository on GitHub.
    """
    address = address.removesuffix("/").removesuffix(".git")
    if not GITHUB.fullmatch(address):
        raise UserError(
            f"{address!r} is not the address of a repository on GitHub, "
            "https://github.com/<owner>/<name>; Binder and Colab need one"
        )
    path, citation = ROOT / "pyproject.toml", ROOT / "CITATION.cff"
    line = f'Repository = "{address}"\n'
    text = re.sub(r"(?m)^Repository = .*\n", "", path.read_text())
    changed = {path: text.replace("[project.urls]\n", f"[project.urls]\n{line}", 1)}
    if tomllib.loads(changed[path])["project"]["urls"].get("Repository") != address:
        raise UserError(
            f"could not write the address into {path}; write {line.strip()} there by hand, below "
            "[project.urls]"
        )
    cited = re.sub(r"(?m)^repository-code: .*\n", "", citation.read_text())
    changed[citation] = cited.replace("license:", f'repository-code: "{address}"\nlicense:', 1)
    for lesson in sorted((ROOT / LESSONS).rglob("*.ipynb")):
        old = lesson.read_text()
        changed[lesson] = re.sub(
            r'repository = \\"[^"]*\\" or', f'repository = \\\\"{address}\\\\" or', old
        )
    for path, text in changed.items():
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    command = [sys.executable, "-m", "tools.tables"]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.address https://github.com/<owner>/<name>")
    try:
        write_address(sys.argv[1])
    except UserError as error:
        sys.exit(f"error: {error}")

#!/usr/bin/env bash
# pyright 1.1.414 (PyPI): a package that is reached through a symbolic link is resolved in imports, but not checked.
#
# Layout: code/broken.py has a type error; src/package is a link to code; pyrightconfig.json includes "src".
# Expected by most: "src" is searched with its links, as imports through them work, and the error is reported.
# Seen: imports from src/package resolve with full types, yet the folder behind the link is never listed: 0 errors, exit status 0.
#       Naming the link itself in "include" reports the error. A project with linked packages can have a green check of nothing.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "pyright[nodejs]==1.1.414"
mkdir code src
echo 'answer: int = "forty-two"' >code/broken.py
touch code/__init__.py
ln -s ../code src/package
echo 'from package.broken import answer; reveal_type(answer)' >src/user.py

check() {
    echo "{\"include\": [$1], \"extraPaths\": [\"src\"]}" >pyrightconfig.json
    venv/bin/pyright --outputjson 2>/dev/null >report.json || true
    venv/bin/python -c 'import json
report = json.load(open("report.json"))
found = [d["message"].splitlines()[0] for d in report["generalDiagnostics"] if d["severity"] == "error"]
print(report["version"], "files:", report["summary"]["filesAnalyzed"], "errors:", len(found), found)'
}
below=$(check '"src"')
named=$(check '"src", "src/package"')
resolved=$(venv/bin/python -c 'import json; print([d["message"] for d in json.load(open("report.json"))["generalDiagnostics"] if d["severity"] == "information"])')
echo "include src:               $below"
echo "include src, src/package:  $named"
echo "import through the link:   $resolved"
[[ "$below" == *"errors: 0"* && "$named" == *"errors: 1"* && "$resolved" == *'"int"'* ]]

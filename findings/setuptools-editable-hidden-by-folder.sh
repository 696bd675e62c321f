#!/usr/bin/env bash
# setuptools 80.9.0 (PyPI): an editable install with a mapped package_dir is hidden by any plain folder of the same name.
#
# Layout: project "thing" in checkout/thing, whose package lies in another folder of the checkout (package_dir maps it, as where folders
# keep their own names); the user works in checkout/, where the clone is a folder called "thing", without __init__.py.
# Expected by most: an installed regular package wins over a folder that is no package, as it does for a normal install.
# Seen: the editable install is a finder appended to sys.meta_path, behind the one that takes the folder for a namespace package: the import
#       "works" and gives an empty package. A normal install, and an editable one in src layout (a .pth file), are not affected.
# Exits 0 as long as this holds, 1 when the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q "setuptools==80.9.0" "wheel==0.45.1"
mkdir -p checkout/thing/code checkout/thing/src/thing
echo 'VALUE = 1' | tee checkout/thing/code/__init__.py >checkout/thing/src/thing/__init__.py

project() {
    printf '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n[project]\nname = "thing"\nversion = "1"\n[tool.setuptools]\npackages = ["thing"]\n[tool.setuptools.package-dir]\n%s\n' "$1" >checkout/thing/pyproject.toml
}
look() {
    (cd checkout && ../venv/bin/python -c 'import thing; print(getattr(thing, "VALUE", "empty namespace package"))')
}
mapped='thing = "code"'
linear='"" = "src"'
project "$mapped"
venv/bin/pip install -q --no-build-isolation -e checkout/thing
editable_mapped=$(look)
venv/bin/pip uninstall -q -y thing && venv/bin/pip install -q --no-build-isolation checkout/thing
normal=$(look)
venv/bin/pip uninstall -q -y thing && project "$linear" && rm -rf checkout/thing/build
venv/bin/pip install -q --no-build-isolation -e checkout/thing
editable_src=$(look)
echo "setuptools $(venv/bin/python -c 'import setuptools; print(setuptools.__version__)')"
echo "editable, mapped folder:  $editable_mapped"
echo "normal install:           $normal"
echo "editable, src layout:     $editable_src"
[ "$editable_mapped" = "empty namespace package" ] && [ "$normal" = 1 ] && [ "$editable_src" = 1 ]
